/* SPDX-License-Identifier: Apache-2.0 */
/*
 * LZ4. Its source is compiled here, for one thing that its interface does not give: a table that stays
 * from page to page. LZ4_compress_fast_extState_fastReset() clears it for every input of 4 KiB and more,
 * some 5 % of a put. Its entries are 16-bit positions, counted on over the inputs, and those before an
 * input are passed over (dictSmall), so it needs clearing only when they would run over.
 */
#define LZ4_STATIC_LINKING_ONLY_DISABLE_MEMORY_ALLOCATION
#include <lz4.c>

#include <errno.h>

#include "base/base.h"
#include "codec/kind.h"

#define POSITIONS 0xffffu

static void keep_table(LZ4_stream_t_internal *stream, size_t page_size)
{
    if (stream->currentOffset + page_size >= POSITIONS) {
        memset(stream->hashTable, 0, sizeof(stream->hashTable));
        stream->currentOffset = 0;
    }
    stream->dictSize = 0;
}

static size_t lz4_compress(const struct zc_codec *codec, void *state, const void *page, void *dst)
{
    LZ4_stream_t_internal *stream = &((LZ4_stream_t *)state)->internal_donotuse;
    int size = (int)codec->page_size;

    keep_table(stream, codec->page_size);
    int len = LZ4_compress_generic(stream, page, dst, size, NULL, 0, notLimited, byU16, noDict,
                                   dictSmall, codec->level);
    ZC_ASSERT(len > 0);
    return (size_t)len;
}

/* Pages with positions of more than 16 bits. */
static size_t lz4_compress_large(const struct zc_codec *codec, void *state, const void *page,
                                 void *dst)
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

static void lz4_init(const struct zc_codec *codec, void *state)
{
    (void)codec;
    LZ4_initStream(state, sizeof(LZ4_stream_t));
}

static int lz4_setup(struct zc_codec *codec)
{
    codec->bound = (size_t)LZ4_COMPRESSBOUND(codec->page_size);
    codec->compressor_size = sizeof(LZ4_stream_t);
    codec->compress = codec->page_size < LZ4_64Klimit ? lz4_compress : lz4_compress_large;
    codec->decompress = lz4_decompress;
    return 0;
}

const struct zc_codec_kind zc_lz4_kind = {
    .name = "lz4",
    .min_level = 1,
    .max_level = LZ4_ACCELERATION_MAX,
    .default_level = LZ4_ACCELERATION_DEFAULT,
    .setup = lz4_setup,
    .init_compressor = lz4_init,
};
