/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A read cache over a file, one request a line, one answer a line:
 *
 *   open PATH PAGE_SIZE READ_ONLY     ok size=N direct=0|1 read_only=0|1 discard=0|1, or err -errno: why
 *   buffered                          ok; from now on as where O_DIRECT does not work
 *   write AT SIZE ID                  0, or -errno; sector i of it gets the number ID + 2 * i
 *   read AT SIZE                      0 and the sectors' numbers, or -errno
 *   discard AT SIZE                   0, or -errno
 *   flush                             0, or -errno
 *   shrink FRAMES                     ok; of its pool
 *   cached                            pages of the source in the page cache
 *   stats                             name=value …
 *
 * A sector with an odd number does not compress, of others all words are the number: 0 is what is in a hole.
 *
 * zc_readcache stress PATH PAGE_SIZE OPS SEED: threads read, write and shrink at once, and no read may find less than
 * what was there before it began; says what was done.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "zcached/block/readcache.h"

#define SECTOR_WORDS (ZC_SECTOR / sizeof(uint64_t))
#define LINE_MAX_BYTES 1024

struct test {
    zc_store *store;
    zc_pool *pool;
    struct zc_source source;
    struct zc_readcache cache;
    bool is_open;
};

static void fill_sector(uint64_t *sector, uint64_t number)
{
    for (size_t i = 0; i < SECTOR_WORDS; i++)
        sector[i] = i > 0 && number % 2 ? zc_mix64(number * SECTOR_WORDS + i) : number;
}

/* As a transport's buffers are: at a page of the OS. */
static uint64_t *get_sectors(size_t size)
{
    void *sectors = NULL;

    CHECK(posix_memalign(&sectors, (size_t)sysconf(_SC_PAGESIZE), size ? size : 1) == 0);
    return sectors;
}

static int open_test(struct test *test, const char *path, size_t page_size, bool is_read_only,
                     struct zc_text *why)
{
    struct zc_store_config config = {.page_size = (uint32_t)page_size,
                                     .proc_dir = getenv("ZC_PROC")};
    struct zc_pool_config pool_config = {.name = "cache", .kind = ZC_EPHEMERAL};
    int error = zc_source_open(&test->source, path, is_read_only, page_size, why);

    if (error)
        return error;
    CHECK(zc_store_create(&config, &test->store) == 0);
    CHECK(zc_pool_create(test->store, &pool_config, &test->pool) == 0);
    CHECK(zc_pool_set_param(test->pool, "exclusive_gets", "0") == 0);
    CHECK(zc_readcache_init(&test->cache, test->pool, &test->source) == 0);
    test->is_open = true;
    return 0;
}

static void close_test(struct test *test)
{
    if (!test->is_open)
        return;
    zc_readcache_fini(&test->cache);
    zc_source_close(&test->source);
    zc_store_destroy(test->store);
    test->is_open = false;
}

/* ---- requests ---- */

static void answer_open(struct test *test, const char *path, size_t page_size, bool is_read_only)
{
    struct zc_text why = {0};
    int error = open_test(test, path, page_size, is_read_only, &why);

    if (error)
        printf("err %d: %s\n", error, why.data);
    else
        printf("ok size=%" PRIu64 " direct=%d read_only=%d discard=%d\n", test->source.size,
               test->source.direct >= 0, test->source.is_read_only, test->source.has_discard);
    zc_text_free(&why);
}

static void be_buffered(struct test *test)
{
    if (test->source.direct >= 0)
        close(test->source.direct);
    test->source.direct = -1;
    printf("ok\n");
}

static void write_sectors(struct test *test, uint64_t at, size_t size, uint64_t number)
{
    uint64_t *sectors = get_sectors(size);

    for (size_t i = 0; i < size / ZC_SECTOR; i++)
        fill_sector(sectors + i * SECTOR_WORDS, number + 2 * i);
    printf("%d\n", zc_readcache_write(&test->cache, at, sectors, size));
    free(sectors);
}

static void read_sectors(struct test *test, uint64_t at, size_t size)
{
    uint64_t *sectors = get_sectors(size), expected[SECTOR_WORDS];
    int error = zc_readcache_read(&test->cache, at, sectors, size);

    printf("%d", error);
    for (size_t i = 0; !error && i < size / ZC_SECTOR; i++) {
        const uint64_t *sector = sectors + i * SECTOR_WORDS;
        fill_sector(expected, sector[0]);
        CHECK(memcmp(sector, expected, sizeof(expected)) == 0);
        printf(" %" PRIu64, sector[0]);
    }
    printf("\n");
    free(sectors);
}

