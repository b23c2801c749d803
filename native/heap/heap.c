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
#include "heap/sigbus.h"

#define STACK_BYTES (128u * 1024)

static void enter(zc_heap *heap, sigset_t *signals)
{
    zc_signals_block(signals);
    zc_lock_take(&heap->lock);
}

static void leave(zc_heap *heap, const sigset_t *signals)
{
    zc_lock_leave(&heap->lock);
    zc_signals_restore(signals);
}

static void enter_evicting(zc_heap *heap, sigset_t *signals)
{
    zc_signals_block(signals);
    zc_lock_take(&heap->evicting);
    zc_lock_take(&heap->lock);
}

static void leave_evicting(zc_heap *heap, const sigset_t *signals)
{
    zc_lock_leave(&heap->lock);
    zc_lock_leave(&heap->evicting);
    zc_signals_restore(signals);
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
    bool is_sigbus = config->faults != ZC_HEAP_BY_THREAD;
    int error = zc_uffd_open(&heap->uffd, is_sigbus, config->without);

    if (error == -EPERM || error == -EACCES)
        return say(
            why, size,
            "userfaultfd(UFFD_USER_MODE_ONLY) is not allowed: let the process's seccomp filter and "
            "SELinux policy allow it, before Linux 5.11 also sysctl vm.unprivileged_userfaultfd=1; "
            "zc_put() and zc_get() need none",
            -EPERM);
    if (error)
        return say(why, size,
                   "this kernel has no userfaultfd, or none by SIGBUS: it takes "
                   "CONFIG_USERFAULTFD; zc_put() "
                   "and zc_get() need none",
                   error == -EINVAL ? -ENOSYS : error);
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
    return ZC_SLOTS * ZC_RUN_PAGES * heap->page_size;
}

/* With a page of zeros behind them. */
static size_t bounces_bytes(const zc_heap *heap)
{
    return (ZC_BOUNCES * ZC_AHEAD + 1) * heap->page_size;
}

/* A word that is 0 in a child. */
static _Atomic uint32_t *mark_get(size_t page_size)
{
    _Atomic uint32_t *mark =
        mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (mark == MAP_FAILED)
        return NULL;
    madvise((void *)mark, page_size, MADV_WIPEONFORK);
    *mark = 1;
    return mark;
}

static int get_memory(zc_heap *heap)
{
    heap->slot_memory = pages_get(slots_bytes(heap));
    heap->bounces = pages_get(bounces_bytes(heap));
    heap->is_ours = mark_get(heap->page_size);
    if (!heap->slot_memory || !heap->bounces || !heap->is_ours)
        return -ENOMEM;
    heap->zeros = heap->bounces + ZC_BOUNCES * ZC_AHEAD * heap->page_size;
    heap->free_bounces = UINT32_MAX;
    return heap->uffd.can_move ? zc_uffd_watch(&heap->uffd, heap->slot_memory, slots_bytes(heap))
                               : 0;
}

static int start_thread(zc_heap *heap, pthread_t *thread, void *(*run)(void *), bool *runs)
{
    int error = zc_thread_start(thread, STACK_BYTES, run, heap);

    *runs = error == 0;
    return error;
}

static int start_by_sigbus(zc_heap *heap)
{
    int error = start_thread(heap, &heap->getter, zc_grant, &heap->has_getter);

    if (error || heap->faults == ZC_HEAP_BY_CALLER)
        return error;
    error = zc_sigbus_add(heap);
    heap->has_handler = error == 0;
    return error;
}

static int start_by_thread(zc_heap *heap)
{
    heap->stop_event = eventfd(0, EFD_CLOEXEC);
    if (heap->stop_event < 0)
        return -errno;
    return start_thread(heap, &heap->answerer, zc_answer, &heap->has_answerer);
}

static int start(zc_heap *heap)
{
    int error = start_thread(heap, &heap->evictor, zc_evict_over_budget, &heap->has_evictor);

    if (error)
        return error;
    return heap->faults == ZC_HEAP_BY_THREAD ? start_by_thread(heap) : start_by_sigbus(heap);
}

