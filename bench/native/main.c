/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Timings, as one JSON object on standard output. FILE is raw pages; same-filled ones are left out.
 *
 *   zc_bench inproc FILE PAGE_SIZE ROUNDS   LZ4 alone and the store, in turns, on the same pages;
 *                                           "again": over the pages already there, memory in use
 *   zc_bench socket FILE DIR POOL ROUNDS    LZ4 alone and a daemon's pool through its data socket
 *   zc_bench scale FILE PAGE_SIZE FEW MANY ROUNDS   put and get in a store of FEW and in one of MANY
 *                                           distinct pages, in turns, random keys, batches
 *   zc_bench used FILE PAGE_SIZE            used_bytes against the OS's count, with >= 64 MiB stored
 *
 * LZ4 alone is the store's own codec, state reused, into one packed buffer that is resident before.
 * Times are nanoseconds a page, one number a round.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <zcache/store.h>

#include "base/base.h"
#include "codec/codec.h"
#include "zcached/client.h"

#define BATCH 32u
#define IN_FLIGHT 4u
#define GET_SLOTS (BATCH * IN_FLIGHT)
#define THIS_CPU 0           /* who puts and gets */
#define OTHER_CPU 1          /* who makes memory ready; through the socket, the client too */
#define PROBES (160 * BATCH) /* puts, and gets, timed at a scale in a round */
#define USED_BYTES (UINT64_C(96) << 20)

struct pages {
    size_t page_size, count;
    char *bytes;
    char *room; /* for a batch of pages */
};

struct packed {
    struct zc_codec *codec;
    void *state;
    char *bytes; /* zpages one after another */
    uint32_t *sizes;
};

static _Noreturn void die(const char *what, const char *value)
{
    fprintf(stderr, "zc_bench: %s: %s\n", value, what);
    exit(1);
}

static double now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* A thread, 0: this one, and those it starts from now on. Cores differ, and a virtual machine's
 * scheduler may leave two busy threads on one; a machine of one core has no choice. */
static void run_on(unsigned cpu, pid_t thread)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(thread, sizeof(set), &set);
}

static char *page_at(const struct pages *pages, size_t i)
{
    return pages->bytes + i * pages->page_size;
}

static void load(struct pages *pages, const char *path, size_t page_size, size_t most)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) != 0)
        die(strerror(errno), path);
    pages->page_size = page_size;
    pages->room = aligned_alloc(page_size, BATCH * page_size);
    pages->bytes = aligned_alloc(page_size, zc_max((size_t)st.st_size, page_size));
    for (;;) {
        char *page = page_at(pages, pages->count);
        if (pages->count == most || read(fd, page, page_size) != (ssize_t)page_size)
            break;
        if (memcmp(page, page + 8, page_size - 8) != 0)
            pages->count++;
    }
    close(fd);
    if (!pages->count)
        die("it has no page", path);
}

/* ---- LZ4 alone ---- */

static void packed_init(struct packed *packed, const struct pages *pages)
{
    if (zc_codec_create("lz4", pages->page_size, NULL, NULL, &packed->codec, NULL) != 0)
        die("cannot be made", "lz4");
    packed->state = malloc(packed->codec->compressor_size);
    zc_compressor_init(packed->codec, packed->state);
    size_t room = pages->count * packed->codec->bound;
    packed->bytes = malloc(room);
    memset(packed->bytes, 1, room);
    packed->sizes = malloc(pages->count * sizeof(*packed->sizes));
}

static double packed_put(struct packed *packed, const struct pages *pages)
{
    char *to = packed->bytes;
    double start = now_ns();

    for (size_t i = 0; i < pages->count; i++) {
        packed->sizes[i] =
            (uint32_t)zc_compress(packed->codec, packed->state, page_at(pages, i), to);
        to += packed->sizes[i];
    }
    return (now_ns() - start) / (double)pages->count;
}

/* To `slots` pages in turns. */
static double packed_get(const struct packed *packed, const struct pages *pages, char *to,
                         size_t slots)
{
    const char *from = packed->bytes;
    double start = now_ns();

    for (size_t i = 0; i < pages->count; i++) {
        char *page = to + i % slots * pages->page_size;
        if (zc_decompress(packed->codec, NULL, from, packed->sizes[i], page) != 0)
            die("it does not decompress", "lz4");
        from += packed->sizes[i];
    }
    return (now_ns() - start) / (double)pages->count;
}

