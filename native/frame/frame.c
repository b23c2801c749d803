/* SPDX-License-Identifier: Apache-2.0 */
#include "frame/frame.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "base/thread.h"
#include "frame/map.h"
#include "frame/pieces.h"
#include "frame/shelf.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define RUN_BYTES (2u * 1024 * 1024) /* at least; or RUN_FRAMES frames */
#define RUN_FRAMES 256u
#define BATCH_BYTES (128u * 1024) /* made resident, or given back, at one time */
#define BATCH_MAX 64u             /* frames: the same, whatever the page size */
#define RESERVE_BATCHES 4u
#define NAP_NS 100000         /* the first; after one in vain, twice as long */
#define NAPS 5u               /* in vain, then the refiller sleeps */
#define HEADROOM (32u * 1024) /* bytes of budget left to charges while ready frames are used up */
#define HUGE_SHARE 32u        /* of what is used, a huge run is at most such a part */
#define STACK_BYTES (64u * 1024)

/* The head of a run, at its first byte. Frame i of the run is at i * page_size; frame 0 is the head
 * and in no stock. Frames in neither stock are taken, claimed, or on their way. */
struct run {
    struct zc_stock fresh, ready;
    bool is_huge;    /* one page to the OS */
    uint64_t bits[]; /* fresh's, then ready's */
};

struct zc_frames {
    pthread_mutex_t lock;
    size_t page_size, os_page_size;
    size_t run_size, run_frames; /* bytes, frames; both with the head */
    size_t head_bytes, words;    /* resident bytes of a head; of a bitmap */
    size_t batch;                /* frames */
    atomic_bool no_populate;
    bool has_huge; /* the OS's huge pages are of a run's size */
    struct zc_shelf fresh_runs, ready_runs;
    size_t wanted; /* frames of the extent that was asked for last */
    size_t reserve_target;
    /* Written under the lock, read without. */
    _Atomic size_t budget;
    _Atomic size_t taken, ready, filling, head_total; /* filling: about to be ready */
    _Atomic size_t charged;
    struct zc_pieces pieces;

    pthread_t refiller;
    bool has_refiller, asleep, stopping;
    pthread_cond_t wants;  /* for the refiller: it is not to be asleep, or to stop */
    pthread_cond_t filled; /* filling fell to 0 */
};

static void *refiller_main(void *arg);

/* Without the refiller all is done by those who need frames. */
static void start_refiller(struct zc_frames *frames)
{
    frames->has_refiller =
        zc_thread_start(&frames->refiller, STACK_BYTES, refiller_main, frames) == 0;
}

int zc_frames_create(size_t page_size, struct zc_frames **out)
{
    size_t huge_page_size = zc_huge_page_size();
    struct zc_frames *frames = calloc(1, sizeof(*frames));
    if (!frames)
        return -ENOMEM;

    zc_mutex_init_brief(&frames->lock);
    pthread_cond_init(&frames->wants, NULL);
    pthread_cond_init(&frames->filled, NULL);
    frames->page_size = page_size;
    frames->os_page_size = (size_t)sysconf(_SC_PAGESIZE);
    frames->run_size = zc_max(RUN_BYTES, RUN_FRAMES * page_size);
    frames->run_frames = frames->run_size / page_size;
    frames->words = zc_div_up(frames->run_frames, 64);
    frames->head_bytes = frames->os_page_size;
    ZC_ASSERT(sizeof(struct run) + 2 * (frames->words + 1) * sizeof(uint64_t) <=
              frames->head_bytes);
    frames->batch = zc_min(zc_max(BATCH_BYTES / page_size, 1), BATCH_MAX);
    frames->reserve_target = RESERVE_BATCHES * frames->batch;
    frames->wanted = 1;
    frames->budget = SIZE_MAX;
    frames->has_huge = huge_page_size == frames->run_size;
    zc_shelf_init(&frames->fresh_runs);
    zc_shelf_init(&frames->ready_runs);
    zc_pieces_init(&frames->pieces, huge_page_size);
    start_refiller(frames);
    *out = frames;
    return 0;
}

static size_t metadata_bytes(const struct zc_frames *frames)
{
    return atomic_load_explicit(&frames->head_total, memory_order_relaxed) +
           atomic_load_explicit(&frames->charged, memory_order_relaxed) +
           atomic_load_explicit(&frames->pieces.slack, memory_order_relaxed);
}