static void show_stats(struct test *test)
{
    struct zc_readcache_stats stats;

    zc_readcache_get_stats(&test->cache, &stats);
    printf("hits=%" PRIu64 " misses=%" PRIu64 " saved=%" PRIu64 " writes=%" PRIu64
           " discards=%" PRIu64 " flushes=%" PRIu64 " read_errors=%" PRIu64 " write_errors=%" PRIu64
           " raced=%" PRIu64 "\n",
           stats.hits, stats.misses, stats.saved, stats.writes, stats.discards, stats.flushes,
           stats.read_errors, stats.write_errors, stats.raced);
}

static void show_cached(const struct test *test)
{
    size_t size = (size_t)test->source.size, os_page = (size_t)sysconf(_SC_PAGESIZE), cached = 0;
    size_t pages = zc_div_up(size, os_page);
    unsigned char *resident = calloc(pages, 1);
    void *map = mmap(NULL, size, PROT_READ, MAP_SHARED, test->source.file, 0);

    CHECK(resident && map != MAP_FAILED && mincore(map, size, resident) == 0);
    for (size_t i = 0; i < pages; i++)
        cached += resident[i] & 1;
    printf("%zu\n", cached);
    munmap(map, size);
    free(resident);
}

static void shrink(struct test *test, size_t frames)
{
    struct zc_reclaimed reclaimed;

    CHECK(zc_pool_reclaim(test->pool, frames, NULL, NULL, &reclaimed) == 0);
}

static void answer(struct test *test, const char *line)
{
    char path[512];
    uint64_t at, size, number;
    int flag;

    if (sscanf(line, "open %511s %" SCNu64 " %d", path, &size, &flag) == 3) {
        answer_open(test, path, (size_t)size, flag);
    } else if (strcmp(line, "buffered\n") == 0) {
        be_buffered(test);
    } else if (sscanf(line, "write %" SCNu64 " %" SCNu64 " %" SCNu64, &at, &size, &number) == 3) {
        write_sectors(test, at, (size_t)size, number);
    } else if (sscanf(line, "read %" SCNu64 " %" SCNu64, &at, &size) == 2) {
        read_sectors(test, at, (size_t)size);
    } else if (sscanf(line, "discard %" SCNu64 " %" SCNu64, &at, &size) == 2) {
        printf("%d\n", zc_readcache_discard(&test->cache, at, size));
    } else if (strcmp(line, "flush\n") == 0) {
        printf("%d\n", zc_readcache_flush(&test->cache));
    } else if (sscanf(line, "shrink %" SCNu64, &number) == 1) {
        shrink(test, (size_t)number);
        printf("ok\n");
    } else if (strcmp(line, "cached\n") == 0) {
        show_cached(test);
    } else {
        CHECK(strcmp(line, "stats\n") == 0);
        show_stats(test);
    }
}

static void serve(struct test *test)
{
    char line[LINE_MAX_BYTES];

    while (fgets(line, sizeof(line), stdin)) {
        answer(test, line);
        fflush(stdout);
    }
}

/* ---- stress ---- */

#define PAGES 16u /* few, so that threads meet */
#define WRITERS 2u
#define READERS 3u

struct stress {
    struct test test;
    size_t page_size, sectors, ops;
    /* Of each sector, the number that a write is to give it, and the one that a write that has returned gave it. */
    _Atomic uint64_t *begun, *done;
    atomic_bool is_over;
};

struct worker {
    struct stress *stress;
    struct random random;
    unsigned number;
    pthread_t thread;
};

/* A page has one writer, who counts up by twos. */
static void *write_some(void *arg)
{
    struct worker *worker = arg;
    struct stress *stress = worker->stress;
    size_t each = stress->page_size / ZC_SECTOR;
    uint64_t *sectors = get_sectors(stress->page_size), number = 0;

    for (size_t i = 0; i < stress->ops; i++) {
        size_t page = random_below(&worker->random, PAGES / WRITERS) * WRITERS + worker->number;
        size_t from = random_below(&worker->random, each), first = page * each + from;
        size_t count = 1 + random_below(&worker->random, each - from);
        number += 2;
        for (size_t s = 0; s < count; s++) {
            fill_sector(sectors + s * SECTOR_WORDS, number);
            stress->begun[first + s] = number;
        }
        CHECK(zc_readcache_write(&stress->test.cache, (uint64_t)first * ZC_SECTOR, sectors,
                                 count * ZC_SECTOR) == 0);
        for (size_t s = 0; s < count; s++)
            stress->done[first + s] = number;
    }
    free(sectors);
    return NULL;
}

