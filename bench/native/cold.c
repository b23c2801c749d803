/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cold tier: memory used by the corpus when all of it has gone cold, by length of extents and level of
 * zstd, beside zstd page by page in zsmalloc; and how long a get of a random page of a random extent takes,
 * no neighbour warmed, beside a get of a random page by zstd alone. --codec is that of the warm pages.
 * Both take turns page by page, so that they see the same machine.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/hash.h"
#include "bench.h"

#define GETS 20000u

static const unsigned lengths[] = {1, 2, 4, 8, 16}, levels[] = {3, 6, 9};

/* A pool with all pages in it, in a store of its own. */
struct side {
    zc_store *store;
    zc_pool *pool;
    uint64_t empty;   /* bytes used by the store without it */
    uint64_t refused; /* pages */
    double *ns;       /* GETS of them */
};

static uint64_t bytes_of(zc_store *store)
{
    struct zc_store_stats stats;

    zc_store_get_stats(store, &stats);
    return stats.used_bytes - stats.reserve_frames * zc_store_page_size(store);
}

static struct side open_side(const struct options *from, const struct pages *pages,
                             const char *codec)
{
    struct options options = *from;
    struct side side = {.ns = get_memory(GETS * sizeof(double))};

    options.allocator = "zsmalloc";
    options.codec = codec;
    side.store = open_store(pages->page_size);
    side.empty = bytes_of(side.store);
    side.pool = open_pool(side.store, &options);
    for (size_t i = 0; i < pages->count; i++)
        side.refused += zc_put(side.pool, 1, (uint32_t)i, page_at(pages, i), 0, NULL) != ZC_STORED;
    return side;
}

static void close_side(struct side *side)
{
    close_pool(side->pool);
    zc_store_destroy(side->store);
    free(side->ns);
}

/* As zram.c counts: a refused page is a frame. */
static uint64_t memory_of(const struct side *side, size_t page_size)
{
    return bytes_of(side->store) - side->empty + side->refused * page_size;
}

static void verify(const struct side *side, const struct pages *pages, char *room)
{
    for (size_t i = 0; i < pages->count; i++) {
        int error = zc_get(side->pool, 1, (uint32_t)i, room, ZC_GET_PEEK);
        if (error == -ENOENT)
            continue; /* was refused */
        if (error || memcmp(room, page_at(pages, i), pages->page_size) != 0)
            die("a page does not come back as it was", "cold");
    }
}

/* False: the page was refused. */
static bool get(const struct side *side, size_t page, char *room, double *ns)
{
    double start = now_ns();
    int error = zc_get(side->pool, 1, (uint32_t)page, room, ZC_GET_PEEK);

    *ns = now_ns() - start;
    return error == 0;
}

static int by_size(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static void compare_gets(struct side *cold, struct side *plain, const struct pages *pages,
                         char *room)
{
    for (uint64_t i = 0, draw = 0; i < GETS; draw++) {
        size_t page = zc_mix64(draw + 1) % pages->count;
        if (get(cold, page, room, &cold->ns[i]) && get(plain, page, room, &plain->ns[i]))
            i++;
    }
    qsort(cold->ns, GETS, sizeof(double), by_size);
    qsort(plain->ns, GETS, sizeof(double), by_size);
}

static void print_point(const struct options *options, const struct pages *pages,
                        struct side *plain, unsigned length, unsigned level, char *room)
{
    char text[16];
    struct zc_recompressed done;
    struct zc_pool_stats stats;
    struct side side = open_side(options, pages, options->codec);

    snprintf(text, sizeof(text), "zstd:%u", level);
    zc_pool_set_param(side.pool, "cold_codec", text);
    snprintf(text, sizeof(text), "%u", length);
    zc_pool_set_param(side.pool, "cold_extent", text);
    double start = now_ns();
    if (zc_pool_recompress(side.pool, SIZE_MAX, &done) != 0)
        die("it cannot be recompressed", text);
    double took = now_ns() - start;
    zc_pool_compact(side.pool);
    uint64_t bytes = memory_of(&side, pages->page_size);
    verify(&side, pages, room);
    compare_gets(&side, plain, pages, room);
    zc_pool_get_stats(side.pool, &stats);
    printf("{\"pages\": %u, \"level\": %u, \"used_bytes\": %" PRIu64 ", \"cold_pages\": %" PRIu64
           ", \"cold_bytes\": %" PRIu64 ", \"recompress_ns\": %.0f, \"get_ns\": %.0f, "
           "\"zstd_get_ns\": %.0f}",
           length, level, bytes, stats.cold_pages, stats.cold_bytes,
           took / (double)zc_max(done.pages, 1), side.ns[GETS / 2], plain->ns[GETS / 2]);
    close_side(&side);
}

void cold(const struct options *options)
{
    struct pages pages;
    const char *separator = "";

    pages_load(&pages, options, PAGES_NOT_SAME_FILLED);
    char *room = get_memory(pages.page_size);
    struct side warm = open_side(options, &pages, options->codec);
    struct side plain = open_side(options, &pages, "zstd:1"), denser;
    uint64_t plain_bytes = memory_of(&plain, pages.page_size);
    denser = open_side(options, &pages, "zstd:3");
    printf("{\"pages\": %zu, \"warm_bytes\": %" PRIu64 ", \"zstd_bytes\": %" PRIu64
           ", \"zstd3_bytes\": %" PRIu64 ", \"curve\": [",
           pages.count, memory_of(&warm, pages.page_size), plain_bytes,
           memory_of(&denser, pages.page_size));
    close_side(&warm);
    close_side(&denser);
    for (size_t v = 0; v < sizeof(levels) / sizeof(*levels); v++) {
        for (size_t n = 0; n < sizeof(lengths) / sizeof(*lengths); n++) {
            printf("%s", separator);
            print_point(options, &pages, &plain, lengths[n], levels[v], room);
            separator = ", ";
        }
    }
    printf("]}\n");
    close_side(&plain);
    pages_free(&pages);
    free(room);
}
