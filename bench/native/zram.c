/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A zram device and the store, on the same pages, in turns: time a page, memory used. The device is
 * written and read through O_DIRECT, so that it compresses in this thread, on this core; it is of the
 * pages' size or larger, and empty.
 *
 * Memory used is what the pages need: of the device, what its allocator holds and its table; of the
 * store, frames, metadata, and a frame for each page it refuses. The store's reserve is given apart.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "bench.h"

#define REQUEST_BYTES (1u << 20)

enum { PUT, PUT_CPU, GET, AGAIN, OPS };

static const char *const op_names[OPS] = {"_put_ns", "_put_cpu_ns", "_get_ns", "_again_ns"};

struct device {
    int fd;
    uint64_t size; /* bytes */
    const char *path;
};

/* One of those that take turns. */
struct side {
    const char *name;
    const char *allocator; /* NULL: the device */
    bool checksums;
};

static const struct side sides[] = {
    {"zram", NULL, false},
    {"zsmalloc", "zsmalloc", true},
    {"zsmalloc_plain", "zsmalloc", false},
    {"zbud", "zbud", true},
};

#define SIDES (sizeof(sides) / sizeof(*sides))

struct run {
    const struct options *options;
    struct device device;
    zc_store *store;
    size_t sides;
    char *room; /* REQUEST_BYTES that pages are read to */
};

/* ---- the device ---- */

static void device_open(struct device *device, const char *path)
{
    device->path = path;
    device->fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (device->fd < 0 || ioctl(device->fd, BLKGETSIZE64, &device->size) != 0)
        die(strerror(errno), path);
}

static void device_empty(const struct device *device)
{
    uint64_t range[2] = {0, device->size};

    if (ioctl(device->fd, BLKDISCARD, range) != 0)
        die(strerror(errno), "discard");
}

static double device_put(const struct device *device, const struct pages *pages)
{
    size_t bytes = pages->count * pages->page_size;
    double start = now_ns();

    for (size_t at = 0; at < bytes; at += REQUEST_BYTES) {
        size_t count = zc_min(REQUEST_BYTES, bytes - at);
        if (pwrite(device->fd, pages->bytes + at, count, (off_t)at) != (ssize_t)count)
            die(strerror(errno), "zram write");
    }
    return (now_ns() - start) / (double)pages->count;
}

static double device_get(const struct device *device, const struct pages *pages, char *room)
{
    size_t bytes = pages->count * pages->page_size;
    double start = now_ns();

    for (size_t at = 0; at < bytes; at += REQUEST_BYTES) {
        size_t count = zc_min(REQUEST_BYTES, bytes - at);
        if (pread(device->fd, room, count, (off_t)at) != (ssize_t)count)
            die(strerror(errno), "zram read");
    }
    return (now_ns() - start) / (double)pages->count;
}

static void device_verify(const struct device *device, const struct pages *pages, char *room)
{
    for (size_t i = 0; i < pages->count; i++) {
        if (pread(device->fd, room, pages->page_size, (off_t)(i * pages->page_size)) !=
                (ssize_t)pages->page_size ||
            memcmp(room, page_at(pages, i), pages->page_size) != 0)
            die("a page does not come back as it was", "zram");
    }
}

/* ---- the store ---- */

static zc_pool *open_side(const struct run *run, const struct side *side)
{
    struct options options = *run->options;

    options.allocator = side->allocator;
    options.checksums = side->checksums;
    return open_pool(run->store, &options);
}

/* ---- memory used ---- */

static void device_memory(const struct run *run, const struct pages *pages)
{
    device_put(&run->device, pages);
    device_verify(&run->device, pages, run->room);
    struct zram_use use = zram_use(run->device.path);
    device_empty(&run->device);
    printf("{\"used_bytes\": %" PRIu64 ", \"zbytes\": %" PRIu64 ", \"same_filled\": %" PRIu64
           ", \"huge\": %" PRIu64 "}",
           use.total + ZRAM_ENTRY * (uint64_t)pages->count, use.compressed, use.same_filled,
           use.huge);
}

