/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zc_heap stress helper|sigbus move|remap THREADS OPS SEED BUDGET
 *     Threads write and read pages of their own in shared regions, while one of them ages, evicts,
 *     fetches, pins, and changes the budget of, what all use. Each page says where it is and how often it
 *     was written, and its owner knows both.
 * zc_heap rules helper|sigbus move|remap
 *     What the header says of system calls, fork, discarded memory, pins, refused and lost pages.
 * Prints a line and ends with 0, or says what broke.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <zcache/heap.h>

#include "check.h"
#include "store/pool.h"

#define REGIONS 3u
#define PAGES 700u /* of a region */

static zc_heap *the_heap; /* the handler's */
static volatile sig_atomic_t foreign;

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    int error = zc_heap_fault(the_heap, info->si_addr);
    if (error == 0)
        return;
    foreign = error;
    signal(SIGBUS, SIG_DFL);
}

struct setup {
    zc_store *store;
    zc_pool *pool;
    zc_heap *heap;
    size_t page_size;
};

static struct setup set_up(const char *how, const char *with, uint64_t budget, uint64_t limit)
{
    struct zc_store_config store = {.limit = limit};
    struct zc_pool_config pool = {.name = "heap", .kind = ZC_PERSISTENT, .allocator = "zsmalloc"};
    struct zc_heap_config heap = {
        .budget = budget,
        .sigbus = strcmp(how, "sigbus") == 0,
        .without = strcmp(with, "remap") == 0 ? ZC_HEAP_WITHOUT_MOVE : 0,
    };
    struct setup setup = {.page_size = (size_t)sysconf(_SC_PAGESIZE)};
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER};
    char why[200] = "";

    CHECK(zc_store_create(&store, &setup.store) == 0);
    CHECK(zc_pool_create(setup.store, &pool, &setup.pool) == 0);
    if (zc_heap_create(setup.pool, &heap, &setup.heap, why, sizeof(why)) != 0) {
        fprintf(stderr, "%s\n", why);
        exit(1);
    }
    the_heap = setup.heap;
    if (heap.sigbus)
        sigaction(SIGBUS, &action, NULL);
    return setup;
}

static void take_down(struct setup *setup)
{
    struct zc_heap_stats stats;
    char why[200] = "";

    zc_heap_get_stats(setup->heap, &stats);
    printf("%" PRIu64 " new, %" PRIu64 " waiting, %" PRIu64 " stored, %" PRIu64 " evicted, %" PRIu64
           " refused\n",
           stats.faults_new, stats.faults_waiting, stats.faults_stored, stats.evicted,
           stats.refused);
    CHECK(zc_store_check(setup->store, why, sizeof(why)) == 0);
    zc_heap_destroy(setup->heap);
    zc_pool_release(setup->pool);
    zc_store_destroy(setup->store);
}

/* ---- stress ---- */

struct worker {
    const struct setup *setup;
    char *const *regions;
    pthread_t thread;
    unsigned number, threads, ops;
    uint64_t budget;
    struct random random;
    uint32_t writes[REGIONS][PAGES];
};

/* What a page is after so many writes: half of them compress. */
static uint64_t seed_of(size_t region, size_t page, uint32_t writes)
{
    return zc_mix64(region << 40 | page << 20) + writes;
}

static size_t filled(const struct setup *setup, size_t page)
{
    return page % 2 ? setup->page_size : 256;
}

static void write_page(struct worker *worker, size_t region, size_t page)
{
    char *at = worker->regions[region] + page * worker->setup->page_size;

    worker->writes[region][page]++;
    pattern_fill(at, filled(worker->setup, page),
                 seed_of(region, page, worker->writes[region][page]));
}

static void check_page(const struct worker *worker, size_t region, size_t page)
{
    const char *at = worker->regions[region] + page * worker->setup->page_size;
    uint32_t writes = worker->writes[region][page];

    if (writes) {
        CHECK(pattern_is(at, filled(worker->setup, page), seed_of(region, page, writes)));
        return;
    }
    for (size_t i = 0; i < worker->setup->page_size; i++)
        CHECK(at[i] == 0);
}

static void disturb(struct worker *worker)
{
    zc_heap *heap = worker->setup->heap;
    size_t page_size = worker->setup->page_size;
    size_t page = random_below(&worker->random, PAGES - 40);
    const char *at = worker->regions[random_below(&worker->random, REGIONS)] + page * page_size;
    size_t size = (1 + random_below(&worker->random, 40)) * page_size;

    switch (random_below(&worker->random, 6)) {
    case 0:
        CHECK(zc_heap_age(heap) >= 0);
        break;
    case 1:
        CHECK(zc_heap_evict(heap, at, size) >= 0);
        break;
    case 2:
        CHECK(zc_heap_prefetch(heap, at, size) >= 0);
        break;
    case 3:
        CHECK(zc_heap_pin(heap, at, size) == 0);
        CHECK(zc_heap_unpin(heap, at, size) == 0);
        break;
    case 4:
        zc_heap_set_budget(heap, worker->budget / (1 + random_below(&worker->random, 4)));
        break;
    default: {
        void *more;
        CHECK(zc_heap_map(heap, 50 * page_size, &more) == 0);
        for (size_t i = 0; i < 50; i++)
            memset((char *)more + i * page_size, 1, 1);
        CHECK(zc_heap_evict(heap, more, 25 * page_size) >= 0);
        CHECK(zc_heap_unmap(heap, more) == 0);
    }
    }
}