static uint64_t in_pages(const zc_heap *heap, uint64_t bytes)
{
    return bytes ? zc_div_pow2(bytes, heap->page_size) : UINT64_MAX;
}

static bool can_evict(zc_heap *heap)
{
    if (heap->uffd.can_move)
        return true;
    char *page = pages_get(heap->page_size);
    if (!page)
        return false;
    void *at = mremap(page, heap->page_size, heap->page_size,
                      MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, heap->slot_memory);
    munmap(page, heap->page_size);
    return at != MAP_FAILED;
}

int zc_heap_create(zc_pool *pool, const struct zc_heap_config *config, zc_heap **out, char *why,
                   size_t size)
{
    static const struct zc_heap_config defaults = {0};
    size_t page_size = (size_t)sysconf(_SC_PAGESIZE);

    if (!config)
        config = &defaults;
    if (config->faults > ZC_HEAP_BY_CALLER)
        return say(why, size, "config.faults is none of enum zc_heap_faults", -EINVAL);
    int error = check_pool(pool, page_size, why, size);
    if (error)
        return error;
    zc_heap *heap = calloc(1, sizeof(*heap));
    if (!heap)
        return say(why, size, "out of memory", -ENOMEM);

    heap->pool = pool;
    heap->page_size = page_size;
    heap->faults = config->faults;
    heap->most_ahead = config->ahead ? zc_min(config->ahead, ZC_AHEAD) : ZC_AHEAD;
    heap->stop_event = -1;
    heap->budget = in_pages(heap, config->budget);
    error = open_uffd(heap, config, why, size);
    if (error) {
        free(heap);
        return error;
    }
    error = get_memory(heap);
    if (!error && !can_evict(heap))
        error = say(why, size,
                    "this kernel has neither UFFDIO_MOVE (Linux 6.8) nor MREMAP_DONTUNMAP (5.7); "
                    "zc_put() and "
                    "zc_get() need none",
                    -ENOSYS);
    else if (!error && (error = start(heap)) != 0)
        say(why, size,
            error == -EBUSY ? "64 heaps share the handler of SIGBUS; take ZC_HEAP_BY_THREAD"
                            : "out of memory or threads",
            error);
    if (error) {
        zc_heap_destroy(heap);
        return error;
    }
    *out = heap;
    return 0;
}

static void stop(zc_heap *heap)
{
    static const uint64_t once = 1;
    sigset_t signals;

    if (heap->has_handler)
        zc_sigbus_remove(heap);
    enter(heap, &signals);
    heap->stopping = true;
    zc_change_tell(&heap->over);
    zc_change_tell(&heap->wishes);
    leave(heap, &signals);
    if (heap->has_evictor)
        pthread_join(heap->evictor, NULL);
    if (heap->has_getter)
        pthread_join(heap->getter, NULL);
    if (heap->has_answerer && write(heap->stop_event, &once, sizeof(once)) == sizeof(once))
        pthread_join(heap->answerer, NULL);
}

static void put_memory(zc_heap *heap)
{
    if (heap->slot_memory)
        munmap(heap->slot_memory, slots_bytes(heap));
    if (heap->bounces)
        munmap(heap->bounces, bounces_bytes(heap));
}

/* What a child of fork() has, too. */
static void put_rest(zc_heap *heap)
{
    zc_uffd_close(&heap->uffd);
    if (heap->stop_event >= 0)
        close(heap->stop_event);
    if (heap->is_ours)
        munmap((void *)heap->is_ours, heap->page_size);
    for (size_t i = 0; i < heap->region_count; i++)
        free(heap->regions[i]);
    free(heap->regions);
    free(heap);
}

void zc_heap_destroy(zc_heap *heap)
{
    if (!heap)
        return;
    if (!heap->is_ours || *heap->is_ours) {
        stop(heap);
        while (heap->region_count)
            zc_heap_unmap(heap, heap->regions[0]->at);
        put_memory(heap);
    }
    put_rest(heap);
}