/* Leaves only pages that the default thresholds keep, so that both sides work on the same ones. */
static void keep_stored(struct pages *pages)
{
    struct packed packed;
    size_t kept = 0;

    packed_init(&packed, pages);
    packed_put(&packed, pages);
    for (size_t i = 0; i < pages->count; i++) {
        if (packed.sizes[i] <= pages->page_size / 8 * 7)
            memmove(page_at(pages, kept++), page_at(pages, i), pages->page_size);
    }
    pages->count = kept;
    free(packed.bytes);
    free(packed.state);
    zc_codec_destroy(packed.codec);
    free(packed.sizes);
}

/* ---- the store ---- */

static zc_store *open_store(size_t page_size)
{
    struct zc_store_config config = {.page_size = (uint32_t)page_size, .limit = UINT64_C(1) << 40};
    zc_store *store;

    run_on(OTHER_CPU, 0); /* the store's own thread */
    if (zc_store_create(&config, &store) != 0)
        die("no store of that page size", "page size");
    run_on(THIS_CPU, 0);
    return store;
}

static zc_pool *open_pool(zc_store *store)
{
    struct zc_pool_config config = {.name = "bench", .kind = ZC_PERSISTENT};
    zc_pool *pool;

    if (zc_pool_create(store, &config, &pool) != 0)
        die("cannot be created", "pool");
    zc_pool_set_param(pool, "zv_max_mean_zsize", "100%");
    zc_pool_set_param(pool, "zv_page_count_policy_percent", "100");
    return pool;
}

static double store_put(zc_pool *pool, const struct pages *pages)
{
    struct zc_key keys[BATCH];
    const void *list[BATCH];
    int32_t results[BATCH];
    double start = now_ns();

    for (size_t i = 0; i < pages->count; i += BATCH) {
        size_t count = zc_min(BATCH, pages->count - i);
        for (size_t k = 0; k < count; k++) {
            keys[k] = (struct zc_key){.object = 1, .index = (uint32_t)(i + k)};
            list[k] = page_at(pages, i + k);
        }
        zc_put_batch(pool, keys, list, count, results, NULL);
    }
    return (now_ns() - start) / (double)pages->count;
}

static double store_get(zc_pool *pool, const struct pages *pages, char *page)
{
    struct zc_key keys[BATCH];
    void *list[BATCH];
    int32_t results[BATCH];
    double start = now_ns();

    for (size_t i = 0; i < pages->count; i += BATCH) {
        size_t count = zc_min(BATCH, pages->count - i);
        for (size_t k = 0; k < count; k++) {
            keys[k] = (struct zc_key){.object = 1, .index = (uint32_t)(i + k)};
            list[k] = page;
        }
        zc_get_batch(pool, keys, list, count, ZC_GET_PEEK, results);
        for (size_t k = 0; k < count; k++) {
            if (results[k] != 0)
                die("a stored page is not there", "store");
        }
    }
    return (now_ns() - start) / (double)pages->count;
}

static void print_series(const char *name, const double *series, size_t count)
{
    printf("\"%s\": [", name);
    for (size_t i = 0; i < count; i++)
        printf("%s%.1f", i ? ", " : "", series[i]);
    printf("], ");
}

static void inproc(const char *file, size_t page_size, size_t rounds)
{
    struct pages pages = {0};
    struct packed packed;
    double *series = calloc(5 * rounds, sizeof(*series));
    struct zc_pool_stats stats;

    load(&pages, file, page_size, SIZE_MAX);
    keep_stored(&pages);
    packed_init(&packed, &pages);
    char *page = aligned_alloc(page_size, page_size);
    zc_store *store = open_store(page_size);
    for (size_t r = 0; r < rounds; r++) {
        zc_pool *pool = open_pool(store);
        series[r] = packed_put(&packed, &pages);
        series[rounds + r] = store_put(pool, &pages);
        series[2 * rounds + r] = packed_get(&packed, &pages, page, 1);
        series[3 * rounds + r] = store_get(pool, &pages, page);
        series[4 * rounds + r] = store_put(pool, &pages);
        zc_pool_get_stats(pool, &stats);
        zc_pool_destroy(pool);
        zc_pool_release(pool);
    }
    printf("{");
    print_series("lz4_put_ns", series, rounds);
    print_series("store_put_ns", series + rounds, rounds);
    print_series("again_put_ns", series + 4 * rounds, rounds);
    print_series("lz4_get_ns", series + 2 * rounds, rounds);
    print_series("store_get_ns", series + 3 * rounds, rounds);
    printf("\"pages\": %zu, \"zbytes\": %" PRIu64 ", \"frames\": %" PRIu64
           ", \"metadata_bytes\": %" PRIu64 "}\n",
           pages.count, stats.zbytes, stats.frames, stats.metadata_bytes);
    zc_store_destroy(store);
}

