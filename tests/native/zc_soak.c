/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zc_soak SECONDS SEED DIR KEYS: two threads put, get and flush at random, each its own KEYS keys in each
 * of four pools, persistent and ephemeral, zbud and zsmalloc; the persistent ones have backing stores in
 * DIR. A third thread disturbs them: limits, thresholds and codecs change, frames are compacted,
 * reclaimed and written back, memory gets short, backing stores fail, the store stops and comes back.
 *
 * Every get is held against what its thread knows: a persistent page is there with its last bytes, an
 * ephemeral one is there with its last bytes or not at all. used_bytes is held against the OS while
 * everything stands still, and once more when everything was flushed.
 *
 * Short memory and failing system calls are forced, by a /proc of our own and by the io of the backing
 * stores; all else is real. Prints one JSON object and ends with 0, or says what broke.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <zcache/store.h>

#include "backing/inside.h"
#include "check.h"
#include "os_bytes.h"
#include "store/pool.h"

#define WORKERS 2u
#define BATCH 16u
#define MIB ((uint64_t)1 << 20)
#define LIMIT (192 * MIB)            /* while nothing presses */
#define COMPARED (int64_t)(64 * MIB) /* from so much on used_bytes and the OS agree within 2 % */
#define ALLOWED 0.01                 /* looked at again beyond */
#define SETTLES 10
#define SAMPLES 60u        /* of the memory curve */
#define PAUSE_NS 20000000u /* between two disturbances */
#define SHORT_FOR 6u       /* of these, memory is short or a store fails */

enum op { PUT, GET, FLUSH, FLUSH_OBJECT, OPS };
enum fault { NO_FAULT, WRITE_EIO, WRITE_ENOSPC, WRITE_SHORT, READ_EIO, GONE, FAULTS };

static const char *const op_names[OPS] = {"put", "get", "flush", "flush_object"};
static const char *const fault_names[FAULTS] = {"none",        "write EIO", "write ENOSPC",
                                                "short write", "read EIO",  "store gone"};

static const struct {
    const char *name;
    enum zc_pool_kind kind;
    const char *allocator, *layout; /* layout NULL: no backing store */
} kinds[] = {
    {"pers-zbud", ZC_PERSISTENT, "zbud", "in_place"},
    {"pers-zsmalloc", ZC_PERSISTENT, "zsmalloc", "packed"},
    {"eph-zbud", ZC_EPHEMERAL, "zbud", NULL},
    {"eph-zsmalloc", ZC_EPHEMERAL, "zsmalloc", NULL},
};
#define POOLS (sizeof(kinds) / sizeof(*kinds))

struct soak;

struct worker {
    struct soak *soak;
    pthread_t thread;
    unsigned number;
    struct random random;
    uint64_t *version[POOLS]; /* of its keys; 0: not there */
    uint64_t next_version;
    char *pages, *expected;
    uint64_t ops[OPS], lost_ephemeral, failed_reads;
};

struct sample {
    double seconds;
    uint64_t used, os, written_pages;
};

struct soak {
    const char *directory;
    size_t keys, page_size;
    zc_store *store;
    zc_pool *pools[POOLS];
    pthread_rwlock_t running; /* workers read; who needs everything to stand still writes */
    atomic_bool is_halted;    /* and has them not begin anew: readers would keep it waiting */
    atomic_bool is_over;
    atomic_int fault;
    _Atomic uint64_t hits[FAULTS];
    unsigned fault_turn;             /* each kind in turn */
    unsigned fault_left, short_left; /* disturbances until they end */
    struct random random;
    struct worker workers[WORKERS];
    uint64_t empty_used, empty_os, compared, disturbed, restarts, recompressed;
    double worst; /* used_bytes' difference from the OS, as a part of it */
    struct sample samples[SAMPLES];
    size_t sample_count;
};

static struct soak soak;

