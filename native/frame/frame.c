/* SPDX-License-Identifier: Apache-2.0 */
#include "frame/frame.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "base/list.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define RUN_BYTES (2u * 1024 * 1024) /* at least; or RUN_FRAMES frames */
#define RUN_FRAMES 64u
#define BATCH_BYTES (128u * 1024) /* made resident, or given back, at one time */
#define HEADROOM (32u * 1024) /* bytes of budget left to charges while ready frames are used up */
#define BATCH_MAX 64u         /* frames: the same, whatever the page size */

/* The head of a run, at its first byte. Frame i of the run is at i * page_size; the head itself
 * covers the first ones. */
struct run {
    struct zc_link link;    /* in zc_frames.open while fresh > 0 */
    uint32_t fresh, in_use; /* frames; in_use: taken or ready */
    uint64_t is_fresh[];    /* bitmap, then the records */
};

/* A ready frame's record. */
struct ready {
    struct ready *next;
};

struct zc_frames {
    pthread_mutex_t lock;
    size_t page_size, os_page_size;
    size_t run_size, run_frames; /* bytes, frames; both with the head */
    size_t head_frames, head_bytes, records_offset;
    size_t batch; /* frames */
    bool no_populate;
    struct zc_link open; /* runs with fresh frames */
    struct ready *reserve;
    size_t reserve_target;
    /* Written under the lock, read without. */
    _Atomic size_t budget;
    _Atomic size_t taken, ready, head_total;
    _Atomic size_t charged;
};

int zc_frames_create(size_t page_size, struct zc_frames **out)
{
    struct zc_frames *frames = calloc(1, sizeof(*frames));
    if (!frames)
        return -ENOMEM;

    pthread_mutex_init(&frames->lock, NULL);
    frames->page_size = page_size;
    frames->os_page_size = (size_t)sysconf(_SC_PAGESIZE);
    frames->run_size = zc_max(RUN_BYTES, RUN_FRAMES * page_size);
    frames->run_frames = frames->run_size / page_size;
    frames->records_offset =
        sizeof(struct run) + zc_div_up(frames->run_frames, 64) * sizeof(uint64_t);

    size_t head = frames->records_offset + frames->run_frames * ZC_FRAME_META;
    frames->head_frames = zc_div_up(head, page_size);
    frames->head_bytes = zc_div_up(head, frames->os_page_size) * frames->os_page_size;
    frames->batch = zc_min(zc_max(BATCH_BYTES / page_size, 1), BATCH_MAX);
    frames->reserve_target = frames->batch;
    frames->budget = SIZE_MAX;
    zc_list_init(&frames->open);
    *out = frames;
    return 0;
}

static size_t metadata_bytes(const struct zc_frames *frames)
{
    return atomic_load_explicit(&frames->head_total, memory_order_relaxed) +
           atomic_load_explicit(&frames->charged, memory_order_relaxed);
}

static size_t used_bytes(const struct zc_frames *frames)
{
    size_t count = atomic_load_explicit(&frames->taken, memory_order_relaxed) +
                   atomic_load_explicit(&frames->ready, memory_order_relaxed);

    return count * frames->page_size + metadata_bytes(frames);
}

/* A counter that only its lock's holder writes. */
static void add(_Atomic size_t *counter, size_t by)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by,
                          memory_order_relaxed);
}

static struct run *run_of(const struct zc_frames *frames, const void *addr)
{
    return (struct run *)((uintptr_t)addr & ~(uintptr_t)(frames->run_size - 1));
}

static char *frame_at(const struct zc_frames *frames, struct run *run, size_t i)
{
    return (char *)run + i * frames->page_size;
}

void *zc_frame_meta(const struct zc_frames *frames, const void *addr)
{
    char *run = (char *)run_of(frames, addr);
    size_t i = (size_t)((const char *)addr - run) / frames->page_size;

    return run + frames->records_offset + i * ZC_FRAME_META;
}

void *zc_frame_of_meta(const struct zc_frames *frames, const void *meta)
{
    struct run *run = run_of(frames, meta);
    size_t i = (size_t)((const char *)meta - (char *)run - frames->records_offset) / ZC_FRAME_META;

    return frame_at(frames, run, i);
}

static bool is_fresh(const struct run *run, size_t i)
{
    return run->is_fresh[i / 64] >> (i % 64) & 1;
}

