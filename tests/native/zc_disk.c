/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk over a pool, one request a line, one answer a line:
 *
 *   disk PAGE_SIZE PAGES         ok
 *   set PARAM VALUE              ok; of its pool
 *   limit BYTES                  ok; of its store
 *   write AT SIZE ID             0, or -errno; sector i of it gets the number ID + 2 * i
 *   read AT SIZE                 0 and the sectors' numbers, or -errno
 *   discard AT SIZE              0, or -errno
 *   stats                        name=value …
 *   areas SIZE PAGE_SIZE PRIORITY    how a swap device of SIZE is split: the number of areas, bytes of each
 *
 * A sector with an odd number does not compress, of others all words are the number: 0 is what was never written.
 */
#include <inttypes.h>

#include "check.h"
#include "zcached/block/areas.h"
#include "zcached/block/disk.h"

#define SECTOR_WORDS (ZC_DISK_SECTOR / sizeof(uint64_t))
#define LINE_MAX 256

struct test {
    zc_store *store;
    struct zc_disk disk;
};

static void fill_sector(uint64_t *sector, uint64_t number)
{
    for (size_t i = 0; i < SECTOR_WORDS; i++)
        sector[i] = i > 0 && number % 2 ? zc_mix64(number * SECTOR_WORDS + i) : number;
}

static uint64_t *get_sectors(size_t size)
{
    uint64_t *sectors = malloc(size ? size : 1);

    CHECK(sectors);
    return sectors;
}

static void make(struct test *test, size_t page_size, uint64_t pages)
{
    struct zc_store_config config = {.page_size = (uint32_t)page_size,
                                     .proc_dir = getenv("ZC_PROC")};
    struct zc_pool_config pool_config = {.name = "disk", .kind = ZC_PERSISTENT};
    zc_pool *pool;

    CHECK(zc_store_create(&config, &test->store) == 0);
    CHECK(zc_pool_create(test->store, &pool_config, &pool) == 0);
    CHECK(zc_disk_init(&test->disk, pool, page_size, pages * page_size) == 0);
}

static void write_sectors(struct test *test, uint64_t at, size_t size, uint64_t number)
{
    uint64_t *sectors = get_sectors(size);

    for (size_t i = 0; i < size / ZC_DISK_SECTOR; i++)
        fill_sector(sectors + i * SECTOR_WORDS, number + 2 * i);
    printf("%d\n", zc_disk_write(&test->disk, at, sectors, size));
    free(sectors);
}

static void read_sectors(struct test *test, uint64_t at, size_t size)
{
    uint64_t *sectors = get_sectors(size), expected[SECTOR_WORDS];
    int error = zc_disk_read(&test->disk, at, sectors, size);

    printf("%d", error);
    for (size_t i = 0; !error && i < size / ZC_DISK_SECTOR; i++) {
        const uint64_t *sector = sectors + i * SECTOR_WORDS;
        fill_sector(expected, sector[0]);
        CHECK(memcmp(sector, expected, sizeof(expected)) == 0);
        printf(" %" PRIu64, sector[0]);
    }
    printf("\n");
    free(sectors);
}

static void show_stats(const struct test *test)
{
    struct zc_disk_stats stats;

    zc_disk_get_stats(&test->disk, &stats);
    printf("reads=%" PRIu64 " writes=%" PRIu64 " discards=%" PRIu64 " read_errors=%" PRIu64
           " write_errors=%" PRIu64 " held=%" PRIu64 "\n",
           stats.reads, stats.writes, stats.discards, stats.read_errors, stats.write_errors,
           stats.held);
}

static void show_areas(uint64_t size, uint64_t page_size, uint64_t priority)
{
    struct zc_areas areas;

    zc_areas_plan(&areas, size, (uint32_t)page_size, (int)priority);
    printf("%u %" PRIu64 "\n", areas.count, areas.each);
}

static void answer(struct test *test, const char *line)
{
    char name[64], value[64];
    uint64_t at, size, number;

    if (sscanf(line, "disk %" SCNu64 " %" SCNu64, &size, &number) == 2) {
        make(test, (size_t)size, number);
        printf("ok\n");
    } else if (sscanf(line, "set %63s %63s", name, value) == 2) {
        CHECK(zc_pool_set_param(test->disk.pool, name, value) == 0);
        printf("ok\n");
    } else if (sscanf(line, "limit %" SCNu64, &size) == 1) {
        CHECK(zc_store_set_limit(test->store, size) == 0);
        printf("ok\n");
    } else if (sscanf(line, "write %" SCNu64 " %" SCNu64 " %" SCNu64, &at, &size, &number) == 3) {
        write_sectors(test, at, (size_t)size, number);
    } else if (sscanf(line, "read %" SCNu64 " %" SCNu64, &at, &size) == 2) {
        read_sectors(test, at, (size_t)size);
    } else if (sscanf(line, "discard %" SCNu64 " %" SCNu64, &at, &size) == 2) {
        printf("%d\n", zc_disk_discard(&test->disk, at, size));
    } else if (sscanf(line, "areas %" SCNu64 " %" SCNu64 " %" SCNu64, &size, &number, &at) == 3) {
        show_areas(size, number, at);
    } else {
        CHECK(strcmp(line, "stats\n") == 0);
        show_stats(test);
    }
}

int main(void)
{
    struct test test = {0};
    char line[LINE_MAX];

    while (fgets(line, sizeof(line), stdin)) {
        answer(&test, line);
        fflush(stdout);
    }
    if (test.store) {
        zc_disk_fini(&test.disk);
        zc_store_destroy(test.store);
    }
    return 0;
}