static void *work(void *arg)
{
    struct worker *worker = arg;

    for (unsigned i = 0; i < worker->ops; i++) {
        size_t region = random_below(&worker->random, REGIONS);
        size_t page = random_below(&worker->random, PAGES / worker->threads) * worker->threads +
                      worker->number;
        check_page(worker, region, page);
        if (random_percent(&worker->random, 40))
            write_page(worker, region, page);
        if (worker->number == 0 && random_percent(&worker->random, 5))
            disturb(worker);
    }
    return NULL;
}

static int stress(char **arg)
{
    struct setup setup = set_up(arg[0], arg[1], strtoull(arg[5], NULL, 10), 0);
    unsigned threads = (unsigned)atoi(arg[2]);
    struct worker *workers = calloc(threads, sizeof(*workers));
    void *regions[REGIONS];

    for (unsigned i = 0; i < REGIONS; i++)
        CHECK(zc_heap_map(setup.heap, PAGES * setup.page_size - i, &regions[i]) == 0);
    for (unsigned i = 0; i < threads; i++) {
        workers[i] = (struct worker){
            .setup = &setup,
            .regions = (char *const *)regions,
            .number = i,
            .threads = threads,
            .ops = (unsigned)atoi(arg[3]),
            .budget = strtoull(arg[5], NULL, 10),
            .random = {zc_mix64(strtoull(arg[4], NULL, 10) + i)},
        };
        CHECK(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
    }
    for (unsigned i = 0; i < threads; i++)
        pthread_join(workers[i].thread, NULL);
    take_down(&setup);
    free(workers);
    return 0;
}

/* ---- rules ---- */

static void test_system_calls(struct setup *setup)
{
    int null = open("/dev/zero", O_RDWR);
    void *at;

    CHECK(zc_heap_map(setup->heap, 8 * setup->page_size, &at) == 0);
    memset(at, 'x', 8 * setup->page_size);
    CHECK(zc_heap_evict(setup->heap, at, 8 * setup->page_size) == 8);
    CHECK(read(null, at, 10) == -1 && errno == EFAULT);
    CHECK(*(char *)at == 'x');
    CHECK(read(null, at, 10) == 10);
    CHECK(*(char *)at == 0);
    CHECK(zc_heap_pin(setup->heap, at, 8 * setup->page_size) == 0);
    CHECK(zc_heap_evict(setup->heap, at, 8 * setup->page_size) == 0);
    CHECK(read(null, at, 8 * setup->page_size) == (ssize_t)(8 * setup->page_size));
    CHECK(zc_heap_unpin(setup->heap, at, 8 * setup->page_size) == 0);
    CHECK(zc_heap_evict(setup->heap, at, 8 * setup->page_size) == 8);
    CHECK(zc_heap_prefetch(setup->heap, at, 8 * setup->page_size) == 8);
    CHECK(zc_heap_unmap(setup->heap, at) == 0);
    CHECK(zc_heap_unmap(setup->heap, at) == -ENOENT);
    CHECK(zc_heap_pin(setup->heap, at, 1) == -EFAULT);
    close(null);
}

/* Pins bring even pages that were never touched. */
static void test_new_pages(struct setup *setup)
{
    int null = open("/dev/zero", O_RDWR);
    void *at;

    CHECK(zc_heap_map(setup->heap, 1, &at) == 0);
    CHECK(read(null, at, 1) == -1 && errno == EFAULT);
    CHECK(zc_heap_pin(setup->heap, at, setup->page_size) == 0);
    CHECK(read(null, at, setup->page_size) == (ssize_t)setup->page_size);
    CHECK(zc_heap_pin(setup->heap, at, setup->page_size + 1) == -EFAULT);
    CHECK(zc_heap_unmap(setup->heap, at) == 0);
    close(null);
}

static void test_fork(struct setup *setup)
{
    void *at;
    int status;

    CHECK(zc_heap_map(setup->heap, setup->page_size, &at) == 0);
    *(volatile char *)at = 1;
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        _exit(*(volatile char *)at);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(!WIFEXITED(status) || WEXITSTATUS(status) != 1); /* a sanitizer exits for the signal */
    CHECK(*(volatile char *)at == 1);
    CHECK(zc_heap_unmap(setup->heap, at) == 0);
}

/* Discarded pages are zeros, in their place and on their way out of it. */
static void test_discard(struct setup *setup)
{
    size_t size = 20 * setup->page_size;
    struct zc_heap_stats stats;
    void *at;

    CHECK(zc_heap_map(setup->heap, size, &at) == 0);
    memset(at, 'x', size);
    CHECK(madvise(at, size, MADV_DONTNEED) == 0);
    CHECK(*(volatile char *)at == 0);
    CHECK(zc_heap_evict(setup->heap, at, size) == 20);
    for (size_t i = 0; i < size; i++)
        CHECK(((char *)at)[i] == 0);
    memset(at, 'y', size);
    CHECK(madvise(at, size, MADV_DONTNEED) == 0);
    zc_heap_age(setup->heap);
    zc_heap_age(setup->heap);
    zc_heap_get_stats(setup->heap, &stats);
    CHECK(stats.waiting_pages > 0);
    for (size_t i = 0; i < size; i++)
        CHECK(((char *)at)[i] == 0);
    CHECK(zc_heap_unmap(setup->heap, at) == 0);
}

/* Two rounds put away what is not touched, and nothing else. */
static void test_age(struct setup *setup)
{
    size_t size = 64 * setup->page_size;
    struct zc_heap_stats stats;
    int64_t stored = 0;
    void *at;

    CHECK(zc_heap_map(setup->heap, size, &at) == 0);
    for (size_t i = 0; i < 64; i++)
        pattern_fill((char *)at + i * setup->page_size, 200, i);
    for (int i = 0; i < 40; i++) {
        CHECK(pattern_is(at, 200, 0)); /* the first page is in use */
        stored += zc_heap_age(setup->heap);
    }
    zc_heap_get_stats(setup->heap, &stats);
    CHECK(stored == 63 && stats.stored_pages == 63);
    CHECK(stats.faults_waiting > 0);
    for (size_t i = 0; i < 64; i++)
        CHECK(pattern_is((char *)at + i * setup->page_size, 200, i));
    CHECK(zc_heap_unmap(setup->heap, at) == 0);
    zc_heap_get_stats(setup->heap, &stats);
    CHECK(stats.stored_pages == 0 && stats.resident_pages == 0 && stats.waiting_pages == 0);
}

static int rules(char **arg)
{
    struct setup setup = set_up(arg[0], arg[1], 0, 0);

    test_system_calls(&setup);
    test_new_pages(&setup);
    test_fork(&setup);
    test_discard(&setup);
    test_age(&setup);
    take_down(&setup);
    return 0;
}

/* A pool that takes little: what it refuses stays, unchanged, and who touches is not held up for ever. */
static int refused(char **arg)
{
    struct setup setup = set_up(arg[0], arg[1], 100 * (uint64_t)sysconf(_SC_PAGESIZE), 1 << 20);
    size_t size = 1000 * setup.page_size;
    struct zc_heap_stats stats;
    void *at;

    CHECK(zc_heap_map(setup.heap, size, &at) == 0);
    for (size_t i = 0; i < 1000; i++)
        pattern_fill((char *)at + i * setup.page_size, setup.page_size, i * setup.page_size);
    for (size_t i = 0; i < 1000; i++)
        CHECK(pattern_is((char *)at + i * setup.page_size, setup.page_size, i * setup.page_size));
    zc_heap_get_stats(setup.heap, &stats);
    CHECK(stats.refused > 0);
    take_down(&setup);
    return 0;
}

/* Damaged in the pool: who touches it gets SIGBUS, the others what they wrote. */
static int lost(char **arg)
{
    struct setup setup = set_up(arg[0], arg[1], 0, 0);
    struct zc_heap_stats stats;
    void *at;

    CHECK(zc_heap_map(setup.heap, 2 * setup.page_size, &at) == 0);
    pattern_fill(at, 400, 1);
    pattern_fill((char *)at + setup.page_size, 400, 2);
    CHECK(zc_heap_evict(setup.heap, at, 2 * setup.page_size) == 2);
    CHECK(zc_debug_damage(setup.pool, 0, 0) == 0);
    CHECK(pattern_is((char *)at + setup.page_size, 400, 2));
    CHECK(zc_heap_prefetch(setup.heap, at, setup.page_size) == -EIO);
    CHECK(zc_heap_pin(setup.heap, at, 2 * setup.page_size) == -EIO);
    zc_heap_get_stats(setup.heap, &stats);
    CHECK(stats.lost == 1 && stats.pinned_pages == 0);
    printf("touching it\n");
    fflush(stdout);
    return *(volatile char *)at;
}

int main(int argc, char **argv)
{
    if (argc == 8 && strcmp(argv[1], "stress") == 0)
        return stress(argv + 2);
    if (argc == 4 && strcmp(argv[1], "rules") == 0)
        return rules(argv + 2);
    if (argc == 4 && strcmp(argv[1], "refused") == 0)
        return refused(argv + 2);
    if (argc == 4 && strcmp(argv[1], "lost") == 0)
        return lost(argv + 2);
    fprintf(stderr, "usage: see the top of zc_heap.c\n");
    return 2;
}
