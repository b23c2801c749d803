/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compaction of a pool of which a random part was freed: frames before and after, and how long single
 * puts and gets of another thread take while it runs and, for as long again, after it. Also what a pool
 * comes to that compacts by itself while it is emptied, and what that adds to a flush.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"
#include "bench.h"

#define FREED_PERCENT 80u
#define REAL_PAGES 2000u /* that the distinct ones are made of */
#define WARM_UP_NS 50e6
#define LATENCIES (1u << 22) /* kept of a phase, at most */

enum phase { WARM_UP, COMPACTING, QUIET, STOP };

struct latencies {
    double *ns;
    size_t count;
};

/* The thread that puts and gets. */
struct other {
    pthread_t thread;
    zc_pool *pool;
    const struct pages *pages;
    uint64_t many;
    _Atomic enum phase phase;
    struct latencies of[STOP];
};

static bool is_freed(uint64_t i)
{
    return zc_mix64(~i) % 100 < FREED_PERCENT;
}

static uint64_t random_kept(uint64_t *seed, uint64_t many)
{
    uint64_t i;

    do
        i = zc_mix64((*seed)++) % many;
    while (is_freed(i));
    return i;
}

static void note(struct latencies *latencies, double ns)
{
    if (latencies->count < LATENCIES)
        latencies->ns[latencies->count++] = ns;
}

/* A get of a random page, then a put of it. */
static void *other_main(void *arg)
{
    struct other *other = arg;
    char *page = get_memory(other->pages->page_size);
    uint64_t object, seed = 1;
    uint32_t index;
    enum phase phase;

    run_on(THIS_CPU, 0);
    while ((phase = atomic_load(&other->phase)) != STOP) {
        uint64_t i = random_kept(&seed, other->many);
        key_of(i, &object, &index);
        double start = now_ns();
        if (zc_get(other->pool, object, index, page, 0) != 0)
            die("a stored page is not there", "store");
        double middle = now_ns();
        distinct(other->pages, i, page);
        double after = now_ns();
        if (zc_put(other->pool, object, index, page, 0, NULL) != ZC_STORED)
            die("a page is refused that was stored", "store");
        double end = now_ns();
        note(&other->of[phase], middle - start);
        note(&other->of[phase], end - after);
    }
    free(page);
    return NULL;
}

static void wait_ns(double ns)
{
    for (double start = now_ns(); now_ns() - start < ns;)
        zc_relax();
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The median, the 999 of a thousand, the longest. */
static void summarize(struct latencies *latencies, double out[3])
{
    size_t count = latencies->count;

    if (!count)
        die("it was over before another thread had its turn", "compaction");
    qsort(latencies->ns, count, sizeof(*latencies->ns), compare);
    out[0] = latencies->ns[count / 2];
    out[1] = latencies->ns[count - 1 - count / 1000];
    out[2] = latencies->ns[count - 1];
    latencies->count = 0;
}

/* Nanoseconds a page. */
static double free_most(zc_pool *pool, uint64_t many)
{
    uint64_t object, freed = 0;
    uint32_t index;
    double start = now_ns();

    for (uint64_t i = 0; i < many; i++) {
        if (!is_freed(i))
            continue;
        key_of(i, &object, &index);
        zc_flush_page(pool, object, index);
        freed++;
    }
    return (now_ns() - start) / (double)freed;
}

enum {
    BEFORE,
    AFTER,
    BY_ITSELF,
    FLUSH,
    FLUSH_BY_ITSELF,
    COMPACT,
    BUSY,
    QUIET_AFTER = BUSY + 3,
    SERIES = QUIET_AFTER + 3,
};

static const char *const names[SERIES] = {
    "before_ratio",  "after_ratio",     "auto_ratio",     "flush_ns",
    "auto_flush_ns", "compact_ns",      "busy_median_ns", "busy_p999_ns",
    "busy_max_ns",   "quiet_median_ns", "quiet_p999_ns",  "quiet_max_ns",
};

/* Bytes of frames to bytes of zpages. */
static double frames_ratio(zc_pool *pool, size_t page_size)
{
    struct zc_pool_stats stats;

    zc_pool_get_stats(pool, &stats);
    return (double)(stats.frames * page_size) / (double)stats.zbytes;
}

/* All stored, most freed again. Nanoseconds a flush. */
static double fill_and_free(zc_pool *pool, const struct other *other, const char *compact_auto)
{
    zc_pool_set_param(pool, "compact_auto", compact_auto);
    zc_pool_set_param(pool, "zv_max_zsize", "100%"); /* their numbers make some pages larger */
    put_distinct(pool, other->pages, 0, other->many);
    return free_most(pool, other->many);
}

/* Compacts while the other thread puts and gets. */
static void compact_beside(struct other *other, zc_pool *pool, double out[SERIES])
{
    other->pool = pool;
    atomic_store(&other->phase, WARM_UP);
    if (pthread_create(&other->thread, NULL, other_main, other) != 0)
        die("it cannot be started", "thread");
    run_on(OTHER_CPU, 0);
    wait_ns(WARM_UP_NS);
    atomic_store(&other->phase, COMPACTING);
    double start = now_ns();
    if (zc_pool_compact(pool) < 0)
        die("it cannot be compacted", "pool");
    out[COMPACT] = now_ns() - start;
    atomic_store(&other->phase, QUIET);
    wait_ns(out[COMPACT]);
    atomic_store(&other->phase, STOP);
    pthread_join(other->thread, NULL);
    run_on(THIS_CPU, 0);
    summarize(&other->of[COMPACTING], out + BUSY);
    summarize(&other->of[QUIET], out + QUIET_AFTER);
    other->of[WARM_UP].count = 0;
}

static void round_of(struct other *other, zc_store *store, const struct options *options,
                     double out[SERIES])
{
    size_t page_size = other->pages->page_size;
    zc_pool *pool = open_pool(store, options);

    out[FLUSH_BY_ITSELF] = fill_and_free(pool, other, "1");
    out[BY_ITSELF] = frames_ratio(pool, page_size);
    close_pool(pool);

    pool = open_pool(store, options);
    out[FLUSH] = fill_and_free(pool, other, "0");
    out[BEFORE] = frames_ratio(pool, page_size);
    compact_beside(other, pool, out);
    out[AFTER] = frames_ratio(pool, page_size);
    close_pool(pool);
}

void compact(const struct options *options)
{
    struct options of_file = *options;
    struct pages pages;
    size_t rounds = options->rounds;
    double *series = calloc(SERIES * rounds, sizeof(*series));
    struct other other = {.pages = &pages, .many = options->many};

    of_file.most = REAL_PAGES;
    pages_load(&pages, &of_file, PAGES_STORED);
    for (size_t p = 0; p < STOP; p++)
        other.of[p].ns = get_memory(LATENCIES * sizeof(double));
    zc_store *store = open_store(pages.page_size);
    for (size_t r = 0; r < rounds; r++) {
        double out[SERIES];
        round_of(&other, store, options, out);
        for (size_t s = 0; s < SERIES; s++)
            series[s * rounds + r] = out[s];
    }
    printf("{");
    for (size_t s = 0; s < SERIES; s++)
        print_series(names[s], series + s * rounds, rounds);
    printf("\"pages\": %" PRIu64 "}\n", other.many);
    zc_store_destroy(store);
    for (size_t p = 0; p < STOP; p++)
        free(other.of[p].ns);
    pages_free(&pages);
    free(series);
}