/* What is read while a write is under way may be of before and after it. */
static void check_words(const uint64_t *sector, uint64_t least, uint64_t most)
{
    for (size_t i = 0; i < SECTOR_WORDS; i++)
        CHECK(sector[i] >= least && sector[i] <= most);
}

static void read_span(struct stress *stress, size_t first, size_t count, uint64_t *sectors,
                      uint64_t *least)
{
    for (size_t s = 0; s < count; s++)
        least[s] = stress->done[first + s];
    CHECK(zc_readcache_read(&stress->test.cache, (uint64_t)first * ZC_SECTOR, sectors,
                            count * ZC_SECTOR) == 0);
    for (size_t s = 0; s < count; s++)
        check_words(sectors + s * SECTOR_WORDS, least[s], stress->begun[first + s]);
}

static void *read_some(void *arg)
{
    struct worker *worker = arg;
    struct stress *stress = worker->stress;
    uint64_t *sectors = get_sectors(stress->sectors * ZC_SECTOR);
    uint64_t *least = calloc(stress->sectors, sizeof(*least));

    CHECK(least);
    while (!stress->is_over) {
        size_t first = random_below(&worker->random, stress->sectors);
        size_t most = zc_min(stress->sectors - first, 3 * stress->page_size / ZC_SECTOR);
        read_span(stress, first, 1 + random_below(&worker->random, most), sectors, least);
    }
    free(least);
    free(sectors);
    return NULL;
}

static void *shrink_some(void *arg)
{
    struct worker *worker = arg;

    while (!worker->stress->is_over) {
        shrink(&worker->stress->test, 1);
        usleep(500);
    }
    return NULL;
}

static void run_threads(struct stress *stress, uint64_t seed)
{
    struct worker workers[WRITERS + READERS + 1];

    for (unsigned i = 0; i < WRITERS + READERS + 1; i++) {
        void *(*run)(void *) = i < WRITERS             ? write_some
                               : i < WRITERS + READERS ? read_some
                                                       : shrink_some;
        workers[i] = (struct worker){.stress = stress, .random = {seed + i}, .number = i};
        CHECK(pthread_create(&workers[i].thread, NULL, run, &workers[i]) == 0);
    }
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_join(workers[i].thread, NULL);
    stress->is_over = true;
    for (unsigned i = WRITERS; i < WRITERS + READERS + 1; i++)
        pthread_join(workers[i].thread, NULL);
}

/* Twice: from the source, then from the pool. */
static void check_all(struct stress *stress)
{
    uint64_t *sectors = get_sectors(stress->sectors * ZC_SECTOR);
    uint64_t *least = calloc(stress->sectors, sizeof(*least));

    CHECK(least);
    for (int i = 0; i < 2; i++)
        read_span(stress, 0, stress->sectors, sectors, least);
    for (size_t s = 0; s < stress->sectors; s++)
        CHECK(sectors[s * SECTOR_WORDS] == stress->done[s]);
    free(least);
    free(sectors);
}

static int stress_it(char **words)
{
    struct stress stress = {.page_size = (size_t)atoi(words[1]), .ops = (size_t)atoi(words[2])};
    struct zc_text why = {0};

    if (open_test(&stress.test, words[0], stress.page_size, false, &why) != 0) {
        fprintf(stderr, "%s\n", why.data);
        return 1;
    }
    CHECK(stress.test.source.size == PAGES * stress.page_size);
    stress.sectors = PAGES * stress.page_size / ZC_SECTOR;
    stress.begun = calloc(stress.sectors, sizeof(*stress.begun));
    stress.done = calloc(stress.sectors, sizeof(*stress.done));
    CHECK(stress.begun && stress.done);
    run_threads(&stress, strtoull(words[3], NULL, 10));
    check_all(&stress);
    show_stats(&stress.test);
    close_test(&stress.test);
    free(stress.begun);
    free(stress.done);
    return 0;
}

int main(int argc, char **argv)
{
    struct test test = {0};

    if (argc == 6 && strcmp(argv[1], "stress") == 0)
        return stress_it(argv + 2);
    serve(&test);
    close_test(&test);
    return 0;
}
