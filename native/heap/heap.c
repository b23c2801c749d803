/* SPDX-License-Identifier: Apache-2.0 */
#include <zcache/heap.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "base/thread.h"
#include "heap/inside.h"

#define STACK_BYTES (128u * 1024)

void zc_evicting_take(zc_heap *heap, struct zc_guard *guard)
{
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &guard->before);
    zc_lock_take(&heap->evicting);
}

void zc_evicting_leave(zc_heap *heap, const struct zc_guard *guard)
{
    zc_lock_leave(&heap->evicting);
    pthread_sigmask(SIG_SETMASK, &guard->before, NULL);
}

/* ---- creation ---- */

static int say(char *why, size_t size, const char *what, int error)
{
    if (why && size)
        snprintf(why, size, "%s", what);
    return error;
}

static int check_pool(zc_pool *pool, size_t page_size, char *why, size_t size)
{
    if (zc_pool_get_kind(pool) != ZC_PERSISTENT)
        return say(why, size, "an ephemeral pool may drop a heap's pages; create a persistent one",
                   -EINVAL);
    if (zc_pool_page_size(pool) != page_size)
        return say(why, size,
                   "the store's pages are not of the OS's page size; create it with page_size 0",
                   -EINVAL);
    return 0;
}

static int open_uffd(zc_heap *heap, const struct zc_heap_config *config, char *why, size_t size)
{
    int error = zc_uffd_open(&heap->uffd, config->sigbus, config->without & ZC_HEAP_WITHOUT_MOVE);

    if (error == -EPERM)
        return say(why, size,
                   "userfaultfd is not allowed to this process (a seccomp filter, or SELinux); "
                   "zc_put and zc_get need none",
                   error);
    if (error)
        return say(why, size,
                   "this kernel has no userfaultfd for user mode (Linux 5.11); "
                   "zc_put and zc_get need none",
                   error);
    return 0;
}

static void *pages_get(size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                    -1, 0);

    if (at == MAP_FAILED)
        return NULL;
    madvise(at, size, MADV_DONTFORK);
    madvise(at, size, MADV_NOHUGEPAGE);
    return at;
}

static size_t slots_bytes(const zc_heap *heap)
{
    return heap->slots * ZC_RUN_PAGES * heap->page_size;
}

/* As many pages may wait as are a sixteenth of the budget. */
static size_t slots_for(uint64_t budget_pages)
{
    uint64_t slots = budget_pages / 16 / ZC_RUN_PAGES;

    return slots < 1 ? 1 : slots < ZC_SLOTS_MAX ? (size_t)slots : ZC_SLOTS_MAX;
}

static int get_memory(zc_heap *heap)
{
    heap->slot_memory = pages_get(slots_bytes(heap));
    heap->bounces = pages_get((ZC_BOUNCES + 1) * heap->page_size);
    if (!heap->slot_memory || !heap->bounces)
        return -ENOMEM;
    heap->zeros = heap->bounces + ZC_BOUNCES * heap->page_size;
    heap->free_bounces = UINT32_MAX;
    return heap->uffd.can_move ? zc_uffd_watch(&heap->uffd, heap->slot_memory, slots_bytes(heap))
                               : 0;
}

static int start(zc_heap *heap)
{
    int error = zc_thread_start(&heap->evictor, STACK_BYTES, zc_evict_over_budget, heap);

    heap->has_evictor = error == 0;
    if (error || heap->is_sigbus)
        return error;
    heap->stop_event = eventfd(0, EFD_CLOEXEC);
    if (heap->stop_event < 0)
        return -errno;
    error = zc_thread_start(&heap->answerer, STACK_BYTES, zc_answer, heap);
    heap->has_answerer = error == 0;
    return error;
}

static uint64_t in_pages(const zc_heap *heap, uint64_t bytes)
{
    return bytes ? zc_div_pow2(bytes, heap->page_size) : UINT64_MAX;
}

int zc_heap_create(zc_pool *pool, const struct zc_heap_config *config, zc_heap **out, char *why,
                   size_t size)
{
    static const struct zc_heap_config defaults = {0};
    size_t page_size = (size_t)sysconf(_SC_PAGESIZE);

    if (!config)
        config = &defaults;
    int error = check_pool(pool, page_size, why, size);
    if (error)
        return error;
    zc_heap *heap = calloc(1, sizeof(*heap));
    if (!heap)
        return say(why, size, "out of memory", -ENOMEM);

    heap->pool = pool;
    heap->page_size = page_size;
    heap->is_sigbus = config->sigbus;
    heap->stop_event = -1;
    heap->budget = in_pages(heap, config->budget);
    heap->slots = slots_for(heap->budget);
    error = open_uffd(heap, config, why, size);
    if (error) {
        free(heap);
        return error;
    }
    error = get_memory(heap);
    if (!error)
        error = start(heap);
    if (error) {
        zc_heap_destroy(heap);
        return say(why, size, "out of memory or threads", error);
    }
    *out = heap;
    return 0;
}

