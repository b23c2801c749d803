/* SPDX-License-Identifier: Apache-2.0 */
/* Put and get in a store of few distinct pages and in one of many, in turns, random keys, batches. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "alloc/alloc.h"
#include "base/base.h"
#include "bench.h"

#define PROBES (160 * BATCH) /* puts, and gets, timed in a round */
#define REAL_PAGES 2000u     /* that the distinct ones are made of */

/* Gets PROBES random ones of `count` pages. Returns nanoseconds a page. */
static double get_random(zc_pool *pool, const struct pages *pages, uint64_t count)
{
    char *page = get_memory(pages->page_size);
    struct zc_key keys[BATCH];
    void *list[BATCH];
    int32_t results[BATCH];
    double spent = 0;

    for (uint64_t i = 0; i < PROBES; i += BATCH) {
        for (size_t k = 0; k < BATCH; k++) {
            list[k] = page;
            key_of(zc_mix64(i + k) % count, &keys[k].object, &keys[k].index);
        }
        double start = now_ns();
        zc_get_batch(pool, keys, list, BATCH, 0, results);
        spent += now_ns() - start;
    }
    free(page);
    return spent / PROBES;
}

/* PROBES puts that bring the pool to `count` pages, and as many gets. */
static void probe(zc_pool *pool, const struct pages *pages, uint64_t count, double *put_ns,
                  double *get_ns)
{
    touch_memory(2 * PROBES * pages->page_size);
    *put_ns = put_distinct(pool, pages, count - PROBES, count);
    *get_ns = get_random(pool, pages, count);
}

static void print_metadata(const char *name, zc_pool *pool)
{
    struct zc_pool_stats stats;

    zc_pool_get_stats(pool, &stats);
    printf("\"%s_zpages\": %" PRIu64 ", \"%s_metadata_bytes\": %" PRIu64 ", ", name, stats.zpages,
           name, stats.metadata_bytes);
}

enum { FEW_PUT, FEW_GET, MANY_PUT, MANY_GET, SERIES };

static const char *const names[SERIES] = {"few_put_ns", "few_get_ns", "many_put_ns", "many_get_ns"};

void scale(const struct options *options)
{
    struct options of_file = *options;
    struct pages pages;
    size_t rounds = options->rounds;
    double *series = calloc(SERIES * rounds, sizeof(*series));
    uint64_t few = options->few, many = options->many;

    of_file.most = REAL_PAGES;
    pages_load(&pages, &of_file, PAGES_STORED);
    zc_store *small = open_store(pages.page_size), *large = open_store(pages.page_size);
    zc_pool *large_pool = open_pool(large, options);
    put_distinct(large_pool, &pages, 0, many);
    printf("{\"few\": %" PRIu64 ", \"many\": %" PRIu64 ", ", few, many);
    for (size_t r = 0; r < rounds; r++) {
        zc_pool *pool = open_pool(small, options);
        put_distinct(pool, &pages, 0, few - PROBES);
        probe(pool, &pages, few, &series[FEW_PUT * rounds + r], &series[FEW_GET * rounds + r]);
        many += PROBES;
        probe(large_pool, &pages, many, &series[MANY_PUT * rounds + r],
              &series[MANY_GET * rounds + r]);
        if (r == rounds - 1)
            print_metadata("few", pool);
        close_pool(pool);
    }
    print_metadata("many", large_pool);
    for (size_t s = 0; s < SERIES; s++)
        print_series(names[s], series + s * rounds, rounds);
    printf("\"head_bytes\": %u}\n", ZC_ZHEAD_BYTES);
    close_pool(large_pool);
    zc_store_destroy(small);
    zc_store_destroy(large);
    pages_free(&pages);
    free(series);
}
