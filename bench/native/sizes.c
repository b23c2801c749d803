/* SPDX-License-Identifier: Apache-2.0 */
/* How large the zpages of a corpus are, and how many frames they fill with each allocator. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"
#include "bench.h"

#define BINS 64u /* of zpage sizes; one more holds those that are a page or larger */

static void print_sizes(const struct options *options, const struct pages *pages)
{
    struct alone *alone = alone_new(options->codec, pages, ALONE_APART);
    uint64_t bins[BINS + 1] = {0};

    alone_put(alone, pages);
    for (size_t i = 0; i < pages->count; i++)
        bins[zc_min(alone_size(alone, i) * BINS / pages->page_size, BINS)]++;
    alone_free(alone);
    printf("\"sizes\": [");
    for (size_t i = 0; i <= BINS; i++)
        printf("%s%" PRIu64, i ? ", " : "", bins[i]);
    printf("]");
}

static void print_frames(const struct options *options, const struct pages *pages,
                         const char *allocator)
{
    struct options with = *options;
    struct zc_pool_stats stats;
    zc_store *store = open_store(pages->page_size);

    with.allocator = allocator;
    zc_pool *pool = open_pool(store, &with);
    store_put(pool, pages);
    zc_pool_get_stats(pool, &stats);
    printf(", \"%s\": {\"zpages\": %" PRIu64 ", \"zbytes\": %" PRIu64 ", \"frames\": %" PRIu64
           ", \"refused\": %" PRIu64 "}",
           allocator, stats.zpages, stats.zbytes, stats.frames, stats.puts - stats.stored_puts);
    close_pool(pool);
    zc_store_destroy(store);
}

void sizes(const struct options *options)
{
    struct pages pages;

    pages_load(&pages, options, PAGES_NOT_SAME_FILLED);
    printf("{\"pages\": %zu, \"same_filled\": %zu, ", pages.count, pages.same_filled);
    print_sizes(options, &pages);
    print_frames(options, &pages, "zbud");
    print_frames(options, &pages, "zsmalloc");
    printf("}\n");
    pages_free(&pages);
}