static _Noreturn void broken(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("zc_soak: ", stderr);
    vfprintf(stderr, format, args);
    fprintf(stderr, ", after %" PRIu64 " disturbances and %" PRIu64 " restarts\n", soak.disturbed,
            soak.restarts);
    va_end(args);
    abort();
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- what fails ---- */

/* Is this call to fail? Half of them do while a fault lasts, all of them while the store is gone. */
static enum fault strikes(bool is_write)
{
    static atomic_uint turn;
    enum fault fault = (enum fault)soak.fault;

    if (fault == NO_FAULT || (fault != GONE && is_write != (fault != READ_EIO)))
        return NO_FAULT;
    if (fault != GONE && turn++ % 2)
        return NO_FAULT;
    soak.hits[fault]++;
    return fault;
}

static ssize_t soak_pread(void *arg, int fd, void *bytes, size_t size, uint64_t at)
{
    enum fault fault = strikes(false);

    if (fault)
        return fault == GONE ? -ENODEV : -EIO;
    return zc_system_io.pread(arg, fd, bytes, size, at);
}

static ssize_t soak_pwritev(void *arg, int fd, const struct iovec *iov, int count, uint64_t at)
{
    switch (strikes(true)) {
    case WRITE_EIO:
        return -EIO;
    case WRITE_ENOSPC:
        return -ENOSPC;
    case GONE:
        return -ENODEV;
    case WRITE_SHORT:
        if (iov->iov_len > ZC_BLOCK) {
            struct iovec first = {iov->iov_base, ZC_BLOCK};
            return zc_system_io.pwritev(arg, fd, &first, 1, at);
        }
        return 0;
    default:
        return zc_system_io.pwritev(arg, fd, iov, count, at);
    }
}

/* A /proc with as much memory as we say. */
static void say_available(uint64_t mib)
{
    char path[512], text[128];

    snprintf(path, sizeof(path), "%s/proc/meminfo", soak.directory);
    int length = snprintf(text, sizeof(text), "MemTotal: %12d kB\nMemAvailable: %12" PRIu64 " kB\n",
                          1 << 20, mib << 10);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && pwrite(fd, text, (size_t)length, 0) == length);
    close(fd);
}

static void make_proc(void)
{
    static const char *const directories[] = {"proc", "proc/sys", "proc/sys/kernel",
                                              "proc/sys/kernel/random"};
    char path[512];

    for (size_t i = 0; i < sizeof(directories) / sizeof(*directories); i++) {
        snprintf(path, sizeof(path), "%s/%s", soak.directory, directories[i]);
        CHECK(mkdir(path, 0700) == 0 || errno == EEXIST);
    }
    snprintf(path, sizeof(path), "%s/%s/boot_id", soak.directory, directories[3]);
    FILE *file = fopen(path, "we");
    CHECK(file && fputs("01234567-89ab-cdef-0123-456789abcdef\n", file) >= 0);
    fclose(file);
    say_available(900);
}

/* ---- the store ---- */

static void set_backing(size_t p, bool is_new)
{
    struct zc_io io = zc_system_io;
    struct zc_text why = {0};
    char path[512];
    struct zc_pool_backing backing = {
        .path = path,
        .layout = kinds[p].layout,
        .size = (WORKERS * soak.keys + 4096) * soak.page_size * 3 / 2,
        .reset = is_new,
    };

    io.pread = soak_pread;
    io.pwritev = soak_pwritev;
    snprintf(path, sizeof(path), "%s/%s", soak.directory, kinds[p].name);
    if (zc_writeback_attach(soak.pools[p], &backing, &io, &why) != 0)
        broken("%s: %s", kinds[p].name, why.data);
    zc_text_free(&why);
}

static void open_store(bool is_new)
{
    char proc[512];
    struct zc_store_config config = {.limit = LIMIT, .proc_dir = proc, .cgroup_dir = proc};

    snprintf(proc, sizeof(proc), "%s/proc", soak.directory);
    CHECK(zc_store_create(&config, &soak.store) == 0);
    for (size_t p = 0; p < POOLS; p++) {
        struct zc_pool_config pool = {
            .name = kinds[p].name, .kind = kinds[p].kind, .allocator = kinds[p].allocator};
        CHECK(zc_pool_create(soak.store, &pool, &soak.pools[p]) == 0);
        CHECK(zc_pool_set_param(soak.pools[p], "zv_page_count_policy_percent", "100") == 0);
        if (kinds[p].layout)
            set_backing(p, is_new);
    }
}

