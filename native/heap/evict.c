/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <sys/mman.h>

#include "base/base.h"
#include "heap/inside.h"

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 /* Linux 5.18 */
#endif

#define REFUSED_REST 63u /* rounds that a page is left alone for which the pool did not take */
#define PUT_PAGES 16u    /* at a time: who touches one of them meanwhile waits for all */
#define PUT_MASK (UINT64_MAX >> (64 - PUT_PAGES))
#define COPIES_AT_ONCE 64u
#define LOOKS 4096u          /* at pages, for copies, while faults wait */
#define QUIET_NS 20000000u   /* copies are forgotten when for so long no page was brought back, */
#define LATEST_NS 200000000u /* or so long after the first */
#define ROUNDS 4u /* for the budget, until no page is left that was only touched lately */

/* ---- copies ---- */

/* evicting and the lock are held, which is left meanwhile. */
static void forget_copies_of(zc_heap *heap, struct zc_region *region)
{
    struct zc_key keys[COPIES_AT_ONCE];
    int32_t results[COPIES_AT_ONCE];

    for (size_t at = 0; at < region->count && heap->copies;) {
        size_t count = 0, end = zc_min(at + LOOKS, region->count);
        for (; at < end && count < COPIES_AT_ONCE; at++) {
            if (!region->pages[at].has_copy)
                continue;
            region->pages[at].has_copy = false;
            keys[count++] = (struct zc_key){region->object, (uint32_t)at};
        }
        heap->copies -= count;
        zc_lock_leave(&heap->lock);
        zc_flush_page_batch(heap->pool, keys, count, results);
        zc_lock_take(&heap->lock);
    }
}

/* The same. */
static void forget_copies(zc_heap *heap)
{
    heap->forget_latest = 0;
    for (size_t i = 0; i < heap->region_count; i++)
        forget_copies_of(heap, heap->regions[i]);
}

static bool is_time_to_forget(zc_heap *heap)
{
    if (!heap->copies) {
        heap->forget_latest = 0;
        return false;
    }
    uint64_t now = zc_now_ns();
    if (!heap->forget_latest)
        heap->forget_latest = now + LATEST_NS;
    if (heap->has_new_copies)
        heap->forget_quiet = now + QUIET_NS;
    heap->has_new_copies = false;
    return now >= zc_min64(heap->forget_quiet, heap->forget_latest);
}

/* ---- out of a slot, into the pool ---- */

/* Pages of a slot that are to be put. */
struct batch {
    size_t count;
    unsigned pages[PUT_PAGES]; /* in the slot */
    struct zc_key keys[PUT_PAGES];
    const void *bytes[PUT_PAGES];
    int32_t results[PUT_PAGES];
};

/* Pages that were discarded while they were in their places are zeros now. One call tells of most that they are
 * there, and one each of the others, which may be in the kernel's swap. */
static void fill_holes(zc_heap *heap, size_t number)
{
    struct zc_slot *slot = &heap->ring[number];
    unsigned char resident[ZC_RUN_PAGES] = {0};

    if (!heap->uffd.can_move)
        return; /* nobody watches slots */
    mincore(zc_slot_page(heap, number, 0), slot->count * heap->page_size, resident);
    for (uint64_t left = slot->waiting; left; left &= left - 1) {
        unsigned i = (unsigned)__builtin_ctzll(left);
        if (!(resident[i] & 1))
            zc_uffd_copy(&heap->uffd, zc_slot_page(heap, number, i), heap->zeros, heap->page_size);
    }
}

/* Those that wait of PUT_PAGES pages of the slot. */
static void collect(zc_heap *heap, size_t number, size_t first, struct batch *batch)
{
    struct zc_slot *slot = &heap->ring[number];

    batch->count = 0;
    for (uint64_t left = slot->waiting >> first & PUT_MASK; left; left &= left - 1) {
        unsigned i = (unsigned)first + (unsigned)__builtin_ctzll(left);
        size_t at = slot->first + i, n = batch->count++;
        struct zc_page *page = &slot->region->pages[at];
        page->state = ZC_PAGE_LEAVING;
        heap->copies -= page->has_copy; /* it is put over it */
        page->has_copy = false;
        batch->pages[n] = i;
        batch->keys[n] = (struct zc_key){slot->region->object, (uint32_t)at};
        batch->bytes[n] = zc_slot_page(heap, number, i);
    }
}

