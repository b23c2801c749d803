/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zc_frames random PAGE_SIZE BUDGET SEED OPS THREADS: threads get, grow, shrink and give back extents,
 * each its own. All that is taken is written, so that a frame handed out twice is seen; what is
 * claimed must have no memory. One thread alone also knows what the counters have to say.
 *
 * zc_frames memory PAGE_SIZE BYTES: takes extents of all kinds until so much is used, gives some back,
 * then the rest. Prints "used=BYTES os=BYTES" after each step (os: Pss + SwapPss of this process).
 */
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "frame/frame.h"
#include "os_bytes.h"

#define EXTENTS 200
#define MARK 32u                        /* bytes at both ends of an OS page */
#define SLACK (32u * 1024 + 64u * 1024) /* budget that frames leave for charges and a run's head */

struct extent {
    char *addr; /* NULL: none */
    size_t count, resident;
    uint64_t seed;
};

struct worker {
    struct zc_frames *frames;
    pthread_t thread;
    struct random random;
    size_t page_size, budget, ops;
    bool is_alone;
    size_t held, taken; /* extents, frames */
    size_t got, refused;
    struct extent extents[EXTENTS];
};

static size_t os_page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* OS pages with memory behind them. */
static size_t count_resident(char *addr, size_t size)
{
    unsigned char pages[ZC_EXTENT_MAX * 64];
    size_t resident = 0, count = size / os_page_size();

    CHECK(count <= sizeof(pages));
    if (count == 0)
        return 0;
    CHECK(mincore(addr, size, pages) == 0);
    for (size_t i = 0; i < count; i++)
        resident += pages[i] & 1;
    return resident;
}

/* Writes to each OS page of frames that were just taken: the OS need not keep one of zeros. */
static void mark(const struct worker *worker, struct extent *extent, size_t from, size_t to)
{
    size_t step = os_page_size();

    for (size_t i = from * worker->page_size; i < to * worker->page_size; i += step) {
        pattern_fill(extent->addr + i, MARK, extent->seed + i);
        pattern_fill(extent->addr + i + step - MARK, MARK, ~(extent->seed + i));
    }
}

static void check_extent(const struct worker *worker, const struct extent *extent)
{
    size_t taken = extent->resident * worker->page_size, step = os_page_size();

    for (size_t i = 0; i < taken; i += step) {
        CHECK(pattern_is(extent->addr + i, MARK, extent->seed + i));
        CHECK(pattern_is(extent->addr + i + step - MARK, MARK, ~(extent->seed + i)));
    }
    CHECK(count_resident(extent->addr + taken, extent->count * worker->page_size - taken) == 0);
}

static void check_stats(const struct worker *worker)
{
    struct zc_frames_stats stats;

    if (!worker->is_alone)
        return;
    zc_frames_get_stats(worker->frames, &stats);
    CHECK(stats.taken == worker->taken);
    CHECK(stats.used_bytes ==
          (stats.taken + stats.ready) * worker->page_size + stats.metadata_bytes);
    CHECK(stats.used_bytes <= worker->budget);
    CHECK(worker->taken > 0 || stats.ready == 0);
    CHECK(worker->held > 0 || stats.used_bytes == 0);
}

/* `count` more frames are refused only if they do not fit even without the reserve. */
static void check_refusal(struct worker *worker, size_t count)
{
    struct zc_frames_stats stats;

    worker->refused++;
    if (!worker->is_alone)
        return;
    zc_frames_get_stats(worker->frames, &stats);
    CHECK((worker->taken + count) * worker->page_size + stats.metadata_bytes + SLACK >
          worker->budget);
}

static void get(struct worker *worker, struct extent *extent)
{
    extent->count = 1 + random_below(&worker->random, ZC_EXTENT_MAX);
    extent->resident = extent->count;
    if (random_percent(&worker->random, 50))
        extent->resident = 1 + random_below(&worker->random, extent->count);
    extent->seed = random_u64(&worker->random);
    extent->addr = zc_extent_get(worker->frames, extent->count, extent->resident);
    if (!extent->addr) {
        check_refusal(worker, extent->resident);
        return;
    }
    CHECK(((uintptr_t)extent->addr & (worker->page_size - 1)) == 0);
    worker->got++;
    worker->held++;
    worker->taken += extent->resident;
    mark(worker, extent, 0, extent->resident);
}

static void grow(struct worker *worker, struct extent *extent)
{
    size_t from = extent->resident,
           to = from + 1 + random_below(&worker->random, extent->count - from);

    if (!zc_extent_grow(worker->frames, extent->addr, from, to)) {
        check_refusal(worker, to - from);
        return;
    }
    extent->resident = to;
    worker->taken += to - from;
    mark(worker, extent, from, to);
}

static void shrink(struct worker *worker, struct extent *extent)
{
    size_t to = extent->resident, from = random_below(&worker->random, to + 1);

    zc_extent_shrink(worker->frames, extent->addr, from, to);
    extent->resident = from;
    worker->taken -= to - from;
}

static void put(struct worker *worker, struct extent *extent)
{
    zc_extent_put(worker->frames, extent->addr, extent->count, extent->resident);
    worker->taken -= extent->resident;
    worker->held--;
    extent->addr = NULL;
}

