/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pages have been idle, neither put nor got, and for how long. It is told page by page, by a walk
 * over the index: a frame of many pages is hardly ever idle as a whole.
 */
#ifndef ZC_STORE_IDLE_H
#define ZC_STORE_IDLE_H

#include "store/entry.h"

/* Seconds: what has been idle for longer is told from that no more, if only it is looked at within the
 * time that is left of 2^16 seconds. */
#define ZC_IDLE_MAX 32767u

/* Of an entry with a zpage: seconds since it was put or got. `now`: zc_store_now(). */
uint32_t zc_entry_idle(struct zc_entry *entry, uint16_t now);

/* Owners of pages of a shard, as zc_entry_owner() says them. */
struct zc_owners {
    uint64_t *list; /* malloc'd; NULL: none */
    size_t count;
    uint32_t oldest; /* seconds: the other pages have been idle for at most that */
    bool is_all;     /* there are no others, as far as they have zpages */
};

/* The owners of pages that have zpages and have been idle for `seconds`, at least; 0: of all pages that are in memory,
 * same-filled ones too. Shares the shard's lock. 0 or -ENOMEM. */
int zc_owners_list(zc_pool *pool, struct zc_shard *shard, uint32_t seconds, struct zc_owners *out);

#endif