/* It was not taken: back to where it was. */
static void give_back(zc_heap *heap, size_t number, unsigned i)
{
    struct zc_slot *slot = &heap->ring[number];
    size_t at = slot->first + i;
    struct zc_page *page = &slot->region->pages[at];
    char *to = zc_page_at(heap, slot->region, at), *from = zc_slot_page(heap, number, i);

    int error = zc_bring_back(heap, to, from);
    heap->stats.refused++;
    if (error) { /* no memory for a copy: it waits on */
        page->state = ZC_PAGE_WAITING;
        return;
    }
    page->state = ZC_PAGE_RESIDENT;
    page->rest = REFUSED_REST;
    slot->waiting &= ~(UINT64_C(1) << i);
    heap->stats.waiting_pages--;
}

/* Returns the pages put away. */
static size_t settle(zc_heap *heap, size_t number, const struct batch *batch)
{
    struct zc_slot *slot = &heap->ring[number];
    size_t stored = 0;

    for (size_t n = 0; n < batch->count; n++) {
        unsigned i = batch->pages[n];
        if (batch->results[n] != ZC_STORED) {
            give_back(heap, number, i);
            continue;
        }
        slot->region->pages[slot->first + i].state = ZC_PAGE_STORED;
        slot->waiting &= ~(UINT64_C(1) << i);
        stored++;
    }
    heap->stats.waiting_pages -= stored;
    heap->stats.resident_pages -= stored;
    heap->stats.stored_pages += stored;
    heap->stats.evicted += stored;
    zc_change_tell(&heap->change);
    return stored;
}

static void drop(char *at, size_t size)
{
    if (madvise(at, size, MADV_DONTNEED) != 0)
        madvise(at, size, MADV_DONTNEED_LOCKED); /* the program has locked its memory */
}

static bool lacks_room(int32_t result)
{
    return result == ZC_POLICY_PERCENT_EXCEEDED || result == ZC_LOW_MEMORY ||
           result == ZC_FAILED_GETFREEPAGES || result == -ENOMEM;
}

/* Once more, with the room that copies had. */
static void put_again(zc_heap *heap, struct batch *batch)
{
    forget_copies(heap);
    zc_lock_leave(&heap->lock);
    for (size_t n = 0; n < batch->count; n++)
        if (lacks_room(batch->results[n]))
            batch->results[n] = zc_put(heap->pool, batch->keys[n].object, batch->keys[n].index,
                                       batch->bytes[n], 0, NULL);
    zc_lock_take(&heap->lock);
}

/* evicting and the lock are held, which is left meanwhile. */
static void put(zc_heap *heap, struct batch *batch)
{
    bool is_short = false;

    zc_lock_leave(&heap->lock);
    bool is_dead = zc_put_batch(heap->pool, batch->keys, batch->bytes, batch->count, 0,
                                batch->results, NULL) != 0;
    zc_lock_take(&heap->lock);
    for (size_t n = 0; n < batch->count; n++) {
        if (is_dead)
            batch->results[n] = -ENOENT;
        is_short |= lacks_room(batch->results[n]);
    }
    if (is_short && heap->copies)
        put_again(heap, batch);
}

/* Frees the oldest slot. The same. Returns the pages put away. */
static size_t store_oldest(zc_heap *heap)
{
    size_t number = heap->first_slot, stored = 0;
    struct zc_slot *slot = &heap->ring[number];
    struct batch batch;

    fill_holes(heap, number);
    for (size_t first = 0; first < slot->count; first += PUT_PAGES) {
        collect(heap, number, first, &batch);
        if (!batch.count)
            continue;
        put(heap, &batch);
        stored += settle(heap, number, &batch);
    }
    if (slot->waiting == 0) {
        drop(zc_slot_page(heap, number, 0), slot->count * heap->page_size);
        heap->first_slot = (number + 1) % ZC_SLOTS;
        heap->used_slots--;
    }
    return stored;
}