/* ---- pages and keys ---- */

/* A worker's k-th key. In place a store has one object; else each worker has its own, to be flushed. */
static struct zc_key key_of(const struct worker *worker, size_t p, size_t k)
{
    bool is_in_place = kinds[p].layout && strcmp(kinds[p].layout, "in_place") == 0;

    return (struct zc_key){.object = is_in_place ? 0 : worker->number,
                           .index = (uint32_t)(worker->number * soak.keys + k)};
}

/* Compresses to any size, or not at all, or is one word all over. */
static void make_page(char *page, const struct zc_key *key, size_t p, uint64_t version)
{
    uint64_t seed = zc_mix64(version << 8 ^ p ^ key->object << 40 ^ (uint64_t)key->index << 16);
    uint64_t word = zc_mix64(seed);
    size_t noisy = seed % 16 == 0 ? soak.page_size : seed / 16 % (soak.page_size * 5 / 8);

    for (size_t i = 0; i < soak.page_size; i += sizeof(word))
        memcpy(page + i, &word, sizeof(word));
    if (seed % 16 == 1)
        return;
    for (size_t i = 0; i + sizeof(word) <= noisy; i += sizeof(word)) {
        word = zc_mix64(word);
        memcpy(page + i, &word, sizeof(word));
    }
    memcpy(page, &seed, sizeof(seed));
}

/* ---- the workers ---- */

static size_t pick(struct worker *worker, size_t p, struct zc_key *keys, size_t *numbers)
{
    size_t count = 1 + random_below(&worker->random, BATCH);
    size_t at = random_below(&worker->random, soak.keys), step = 1;

    if (random_percent(&worker->random, 50)) /* neighbours, or from everywhere */
        step = 1 + random_below(&worker->random, soak.keys / BATCH);
    for (size_t i = 0; i < count; i++) {
        numbers[i] = (at + i * step) % soak.keys;
        keys[i] = key_of(worker, p, numbers[i]);
    }
    return count;
}

static void put_some(struct worker *worker, size_t p)
{
    struct zc_key keys[BATCH];
    size_t numbers[BATCH];
    const void *pages[BATCH];
    uint64_t versions[BATCH];
    int32_t results[BATCH];
    size_t count = pick(worker, p, keys, numbers);

    for (size_t i = 0; i < count; i++) {
        char *page = worker->pages + i * soak.page_size;
        versions[i] = ++worker->next_version;
        make_page(page, &keys[i], p, versions[i]);
        pages[i] = page;
    }
    CHECK(zc_put_batch(soak.pools[p], keys, pages, count, 0, results, NULL) == 0);
    for (size_t i = 0; i < count; i++) {
        if (results[i] < 0 && results[i] != -ENOMEM)
            broken("%s: a put ended with %d", kinds[p].name, results[i]);
        worker->version[p][numbers[i]] = results[i] == ZC_STORED ? versions[i] : 0;
    }
    worker->ops[PUT] += count;
}

static uint64_t failed_reads(void)
{
    return soak.hits[READ_EIO] + soak.hits[GONE];
}

/* What a get of the key came to, `failed` reads of backing stores having failed before. */
static void judge(struct worker *worker, size_t p, size_t k, int result, const char *page,
                  uint64_t failed)
{
    struct zc_key key = key_of(worker, p, k);
    uint64_t *version = &worker->version[p][k];

    if (result == -EIO && kinds[p].layout && *version && failed_reads() > failed) {
        worker->failed_reads++;
        return;
    }
    if (result == -ENOENT && kinds[p].kind == ZC_EPHEMERAL) {
        worker->lost_ephemeral += *version != 0;
        *version = 0;
        return;
    }
    if (result != (*version ? 0 : -ENOENT))
        broken("%s: a get of page %" PRIu64 "/%u ended with %d, it was put as version %" PRIu64,
               kinds[p].name, key.object, key.index, result, *version);
    if (result != 0)
        return;
    make_page(worker->expected, &key, p, *version);
    if (memcmp(page, worker->expected, soak.page_size) != 0)
        broken("%s: a get of page %" PRIu64 "/%u has other bytes than version %" PRIu64,
               kinds[p].name, key.object, key.index, *version);
    if (kinds[p].kind == ZC_EPHEMERAL)
        *version = 0;
}