static void flip_fresh(struct run *run, size_t i)
{
    run->is_fresh[i / 64] ^= UINT64_C(1) << (i % 64);
}

/* Address space aligned to its own size. NULL: none left. */
static void *map_aligned(size_t size)
{
    char *wide = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (wide == MAP_FAILED)
        return NULL;

    char *base = (char *)(((uintptr_t)wide + size - 1) & ~(uintptr_t)(size - 1));
    if (base > wide)
        munmap(wide, (size_t)(base - wide));
    if (base < wide + size)
        munmap(base + size, (size_t)(wide + size - base));
    return base;
}

/* For one more frame, in a new run if need be. */
static bool budget_allows(const struct zc_frames *frames)
{
    return used_bytes(frames) + frames->head_bytes + frames->page_size + HEADROOM <= frames->budget;
}

static struct run *run_map(struct zc_frames *frames)
{
    if (!budget_allows(frames))
        return NULL;

    struct run *run = map_aligned(frames->run_size);
    if (!run)
        return NULL;

    /* A huge page would make frames resident that nobody counts. */
    madvise(run, frames->run_size, MADV_NOHUGEPAGE);
    run->fresh = (uint32_t)(frames->run_frames - frames->head_frames);
    for (size_t i = frames->head_frames; i < frames->run_frames; i++)
        flip_fresh(run, i);
    zc_list_add(&frames->open, &run->link);
    add(&frames->head_total, frames->head_bytes);
    return run;
}

static void run_unmap(struct zc_frames *frames, struct run *run)
{
    ZC_ASSERT(run->in_use == 0);
    zc_list_del(&run->link);
    add(&frames->head_total, -frames->head_bytes);
    munmap(run, frames->run_size);
}

static bool make_resident(struct zc_frames *frames, char *addr, size_t len)
{
    if (!frames->no_populate) {
        if (madvise(addr, len, MADV_POPULATE_WRITE) == 0)
            return true;
        if (errno != EINVAL)
            return false;
        frames->no_populate = true; /* an older kernel */
    }
    for (size_t i = 0; i < len; i += frames->os_page_size)
        ((volatile char *)addr)[i] = 0;
    return true;
}

static void push_ready(struct zc_frames *frames, void *frame)
{
    struct ready *ready = zc_frame_meta(frames, frame);

    ready->next = frames->reserve;
    frames->reserve = ready;
    add(&frames->ready, 1);
}

static void *pop_ready(struct zc_frames *frames)
{
    struct ready *ready = frames->reserve;
    if (!ready)
        return NULL;

    frames->reserve = ready->next;
    add(&frames->ready, (size_t)-1);
    memset((void *)ready, 0, ZC_FRAME_META);
    return zc_frame_of_meta(frames, ready);
}

/* Makes one extent of fresh frames ready. False: over the budget, or the OS has none. */
static bool refill(struct zc_frames *frames)
{
    struct run *run = NULL;

    if (!zc_list_empty(&frames->open))
        run = ZC_CONTAINER(frames->open.next, struct run, link);
    else
        run = run_map(frames);
    if (!run)
        return false;

    size_t used = used_bytes(frames) + HEADROOM;
    size_t room = frames->budget > used ? (frames->budget - used) / frames->page_size : 0;
    size_t most = zc_min(frames->batch, room);
    if (most == 0)
        return false;

    size_t word = 0;
    while (!run->is_fresh[word])
        word++;
    size_t first = word * 64 + (size_t)__builtin_ctzll(run->is_fresh[word]);
    size_t end = first + 1;
    while (end < frames->run_frames && end - first < most && is_fresh(run, end))
        end++;

    size_t count = end - first;
    if (!make_resident(frames, frame_at(frames, run, first), count * frames->page_size)) {
        madvise(frame_at(frames, run, first), count * frames->page_size, MADV_DONTNEED);
        if (run->in_use == 0)
            run_unmap(frames, run);
        return false;
    }
    run->fresh -= (uint32_t)count;
    run->in_use += (uint32_t)count;
    if (run->fresh == 0)
        zc_list_del(&run->link);
    for (size_t i = end; i-- > first;) { /* so that the lowest comes first */
        flip_fresh(run, i);
        push_ready(frames, frame_at(frames, run, i));
    }
    return true;
}