void zc_evict_forget(zc_heap *heap, const struct zc_region *region)
{
    for (size_t i = 0; i < heap->used_slots; i++) {
        struct zc_slot *slot = &heap->ring[(heap->first_slot + i) % ZC_SLOTS];
        if (slot->region != region)
            continue;
        unsigned waiting = (unsigned)__builtin_popcountll(slot->waiting);
        heap->stats.waiting_pages -= waiting;
        heap->stats.resident_pages -= waiting;
        slot->waiting = 0;
    }
}

/* ---- out of its place, into a slot ---- */

/* A page in the middle of a run: one that has nothing there is moved as a hole. */
static bool may_lie_in(const struct zc_page *page)
{
    return page->state != ZC_PAGE_FILLING &&
           !(page->state == ZC_PAGE_RESIDENT && (page->pins || page->rest));
}

static bool may_go(const struct zc_page *page)
{
    return page->state == ZC_PAGE_RESIDENT && !page->pins && !page->rest;
}

/* Returns how many of the pages are in the slot. */
static size_t move_out(zc_heap *heap, size_t number, void *from, size_t pages)
{
    size_t size = pages * heap->page_size;
    char *to = zc_slot_page(heap, number, 0);

    if (heap->uffd.can_move)
        return zc_uffd_move(&heap->uffd, to, from, size) / heap->page_size;
    void *at = mremap(from, size, size, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to);
    return at == MAP_FAILED ? 0 : pages;
}

/* The run that begins at a page that may go. Returns its length; a slot is free, all locks are held. */
static size_t take_run(zc_heap *heap, struct zc_region *region, size_t first, size_t most)
{
    size_t number = (heap->first_slot + heap->used_slots) % ZC_SLOTS, pages = 0;
    struct zc_slot *slot = &heap->ring[number];

    most = zc_min(zc_min(most, region->count - first), ZC_RUN_PAGES);
    *slot = (struct zc_slot){.region = region, .first = first};
    for (size_t i = 0; i < most && may_lie_in(&region->pages[first + i]); i++) {
        if (!may_go(&region->pages[first + i]))
            continue;
        slot->waiting |= UINT64_C(1) << i;
        pages = i + 1;
    }
    size_t moved = move_out(heap, number, zc_page_at(heap, region, first), pages);
    if (moved < pages) /* what did not move is left alone for some time */
        region->pages[first + moved].rest = REFUSED_REST;
    if (moved == 0)
        return 0;
    slot->count = moved;
    slot->waiting &= UINT64_MAX >> (64 - moved);
    for (uint64_t left = slot->waiting; left; left &= left - 1) {
        struct zc_page *page = &region->pages[first + (unsigned)__builtin_ctzll(left)];
        page->state = ZC_PAGE_WAITING;
        page->slot = (uint8_t)number;
        heap->stats.waiting_pages++;
    }
    heap->used_slots++;
    return moved;
}

/* Makes a slot free. Returns the pages put away. */
static size_t free_slot(zc_heap *heap)
{
    return heap->used_slots == ZC_SLOTS ? store_oldest(heap) : 0;
}

static size_t store_all(zc_heap *heap)
{
    size_t stored = 0;

    for (size_t left = heap->used_slots; left; left--)
        stored += store_oldest(heap);
    return stored;
}

size_t zc_evict_range(zc_heap *heap, const struct zc_range *range)
{
    struct zc_page *pages = range->region->pages;
    size_t stored = store_all(heap), end = range->first + range->count;

    for (size_t at = range->first; at < end;) {
        while (pages[at].state == ZC_PAGE_FILLING) /* who touched it may be on its way again */
            zc_change_wait(&heap->change, &heap->lock, 0);
        pages[at].rest = 0;
        if (!may_go(&pages[at])) {
            at++;
            continue;
        }
        for (size_t i = at; i < zc_min(end, at + ZC_RUN_PAGES); i++)
            pages[i].rest = 0;
        stored += free_slot(heap);
        if (heap->used_slots == ZC_SLOTS)
            break;
        at += zc_max(take_run(heap, range->region, at, end - at), 1);
    }
    return stored + store_all(heap);
}