static void stop(zc_heap *heap)
{
    static const uint64_t once = 1;

    zc_lock_take(&heap->lock);
    heap->stopping = true;
    zc_change_tell(&heap->over);
    zc_lock_leave(&heap->lock);
    if (heap->has_evictor)
        pthread_join(heap->evictor, NULL);
    if (heap->has_answerer && write(heap->stop_event, &once, sizeof(once)) == sizeof(once))
        pthread_join(heap->answerer, NULL);
    if (heap->stop_event >= 0)
        close(heap->stop_event);
}

void zc_heap_destroy(zc_heap *heap)
{
    stop(heap);
    while (heap->region_count)
        zc_heap_unmap(heap, heap->regions[0]->at);
    zc_uffd_close(&heap->uffd);
    if (heap->slot_memory)
        munmap(heap->slot_memory, slots_bytes(heap));
    if (heap->bounces)
        munmap(heap->bounces, (ZC_BOUNCES + 1) * heap->page_size);
    free(heap->regions);
    free(heap);
}

/* ---- ranges ---- */

static void unpin(zc_heap *heap, struct zc_region *region, size_t first, size_t count)
{
    for (size_t i = first; i < first + count; i++) {
        struct zc_page *page = &region->pages[i];
        if (page->pins && --page->pins == 0)
            heap->stats.pinned_pages--;
    }
}

static int pin(zc_heap *heap, struct zc_region *region, size_t first, size_t count)
{
    for (size_t i = first; i < first + count; i++) {
        struct zc_page *page = &region->pages[i];
        int error = page->pins == UINT16_MAX ? -EOVERFLOW : 0;
        if (!error && page->pins++ == 0)
            heap->stats.pinned_pages++;
        if (!error)
            error = zc_fill(heap, region, i);
        if (error) {
            unpin(heap, region, first, i - first + (error != -EOVERFLOW));
            return error;
        }
    }
    return 0;
}

int zc_heap_pin(zc_heap *heap, const void *at, size_t size)
{
    struct zc_region *region;
    size_t first, count;

    zc_lock_take(&heap->lock);
    int error = zc_range_of(heap, at, size, &region, &first, &count);
    if (!error)
        error = pin(heap, region, first, count);
    zc_lock_leave(&heap->lock);
    return error;
}

int zc_heap_unpin(zc_heap *heap, const void *at, size_t size)
{
    struct zc_region *region;
    size_t first, count;

    zc_lock_take(&heap->lock);
    int error = zc_range_of(heap, at, size, &region, &first, &count);
    if (!error)
        unpin(heap, region, first, count);
    heap->is_stuck = false;
    zc_change_tell(&heap->over);
    zc_lock_leave(&heap->lock);
    return error;
}

int64_t zc_heap_prefetch(zc_heap *heap, const void *at, size_t size)
{
    struct zc_region *region;
    size_t first, count;
    int64_t pages = 0;

    zc_lock_take(&heap->lock);
    int error = zc_range_of(heap, at, size, &region, &first, &count);
    for (size_t i = 0; !error && i < count; i++) {
        if (region->pages[first + i].state != ZC_PAGE_STORED)
            continue;
        error = zc_fill(heap, region, first + i);
        pages += !error;
    }
    zc_lock_leave(&heap->lock);
    return error ? error : pages;
}

int64_t zc_heap_evict(zc_heap *heap, const void *at, size_t size)
{
    struct zc_region *region;
    struct zc_guard guard;
    size_t first, count;

    zc_evicting_take(heap, &guard);
    zc_lock_take(&heap->lock);
    int64_t done = zc_range_of(heap, at, size, &region, &first, &count);
    if (done == 0)
        done = (int64_t)zc_evict_range(heap, region, first, count);
    zc_lock_leave(&heap->lock);
    zc_evicting_leave(heap, &guard);
    return done;
}

int64_t zc_heap_age(zc_heap *heap)
{
    struct zc_guard guard;

    zc_evicting_take(heap, &guard);
    zc_lock_take(&heap->lock);
    size_t done = zc_evict_idle(heap);
    zc_lock_leave(&heap->lock);
    zc_evicting_leave(heap, &guard);
    return (int64_t)done;
}

void zc_heap_set_budget(zc_heap *heap, uint64_t bytes)
{
    zc_lock_take(&heap->lock);
    heap->budget = in_pages(heap, bytes);
    heap->is_stuck = false;
    zc_change_tell(&heap->over);
    zc_lock_leave(&heap->lock);
}

void zc_heap_get_stats(zc_heap *heap, struct zc_heap_stats *out)
{
    zc_lock_take(&heap->lock);
    *out = heap->stats;
    out->budget_bytes = heap->budget == UINT64_MAX ? 0 : heap->budget * heap->page_size;
    zc_lock_leave(&heap->lock);
}
