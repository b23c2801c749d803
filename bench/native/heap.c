/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A compressed heap and the kernel's swap on a zram device, on the same pages, in turns: what it takes to put a
 * page away, and to bring it back by touching it, in random order and one after another. The device is
 * swapped to already, alone.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <zcache/heap.h>

#include "base/base.h"
#include "bench.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21 /* Linux 5.4 */
#endif

#define PASSES 8u            /* until the kernel has put all away */
#define SWAPPED (1ull << 62) /* in /proc/PID/pagemap; Linux, admin-guide/mm/pagemap.rst */

enum { KERNEL, BY_THREAD, BY_SIGBUS, ALONE, SIDES };

static const char *const sides[SIDES] = {"kernel", "thread", "sigbus", "alone"};

/* ALONE: as BY_SIGBUS, but no page comes that was not touched. */
static const struct zc_heap_config configs[SIDES] = {
    [BY_THREAD] = {.faults = ZC_HEAP_BY_THREAD},
    [BY_SIGBUS] = {.faults = ZC_HEAP_BY_SIGBUS},
    [ALONE] = {.faults = ZC_HEAP_BY_SIGBUS, .ahead = 1},
};

struct run {
    const struct options *options;
    struct pages pages;
    uint32_t *random, *ascending; /* the pages in some order */
    double *out_ns[SIDES], *in_ns[SIDES], *in_order_ns[SIDES];
    uint64_t used[SIDES]; /* bytes, when all is put away */
};

static size_t bytes_of(const struct run *run)
{
    return run->pages.count * run->pages.page_size;
}

/* Touches every page, which brings it back. Nanoseconds a page. */
static double touch_all(const struct run *run, const char *memory, const uint32_t *order)
{
    double start = now_ns();

    for (size_t i = 0; i < run->pages.count; i++)
        (void)((const volatile char *)memory)[order[i] * run->pages.page_size];
    return (now_ns() - start) / (double)run->pages.count;
}

static void verify(const struct run *run, const char *memory, const char *who)
{
    if (memcmp(memory, run->pages.bytes, bytes_of(run)) != 0)
        die("a page does not come back as it was", who);
}

/* ---- the kernel ---- */

static uint64_t device_bytes(const struct run *run)
{
    return zram_use(run->options->device).total;
}

static size_t count_swapped(const struct run *run, const char *memory)
{
    size_t size = run->pages.count * sizeof(uint64_t), swapped = 0;
    uint64_t *map = get_memory(size);
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    off_t at = (off_t)((uintptr_t)memory / run->pages.page_size * sizeof(uint64_t));

    if (fd < 0 || pread(fd, map, size, at) != (ssize_t)size)
        die(strerror(errno), "/proc/self/pagemap");
    close(fd);
    for (size_t i = 0; i < run->pages.count; i++)
        swapped += (map[i] & SWAPPED) != 0;
    free(map);
    return swapped;
}

/* Nanoseconds a page. */
static double page_out(const struct run *run, char *memory)
{
    size_t swapped = 0;
    double spent = 0;

    for (unsigned pass = 0; pass < PASSES && swapped < run->pages.count; pass++) {
        double start = now_ns();
        madvise(memory, bytes_of(run), MADV_PAGEOUT);
        spent += now_ns() - start;
        swapped = count_swapped(run, memory);
    }
    if (swapped < run->pages.count / 100 * 99)
        die("the kernel does not put its pages away", run->options->device);
    return spent / (double)run->pages.count;
}

static void by_kernel(struct run *run, size_t round)
{
    size_t bytes = bytes_of(run);
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        die(strerror(errno), "memory");

    madvise(memory, bytes, MADV_NOHUGEPAGE);
    uint64_t before = device_bytes(run);
    memcpy(memory, run->pages.bytes, bytes);
    run->out_ns[KERNEL][round] = page_out(run, memory);
    run->used[KERNEL] = device_bytes(run) - before + ZRAM_ENTRY * (uint64_t)run->pages.count;
    run->in_ns[KERNEL][round] = touch_all(run, memory, run->random);
    verify(run, memory, "kernel");
    page_out(run, memory);
    run->in_order_ns[KERNEL][round] = touch_all(run, memory, run->ascending);
    verify(run, memory, "kernel");
    munmap(memory, bytes);
}

