/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The codecs of a pool: that of new pages, and those that pages it holds were compressed with. Each
 * has a small number, which an entry names, and goes when the last of its pages has gone.
 *
 * What a running put or get needs of a codec is lent from here: as many states are kept as ever ran
 * at one time, so that neither allocates as a rule.
 */
#ifndef ZC_STORE_CODECS_H
#define ZC_STORE_CODECS_H

#include <pthread.h>

#include <zcache/store.h>

#include "base/list.h"
#include "base/node.h"
#include "codec/codec.h"

#define ZC_POOL_CODECS 16u /* in use in a pool at one time */

/* For a put: a compressor, and room for two zpages, this page's and that of the one before in its
 * batch. */
struct zc_compressor {
    struct zc_compressor *next;
    const struct zc_codec *codec;
    unsigned number; /* the codec's in its pool */
    size_t size;     /* bytes of it all */
    char *zpage[2];  /* codec->bound bytes each */
    _Alignas(16) char state[];
};

struct zc_decompressor {
    struct zc_decompressor *next;
    const struct zc_codec_kind *kind;
    size_t size;
    _Alignas(16) char state[];
};

/* For extents. */
struct zc_room {
    struct zc_room *next;
    size_t size; /* bytes */
    _Alignas(16) char bytes[];
};

struct zc_codecs {
    pthread_mutex_t lock;
    unsigned current; /* of new pages */
    struct {
        struct zc_codec *codec; /* NULL: the number is free */
        uint64_t serial;        /* which codec of all that the pool ever had, from 1 on */
        size_t users;           /* compressors that are lent, and who else holds on to it */
        struct zc_compressor *compressors;
    } by_number[ZC_POOL_CODECS];
    struct zc_decompressor *decompressors;
    struct zc_room *rooms;
    uint64_t serials;
};

/* -EINVAL, -ENOENT, -ENOMEM as zc_codec_create(). `why` may be NULL. */
int zc_codecs_init(zc_pool *pool, const char *spec, struct zc_text *why);
void zc_codecs_fini(zc_pool *pool);
/* The codec of new pages from now on. Also -E2BIG: too many are in use. */
int zc_codecs_set(zc_pool *pool, const char *spec, struct zc_text *why);
/* The number of a codec for runs of `pages` pages, until zc_codecs_drop() for those that are there by then.
 * As zc_codecs_set(). */
int zc_codecs_hold(zc_pool *pool, const char *spec, unsigned pages, unsigned *number,
                   struct zc_text *why);
void zc_codecs_drop(zc_pool *pool, unsigned number);
/* Forgets codecs of which no page is left. */
void zc_codecs_prune(zc_pool *pool);
void zc_codecs_show(zc_pool *pool, struct zc_text *out);

/* By an entry's number; the caller holds the lock of the entry's shard. */
static inline const struct zc_codec *zc_codecs_at(const struct zc_codecs *codecs, unsigned number)
{
    return codecs->by_number[number].codec;
}

/* A compressor of new pages. NULL: out of memory. */
struct zc_compressor *zc_compressor_take(zc_pool *pool);
void zc_compressor_give(zc_pool *pool, struct zc_compressor *compressor);
/* One of a codec that is held. NULL: out of memory. */
struct zc_compressor *zc_compressor_new(zc_pool *pool, unsigned number);
void zc_compressor_free(zc_pool *pool, struct zc_compressor *compressor);

/* NULL: none is ready, and out of memory or it may not be taken. */
struct zc_decompressor *zc_decompressor_take(zc_pool *pool, const struct zc_codec *codec,
                                             bool may_alloc);
void zc_decompressor_give(zc_pool *pool, struct zc_decompressor *decompressor);

/* Room for so many bytes. NULL: likewise. */
struct zc_room *zc_room_take(zc_pool *pool, size_t size, bool may_alloc);
void zc_room_give(zc_pool *pool, struct zc_room *room);

/* ---- the store's dictionaries ---- */

void zc_dictionaries_init(zc_store *store);
void zc_dictionaries_fini(zc_store *store);
/* A reference; NULL: there is none of that number. */
struct zc_dictionary *zc_dictionaries_find(zc_store *store, uint32_t id);
/* The number of the one whose bytes have that hash; 0: there is none. */
uint32_t zc_dictionaries_by_hash(zc_store *store, uint64_t hash);
/* Hands the number of each to `emit`, in order, until that says other than 0. */
int zc_dictionaries_list(zc_store *store, int (*emit)(void *arg, uint32_t id), void *arg);

#endif
