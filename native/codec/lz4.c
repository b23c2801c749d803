/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#define LZ4_STATIC_LINKING_ONLY /* LZ4_compress_fast_extState_fastReset */
#include <lz4.h>

#include "base/base.h"
#include "codec/kind.h"

#define MAX_ACCELERATION 65537 /* more is as much, says lz4.h */

/*
 * Clears its table, 16 KiB, for every page: some 5 % of the work. To go on with the table of the page
 * before and pass over what is too old in it costs more, measured on real pages: 1 to 8 % where that is
 * asked of every entry, 20 to 40 % where only of those whose bytes agree, since pages are alike. Half
 * the table saves 2 % and makes zpages up to 0.6 % larger.
 */
static size_t lz4_compress(const struct zc_codec *codec, void *state, const void *page, void *dst)
{
    int len = LZ4_compress_fast_extState_fastReset(state, page, dst, (int)codec->page_size,
                                                   (int)codec->bound, codec->level);
    ZC_ASSERT(len > 0);
    return (size_t)len;
}

static int lz4_decompress(const struct zc_codec *codec, void *state, const void *src, size_t size,
                          void *page)
{
    (void)state;
    if (size > codec->bound)
        return -EIO;
    int len = LZ4_decompress_safe(src, page, (int)size, (int)codec->page_size);
    return len == (int)codec->page_size ? 0 : -EIO;
}

static void lz4_init_compressor(const struct zc_codec *codec, void *state)
{
    LZ4_initStream(state, codec->compressor_size);
}

static int lz4_setup(struct zc_codec *codec)
{
    codec->bound = (size_t)LZ4_compressBound((int)codec->page_size);
    codec->compressor_size = sizeof(LZ4_stream_t);
    codec->compress = lz4_compress;
    codec->decompress = lz4_decompress;
    return 0;
}

const struct zc_codec_kind zc_lz4_kind = {
    .name = "lz4",
    .min_level = 1,
    .max_level = MAX_ACCELERATION,
    .default_level = 1,
    .setup = lz4_setup,
    .init_compressor = lz4_init_compressor,
};