/* Gives an extent of one run back to the OS. */
static void release_extent(struct zc_frames *frames, char *first, size_t count)
{
    struct run *run = run_of(frames, first);
    size_t i = (size_t)(first - (char *)run) / frames->page_size;

    madvise(first, count * frames->page_size, MADV_DONTNEED);
    if (run->fresh == 0)
        zc_list_add(&frames->open, &run->link);
    run->fresh += (uint32_t)count;
    run->in_use -= (uint32_t)count;
    for (size_t end = i + count; i < end; i++)
        flip_fresh(run, i);
    if (run->in_use == 0)
        run_unmap(frames, run);
}

static int by_address(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t)*(char *const *)a, y = (uintptr_t)*(char *const *)b;

    return (x > y) - (x < y);
}

/* Gives ready frames back to the OS until at most `keep` are left, in extents as long as may be. */
static void drain(struct zc_frames *frames, size_t keep)
{
    char *addr[BATCH_MAX];

    while (frames->ready > keep) {
        size_t n = zc_min(frames->ready - keep, BATCH_MAX);
        for (size_t i = 0; i < n; i++)
            addr[i] = pop_ready(frames);
        qsort(addr, n, sizeof(addr[0]), by_address);

        size_t first = 0;
        for (size_t i = 1; i <= n; i++) {
            if (i < n && addr[i] == addr[i - 1] + frames->page_size)
                continue;
            release_extent(frames, addr[first], i - first);
            first = i;
        }
    }
}

void *zc_frame_get(struct zc_frames *frames)
{
    void *frame = NULL;

    pthread_mutex_lock(&frames->lock);
    if (frames->reserve || refill(frames)) {
        frame = pop_ready(frames);
        add(&frames->taken, 1);
    }
    pthread_mutex_unlock(&frames->lock);
    return frame;
}

void zc_frame_put(struct zc_frames *frames, void *frame)
{
    pthread_mutex_lock(&frames->lock);
    add(&frames->taken, (size_t)-1);
    push_ready(frames, frame);
    if (frames->taken == 0)
        drain(frames, 0);
    else if (frames->ready > frames->reserve_target + frames->batch)
        drain(frames, frames->reserve_target);
    pthread_mutex_unlock(&frames->lock);
}

void zc_frames_set_budget(struct zc_frames *frames, size_t bytes)
{
    pthread_mutex_lock(&frames->lock);
    frames->budget = bytes;
    pthread_mutex_unlock(&frames->lock);
}

bool zc_frames_have_room(const struct zc_frames *frames)
{
    bool is_ready = atomic_load_explicit(&frames->ready, memory_order_relaxed) > 0;

    return (is_ready && used_bytes(frames) <= frames->budget) || budget_allows(frames);
}

void zc_frames_charge(struct zc_frames *frames, ptrdiff_t bytes)
{
    atomic_fetch_add_explicit(&frames->charged, (size_t)bytes, memory_order_relaxed);
}

void zc_frames_set_reserve(struct zc_frames *frames, size_t count)
{
    pthread_mutex_lock(&frames->lock);
    frames->reserve_target = count;
    drain(frames, count);
    pthread_mutex_unlock(&frames->lock);
}

size_t zc_frames_reserve(const struct zc_frames *frames)
{
    struct zc_frames *f = (struct zc_frames *)frames;

    pthread_mutex_lock(&f->lock);
    size_t count = f->reserve_target;
    pthread_mutex_unlock(&f->lock);
    return count;
}

void zc_frames_get_stats(const struct zc_frames *frames, struct zc_frames_stats *out)
{
    out->taken = atomic_load_explicit(&frames->taken, memory_order_relaxed);
    out->ready = atomic_load_explicit(&frames->ready, memory_order_relaxed);
    out->metadata_bytes = metadata_bytes(frames);
    out->used_bytes = (out->taken + out->ready) * frames->page_size + out->metadata_bytes;
}

void zc_frames_destroy(struct zc_frames *frames)
{
    ZC_ASSERT(frames->taken == 0 && frames->charged == 0);
    drain(frames, 0);
    ZC_ASSERT(zc_list_empty(&frames->open));
    pthread_mutex_destroy(&frames->lock);
    free(frames);
}
