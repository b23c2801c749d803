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

    if (error == -EEXIST && !heap->is_sigbus)
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

static char *take_bounce(zc_heap *heap)
{
    while (!heap->free_bounces)
        zc_change_wait(&heap->change, &heap->lock, 0);
    unsigned i = (unsigned)__builtin_ctz(heap->free_bounces);
    heap->free_bounces &= heap->free_bounces - 1;
    return heap->bounces + i * heap->page_size;
}

static void give_bounce(zc_heap *heap, const char *bounce)
{
    heap->free_bounces |= 1u << ((size_t)(bounce - heap->bounces) / heap->page_size);
    zc_change_tell(&heap->change);
}

/* The copy in the pool is kept until the page is in its place. */
static int load(zc_heap *heap, const struct zc_region *region, size_t at, char *bounce)
{
    if (zc_get(heap->pool, region->object, (uint32_t)at, bounce, ZC_GET_PEEK) != 0)
        return -EIO;
    return zc_uffd_copy(&heap->uffd, zc_page_at(heap, region, at), bounce, heap->page_size);
}

static void note_copy(zc_heap *heap, struct zc_region *region, size_t at)
{
    heap->copy[heap->copies++] = (struct zc_copy){region, at};
    zc_change_tell(&heap->over);
}

static int fill_stored(zc_heap *heap, struct zc_region *region, size_t at)
{
    struct zc_page *page = &region->pages[at];

    page->state = ZC_PAGE_FILLING;
    while (heap->copies + ZC_BOUNCES > ZC_COPIES)
        zc_change_wait(&heap->change, &heap->lock, 0);
    char *bounce = take_bounce(heap);
    zc_lock_leave(&heap->lock);
    int error = load(heap, region, at, bounce);
    zc_lock_take(&heap->lock);
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

int zc_heap_fault(zc_heap *heap, const void *address)
{
    int error = -ENOENT;

    zc_lock_take(&heap->lock);
    struct zc_region *region = zc_region_of(heap, address);
    if (region) {
        error =
            zc_fill(heap, region, (size_t)((const char *)address - region->at) / heap->page_size);
        if (!error)
            wait_for_room(heap);
    }
    zc_lock_leave(&heap->lock);
    return error;
}

/* ---- by a thread of ours ---- */

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
