/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zcached bench: codec after codec, real pages put into a pool of this process's own and got back. The
 * times are a processor's, in a store that does nothing else: compression, checksum, a place in memory, index; of
 * the fastest of some rounds, since the device has other work too. Every page that comes back is compared.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <zcache/store.h>

#include "base/base.h"
#include "store/store.h"
#include "zcached/commands.h"
#include "zcached/commands/samples.h"

#define BATCH 32u
#define PAGES 2000u
#define SECONDS 10u
#define ROUNDS 5u
#define SECOND_NS UINT64_C(1000000000)
#define QUIET_NS (2 * SECOND_NS) /* then we say how far we are */

static const char *const default_codecs[] = {"lz4",    "lz4:8",  "lzo",    "zstd:-5", "zstd:-1",
                                             "zstd:1", "zstd:3", "zstd:9", "none",    NULL};

struct bench {
    zc_store *store;
    struct zc_samples samples;
    char *got; /* a batch of pages */
    const char *const *codecs;
    size_t codec_count;
    uint64_t start_ns, share_ns; /* share: of each codec */
};

/* Of one codec, over the samples from the first on. */
struct measured {
    size_t pages, kept; /* kept: in the store, to be got */
    uint64_t bytes;     /* of zpages, none counted larger than its page */
    uint64_t poor;      /* zpages larger than 7/8 of a page */
    unsigned rounds;
    uint64_t put_ns, get_ns; /* of the fastest */
};

static int complain(int error, const char *what, const char *value, int code)
{
    char buf[16];

    fprintf(stderr, "zcached: %s: %s%s\n", zc_errno_name(error, buf), what, value);
    return code;
}

/* ---- one codec ---- */

static int put_batch(struct bench *bench, zc_pool *pool, size_t count, struct measured *measured)
{
    size_t size = bench->samples.page_size, first = measured->pages;
    struct zc_key keys[BATCH];
    const void *pages[BATCH];
    int32_t results[BATCH];
    uint32_t zsizes[BATCH];

    for (size_t i = 0; i < count; i++) {
        keys[i] = (struct zc_key){.index = (uint32_t)(first + i)};
        pages[i] = bench->samples.pages + (first + i) * size;
    }
    uint64_t start = zc_thread_ns();
    int error = zc_put_batch(pool, keys, pages, count, 0, results, zsizes);
    measured->put_ns += zc_thread_ns() - start;
    for (size_t i = 0; i < count && !error; i++) {
        if (results[i] < 0)
            error = results[i];
        else if (results[i] != ZC_STORED && results[i] != ZC_COMPRESS_POOR)
            error = -ENOMEM;
        measured->kept += results[i] == ZC_STORED;
        measured->poor += zsizes[i] > size / 8 * 7;
        measured->bytes += zc_min(zsizes[i], size);
    }
    measured->pages += count;
    return error;
}

/* -EIO: another page came back. */
static int get_batch(struct bench *bench, zc_pool *pool, size_t first, size_t count,
                     struct measured *measured)
{
    size_t size = bench->samples.page_size;
    struct zc_key keys[BATCH];
    void *pages[BATCH];
    int32_t results[BATCH];

    for (size_t i = 0; i < count; i++) {
        keys[i] = (struct zc_key){.index = (uint32_t)(first + i)};
        pages[i] = bench->got + i * size;
    }
    uint64_t start = zc_thread_ns();
    int error = zc_get_batch(pool, keys, pages, count, ZC_GET_PEEK, results);
    measured->get_ns += zc_thread_ns() - start;
    for (size_t i = 0; i < count && !error; i++) {
        if (results[i] == -ENOENT)
            continue; /* its zpage was larger than a page: refused */
        error = results[i];
        if (!error && memcmp(pages[i], bench->samples.pages + (first + i) * size, size) != 0)
            error = -EIO;
    }
    return error;
}

/* The first `count` pages, or those that are put until `end`. */
static int walk(struct bench *bench, zc_pool *pool, size_t count, uint64_t end,
                struct measured *measured)
{
    int error = 0;

    while (!error && measured->pages < count && (!measured->pages || zc_now_ns() < end))
        error = put_batch(bench, pool, zc_min(count - measured->pages, BATCH), measured);
    for (size_t at = 0; !error && at < measured->pages; at += BATCH)
        error = get_batch(bench, pool, at, zc_min(measured->pages - at, BATCH), measured);
    return error;
}

