/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zc_stress THREADS OPS SEED PAGE_SIZE LIMIT DIR: threads put, get and flush in a pool of their own and
 * in shared ones, which are destroyed and made again meanwhile, in both allocators; thresholds and codecs
 * change, pools are compacted, the coldest frames reclaimed, or written to stores in DIR that are a
 * little larger than what is live in them, counters read, everything checked. Each
 * page says its key and version, so a get that finds another page's bytes, or torn ones, is seen; of its
 * own pool a thread knows every page that must be there, and its version. Prints what was done and ends
 * with 0, or says what broke.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zcache/store.h>

#include "base/base.h"
#include "store/limit.h"
#include "store/pool.h"

#define OBJECTS 4
#define INDEXES 300
#define BATCH 16
#define SHARED 4
#define STORE_PAGES 1500 /* of a backing store */

static const char *const shared[SHARED] = {"pbshared", "pzshared", "ebshared", "ezshared"};

struct worker {
    zc_store *store;
    const char *directory; /* of backing stores */
    pthread_t thread;
    unsigned number, ops;
    uint64_t random, found, written, cold;
    char own[16];                       /* the pool that nobody else uses */
    uint64_t version[OBJECTS][INDEXES]; /* of its pages, 0: not there */
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

static struct zc_key some_key(struct worker *worker)
{
    uint64_t object = next(worker) % OBJECTS;