/* ---- the socket ---- */

/* All pages by batches, up to IN_FLIGHT under way; puts come from their own slots. */
static double socket_walk(struct zc_client *client, enum zc_op op, uint32_t pool, size_t pages)
{
    struct zc_result results[BATCH];
    size_t batches = zc_div_up(pages, BATCH);
    double start = now_ns();

    for (size_t sent = 0, received = 0; received < batches;) {
        while (sent < batches && sent - received < IN_FLIGHT) {
            struct zc_wire_key key = {.object = 1, .index = (uint32_t)(sent * BATCH), .pool = pool};
            size_t slot = op == ZC_OP_PUT ? GET_SLOTS + sent * BATCH : sent % IN_FLIGHT * BATCH;
            if (zc_client_send(client, op, op == ZC_OP_GET ? ZC_F_PEEK : 0, &key, slot,
                               zc_min(BATCH, pages - sent * BATCH)) != 0)
                die("it does not take a request", "socket");
            sent++;
        }
        size_t count = zc_min(BATCH, pages - received * BATCH);
        if (zc_client_receive(client, results, count, NULL) != 0)
            die("it does not answer", "socket");
        for (size_t i = 0; i < count; i++) {
            if (results[i].status != 0)
                die("a page was refused or lost", "socket");
        }
        received++;
    }
    return (now_ns() - start) / (double)pages;
}

/* The daemon's threads; the one of this connection is the only one of its name. */
static void pin_daemon(const struct zc_client *client)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    char path[64], name[16];

    if (getsockopt(client->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0)
        die(strerror(errno), "daemon");
    snprintf(path, sizeof(path), "/proc/%d/task", (int)peer.pid);
    DIR *tasks = opendir(path);
    for (struct dirent *task; tasks && (task = readdir(tasks));) {
        snprintf(path, sizeof(path), "/proc/%d/task/%.20s/comm", (int)peer.pid, task->d_name);
        FILE *comm = fopen(path, "re");
        if (!comm)
            continue;
        if (fgets(name, sizeof(name), comm))
            run_on(strncmp(name, "zc-data", 7) == 0 ? THIS_CPU : OTHER_CPU, atoi(task->d_name));
        fclose(comm);
    }
    if (tasks)
        closedir(tasks);
}

static void over_socket(const char *file, const char *dir, const char *name, size_t rounds)
{
    struct pages pages = {0};
    struct packed packed;
    struct zc_client client;
    struct zc_result result;
    double *series = calloc(4 * rounds, sizeof(*series));
    uint32_t pool;

    load(&pages, file, (size_t)sysconf(_SC_PAGESIZE), 12000);
    keep_stored(&pages);
    packed_init(&packed, &pages);
    char *slots = aligned_alloc(pages.page_size, GET_SLOTS * pages.page_size);
    if (zc_client_open(&client, dir, GET_SLOTS + pages.count) != 0 ||
        zc_client_pool(&client, name, &pool) != 0)
        die("no daemon, or no such pool", dir);
    pin_daemon(&client);
    memcpy(client.segment + GET_SLOTS * client.page_size, pages.bytes,
           pages.count * pages.page_size);

    struct zc_wire_key key = {.object = 1, .pool = pool};
    for (size_t r = 0; r < rounds; r++) {
        run_on(THIS_CPU, 0);
        series[r] = packed_put(&packed, &pages);
        run_on(OTHER_CPU, 0);
        series[rounds + r] = socket_walk(&client, ZC_OP_PUT, pool, pages.count);
        run_on(THIS_CPU, 0);
        series[2 * rounds + r] = packed_get(&packed, &pages, slots, GET_SLOTS);
        run_on(OTHER_CPU, 0);
        series[3 * rounds + r] = socket_walk(&client, ZC_OP_GET, pool, pages.count);
        zc_client_send(&client, ZC_OP_FLUSH_OBJECT, 0, &key, 0, 1);
        zc_client_receive(&client, &result, 1, NULL);
    }
    printf("{");
    print_series("lz4_put_ns", series, rounds);
    print_series("socket_put_ns", series + rounds, rounds);
    print_series("lz4_get_ns", series + 2 * rounds, rounds);
    print_series("socket_get_ns", series + 3 * rounds, rounds);
    printf("\"pages\": %zu}\n", pages.count);
    zc_client_close(&client);
}

