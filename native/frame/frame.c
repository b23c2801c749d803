/* SPDX-License-Identifier: Apache-2.0 */
#include "frame/frame.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "base/list.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define RUN_BYTES (2u * 1024 * 1024) /* at least; or RUN_FRAMES frames */
#define RUN_FRAMES 128u
#define BATCH_BYTES (128u * 1024) /* made resident, or given back, at one time */
#define BATCH_MAX 64u             /* frames: the same, whatever the page size */
#define RESERVE_BATCHES 4u
#define NAP_NS 100000
#define NAPS 20u              /* in vain, then the refiller sleeps */
#define HEADROOM (32u * 1024) /* bytes of budget left to charges while ready frames are used up */
#define HUGE_SHARE 32u        /* of what is used, a huge run is at most such a part */
#ifdef ZC_DEBUG
#define STACK_BYTES (1024u * 1024) /* sanitizers want room */
#else
#define STACK_BYTES (64u * 1024)
#endif

/* The head of a run, at its first byte. Frame i of the run is at i * page_size; the head itself
 * covers the first ones. */
struct run {
    struct zc_link link;    /* in zc_frames.open while fresh > 0 */
    uint32_t fresh, in_use; /* frames; in_use: all others */
    bool is_huge;           /* one page to the OS */
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
    atomic_bool no_populate;
    bool has_huge;       /* the OS's huge pages are of a run's size */
    struct zc_link open; /* runs with fresh frames */
    struct ready *reserve;
    size_t reserve_target;
    /* Written under the lock, read without. */
    _Atomic size_t budget;
    _Atomic size_t taken, ready, filling, head_total; /* filling: about to be ready */
    _Atomic size_t charged;

    pthread_t refiller;
    bool has_refiller, asleep, stopping;
    pthread_cond_t wants;  /* for the refiller: it is not to be asleep, or to stop */
    pthread_cond_t filled; /* filling fell to 0 */
};

static void *refiller_main(void *arg);

/* Signals are for the threads of whoever uses the library. Without the refiller all is done by
 * those who need frames. */
static void start_refiller(struct zc_frames *frames)
{
    sigset_t all, before;
    pthread_attr_t attr;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    frames->has_refiller = pthread_create(&frames->refiller, &attr, refiller_main, frames) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
}

static ssize_t read_file(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;

    ssize_t len = read(fd, text, size - 1);
    close(fd);
    text[len > 0 ? len : 0] = '\0';
    return len;
}

