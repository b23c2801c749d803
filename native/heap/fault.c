/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>

#include "base/base.h"
#include "heap/inside.h"

#define HELD_UP_NS 10000000u /* a fault over the budget waits for room, but not for ever */

/* A page is in its place. The lock is held, as below. */
static void came(struct zc_page *page, unsigned rest)
{
    page->state = ZC_PAGE_RESIDENT;
    page->rest = (uint8_t)rest;
}

static void tell_of_pages(zc_heap *heap)
{
    heap->is_stuck = false;
    zc_change_tell(&heap->change);
    if (zc_is_over(heap))
        zc_change_tell(&heap->over);
}

static int fill_new(zc_heap *heap, struct zc_region *region, size_t at)
{
    struct zc_page *page = &region->pages[at];

    /* Of a page of the kernel's zeros, nobody could say whether it is in memory; and few are only read. */
    int error =
        zc_uffd_copy(&heap->uffd, zc_page_at(heap, region, at), heap->zeros, heap->page_size);
    if (error && error != -EEXIST)
        return error;
    heap->stats.faults_new++;
    heap->stats.resident_pages++;
    came(page, 0);
    tell_of_pages(heap);
    return 0;
}

/* The program discarded it, or another thread was faster. */
static int fill_resident(zc_heap *heap, struct zc_region *region, size_t at)
{
    char *place = zc_page_at(heap, region, at);
    int error = zc_uffd_copy(&heap->uffd, place, heap->zeros, heap->page_size);

    if (error == -EEXIST && heap->faults == ZC_HEAP_BY_THREAD)
        zc_uffd_wake(&heap->uffd, place, heap->page_size);
    return error == -EEXIST ? 0 : error;
}

int zc_bring_back(zc_heap *heap, char *to, char *from)
{
    if (zc_uffd_move(&heap->uffd, to, from, heap->page_size))
        return 0;
    zc_uffd_copy(&heap->uffd, from, heap->zeros, heap->page_size); /* if it was discarded */
    return zc_uffd_copy(&heap->uffd, to, from, heap->page_size);
}

static int fill_waiting(zc_heap *heap, struct zc_region *region, size_t at)
{
    struct zc_page *page = &region->pages[at];
    struct zc_slot *slot = &heap->ring[page->slot];
    char *from = zc_slot_page(heap, page->slot, at - slot->first);
    char *to = zc_page_at(heap, region, at);

    int error = zc_bring_back(heap, to, from);
    if (error)
        return error;
    slot->waiting &= ~(UINT64_C(1) << (at - slot->first));
    heap->stats.waiting_pages--;
    heap->stats.faults_waiting++;
    came(page, 2);
    tell_of_pages(heap);
    return 0;
}

static unsigned take_bounce(zc_heap *heap)
{
    while (!heap->free_bounces)
        zc_change_wait(&heap->change, &heap->lock, 0);
    unsigned bounce = (unsigned)__builtin_ctz(heap->free_bounces);
    heap->free_bounces &= heap->free_bounces - 1;
    return bounce;
}

static void give_bounce(zc_heap *heap, unsigned bounce)
{
    heap->free_bounces |= 1u << bounce;
    zc_change_tell(&heap->change);
}

static char *bounce_at(const zc_heap *heap, unsigned bounce)
{
    return heap->bounces + bounce * ZC_AHEAD * heap->page_size;
}

/* The lock is held, and left meanwhile. */
static int wish_for(zc_heap *heap, const struct zc_region *region, size_t at, unsigned bounce)
{
    struct zc_wish *wish = &heap->wish[bounce];

    *wish = (struct zc_wish){region, at, -EINPROGRESS};
    heap->wished |= 1u << bounce;
    heap->stats.faults_delegated++;
    zc_change_tell(&heap->wishes);
    while (wish->result == -EINPROGRESS)
        zc_change_wait(&heap->change, &heap->lock, 0);
    return wish->result;
}