    return (struct zc_key){.object = object, .index = (uint32_t)(next(worker) % INDEXES)};
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

/* Returns the page's version. */
static uint64_t check_page(const char *page, size_t size, uint64_t object, uint32_t index)
{
    uint64_t head[3];
    char *expected = malloc(size);

    memcpy(head, page, sizeof(head));
    make_page(expected, size, object, index, head[2]);
    if (head[0] != object || head[1] != index || memcmp(page, expected, size) != 0)
        broken("a get returned another page's bytes");
    free(expected);
    return head[2];
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

/* A shared pool's may still be another's, which is being destroyed. */
static void set_backing(struct worker *worker, zc_pool *pool)
{
    const char *name = zc_pool_name(pool);
    bool is_own = strcmp(name, worker->own) == 0;
    char path[512], why[256];
    struct zc_pool_backing backing = {
        .path = path,
        .layout = is_own && name[1] == 'z' ? "in_place" : "packed",
        .size = (uint64_t)STORE_PAGES * zc_store_page_size(worker->store) + (8u << 20),
        .reset = true,
    };

    snprintf(path, sizeof(path), "%s/%s", worker->directory, name);
    if (zc_pool_set_backing(pool, &backing, why, sizeof(why)) != 0 && is_own)
        broken(why);
}

/* The named pool, made if it is not there; the name's first two letters say what it is. */
static zc_pool *pool_of(struct worker *worker, const char *name)
{
    struct zc_pool_config config = {.name = name,
                                    .kind = name[0] == 'e' ? ZC_EPHEMERAL : ZC_PERSISTENT,
                                    .allocator = name[1] == 'z' ? "zsmalloc" : "zbud"};
    zc_pool *pool = NULL;

    while (zc_pool_find(worker->store, name, &pool) != 0) {
        if (zc_pool_create(worker->store, &config, &pool) != 0)
            continue;
        if (config.kind == ZC_PERSISTENT)
            set_backing(worker, pool);
        break;
    }
    return pool;
}

/* What the thread knows of a page; NULL in a shared pool. */
static uint64_t *known(struct worker *worker, zc_pool *pool, const struct zc_key *key)
{
    if (strcmp(zc_pool_name(pool), worker->own) != 0)
        return NULL;
    return &worker->version[key->object][key->index];
}

/* Room for others may have been made of an ephemeral page: then it is not there, which is no error. */
static bool may_be_gone(zc_pool *pool)
{
    return zc_pool_get_kind(pool) == ZC_EPHEMERAL;
}

static void put_some(struct worker *worker, zc_pool *pool, char *pages, size_t size)
{
    struct zc_key keys[BATCH];
    const void *list[BATCH];
    int32_t results[BATCH];
    uint64_t versions[BATCH];
    size_t count = 1 + next(worker) % BATCH;

    for (size_t i = 0; i < count; i++) {
        keys[i] = some_key(worker);
        versions[i] = next(worker) | 1 << 3; /* 0 says that a page is not there */
        make_page(pages + i * size, size, keys[i].object, keys[i].index, versions[i]);
        list[i] = pages + i * size;
    }
    if (zc_put_batch(pool, keys, list, count, 0, results, NULL) == -ENOMEM)
        broken("out of memory");
    for (size_t i = 0; i < count; i++) {
        uint64_t *version = known(worker, pool, &keys[i]);
        if (version)
            *version = results[i] == ZC_STORED ? versions[i] : 0;
    }
}

static void get_one(struct worker *worker, zc_pool *pool, char *page, size_t size)
{
    struct zc_key key = some_key(worker);
    unsigned flags = next(worker) % 2 ? ZC_GET_PEEK : 0;
    uint64_t found = 0, *version = known(worker, pool, &key);
    int error = zc_get(pool, key.object, key.index, page, flags);

    if (error && error != -ENOENT)
        broken("a get failed");
    if (!error) {
        found = check_page(page, size, key.object, key.index);
        worker->found++;
    }
    if (version && !found && may_be_gone(pool))
        *version = 0;
    if (version && found != *version)
        broken(found ? "a get returned an older page" : "a page was lost");
    if (version && !flags && zc_pool_get_kind(pool) == ZC_EPHEMERAL)
        *version = 0;
}

static void flush_one(struct worker *worker, zc_pool *pool)
{
    struct zc_key key = some_key(worker);
    uint64_t *version = known(worker, pool, &key);
    bool found = zc_flush_page(pool, key.object, key.index) == 0;

    if (version && found != (*version != 0) && (found || !may_be_gone(pool)))
        broken("a flush found what was not there, or not what was");
    if (version)
        *version = 0;
}

static void flush_some(struct worker *worker, zc_pool *pool)
{
    struct zc_key key = some_key(worker);
    int64_t flushed = zc_flush_object(pool, key.object), expected = 0;

    if (!known(worker, pool, &key))
        return;
    for (key.index = 0; key.index < INDEXES; key.index++) {
        uint64_t *version = known(worker, pool, &key);
        expected += *version != 0;
        *version = 0;
    }
    if (flushed > expected || (flushed < expected && !may_be_gone(pool)))
        broken("a flush of an object counted wrongly");
}

static void set_codec(struct worker *worker, zc_pool *pool)
{
    static const char *const specs[] = {"lz4", "lz4:4", "zstd:-5", "zstd:1", "none"};

    if (zc_pool_set_codec(pool, specs[next(worker) % 5]) == -EINVAL)
        broken("a codec was refused");
}

/* Takes what it is offered if that is a page as it was put. */
static int take(void *arg, const struct zc_key *key, const void *page)
{
    check_page(page, *(size_t *)arg, key->object, key->index);
    return 0;
}

/* Of a shared pool; the thread's own pages must not leave without its knowing. */
static void reclaim_some(struct worker *worker, zc_pool *pool, size_t size)
{
    struct zc_reclaimed reclaimed;

    if (strcmp(zc_pool_name(pool), worker->own) == 0)
        return;
    int error = zc_pool_reclaim(pool, 1 + next(worker) % 8, take, &size, &reclaimed);
    if (error && error != -ENOENT)
        broken("reclaim failed");
}

static void write_frames(struct worker *worker, zc_pool *pool)
{
    struct zc_written_back done;
    int error = zc_pool_writeback(pool, 1 + next(worker) % 64, &done);

    if (error && error != -ENOENT && error != -ENXIO && error != -ENOSPC)
        broken("writeback failed");
    worker->written += done.pages;
}

/* Other threads' own pools too, where they know every page; and what makes the keeper do so. */
static void write_back(struct worker *worker)
{
    static const char *const names[] = {"pbo1", "pzo3", "pbshared", "pzshared"};
    zc_pool *pool;

    if (zc_pool_find(worker->store, names[next(worker) % 4], &pool) != 0)
        return;
    switch (next(worker) % 4) {
    case 0:
        zc_limit_relieve(worker->store);
        break;
    case 1:
        zc_pool_set_param(pool, "writeback_after", next(worker) % 4 ? "1" : "0");
        zc_debug_age(worker->store, 2);
        break;
    default:
        write_frames(worker, pool);
    }
    zc_pool_release(pool);
}

static void recompress(struct worker *worker, zc_pool *pool)
{
    static const char *const lengths[] = {"1", "2", "4", "8", "16"};
    struct zc_recompressed done;

    if (next(worker) % 4 == 0) {
        zc_pool_set_param(pool, "cold_extent", lengths[next(worker) % 5]);
        zc_pool_set_param(pool, "cold_codec", next(worker) % 2 ? "zstd:3" : "lz4");
        zc_pool_set_param(pool, "cold_readahead", next(worker) % 2 ? "1" : "0");
        zc_pool_set_param(pool, "cold_after", next(worker) % 4 ? "1" : "0");
        zc_pool_set_param(pool, "cold_cpu_percent", "100");
    }
    zc_debug_age(pool->store, 1 + next(worker) % 3);
    int error = next(worker) % 2 ? zc_pool_recompress(pool, 1 + next(worker) % 64, &done)
                                 : zc_pool_recompress_idle(pool, 1, &done);
    if (error && error != -ENOENT && error != -E2BIG && error != -ENOMEM)
        broken("recompression failed");
    worker->cold += done.pages;
}

static void check_all(zc_store *store)
{
    char why[256];

    if (zc_store_check(store, why, sizeof(why)) != 0)
        broken(why);
}

static void empty_frames(struct worker *worker, zc_pool *pool, size_t size)
{
    uint64_t what = next(worker) % 12;

    if (what >= 8)
        recompress(worker, pool);
    else if (what < 3)
        zc_pool_compact(pool);
    else if (what < 6)
        reclaim_some(worker, pool, size);
    else if (what == 6)
        set_codec(worker, pool);
    else
        check_all(worker->store);
}

static void step(struct worker *worker, const char *const names[SHARED + 1], char *pages,
                 size_t size)
{
    zc_pool *pool = pool_of(worker, names[next(worker) % (SHARED + 1)]);
    uint64_t what = next(worker) % 1000;

    if (what < 350)
        put_some(worker, pool, pages, size);
    else if (what < 850)
        get_one(worker, pool, pages, size);
    else if (what < 960)
        flush_one(worker, pool);
    else if (what < 963)
        flush_some(worker, pool);
    else if (what < 975)
        zc_pool_set_param(pool, "zv_max_zsize", next(worker) % 2 ? "7/8" : "5/8");
    else if (what < 983)
        empty_frames(worker, pool, size);
    else if (what < 988)
        write_back(worker);
    else if (what < 995)
        check_stats(pool);
    else if (strcmp(zc_pool_name(pool), worker->own) != 0)
        zc_pool_destroy(pool);
    zc_pool_release(pool);
}

static void *work(void *arg)
{
    struct worker *worker = arg;
    size_t size = zc_store_page_size(worker->store);
    char *pages = malloc(BATCH * size);
    const char *names[SHARED + 1] = {worker->own};

    memcpy(names + 1, shared, sizeof(shared));
    snprintf(worker->own, sizeof(worker->own), "%c%co%u", worker->number % 2 ? 'p' : 'e',
             worker->number / 2 % 2 ? 'z' : 'b', worker->number);
    for (unsigned i = 0; i < worker->ops; i++)
        step(worker, names, pages, size);
    free(pages);
    return NULL;
}

/* What is destroyed gives back everything. */
static void check_end(zc_store *store, const struct worker *workers, unsigned threads)
{
    struct zc_store_stats stats;
    zc_pool *pool;

    check_all(store);
    zc_store_get_stats(store, &stats);
    printf("by itself: %" PRIu64 " pages at the limit, %" PRIu64 " under pressure, %" PRIu64
           " idle\n",
           stats.written_back[ZC_WRITEBACK_LIMIT], stats.written_back[ZC_WRITEBACK_PRESSURE],
           stats.written_back[ZC_WRITEBACK_IDLE]);
    for (unsigned i = 0; i < threads + SHARED; i++) {
        const char *name = i < threads ? workers[i].own : shared[i - threads];
        if (zc_pool_find(store, name, &pool) != 0)
            continue;
        check_stats(pool);
        zc_pool_destroy(pool);
        zc_pool_release(pool);
    }
    zc_store_get_stats(store, &stats);
    if (stats.pools || stats.frames || stats.reserve_frames || stats.pers_zpages ||
        stats.eph_zpages || stats.written_pages)
        broken("something is held by no pool");
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: zc_stress THREADS OPS SEED PAGE_SIZE LIMIT DIR\n");
        return 2;
    }
    unsigned threads = (unsigned)atoi(argv[1]), ops = (unsigned)atoi(argv[2]);
    uint64_t seed = strtoull(argv[3], NULL, 10), found = 0, written = 0, cold = 0;
    struct zc_store_config config = {.page_size = (uint32_t)atoi(argv[4]),
                                     .limit = strtoull(argv[5], NULL, 10)};
    struct worker *workers = calloc(threads, sizeof(*workers));
    zc_store *store;

    if (!workers || zc_store_create(&config, &store) != 0)
        return 1;
    for (unsigned i = 0; i < threads; i++) {
        workers[i].store = store;
        workers[i].directory = argv[6];
        workers[i].number = i;
        workers[i].ops = ops;
        workers[i].random = zc_mix64(seed + i);
        pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    }
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        found += workers[i].found;
        written += workers[i].written;
        cold += workers[i].cold;
    }
    check_end(store, workers, threads);
    printf("%u threads, %u operations each, %" PRIu64 " pages checked, %" PRIu64
           " written back, %" PRIu64 " made cold\n",
           threads, ops, found, written, cold);
    zc_store_destroy(store);
    free(workers);
    return found && written && cold ? 0 : 1;
}
