/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zcached sample: what a fair sample of the pages of processes, or of a file, becomes by each codec. Every
 * page is read once, put into a pool of this process's own, got back, compared and flushed, so memory does
 * not grow with pages. What it prints are sizes and times; contents and hashes of them stay here.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include <zcache/store.h>

#include "base/base.h"
#include "base/hash.h"
#include "store/store.h"
#include "zcached/commands.h"
#include "zcached/commands/population.h"

#define BATCH 32u
#define PAGES 20000u
#define PAGES_SWAPPED 1000u /* each of them is brought back into memory */
#define SECONDS 20u
#define CPU_PERCENT 50u
#define INDEX_PAGES 4096u
#define CLASSES_MAX 256u
#define CLOCK_ROUNDS 100u
#define CODEC "lz4" /* where it does not matter which */

static const char *const default_codecs[] = {"lz4", "zstd:3", NULL};

struct codec {
    const char *spec;
    zc_pool *pool;
    uint32_t *sizes; /* bytes, by page: of its zpage, which may be larger; 0: same-filled */
    uint64_t *put_ns, *get_ns; /* by source; of pages that are not same-filled */
};

struct sample {
    const struct zc_options *options;
    zc_store *store;
    size_t page_size, most;
    struct zc_population population;
    struct codec codecs[ZC_BENCH_CODECS];
    size_t codec_count;
    uint64_t empty_zbud, empty_zsmalloc, index_bytes; /* metadata of pools, see docs/protocol.md */

    char *pages, *got; /* a batch, a page */
    uint32_t *from;    /* source by page */
    bool *is_duplicate;
    uint64_t *hashes; /* a set of them, 0: free; of hash_count places, a power of two */
    size_t hash_count, count;
    uint64_t secret;
    bool is_short_of_memory;

    uint64_t start_ns, until_ns;
    uint64_t clock_ns; /* to read the clock once */
    unsigned cpu_percent;
};

static int complain(int error, const char *what, const char *value, int code)
{
    char buf[16];

    fprintf(stderr, "zcached: %s: %s%s\n", zc_errno_name(error, buf), what, value);
    return code;
}

/* ---- time ---- */

