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

/* Of an entry with a zpage, or of an extent: seconds since it was put or got. `now`: zc_store_now(). */
uint32_t zc_entry_idle(struct zc_entry *entry, uint16_t now);

/* A search for pages that have been idle. */
struct zc_idle {
    uint32_t seconds; /* at least */
    uint16_t now;     /* zc_store_now() */
    uint32_t oldest;  /* seconds: of those that had not been for long enough */
    bool is_all;      /* there was none of these */
};

/* Has a page been, that was idle for so long? If not it is noted. */
static inline bool zc_idle_has(struct zc_idle *idle, uint32_t seconds)
{
    if (seconds >= idle->seconds)
        return true;
    idle->oldest = idle->oldest > seconds ? idle->oldest : seconds;
    idle->is_all = false;
    return false;
}

/* When there may be more to find, zc_store_ns(), but after `rest` seconds at least; UINT64_MAX: there are no other
 * pages. */
uint64_t zc_idle_next(const struct zc_idle *idle, const zc_store *store, uint32_t rest);

/* Is the page of that entry, whose shard is shared, one of those that are looked for? */
typedef bool zc_owner_wanted(void *arg, const struct zc_shard *shard, struct zc_entry *entry);

/* Owners of pages of a shard, as zc_entry_owner() says them. */
struct zc_owners {
    uint64_t *list; /* malloc'd; NULL: none */
    size_t count;
    bool is_all;
};

/* The owners of the pages that are wanted, `most` of them. `wanted` is asked twice of each. Shares the shard's
 * lock. 0 or -ENOMEM. */
int zc_owners_list(zc_pool *pool, struct zc_shard *shard, size_t most, zc_owner_wanted *wanted,
                   void *arg, struct zc_owners *out);

#endif