/* The same pages again as long as the codec's share of the time will do for it. The first round takes memory for the pool,
 * which one in use does no more, so it gets so little of that share that another one follows. */
static int walk_rounds(struct bench *bench, zc_pool *pool, struct measured *best)
{
    uint64_t start = zc_now_ns();
    int error = walk(bench, pool, bench->samples.count, start + bench->share_ns / 4, best);

    for (best->rounds = 1; !error && best->rounds < ROUNDS; best->rounds++) {
        struct measured again = {0};
        uint64_t spent = zc_now_ns() - start;
        if (spent + spent / best->rounds > bench->share_ns)
            break;
        error = walk(bench, pool, best->pages, UINT64_MAX, &again);
        if (error)
            break;
        best->put_ns = again.put_ns < best->put_ns ? again.put_ns : best->put_ns;
        best->get_ns = again.get_ns < best->get_ns ? again.get_ns : best->get_ns;
    }
    return error;
}

/* Specs are of pools with zsmalloc, or begin with an allocator. */
static bool is_in_zbud(const char *spec)
{
    return strncmp(spec, "zbud/", 5) == 0;
}

/* What is behind the allocator in zbud/lz4. */
static const char *codec_of(const char *spec)
{
    const char *slash = strchr(spec, '/');

    return slash ? slash + 1 : spec;
}

/* In a pool that keeps whatever fits into a frame. */
static int measure(struct bench *bench, const char *spec, struct measured *measured)
{
    struct zc_pool_config config = {.name = "bench",
                                    .allocator = is_in_zbud(spec) ? "zbud" : "zsmalloc",
                                    .codec = codec_of(spec)};
    zc_pool *pool;
    int error = zc_pool_create(bench->store, &config, &pool);

    if (error)
        return error;
    error = zc_pool_set_param(pool, "zv_max_zsize", "100%");
    if (!error)
        error = zc_pool_set_param(pool, "zv_max_mean_zsize", "100%");
    if (!error)
        error = walk_rounds(bench, pool, measured);
    zc_pool_destroy(pool);
    zc_pool_release(pool);
    return error;
}

/* ---- the report ---- */

static void print_mean(const char *name, uint64_t ns, size_t count)
{
    if (count)
        printf("\"%s\": %.3f, ", name, (double)ns / (double)count / 1000);
    else
        printf("\"%s\": null, ", name);
}

static void print_measured(const struct bench *bench, const char *codec,
                           const struct measured *measured)
{
    double bytes = (double)measured->pages * (double)bench->samples.page_size;

    printf("{\"spec\": \"%s\", \"pages\": %zu, \"rounds\": %u, \"ratio\": %.3f, ", codec,
           measured->pages, measured->rounds, bytes / (double)measured->bytes);
    print_mean("put_us", measured->put_ns, measured->pages);
    print_mean("get_us", measured->get_ns, measured->kept);
    printf("\"refused\": %" PRIu64 "}", measured->poor);
}

static void print_source(const struct bench *bench, const struct zc_options *options)
{
    const struct zc_samples *samples = &bench->samples;

    printf("{\"source\": \"%s\", \"processes\": %u, \"files\": %u, \"page_size\": %zu, "
           "\"pages\": %zu, \"same_filled\": %" PRIu64 ", \"codecs\": [",
           options->pid    ? "process"
           : options->file ? "file"
                           : "device",
           samples->processes, samples->files, samples->page_size, samples->count,
           samples->same_filled);
}

static int complain_of_codec(const char *codec, int error)
{
    static const char memory[] =
        "short of memory: give --pages fewer, or free some, to measure codec ";

    if (error == -EIO)
        return complain(error, "another page came back from codec ", codec, ZC_EXIT_FAILED);
    return complain(error, error == -ENOMEM ? memory : "cannot measure codec ", codec,
                    ZC_EXIT_FAILED);
}