static uint64_t cpu_ns(void)
{
    return zc_clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

/* What asking for it costs itself: as much as a tenth of a put. */
static uint64_t clock_cost(void)
{
    uint64_t least = UINT64_MAX;

    for (unsigned i = 0; i < CLOCK_ROUNDS; i++) {
        uint64_t start = zc_thread_ns();
        least = zc_min64(least, zc_thread_ns() - start);
    }
    return least;
}

static uint64_t spent_since(const struct sample *sample, uint64_t start)
{
    return zc_max64(zc_thread_ns() - start, sample->clock_ns) - sample->clock_ns;
}

/* Sleeps until the processor time used by now is the share of all time that it may be. */
static void rest(void *arg)
{
    const struct sample *sample = arg;
    uint64_t now = zc_now_ns(), due = sample->start_ns + cpu_ns() * 100 / sample->cpu_percent;

    due = zc_min64(due, sample->until_ns);
    if (due <= now)
        return;
    struct timespec pause = {.tv_sec = (time_t)((due - now) / ZC_SECOND_NS),
                             .tv_nsec = (long)((due - now) % ZC_SECOND_NS)};
    nanosleep(&pause, NULL);
}

/* ---- pages ---- */

/* Was a page with these bytes sampled before? */
static bool is_duplicate(struct sample *sample, const void *page)
{
    uint64_t hash = zc_hash_seeded(page, sample->page_size, sample->secret) | 1;
    size_t at = (size_t)(hash >> 8) & (sample->hash_count - 1);

    while (sample->hashes[at] && sample->hashes[at] != hash)
        at = (at + 1) & (sample->hash_count - 1);
    if (sample->hashes[at])
        return true;
    sample->hashes[at] = hash;
    return false;
}

/* The next pages of the sample into the batch. How many; those that are gone are left out. */
static size_t read_batch(struct sample *sample, size_t *next)
{
    const struct zc_reservoir *reservoir = &sample->population.sample;
    size_t count = 0;

    for (; count < BATCH && *next < reservoir->count; (*next)++) {
        const struct zc_pick *pick = &reservoir->picks[*next];
        if (zc_population_read(&sample->population, pick,
                               sample->pages + count * sample->page_size))
            sample->from[sample->count + count++] = pick->source;
    }
    return count;
}

/* -ENOMEM: there is no memory to keep it for a moment. */
static int put_page(struct sample *sample, struct codec *codec, size_t i)
{
    const char *page = sample->pages + i * sample->page_size;
    uint32_t *size = &codec->sizes[sample->count + i];
    uint64_t start = zc_thread_ns();
    int result = zc_put(codec->pool, 0, (uint32_t)i, page, 0, size);

    if (*size)
        codec->put_ns[sample->from[sample->count + i]] += spent_since(sample, start);
    if (result < 0)
        return result;
    return result == ZC_STORED || result == ZC_COMPRESS_POOR ? 0 : -ENOMEM;
}

/* -EIO: another page came back. */
static int get_page(struct sample *sample, struct codec *codec, size_t i)
{
    const char *page = sample->pages + i * sample->page_size;
    uint64_t start = zc_thread_ns();
    int error = zc_get(codec->pool, 0, (uint32_t)i, sample->got, ZC_GET_PEEK);

    if (error == -ENOENT)
        return 0; /* its zpage was larger than a page: refused */
    if (codec->sizes[sample->count + i])
        codec->get_ns[sample->from[sample->count + i]] += spent_since(sample, start);
    if (!error && memcmp(sample->got, page, sample->page_size) != 0)
        error = -EIO;
    return error;
}

static int measure_batch(struct sample *sample, struct codec *codec, size_t count)
{
    int error = 0;

    for (size_t i = 0; i < count && !error; i++)
        error = put_page(sample, codec, i);
    for (size_t i = 0; i < count && !error; i++)
        error = get_page(sample, codec, i);
    zc_flush_object(codec->pool, 0);
    return error;
}

/* The batch is part of the sample from now on. */
static void count_batch(struct sample *sample, size_t count)
{
    for (size_t i = 0; i < count; i++, sample->count++) {
        sample->population.sources[sample->from[sample->count]].sampled++;
        sample->is_duplicate[sample->count] =
            sample->codecs[0].sizes[sample->count] &&
            is_duplicate(sample, sample->pages + i * sample->page_size);
    }
}

/* In an order by chance, so that where time or memory ends it, what was seen is as fair. */
static int measure_all(struct sample *sample)
{
    size_t next = 0, count;

    zc_reservoir_shuffle(&sample->population.sample);
    while ((!next || zc_now_ns() < sample->until_ns) && (count = read_batch(sample, &next))) {
        int error = 0;
        for (size_t i = 0; i < sample->codec_count && !error; i++)
            error = measure_batch(sample, &sample->codecs[i], count);
        if (error == -ENOMEM) {
            sample->is_short_of_memory = true;
            return 0;
        }
        if (error)
            return error;
        count_batch(sample, count);
        rest(sample);
    }
    return 0;
}

/* ---- the report ---- */

static void print_text(const char *text)
{
    putchar('"');
    for (; *text; text++)
        putchar(*text < ' ' || *text > '~' || *text == '"' || *text == '\\' ? '?' : *text);
    putchar('"');
}

static void print_sources(const struct zc_population *population)
{
    char buf[16];

    for (size_t i = 0; i < population->count; i++) {
        const struct zc_source *source = &population->sources[i];
        printf("%s{\"pid\":%d,\"name\":", i ? "," : "", source->pid);
        print_text(source->name);
        printf(",\"anonymous\":%" PRIu64 ",\"file\":%" PRIu64 ",\"swapped\":%" PRIu64
               ",\"pages\":%" PRIu64,
               source->anonymous, source->file, source->swapped, source->pages);
        if (source->error)
            printf(",\"error\":\"%s\"", zc_errno_name(source->error, buf));
        putchar('}');
    }
}

static void print_classes(const struct zc_zsmalloc_class *classes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        printf("%s[%" PRIu32 ",%" PRIu32 ",%" PRIu32 "]", i ? "," : "", classes[i].size,
               classes[i].frames, classes[i].slots);
}

static void print_numbers(const char *name, const uint32_t *numbers, size_t count)
{
    printf(",\"%s\":[", name);
    for (size_t i = 0; i < count; i++)
        printf("%s%" PRIu32, i ? "," : "", numbers[i]);
    putchar(']');
}

static void print_times(const struct sample *sample, const char *name, const uint64_t *ns)
{
    printf(",\"%s\":[", name);
    for (size_t i = 0; i < sample->population.count; i++)
        printf("%s%" PRIu64, i ? "," : "", ns[i]);
    putchar(']');
}

static void print_codec(const struct sample *sample, const struct codec *codec)
{
    struct zc_pool_stats stats;

    zc_pool_get_stats(codec->pool, &stats);
    printf("{\"spec\":\"%s\",\"metadata\":%" PRIu64, codec->spec, stats.metadata_bytes);
    print_numbers("sizes", codec->sizes, sample->count);
    print_times(sample, "put_ns", codec->put_ns);
    print_times(sample, "get_ns", codec->get_ns);
    putchar('}');
}

static void print_duplicates(const struct sample *sample)
{
    const char *comma = "";

    for (size_t i = 0; i < sample->count; i++) {
        if (!sample->is_duplicate[i])
            continue;
        printf("%s%zu", comma, i);
        comma = ",";
    }
}

static int report(const struct sample *sample)
{
    static const char *const kinds[] = {"anonymous", "swapped", "file"};
    const struct zc_population *population = &sample->population;
    struct zc_zsmalloc_class classes[CLASSES_MAX];
    int count = zc_zsmalloc_get_classes(sample->store, classes, CLASSES_MAX);

    if (count < 0)
        return count;
    printf("{\"page_size\":%zu,\"kind\":\"%s\",\"pages\":%" PRIu64 ",\"left_out\":%" PRIu64
           ",\"short_of_memory\":%s,\"seconds\":%.3f,\"cpu_seconds\":%.3f,\"peak_bytes\":%" PRIu64
           ",\"metadata\":{\"zbud\":%" PRIu64 ",\"zsmalloc\":%" PRIu64
           ",\"index_pages\":%u,\"index\":%" PRIu64 "},\"classes\":[",
           sample->page_size, population->fd >= 0 ? "dump" : kinds[population->pages],
           population->sample.seen, population->left_out,
           sample->is_short_of_memory ? "true" : "false",
           (double)(zc_now_ns() - sample->start_ns) / 1e9, (double)cpu_ns() / 1e9,
           zc_population_own_peak(), sample->empty_zbud, sample->empty_zsmalloc, INDEX_PAGES,
           sample->index_bytes);
    print_classes(classes, (size_t)count);
    printf("],\"sources\":[");
    print_sources(population);
    printf("]");
    print_numbers("from", sample->from, sample->count);
    printf(",\"duplicates\":[");
    print_duplicates(sample);
    printf("],\"codecs\":[");
    for (size_t i = 0; i < sample->codec_count; i++) {
        printf("%s", i ? "," : "");
        print_codec(sample, &sample->codecs[i]);
    }
    printf("]}\n");
    return fflush(stdout) == 0 ? 0 : -EPIPE;
}

/* ---- what is to be sampled ---- */

static int add_processes(struct sample *sample)
{
    const struct zc_options *options = sample->options;
    uint64_t until_ns = sample->start_ns + (sample->until_ns - sample->start_ns) / 2;
    char what[64];

    if (!options->pid_count)
        return zc_population_add_processes(&sample->population, options->app, until_ns, rest,
                                           sample);
    for (unsigned i = 0; i < options->pid_count; i++) {
        int error = zc_population_add_process(&sample->population, options->pids[i], until_ns);
        rest(sample);
        if (error != -ESRCH)
            continue;
        snprintf(what, sizeof(what), "process %d: it does not exist, or has no memory",
                 options->pids[i]);
        complain(error, what, "", 0);
        return error;
    }
    return 0;
}

/* Why there is no page to measure on. */
static int complain_of_nothing(const struct sample *sample)
{
    const struct zc_population *population = &sample->population;
    const struct zc_options *options = sample->options;
    size_t unreadable = 0, i;
    char what[160];

    for (i = 0; i < population->count; i++)
        unreadable +=
            population->sources[i].error == -EACCES || population->sources[i].error == -EPERM;
    if (population->fd >= 0)
        return complain(-ENODATA, options->file, ": no whole page in it", ZC_EXIT_FAILED);
    if (!population->count && options->app)
        return complain(-ESRCH, "no process of the app ", options->app, ZC_EXIT_NO_PROCESS);
    if (unreadable) {
        snprintf(what, sizeof(what),
                 "%zu of %zu processes may not be read, the others have no such page", unreadable,
                 population->count);
        return complain(-EACCES, what, "", ZC_EXIT_NO_PROCESS);
    }
    if (population->sample.count)
        return complain(-ESRCH, "the processes have ended meanwhile, no page was read", "",
                        ZC_EXIT_NO_PROCESS);
    snprintf(what, sizeof(what), "%zu processes have no such page", population->count);
    return complain(-ENODATA, what, "", ZC_EXIT_NO_PROCESS);
}

static int take_sample(struct sample *sample)
{
    const struct zc_options *options = sample->options;
    int error = options->file ? zc_population_add_file(&sample->population, options->file)
                              : add_processes(sample);

    if (error == -ESRCH)
        return ZC_EXIT_NO_PROCESS;
    if (error && error != -ETIME)
        return complain(error, options->file ? options->file : "/proc", "", ZC_EXIT_FAILED);

    for (size_t i = 0; i < sample->codec_count; i++) {
        struct codec *codec = &sample->codecs[i];
        codec->sizes = calloc(sample->most, sizeof(*codec->sizes));
        codec->put_ns = calloc(ZC_SOURCES_MAX, sizeof(*codec->put_ns));
        codec->get_ns = calloc(ZC_SOURCES_MAX, sizeof(*codec->get_ns));
        if (!codec->sizes || !codec->put_ns || !codec->get_ns)
            return complain(-ENOMEM, "no memory for so many pages: give --pages fewer", "",
                            ZC_EXIT_FAILED);
    }
    error = measure_all(sample);
    if (error == -EIO)
        return complain(error, "another page came back from a codec", "", ZC_EXIT_FAILED);
    if (!error && !sample->count && sample->is_short_of_memory)
        return complain(-ENOMEM, "this device is short of memory: free some", "", ZC_EXIT_FAILED);
    if (!error && !sample->count)
        return complain_of_nothing(sample);
    if (!error)
        error = report(sample);
    return error ? complain(error, "cannot sample", "", ZC_EXIT_FAILED) : ZC_EXIT_OK;
}

/* ---- the whole ---- */

/* A pool that keeps whatever fits into a frame. */
static int create_pool(struct sample *sample, const char *name, const char *allocator,
                       const char *codec, zc_pool **pool)
{
    struct zc_pool_config config = {.name = name, .allocator = allocator, .codec = codec};
    int error = zc_pool_create(sample->store, &config, pool);

    if (!error)
        error = zc_pool_set_param(*pool, "zv_max_zsize", "100%");
    if (!error)
        error = zc_pool_set_param(*pool, "zv_max_mean_zsize", "100%");
    return error;
}

static uint64_t metadata_of(zc_pool *pool)
{
    struct zc_pool_stats stats;

    zc_pool_get_stats(pool, &stats);
    return stats.metadata_bytes;
}

static void drop_pool(zc_pool *pool)
{
    if (!pool)
        return;
    zc_pool_destroy(pool);
    zc_pool_release(pool);
}

/* What pools cost beside their frames. */
static int measure_metadata(struct sample *sample)
{
    zc_pool *zbud = NULL, *zsmalloc = NULL;
    int error = create_pool(sample, "zbud", "zbud", CODEC, &zbud);

    if (!error)
        error = create_pool(sample, "zsmalloc", "zsmalloc", CODEC, &zsmalloc);
    if (!error) {
        sample->empty_zbud = metadata_of(zbud);
        sample->empty_zsmalloc = metadata_of(zsmalloc);
        memset(sample->got, 0, sample->page_size);
        zc_put(zbud, 0, 0, sample->got, 0, NULL); /* a codec's state comes with the first */
        uint64_t before = metadata_of(zbud);
        for (uint32_t i = 1; i <= INDEX_PAGES && !error; i++)
            error = zc_put(zbud, 0, i, sample->got, 0, NULL);
        sample->index_bytes = metadata_of(zbud) - before;
    }
    drop_pool(zbud);
    drop_pool(zsmalloc);
    return error;
}

/* Those asked for must be there. */
static int create_codecs(struct sample *sample)
{
    const struct zc_options *options = sample->options;
    const char *const *specs = options->codec_count ? options->codecs : default_codecs;

    for (; specs[sample->codec_count]; sample->codec_count++) {
        struct codec *codec = &sample->codecs[sample->codec_count];
        struct zc_text why = {0};
        char name[16];
        codec->spec = specs[sample->codec_count];
        snprintf(name, sizeof(name), "codec%zu", sample->codec_count);
        int error = zc_codecs_check(sample->store, codec->spec, &why);
        if (!error)
            error = create_pool(sample, name, "zsmalloc", codec->spec, &codec->pool);
        int code = error ? complain(error, why.data ? why.data : "codec ",
                                    why.data ? "" : codec->spec, ZC_EXIT_USAGE)
                         : ZC_EXIT_OK;
        zc_text_free(&why);
        if (code)
            return code;
    }
    return ZC_EXIT_OK;
}

static bool allocate(struct sample *sample)
{
    enum zc_process_pages pages = sample->options->swapped ? ZC_PAGES_SWAPPED
                                  : sample->options->files ? ZC_PAGES_FILE
                                                           : ZC_PAGES_ANONYMOUS;

    for (sample->hash_count = 2; sample->hash_count < 2 * sample->most;)
        sample->hash_count *= 2;
    sample->pages = malloc(BATCH * sample->page_size);
    sample->got = malloc(sample->page_size);
    sample->from = calloc(sample->most, sizeof(*sample->from));
    sample->is_duplicate = calloc(sample->most, sizeof(*sample->is_duplicate));
    sample->hashes = calloc(sample->hash_count, sizeof(*sample->hashes));
    int error = zc_population_init(&sample->population, sample->page_size, sample->most, pages);
    return sample->pages && sample->got && sample->from && sample->is_duplicate && sample->hashes &&
           !error;
}

static void free_all(struct sample *sample)
{
    for (size_t i = 0; i < sample->codec_count; i++) {
        drop_pool(sample->codecs[i].pool);
        free(sample->codecs[i].sizes);
        free(sample->codecs[i].put_ns);
        free(sample->codecs[i].get_ns);
    }
    zc_population_fini(&sample->population);
    free(sample->pages);
    free(sample->got);
    free(sample->from);
    free(sample->is_duplicate);
    free(sample->hashes);
    zc_store_destroy(sample->store);
}

static int with_store(struct sample *sample)
{
    if (!allocate(sample))
        return complain(-ENOMEM, "no memory for so many pages: give --pages fewer", "",
                        ZC_EXIT_FAILED);
    int code = create_codecs(sample);
    if (code)
        return code;
    int error = measure_metadata(sample);
    return error ? complain(error, "no memory for a pool", "", ZC_EXIT_FAILED)
                 : take_sample(sample);
}

int zc_sample(const struct zc_options *options)
{
    struct zc_store_config config = {.page_size = options->page_size};
    unsigned pages = options->swapped ? PAGES_SWAPPED : PAGES;
    struct sample sample = {
        .options = options,
        .most = options->pages ? options->pages : pages,
        .cpu_percent = options->cpu ? options->cpu : CPU_PERCENT,
        .start_ns = zc_now_ns(),
        .clock_ns = clock_cost(),
    };
    int error = zc_store_create(&config, &sample.store);

    if (error)
        return zc_complain_of_store(error, options);
    if (getrandom(&sample.secret, sizeof(sample.secret), 0) != sizeof(sample.secret))
        sample.secret = sample.start_ns;
    sample.page_size = zc_store_page_size(sample.store);
    zc_store_set_reserve(sample.store, 2 * BATCH); /* a put finds its frames there, as a rule */
    sample.until_ns =
        sample.start_ns + (options->seconds ? options->seconds : SECONDS) * ZC_SECOND_NS;
    int code = with_store(&sample);
    free_all(&sample);
    return code;
}