/* Pages of the pool, into a bounce; no lock is held. Returns how many, or what became of the first. */
static int get(zc_heap *heap, const struct zc_region *region, size_t first, size_t count,
               unsigned bounce)
{
    unsigned how = heap->faults == ZC_HEAP_BY_THREAD ? ZC_GET_PEEK : ZC_GET_NO_ALLOC;
    struct zc_key keys[ZC_AHEAD];
    void *pages[ZC_AHEAD];
    int32_t results[ZC_AHEAD];
    int got = 0;

    for (size_t i = 0; i < count; i++) {
        keys[i] = (struct zc_key){region->object, (uint32_t)(first + i)};
        pages[i] = bounce_at(heap, bounce) + i * heap->page_size;
    }
    if (zc_get_batch(heap->pool, keys, pages, count, how, results) != 0)
        return -ENOENT;
    while ((size_t)got < count && results[got] == 0)
        got++;
    return got ? got : results[0];
}

/* Their copies in the pool are kept until the pages are in their places. The lock is held, and left meanwhile. Returns
 * how many pages are, or -errno. */
static int load(zc_heap *heap, const struct zc_region *region, size_t first, size_t count,
                unsigned bounce)
{
    int64_t size = -EIO;

    zc_lock_leave(&heap->lock);
    int got = get(heap, region, first, count, bounce);
    if (got == -EAGAIN) {
        zc_lock_take(&heap->lock);
        int error = wish_for(heap, region, first, bounce);
        zc_lock_leave(&heap->lock);
        got = error ? error : 1;
    }
    if (got > 0)
        size = zc_uffd_copy_run(&heap->uffd, zc_page_at(heap, region, first),
                                bounce_at(heap, bounce), (size_t)got * heap->page_size);
    zc_lock_take(&heap->lock);
    if (got == -ENOMEM || size == -ENOMEM)
        return -ENOMEM;
    return size < 0 ? -EIO : (int)zc_div_pow2((uint64_t)size, heap->page_size);
}

static void note_copy(zc_heap *heap, struct zc_page *page)
{
    page->has_copy = true;
    heap->has_new_copies = true;
    if (heap->copies++ == 0) /* a wake-up costs more than a fault */
        zc_change_tell(&heap->over);
}

/* Who has not been touched yet has no rest. */
static void settle(zc_heap *heap, struct zc_page *pages, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        note_copy(heap, &pages[i]);
        came(&pages[i], i == 0);
    }
    heap->stats.stored_pages -= count;
    heap->stats.resident_pages += count;
    heap->stats.faults_stored++;
    heap->stats.read_ahead += count - 1;
}

int zc_fill_stored(zc_heap *heap, struct zc_region *region, size_t first, size_t most)
{
    struct zc_page *pages = &region->pages[first];
    size_t count = 0;

    most = zc_min(most, region->count - first);
    for (; count < most && pages[count].state == ZC_PAGE_STORED; count++)
        pages[count].state = ZC_PAGE_FILLING;
    unsigned bounce = take_bounce(heap);
    int done = load(heap, region, first, count, bounce);
    give_bounce(heap, bounce);
    for (size_t i = 0; i < count; i++)
        pages[i].state = ZC_PAGE_STORED;
    if (done > 0) {
        settle(heap, pages, (size_t)done);
    } else if (done == -EIO) {
        pages->state = ZC_PAGE_LOST;
        heap->stats.lost++;
        heap->stats.stored_pages--;
    }
    tell_of_pages(heap);
    return done;
}

/* More and more pages come while each fault is where the last one's pages ended; but no large part of
 * the budget. */
static int fill_in_order(zc_heap *heap, struct zc_region *region, size_t at)
{
    size_t most = zc_min(heap->most_ahead, (size_t)zc_min64(heap->budget / 64, ZC_AHEAD));

    most = at == region->next ? zc_min(2 * region->ahead, most) : 1;
    int done = zc_fill_stored(heap, region, at, zc_max(most, 1));
    if (done < 0)
        return done;
    region->ahead = (size_t)done;
    region->next = at + region->ahead;
    return 0;
}