/* ---- scale ---- */

/* Page `i` of any number of distinct ones: a real page with its number stamped into it. */
static const char *distinct(const struct pages *pages, uint64_t i, char *page)
{
    memcpy(page, page_at(pages, i % pages->count), pages->page_size);
    for (size_t at = 0; at < pages->page_size; at += 1024)
        memcpy(page + at, &i, sizeof(i));
    return page;
}

/* Distinct for distinct i: zc_mix64 is a bijection, and its bits are split over the key. */
static void key_of(uint64_t i, uint64_t *object, uint32_t *index)
{
    uint64_t mixed = zc_mix64(i + 1);

    *object = mixed >> 32 & 3;
    *index = (uint32_t)mixed;
}

/* Puts pages `from` to `to`. Returns nanoseconds a page, without the making of the pages. */
static double put_range(zc_pool *pool, const struct pages *pages, uint64_t from, uint64_t to)
{
    struct zc_key keys[BATCH];
    const void *list[BATCH];
    int32_t results[BATCH];
    double spent = 0;

    for (uint64_t i = from; i < to; i += BATCH) {
        size_t count = (size_t)zc_min(BATCH, to - i);
        for (size_t k = 0; k < count; k++) {
            list[k] = distinct(pages, i + k, pages->room + k * pages->page_size);
            key_of(i + k, &keys[k].object, &keys[k].index);
        }
        double start = now_ns();
        zc_put_batch(pool, keys, list, count, results, NULL);
        spent += now_ns() - start;
    }
    return spent / (double)(to - from);
}

/* Gets PROBES random ones of `count` pages. Returns nanoseconds a page. */
static double get_random(zc_pool *pool, const struct pages *pages, uint64_t count)
{
    char *page = aligned_alloc(pages->page_size, pages->page_size);
    struct zc_key keys[BATCH];
    void *list[BATCH];
    int32_t results[BATCH];
    double spent = 0;

    for (uint64_t i = 0; i < PROBES; i += BATCH) {
        for (size_t k = 0; k < BATCH; k++) {
            list[k] = page;
            key_of(zc_mix64(i + k) % count, &keys[k].object, &keys[k].index);
        }
        double start = now_ns();
        zc_get_batch(pool, keys, list, BATCH, ZC_GET_PEEK, results);
        spent += now_ns() - start;
    }
    free(page);
    return spent / PROBES;
}

/* A hypervisor gives a machine memory when it is touched, and takes back what was free for seconds:
 * what is timed next finds some that is there. */
static void touch_memory(size_t bytes)
{
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        die(strerror(errno), "memory");

    madvise(memory, bytes, MADV_HUGEPAGE);
    for (size_t at = 0; at < bytes; at += (size_t)sysconf(_SC_PAGESIZE))
        ((volatile char *)memory)[at] = 1;
    munmap(memory, bytes);
}

/* PROBES puts that bring the pool to `count` pages, and as many gets. */
static void probe(zc_pool *pool, const struct pages *pages, uint64_t count, double *put_ns,
                  double *get_ns)
{
    touch_memory(2 * PROBES * pages->page_size);
    *put_ns = put_range(pool, pages, count - PROBES, count);
    *get_ns = get_random(pool, pages, count);
}

static void print_metadata(const char *name, zc_pool *pool)
{
    struct zc_pool_stats stats;

    zc_pool_get_stats(pool, &stats);
    printf("\"%s_zpages\": %" PRIu64 ", \"%s_metadata_bytes\": %" PRIu64 ", ", name, stats.zpages,
           name, stats.metadata_bytes);
}

