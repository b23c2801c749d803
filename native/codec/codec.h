/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Codecs: how a page becomes a zpage and a page again. Also the estimated entropy of a page.
 *
 * A codec and a dictionary never change once they are made, and any number of threads may read them.
 * What a running compression or decompression changes is its state, which belongs to one thread at a
 * time and serves page after page; neither allocates.
 */
#ifndef ZC_CODEC_CODEC_H
#define ZC_CODEC_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ZC_DICTIONARY_MAX ((size_t)1 << 20) /* bytes */
#define ZC_STATE_ALIGN 16    /* bytes; of a compressor's and a decompressor's state */
#define ZC_ENTROPY_MAX 8000u /* millibits a byte */

struct zc_text;

/* Bytes that a codec compresses against: zstd's format or any others. A counted reference. */
struct zc_dictionary;

/* Copies the bytes; the caller has the one reference. -EINVAL: empty, larger than
 * ZC_DICTIONARY_MAX, or begun like a dictionary of zstd's format and none; -ENOMEM. */
int zc_dictionary_create(uint32_t id, const void *bytes, size_t size, struct zc_dictionary **out);
struct zc_dictionary *zc_dictionary_ref(struct zc_dictionary *dictionary);
void zc_dictionary_unref(struct zc_dictionary *dictionary); /* NULL: nothing */
/* Has anybody a reference besides its creator? */
bool zc_dictionary_is_shared(const struct zc_dictionary *dictionary);
uint32_t zc_dictionary_id(const struct zc_dictionary *dictionary);
size_t zc_dictionary_size(const struct zc_dictionary *dictionary);   /* bytes */
uint64_t zc_dictionary_hash(const struct zc_dictionary *dictionary); /* zc_hash() of its bytes */
size_t zc_dictionary_memory(const struct zc_dictionary *dictionary); /* bytes it costs in all */

struct zc_codec_kind;

/* A kind of codec at a level, for pages of one size or runs of a number of them, which are its pages then. Made
 * once, then only read. */
struct zc_codec {
    const struct zc_codec_kind *kind;
    int level;        /* 0: of a kind that has none */
    size_t page_size; /* bytes; of all pages of a run */
    size_t block;     /* bytes of a run that can be decompressed before the rest; page_size: none */
    size_t bound;     /* bytes: the most that compressing a page can give */
    size_t compressor_size;   /* bytes of a compressor's state; 0: needs none */
    size_t decompressor_size; /* bytes of a decompressor's state; 0: needs none */
    size_t memory; /* bytes of heap that the codec costs, its dictionary and states left out */
    struct zc_dictionary *dictionary; /* a reference; NULL: none */
    void *digested;                   /* the kind's own; NULL: none */

    /* See zc_compress() and zc_decompress(). */
    size_t (*compress)(const struct zc_codec *codec, void *state, const void *page, void *dst);
    int (*decompress)(const struct zc_codec *codec, void *state, const void *src, size_t size,
                      void *page);
    int (*decompress_some)(const struct zc_codec *codec, void *state, const void *src, size_t size,
                           void *page, size_t upto); /* NULL: it cannot */
};

/* A new reference to the dictionary of that id; NULL: there is none. */
typedef struct zc_dictionary *zc_dictionary_find(void *arg, uint32_t id);

/*
 * Makes the codec that a spec names: NAME[:LEVEL][:dict=ID], for runs of so many pages, a power of two. `find`
 * is asked for the dictionary; NULL: there are none.
 *
 * -EINVAL: no such spec, level, or a dictionary where the kind takes none; -ENOENT: no such
 * dictionary; -ENOMEM. `why` (NULL: not wanted) then gets one line which names the value and what is
 * allowed.
 */
int zc_codec_create(const char *spec, size_t page_size, unsigned pages, zc_dictionary_find *find,
                    void *arg, struct zc_codec **out, struct zc_text *why);
void zc_codec_destroy(struct zc_codec *codec); /* NULL: nothing */

/* The same kind, level, page size and dictionary? */
bool zc_codec_is_same(const struct zc_codec *a, const struct zc_codec *b);

/* Adds the spec that makes it, without a level that is the default. */
void zc_codec_spec(const struct zc_codec *codec, struct zc_text *out);

/* Names of the codecs in this build, a blank between. */
const char *zc_codec_names(void);

/* Makes a state of compressor_size, or decompressor_size, bytes aligned to ZC_STATE_ALIGN ready for
 * its first page. It holds no resource: it may just be freed. */
void zc_compressor_init(const struct zc_codec *codec, void *state);
void zc_decompressor_init(const struct zc_codec *codec, void *state);

/* Returns the bytes, at least 1, written to dst, which has room for codec->bound. */
static inline size_t zc_compress(const struct zc_codec *codec, void *state, const void *page,
                                 void *dst)
{
    return codec->compress(codec, state, page, dst);
}

/* 0, or -EIO: the `size` bytes are not what compress gave. Any bytes are safe; reads nothing beyond
 * them and writes nothing but `page`. */
static inline int zc_decompress(const struct zc_codec *codec, void *state, const void *src,
                                size_t size, void *page)
{
    return codec->decompress(codec, state, src, size, page);
}

/* The same of the first `upto` bytes, at least; what comes behind them is arbitrary then. */
static inline int zc_decompress_some(const struct zc_codec *codec, void *state, const void *src,
                                     size_t size, void *page, size_t upto)
{
    if (upto == codec->page_size || !codec->decompress_some)
        return codec->decompress(codec, state, src, size, page);
    return codec->decompress_some(codec, state, src, size, page, upto);
}

/* The estimated entropy of a page in millibits a byte, 0..ZC_ENTROPY_MAX, from a sample of it. Of random
 * bytes it is 8000, give or take 500. A gate of ZC_ENTROPY_GATE refuses what no codec compresses to 7/8 of a page,
 * and one page in a thousand too many; one of 5800 suits LZ4, which makes nothing of base64 either. */
#define ZC_ENTROPY_GATE 6400u
unsigned zc_entropy(const void *page, size_t page_size);

#endif