/* ---- ranges ---- */

static void unpin(zc_heap *heap, const struct zc_range *range)
{
    for (size_t i = 0; i < range->count; i++) {
        struct zc_page *page = &range->region->pages[range->first + i];
        if (page->pins && --page->pins == 0)
            heap->stats.pinned_pages--;
    }
}

static int pin_page(zc_heap *heap, struct zc_page *page)
{
    if (page->pins == UINT16_MAX)
        return -EOVERFLOW;
    if (page->pins++ == 0)
        heap->stats.pinned_pages++;
    return 0;
}

static int pin(zc_heap *heap, const struct zc_range *range)
{
    struct zc_range pinned = {range->region, range->first, 0};

    while (pinned.count < range->count) {
        size_t at = range->first + pinned.count;
        int error = pin_page(heap, &range->region->pages[at]);
        pinned.count += !error;
        if (!error)
            error = zc_fill(heap, range->region, at);
        if (error) {
            unpin(heap, &pinned);
            return error;
        }
    }
    return 0;
}

int zc_heap_pin(zc_heap *heap, const void *at, size_t size)
{
    struct zc_range range;
    sigset_t signals;

    enter(heap, &signals);
    int error = zc_range_of(heap, at, size, &range);
    if (!error)
        error = pin(heap, &range);
    leave(heap, &signals);
    return error;
}

int zc_heap_unpin(zc_heap *heap, const void *at, size_t size)
{
    struct zc_range range;
    sigset_t signals;

    enter(heap, &signals);
    int error = zc_range_of(heap, at, size, &range);
    if (!error)
        unpin(heap, &range);
    heap->is_stuck = false;
    zc_change_tell(&heap->over);
    leave(heap, &signals);
    return error;
}

static int64_t prefetch(zc_heap *heap, const struct zc_range *range)
{
    size_t end = range->first + range->count;
    int64_t pages = 0;

    for (size_t at = range->first; at < end;) {
        if (range->region->pages[at].state != ZC_PAGE_STORED) {
            at++;
            continue;
        }
        int done = zc_fill_stored(heap, range->region, at, zc_min(end - at, ZC_AHEAD));
        if (done < 0)
            return done;
        at += (size_t)done;
        pages += done;
    }
    return pages;
}

int64_t zc_heap_prefetch(zc_heap *heap, const void *at, size_t size)
{
    struct zc_range range;
    sigset_t signals;

    enter(heap, &signals);
    int64_t pages = zc_range_of(heap, at, size, &range);
    if (pages == 0)
        pages = prefetch(heap, &range);
    leave(heap, &signals);
    return pages;
}

int64_t zc_heap_evict(zc_heap *heap, const void *at, size_t size)
{
    struct zc_range range;
    sigset_t signals;

    enter_evicting(heap, &signals);
    int64_t done = zc_range_of(heap, at, size, &range);
    if (done == 0)
        done = (int64_t)zc_evict_range(heap, &range);
    leave_evicting(heap, &signals);
    return done;
}

int64_t zc_heap_age(zc_heap *heap)
{
    sigset_t signals;

    enter_evicting(heap, &signals);
    size_t done = zc_evict_idle(heap);
    leave_evicting(heap, &signals);
    return (int64_t)done;
}

void zc_heap_set_budget(zc_heap *heap, uint64_t bytes)
{
    sigset_t signals;

    enter(heap, &signals);
    heap->budget = in_pages(heap, bytes);
    heap->is_stuck = false;
    zc_change_tell(&heap->over);
    leave(heap, &signals);
}

void zc_heap_get_stats(zc_heap *heap, struct zc_heap_stats *out)
{
    sigset_t signals;

    enter(heap, &signals);
    *out = heap->stats;
    out->budget_bytes = heap->budget == UINT64_MAX ? 0 : heap->budget * heap->page_size;
    leave(heap, &signals);
}