static void step(struct worker *worker, size_t extents)
{
    struct extent *extent = &worker->extents[random_below(&worker->random, extents)];

    if (worker->is_alone && random_percent(&worker->random, 1)) {
        static const size_t reserves[] = {0, 16, 128, 300};
        zc_frames_set_reserve(worker->frames, reserves[random_below(&worker->random, 4)]);
    }
    if (!extent->addr) {
        get(worker, extent);
    } else {
        check_extent(worker, extent);
        if (random_percent(&worker->random, 40))
            put(worker, extent);
        else if (extent->resident < extent->count && random_percent(&worker->random, 70))
            grow(worker, extent);
        else
            shrink(worker, extent);
    }
    if (extent->addr)
        check_extent(worker, extent);
    check_stats(worker);
}

/* The number of extents rises and falls, so that runs come and go. */
static void *work(void *arg)
{
    struct worker *worker = arg;

    for (size_t i = 0; i < worker->ops; i++) {
        size_t wave = i * 8 / worker->ops % 2 ? EXTENTS / 20 : EXTENTS;
        step(worker, wave);
    }
    for (size_t i = 0; i < EXTENTS; i++) {
        if (!worker->extents[i].addr)
            continue;
        check_extent(worker, &worker->extents[i]);
        put(worker, &worker->extents[i]);
        check_stats(worker);
    }
    CHECK(worker->taken == 0 && worker->held == 0);
    return NULL;
}

static int run_random(size_t page_size, size_t budget, uint64_t seed, size_t ops, size_t threads)
{
    struct worker *workers = calloc(threads, sizeof(*workers));
    struct zc_frames_stats stats;
    struct zc_frames *frames;
    size_t got = 0, refused = 0;

    CHECK(workers && zc_frames_create(page_size, &frames) == 0);
    if (budget)
        zc_frames_set_budget(frames, budget);
    for (size_t i = 0; i < threads; i++) {
        workers[i].frames = frames;
        workers[i].random.state = zc_mix64(seed + i);
        workers[i].page_size = page_size;
        workers[i].budget = budget ? budget : SIZE_MAX;
        workers[i].ops = ops;
        workers[i].is_alone = threads == 1;
        CHECK(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
    }
    for (size_t i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        got += workers[i].got;
        refused += workers[i].refused;
    }
    zc_frames_get_stats(frames, &stats);
    CHECK(got > 0 && stats.taken == 0 && stats.used_bytes == 0);
    zc_frames_destroy(frames);
    free(workers);
    printf("got=%zu refused=%zu\n", got, refused);
    return 0;
}

/* ---- memory ---- */

#define STILL 8 /* looks: who fills may not get a processor for some time */

/* Once nothing is being filled any more, which counts already. */
static void print_used(const struct zc_frames *frames)
{
    const struct timespec nap = {.tv_nsec = 20000000};
    struct zc_frames_stats stats;
    uint64_t os = os_bytes(), before;

    CHECK(os > 0);
    for (int same = 0; same < STILL; same = os == before ? same + 1 : 0) {
        before = os;
        nanosleep(&nap, NULL);
        os = os_bytes();
    }
    zc_frames_get_stats(frames, &stats);
    printf("used=%zu os=%" PRIu64 "\n", stats.used_bytes, os);
}

static size_t used_bytes(const struct zc_frames *frames)
{
    struct zc_frames_stats stats;

    zc_frames_get_stats(frames, &stats);
    return stats.used_bytes;
}

static int run_memory(size_t page_size, size_t bytes)
{
    size_t count = 0, most = bytes / page_size;
    struct extent *extents = calloc(most, sizeof(*extents));
    struct worker worker = {.page_size = page_size, .budget = SIZE_MAX, .random.state = 1};

    CHECK(extents && zc_frames_create(page_size, &worker.frames) == 0);
    memset(extents, 1, most * sizeof(*extents)); /* so that it is there from the beginning */
    print_used(worker.frames);
    while (used_bytes(worker.frames) < bytes)
        get(&worker, &extents[count++]);
    print_used(worker.frames);
    for (size_t i = 0; i < count; i += 2) {
        if (i % 4 && extents[i].resident < extents[i].count)
            grow(&worker, &extents[i]);
        else
            shrink(&worker, &extents[i]);
    }
    print_used(worker.frames);
    for (size_t i = 0; i < count; i++) {
        if (random_percent(&worker.random, 40))
            put(&worker, &extents[i]);
    }
    print_used(worker.frames);
    for (size_t i = 0; i < count; i++) {
        if (!extents[i].addr)
            continue;
        check_extent(&worker, &extents[i]);
        put(&worker, &extents[i]);
    }
    print_used(worker.frames);
    zc_frames_destroy(worker.frames);
    free(extents);
    return 0;
}

int main(int argc, char **argv)
{
    size_t numbers[6] = {0};

    for (int i = 2; i < argc && i < 8; i++)
        numbers[i - 2] = strtoull(argv[i], NULL, 10);
    if (argc == 7 && strcmp(argv[1], "random") == 0)
        return run_random(numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]);
    if (argc == 4 && strcmp(argv[1], "memory") == 0)
        return run_memory(numbers[0], numbers[1]);
    fprintf(stderr, "usage: zc_frames random PAGE_SIZE BUDGET SEED OPS THREADS\n"
                    "       zc_frames memory PAGE_SIZE BYTES\n");
    return 2;
}
