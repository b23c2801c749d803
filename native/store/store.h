/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store layer's contract is <zcache/store.h>; this adds what only the daemon needs.
 *
 * Locks, outermost first:
 *   zc_store.pools_lock         names and ids of pools
 *   zc_writeback.running        one writeback of a pool at a time
 *   zc_pool.compact_lock        one compaction of a pool at a time
 *   zc_shard.lock               one shard of a pool's index, and its share of the counters; shared by
 *                               gets
 *   zc_writeback.lock           a pool's backing store does not go away
 *   zc_codecs.lock              the codecs of a pool, and the states that are lent
 *   zc_store.dictionaries_lock
 *   the backing store's         its own; it calls nobody with one held
 *   the allocator's             its lists and records; in which order, it says itself
 *   zc_frames' lock             runs and the reserve
 * zc_memory.lock is taken alone. Nobody holds two shards' locks.
 */
#ifndef ZC_STORE_STORE_H
#define ZC_STORE_STORE_H

#include <zcache/store.h>

#include "base/node.h"

/* The store's part of the control tree; the object is a zc_store. */
extern const struct zc_node zc_store_nodes[];

/* Would a pool take that codec? As zc_pool_set_codec(), but for -E2BIG; `why` gets one line. */
int zc_codecs_check(zc_store *store, const char *spec, struct zc_text *why);

#endif
