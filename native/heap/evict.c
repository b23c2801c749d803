/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <sys/mman.h>

#include "base/base.h"
#include "heap/inside.h"

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 /* Linux 5.18 */
#endif

#define REFUSED_REST 63u    /* rounds that a page is left alone for which the pool did not take */
#define LINGER_NS 20000000u /* a few copies may wait for more, to be forgotten together */
#define ROUNDS 4u           /* for the budget, until no page is left that was only touched lately */

/* ---- out of a slot, into the pool ---- */

/* The pages of a slot that are to be put. */
struct batch {
    size_t count;
    unsigned pages[ZC_RUN_PAGES]; /* in the slot */
    struct zc_key keys[ZC_RUN_PAGES];
    const void *bytes[ZC_RUN_PAGES];
    int32_t results[ZC_RUN_PAGES];
};

/* Pages that were discarded while they were in their places are zeros now. One call tells of most that they are
 * there, and one each of the others, which may be in the kernel's swap. */
static void fill_holes(zc_heap *heap, size_t number)
{
    unsigned char resident[ZC_RUN_PAGES] = {0};

    if (!heap->uffd.can_move)
        return; /* nobody watches slots */
    mincore(zc_slot_page(heap, number, 0), ZC_RUN_PAGES * heap->page_size, resident);
    for (uint32_t left = heap->ring[number].waiting; left; left &= left - 1) {
        unsigned i = (unsigned)__builtin_ctz(left);
        if (!(resident[i] & 1))
            zc_uffd_copy(&heap->uffd, zc_slot_page(heap, number, i), heap->zeros, heap->page_size);
    }
}