static void get_some(struct worker *worker, size_t p)
{
    struct zc_key keys[BATCH];
    size_t numbers[BATCH];
    void *pages[BATCH];
    int32_t results[BATCH];
    size_t count = pick(worker, p, keys, numbers);
    uint64_t failed = failed_reads();

    for (size_t i = 0; i < count; i++)
        pages[i] = worker->pages + i * soak.page_size;
    CHECK(zc_get_batch(soak.pools[p], keys, pages, count, 0, results) == 0);
    for (size_t i = 0; i < count; i++)
        judge(worker, p, numbers[i], results[i], pages[i], failed);
    worker->ops[GET] += count;
}

static void flush_some(struct worker *worker, size_t p)
{
    struct zc_key keys[BATCH];
    size_t numbers[BATCH];
    int32_t results[BATCH];
    size_t count = pick(worker, p, keys, numbers);

    CHECK(zc_flush_page_batch(soak.pools[p], keys, count, results) == 0);
    for (size_t i = 0; i < count; i++) {
        uint64_t *version = &worker->version[p][numbers[i]];
        if (kinds[p].kind == ZC_PERSISTENT && results[i] != (*version ? 0 : -ENOENT))
            broken("%s: a flush ended with %d", kinds[p].name, results[i]);
        *version = 0;
    }
    worker->ops[FLUSH] += count;
}

static void flush_object(struct worker *worker, size_t p)
{
    if (kinds[p].layout && strcmp(kinds[p].layout, "in_place") == 0)
        return; /* it is not this worker's alone */
    CHECK(zc_flush_object(soak.pools[p], worker->number) >= 0);
    memset(worker->version[p], 0, soak.keys * sizeof(*worker->version[p]));
    worker->ops[FLUSH_OBJECT]++;
}

static void *work(void *arg)
{
    struct worker *worker = arg;

    while (!soak.is_over) {
        size_t p = random_below(&worker->random, POOLS);
        size_t what = random_below(&worker->random, 100000);

        while (soak.is_halted)
            sched_yield();
        pthread_rwlock_rdlock(&soak.running);
        if (what < 45000)
            put_some(worker, p);
        else if (what < 90000)
            get_some(worker, p);
        else if (what < 99999)
            flush_some(worker, p);
        else
            flush_object(worker, p);
        pthread_rwlock_unlock(&soak.running);
    }
    return NULL;
}

/* ---- disturbances ---- */

static zc_pool *some_pool(void)
{
    return soak.pools[random_below(&soak.random, POOLS)];
}

static void set(const char *name, const char *const *values, size_t count)
{
    CHECK(zc_pool_set_param(some_pool(), name, values[random_below(&soak.random, count)]) == 0);
}
#define SET(name, ...)                            \
    set(name, (const char *const[]){__VA_ARGS__}, \
        sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *))

static void change_limit(void)
{
    uint64_t limit =
        random_percent(&soak.random, 70) ? LIMIT : (8 + random_below(&soak.random, 120)) * MIB;

    CHECK(zc_store_set_limit(soak.store, limit) == 0);
}

static void change_thresholds(void)
{
    SET("zv_max_zsize", "7/8", "7/8", "1/2", "100%");
    SET("zv_max_mean_zsize", "5/8", "100%", "1/2");
    SET("checksums", "1", "1", "0");
    SET("keep_rejected", "0", "1");
    SET("entropy_gate", "0", "6400");
    SET("compact_auto", "1", "1", "0");
    zc_store_set_reserve(soak.store, random_below(&soak.random, 256));
}

static const char *const codecs[] = {"zstd:1", "none", "lz4:8", "lz4", "lz4"};
#define CODECS (sizeof(codecs) / sizeof(*codecs))

static void change_codec(void)
{
    CHECK(zc_pool_set_codec(some_pool(), codecs[random_below(&soak.random, CODECS)]) == 0);
}

static void compact(void)
{
    CHECK(zc_pool_compact(some_pool()) >= 0);
}

