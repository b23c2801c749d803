/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A table larger than the memory it may take: a million counters, each in a line of its own, of which a few
 * are in use.
 *
 *   cc -D_GNU_SOURCE -Inative/include examples/heap.c -Lbuild/host -lzcache -o build/heap
 *   LD_LIBRARY_PATH=build/host build/heap
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <zcache/heap.h>

#define LINES 1000000u
#define LINE 64u /* bytes */
#define BUDGET (8u << 20)

static char *line_at(void *table, size_t i)
{
    return (char *)table + i * LINE;
}

static void fill(void *table)
{
    for (size_t i = 0; i < LINES; i++)
        snprintf(line_at(table, i), LINE, "counter %zu: %zu", i, i * i % 1000);
}

/* Of a few lines of each page, over and over: these pages stay in memory. */
static unsigned long work(void *table)
{
    unsigned long sum = 0;

    for (size_t round = 0; round < 100; round++)
        for (size_t i = 0; i < LINES / 20; i++)
            sum += (unsigned char)line_at(table, i)[8];
    return sum;
}

/* A system call is given memory that may have been put away: it is pinned meanwhile. */
static int print(zc_heap *heap, void *table, size_t i)
{
    const char *line = line_at(table, i);
    int error = zc_heap_pin(heap, line, LINE);

    if (error)
        return error;
    if (write(STDOUT_FILENO, line, strlen(line)) < 0 || write(STDOUT_FILENO, "\n", 1) < 0)
        error = -1;
    zc_heap_unpin(heap, line, LINE);
    return error;
}

static int run(zc_heap *heap, zc_pool *pool)
{
    struct zc_heap_stats stats;
    struct zc_pool_stats pool_stats;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *table;

    int error = zc_heap_map(heap, (size_t)LINES * LINE, &table);
    if (error)
        return error;
    fill(table);
    work(table);
    error = print(heap, table, 999999);
    usleep(50000); /* what came back last has left the pool by then */
    zc_heap_get_stats(heap, &stats);
    zc_pool_get_stats(pool, &pool_stats);
    printf("%" PRIu64 " KiB: %" PRIu64 " KiB in memory, %" PRIu64 " KiB in a pool of %" PRIu64
           " KiB\n",
           stats.mapped_bytes / 1024, stats.resident_pages * page / 1024,
           stats.stored_pages * page / 1024, pool_stats.used_bytes / 1024);
    zc_heap_unmap(heap, table);
    return error;
}

int main(void)
{
    struct zc_pool_config pool_config = {
        .name = "heap", .kind = ZC_PERSISTENT, .allocator = "zsmalloc", .codec = "lz4"};
    struct zc_heap_config heap_config = {.budget = BUDGET, .faults = ZC_HEAP_BY_SIGBUS};
    zc_store *store;
    zc_pool *pool;
    zc_heap *heap;
    char why[400] = "no store or pool";
    int error = 1;

    if (zc_store_create(NULL, &store) != 0)
        return 1;
    if (zc_pool_create(store, &pool_config, &pool) != 0)
        goto out_store;
    if (zc_heap_create(pool, &heap_config, &heap, why, sizeof(why)) != 0)
        goto out_pool;

    snprintf(why, sizeof(why), "out of memory");
    error = run(heap, pool);
    zc_heap_destroy(heap);
out_pool:
    zc_pool_release(pool);
out_store:
    zc_store_destroy(store);
    if (error)
        fprintf(stderr, "heap: %s\n", why);
    return error != 0;
}