static void scale(const char *file, size_t page_size, uint64_t few, uint64_t many, size_t rounds)
{
    struct pages pages = {0};
    double *series = calloc(4 * rounds, sizeof(*series));

    load(&pages, file, page_size, 2000);
    keep_stored(&pages);
    zc_store *small = open_store(page_size), *large = open_store(page_size);
    zc_pool *large_pool = open_pool(large);
    put_range(large_pool, &pages, 0, many);
    printf("{\"few\": %" PRIu64 ", \"many\": %" PRIu64 ", ", few, many);
    for (size_t r = 0; r < rounds; r++) {
        zc_pool *pool = open_pool(small);
        put_range(pool, &pages, 0, few - PROBES);
        probe(pool, &pages, few, &series[r], &series[rounds + r]);
        many += PROBES;
        probe(large_pool, &pages, many, &series[2 * rounds + r], &series[3 * rounds + r]);
        if (r == rounds - 1)
            print_metadata("few", pool);
        zc_pool_destroy(pool);
        zc_pool_release(pool);
    }
    print_metadata("many", large_pool);
    print_series("few_put_ns", series, rounds);
    print_series("few_get_ns", series + rounds, rounds);
    print_series("many_put_ns", series + 2 * rounds, rounds);
    print_series("many_get_ns", series + 3 * rounds, rounds);
    printf("\"probes\": %u}\n", PROBES);
    zc_pool_destroy(large_pool);
    zc_pool_release(large_pool);
    zc_store_destroy(small);
    zc_store_destroy(large);
}

/* ---- used_bytes ---- */

static uint64_t os_bytes(void)
{
    char line[256];
    uint64_t kb = 0, value;
    FILE *file = fopen("/proc/self/smaps_rollup", "re");

    while (file && fgets(line, sizeof(line), file)) {
        if (sscanf(line, "Pss: %" SCNu64, &value) == 1 ||
            sscanf(line, "SwapPss: %" SCNu64, &value) == 1)
            kb += value;
    }
    if (file)
        fclose(file);
    return kb * 1024;
}

static void used(const char *file, size_t page_size)
{
    struct pages pages = {0};
    struct zc_store_stats before, full, after;

    load(&pages, file, page_size, SIZE_MAX);
    keep_stored(&pages);
    zc_store *store = open_store(page_size);
    zc_pool *pool = open_pool(store);
    put_range(pool, &pages, 0, 1);
    zc_flush_object(pool, 0);
    uint64_t os_before = os_bytes();
    zc_store_get_stats(store, &before);
    uint64_t i = 0;
    do {
        put_range(pool, &pages, i, i + 1000);
        i += 1000;
        zc_store_get_stats(store, &full);
    } while (full.used_bytes < USED_BYTES);
    uint64_t os_full = os_bytes();
    for (uint64_t object = 0; object < 4; object++)
        zc_flush_object(pool, object);
    uint64_t os_after = os_bytes();
    zc_store_get_stats(store, &after);
    printf("{\"used_bytes\": %" PRIu64 ", \"os_bytes\": %" PRId64 ", \"left_used_bytes\": %" PRIu64
           ", \"left_os_bytes\": %" PRId64 "}\n",
           full.used_bytes - before.used_bytes, (int64_t)(os_full - os_before), after.used_bytes,
           (int64_t)(os_after - os_before));
    zc_pool_destroy(pool);
    zc_pool_release(pool);
    zc_store_destroy(store);
}

int main(int argc, char **argv)
{
    const char *command = argc > 2 ? argv[1] : "";

    if (strcmp(command, "inproc") == 0 && argc == 5)
        inproc(argv[2], strtoul(argv[3], NULL, 10), strtoul(argv[4], NULL, 10));
    else if (strcmp(command, "socket") == 0 && argc == 6)
        over_socket(argv[2], argv[3], argv[4], strtoul(argv[5], NULL, 10));
    else if (strcmp(command, "scale") == 0 && argc == 7)
        scale(argv[2], strtoul(argv[3], NULL, 10), strtoull(argv[4], NULL, 10),
              strtoull(argv[5], NULL, 10), strtoul(argv[6], NULL, 10));
    else if (strcmp(command, "used") == 0 && argc == 4)
        used(argv[2], strtoul(argv[3], NULL, 10));
    else
        die("inproc, socket, scale or used, see the source", "usage");
    return 0;
}
