/* SPDX-License-Identifier: Apache-2.0 */
/* LZO1X-1, only in a build with LZO=1: minilzo is GPL-2.0-or-later, and so is what contains it. */
#include <errno.h>
#include <minilzo.h>
#include <string.h>

#include "base/base.h"
#include "codec/kind.h"

static size_t lzo_compress(const struct zc_codec *codec, void *state, const void *page, void *dst)
{
    lzo_uint len = 0;
    int result = lzo1x_1_compress(page, codec->page_size, dst, &len, state);

    ZC_ASSERT(result == LZO_E_OK);
    (void)result;
    return len;
}

static int lzo_decompress(const struct zc_codec *codec, void *state, const void *src, size_t size,
                          void *page)
{
    lzo_uint len = codec->page_size;

    (void)state;
    if (lzo1x_decompress_safe(src, size, page, &len, NULL) != LZO_E_OK || len != codec->page_size)
        return -EIO;
    return 0;
}

static void lzo_init_compressor(const struct zc_codec *codec, void *state)
{
    memset(state, 0, codec->compressor_size);
}

static int lzo_setup(struct zc_codec *codec)
{
    codec->bound = codec->page_size + codec->page_size / 16 + 64 + 3;
    codec->compressor_size = LZO1X_1_MEM_COMPRESS;
    codec->compress = lzo_compress;
    codec->decompress = lzo_decompress;
    return 0;
}

const struct zc_codec_kind zc_lzo_kind = {
    .name = "lzo",
    .setup = lzo_setup,
    .init_compressor = lzo_init_compressor,
};
