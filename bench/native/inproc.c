/* SPDX-License-Identifier: Apache-2.0 */
/* The codec alone and the store, in turns, on the same pages; "packed": the codec alone, zpages one
 * after another; "again": over the pages already there, memory in use. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"

enum { ALONE_PUT, PACKED_PUT, STORE_PUT, AGAIN_PUT, ALONE_GET, PACKED_GET, STORE_GET, SERIES };

static const char *const names[SERIES] = {"alone_put_ns", "packed_put_ns", "store_put_ns",
                                          "again_put_ns", "alone_get_ns",  "packed_get_ns",
                                          "store_get_ns"};

void inproc(const struct options *options)
{
    struct pages pages;
    struct zc_pool_stats stats;
    size_t rounds = options->rounds;
    double *series = calloc(SERIES * rounds, sizeof(*series));

    pages_load(&pages, options, PAGES_STORED);
    struct alone *alone = alone_new(options->codec, &pages, ALONE_APART);
    struct alone *packed = alone_new(options->codec, &pages, ALONE_PACKED);
    char *page = get_memory(pages.page_size);
    zc_store *store = open_store(pages.page_size);
    for (size_t r = 0; r < rounds; r++) {
        zc_pool *pool = open_pool(store, options);
        series[ALONE_PUT * rounds + r] = alone_put(alone, &pages);
        series[PACKED_PUT * rounds + r] = alone_put(packed, &pages);
        series[STORE_PUT * rounds + r] = store_put(pool, &pages);
        series[ALONE_GET * rounds + r] = alone_get(alone, &pages, page, 1);
        series[PACKED_GET * rounds + r] = alone_get(packed, &pages, page, 1);
        series[STORE_GET * rounds + r] = store_get(pool, &pages, page, 1);
        series[AGAIN_PUT * rounds + r] = store_put(pool, &pages);
        zc_pool_get_stats(pool, &stats);
        close_pool(pool);
    }
    printf("{");
    for (size_t s = 0; s < SERIES; s++)
        print_series(names[s], series + s * rounds, rounds);
    printf("\"pages\": %zu, \"zpages\": %" PRIu64 ", \"zbytes\": %" PRIu64 ", \"frames\": %" PRIu64
           ", \"metadata_bytes\": %" PRIu64 "}\n",
           pages.count, stats.zpages, stats.zbytes, stats.frames, stats.metadata_bytes);
    zc_store_destroy(store);
    alone_free(alone);
    alone_free(packed);
    pages_free(&pages);
    free(page);
    free(series);
}
