/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zc_heap stress FAULTS WITH CODEC THREADS OPS SEED BUDGET
 *     Threads write and read pages of their own in shared regions, and hand them to system calls, pinned
 *     and not, while one of them ages, evicts, fetches, pins, recompresses, and changes the budget of, what
 *     all use. Each page says where it is and how often it was written, and its owner knows both. OPS: of
 *     a thread, or e.g. 10s: for so long.
 * zc_heap rules FAULTS WITH       what the header says of system calls, fork, discarded memory, pins, ageing
 * zc_heap refused FAULTS WITH     of pages that the pool does not take
 * zc_heap full FAULTS WITH        of a pool that is full of what came back
 * zc_heap lost FAULTS WITH        of a damaged page; touches it at last
 * zc_heap signals FAULTS WITH     handlers that touch the memory
 * zc_heap delegated FAULTS WITH STORE   pages that a signal handler may not get itself; STORE: a new file
 * zc_heap handed-on               SIGBUS that is no heap's
 * zc_heap forbidden PERM|NOSYS    a system without userfaultfd
 *
 * FAULTS: thread, sigbus, or caller. WITH: move; remap: without UFFDIO_MOVE; bare: and without UFFDIO_POISON.
 * Prints a line, with what the kernel offered and was used, and ends with 0, or says what broke.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <zcache/heap.h>

#include "check.h"
#include "heap/inside.h"
#include "store/pool.h"

#define REGIONS 3u
#define PAGES 700u /* of a region */

static zc_heap *the_heap; /* the handler's */

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (zc_heap_fault(the_heap, info->si_addr) != 0)
        signal(number, SIG_DFL);
}

struct setup {
    zc_store *store;
    zc_pool *pool;
    zc_heap *heap;
    size_t page_size;
    char why[300];
    int error; /* of zc_heap_create() */
    uint64_t ops, calls, failed_calls;
};

static enum zc_heap_faults faults_of(const char *how)
{
    if (strcmp(how, "thread") == 0)
        return ZC_HEAP_BY_THREAD;
    return strcmp(how, "sigbus") == 0 ? ZC_HEAP_BY_SIGBUS : ZC_HEAP_BY_CALLER;
}

static unsigned without_of(const char *with)
{
    if (strcmp(with, "move") == 0)
        return 0;
    return ZC_HEAP_WITHOUT_MOVE | (strcmp(with, "bare") == 0 ? ZC_HEAP_WITHOUT_POISON : 0);
}

static struct setup try_to_set_up(const char *how, const char *with, const char *codec,
                                  uint64_t budget, uint64_t limit)
{
    struct zc_store_config store = {.limit = limit};
    struct zc_pool_config pool = {
        .name = "heap", .kind = ZC_PERSISTENT, .allocator = "zsmalloc", .codec = codec};
    struct zc_heap_config heap = {
        .budget = budget, .faults = faults_of(how), .without = without_of(with)};
    struct setup setup = {.page_size = (size_t)sysconf(_SC_PAGESIZE)};
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};

    sigfillset(&action.sa_mask);
    CHECK(zc_store_create(&store, &setup.store) == 0);
    CHECK(zc_pool_create(setup.store, &pool, &setup.pool) == 0);
    setup.error = zc_heap_create(setup.pool, &heap, &setup.heap, setup.why, sizeof(setup.why));
    the_heap = setup.heap;
    if (heap.faults == ZC_HEAP_BY_CALLER)
        sigaction(SIGBUS, &action, NULL);
    return setup;
}

static struct setup set_up(const char *how, const char *with, const char *codec, uint64_t budget,
                           uint64_t limit)
{
    struct setup setup = try_to_set_up(how, with, codec, budget, limit);

    if (setup.error) {
        fprintf(stderr, "%s\n", setup.why);
        exit(1);
    }
    return setup;
}

static struct zc_heap_stats stats_of(const struct setup *setup)
{
    struct zc_heap_stats stats;

    zc_heap_get_stats(setup->heap, &stats);
    return stats;
}

static void take_down(struct setup *setup)
{
    struct zc_heap_stats stats = stats_of(setup);
    char why[200] = "";

    printf("%" PRIu64 " new, %" PRIu64 " waiting, %" PRIu64 " stored, %" PRIu64
           " delegated, %" PRIu64 " evicted, %" PRIu64 " refused, %d move, %d poison, %" PRIu64
           " ops, %" PRIu64 " calls, %" PRIu64 " failed\n",
           stats.faults_new, stats.faults_waiting, stats.faults_stored, stats.faults_delegated,
           stats.evicted, stats.refused, setup->heap->uffd.can_move, setup->heap->uffd.can_poison,
           setup->ops, setup->calls, setup->failed_calls);
    CHECK(stats.lost == 0);
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
    unsigned number, threads;
    uint64_t most_ops; /* 0: until then */
    uint64_t until_ns;
    uint64_t budget;
    struct random random;
    int file;     /* for its system calls */
    char *buffer; /* a page */
    uint64_t ops, calls, failed_calls;
    uint32_t writes[REGIONS][PAGES];
};