/* Frames in the reserve, or soon. */
static size_t reserved(const struct zc_frames *frames)
{
    return atomic_load_explicit(&frames->ready, memory_order_relaxed) +
           atomic_load_explicit(&frames->filling, memory_order_relaxed);
}

static size_t used_bytes(const struct zc_frames *frames)
{
    size_t count = atomic_load_explicit(&frames->taken, memory_order_relaxed) + reserved(frames);

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

static size_t index_of(const struct zc_frames *frames, const void *frame)
{
    const char *run = (char *)run_of(frames, frame);

    return zc_div_pow2((size_t)((const char *)frame - run), frames->page_size);
}

/* ---- runs ---- */

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

/* How many more frames the budget allows, in a new run if need be. */
static size_t room(const struct zc_frames *frames)
{
    size_t used = used_bytes(frames) + frames->head_bytes + HEADROOM;

    return frames->budget > used ? (frames->budget - used) / frames->page_size : 0;
}

/* Are runs to come as huge pages? One that is resident at once must not be much of the whole. */
static bool wants_huge(const struct zc_frames *frames)
{
    return frames->has_huge && frames->reserve_target > 0 &&
           used_bytes(frames) >= HUGE_SHARE * frames->run_size;
}

/* A new run with all its frames fresh; a huge one has memory behind them all. Needs no lock. */
static struct run *run_map(struct zc_frames *frames, bool is_huge)
{
    struct run *run = zc_map_aligned(frames->run_size, frames->pieces.chunks.is_locked);
    if (!run)
        return NULL;

    bool resident = true;
    if (is_huge) {
        madvise(run, frames->run_size, MADV_HUGEPAGE);
        resident = make_resident(frames, (char *)run, frames->run_size);
    }
    /* From now on, a huge page would make frames resident that nobody counts. */
    madvise(run, frames->run_size, MADV_NOHUGEPAGE);
    if (!resident) {
        munmap(run, frames->run_size);
        return NULL;
    }
    zc_stock_init(&run->fresh, run->bits, frames->words);
    zc_stock_init(&run->ready, run->bits + frames->words + 1, frames->words);
    run->is_huge = is_huge;
    return run;
}

static void run_unmap(struct zc_frames *frames, struct run *run)
{
    zc_stock_clear(&frames->fresh_runs, &run->fresh);
    add(&frames->head_total, -frames->head_bytes);
    munmap(run, frames->run_size);
}

static void put_fresh(struct zc_frames *frames, struct run *run, size_t first, size_t count)
{
    zc_stock_put(&frames->fresh_runs, &run->fresh, first, count);
    if (run->fresh.count == frames->run_frames - 1)
        run_unmap(frames, run);
}

static void put_ready(struct zc_frames *frames, struct run *run, size_t first, size_t count)
{
    zc_stock_put(&frames->ready_runs, &run->ready, first, count);
    add(&frames->ready, count);
}

static void remove_ready(struct zc_frames *frames, struct run *run, size_t first, size_t count)
{
    zc_stock_take(&frames->ready_runs, &run->ready, first, count);
    add(&frames->ready, -count);
}

/* NULL: no ready frames that are adjacent. */
static void *take_ready(struct zc_frames *frames, size_t count)
{
    size_t first;
    struct zc_stock *ready = zc_shelf_find(&frames->ready_runs, count, &first);
    if (!ready)
        return NULL;

    struct run *run = run_of(frames, ready);
    remove_ready(frames, run, first, count);
    return frame_at(frames, run, first);
}

/* A huge run, of which a part is to be given back, comes to be of small pages. To empty a part alone
 * would keep the huge page whole until memory is short. */
static void split_run(struct zc_frames *frames, struct run *run, void *part, size_t size)
{
    zc_map_split(part, size);
    zc_map_empty((char *)run + frames->head_bytes, frames->page_size - frames->head_bytes);
    run->is_huge = false;
    /* Linux 6.12 takes the pages of zeros back: not all ready frames are resident any more. */
    while (run->ready.count > 0) {
        size_t first = zc_stock_find(&run->ready, 1);
        size_t count = zc_stock_adjacent(&run->ready, first);

        remove_ready(frames, run, first, count);
        zc_map_empty(frame_at(frames, run, first), count * frames->page_size);
        zc_stock_put(&frames->fresh_runs, &run->fresh, first, count);
    }
}

/* Gives the memory of frames, which are in no stock, back to the OS; the lock is given up meanwhile. */
static void give_back(struct zc_frames *frames, struct run *run, size_t first, size_t count)
{
    char *addr = frame_at(frames, run, first);

    if (run->is_huge)
        split_run(frames, run, addr, count * frames->page_size);
    pthread_mutex_unlock(&frames->lock);
    zc_map_empty(addr, count * frames->page_size);
    pthread_mutex_lock(&frames->lock);
}

/* Gives ready frames back to the OS until at most `keep` are left, the shortest extents first. */
static void drain(struct zc_frames *frames, size_t keep)
{
    while (frames->ready > keep) {
        struct zc_stock *ready = zc_shelf_next(&frames->ready_runs, 1);
        struct run *run = run_of(frames, ready);
        size_t first = zc_stock_find(ready, 1);
        size_t count = zc_min(zc_stock_adjacent(ready, first), frames->ready - keep);

        remove_ready(frames, run, first, count);
        give_back(frames, run, first, count);
        put_fresh(frames, run, first, count);
    }
}

/* Ready frames below which more are made so. A huge run takes longer to come than a batch. */
static size_t reserve_min(const struct zc_frames *frames)
{
    return frames->reserve_target * (wants_huge(frames) ? 2 : 1);
}

/* Ready frames beyond which some go back. A huge run that just came stays whole. */
static size_t reserve_max(const struct zc_frames *frames)
{
    return reserve_min(frames) + (wants_huge(frames) ? frames->run_frames : frames->batch);
}

static void trim_reserve(struct zc_frames *frames)
{
    if (frames->ready > reserve_max(frames))
        drain(frames, reserve_max(frames) - frames->batch);
}

/* A new run with all its frames fresh. NULL: no address space, or no memory for its head. */
static struct run *add_run(struct zc_frames *frames)
{
    struct run *run = run_map(frames, false);
    if (!run)
        return NULL;

    add(&frames->head_total, frames->head_bytes);
    zc_stock_put(&frames->fresh_runs, &run->fresh, 1, frames->run_frames - 1);
    return run;
}

/* A stock of fresh frames, `count` of them adjacent, from a new run if need be. */
static struct zc_stock *find_fresh(struct zc_frames *frames, size_t count, size_t *first)
{
    struct zc_stock *fresh;

    while (!(fresh = zc_shelf_find(&frames->fresh_runs, count, first))) {
        struct run *run = add_run(frames);
        if (run) {
            *first = 1;
            return &run->fresh;
        }
        if (!zc_shelf_may_have(&frames->fresh_runs, count))
            break; /* else there are more runs to look at */
    }
    return fresh;
}

/* ---- the reserve ---- */

static void end_filling(struct zc_frames *frames, size_t count)
{
    add(&frames->filling, -count);
    if (frames->filling == 0)
        pthread_cond_broadcast(&frames->filled);
}

/* A whole run, while the lock is given up. */
static bool refill_huge(struct zc_frames *frames)
{
    size_t count = frames->run_frames - 1;

    add(&frames->head_total, frames->head_bytes);
    add(&frames->filling, count);
    pthread_mutex_unlock(&frames->lock);
    struct run *run = run_map(frames, true);
    pthread_mutex_lock(&frames->lock);
    end_filling(frames, count);
    if (!run) {
        add(&frames->head_total, -frames->head_bytes);
        return false;
    }
    put_ready(frames, run, 1, count);
    return true;
}

/* An extent of fresh frames, at least `count`, while the lock is given up. */
static bool refill_extent(struct zc_frames *frames, size_t count, size_t most)
{
    size_t first;
    struct zc_stock *fresh = zc_shelf_find(&frames->fresh_runs, ZC_EXTENT_MAX, &first);

    if (!fresh)
        fresh = find_fresh(frames, count, &first);
    if (!fresh)
        return false;

    struct run *run = run_of(frames, fresh);
    size_t extent = zc_min(zc_stock_adjacent(fresh, first), most);
    zc_stock_take(&frames->fresh_runs, fresh, first, extent);
    add(&frames->filling, extent);
    pthread_mutex_unlock(&frames->lock);
    bool resident = make_resident(frames, frame_at(frames, run, first), extent * frames->page_size);
    pthread_mutex_lock(&frames->lock);
    end_filling(frames, extent);
    if (resident) {
        put_ready(frames, run, first, extent);
    } else {
        give_back(frames, run, first, extent);
        put_fresh(frames, run, first, extent);
    }
    return resident;
}

/* Are there fresh frames to be used before another huge run comes? A few are left to those who want a part of
 * an extent: for each of these a run of small pages would come, and all of it be used. */
static bool has_fresh(const struct zc_frames *frames, size_t count)
{
    return frames->fresh_runs.count > frames->taken / HUGE_SHARE &&
           zc_shelf_may_have(&frames->fresh_runs, count);
}

/* Puts frames into the reserve, at least `count` adjacent ones; another thread may take them first.
 * False: over the budget, or the OS has none. */
static bool refill(struct zc_frames *frames, size_t count)
{
    bool is_huge = wants_huge(frames) && !has_fresh(frames, count) &&
                   used_bytes(frames) + frames->run_size + HEADROOM <= frames->budget;

    if (is_huge && refill_huge(frames))
        return true;

    size_t most = zc_min(room(frames), zc_max(frames->batch, count));
    return most >= count && refill_extent(frames, count, most);
}

/* Within the budget, at the cost of the reserve if need be. */
static bool make_room(struct zc_frames *frames, size_t count)
{
    size_t more = frames->head_bytes + HEADROOM + count * frames->page_size, used;

    while ((used = used_bytes(frames) + more) > frames->budget) {
        size_t excess = zc_div_up(used - frames->budget, frames->page_size);
        if (excess > frames->ready)
            return false;
        drain(frames, frames->ready - excess);
    }
    return true;
}

/* False: nothing is being filled. Else something was. */
static bool await_filled(struct zc_frames *frames)
{
    if (frames->filling == 0)
        return false;
    pthread_cond_wait(&frames->filled, &frames->lock);
    return true;
}

/* ---- extents ---- */

/* Out of the reserve, filled up where it has no such extent. */
static void *get_ready(struct zc_frames *frames, size_t count)
{
    void *extent;

    frames->wanted = count;
    while (!(extent = take_ready(frames, count))) {
        trim_reserve(frames);
        if (!(make_room(frames, count) && refill(frames, count)) && !await_filled(frames))
            return NULL;
    }
    add(&frames->taken, count);
    return extent;
}

/* Of fresh frames, whose first ones get memory while the lock is given up. */
static void *get_partly(struct zc_frames *frames, size_t count, size_t resident)
{
    size_t first;

    while (!make_room(frames, resident)) {
        if (!await_filled(frames))
            return NULL;
    }
    struct zc_stock *fresh = find_fresh(frames, count, &first);
    if (!fresh)
        return NULL;

    struct run *run = run_of(frames, fresh);
    char *extent = frame_at(frames, run, first);
    zc_stock_take(&frames->fresh_runs, fresh, first, count);
    add(&frames->taken, resident);
    pthread_mutex_unlock(&frames->lock);
    bool is_resident = make_resident(frames, extent, resident * frames->page_size);
    pthread_mutex_lock(&frames->lock);
    if (is_resident)
        return extent;
    add(&frames->taken, -resident);
    give_back(frames, run, first, resident);
    put_fresh(frames, run, first, count);
    return NULL;
}

static void wake_refiller(struct zc_frames *frames)
{
    if (!frames->asleep || reserved(frames) >= reserve_min(frames) / 2 || room(frames) == 0)
        return;
    frames->asleep = false;
    pthread_cond_signal(&frames->wants);
}

void *zc_extent_get(struct zc_frames *frames, size_t count, size_t resident)
{
    void *extent;

    ZC_ASSERT(count > 0 && count <= ZC_EXTENT_MAX && resident > 0 && resident <= count);
    pthread_mutex_lock(&frames->lock);
    if (resident == count)
        extent = get_ready(frames, count);
    else
        extent = get_partly(frames, count, resident);
    wake_refiller(frames);
    pthread_mutex_unlock(&frames->lock);
    return extent;
}

bool zc_extent_grow(struct zc_frames *frames, void *extent, size_t from, size_t to)
{
    char *first = (char *)extent + from * frames->page_size;
    size_t count = to - from;
    bool is_resident = false;

    pthread_mutex_lock(&frames->lock);
    while (!make_room(frames, count)) {
        if (!await_filled(frames))
            goto unlock;
    }
    add(&frames->taken, count);
    pthread_mutex_unlock(&frames->lock);
    is_resident = make_resident(frames, first, count * frames->page_size);
    pthread_mutex_lock(&frames->lock);
    if (!is_resident) {
        give_back(frames, run_of(frames, extent), index_of(frames, first), count);
        add(&frames->taken, -count);
    }
unlock:
    pthread_mutex_unlock(&frames->lock);
    return is_resident;
}

/* Where nothing is held, nothing is kept, that which is being filled included. */
static void settle(struct zc_frames *frames)
{
    while (frames->taken == 0 && await_filled(frames))
        ;
    if (frames->taken == 0)
        drain(frames, 0);
    else
        trim_reserve(frames);
}

void zc_extent_shrink(struct zc_frames *frames, void *extent, size_t from, size_t to)
{
    pthread_mutex_lock(&frames->lock);
    ZC_ASSERT(from <= to && frames->taken >= to - from);
    give_back(frames, run_of(frames, extent), index_of(frames, extent) + from, to - from);
    add(&frames->taken, -(to - from));
    settle(frames);
    pthread_mutex_unlock(&frames->lock);
}

void zc_extent_put(struct zc_frames *frames, void *extent, size_t count, size_t resident)
{
    struct run *run = run_of(frames, extent);
    size_t first = index_of(frames, extent);

    ZC_ASSERT(count > 0 && count <= ZC_EXTENT_MAX && resident <= count);
    pthread_mutex_lock(&frames->lock);
    ZC_ASSERT(frames->taken >= resident);
    add(&frames->taken, -resident);
    if (resident > 0)
        put_ready(frames, run, first, resident);
    if (resident < count)
        put_fresh(frames, run, first + resident, count - resident);
    settle(frames);
    pthread_mutex_unlock(&frames->lock);
}

/* To wake a thread costs more than 10 frames, so while the store grows it looks by itself; not too often, as
 * others' changes of the address space have to tell a processor on which it was. */
static void *refiller_main(void *arg)
{
    struct zc_frames *frames = arg;
    unsigned naps = NAPS;

    prctl(PR_SET_NAME, "zc-refill");
    pthread_mutex_lock(&frames->lock);
    while (!frames->stopping) {
        bool is_short = frames->taken > 0 && reserved(frames) < reserve_min(frames);
        if (is_short && refill(frames, frames->wanted)) {
            naps = 0;
        } else if (naps < NAPS) {
            const struct timespec nap = {.tv_nsec = NAP_NS << naps++};
            pthread_mutex_unlock(&frames->lock);
            nanosleep(&nap, NULL);
            pthread_mutex_lock(&frames->lock);
        } else {
            naps = 0;
            frames->asleep = true;
            while (frames->asleep && !frames->stopping)
                pthread_cond_wait(&frames->wants, &frames->lock);
        }
    }
    pthread_mutex_unlock(&frames->lock);
    return NULL;
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

    return (is_ready && used_bytes(frames) <= frames->budget) || room(frames) > 0;
}

void zc_frames_charge(struct zc_frames *frames, ptrdiff_t bytes)
{
    atomic_fetch_add_explicit(&frames->charged, (size_t)bytes, memory_order_relaxed);
}

void *zc_piece_get(struct zc_frames *frames, unsigned kind, size_t size)
{
    return zc_pieces_take(&frames->pieces, kind, size);
}

void zc_piece_put(struct zc_frames *frames, void *piece)
{
    zc_pieces_give(&frames->pieces, piece);
}

void zc_frames_set_locked(struct zc_frames *frames, bool is_locked)
{
    frames->pieces.chunks.is_locked = is_locked;
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
    out->ready = reserved(frames);
    out->metadata_bytes = metadata_bytes(frames);
    out->used_bytes = (out->taken + out->ready) * frames->page_size + out->metadata_bytes;
}

void zc_frames_destroy(struct zc_frames *frames)
{
    ZC_ASSERT(frames->taken == 0 && frames->charged == 0);
    pthread_mutex_lock(&frames->lock);
    frames->stopping = true;
    pthread_cond_signal(&frames->wants);
    pthread_mutex_unlock(&frames->lock);
    if (frames->has_refiller)
        pthread_join(frames->refiller, NULL);
    drain(frames, 0);
    ZC_ASSERT(frames->head_total == 0);
    zc_pieces_fini(&frames->pieces);
    pthread_cond_destroy(&frames->wants);
    pthread_cond_destroy(&frames->filled);
    pthread_mutex_destroy(&frames->lock);
    free(frames);
}