/* Puts and verifies all; returns how many were refused. */
static uint64_t put_and_verify(zc_pool *pool, const struct pages *pages, char *room)
{
    uint64_t refused = 0;

    for (size_t i = 0; i < pages->count; i++) {
        int result = zc_put(pool, 1, (uint32_t)i, page_at(pages, i), 0, NULL);
        if (result != ZC_STORED) {
            refused++;
            continue;
        }
        if (zc_get(pool, 1, (uint32_t)i, room, ZC_GET_PEEK) != 0 ||
            memcmp(room, page_at(pages, i), pages->page_size) != 0)
            die("a page does not come back as it was", "store");
    }
    return refused;
}

static void store_memory(const struct run *run, const struct side *side, const struct pages *pages)
{
    struct zc_pool_stats stats;
    uint64_t reserve, before = store_bytes(run->store, &reserve);
    zc_pool *pool = open_side(run, side);

    uint64_t refused = put_and_verify(pool, pages, run->room);
    uint64_t bytes = store_bytes(run->store, &reserve) - before;
    zc_pool_get_stats(pool, &stats);
    close_pool(pool);
    printf("{\"used_bytes\": %" PRIu64 ", \"zbytes\": %" PRIu64 ", \"same_filled\": %" PRIu64
           ", \"refused\": %" PRIu64 ", \"frames\": %" PRIu64 ", \"metadata_bytes\": %" PRIu64
           ", \"zpages\": %" PRIu64 ", \"reserve_bytes\": %" PRIu64 "}",
           bytes + refused * pages->page_size, stats.zbytes, stats.same_filled, refused,
           stats.frames, stats.metadata_bytes, stats.zpages, reserve);
}

static void print_memory(const struct run *run, const char *name, enum which_pages which)
{
    struct pages pages;

    pages_load(&pages, run->options, which);
    printf("\"%s\": {\"pages\": %zu", name, pages.count);
    for (size_t s = 0; s < run->sides; s++) {
        printf(", \"%s\": ", sides[s].name);
        if (sides[s].allocator)
            store_memory(run, &sides[s], &pages);
        else
            device_memory(run, &pages);
    }
    printf("}, ");
    pages_free(&pages);
}

/* ---- times ---- */

static double process_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void device_turn(const struct run *run, const struct pages *pages, double ns[OPS])
{
    double start = process_ns();

    ns[PUT] = device_put(&run->device, pages);
    ns[PUT_CPU] = (process_ns() - start) / (double)pages->count;
    ns[GET] = device_get(&run->device, pages, run->room);
    ns[AGAIN] = device_put(&run->device, pages);
    device_empty(&run->device);
}

static void store_turn(const struct run *run, const struct side *side, const struct pages *pages,
                       double ns[OPS])
{
    zc_pool *pool = open_side(run, side);
    double start = process_ns();

    ns[PUT] = store_put(pool, pages);
    ns[PUT_CPU] = (process_ns() - start) / (double)pages->count;
    ns[GET] = store_get(pool, pages, run->room, REQUEST_BYTES / pages->page_size);
    ns[AGAIN] = store_put(pool, pages);
    close_pool(pool);
}

/* Who is first is another one each round. */
static void print_times(const struct run *run)
{
    struct pages pages;
    size_t rounds = run->options->rounds;
    double *series = calloc(SIDES * OPS * rounds, sizeof(*series));

    pages_load(&pages, run->options, PAGES_STORED);
    for (size_t r = 0; r < rounds; r++) {
        for (size_t turn = 0; turn < run->sides; turn++) {
            size_t s = (turn + r) % run->sides;
            double ns[OPS];
            if (sides[s].allocator)
                store_turn(run, &sides[s], &pages, ns);
            else
                device_turn(run, &pages, ns);
            for (size_t op = 0; op < OPS; op++)
                series[(s * OPS + op) * rounds + r] = ns[op];
        }
    }
    for (size_t i = 0; i < run->sides * OPS; i++)
        print_series_of(sides[i / OPS].name, op_names[i % OPS], series + i * rounds, rounds);
    printf("\"pages\": %zu", pages.count);
    pages_free(&pages);
    free(series);
}

void zram(const struct options *options)
{
    struct run run = {.options = options, .sides = options->only_device ? 1 : SIDES};

    device_open(&run.device, options->device);
    run.room = get_memory(REQUEST_BYTES);
    run.store = open_store(options->page_size);
    printf("{");
    print_memory(&run, "memory", PAGES_NOT_SAME_FILLED);
    print_memory(&run, "memory_with_same_filled", PAGES_ALL);
    print_times(&run);
    printf("}\n");
    zc_store_destroy(run.store);
    close(run.device.fd);
    free(run.room);
}