/* What a page is after so many writes: half of them compress. */
static uint64_t seed_of(size_t region, size_t page, uint32_t writes)
{
    return zc_mix64((uint64_t)region << 40 | (uint64_t)page << 20) + writes;
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

/* Did a system call take all of a page? One that is not pinned may have been away. */
static bool took_all(struct worker *worker, ssize_t done, bool is_pinned)
{
    if (done == (ssize_t)worker->setup->page_size)
        return true;
    CHECK(!is_pinned && (done >= 0 || errno == EFAULT));
    worker->failed_calls++;
    return false;
}

static void write_to_file(struct worker *worker, size_t region, size_t page, bool is_pinned)
{
    size_t size = worker->setup->page_size, written = filled(worker->setup, page);
    const char *at = worker->regions[region] + page * size;
    uint32_t writes = worker->writes[region][page];

    if (!took_all(worker, pwrite(worker->file, at, size, 0), is_pinned) || !writes)
        return;
    CHECK(pread(worker->file, worker->buffer, size, 0) == (ssize_t)size);
    CHECK(pattern_is(worker->buffer, written, seed_of(region, page, writes)));
}

static void read_from_file(struct worker *worker, size_t region, size_t page, bool is_pinned)
{
    size_t size = worker->setup->page_size, written = filled(worker->setup, page);
    char *at = worker->regions[region] + page * size;

    memset(worker->buffer, 0, size);
    pattern_fill(worker->buffer, written, seed_of(region, page, worker->writes[region][page] + 1));
    CHECK(pwrite(worker->file, worker->buffer, size, 0) == (ssize_t)size);
    if (took_all(worker, pread(worker->file, at, size, 0), is_pinned))
        worker->writes[region][page]++;
    else
        write_page(worker, region, page);
}

static void call_system(struct worker *worker, size_t region, size_t page)
{
    const char *at = worker->regions[region] + page * worker->setup->page_size;
    bool is_pinned = random_percent(&worker->random, 50);

    worker->calls++;
    if (is_pinned)
        CHECK(zc_heap_pin(worker->setup->heap, at, worker->setup->page_size) == 0);
    if (random_percent(&worker->random, 50))
        write_to_file(worker, region, page, is_pinned);
    else
        read_from_file(worker, region, page, is_pinned);
    if (is_pinned)
        CHECK(zc_heap_unpin(worker->setup->heap, at, worker->setup->page_size) == 0);
}

static void disturb(struct worker *worker)
{
    zc_heap *heap = worker->setup->heap;
    size_t page_size = worker->setup->page_size;
    size_t page = random_below(&worker->random, PAGES - 40);
    const char *at = worker->regions[random_below(&worker->random, REGIONS)] + page * page_size;
    size_t size = (1 + random_below(&worker->random, 40)) * page_size;

    switch (random_below(&worker->random, 7)) {
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
    case 5: {
        struct zc_recompressed out;
        CHECK(zc_pool_recompress(worker->setup->pool, 10, &out) == 0);
        break;
    }
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

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static bool is_over(const struct worker *worker)
{
    return worker->most_ops ? worker->ops >= worker->most_ops : now_ns() >= worker->until_ns;
}

static void *work(void *arg)
{
    struct worker *worker = arg;

    for (; !is_over(worker); worker->ops++) {
        size_t region = random_below(&worker->random, REGIONS);
        size_t page = random_below(&worker->random, PAGES / worker->threads) * worker->threads +
                      worker->number;
        if (random_percent(&worker->random, 10))
            call_system(worker, region, page);
        check_page(worker, region, page);
        if (random_percent(&worker->random, 40))
            write_page(worker, region, page);
        if (worker->number == 0 && random_percent(&worker->random, 5))
            disturb(worker);
    }
    return NULL;
}

static void start_worker(struct worker *worker, uint64_t seed)
{
    worker->random.state = zc_mix64(seed + worker->number);
    worker->file = memfd_create("page", MFD_CLOEXEC);
    worker->buffer = malloc(worker->setup->page_size);
    CHECK(worker->file >= 0 && worker->buffer);
    CHECK(pthread_create(&worker->thread, NULL, work, worker) == 0);
}

static void end_worker(struct worker *worker, struct setup *setup)
{
    pthread_join(worker->thread, NULL);
    setup->ops += worker->ops;
    setup->calls += worker->calls;
    setup->failed_calls += worker->failed_calls;
    close(worker->file);
    free(worker->buffer);
}

static int stress(char **arg)
{
    struct setup setup = set_up(arg[0], arg[1], arg[2], strtoull(arg[6], NULL, 10), 0);
    void *regions[REGIONS];
    char *unit;
    uint64_t most = strtoull(arg[4], &unit, 10);
    struct worker any = {
        .setup = &setup,
        .regions = (char *const *)regions,
        .threads = (unsigned)atoi(arg[3]),
        .most_ops = *unit == 's' ? 0 : most,
        .until_ns = now_ns() + most * 1000000000u,
        .budget = strtoull(arg[6], NULL, 10),
    };
    struct worker *workers = calloc(any.threads, sizeof(*workers));

    for (unsigned i = 0; i < REGIONS; i++)
        CHECK(zc_heap_map(setup.heap, PAGES * setup.page_size - i, &regions[i]) == 0);
    for (unsigned i = 0; i < any.threads; i++) {
        workers[i] = any;
        workers[i].number = i;
        start_worker(&workers[i], strtoull(arg[5], NULL, 10));
    }
    for (unsigned i = 0; i < any.threads; i++)
        end_worker(&workers[i], &setup);
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

static int end_of(pid_t child)
{
    int status;

    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    return status;
}

/* A child has nothing of it, and can let go of it. */
static void test_fork(struct setup *setup)
{
    void *at;

    CHECK(zc_heap_map(setup->heap, setup->page_size, &at) == 0);
    *(volatile char *)at = 1;
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        _exit(*(volatile char *)at);
    }
    int status = end_of(child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    child = fork();
    if (child == 0) {
        CHECK(zc_heap_fault(setup->heap, at) == -ENOENT);
        zc_heap_destroy(setup->heap);
        _exit(0);
    }
    CHECK(end_of(child) == 0);
    CHECK(*(volatile char *)at == 1);
    CHECK(zc_heap_unmap(setup->heap, at) == 0);
}

/* What is freed as a whole need be neither there nor unpinned, and no page of it is left in the pool. */
static void test_unmap(struct setup *setup)
{
    struct zc_pool_stats pool;
    void *at;

    CHECK(zc_heap_map(setup->heap, 40 * setup->page_size, &at) == 0);
    for (size_t i = 0; i < 40; i++)
        pattern_fill((char *)at + i * setup->page_size, 100, i);
    CHECK(zc_heap_pin(setup->heap, at, 3) == 0);
    CHECK(zc_heap_evict(setup->heap, at, 30 * setup->page_size) == 29);
    CHECK(zc_heap_unmap(setup->heap, (char *)at + setup->page_size) == -ENOENT);
    CHECK(zc_heap_unmap(setup->heap, at) == 0);
    zc_pool_get_stats(setup->pool, &pool);
    CHECK(pool.zpages + pool.same_filled == 0);
    struct zc_heap_stats stats = stats_of(setup);
    CHECK(stats.pinned_pages == 0 && stats.stored_pages == 0 && stats.mapped_bytes == 0);
}

struct visitor {
    const struct setup *setup;
    void *at;
};

static void *visit(void *arg)
{
    struct visitor *visitor = arg;

    CHECK(pattern_is(visitor->at, 100, 7));
    CHECK(zc_heap_pin(visitor->setup->heap, visitor->at, 1) == 0);
    return NULL;
}

/* What a thread has pinned is pinned after its end, and another may unpin it. */
static void test_threads_end(struct setup *setup)
{
    struct visitor visitor = {.setup = setup};
    pthread_t thread;

    CHECK(zc_heap_map(setup->heap, 1, &visitor.at) == 0);
    pattern_fill(visitor.at, 100, 7);
    for (int i = 0; i < 5; i++) {
        CHECK(zc_heap_evict(setup->heap, visitor.at, 1) == (i == 0));
        CHECK(pthread_create(&thread, NULL, visit, &visitor) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    for (int i = 0; i < 5; i++) {
        CHECK(zc_heap_evict(setup->heap, visitor.at, 1) == 0);
        CHECK(zc_heap_unpin(setup->heap, visitor.at, 1) == 0);
    }
    CHECK(zc_heap_evict(setup->heap, visitor.at, 1) == 1);
    CHECK(zc_heap_unpin(setup->heap, visitor.at, 1) == 0); /* changes nothing */
    CHECK(zc_heap_unmap(setup->heap, visitor.at) == 0);
}

/* It gets down to its budget, and no further. */
static void test_budget(struct setup *setup)
{
    size_t pages = 2000, budget = 300;
    void *at;

    zc_heap_set_budget(setup->heap, budget * setup->page_size);
    CHECK(stats_of(setup).budget_bytes == budget * setup->page_size);
    CHECK(zc_heap_map(setup->heap, pages * setup->page_size, &at) == 0);
    for (size_t i = 0; i < pages; i++)
        pattern_fill((char *)at + i * setup->page_size, 200, i);
    while (stats_of(setup).resident_pages > budget)
        usleep(1000);
    CHECK(stats_of(setup).resident_pages >= budget - 16);
    for (size_t i = 0; i < pages; i++)
        CHECK(pattern_is((char *)at + i * setup->page_size, 200, i));
    zc_heap_set_budget(setup->heap, 0);
    CHECK(zc_heap_prefetch(setup->heap, at, pages * setup->page_size) > 0);
    CHECK(stats_of(setup).resident_pages == pages);
    CHECK(zc_heap_unmap(setup->heap, at) == 0);
}

/* A page that the kernel may read or write at any time, as a buffer registered for I/O. Returns a descriptor, which keeps
 * it so; < 0: not here. */
static int hold_for_io(void *at, size_t size)
{
    struct io_uring_params params = {0};
    struct iovec buffer = {.iov_base = at, .iov_len = size};
    int ring = (int)syscall(SYS_io_uring_setup, 1, &params);

    if (ring < 0 || syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1) == 0)
        return ring;
    close(ring);
    return -1;
}

static size_t count_in_place(const struct setup *setup, void *at, size_t pages)
{
    unsigned char resident[ZC_RUN_PAGES];
    size_t count = 0;

    CHECK(pages <= ZC_RUN_PAGES && mincore(at, pages * setup->page_size, resident) == 0);
    for (size_t i = 0; i < pages; i++)
        count += resident[i] & 1;
    return count;
}

/* A page in the middle of a run that UFFDIO_MOVE leaves where it is, with those behind it. */
static void test_part_of_a_run(struct setup *setup)
{
    size_t pages = 20, held = 10;
    char *at;

    CHECK(zc_heap_map(setup->heap, pages * setup->page_size, (void **)&at) == 0);
    for (size_t i = 0; i < pages; i++)
        pattern_fill(at + i * setup->page_size, 200, i);
    int ring = hold_for_io(at + held * setup->page_size, setup->page_size);
    size_t before = stats_of(setup).resident_pages;
    int64_t evicted = zc_heap_evict(setup->heap, at, pages * setup->page_size);
    size_t stays = ring >= 0 && setup->heap->uffd.can_move; /* mremap takes it along */
    CHECK(evicted == (int64_t)(pages - stays));
    CHECK(count_in_place(setup, at, pages) == pages - (size_t)evicted);
    CHECK(stats_of(setup).resident_pages == before - (size_t)evicted);
    for (size_t i = 0; i < pages; i++)
        CHECK(pattern_is(at + i * setup->page_size, 200, i));
    if (ring >= 0)
        close(ring);
    CHECK(zc_heap_unmap(setup->heap, at) == 0);
}

/* Discarded pages are zeros, in their place and on their way out of it. */
static void test_discard(struct setup *setup)
{
    size_t size = 20 * setup->page_size;
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
    CHECK(stats_of(setup).waiting_pages > 0);
    for (size_t i = 0; i < size; i++)
        CHECK(((char *)at)[i] == 0);
    CHECK(zc_heap_unmap(setup->heap, at) == 0);
}

/* Two rounds put away what is not touched, and nothing else. */
static void test_age(struct setup *setup)
{
    size_t size = 64 * setup->page_size;
    int64_t stored = 0;
    void *at;

    CHECK(zc_heap_map(setup->heap, size, &at) == 0);
    for (size_t i = 0; i < 64; i++)
        pattern_fill((char *)at + i * setup->page_size, 200, i);
    for (int i = 0; i < 40; i++) {
        CHECK(pattern_is(at, 200, 0)); /* the first page is in use */
        stored += zc_heap_age(setup->heap);
    }
    struct zc_heap_stats stats = stats_of(setup);
    CHECK(stored == 63 && stats.stored_pages == 63);
    CHECK(stats.faults_waiting > 0);
    for (size_t i = 0; i < 64; i++)
        CHECK(pattern_is((char *)at + i * setup->page_size, 200, i));
    CHECK(zc_heap_unmap(setup->heap, at) == 0);
    stats = stats_of(setup);
    CHECK(stats.stored_pages == 0 && stats.resident_pages == 0 && stats.waiting_pages == 0);
}

static uint64_t pages_in_pool(const struct setup *setup)
{
    struct zc_pool_stats pool;

    zc_pool_get_stats(setup->pool, &pool);
    return pool.zpages + pool.same_filled;
}

/* What came back leaves the pool when faults pause, or is put over. */
static void test_copies(struct setup *setup)
{
    size_t size = 64 * setup->page_size;
    void *at;

    CHECK(zc_heap_map(setup->heap, size, &at) == 0);
    for (size_t round = 0; round < 3; round++) {
        for (size_t i = 0; i < 64; i++)
            pattern_fill((char *)at + i * setup->page_size, 200, i + round);
        CHECK(zc_heap_evict(setup->heap, at, size) == 64);
        for (size_t i = 0; i < 64; i++)
            CHECK(pattern_is((char *)at + i * setup->page_size, 200, i + round));
        CHECK(pages_in_pool(setup) <= 64);
    }
    while (pages_in_pool(setup) > 0)
        usleep(1000);
    for (size_t i = 0; i < 64; i++)
        CHECK(pattern_is((char *)at + i * setup->page_size, 200, i + 2));
    CHECK(zc_heap_unmap(setup->heap, at) == 0);
}

/* Touches page after page, forwards or backwards. Returns how many came with one that was touched. */
static uint64_t touch(struct setup *setup, const char *at, size_t pages, bool is_forwards)
{
    size_t size = pages * setup->page_size;
    struct zc_heap_stats before = stats_of(setup);

    for (size_t i = 0; i < pages; i++) {
        size_t page = is_forwards ? i : pages - 1 - i;
        CHECK(pattern_is(at + page * setup->page_size, 200, page));
    }
    CHECK(zc_heap_pin(setup->heap, at, size) == 0); /* the last fault is counted by now */
    CHECK(zc_heap_unpin(setup->heap, at, size) == 0);
    struct zc_heap_stats after = stats_of(setup);
    uint64_t ahead = after.read_ahead - before.read_ahead;
    CHECK(after.faults_stored - before.faults_stored == pages - ahead);
    return ahead;
}

/* Touched in order, 1, 2, 4, 8, 8… pages come at a time; else each comes alone. */
static void test_read_ahead(struct setup *setup)
{
    size_t pages = 64, size = pages * setup->page_size;
    char *at;

    CHECK(zc_heap_map(setup->heap, size, (void **)&at) == 0);
    for (size_t i = 0; i < pages; i++)
        pattern_fill(at + i * setup->page_size, 200, i);
    CHECK(zc_heap_evict(setup->heap, at, size) == 64);
    CHECK(touch(setup, at, pages, true) == 64 - 11);
    CHECK(zc_heap_evict(setup->heap, at, size) == 64);
    CHECK(touch(setup, at, pages, false) == 0);
    CHECK(zc_heap_evict(setup->heap, at, size) == 64);
    setup->heap->most_ahead = 1;
    CHECK(touch(setup, at, pages, true) == 0);
    setup->heap->most_ahead = ZC_AHEAD;
    CHECK(zc_heap_unmap(setup->heap, at) == 0);
}

static int rules(char **arg)
{
    struct setup setup = set_up(arg[0], arg[1], NULL, 0, 0);

    test_system_calls(&setup);
    test_new_pages(&setup);
    test_fork(&setup);
    test_unmap(&setup);
    test_threads_end(&setup);
    test_part_of_a_run(&setup);
    test_discard(&setup);
    test_copies(&setup);
    test_read_ahead(&setup);
    test_age(&setup);
    test_budget(&setup);
    take_down(&setup);
    return 0;
}

/* A pool that takes little: what it refuses stays, unchanged, and who touches is not held up for ever. */
static int refused(char **arg)
{
    struct setup setup =
        set_up(arg[0], arg[1], NULL, 100 * (uint64_t)sysconf(_SC_PAGESIZE), 1 << 20);
    size_t size = 1000 * setup.page_size;
    void *at;

    CHECK(zc_heap_map(setup.heap, size, &at) == 0);
    for (size_t i = 0; i < 1000; i++)
        pattern_fill((char *)at + i * setup.page_size, setup.page_size, i * setup.page_size);
    for (size_t i = 0; i < 1000; i++)
        CHECK(pattern_is((char *)at + i * setup.page_size, setup.page_size, i * setup.page_size));
    CHECK(stats_of(&setup).refused > 0);
    take_down(&setup);
    return 0;
}

/* A pool that is full of what came back has room for other pages. */
static int full(char **arg)
{
    struct setup setup = set_up(arg[0], arg[1], NULL, 0, 1 << 20);
    size_t size = 1000 * setup.page_size;
    void *at, *other;

    CHECK(zc_heap_map(setup.heap, size, &at) == 0 && zc_heap_map(setup.heap, size, &other) == 0);
    for (size_t i = 0; i < 1000; i++)
        pattern_fill((char *)at + i * setup.page_size, 2000, i);
    int64_t most = zc_heap_evict(setup.heap, at, size);
    CHECK(most > 100 && most < 1000);
    size = (size_t)most / 2 * setup.page_size;
    for (int i = 0; i < 3; i++) {
        CHECK(zc_heap_prefetch(setup.heap, at, 1000 * setup.page_size) > 0);
        memcpy(other, at, size);
        CHECK(zc_heap_evict(setup.heap, other, size) == most / 2);
        CHECK(zc_heap_prefetch(setup.heap, other, size) == most / 2);
        CHECK(memcmp(other, at, size) == 0);
        CHECK(zc_heap_evict(setup.heap, at, size) > 0);
    }
    take_down(&setup);
    return 0;
}

/* Damaged in the pool: who touches it gets SIGBUS, the others what they wrote. */
static int lost(char **arg)
{
    struct setup setup = set_up(arg[0], arg[1], NULL, 0, 0);
    void *at;

    CHECK(zc_heap_map(setup.heap, 2 * setup.page_size, &at) == 0);
    pattern_fill(at, 400, 1);
    pattern_fill((char *)at + setup.page_size, 400, 2);
    CHECK(zc_heap_evict(setup.heap, at, 2 * setup.page_size) == 2);
    CHECK(zc_debug_damage(setup.pool, 0, 0) == 0);
    CHECK(pattern_is((char *)at + setup.page_size, 400, 2));
    CHECK(zc_heap_prefetch(setup.heap, at, setup.page_size) == -EIO);
    CHECK(zc_heap_pin(setup.heap, at, 2 * setup.page_size) == -EIO);
    CHECK(stats_of(&setup).lost == 1 && stats_of(&setup).pinned_pages == 0);
    printf("touching it\n");
    fflush(stdout);
    return *(volatile char *)at;
}

/* ---- signals ---- */

static const char *volatile touched; /* by the handler */
static volatile sig_atomic_t touches;

static void on_alarm(int number)
{
    static struct random random;
    size_t page = random_below(&random, PAGES);

    (void)number;
    CHECK(pattern_is(touched + page * (size_t)sysconf(_SC_PAGESIZE), 64, page));
    touches++;
}

/* A handler touches memory while its thread is in a call of the heap's, or answers a fault itself. */
static int signals(char **arg)
{
    struct setup setup = set_up(arg[0], arg[1], NULL, 200 * (uint64_t)sysconf(_SC_PAGESIZE), 0);
    struct itimerval often = {{0, 300}, {0, 300}}, never = {{0, 0}, {0, 0}};
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    struct random random = {1};
    void *at, *other;

    CHECK(zc_heap_map(setup.heap, PAGES * setup.page_size, &at) == 0);
    for (size_t i = 0; i < PAGES; i++)
        pattern_fill((char *)at + i * setup.page_size, 64, i);
    touched = at;
    CHECK(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &often, NULL) == 0);
    while (touches < 200) {
        size_t page = random_below(&random, PAGES - 20);
        const char *here = (const char *)at + page * setup.page_size;
        CHECK(zc_heap_evict(setup.heap, here, 20 * setup.page_size) >= 0);
        CHECK(pattern_is(here, 64, page));
        CHECK(zc_heap_pin(setup.heap, here, 20 * setup.page_size) == 0);
        CHECK(zc_heap_unpin(setup.heap, here, 20 * setup.page_size) == 0);
        CHECK(zc_heap_prefetch(setup.heap, at, 50 * setup.page_size) >= 0);
        CHECK(zc_heap_map(setup.heap, setup.page_size, &other) == 0);
        *(volatile char *)other = 1;
        CHECK(zc_heap_unmap(setup.heap, other) == 0);
        CHECK(zc_heap_age(setup.heap) >= 0);
        stats_of(&setup);
    }
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    signal(SIGALRM, SIG_IGN);
    take_down(&setup);
    return 0;
}

static void put_away(struct setup *setup, void *at, size_t pages)
{
    for (size_t i = 0; i < pages; i++)
        pattern_fill((char *)at + i * setup->page_size, 400, i);
    CHECK(zc_heap_evict(setup->heap, at, pages * setup->page_size) == (int64_t)pages);
}

/* Returns how many of them a thread of the heap's had to get. */
static uint64_t delegations(struct setup *setup, const void *at, size_t pages)
{
    uint64_t before = stats_of(setup).faults_delegated;

    for (size_t i = 0; i < pages; i++)
        CHECK(pattern_is((const char *)at + i * setup->page_size, 400, i));
    return stats_of(setup).faults_delegated - before;
}

/* What there is to lend is lent; what takes memory, or is read, a handler leaves to the thread. */
static int delegated(char **arg)
{
    struct setup setup = set_up(arg[0], arg[1], "zstd", 0, 0);
    struct zc_pool_backing backing = {.path = arg[2], .size = 16 << 20};
    struct zc_recompressed cold;
    struct zc_written_back written;
    void *at;
    size_t pages = 16;

    CHECK(zc_pool_set_param(setup.pool, "cold_codec", "zstd:9") == 0);
    CHECK(zc_pool_set_backing(setup.pool, &backing, NULL, 0) == 0);
    CHECK(zc_heap_map(setup.heap, pages * setup.page_size, &at) == 0);
    put_away(&setup, at, pages);
    CHECK(delegations(&setup, at, pages) == 1);
    put_away(&setup, at, pages);
    CHECK(delegations(&setup, at, pages) == 0);

    put_away(&setup, at, pages);
    CHECK(zc_pool_recompress(setup.pool, 1000, &cold) == 0 && cold.pages == pages);
    CHECK(delegations(&setup, at, pages) == 1);

    put_away(&setup, at, pages);
    CHECK(zc_pool_writeback(setup.pool, 1000, &written) == 0 && written.pages == pages);
    CHECK(delegations(&setup, at, pages) == pages);
    take_down(&setup);
    return 0;
}

/* ---- SIGBUS that is no heap's ---- */

static sigjmp_buf back;
static const void *volatile told;
static volatile sig_atomic_t calls;

static void note(int number, siginfo_t *info, void *context)
{
    sigset_t blocked;

    (void)number;
    (void)context;
    pthread_sigmask(SIG_BLOCK, NULL, &blocked);
    CHECK(sigismember(&blocked, SIGBUS) == 1 && sigismember(&blocked, SIGUSR1) == 1);
    CHECK(sigismember(&blocked, SIGUSR2) == 0 && sigismember(&blocked, SIGTERM) == 1);
    told = info->si_addr;
    calls++;
    siglongjmp(back, 1);
}

static void note_once(int number)
{
    (void)number;
    calls++;
}

/* Behind the end of a file. */
static volatile char *bad_memory(void)
{
    int file = memfd_create("empty", MFD_CLOEXEC);
    CHECK(file >= 0);
    volatile char *at = mmap(NULL, 1, PROT_READ, MAP_SHARED, file, 0);
    CHECK(at != MAP_FAILED);
    close(file);
    return at;
}

/* A heap that works, with `handler` in front of it. */
static struct setup with_before(void (*handler)(int), void (*action)(int, siginfo_t *, void *),
                                int flags)
{
    struct sigaction before = {.sa_flags = flags};
    void *at;

    if (action)
        before.sa_sigaction = action;
    else
        before.sa_handler = handler;
    sigaddset(&before.sa_mask, SIGUSR1);
    CHECK(sigaction(SIGBUS, &before, NULL) == 0);
    struct setup setup = set_up("sigbus", "move", NULL, 0, 0);
    CHECK(zc_heap_map(setup.heap, setup.page_size, &at) == 0);
    put_away(&setup, at, 1);
    CHECK(delegations(&setup, at, 1) == 0);
    return setup;
}

/* With its address, with the signals blocked that it wants and that were, and it may jump out of it. */
static void to_a_handler(void)
{
    struct sigaction now;
    sigset_t term, after;

    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &term, NULL);
    struct setup setup = with_before(NULL, note, SA_SIGINFO);
    volatile char *bad = bad_memory();
    for (int i = 0; i < 3; i++)
        if (sigsetjmp(back, 1) == 0)
            CHECK(*bad == 0 && false);
    CHECK(calls == 3 && told == bad);
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    CHECK(sigismember(&after, SIGTERM) == 1 && sigismember(&after, SIGBUS) == 0);
    if (sigsetjmp(back, 1) == 0)
        raise(SIGBUS); /* also what somebody sent */
    CHECK(calls == 4);
    take_down(&setup);
    CHECK(sigaction(SIGBUS, NULL, &now) == 0 && now.sa_sigaction == note);
}

static void to_one_that_is_called_once(void)
{
    with_before(note_once, NULL, (int)SA_RESETHAND);
    raise(SIGBUS);
    CHECK(calls == 1);
    raise(SIGBUS);
}

static void to_nobody(void)
{
    with_before(SIG_DFL, NULL, 0);
    CHECK(*bad_memory() == 0 && false);
}

static void to_nobody_when_sent(void)
{
    with_before(SIG_DFL, NULL, 0);
    raise(SIGBUS);
}

static void to_who_ignores_it(void)
{
    with_before(SIG_IGN, NULL, 0);
    raise(SIGBUS);
    CHECK(*bad_memory() == 0 && false);
}

/* Of several heaps each has its own, and the last one restores. */
static void among_heaps(void)
{
    struct setup one = with_before(SIG_DFL, NULL, 0), two = set_up("sigbus", "remap", NULL, 0, 0);
    struct sigaction now;
    void *at;

    CHECK(zc_heap_map(two.heap, two.page_size, &at) == 0);
    put_away(&two, at, 1);
    take_down(&one);
    CHECK(delegations(&two, at, 1) == 0);
    take_down(&two);
    CHECK(sigaction(SIGBUS, NULL, &now) == 0 && now.sa_handler == SIG_DFL);
}

/* Who came later and hands on is left alone, and its heap may go. */
static void from_who_came_later(void)
{
    struct setup setup = with_before(SIG_DFL, NULL, 0);
    struct sigaction later = {.sa_sigaction = note, .sa_flags = SA_SIGINFO}, now;

    CHECK(sigaction(SIGBUS, &later, NULL) == 0);
    take_down(&setup);
    CHECK(sigaction(SIGBUS, NULL, &now) == 0 && now.sa_sigaction == note);
}

static int status_of(void (*run)(void))
{
    fflush(NULL);
    pid_t child = fork();

    if (child == 0) {
        run();
        fflush(NULL);
        _exit(0);
    }
    return end_of(child);
}

static bool dies(void (*run)(void))
{
    int status = status_of(run);

    return WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS;
}

static int handed_on(char **arg)
{
    (void)arg;
    CHECK(status_of(to_a_handler) == 0);
    CHECK(status_of(among_heaps) == 0);
    CHECK(status_of(from_who_came_later) == 0);
    CHECK(dies(to_one_that_is_called_once));
    CHECK(dies(to_nobody));
    CHECK(dies(to_nobody_when_sent));
    CHECK(dies(to_who_ignores_it));
    return 0;
}

/* ---- a system without userfaultfd ---- */

static void forbid_userfaultfd(unsigned error)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = 4, .filter = filter};

    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

/* Says why, and blocks can be kept all the same. */
static int forbidden(char **arg)
{
    int error = strcmp(arg[0], "PERM") == 0 ? EPERM : ENOSYS;
    char page[1 << 16], copy[1 << 16];

    forbid_userfaultfd((unsigned)error);
    struct setup setup = try_to_set_up("thread", "move", NULL, 0, 0);
    CHECK(setup.error == -error);
    printf("%s\n", setup.why);
    CHECK(setup.page_size <= sizeof(page));
    memset(page, 0, sizeof(page));
    pattern_fill(page, 500, 1);
    CHECK(zc_put(setup.pool, 1, 1, page, 0, NULL) == ZC_STORED);
    CHECK(zc_get(setup.pool, 1, 1, copy, 0) == 0);
    CHECK(memcmp(page, copy, setup.page_size) == 0);
    zc_pool_release(setup.pool);
    zc_store_destroy(setup.store);
    return 0;
}

int main(int argc, char **argv)
{
    const struct {
        const char *name;
        int args;
        int (*run)(char **arg);
    } commands[] = {
        {"stress", 7, stress},       {"rules", 2, rules},         {"refused", 2, refused},
        {"full", 2, full},           {"lost", 2, lost},           {"signals", 2, signals},
        {"delegated", 3, delegated}, {"handed-on", 0, handed_on}, {"forbidden", 1, forbidden},
    };

    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        if (argc == commands[i].args + 2 && strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argv + 2);
    fprintf(stderr, "usage: see the top of zc_heap.c\n");
    return 2;
}
