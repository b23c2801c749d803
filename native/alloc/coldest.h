/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which of an allocator's records were touched longest ago: exactly, and without a list that every
 * touch would have to change. A scan of all stamps keeps the coldest few, a 64th of the records, and
 * later calls use these up. Whatever was touched or added since the scan is younger than all that the
 * scan left out, so the order stays exact.
 *
 * A record that was isolated and is released again is younger than it looks: it comes again with the
 * next scan only, so that who fails to empty it is not handed it once more at once.
 *
 * Thread-safe. Callers wait for each other; they may not hold a lock that the callbacks take.
 */
#ifndef ZC_ALLOC_COLDEST_H
#define ZC_ALLOC_COLDEST_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct zc_frames;

struct zc_coldest {
    pthread_mutex_t lock; /* taken before the allocator's own */
    struct zc_frames *frames;
    uint64_t *found;       /* age and number of each; coldest first, while scanning a heap */
    uint32_t next, count;  /* of found: the next to be handed out, and how many there are */
    _Atomic uint32_t room; /* of found; written under the lock */
    uint32_t origin;       /* the stamp of age 0 */
    uint64_t limit;        /* while scanning: what is younger is not kept */
};

struct zc_coldest_ops {
    /* How many records are in use. */
    uint32_t (*count)(void *alloc);
    /* Offers with zc_coldest_offer() those of the records number `from` on that are in use and not
     * isolated, as many as are fit to be gone through under one lock. Returns the number to go on
     * with; 0: those were the last. */
    uint32_t (*scan)(void *alloc, struct zc_coldest *coldest, uint32_t from);
    /* Isolates a record that is in use, not isolated, and still of this stamp. Else: false, and if
     * only its stamp is another by now, `stamp` is set to that: what moves there may make it younger
     * than it was, but older than others that were found. */
    bool (*isolate)(void *alloc, uint32_t number, uint32_t *stamp);
};

/* What it allocates is charged to `frames`. */
void zc_coldest_init(struct zc_coldest *coldest, struct zc_frames *frames);
void zc_coldest_destroy(struct zc_coldest *coldest);

/* Isolates the record touched longest ago; of equally old ones that of the lowest number. Returns its
 * number; 0: there is none, or no memory to look for it. */
uint32_t zc_coldest_next(struct zc_coldest *coldest, void *alloc, const struct zc_coldest_ops *ops);

void zc_coldest_keep(struct zc_coldest *coldest, uint32_t number, uint32_t stamp);
/* For ops->scan() only, which may go through the numbers in any order. */
static inline void zc_coldest_offer(struct zc_coldest *coldest, uint32_t number, uint32_t stamp)
{
    uint64_t item = (uint64_t)(stamp - coldest->origin) << 32 | number;

    if (item < coldest->limit)
        zc_coldest_keep(coldest, number, stamp);
}

/* What it has allocated now. */
static inline size_t zc_coldest_bytes(const struct zc_coldest *coldest)
{
    return sizeof(*coldest->found) * atomic_load_explicit(&coldest->room, memory_order_relaxed);
}

#endif