int zc_fill(zc_heap *heap, struct zc_region *region, size_t at)
{
    struct zc_page *page = &region->pages[at];

    for (;;) {
        switch ((enum zc_page_state)page->state) {
        case ZC_PAGE_NEW:
            return fill_new(heap, region, at);
        case ZC_PAGE_RESIDENT:
            return fill_resident(heap, region, at);
        case ZC_PAGE_WAITING:
            return fill_waiting(heap, region, at);
        case ZC_PAGE_STORED:
            return fill_in_order(heap, region, at);
        case ZC_PAGE_LOST:
            return -EIO;
        case ZC_PAGE_FILLING:
        case ZC_PAGE_LEAVING:
            zc_change_wait(&heap->change, &heap->lock, 0);
        }
    }
}

/* Who brings in more than the budget waits for the evictor, so that it keeps up. */
static void wait_for_room(zc_heap *heap)
{
    if (heap->stats.resident_pages / 9 * 8 > heap->budget && !heap->is_stuck)
        zc_change_wait(&heap->change, &heap->lock, HELD_UP_NS);
}

/* The lock is held, and left meanwhile. */
static int bring(zc_heap *heap, struct zc_region *region, const char *address)
{
    size_t page = (size_t)(address - region->at) / heap->page_size;
    int error;

    /* Who touches memory can only wait. */
    while ((error = zc_fill(heap, region, page)) == -ENOMEM)
        zc_change_wait(&heap->change, &heap->lock, HELD_UP_NS);
    if (!error)
        wait_for_room(heap);
    return error;
}

int zc_heap_fault(zc_heap *heap, const void *address)
{
    if (!*heap->is_ours)
        return -ENOENT;
    zc_lock_take(&heap->lock);
    struct zc_region *region = zc_region_of(heap, address);
    int error = region ? bring(heap, region, address) : -ENOENT;
    zc_lock_leave(&heap->lock);
    return error;
}

/* ---- by threads of ours ---- */

/* The first wish there is. The lock is held, and left meanwhile. */
static void grant(zc_heap *heap)
{
    unsigned bounce = (unsigned)__builtin_ctz(heap->wished);
    struct zc_wish *wish = &heap->wish[bounce];
    const struct zc_region *region = wish->region;
    uint32_t page = (uint32_t)wish->page;

    heap->wished &= heap->wished - 1;
    zc_lock_leave(&heap->lock);
    int result = zc_get(heap->pool, region->object, page, bounce_at(heap, bounce), ZC_GET_PEEK);
    zc_lock_take(&heap->lock);
    wish->result = result;
    zc_change_tell(&heap->change);
}

void *zc_grant(void *arg)
{
    zc_heap *heap = arg;

    zc_lock_take(&heap->lock);
    while (!heap->stopping)
        if (heap->wished)
            grant(heap);
        else
            zc_change_wait(&heap->wishes, &heap->lock, 0);
    zc_lock_leave(&heap->lock);
    return NULL;
}

/* Whoever touched it gets SIGBUS, or where the kernel cannot do that, SIGSEGV. */
static void answer_lost(zc_heap *heap, uintptr_t address)
{
    void *at = (void *)(address & ~(uintptr_t)(heap->page_size - 1));

    if (zc_uffd_poison(&heap->uffd, at, heap->page_size) == 0)
        return;
    mprotect(at, heap->page_size, PROT_NONE);
    zc_uffd_wake(&heap->uffd, at, heap->page_size);
}

void *zc_answer(void *arg)
{
    zc_heap *heap = arg;
    struct pollfd on[2] = {
        {.fd = heap->uffd.fd, .events = POLLIN},
        {.fd = heap->stop_event, .events = POLLIN},
    };
    uintptr_t address;

    while (!on[1].revents) {
        poll(on, 2, -1);
        while (zc_uffd_next(&heap->uffd, &address))
            if (zc_heap_fault(heap, (void *)address) != 0)
                answer_lost(heap, address);
    }
    return NULL;
}