static void shrink(void)
{
    struct zc_reclaimed gone;
    zc_pool *pool = soak.pools[2 + random_below(&soak.random, 2)];

    CHECK(zc_pool_reclaim(pool, 1 + random_below(&soak.random, 2000), NULL, NULL, &gone) == 0);
}

static void change_cold_tier(void)
{
    SET("cold_after", "0", "1", "2");
    SET("cold_extent", "8", "8", "1", "4");
    SET("cold_readahead", "0", "1");
    SET("cold_cpu_percent", "10", "50");
}

static void recompress(void)
{
    struct zc_recompressed done;
    int error = zc_pool_recompress(some_pool(), 1 + random_below(&soak.random, 500), &done);

    CHECK(error == 0 || error == -ENOMEM);
    soak.recompressed += done.pages;
}

static void write_back(void)
{
    struct zc_written_back written;

    zc_pool_writeback(soak.pools[random_below(&soak.random, 2)],
                      1 + random_below(&soak.random, 4000), &written);
}

static void begin_fault(void)
{
    if (soak.fault_left)
        return;
    soak.fault = (int)(1 + soak.fault_turn++ % (FAULTS - 1));
    soak.fault_left = SHORT_FOR;
}

static void get_short(void)
{
    say_available(8);
    soak.short_left = SHORT_FOR;
}

static void check(void)
{
    char why[256];

    if (zc_store_check(soak.store, why, sizeof(why)) != 0)
        broken("check: %s", why);
}

static void stand_still(void)
{
    soak.is_halted = true;
    pthread_rwlock_wrlock(&soak.running);
    soak.is_halted = false;
}

static void go_on(void)
{
    pthread_rwlock_unlock(&soak.running);
}

static uint64_t used_bytes(void)
{
    struct zc_store_stats stats;

    zc_store_get_stats(soak.store, &stats);
    return stats.used_bytes;
}

/* Bytes that the OS counts. What the C library keeps of freed memory is not the store's. */
static uint64_t counted_bytes(void)
{
#ifdef __GLIBC__
    malloc_trim(0);
#endif
    return os_bytes();
}

/* Both beyond what they are of an empty store. */
static int64_t used_now(void)
{
    return (int64_t)(used_bytes() - soak.empty_used);
}

static int64_t counted_now(void)
{
    return (int64_t)(counted_bytes() - soak.empty_os);
}

/* used_bytes' difference from the OS, as a part of it; 0 where little is used. */
static double difference(void)
{
    int64_t used = used_now(), apart = counted_now() - used;

    return used < COMPARED ? 0 : (double)(apart < 0 ? -apart : apart) / (double)used;
}

/* used_bytes against the OS. Ready frames count as soon as they are ordered: what lasts is held against it. */
static void compare(void)
{
    stand_still();
    double least = difference();
    for (int i = 0; i < SETTLES && least > ALLOWED; i++) {
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
        double again = difference();
        least = again < least ? again : least;
    }
    soak.compared += used_now() >= COMPARED;
    go_on();
    soak.worst = least > soak.worst ? least : soak.worst;
}

/* Every page of the persistent pools; everything stands still, and no fault is to come. */
static void verify(void)
{
    for (size_t w = 0; w < WORKERS; w++) {
        struct worker *worker = &soak.workers[w];
        for (size_t p = 0; p < POOLS && worker->pages; p++) {
            for (size_t k = 0; k < soak.keys && kinds[p].kind == ZC_PERSISTENT; k++) {
                struct zc_key key = key_of(worker, p, k);
                int result =
                    zc_get(soak.pools[p], key.object, key.index, worker->pages, ZC_GET_PEEK);
                judge(worker, p, k, result, worker->pages, failed_reads());
            }
        }
    }
}

/* Ephemeral pages are gone; persistent ones are there, whether they were written back or not. */
static void restart(void)
{
    struct zc_saved saved;

    stand_still();
    soak.fault = NO_FAULT;
    soak.fault_left = 0;
    verify();
    int error = zc_store_save(soak.store, &saved);
    if (error || saved.lost)
        broken("stopping: %d, %" PRIu64 " pages are lost", error, saved.lost);
    for (size_t p = 0; p < POOLS; p++)
        zc_pool_release(soak.pools[p]);
    zc_store_destroy(soak.store);
    open_store(false);
    for (size_t w = 0; w < WORKERS; w++) {
        for (size_t p = 0; p < POOLS; p++) {
            if (kinds[p].kind == ZC_EPHEMERAL)
                memset(soak.workers[w].version[p], 0, soak.keys * sizeof(uint64_t));
        }
    }
    soak.restarts++;
    verify();
    go_on();
}

