/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A source whose pages are kept, compressed, in an ephemeral pool once they were read: what is read again comes from
 * there as long as the pool has it. Page i of the source is (i >> 32, i) in the pool. Writes go to the source, and the
 * pages that they touch leave the pool.
 *
 * A page is put only if no write of it was under way since before it was read from the source: so what is in
 * the pool is what the source has. No function but init and fini allocates; all others are thread-safe.
 */
#ifndef ZC_ZCACHED_READCACHE_H
#define ZC_ZCACHED_READCACHE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <zcache/store.h>

#include "zcached/block/blocks.h"
#include "zcached/block/source.h"

struct zc_readcache_stats {
    uint64_t hits, misses;     /* pages that were read; a part of one counts as one */
    uint64_t saved;            /* bytes that were asked for and not read from the source */
    uint64_t writes, discards; /* pages */
    uint64_t flushes;          /* requests */
    /* Requests that the source failed; flushes and discards are among the latter. */
    uint64_t read_errors, write_errors;
    uint64_t raced; /* of the misses: not kept, as they were written meanwhile */
};

#define ZC_READCACHE_WINDOWS 4u

/* A few pages, lent to one request at a time. */
struct zc_window {
    struct zc_window *next;
    char *bytes;
};

struct zc_readcache {
    zc_pool *pool;
    const struct zc_source *source;
    size_t page_size;    /* bytes */
    size_t window_pages; /* that a window has room for */
    struct zc_stripes *stripes;
    struct zc_window windows[ZC_READCACHE_WINDOWS], *free_windows;
    pthread_mutex_t lock; /* of free_windows */
    pthread_cond_t is_free;
    _Atomic uint64_t hits, misses, saved, writes, discards, flushes, read_errors, write_errors,
        raced;
};

/* Takes over the reference to the pool, which must be ephemeral and have no pages; also where it fails. The source
 * must stay. 0 or -ENOMEM. */
int zc_readcache_init(struct zc_readcache *cache, zc_pool *pool, const struct zc_source *source);
/* Forgets all pages. */
void zc_readcache_fini(struct zc_readcache *cache);

/* As a transport takes it. */
struct zc_blocks zc_readcache_blocks(struct zc_readcache *cache);

/* 0 or -errno of the source. At sectors, within the source. */
int zc_readcache_read(struct zc_readcache *cache, uint64_t at, void *bytes, size_t size);
int zc_readcache_write(struct zc_readcache *cache, uint64_t at, const void *bytes, size_t size);
int zc_readcache_discard(struct zc_readcache *cache, uint64_t at, uint64_t size);
int zc_readcache_flush(struct zc_readcache *cache);

void zc_readcache_get_stats(const struct zc_readcache *cache, struct zc_readcache_stats *out);

#endif
