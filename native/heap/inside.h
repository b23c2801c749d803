/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the heap's own files share.
 *
 * Eviction goes through a window: a run of adjacent pages that were not touched lately is moved out of
 * its place into a slot, uncompressed. A page that is touched while it waits there comes back at once
 * and is left alone for some rounds; the others are put into the pool when their slot's turn comes. So
 * pages in use are told from idle ones with no bit of the MMU's (segmented FIFO: Turner and Levy, 1981).
 *
 * Locks, outermost first:
 *   zc_heap.evicting  who moves pages out: the slots, the hand, which regions there are
 *   zc_heap.lock      states of pages; who answers a fault needs it alone, and it is held over no call
 *                     of the store's
 * No thread touches memory of a heap while it holds one of them, and it blocks signals.
 *
 * Threads: the evictor; one that answers faults, or, where SIGBUS does, one that gets what a signal handler
 * may not get, because memory has to be taken or a backing store to be read.
 */
#ifndef ZC_HEAP_INSIDE_H
#define ZC_HEAP_INSIDE_H

#include <pthread.h>
#include <stdbool.h>

#include <zcache/heap.h>

#include "base/lock.h"
#include "heap/uffd.h"

/* Moved at a time: every time, processors that the process runs on are told to forget where the pages were. */
#define ZC_RUN_PAGES 64u
#define ZC_SLOTS 64u
#define ZC_BOUNCES 32u /* faults of stored pages at a time */
#define ZC_AHEAD 8u    /* pages of one, at most */

enum zc_page_state {
    ZC_PAGE_NEW,      /* never touched: zeros */
    ZC_PAGE_RESIDENT, /* in its place, unless the program has discarded it */
    ZC_PAGE_FILLING,  /* a fault is being answered */
    ZC_PAGE_WAITING,  /* in a slot */
    ZC_PAGE_LEAVING,  /* in a slot, being put into the pool */
    ZC_PAGE_STORED,   /* in the pool */
    ZC_PAGE_LOST,     /* the pool could not give it back */
};

struct zc_page {
    uint8_t state; /* enum zc_page_state */
    uint8_t rest;  /* rounds of the hand that it is left alone for */
    uint8_t slot;  /* of a waiting or leaving page */
    /* It is in the pool still. To forget it takes memory or frees some, which a signal handler may not
     * do, and disturbs who brings in more: the evictor does, later. */
    bool has_copy;
    uint16_t pins;
};
_Static_assert(ZC_SLOTS <= UINT8_MAX + 1, "slots have numbers of a byte");

struct zc_region {
    char *at;
    size_t count; /* pages */
    uint64_t object;
    size_t next;  /* page that is touched next if they are touched in order */
    size_t ahead; /* pages that came at the last fault */
    struct zc_page pages[];
};

/* Pages of a region. */
struct zc_range {
    struct zc_region *region;
    size_t first, count;
};

/* A run out of its place; a ring of them. */
struct zc_slot {
    struct zc_region *region;
    size_t first, count;
    uint64_t waiting; /* bit i: page first + i waits here */
};
_Static_assert(ZC_RUN_PAGES <= 64, "each page of a run has its bit");

/* A page of the pool that a signal handler wants, and what became of it. */
struct zc_wish {
    const struct zc_region *region;
    size_t page;
    int result; /* -EINPROGRESS: nothing yet */
};

struct zc_heap {
    zc_pool *pool;
    _Atomic uint32_t *is_ours; /* 0 in a child of fork(), which has none of it */
    size_t page_size;
    enum zc_heap_faults faults;
    bool has_handler;
    size_t most_ahead; /* pages */
    struct zc_uffd uffd;
    struct zc_lock evicting, lock;
    struct zc_change change; /* of a page that somebody waits for, or of room */
    struct zc_change over;   /* for the evictor */
    struct zc_change wishes; /* for the getter */
    uint64_t budget;         /* pages; SIZE_MAX: no bound */
    bool is_stuck;           /* nothing more can be put away, until a page comes */
    bool stopping;
    struct zc_region **regions; /* by address */
    size_t region_count, region_room;
    uint64_t next_object;
    size_t hand_region, hand; /* the page that the sweep goes on with */

    size_t copies;          /* pages that have one */
    bool has_new_copies;    /* since the evictor looked */
    uint64_t forget_quiet;  /* zc_now_ns(): when it forgets them if none come, */
    uint64_t forget_latest; /* and if they do; 0: there were none */

    char *slot_memory;
    size_t first_slot, used_slots;
    struct zc_slot ring[ZC_SLOTS];

    char *bounces; /* ZC_AHEAD pages each */
    char *zeros;   /* a page */
    uint32_t free_bounces;
    uint32_t wished; /* bit i: wish i waits to be granted, into bounce i */
    struct zc_wish wish[ZC_BOUNCES];

    struct zc_heap_stats stats; /* in pages; of what is there now, too */
    pthread_t evictor, answerer, getter;
    bool has_evictor, has_answerer, has_getter;
    int stop_event;
};

/* ---- region.c; heap->lock is held ---- */

/* NULL: not of this heap. */
struct zc_region *zc_region_of(const zc_heap *heap, const void *address);
/* 0, or -EFAULT: not all of it is in one region of the heap's. */
int zc_range_of(const zc_heap *heap, const void *at, size_t size, struct zc_range *out);
static inline char *zc_page_at(const zc_heap *heap, const struct zc_region *region, size_t page)
{
    return region->at + page * heap->page_size;
}

/* ---- fault.c ---- */

/* A page comes back from its slot; the lock is held. What it was copied of goes with the slot. 0, or -errno. */
int zc_bring_back(zc_heap *heap, char *to, char *from);

/* The page is in its place, if it was in the pool, in a slot, or new. The lock is held, and left meanwhile.
 * 0, -EIO, or -ENOMEM: for now. */
int zc_fill(zc_heap *heap, struct zc_region *region, size_t page);
/* Up to `most`, 1..ZC_AHEAD, adjacent pages are, of which the first is in the pool. The same, but returns how many. */
int zc_fill_stored(zc_heap *heap, struct zc_region *region, size_t first, size_t most);
void *zc_answer(void *heap); /* a thread */
void *zc_grant(void *heap);  /* another: the getter */

/* ---- evict.c ---- */

void *zc_evict_over_budget(void *heap); /* a thread */
/* evicting is held. Returns the pages put away. */
size_t zc_evict_range(zc_heap *heap, const struct zc_range *range);
size_t zc_evict_idle(zc_heap *heap);
/* evicting and lock are held: no page of the region waits any more. */
void zc_evict_forget(zc_heap *heap, const struct zc_region *region);
static inline char *zc_slot_page(const zc_heap *heap, size_t slot, size_t i)
{
    return heap->slot_memory + (slot * ZC_RUN_PAGES + i) * heap->page_size;
}
/* The lock is held: is there more than the budget allows? */
static inline bool zc_is_over(const zc_heap *heap)
{
    return heap->stats.resident_pages > heap->budget;
}

#endif
