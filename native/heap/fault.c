/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>

#include "base/base.h"
#include "heap/inside.h"

#define HELD_UP_NS 10000000u /* a fault over the budget waits for room, but not for ever */

/* A page comes into its place. The lock is held. */
static void came(zc_heap *heap, struct zc_page *page, unsigned rest)
{
    page->state = ZC_PAGE_RESIDENT;
    page->rest = (uint8_t)rest;
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
    came(heap, page, 0);
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
    slot->waiting &= ~(1u << (at - slot->first));
    heap->stats.waiting_pages--;
    heap->stats.faults_waiting++;
    came(heap, page, 2);
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

static void *bounce_at(const zc_heap *heap, unsigned bounce)
{
    return heap->bounces + bounce * heap->page_size;
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

/* The copy in the pool is kept until the page is in its place. The lock is held, and left meanwhile. */
static int load(zc_heap *heap, const struct zc_region *region, size_t at, unsigned bounce)
{
    unsigned how = heap->faults == ZC_HEAP_BY_THREAD ? ZC_GET_PEEK : ZC_GET_NO_ALLOC;
    void *page = bounce_at(heap, bounce);

    zc_lock_leave(&heap->lock);
    int error = zc_get(heap->pool, region->object, (uint32_t)at, page, how);
    if (error == -EAGAIN) {
        zc_lock_take(&heap->lock);
        error = wish_for(heap, region, at, bounce);
        zc_lock_leave(&heap->lock);
    }
    if (!error)
        error = zc_uffd_copy(&heap->uffd, zc_page_at(heap, region, at), page, heap->page_size);
    zc_lock_take(&heap->lock);
    return error && error != -ENOMEM ? -EIO : error;
}

static void note_copy(zc_heap *heap, struct zc_region *region, size_t at)
{
    heap->copy[heap->copies++] = (struct zc_copy){region, at};
    if (heap->copies == 1 || heap->copies == ZC_COPIES_MANY) /* a wake-up costs more than a fault */
        zc_change_tell(&heap->over);
}

static int fill_stored(zc_heap *heap, struct zc_region *region, size_t at)
{
    struct zc_page *page = &region->pages[at];

    page->state = ZC_PAGE_FILLING;
    while (heap->copies + ZC_BOUNCES > ZC_COPIES)
        zc_change_wait(&heap->change, &heap->lock, 0);
    unsigned bounce = take_bounce(heap);
    int error = load(heap, region, at, bounce);
    give_bounce(heap, bounce);
    if (error) {
        page->state = error == -EIO ? ZC_PAGE_LOST : ZC_PAGE_STORED;
        heap->stats.lost += error == -EIO;
        heap->stats.stored_pages -= error == -EIO;
        zc_change_tell(&heap->change);
        return error;
    }
    heap->stats.stored_pages--;
    heap->stats.resident_pages++;
    heap->stats.faults_stored++;
    note_copy(heap, region, at);
    came(heap, page, 1);
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
            return fill_stored(heap, region, at);
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
