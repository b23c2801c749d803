/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#define LZ4_STATIC_LINKING_ONLY /* LZ4_compress_fast_extState_fastReset */
#include <lz4.h>
#include <string.h>

#include "base/base.h"
#include "codec/codec.h"

static void lz4_init(void *state)
{
    LZ4_initStream(state, sizeof(LZ4_stream_t));
}

static size_t lz4_bound(size_t size)
{
    return (size_t)LZ4_compressBound((int)size);
}

static size_t lz4_compress(void *state, const void *src, size_t size, void *dst)
{
    int room = LZ4_compressBound((int)size);
    int len = LZ4_compress_fast_extState_fastReset(state, src, dst, (int)size, room, 1);

    ZC_ASSERT(len > 0);
    return (size_t)len;
}

static int lz4_decompress(const void *src, size_t size, void *dst, size_t dst_size)
{
    int len = LZ4_decompress_safe(src, dst, (int)size, (int)dst_size);

    return len == (int)dst_size ? 0 : -EIO;
}

const struct zc_codec zc_lz4_codec = {
    .name = "lz4",
    .state_size = sizeof(LZ4_stream_t),
    .init = lz4_init,
    .bound = lz4_bound,
    .compress = lz4_compress,
    .decompress = lz4_decompress,
};
