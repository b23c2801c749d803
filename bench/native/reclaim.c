/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes when frames do. An ephemeral pool holds the corpus; a random part of its pages, the hot ones,
 * were got since they were put; then its coldest frames are asked for, one at a time, until so large a
 * part is gone. Beside it, how many frames go if as many zpages do that are taken at random.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"
#include "bench.h"

#define HOT_PERCENT 20u
#define FRAMES_SHARE 4u /* that part of them is freed */

static bool is_hot(size_t i)
{
    return zc_mix64(i) % 100 < HOT_PERCENT;
}

static void get_hot(zc_pool *pool, const struct pages *pages, char *page)
{
    for (size_t i = 0; i < pages->count; i++) {
        if (is_hot(i) && zc_get(pool, 1, (uint32_t)i, page, 0) != 0)
            die("a stored page is not there", "store");
    }
}

/* Nanoseconds a frame. */
static double free_frames(zc_pool *pool, size_t frames, struct zc_reclaimed *sum)
{
    double start = now_ns();

    while (sum->frames < frames) {
        struct zc_reclaimed one;
        if (zc_pool_reclaim(pool, 1, NULL, NULL, &one) != 0 || one.frames == 0)
            die("no frame to be had", "reclaim");
        sum->frames += one.frames;
        sum->zpages += one.zpages;
    }
    return (now_ns() - start) / (double)sum->frames;
}

/* Frames that go when `zpages` random zpages are forgotten, of a pool that holds the same. */
static uint64_t free_at_random(zc_store *store, const struct options *options,
                               const struct pages *pages, size_t zpages)
{
    struct zc_pool_stats before, after;
    uint32_t *order = get_memory(pages->count * sizeof(*order));
    zc_pool *pool = open_pool(store, options);

    zc_pool_set_param(pool, "compact_auto", "0"); /* which would free more, as it moves others */
    store_put(pool, pages);
    zc_pool_get_stats(pool, &before);
    for (size_t i = 0; i < pages->count; i++)
        order[i] = (uint32_t)i;
    for (size_t i = 0; i < zpages; i++) {
        size_t other = i + zc_mix64(i) % (pages->count - i);
        uint32_t index = order[other];
        order[other] = order[i];
        if (zc_flush_page(pool, 1, index) != 0)
            die("a stored page is not there", "store");
    }
    zc_pool_get_stats(pool, &after);
    close_pool(pool);
    free(order);
    return before.frames - after.frames;
}

static void print_lost(zc_pool *pool, const struct pages *pages, char *page)
{
    uint64_t all[2] = {0}, lost[2] = {0}; /* cold ones, hot ones */

    for (size_t i = 0; i < pages->count; i++) {
        all[is_hot(i)]++;
        lost[is_hot(i)] += zc_get(pool, 1, (uint32_t)i, page, ZC_GET_PEEK) != 0;
    }
    printf("\"hot\": %" PRIu64 ", \"hot_lost\": %" PRIu64 ", \"cold\": %" PRIu64
           ", \"cold_lost\": %" PRIu64 "}\n",
           all[1], lost[1], all[0], lost[0]);
}

void reclaim(const struct options *options)
{
    struct options ephemeral = *options;
    struct pages pages;
    struct zc_pool_stats stats;
    struct zc_reclaimed sum = {0};

    ephemeral.ephemeral = true;
    pages_load(&pages, options, PAGES_STORED);
    char *page = get_memory(pages.page_size);
    zc_store *store = open_store(pages.page_size);
    zc_pool *pool = open_pool(store, &ephemeral);
    store_put(pool, &pages);
    get_hot(pool, &pages, page);
    zc_pool_get_stats(pool, &stats);
    double ns = free_frames(pool, stats.frames / FRAMES_SHARE, &sum);
    printf("{\"frames\": %" PRIu64 ", \"freed\": %" PRIu64 ", \"zpages\": %" PRIu64
           ", \"frame_ns\": %.1f, \"random_freed\": %" PRIu64 ", ",
           stats.frames, sum.frames, sum.zpages, ns,
           free_at_random(store, &ephemeral, &pages, sum.zpages));
    print_lost(pool, &pages, page);
    close_pool(pool);
    zc_store_destroy(store);
    pages_free(&pages);
    free(page);
}