static const struct {
    void (*disturb)(void);
    unsigned weight;
} disturbances[] = {
    {change_limit, 6}, {change_thresholds, 8}, {change_codec, 6}, {compact, 6}, {shrink, 8},
    {write_back, 30},  {begin_fault, 25},      {get_short, 2},    {check, 4},   {compare, 12},
    {restart, 1},      {change_cold_tier, 4},  {recompress, 4},
};
#define DISTURBANCES (sizeof(disturbances) / sizeof(*disturbances))

static void disturb(void)
{
    unsigned total = 0;
    size_t i = 0;

    for (size_t d = 0; d < DISTURBANCES; d++)
        total += disturbances[d].weight;
    unsigned which = (unsigned)random_below(&soak.random, total);
    while (which >= disturbances[i].weight)
        which -= disturbances[i++].weight;
    disturbances[i].disturb();
    soak.disturbed++;
    if (soak.fault_left && --soak.fault_left == 0)
        soak.fault = NO_FAULT;
    if (soak.short_left && --soak.short_left == 0)
        say_available(900);
}

static void sample(double seconds)
{
    struct zc_store_stats stats;

    zc_store_get_stats(soak.store, &stats);
    int64_t used = used_now(), os = counted_now();
    soak.samples[soak.sample_count++] = (struct sample){
        seconds, used > 0 ? (uint64_t)used : 0, os > 0 ? (uint64_t)os : 0, stats.written_pages};
}

static void disturb_for(double seconds)
{
    double start = now();

    for (double spent = 0; spent < seconds; spent = now() - start) {
        if (spent >= seconds * (double)(soak.sample_count + 1) / (SAMPLES + 1) &&
            soak.sample_count < SAMPLES) {
            sample(spent);
            compare();
        }
        if (spent >= seconds / 2 && soak.restarts == 0)
            restart();
        disturb();
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
    }
}

/* ---- from beginning to end ---- */

static void start_workers(uint64_t seed)
{
    for (unsigned w = 0; w < WORKERS; w++) {
        struct worker *worker = &soak.workers[w];
        worker->number = w + 1;
        worker->random.state = zc_mix64(seed + worker->number);
        worker->pages = calloc(BATCH + 1, soak.page_size);
        CHECK(worker->pages);
        worker->expected = worker->pages + BATCH * soak.page_size;
        memset(worker->pages, 1, (BATCH + 1) * soak.page_size);
        for (size_t p = 0; p < POOLS; p++) {
            worker->version[p] = malloc(soak.keys * sizeof(uint64_t));
            CHECK(worker->version[p]);
            memset(worker->version[p], 1, soak.keys * sizeof(uint64_t)); /* resident from now on */
            memset(worker->version[p], 0, soak.keys * sizeof(uint64_t));
        }
    }
    for (unsigned w = 0; w < WORKERS; w++)
        CHECK(pthread_create(&soak.workers[w].thread, NULL, work, &soak.workers[w]) == 0);
}

static void flush_all(void)
{
    for (size_t p = 0; p < POOLS; p++) {
        for (uint64_t object = 0; object <= WORKERS; object++)
            CHECK(zc_flush_object(soak.pools[p], object) >= 0);
        for (unsigned w = 0; w < WORKERS; w++)
            memset(soak.workers[w].version[p], 0, soak.keys * sizeof(uint64_t));
    }
}

/* What an empty store uses, once all code has run, and every thread has its stack. */
static void warm_up(void)
{
    struct zc_written_back written;

    for (size_t c = 0; c < CODECS; c++) {
        for (size_t p = 0; p < POOLS; p++)
            CHECK(zc_pool_set_codec(soak.pools[p], codecs[c]) == 0);
        nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    }
    CHECK(zc_pool_writeback(soak.pools[0], 100, &written) == 0);
    restart(); /* without the states of all these codecs */
    soak.restarts = 0;
    stand_still();
    flush_all();
    soak.empty_used = used_bytes();
    soak.empty_os = counted_bytes();
    go_on();
}

