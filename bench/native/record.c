/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a recording adds to a put: nothing tried, and each codec alone with every page tried (--every 1); with one page in
 * N it is an N-th of what that adds. Puts over pages that are there, in a pool of --allocator and --codec.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/base.h"
#include "bench.h"
#include "store/store.h"

#define EVENTS 4096u

static const struct way {
    const char *name, *codec; /* codec NULL: nothing is tried */
    unsigned pages;
    bool is_recorded;
} ways[] = {
    {"plain", NULL, 0, false},       {"noted", NULL, 0, true},        {"lz4", "lz4", 1, true},
    {"zstd:3", "zstd:3", 1, true},   {"zstd:3*8", "zstd:3", 8, true}, {"zstd:9", "zstd:9", 1, true},
    {"zstd:9*8", "zstd:9", 8, true},
};
#define WAYS (sizeof(ways) / sizeof(*ways))

static void take_all(zc_pool *pool)
{
    static struct zc_event events[EVENTS];
    struct zc_recorded took;

    do {
        if (zc_record_take(pool, events, EVENTS, 0, &took) != 0)
            die("its events cannot be taken", "record");
    } while (took.count);
}

/* Of the processor, by this thread: other work does not matter then. */
static double spent_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* Nanoseconds a put. */
static double put_ns(zc_pool *pool, const struct pages *pages)
{
    double start = spent_ns();

    store_put(pool, pages);
    return (spent_ns() - start) / (double)pages->count;
}

static double measure(zc_pool *pool, const struct pages *pages, const struct way *way)
{
    struct zc_record_config config = {.every = 1};

    if (!way->is_recorded)
        return put_ns(pool, pages);
    if (way->codec)
        config.tries[config.count++] = (struct zc_record_try){way->codec, way->pages};
    if (zc_record_start(pool, &config, NULL) != 0)
        die("it cannot be recorded", way->name);
    take_all(pool); /* the pages that are there */
    double ns = put_ns(pool, pages);
    zc_record_stop(pool);
    return ns;
}

void record(const struct options *options)
{
    struct pages pages;
    double *ns[WAYS];

    pages_load(&pages, options, PAGES_NOT_SAME_FILLED);
    zc_store *store = open_store(pages.page_size);
    zc_pool *pool = open_pool(store, options);
    store_put(pool, &pages);
    for (size_t w = 0; w < WAYS; w++)
        ns[w] = get_memory(options->rounds * sizeof(double));
    for (size_t round = 0; round < options->rounds; round++) {
        for (size_t w = 0; w < WAYS; w++)
            ns[w][round] = measure(pool, &pages, &ways[w]);
    }
    printf("{");
    for (size_t w = 0; w < WAYS; w++) {
        print_series(ways[w].name, ns[w], options->rounds);
        free(ns[w]);
    }
    printf("\"pages\": %zu}\n", pages.count);
    close_pool(pool);
    zc_store_destroy(store);
    pages_free(&pages);
}
