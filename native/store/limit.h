/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One limit over all pools. Who reaches it gives way in this order: ephemeral pages, coldest first, of
 * the pool with the most frames first; then, likewise, persistent pages that have a backing store to go
 * to; then new pages, which are refused. A persistent put that finds no room makes some itself: it takes
 * a few frames from ephemeral pools, or writes a few back. Else the keeper does it, from the high
 * watermark down to the low one. Percents are of the limit, and what they are held against is used_bytes without the
 * reserve, which gives way to puts by itself.
 */
#ifndef ZC_STORE_LIMIT_H
#define ZC_STORE_LIMIT_H

#include "store/pool.h"

/* Does the limit let a put into this pool? May make room. */
bool zc_limit_admits(zc_pool *pool);
/* A put into this pool has found no frame. True: there may be one now. */
bool zc_limit_make_room(zc_pool *pool);
/* Pages were put into this pool. */
void zc_limit_after_puts(zc_pool *pool);

/* May there be pages to give up when memory is short? */
bool zc_limit_has_givers(zc_store *store);

/* A pool has got a backing store, or a parameter: what it did not give so far it may give now. */
void zc_limit_reconsider(zc_pool *pool);

/* The keeper's: down to the low watermark, if over the high one or out of room. Returns when to try
 * again, zc_store_ns(): a backing store is left alone until then; UINT64_MAX: when woken. */
uint64_t zc_limit_keep(zc_store *store);
/* The keeper's: memory is short. */
void zc_limit_relieve(zc_store *store);

#endif