/* Bytes; 0: there are none to be had. Linux, Documentation/admin-guide/mm/transhuge.rst */
static size_t huge_page_size(void)
{
    char text[64];

    if (read_file("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof(text)) <= 0 ||
        strstr(text, "[never]"))
        return 0;
    if (read_file("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", text, sizeof(text)) <= 0)
        return 0;
    return strtoul(text, NULL, 10);
}

int zc_frames_create(size_t page_size, struct zc_frames **out)
{
    struct zc_frames *frames = calloc(1, sizeof(*frames));
    if (!frames)
        return -ENOMEM;

    pthread_mutex_init(&frames->lock, NULL);
    pthread_cond_init(&frames->wants, NULL);
    pthread_cond_init(&frames->filled, NULL);
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
    frames->reserve_target = RESERVE_BATCHES * frames->batch;
    frames->budget = SIZE_MAX;
    frames->has_huge = huge_page_size() == frames->run_size;
    zc_list_init(&frames->open);
    start_refiller(frames);
    *out = frames;
    return 0;
}

static size_t metadata_bytes(const struct zc_frames *frames)
{
    return atomic_load_explicit(&frames->head_total, memory_order_relaxed) +
           atomic_load_explicit(&frames->charged, memory_order_relaxed);
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

void *zc_frame_meta(const struct zc_frames *frames, const void *addr)
{
    char *run = (char *)run_of(frames, addr);
    size_t i = zc_div_pow2((size_t)((const char *)addr - run), frames->page_size);

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

/* For one more frame, in a new run if need be. */
static bool budget_allows(const struct zc_frames *frames)
{
    return used_bytes(frames) + frames->head_bytes + frames->page_size + HEADROOM <= frames->budget;
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
    struct run *run = map_aligned(frames->run_size);
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
    run->is_huge = is_huge;
    run->fresh = (uint32_t)(frames->run_frames - frames->head_frames);
    for (size_t i = frames->head_frames; i < frames->run_frames; i++)
        flip_fresh(run, i);
    return run;
}

static void run_unmap(struct zc_frames *frames, struct run *run)
{
    ZC_ASSERT(run->in_use == 0);
    zc_list_del(&run->link);
    add(&frames->head_total, -frames->head_bytes);
    munmap(run, frames->run_size);
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

/* Gives an extent of one run back to the OS. */
static void release_extent(struct zc_frames *frames, char *first, size_t count)
{
    struct run *run = run_of(frames, first);
    size_t i = (size_t)(first - (char *)run) / frames->page_size;

    if (run->is_huge) {
        /* Splits the huge page; MADV_DONTNEED alone would keep it whole until memory is short. */
        madvise(first, count * frames->page_size, MADV_FREE);
        run->is_huge = false;
    }
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

static void take_fresh(struct run *run, size_t first, size_t count)
{
    run->fresh -= (uint32_t)count;
    run->in_use += (uint32_t)count;
    if (run->fresh == 0)
        zc_list_del(&run->link);
    for (size_t i = first; i < first + count; i++)
        flip_fresh(run, i);
}

static void end_filling(struct zc_frames *frames, size_t count)
{
    add(&frames->filling, -count);
    if (frames->filling == 0)
        pthread_cond_broadcast(&frames->filled);
}

static void push_extent(struct zc_frames *frames, struct run *run, size_t first, size_t count)
{
    for (size_t i = first + count; i-- > first;) /* so that the lowest comes first */
        push_ready(frames, frame_at(frames, run, i));
}

/* A whole run, while the lock is given up. */
static bool refill_huge(struct zc_frames *frames)
{
    size_t first = frames->head_frames, count = frames->run_frames - first;

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
    zc_list_add(&frames->open, &run->link);
    take_fresh(run, first, count);
    push_extent(frames, run, first, count);
    return true;
}

static struct run *open_run(struct zc_frames *frames)
{
    if (!zc_list_empty(&frames->open))
        return ZC_CONTAINER(frames->open.next, struct run, link);
    if (!budget_allows(frames))
        return NULL;

    struct run *run = run_map(frames, false);
    if (run) {
        zc_list_add(&frames->open, &run->link);
        add(&frames->head_total, frames->head_bytes);
    }
    return run;
}

/* The first fresh frames of a run, at most `most`. Returns how many. */
static size_t find_fresh(const struct zc_frames *frames, const struct run *run, size_t most,
                         size_t *first)
{
    size_t word = 0, end;

    while (!run->is_fresh[word])
        word++;
    *first = word * 64 + (size_t)__builtin_ctzll(run->is_fresh[word]);
    for (end = *first + 1; end < frames->run_frames && end - *first < most; end++) {
        if (!is_fresh(run, end))
            break;
    }
    return end - *first;
}

/* An extent of fresh frames, while the lock is given up. */
static bool refill_extent(struct zc_frames *frames)
{
    struct run *run = open_run(frames);
    if (!run)
        return false;

    size_t used = used_bytes(frames) + HEADROOM;
    size_t room = frames->budget > used ? (frames->budget - used) / frames->page_size : 0;
    if (room == 0)
        return false;

    size_t first, count = find_fresh(frames, run, zc_min(frames->batch, room), &first);
    take_fresh(run, first, count);
    add(&frames->filling, count);
    pthread_mutex_unlock(&frames->lock);
    char *addr = frame_at(frames, run, first);
    bool resident = make_resident(frames, addr, count * frames->page_size);
    pthread_mutex_lock(&frames->lock);
    end_filling(frames, count);
    if (resident)
        push_extent(frames, run, first, count);
    else
        release_extent(frames, addr, count);
    return resident;
}

/* Puts some frames into the reserve; another thread may take them first. False: over the budget, or
 * the OS has none. */
static bool refill(struct zc_frames *frames)
{
    bool is_huge = wants_huge(frames) && zc_list_empty(&frames->open) &&
                   used_bytes(frames) + frames->run_size + HEADROOM <= frames->budget;

    return (is_huge && refill_huge(frames)) || refill_extent(frames);
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

/* Ready frames beyond which some go back. A huge run that just came stays whole. */
static size_t reserve_max(const struct zc_frames *frames)
{
    return frames->reserve_target + (wants_huge(frames) ? frames->run_frames : frames->batch);
}

void *zc_frame_get(struct zc_frames *frames)
{
    void *frame = NULL;

    pthread_mutex_lock(&frames->lock);
    while (!frames->reserve && refill(frames))
        ;
    frame = pop_ready(frames);
    if (frame)
        add(&frames->taken, 1);
    if (frames->asleep && reserved(frames) < frames->reserve_target / 2 && budget_allows(frames)) {
        frames->asleep = false;
        pthread_cond_signal(&frames->wants);
    }
    pthread_mutex_unlock(&frames->lock);
    return frame;
}

void zc_frame_put(struct zc_frames *frames, void *frame)
{
    pthread_mutex_lock(&frames->lock);
    add(&frames->taken, (size_t)-1);
    push_ready(frames, frame);
    /* Where nothing is held, nothing is kept, that which is being filled included. */
    while (frames->taken == 0 && frames->filling > 0)
        pthread_cond_wait(&frames->filled, &frames->lock);
    if (frames->taken == 0)
        drain(frames, 0);
    else if (frames->ready > reserve_max(frames))
        drain(frames, reserve_max(frames) - frames->batch);
    pthread_mutex_unlock(&frames->lock);
}

/* To wake a thread costs more than 10 frames, so while the store grows it looks by itself. */
static void *refiller_main(void *arg)
{
    const struct timespec nap = {.tv_nsec = NAP_NS};
    struct zc_frames *frames = arg;
    unsigned naps = NAPS;

    prctl(PR_SET_NAME, "zc-refill");
    pthread_mutex_lock(&frames->lock);
    while (!frames->stopping) {
        bool is_short = frames->taken > 0 && reserved(frames) < frames->reserve_target;
        if (is_short && refill(frames)) {
            naps = 0;
        } else if (naps++ < NAPS) {
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
    ZC_ASSERT(zc_list_empty(&frames->open));
    pthread_cond_destroy(&frames->wants);
    pthread_cond_destroy(&frames->filled);
    pthread_mutex_destroy(&frames->lock);
    free(frames);
}