/* ---- the heap ---- */

/* Nanoseconds a page. */
static double evict(const struct run *run, zc_heap *heap, void *memory)
{
    touch_memory(bytes_of(run));
    double start = now_ns();
    int64_t put = zc_heap_evict(heap, memory, bytes_of(run));
    double spent = now_ns() - start;

    if (put < (int64_t)(run->pages.count / 100 * 99))
        die("it does not put its pages away", "heap");
    return spent / (double)run->pages.count;
}

static void by_heap(struct run *run, unsigned side, size_t round)
{
    zc_store *store = open_store(run->pages.page_size);
    uint64_t reserve, before = store_bytes(store, &reserve);
    zc_pool *pool = open_pool(store, run->options);
    void *memory;
    zc_heap *heap;
    char why[256];

    run_on_both(); /* the heap's threads */
    if (zc_heap_create(pool, &configs[side], &heap, why, sizeof(why)) != 0)
        die(why, "heap");
    run_on(THIS_CPU, 0);
    if (zc_heap_map(heap, bytes_of(run), &memory) != 0)
        die("no memory", "heap");
    memcpy(memory, run->pages.bytes, bytes_of(run));
    run->out_ns[side][round] = evict(run, heap, memory);
    run->used[side] = store_bytes(store, &reserve) - before;
    run->in_ns[side][round] = touch_all(run, memory, run->random);
    verify(run, memory, sides[side]);
    evict(run, heap, memory);
    run->in_order_ns[side][round] = touch_all(run, memory, run->ascending);
    verify(run, memory, sides[side]);
    zc_heap_destroy(heap);
    close_pool(pool);
    zc_store_destroy(store);
}

/* ---- all of it ---- */

static uint32_t *random_order(size_t count)
{
    uint32_t *order = get_memory(count * sizeof(*order));

    for (size_t i = 0; i < count; i++) {
        size_t other = zc_mix64(i) % (i + 1);
        order[i] = order[other];
        order[other] = (uint32_t)i;
    }
    return order;
}

static uint32_t *ascending_order(size_t count)
{
    uint32_t *order = get_memory(count * sizeof(*order));

    for (size_t i = 0; i < count; i++)
        order[i] = (uint32_t)i;
    return order;
}

static void print_side(const struct run *run, unsigned side)
{
    size_t rounds = run->options->rounds;

    print_series_of(sides[side], "_out_ns", run->out_ns[side], rounds);
    print_series_of(sides[side], "_in_ns", run->in_ns[side], rounds);
    print_series_of(sides[side], "_in_order_ns", run->in_order_ns[side], rounds);
    printf("\"%s_used_bytes\": %" PRIu64 "%s", sides[side], run->used[side],
           side + 1 < SIDES ? ", " : "}\n");
}

void heap(const struct options *options)
{
    struct run run = {.options = options};
    size_t rounds = options->rounds;

    pages_load(&run.pages, options, PAGES_STORED);
    run.random = random_order(run.pages.count);
    run.ascending = ascending_order(run.pages.count);
    for (unsigned side = 0; side < SIDES; side++) {
        run.out_ns[side] = get_memory(rounds * sizeof(double));
        run.in_ns[side] = get_memory(rounds * sizeof(double));
        run.in_order_ns[side] = get_memory(rounds * sizeof(double));
    }
    for (size_t round = 0; round < rounds; round++) {
        by_kernel(&run, round);
        for (unsigned side = KERNEL + 1; side < SIDES; side++)
            by_heap(&run, side, round);
    }
    printf("{\"pages\": %zu, ", run.pages.count);
    for (unsigned side = 0; side < SIDES; side++) {
        print_side(&run, side);
        free(run.out_ns[side]);
        free(run.in_ns[side]);
        free(run.in_order_ns[side]);
    }
    pages_free(&run.pages);
    free(run.random);
    free(run.ascending);
}