static int measure_all(struct bench *bench, const struct zc_options *options)
{
    const char *comma = "";

    print_source(bench, options);
    for (size_t i = 0; i < bench->codec_count; i++) {
        struct measured measured = {0};
        int error = measure(bench, bench->codecs[i], &measured);
        if (error == -EINVAL)
            continue; /* of the default ones, not in this build */
        if (error)
            return complain_of_codec(bench->codecs[i], error);
        printf("%s", comma);
        print_measured(bench, bench->codecs[i], &measured);
        comma = ", ";
        if (zc_now_ns() - bench->start_ns > QUIET_NS)
            fprintf(stderr, "zcached: bench: %s done, %zu of %zu\n", bench->codecs[i], i + 1,
                    bench->codec_count);
    }
    printf("]}\n");
    return fflush(stdout) == 0 ? ZC_EXIT_OK : ZC_EXIT_FAILED;
}

/* ---- the whole ---- */

/* Those asked for must be there before anything is measured. */
static int choose_codecs(struct bench *bench, const struct zc_options *options)
{
    bench->codecs = options->codec_count ? options->codecs : default_codecs;
    while (bench->codecs[bench->codec_count])
        bench->codec_count++;
    for (size_t i = 0; i < options->codec_count; i++) {
        struct zc_text why = {0};
        const char *spec = options->codecs[i], *codec = codec_of(spec);
        bool is_allocator = codec == spec || is_in_zbud(spec) || strncmp(spec, "zsmalloc/", 9) == 0;
        int error = is_allocator ? zc_codecs_check(bench->store, codec, &why) : -EINVAL;
        int code = error ? complain(error, why.data ? why.data : "codec ", why.data ? "" : spec,
                                    ZC_EXIT_USAGE)
                         : ZC_EXIT_OK;
        zc_text_free(&why);
        if (code)
            return code;
    }
    return ZC_EXIT_OK;
}

static int take_samples(struct bench *bench, const struct zc_options *options)
{
    const char *name = options->file ? options->file : "this device";
    char process[32], what[320];
    int error;

    if (options->pid) {
        snprintf(process, sizeof(process), "process %d", options->pid);
        name = process;
        error = zc_samples_add_process(&bench->samples, options->pid);
    } else if (options->file) {
        error = zc_samples_add_file(&bench->samples, options->file);
    } else {
        error = zc_samples_add_device(&bench->samples);
    }
    if (!error) {
        zc_samples_shuffle(&bench->samples);
        return ZC_EXIT_OK;
    }
    snprintf(what, sizeof(what), "%.256s: %s", name,
             error == -ENODATA ? "it has no page to measure on; same-filled ones are left out"
                               : strerror(-error));
    return complain(error, what, "", options->pid ? ZC_EXIT_NO_PROCESS : ZC_EXIT_FAILED);
}

static int with_store(struct bench *bench, const struct zc_options *options)
{
    size_t page_size = zc_store_page_size(bench->store);
    int code = choose_codecs(bench, options);
    if (code)
        return code;
    if (zc_samples_init(&bench->samples, page_size, options->pages ? options->pages : PAGES) != 0)
        return complain(-ENOMEM, "no memory for so many pages: give --pages fewer", "",
                        ZC_EXIT_FAILED);

    code = take_samples(bench, options);
    bench->got = malloc(BATCH * page_size);
    if (!code && !bench->got)
        code = complain(-ENOMEM, "no memory for a batch of pages", "", ZC_EXIT_FAILED);
    if (!code) {
        uint64_t all = (options->seconds ? options->seconds : SECONDS) * SECOND_NS;
        bench->share_ns = all / bench->codec_count;
        bench->start_ns = zc_now_ns();
        code = measure_all(bench, options);
    }
    free(bench->got);
    zc_samples_fini(&bench->samples);
    return code;
}

int zc_complain_of_store(int error, const struct zc_options *options)
{
    char what[96];

    if (error != -EINVAL)
        return complain(error, "no memory for a store", "", ZC_EXIT_FAILED);
    snprintf(what, sizeof(what), "--page-size %u: not the OS page size, %ld, times a power of two",
             options->page_size, sysconf(_SC_PAGESIZE));
    return complain(error, what, "", ZC_EXIT_USAGE);
}

int zc_bench(const struct zc_options *options)
{
    struct zc_store_config config = {.page_size = options->page_size};
    struct bench bench = {0};
    int error = zc_store_create(&config, &bench.store);

    if (error)
        return zc_complain_of_store(error, options);
    int code = with_store(&bench, options);
    zc_store_destroy(bench.store);
    return code;
}