/* ---- by age ---- */

static size_t all_pages(const zc_heap *heap)
{
    size_t pages = 0;

    for (size_t i = 0; i < heap->region_count; i++)
        pages += heap->regions[i]->count;
    return pages;
}

/* Goes on to a page that may go; those at rest have one round less to go. false: not in `left` steps. */
static bool sweep(zc_heap *heap, size_t *left)
{
    for (; *left; --*left) {
        if (heap->hand_region >= heap->region_count)
            heap->hand_region = heap->hand = 0;
        struct zc_region *region = heap->regions[heap->hand_region];
        if (heap->hand >= region->count) {
            heap->hand_region++;
            heap->hand = 0;
            continue;
        }
        struct zc_page *page = &region->pages[heap->hand];
        if (may_go(page))
            return true;
        if (page->state == ZC_PAGE_RESIDENT && page->rest)
            page->rest--;
        heap->hand++;
    }
    return false;
}

/* Pages: of a small budget fewer, so that several runs may wait. */
static size_t run_wanted(const zc_heap *heap)
{
    return (size_t)zc_min64(zc_max64(heap->budget / 64, PUT_PAGES), ZC_RUN_PAGES);
}

/* As many pages may wait as are a sixteenth of the budget. */
static size_t slots_wanted(const zc_heap *heap)
{
    return (size_t)zc_min64(zc_max64(heap->budget / 16 / run_wanted(heap), 1), ZC_SLOTS);
}

/* Moves the next run out. false: there is none. */
static bool take_next(zc_heap *heap, size_t *left)
{
    if (heap->region_count == 0 || !sweep(heap, left))
        return false;
    struct zc_region *region = heap->regions[heap->hand_region];
    size_t pages = take_run(heap, region, heap->hand, run_wanted(heap));
    heap->hand += zc_max(pages, 1);
    *left -= zc_min(*left, zc_max(pages, 1));
    return true;
}

static void fill_slots(zc_heap *heap, size_t *left)
{
    while (heap->used_slots < slots_wanted(heap) && take_next(heap, left))
        ;
}

size_t zc_evict_idle(zc_heap *heap)
{
    size_t stored = store_all(heap), left = all_pages(heap) + heap->region_count;

    fill_slots(heap, &left);
    return stored;
}

/* Down to the budget, as far as it goes. */
static void down_to_budget(zc_heap *heap)
{
    size_t left = ROUNDS * (all_pages(heap) + heap->region_count);

    while (zc_is_over(heap) && !heap->stopping) {
        fill_slots(heap, &left);
        size_t before = heap->used_slots;
        size_t stored = before ? store_oldest(heap) : 0;
        heap->is_stuck = stored == 0 && heap->used_slots == before;
        if (heap->is_stuck)
            return;
    }
}

void *zc_evict_over_budget(void *arg)
{
    zc_heap *heap = arg;

    zc_lock_take(&heap->lock);
    while (!heap->stopping) {
        bool is_time = is_time_to_forget(heap);
        if (!is_time && (!zc_is_over(heap) || heap->is_stuck)) {
            zc_change_wait(&heap->over, &heap->lock, heap->copies ? QUIET_NS : 0);
            continue;
        }
        zc_lock_leave(&heap->lock);
        zc_lock_take(&heap->evicting);
        zc_lock_take(&heap->lock);
        if (is_time)
            forget_copies(heap);
        if (!heap->is_stuck)
            down_to_budget(heap);
        zc_lock_leave(&heap->lock);
        zc_lock_leave(&heap->evicting);
        zc_lock_take(&heap->lock);
    }
    zc_lock_leave(&heap->lock);
    return NULL;
}
