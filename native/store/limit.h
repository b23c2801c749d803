/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One limit over all pools. Who reaches it gives way in this order: ephemeral pages, coldest first, of
 * the pool with the most frames first; then new pages, which are refused. A persistent put that finds
 * no room takes it from ephemeral pools at once; else the keeper does it, from the high watermark down
 * to the low one. Percents are of the limit, and what they are held against is used_bytes without the
 * reserve, which gives way to puts by itself.
 */
#ifndef ZC_STORE_LIMIT_H
#define ZC_STORE_LIMIT_H

#include "store/pool.h"

/* Does the limit let a put into this pool? May take room from ephemeral pools. */
bool zc_limit_admits(zc_pool *pool);
/* A put into this pool has found no frame. True: there may be one now. */
bool zc_limit_make_room(zc_pool *pool);
/* Pages were put into this pool. */
void zc_limit_after_puts(zc_pool *pool);

/* May there be ephemeral pages that frames are to be had from? */
bool zc_limit_has_ephemeral(const zc_store *store);

/* The keeper's: down to the low watermark, if over the high one or out of room. */
void zc_limit_keep(zc_store *store);
/* The keeper's: memory is short. */
void zc_limit_relieve(zc_store *store);

#endif
