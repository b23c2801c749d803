/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/node.h"
#include "bench.h"
#include "codec/codec.h"

struct alone {
    struct zc_codec *codec;
    void *compressor, *decompressor;
    char *bytes;   /* zpages one after another */
    size_t stride; /* bytes from one to the next; 0: there is nothing between them */
    uint32_t *sizes;
    bool borrows; /* bytes and sizes */
};

static struct alone *with_codec(const char *codec, size_t page_size)
{
    struct alone *alone = get_memory(sizeof(*alone));
    struct zc_text why = {0};

    *alone = (struct alone){0};
    if (zc_codec_create(codec, page_size, 1, NULL, NULL, &alone->codec, &why) != 0)
        die(why.data ? why.data : "it cannot be had", codec);
    alone->compressor = get_memory(alone->codec->compressor_size);
    alone->decompressor = get_memory(alone->codec->decompressor_size);
    zc_compressor_init(alone->codec, alone->compressor);
    zc_decompressor_init(alone->codec, alone->decompressor);
    return alone;
}

struct alone *alone_new(const char *codec, const struct pages *pages, enum alone_places places)
{
    struct alone *alone = with_codec(codec, pages->page_size);
    size_t room = pages->count * alone->codec->bound;

    alone->stride = places == ALONE_APART ? alone->codec->bound : 0;
    alone->bytes = get_memory(room);
    memset(alone->bytes, 1, room);
    alone->sizes = get_memory(pages->count * sizeof(*alone->sizes));
    return alone;
}

struct alone *alone_beside(const struct alone *other, const char *codec, size_t page_size)
{
    struct alone *alone = with_codec(codec, page_size);

    alone->stride = other->stride;
    alone->bytes = other->bytes;
    alone->sizes = other->sizes;
    alone->borrows = true;
    return alone;
}

void alone_free(struct alone *alone)
{
    zc_codec_destroy(alone->codec);
    free(alone->compressor);
    free(alone->decompressor);
    if (!alone->borrows) {
        free(alone->bytes);
        free(alone->sizes);
    }
    free(alone);
}

double alone_put(struct alone *alone, const struct pages *pages)
{
    char *to = alone->bytes + pages->first * alone->stride;
    uint32_t *sizes = alone->sizes + pages->first;
    double start = now_ns();

    for (size_t i = 0; i < pages->count; i++) {
        sizes[i] = (uint32_t)zc_compress(alone->codec, alone->compressor, page_at(pages, i), to);
        to += alone->stride ? alone->stride : sizes[i];
    }
    return (now_ns() - start) / (double)pages->count;
}

double alone_get(const struct alone *alone, const struct pages *pages, char *room, size_t slots)
{
    const char *from = alone->bytes + pages->first * alone->stride;
    const uint32_t *sizes = alone->sizes + pages->first;
    double start = now_ns();

    for (size_t i = 0; i < pages->count; i++) {
        if (zc_decompress(alone->codec, alone->decompressor, from, sizes[i],
                          room + i % slots * pages->page_size) != 0)
            die("it does not decompress", "codec");
        from += alone->stride ? alone->stride : sizes[i];
    }
    return (now_ns() - start) / (double)pages->count;
}

uint32_t alone_size(const struct alone *alone, size_t page)
{
    return alone->sizes[page];
}

const char *alone_bytes(const struct alone *alone)
{
    return alone->bytes;
}

void codecs(const struct options *options)
{
    (void)options;
    printf("{\"codecs\": \"%s\"}\n", zc_codec_names());
}
