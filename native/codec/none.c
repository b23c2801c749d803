/* SPDX-License-Identifier: Apache-2.0 */
/* Copies. */
#include <errno.h>
#include <string.h>

#include "codec/kind.h"

static size_t none_compress(const struct zc_codec *codec, void *state, const void *page, void *dst)
{
    (void)state;
    memcpy(dst, page, codec->page_size);
    return codec->page_size;
}

static int none_decompress(const struct zc_codec *codec, void *state, const void *src, size_t size,
                           void *page)
{
    (void)state;
    if (size != codec->page_size)
        return -EIO;
    memcpy(page, src, size);
    return 0;
}

static int none_setup(struct zc_codec *codec)
{
    codec->bound = codec->page_size;
    codec->compress = none_compress;
    codec->decompress = none_decompress;
    return 0;
}

const struct zc_codec_kind zc_none_kind = {.name = "none", .setup = none_setup};
