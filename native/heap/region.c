/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/base.h"
#include "heap/inside.h"

/* The number of regions that begin at or before the address. */
static size_t before(const zc_heap *heap, const char *address)
{
    size_t low = 0, high = heap->region_count;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (heap->regions[middle]->at <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct zc_region *zc_region_of(const zc_heap *heap, const void *address)
{
    size_t i = before(heap, address);
    if (i == 0)
        return NULL;
    struct zc_region *region = heap->regions[i - 1];
    size_t offset = (size_t)((const char *)address - region->at);
    return offset < region->count * heap->page_size ? region : NULL;
}

int zc_range_of(const zc_heap *heap, const void *at, size_t size, struct zc_range *out)
{
    struct zc_region *region = zc_region_of(heap, at);

    if (!region)
        return -EFAULT;
    size_t offset = (size_t)((const char *)at - region->at);
    if (size > region->count * heap->page_size - offset)
        return -EFAULT;
    size_t first = offset / heap->page_size;
    size_t count = size ? (offset + size - 1) / heap->page_size - first + 1 : 0;
    *out = (struct zc_range){region, first, count};
    return 0;
}

static int make_room(zc_heap *heap)
{
    if (heap->region_count < heap->region_room)
        return 0;
    size_t room = heap->region_room ? 2 * heap->region_room : 16;
    struct zc_region **more = malloc(room * sizeof(struct zc_region *));
    if (!more)
        return -ENOMEM;
    struct zc_region **old = heap->regions;
    zc_lock_take(&heap->lock);
    if (old)
        memcpy(more, old, heap->region_count * sizeof(struct zc_region *));
    heap->regions = more;
    heap->region_room = room;
    zc_lock_leave(&heap->lock);
    free(old);
    return 0;
}

static void insert(zc_heap *heap, struct zc_region *region)
{
    zc_lock_take(&heap->lock);
    size_t at = before(heap, region->at);
    memmove(heap->regions + at + 1, heap->regions + at,
            (heap->region_count - at) * sizeof(heap->regions[0]));
    heap->regions[at] = region;
    heap->region_count++;
    heap->stats.mapped_bytes += region->count * heap->page_size;
    zc_lock_leave(&heap->lock);
}

static int map(zc_heap *heap, struct zc_region *region)
{
    size_t size = region->count * heap->page_size;
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                    -1, 0);
    if (at == MAP_FAILED)
        return -errno;

    int error = madvise(at, size, MADV_DONTFORK) == 0 ? 0 : -errno;
    madvise(at, size,
            MADV_NOHUGEPAGE); /* else runs would have to be split; some kernels have none */
    if (!error)
        error = zc_uffd_watch(&heap->uffd, at, size);
    if (error)
        munmap(at, size);
    region->at = at;
    return error;
}

int zc_heap_map(zc_heap *heap, size_t size, void **out)
{
    size_t count = size / heap->page_size + (size % heap->page_size != 0);
    sigset_t signals;

    if (size == 0 || count > UINT32_MAX)
        return -EINVAL;
    struct zc_region *region = calloc(1, sizeof(*region) + count * sizeof(region->pages[0]));
    if (!region)
        return -ENOMEM;
    region->count = count;
    zc_signals_block(&signals);
    zc_lock_take(&heap->evicting);
    int error = make_room(heap);
    if (!error)
        error = map(heap, region);
    if (!error) {
        region->object = heap->next_object++;
        insert(heap, region);
        *out = region->at;
    }
    zc_lock_leave(&heap->evicting);
    zc_signals_restore(&signals);
    if (error)
        free(region);
    return error;
}

static bool is_under_way(const struct zc_region *region)
{
    for (size_t i = 0; i < region->count; i++)
        if (region->pages[i].state == ZC_PAGE_FILLING || region->pages[i].state == ZC_PAGE_LEAVING)
            return true;
    return false;
}

static void discount(zc_heap *heap, const struct zc_region *region)
{
    for (size_t i = 0; i < region->count; i++) {
        const struct zc_page *page = &region->pages[i];
        heap->stats.resident_pages -= page->state == ZC_PAGE_RESIDENT;
        heap->stats.stored_pages -= page->state == ZC_PAGE_STORED;
        heap->stats.pinned_pages -= page->pins != 0;
        heap->copies -= page->has_copy;
    }
    heap->stats.mapped_bytes -= region->count * heap->page_size;
}

/* Both locks are held. */
static void take_out(zc_heap *heap, struct zc_region *region)
{
    size_t at = before(heap, region->at) - 1;

    while (is_under_way(region))
        zc_change_wait(&heap->change, &heap->lock, 0);
    zc_evict_forget(heap, region);
    discount(heap, region);
    heap->region_count--;
    memmove(heap->regions + at, heap->regions + at + 1,
            (heap->region_count - at) * sizeof(heap->regions[0]));
    heap->hand_region = heap->hand = 0;
}

/* NULL: there is no such region. */
static struct zc_region *take_out_at(zc_heap *heap, const void *at)
{
    zc_lock_take(&heap->evicting);
    zc_lock_take(&heap->lock);
    struct zc_region *region = zc_region_of(heap, at);
    if (region && region->at == at)
        take_out(heap, region);
    else
        region = NULL;
    zc_lock_leave(&heap->lock);
    zc_lock_leave(&heap->evicting);
    return region;
}

int zc_heap_unmap(zc_heap *heap, void *at)
{
    sigset_t signals;

    zc_signals_block(&signals);
    struct zc_region *region = take_out_at(heap, at);
    if (region) {
        munmap(region->at, region->count * heap->page_size);
        zc_flush_object(heap->pool, region->object);
        free(region);
    }
    zc_signals_restore(&signals);
    return region ? 0 : -ENOENT;
}