static void collect(zc_heap *heap, size_t number, struct batch *batch)
{
    struct zc_slot *slot = &heap->ring[number];

    batch->count = 0;
    fill_holes(heap, number);
    for (uint32_t left = slot->waiting; left; left &= left - 1) {
        unsigned i = (unsigned)__builtin_ctz(left);
        size_t at = slot->first + i, n = batch->count++;
        slot->region->pages[at].state = ZC_PAGE_LEAVING;
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
    slot->waiting &= ~(1u << i);
    heap->stats.waiting_pages--;
}

static void settle(zc_heap *heap, size_t number, const struct batch *batch, size_t *stored)
{
    struct zc_slot *slot = &heap->ring[number];

    for (size_t n = 0; n < batch->count; n++) {
        unsigned i = batch->pages[n];
        if (batch->results[n] != ZC_STORED) {
            give_back(heap, number, i);
            continue;
        }
        slot->region->pages[slot->first + i].state = ZC_PAGE_STORED;
        slot->waiting &= ~(1u << i);
        ++*stored;
    }
    heap->stats.waiting_pages -= *stored;
    heap->stats.resident_pages -= *stored;
    heap->stats.stored_pages += *stored;
    heap->stats.evicted += *stored;
}

static void drop(char *at, size_t size)
{
    if (madvise(at, size, MADV_DONTNEED) != 0)
        madvise(at, size, MADV_DONTNEED_LOCKED); /* the program has locked its memory */
}

/* Frees the oldest slot. evicting and the lock are held, which is left meanwhile. Returns the pages put away. */
static size_t store_oldest(zc_heap *heap)
{
    size_t number = heap->first_slot, stored = 0;
    struct batch batch;

    collect(heap, number, &batch);
    if (batch.count) {
        zc_lock_leave(&heap->lock);
        if (zc_put_batch(heap->pool, batch.keys, batch.bytes, batch.count, 0, batch.results, NULL))
            for (size_t n = 0; n < batch.count; n++)
                batch.results[n] = -ENOENT;
        zc_lock_take(&heap->lock);
        settle(heap, number, &batch, &stored);
    }
    if (heap->ring[number].waiting == 0) {
        drop(zc_slot_page(heap, number, 0), ZC_RUN_PAGES * heap->page_size);
        heap->first_slot = (number + 1) % ZC_SLOTS;
        heap->used_slots--;
    }
    zc_change_tell(&heap->change);
    return stored;
}

/* ---- copies ---- */

/* Has it come into the pool anew since? */
static bool is_stale(const struct zc_copy *copy)
{
    uint8_t state = copy->region->pages[copy->page].state;

    return state == ZC_PAGE_RESIDENT || state == ZC_PAGE_WAITING;
}

/* evicting and the lock are held, which is left meanwhile. */
static void forget_copies(zc_heap *heap)
{
    struct zc_key keys[64];
    int32_t results[64];

    while (heap->copies) {
        size_t count = 0;
        for (size_t n = zc_min(heap->copies, 64); n; n--) {
            const struct zc_copy *copy = &heap->copy[--heap->copies];
            if (is_stale(copy))
                keys[count++] = (struct zc_key){copy->region->object, (uint32_t)copy->page};
        }
        zc_change_tell(&heap->change);
        zc_lock_leave(&heap->lock);
        zc_flush_page_batch(heap->pool, keys, count, results);
        zc_lock_take(&heap->lock);
    }
}

static void forget_copies_of(zc_heap *heap, const struct zc_region *region)
{
    size_t kept = 0;

    for (size_t i = 0; i < heap->copies; i++)
        if (heap->copy[i].region != region)
            heap->copy[kept++] = heap->copy[i];
    heap->copies = kept;
    zc_change_tell(&heap->change);
}

void zc_evict_forget(zc_heap *heap, const struct zc_region *region)
{
    forget_copies_of(heap, region);
    for (size_t i = 0; i < heap->used_slots; i++) {
        struct zc_slot *slot = &heap->ring[(heap->first_slot + i) % ZC_SLOTS];
        if (slot->region != region)
            continue;
        unsigned waiting = (unsigned)__builtin_popcount(slot->waiting);
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
        slot->waiting |= 1u << i;
        pages = i + 1;
    }
    size_t moved = move_out(heap, number, zc_page_at(heap, region, first), pages);
    if (moved < pages) /* what did not move is left alone for some time */
        region->pages[first + moved].rest = REFUSED_REST;
    if (moved == 0)
        return 0;
    slot->waiting &= (uint32_t)((UINT64_C(1) << moved) - 1);
    for (uint32_t left = slot->waiting; left; left &= left - 1) {
        struct zc_page *page = &region->pages[first + (unsigned)__builtin_ctz(left)];
        page->state = ZC_PAGE_WAITING;
        page->slot = (uint16_t)number;
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

size_t zc_evict_range(zc_heap *heap, struct zc_region *region, size_t first, size_t count)
{
    size_t stored = store_all(heap);

    for (size_t at = first; at < first + count;) {
        region->pages[at].rest = 0;
        if (!may_go(&region->pages[at])) {
            at++;
            continue;
        }
        for (size_t i = at; i < zc_min(first + count, at + ZC_RUN_PAGES); i++)
            region->pages[i].rest = 0;
        stored += free_slot(heap);
        if (heap->used_slots == ZC_SLOTS)
            break;
        at += zc_max(take_run(heap, region, at, first + count - at), 1);
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

/* Moves the next run out. false: there is none. */
static bool take_next(zc_heap *heap, size_t *left)
{
    if (heap->region_count == 0 || !sweep(heap, left))
        return false;
    struct zc_region *region = heap->regions[heap->hand_region];
    size_t pages = take_run(heap, region, heap->hand, SIZE_MAX);
    heap->hand += zc_max(pages, 1);
    *left -= zc_min(*left, zc_max(pages, 1));
    return true;
}

/* As many pages may wait as are a sixteenth of the budget. */
static size_t slots_wanted(const zc_heap *heap)
{
    uint64_t slots = heap->budget / 16 / ZC_RUN_PAGES;

    return slots < 1 ? 1 : slots < ZC_SLOTS ? (size_t)slots : ZC_SLOTS;
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

/* Waits for something to do. False: there may be nothing. */
static bool await_work(zc_heap *heap)
{
    bool has_copies = heap->copies > 0;

    if (heap->copies >= ZC_COPIES_MANY || (zc_is_over(heap) && !heap->is_stuck))
        return true;
    zc_change_wait(&heap->over, &heap->lock, has_copies ? LINGER_NS : 0);
    return has_copies;
}

void *zc_evict_over_budget(void *arg)
{
    zc_heap *heap = arg;

    zc_lock_take(&heap->lock);
    while (!heap->stopping) {
        if (!await_work(heap))
            continue;
        zc_lock_leave(&heap->lock);
        zc_lock_take(&heap->evicting);
        zc_lock_take(&heap->lock);
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
