/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zc_stress THREADS OPS SEED: threads put, get and flush in a pool of their own and in shared ones,
 * which are destroyed and made again meanwhile; thresholds change, counters are read. Each page says
 * its key and version, so a get that finds another page's bytes, or torn ones, is seen. Prints one
 * line and ends with 0, or says what broke.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zcache/store.h>

#include "base/base.h"

#define OBJECTS 4
#define INDEXES 600
#define BATCH 16

struct worker {
    zc_store *store;
    pthread_t thread;
    unsigned number, ops;
    uint64_t random, found;
};

static void broken(const char *what)
{
    fprintf(stderr, "zc_stress: %s\n", what);
    abort();
}

static uint64_t next(struct worker *worker)
{
    return zc_mix64(worker->random += 0x9e3779b97f4a7c15u);
}

/* Some words, then random bytes for a part of the page, all from key and version. */
static void make_page(char *page, size_t size, uint64_t object, uint32_t index, uint64_t version)
{
    uint64_t head[3] = {object, index, version}, seed = zc_mix64(object ^ index ^ version);
    size_t length = version % 8 * size / 8;

    memset(page, 0, size);
    for (size_t i = 0; i + sizeof(seed) <= length; i += sizeof(seed)) {
        seed = zc_mix64(seed + i);
        memcpy(page + i, &seed, sizeof(seed));
    }
    memcpy(page, head, sizeof(head));
}

static void check_page(const char *page, size_t size, uint64_t object, uint32_t index)
{
    uint64_t head[3];
    char *expected = malloc(size);

    memcpy(head, page, sizeof(head));
    make_page(expected, size, object, index, head[2]);
    if (head[0] != object || head[1] != index || memcmp(page, expected, size) != 0)
        broken("a get returned another page's bytes");
    free(expected);
}

static void check_stats(zc_pool *pool)
{
    struct zc_pool_stats stats;
    uint64_t refused = 0;

    zc_pool_get_stats(pool, &stats);
    for (int i = 0; i < ZC_REFUSALS; i++)
        refused += stats.refused[i];
    if (stats.puts != stats.stored_puts + refused)
        broken("puts are not stored_puts and refusals");
    if (stats.gets_found > stats.gets || stats.flush_found > stats.flush_total)
        broken("more found than asked for");
}

/* The named pool, made if it is not there. */
static zc_pool *pool_of(struct worker *worker, const char *name)
{
    struct zc_pool_config config = {.name = name,
                                    .kind = name[0] == 'e' ? ZC_EPHEMERAL : ZC_PERSISTENT};
    zc_pool *pool = NULL;

    while (zc_pool_find(worker->store, name, &pool) != 0 &&
           zc_pool_create(worker->store, &config, &pool) != 0)
        ;
    return pool;
}

static void put_some(struct worker *worker, zc_pool *pool, char *pages, size_t size)
{
    struct zc_key keys[BATCH];
    const void *list[BATCH];
    int32_t results[BATCH];
    size_t count = 1 + next(worker) % BATCH;

    for (size_t i = 0; i < count; i++) {
        keys[i].object = next(worker) % OBJECTS;
        keys[i].index = (uint32_t)(next(worker) % INDEXES);
        make_page(pages + i * size, size, keys[i].object, keys[i].index, next(worker));
        list[i] = pages + i * size;
    }
    if (zc_put_batch(pool, keys, list, count, results, NULL) == -ENOMEM)
        broken("out of memory");
}

static void get_one(struct worker *worker, zc_pool *pool, char *page, size_t size)
{
    uint64_t object = next(worker) % OBJECTS;
    uint32_t index = (uint32_t)(next(worker) % INDEXES);
    int error = zc_get(pool, object, index, page, next(worker) % 2 ? ZC_GET_PEEK : 0);

    if (error && error != -ENOENT)
        broken("a get failed");
    if (!error) {
        check_page(page, size, object, index);
        worker->found++;
    }
}

static void step(struct worker *worker, const char *const names[3], char *pages, size_t size)
{
    zc_pool *pool = pool_of(worker, names[next(worker) % 3]);
    uint64_t what = next(worker) % 1000;

    if (what < 350)
        put_some(worker, pool, pages, size);
    else if (what < 850)
        get_one(worker, pool, pages, size);
    else if (what < 950)
        zc_flush_page(pool, next(worker) % OBJECTS, (uint32_t)(next(worker) % INDEXES));
    else if (what < 970)
        zc_flush_object(pool, next(worker) % OBJECTS);
    else if (what < 980)
        zc_pool_set_param(pool, "zv_max_zsize", next(worker) % 2 ? "7/8" : "3/8");
    else if (what < 995)
        check_stats(pool);
    else if (zc_pool_name(pool)[1] == 's') /* the shared ones only */
        zc_pool_destroy(pool);
    zc_pool_release(pool);
}

static void *work(void *arg)
{
    struct worker *worker = arg;
    size_t size = zc_store_page_size(worker->store);
    char own[16], *pages = malloc(BATCH * size);
    const char *const names[3] = {own, "pshared", "eshared"};

    snprintf(own, sizeof(own), "%co%u", worker->number % 2 ? 'p' : 'e', worker->number);
    for (unsigned i = 0; i < worker->ops; i++)
        step(worker, names, pages, size);
    free(pages);
    return NULL;
}

int main(int argc, char **argv)
{
    unsigned threads = argc > 1 ? (unsigned)atoi(argv[1]) : 4,
             ops = argc > 2 ? (unsigned)atoi(argv[2]) : 10000;
    uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 10) : 1, found = 0;
    struct worker *workers = calloc(threads, sizeof(*workers));
    struct zc_store_stats stats;
    zc_store *store;

    if (!workers || zc_store_create(NULL, &store) != 0)
        return 1;
    for (unsigned i = 0; i < threads; i++) {
        workers[i] =
            (struct worker){.store = store, .number = i, .ops = ops, .random = zc_mix64(seed + i)};
        pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    }
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        found += workers[i].found;
    }
    zc_store_get_stats(store, &stats);
    printf("%u threads, %u operations each, %" PRIu64 " pages checked, %" PRIu64
           " held in the end\n",
           threads, ops, found, stats.pers_zpages + stats.eph_zpages);
    zc_store_destroy(store);
    free(workers);
    return found ? 0 : 1;
}