/* Every page once more; then everything goes. Returns what the OS then counts beyond used_bytes. */
static uint64_t finish(void)
{
    soak.is_over = true;
    for (unsigned w = 0; w < WORKERS; w++)
        pthread_join(soak.workers[w].thread, NULL);
    soak.fault = NO_FAULT;
    for (unsigned w = 0; w < WORKERS; w++) {
        struct worker *worker = &soak.workers[w];
        for (size_t p = 0; p < POOLS; p++) {
            for (size_t k = 0; k < soak.keys; k++) {
                struct zc_key key = key_of(worker, p, k);
                int result = zc_get(soak.pools[p], key.object, key.index, worker->pages, 0);
                judge(worker, p, k, result, worker->pages, failed_reads());
            }
        }
        worker->ops[GET] += POOLS * soak.keys;
    }
    check();
    flush_all();
    int64_t left = counted_now() - used_now();
    return left > 0 ? (uint64_t)left : 0;
}

static void print(double seconds, uint64_t seed, uint64_t left)
{
    uint64_t ops[OPS] = {0}, lost = 0, failed = 0;

    for (unsigned w = 0; w < WORKERS; w++) {
        for (size_t o = 0; o < OPS; o++)
            ops[o] += soak.workers[w].ops[o];
        lost += soak.workers[w].lost_ephemeral;
        failed += soak.workers[w].failed_reads;
    }
    printf("{\"seconds\": %.0f, \"seed\": %" PRIu64 ", \"page_size\": %zu, \"ops\": {", seconds,
           seed, soak.page_size);
    for (size_t o = 0; o < OPS; o++)
        printf("%s\"%s\": %" PRIu64, o ? ", " : "", op_names[o], ops[o]);
    printf("}, \"faults\": {");
    for (size_t f = 1; f < FAULTS; f++)
        printf("%s\"%s\": %" PRIu64, f > 1 ? ", " : "", fault_names[f], soak.hits[f]);
    printf("}, \"gets_failed\": %" PRIu64 ", \"ephemeral_lost\": %" PRIu64
           ", \"disturbances\": %" PRIu64 ", \"restarts\": %" PRIu64 ", \"compared\": %" PRIu64
           ", \"recompressed\": %" PRIu64 ", \"worst_difference\": %.5f, \"left_bytes\": %" PRIu64
           ", \"curve\": [",
           failed, lost, soak.disturbed, soak.restarts, soak.compared, soak.recompressed,
           soak.worst, left);
    for (size_t i = 0; i < soak.sample_count; i++)
        printf("%s{\"seconds\": %.1f, \"used_bytes\": %" PRIu64 ", \"os_bytes\": %" PRIu64
               ", \"written_pages\": %" PRIu64 "}",
               i ? ", " : "", soak.samples[i].seconds, soak.samples[i].used, soak.samples[i].os,
               soak.samples[i].written_pages);
    printf("]}\n");
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fputs("zc_soak SECONDS SEED DIR KEYS\n", stderr);
        return 2;
    }
#ifdef __GLIBC__ /* as zcached does */
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_TRIM_THRESHOLD, 128 * 1024);
    mallopt(M_MMAP_THRESHOLD, 128 * 1024);
#endif
    double seconds = strtod(argv[1], NULL);
    uint64_t seed = strtoull(argv[2], NULL, 10);

    soak.directory = argv[3];
    soak.keys = strtoull(argv[4], NULL, 10);
    soak.page_size = (size_t)sysconf(_SC_PAGESIZE);
    soak.random.state = zc_mix64(seed);
    pthread_rwlock_init(&soak.running, NULL);
    make_proc();
    open_store(true);
    start_workers(seed);
    warm_up();
    disturb_for(seconds);
    uint64_t left = finish();
    print(seconds, seed, left);
    for (size_t p = 0; p < POOLS; p++)
        zc_pool_release(soak.pools[p]);
    zc_store_destroy(soak.store);
    return 0;
}
