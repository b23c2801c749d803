/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "base/base.h"
#include "bench.h"

zc_store *open_store(size_t page_size)
{
    return open_store_on(OTHER_CPU, page_size);
}

zc_store *open_store_on(unsigned cpu, size_t page_size)
{
    struct zc_store_config config = {.page_size = (uint32_t)page_size, .limit = UINT64_C(1) << 40};
    zc_store *store;

    run_on(cpu, 0); /* the store's own thread */
    if (zc_store_create(&config, &store) != 0)
        die("no store of that page size", "page size");
    run_on(THIS_CPU, 0);
    return store;
}

zc_pool *open_pool(zc_store *store, const struct options *options)
{
    static unsigned number;
    char name[32];
    struct zc_pool_config config = {.name = name,
                                    .kind = options->ephemeral ? ZC_EPHEMERAL : ZC_PERSISTENT,
                                    .allocator = options->allocator,
                                    .codec = options->codec};
    zc_pool *pool;

    snprintf(name, sizeof(name), "bench-%u", number++);
    if (zc_pool_create(store, &config, &pool) != 0)
        die("no such allocator, or no such codec", options->allocator);
    zc_pool_set_param(pool, "zv_max_mean_zsize", "100%");
    zc_pool_set_param(pool, "zv_page_count_policy_percent", "100");
    zc_pool_set_param(pool, "exclusive_gets", "0");
    if (zc_pool_set_param(pool, "checksums", options->checksums ? "1" : "0") != 0)
        die("it cannot be set", "checksums");
    return pool;
}

void close_pool(zc_pool *pool)
{
    zc_pool_destroy(pool);
    zc_pool_release(pool);
}

double store_put(zc_pool *pool, const struct pages *pages)
{
    struct zc_key keys[BATCH];
    const void *list[BATCH];
    int32_t results[BATCH];
    double start = now_ns();

    for (size_t i = 0; i < pages->count; i += BATCH) {
        size_t count = zc_min(BATCH, pages->count - i);
        for (size_t k = 0; k < count; k++) {
            keys[k] = (struct zc_key){.object = 1, .index = (uint32_t)(pages->first + i + k)};
            list[k] = page_at(pages, i + k);
        }
        zc_put_batch(pool, keys, list, count, 0, results, NULL);
    }
    return (now_ns() - start) / (double)pages->count;
}

double store_get(zc_pool *pool, const struct pages *pages, char *room, size_t slots)
{
    struct zc_key keys[BATCH];
    void *list[BATCH];
    int32_t results[BATCH];
    double start = now_ns();

    for (size_t i = 0; i < pages->count; i += BATCH) {
        size_t count = zc_min(BATCH, pages->count - i);
        for (size_t k = 0; k < count; k++) {
            keys[k] = (struct zc_key){.object = 1, .index = (uint32_t)(pages->first + i + k)};
            list[k] = room + (i + k) % slots * pages->page_size;
        }
        zc_get_batch(pool, keys, list, count, 0, results);
        for (size_t k = 0; k < count; k++) {
            if (results[k] != 0)
                die("a stored page is not there", "store");
        }
    }
    return (now_ns() - start) / (double)pages->count;
}

double put_distinct(zc_pool *pool, const struct pages *pages, uint64_t from, uint64_t to)
{
    struct zc_key keys[BATCH];
    const void *list[BATCH];
    int32_t results[BATCH];
    char *room = get_memory(BATCH * pages->page_size);
    double spent = 0;

    for (uint64_t i = from; i < to; i += BATCH) {
        size_t count = (size_t)zc_min(BATCH, to - i);
        for (size_t k = 0; k < count; k++) {
            list[k] = distinct(pages, i + k, room + k * pages->page_size);
            key_of(i + k, &keys[k].object, &keys[k].index);
        }
        double start = now_ns();
        zc_put_batch(pool, keys, list, count, 0, results, NULL);
        spent += now_ns() - start;
    }
    free(room);
    return spent / (double)(to - from);
}

uint64_t store_bytes(zc_store *store, uint64_t *reserve)
{
    struct zc_store_stats stats;

    zc_store_get_stats(store, &stats);
    *reserve = stats.reserve_frames * zc_store_page_size(store);
    return stats.used_bytes - *reserve;
}
