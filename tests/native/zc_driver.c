/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drives a store by lines on standard input; one line of answer each. Tests hold it against a model,
 * and replay saved traces with it on every target.
 *
 *   store PAGE_SIZE [LIMIT [PROC_DIR]]   make the store, once, first
 *   limit BYTES                          0: the default
 *   reserve FRAMES
 *   pool NAME persistent|ephemeral [ALLOCATOR [CODEC]]
 *   param POOL NAME VALUE
 *   codec POOL SPEC
 *   compact POOL                         frames N
 *   reclaim POOL FRAMES [SHARE]          frames N zpages N taken OBJECT:INDEX:CRC …; of a persistent
 *                                        pool's pages, SHARE in 8 are taken (by their index)
 *   damage POOL OBJECT INDEX             flips a bit of the zpage
 *   check                                ok | what is wrong
 *   dictionary SEED SIZE                 id N; random bytes
 *   forget ID                            the dictionary
 *   put POOL OBJECT INDEX CONTENT        stored ZSIZE | REFUSAL ZSIZE
 *   put-inactive POOL OBJECT INDEX CONTENT
 *   get|peek|glance POOL OBJECT INDEX    page CRC; glance: with ZC_GET_NO_ALLOC
 *   flush POOL OBJECT INDEX              ok
 *   flobj POOL OBJECT                    pages N
 *   puts|gets|peeks|flushes|flobjs POOL  the next lines are the keys (and contents) of a batch, as
 *                                        above without command and pool, up to a line "end",
 *                                        64 at most; answers joined by ", "
 *   destroy POOL                         pages N
 *   stats POOL                           NAME=VALUE …
 *   dist POOL                            curr BOUND:COUNT … cumul BOUND:COUNT …
 *   totals                               NAME=VALUE … of the store
 *   used                                 store=BYTES os=BYTES   (os: Pss + SwapPss of this process)
 *   bulk POOL OBJECT FIRST COUNT LENGTH  puts pages rand:(FIRST+i):LENGTH; stored N
 *   backing POOL PATH LAYOUT SIZE [reset]   PATH none: takes it away; ok | err NAME WHY
 *   writeback POOL FRAMES                frames N pages N ok | frames N pages N ERROR
 *   where POOL OBJECT INDEX              none | zpage | raw | fill | written | cold
 *   size POOL OBJECT INDEX               bytes of its zpage; else none
 *   idle POOL OBJECT INDEX               seconds since it was put or got, of one with a zpage, or cold; else none
 *   skip SECONDS                         all pages are older by that
 *   recompress POOL FRAMES               frames N pages N extents N ok | … ERROR
 *   recompress-idle POOL SECONDS         the same
 *   restart save|drop                    the store anew, without pools, as after a clean stop; or with
 *                                        what was in memory gone; saved N lost N ok | … ERROR
 *   fault CALL NAME AFTER COUNT          of the backing stores' system calls, see faulty_io.h
 *   die AFTER [half]                     in the next of those that write, but AFTER
 *   meanwhile read|write REQUEST [; REQUEST…]
 *                                        is carried out within the backing stores' next call that reads
 *                                        or writes records, with the answers before that request's
 *   set NAME VALUE                       a setting of the store
 *   settle                               waits until the keeper has nothing left to do
 *   pressure                             acts as if the OS had said that memory is short
 *
 * Numbers are decimal. CONTENT is fill:WORD, or rand:SEED:LENGTH: LENGTH random bytes, then zeros; half: the same of bytes < 16.
 * A failure is "err NAME".
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zcache/store.h>

#include "base/base.h"
#include "faulty_io.h"
#include "os_bytes.h"
#include "store/entry.h"
#include "store/limit.h"
#include "store/pool.h"
#include "words.h"

#define BATCH_MAX 64
#define LINE_SIZE 512

struct driver {
    zc_store *store;
    struct zc_store_config config;
    size_t page_size;
    char *page;
    bool damaged, large;
};

static int complain(int error)
{
    char buf[16];

    printf("err %s", zc_errno_name(error, buf));
    return 0;
}

static void make_page(const struct driver *driver, const char *content, char *page)
{
    char *rest;

    memset(page, 0, driver->page_size);
    if (strncmp(content, "fill:", 5) == 0) {
        uint64_t word = number(content + 5);
        for (size_t i = 0; i < driver->page_size; i += sizeof(word))
            memcpy(page + i, &word, sizeof(word));
        return;
    }
    uint64_t mask = content[0] == 'h' ? 0x0f0f0f0f0f0f0f0f : UINT64_MAX;
    uint64_t seed = strtoull(content + 5, &rest, 10);
    size_t length = zc_min(number(rest + 1), driver->page_size);
    for (size_t i = 0; i < length; i += sizeof(seed)) {
        uint64_t word = zc_mix64(seed * 0x9e3779b97f4a7c15u + i) & mask;
        memcpy(page + i, &word, zc_min(sizeof(word), length - i));
    }
}

/* As zlib's, which the model uses. */
static uint32_t crc32_of(const char *data, size_t size)
{
    uint32_t crc = ~0u;

    for (size_t i = 0; i < size; i++) {
        crc ^= (unsigned char)data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0xedb88320u & -(crc & 1));
    }
    return ~crc;
}

static void say_put(int result, uint32_t zsize)
{
    if (result < 0)
        complain(result);
    else
        printf("%s %" PRIu32, result ? zc_refusal_name(result) : "stored", zsize);
}

static void say_get(const struct driver *driver, int result, const char *page)
{
    if (result < 0)
        complain(result);
    else
        printf("page %" PRIu32, crc32_of(page, driver->page_size));
}

static void say_pages(int64_t result)
{
    if (result < 0)
        complain((int)result);
    else
        printf("pages %" PRId64, result);
}

static void say_done(int result)
{
    if (result < 0)
        complain(result);
    else
        printf("ok");
}

/* ---- single operations ---- */

static void do_store(struct driver *driver, const struct words *words)
{
    const char *proc = words->count > 3 ? words->word[3] : getenv("ZC_PROC");

    driver->config = (struct zc_store_config){
        .page_size = (uint32_t)number(words->word[1]),
        .limit = number(words->word[2]),
        .proc_dir = proc ? strdup(proc) : NULL,
    };
    int error = driver->store ? -EEXIST : zc_store_create(&driver->config, &driver->store);

    if (!error) {
        driver->page_size = zc_store_page_size(driver->store);
        driver->page = malloc(driver->page_size);
    }
    say_done(error);
}

static void do_pool(struct driver *driver, const struct words *words)
{
    struct zc_pool_config config = {
        .name = words->word[1],
        .kind = strcmp(words->word[2], "ephemeral") == 0 ? ZC_EPHEMERAL : ZC_PERSISTENT,
        .allocator = words->count > 3 ? words->word[3] : NULL,
        .codec = words->count > 4 ? words->word[4] : NULL,
    };
    zc_pool *pool;
    int error = zc_pool_create(driver->store, &config, &pool);

    if (!error)
        zc_pool_release(pool);
    say_done(error);
}

static void do_put(struct driver *driver, zc_pool *pool, const struct words *words)
{
    unsigned flags = strcmp(words->word[0], "put-inactive") == 0 ? ZC_PUT_INACTIVE : 0;
    uint32_t zsize = 0;

    make_page(driver, words->word[4], driver->page);
    int result = zc_put(pool, number(words->word[2]), (uint32_t)number(words->word[3]),
                        driver->page, flags, &zsize);
    say_put(result, zsize);
}

static void do_get(struct driver *driver, zc_pool *pool, const struct words *words)
{
    unsigned flags = strcmp(words->word[0], "peek") == 0     ? ZC_GET_PEEK
                     : strcmp(words->word[0], "glance") == 0 ? ZC_GET_NO_ALLOC
                                                             : 0;
    int result =
        zc_get(pool, number(words->word[2]), (uint32_t)number(words->word[3]), driver->page, flags);

    say_get(driver, result, driver->page);
}

static const char *const eviction_names[ZC_EVICTIONS] = {
    [ZC_EVICTED_USER] = "evicted_user",
    [ZC_EVICTED_LIMIT] = "evicted_limit",
    [ZC_EVICTED_PRESSURE] = "evicted_pressure",
    [ZC_PERS_ATE_EPH] = "pers_ate_eph",
};

static const char *const writeback_names[ZC_WRITEBACK_CAUSES] = {
    [ZC_WRITEBACK_USER] = "writeback_user",
    [ZC_WRITEBACK_LIMIT] = "writeback_limit",
    [ZC_WRITEBACK_PRESSURE] = "writeback_pressure",
    [ZC_WRITEBACK_IDLE] = "writeback_idle",
};

static void do_stats(zc_pool *pool)
{
    struct zc_pool_stats s;

    zc_pool_get_stats(pool, &s);
    printf("puts=%" PRIu64 " stored_puts=%" PRIu64, s.puts, s.stored_puts);
    for (int i = 1; i < ZC_REFUSALS; i++)
        printf(" %s=%" PRIu64, zc_refusal_name(i), s.refused[i]);
    for (int i = 0; i < ZC_EVICTIONS; i++)
        printf(" %s=%" PRIu64 " %s_frames=%" PRIu64, eviction_names[i], s.evicted[i],
               eviction_names[i], s.evicted_frames[i]);
    for (int i = 0; i < ZC_WRITEBACK_CAUSES; i++)
        printf(" %s=%" PRIu64 " %s_frames=%" PRIu64, writeback_names[i], s.written_back[i],
               writeback_names[i], s.written_back_frames[i]);
    printf(" gets=%" PRIu64 " gets_found=%" PRIu64 " flush_total=%" PRIu64 " flush_found=%" PRIu64
           " flobj_total=%" PRIu64 " flobj_found=%" PRIu64 " put_to_flush=%" PRIu64
           " dup_puts=%" PRIu64 " kept_rejected=%" PRIu64 " damaged=%" PRIu64
           " compacted_frames=%" PRIu64 " compacted_zpages=%" PRIu64 " reclaimed_frames=%" PRIu64
           " reclaimed_zpages=%" PRIu64 " zpages=%" PRIu64 " same_filled=%" PRIu64
           " raw_pages=%" PRIu64 " zbytes=%" PRIu64 " frames=%" PRIu64 " metadata_bytes=%" PRIu64
           " used_bytes=%" PRIu64 " writeback_frames=%" PRIu64 " writeback_pages=%" PRIu64
           " writeback_errors=%" PRIu64 " written_gets=%" PRIu64 " read_errors=%" PRIu64
           " written_pages=%" PRIu64 " written_bytes=%" PRIu64 " wear_evicted=%" PRIu64
           " wear_cleaned=%" PRIu64 " wear_metadata=%" PRIu64 " recompressed_frames=%" PRIu64
           " recompressed_pages=%" PRIu64 " cold_pages=%" PRIu64 " cold_extents=%" PRIu64
           " cold_bytes=%" PRIu64 " cold_frames=%" PRIu64 " warmed_pages=%" PRIu64,
           s.gets, s.gets_found, s.flush_total, s.flush_found, s.flobj_total, s.flobj_found,
           s.put_to_flush, s.dup_puts, s.kept_rejected, s.damaged, s.compacted_frames,
           s.compacted_zpages, s.reclaimed_frames, s.reclaimed_zpages, s.zpages, s.same_filled,
           s.raw_pages, s.zbytes, s.frames, s.metadata_bytes, s.used_bytes, s.writeback_frames,
           s.writeback_pages, s.writeback_errors, s.written_gets, s.read_errors, s.written_pages,
           s.written_bytes, s.wear_evicted, s.wear_cleaned, s.wear_metadata, s.recompressed_frames,
           s.recompressed_pages, s.cold_pages, s.cold_extents, s.cold_bytes, s.cold_frames,
           s.warmed_pages);
}

static void do_totals(struct driver *driver)
{
    struct zc_store_stats s;

    zc_store_get_stats(driver->store, &s);
    printf("limit_bytes=%" PRIu64 " frames=%" PRIu64 " reserve_frames=%" PRIu64
           " metadata_bytes=%" PRIu64 " used_bytes=%" PRIu64 " pers_zpages=%" PRIu64
           " eph_zpages=%" PRIu64 " pers_pageframes=%" PRIu64 " eph_pageframes=%" PRIu64
           " same_filled=%" PRIu64 " zbytes=%" PRIu64 " written_pages=%" PRIu64
           " written_bytes=%" PRIu64 " pers_unsaved=%" PRIu64 " pools=%" PRIu64
           " cold_pages=%" PRIu64 " cold_bytes=%" PRIu64,
           s.limit_bytes, s.frames, s.reserve_frames, s.metadata_bytes, s.used_bytes, s.pers_zpages,
           s.eph_zpages, s.pers_pageframes, s.eph_pageframes, s.same_filled, s.zbytes,
           s.written_pages, s.written_bytes, s.pers_unsaved, s.pools, s.cold_pages, s.cold_bytes);
    printf(" pressures=%" PRIu64 " pressure_source=%" PRIu64, s.pressures, s.pressure_source);
}

static void do_dist(const struct driver *driver, zc_pool *pool)
{
    uint64_t dist[2][ZC_DIST_BUCKETS];

    zc_pool_get_dist(pool, dist[0], dist[1]);
    for (int which = 0; which < 2; which++) {
        printf(which ? " cumul" : "curr");
        for (size_t b = 0; b < ZC_DIST_BUCKETS; b++) {
            if (dist[which][b])
                printf(" %zu:%" PRIu64, (b + 1) * driver->page_size / ZC_DIST_BUCKETS,
                       dist[which][b]);
        }
    }
}

static void do_used(struct driver *driver)
{
    struct zc_store_stats stats;
    uint64_t os = os_bytes();

    zc_store_get_stats(driver->store, &stats);
    printf("store=%" PRIu64 " os=%" PRIu64, stats.used_bytes, os);
}

static void do_bulk(struct driver *driver, zc_pool *pool, const struct words *words)
{
    uint64_t first = number(words->word[3]), count = number(words->word[4]), stored = 0;
    char content[64];

    for (uint64_t i = first; i < first + count; i++) {
        snprintf(content, sizeof(content), "rand:%" PRIu64 ":%s", i, words->word[5]);
        make_page(driver, content, driver->page);
        stored +=
            zc_put(pool, number(words->word[2]), (uint32_t)i, driver->page, 0, NULL) == ZC_STORED;
    }
    printf("stored %" PRIu64, stored);
}

/* ---- emptying frames, dictionaries, checks ---- */

struct taking {
    const struct driver *driver;
    uint32_t share; /* in 8 */
    char *list;
    size_t size;
    FILE *out;
};

static int take(void *arg, const struct zc_key *key, const void *page)
{
    const struct taking *taking = arg;

    if (key->index % 8 >= taking->share)
        return -ENOSPC;
    fprintf(taking->out, " %" PRIu64 ":%" PRIu32 ":%" PRIu32, key->object, key->index,
            crc32_of(page, taking->driver->page_size));
    return 0;
}

static void do_reclaim(const struct driver *driver, zc_pool *pool, const struct words *words)
{
    struct taking taking = {.driver = driver, .share = (uint32_t)number(words->word[3])};
    struct zc_reclaimed reclaimed;

    taking.out = open_memstream(&taking.list, &taking.size);
    int error = zc_pool_reclaim(pool, number(words->word[2]), words->count > 3 ? take : NULL,
                                &taking, &reclaimed);
    fclose(taking.out);
    if (error)
        complain(error);
    else
        printf("frames %" PRIu64 " zpages %" PRIu64 " taken%s", reclaimed.frames, reclaimed.zpages,
               taking.list);
    free(taking.list);
}

static void do_compact(zc_pool *pool)
{
    int64_t frames = zc_pool_compact(pool);

    if (frames < 0)
        complain((int)frames);
    else
        printf("frames %" PRId64, frames);
}

static void do_dictionary(const struct driver *driver, const struct words *words)
{
    size_t size = number(words->word[2]);
    char *bytes = malloc(size + sizeof(uint64_t));
    uint32_t id;

    for (size_t i = 0; i < size; i += sizeof(uint64_t)) {
        uint64_t word = zc_mix64(number(words->word[1]) + i);
        memcpy(bytes + i, &word, sizeof(word));
    }
    int error = zc_dictionary_load(driver->store, bytes, size, &id);
    if (error)
        complain(error);
    else
        printf("id %" PRIu32, id);
    free(bytes);
}

static void do_check(const struct driver *driver)
{
    char why[256];

    printf("%s", zc_store_check(driver->store, why, sizeof(why)) == 0 ? "ok" : why);
}

/* ---- backing stores ---- */

static void run(struct driver *driver, const struct words *words);

/* What others do while a record is read or written. */
static struct {
    struct driver *driver;
    char read[LINE_SIZE], write[LINE_SIZE];
} meanwhile;

static void run_meanwhile(char *pending)
{
    char requests[LINE_SIZE], *rest = requests, *request;
    struct words words;

    if (!*pending)
        return;
    memcpy(requests, pending, sizeof(requests));
    *pending = '\0';
    while ((request = strsep(&rest, ";"))) {
        words_split(request, &words);
        if (words.count == 0)
            continue;
        run(meanwhile.driver, &words);
        printf(", ");
    }
}

static ssize_t driver_pread(void *arg, int fd, void *bytes, size_t size, uint64_t at)
{
    run_meanwhile(meanwhile.read);
    return faulty_io.pread(arg, fd, bytes, size, at);
}

static ssize_t driver_pwritev(void *arg, int fd, const struct iovec *iov, int count, uint64_t at)
{
    if (faulty_total(iov, count) % ZC_BLOCK == 0 && at >= ZC_WORDS_AT) /* under no lock */
        run_meanwhile(meanwhile.write);
    return faulty_io.pwritev(arg, fd, iov, count, at);
}

static void do_meanwhile(struct driver *driver, const char *request)
{
    bool is_read = strncmp(request, "read ", 5) == 0;

    meanwhile.driver = driver;
    snprintf(is_read ? meanwhile.read : meanwhile.write, LINE_SIZE, "%s", strchr(request, ' '));
    say_done(0);
}

static void do_backing(zc_pool *pool, const struct words *words)
{
    struct zc_io driver_io = faulty_io;
    struct zc_pool_backing backing = {
        .path = words->word[2],
        .layout = words->word[3],
        .size = number(words->word[4]),
        .reset = strcmp(words->word[5], "reset") == 0,
    };
    struct zc_text why = {0};

    driver_io.pread = driver_pread;
    driver_io.pwritev = driver_pwritev;
    int error = strcmp(backing.path, "none") == 0
                    ? zc_writeback_detach(pool, &why)
                    : zc_writeback_attach(pool, &backing, &driver_io, &why);

    say_done(error);
    if (error)
        printf(" %s", why.data ? why.data : "");
    zc_text_free(&why);
}

static void say_error(int error)
{
    char buf[16];

    printf(" %s", error ? zc_errno_name(error, buf) : "ok");
}

static void do_writeback(zc_pool *pool, const struct words *words)
{
    struct zc_written_back done;
    int error = zc_pool_writeback(pool, number(words->word[2]), &done);

    printf("frames %" PRIu64 " pages %" PRIu64, done.frames, done.pages);
    say_error(error);
}

static void do_recompress(zc_pool *pool, const struct words *words, bool is_idle)
{
    struct zc_recompressed done;
    uint64_t most = number(words->word[2]);
    int error = is_idle ? zc_pool_recompress_idle(pool, (uint32_t)most, &done)
                        : zc_pool_recompress(pool, most, &done);

    printf("frames %" PRIu64 " pages %" PRIu64 " extents %" PRIu64, done.frames, done.pages,
           done.extents);
    say_error(error);
}

static void do_where(zc_pool *pool, const struct words *words)
{
    static const char *const kinds[] = {
        [ZC_ENTRY_EMPTY] = "none", [ZC_ENTRY_ZPAGE] = "zpage",     [ZC_ENTRY_RAW] = "raw",
        [ZC_ENTRY_FILL] = "fill",  [ZC_ENTRY_WRITTEN] = "written", [ZC_ENTRY_COLD] = "cold",
    };
    uint64_t object = number(words->word[2]);
    uint32_t index = (uint32_t)number(words->word[3]);
    struct zc_shard *shard = zc_shard_of(pool, object, index);

    zc_shard_lock(shard);
    const struct zc_entry *entry = zc_index_find(&shard->index, object, index);
    printf("%s", kinds[entry ? entry->kind : ZC_ENTRY_EMPTY]);
    zc_shard_unlock(shard);
}

static void do_size(zc_pool *pool, const struct words *words)
{
    uint64_t object = number(words->word[2]);
    uint32_t index = (uint32_t)number(words->word[3]);
    struct zc_shard *shard = zc_shard_of(pool, object, index);

    zc_shard_lock(shard);
    const struct zc_entry *entry = zc_index_find(&shard->index, object, index);
    if (entry && zc_entry_has_zpage(entry))
        printf("%u", (unsigned)entry->size);
    else
        printf("none");
    zc_shard_unlock(shard);
}

static void do_idle(zc_pool *pool, const struct words *words)
{
    uint64_t object = number(words->word[2]);
    uint32_t index = (uint32_t)number(words->word[3]);
    struct zc_shard *shard = zc_shard_of(pool, object, index);

    zc_shard_lock(shard);
    const struct zc_entry *entry = zc_index_find(&shard->index, object, index);
    if (entry && (zc_entry_has_zpage(entry) || zc_entry_is_cold(entry)))
        printf("%u", (uint16_t)(zc_store_now(pool->store) - zc_entry_age(entry)));
    else
        printf("none");
    zc_shard_unlock(shard);
}

static void do_restart(struct driver *driver, const struct words *words)
{
    struct zc_saved saved = {0};
    int error = 0;

    if (strcmp(words->word[1], "save") == 0)
        error = zc_store_save(driver->store, &saved);
    zc_store_destroy(driver->store);
    if (zc_store_create(&driver->config, &driver->store) != 0)
        abort();
    printf("saved %" PRIu64 " lost %" PRIu64, saved.pages, saved.lost);
    say_error(error);
}

/* ---- batches ---- */

struct batch {
    size_t count;
    struct zc_key keys[BATCH_MAX];
    uint64_t objects[BATCH_MAX];
    char *pages[BATCH_MAX];
};

static void read_batch(const struct driver *driver, struct batch *batch)
{
    char line[LINE_SIZE];
    struct words words;

    batch->count = 0;
    while (fgets(line, sizeof(line), stdin)) {
        words_split(line, &words);
        if (strcmp(words.word[0], "end") == 0 || batch->count == BATCH_MAX)
            return;
        size_t i = batch->count++;
        batch->objects[i] = number(words.word[0]);
        batch->keys[i] =
            (struct zc_key){.object = batch->objects[i], .index = (uint32_t)number(words.word[1])};
        batch->pages[i] = malloc(driver->page_size);
        if (words.count > 2)
            make_page(driver, words.word[2], batch->pages[i]);
    }
}

static void do_batch(const struct driver *driver, zc_pool *pool, const char *command)
{
    static struct batch batch;
    int32_t results[BATCH_MAX];
    int64_t pages[BATCH_MAX];
    uint32_t zsizes[BATCH_MAX];
    bool is_put = strcmp(command, "puts") == 0, is_flobj = strcmp(command, "flobjs") == 0;
    bool is_flush = strcmp(command, "flushes") == 0;
    unsigned flags = strcmp(command, "peeks") == 0 ? ZC_GET_PEEK : 0;

    read_batch(driver, &batch);
    if (is_put)
        zc_put_batch(pool, batch.keys, (const void *const *)batch.pages, batch.count, 0, results,
                     zsizes);
    else if (is_flobj)
        zc_flush_object_batch(pool, batch.objects, batch.count, pages);
    else if (is_flush)
        zc_flush_page_batch(pool, batch.keys, batch.count, results);
    else
        zc_get_batch(pool, batch.keys, (void *const *)batch.pages, batch.count, flags, results);

    for (size_t i = 0; i < batch.count; i++) {
        printf(i ? ", " : "");
        if (is_put)
            say_put(results[i], zsizes[i]);
        else if (is_flobj)
            say_pages(pages[i]);
        else if (is_flush)
            say_done(results[i]);
        else
            say_get(driver, results[i], batch.pages[i]);
        free(batch.pages[i]);
    }
}

/* ---- lines ---- */

static void with_pool(struct driver *driver, zc_pool *pool, const struct words *words)
{
    const char *command = words->word[0];
    size_t len = strlen(command);

    if (strcmp(command, "put") == 0 || strcmp(command, "put-inactive") == 0)
        do_put(driver, pool, words);
    else if (strcmp(command, "get") == 0 || strcmp(command, "peek") == 0 ||
             strcmp(command, "glance") == 0)
        do_get(driver, pool, words);
    else if (strcmp(command, "flush") == 0)
        say_done(zc_flush_page(pool, number(words->word[2]), (uint32_t)number(words->word[3])));
    else if (strcmp(command, "flobj") == 0)
        say_pages(zc_flush_object(pool, number(words->word[2])));
    else if (strcmp(command, "destroy") == 0)
        say_pages(zc_pool_destroy(pool));
    else if (strcmp(command, "param") == 0)
        say_done(zc_pool_set_param(pool, words->word[2], words->word[3]));
    else if (strcmp(command, "codec") == 0)
        say_done(zc_pool_set_codec(pool, words->word[2]));
    else if (strcmp(command, "compact") == 0)
        do_compact(pool);
    else if (strcmp(command, "reclaim") == 0)
        do_reclaim(driver, pool, words);
    else if (strcmp(command, "backing") == 0)
        do_backing(pool, words);
    else if (strcmp(command, "writeback") == 0)
        do_writeback(pool, words);
    else if (strcmp(command, "recompress") == 0)
        do_recompress(pool, words, false);
    else if (strcmp(command, "recompress-idle") == 0)
        do_recompress(pool, words, true);
    else if (strcmp(command, "where") == 0)
        do_where(pool, words);
    else if (strcmp(command, "size") == 0)
        do_size(pool, words);
    else if (strcmp(command, "idle") == 0)
        do_idle(pool, words);
    else if (strcmp(command, "damage") == 0)
        say_done(zc_debug_damage(pool, number(words->word[2]), (uint32_t)number(words->word[3])));
    else if (strcmp(command, "stats") == 0)
        do_stats(pool);
    else if (strcmp(command, "dist") == 0)
        do_dist(driver, pool);
    else if (strcmp(command, "bulk") == 0)
        do_bulk(driver, pool, words);
    else if (len && command[len - 1] == 's')
        do_batch(driver, pool, command);
    else
        complain(-ENOSYS);
}

static void run(struct driver *driver, const struct words *words)
{
    const char *command = words->word[0];
    zc_pool *pool;

    if (strcmp(command, "store") == 0) {
        do_store(driver, words);
        return;
    }
    if (!driver->store) {
        complain(-EINVAL);
        return;
    }
    if (strcmp(command, "pool") == 0) {
        do_pool(driver, words);
    } else if (strcmp(command, "limit") == 0) {
        say_done(zc_store_set_limit(driver->store, number(words->word[1])));
    } else if (strcmp(command, "reserve") == 0) {
        zc_store_set_reserve(driver->store, (size_t)number(words->word[1]));
        say_done(0);
    } else if (strcmp(command, "check") == 0) {
        do_check(driver);
    } else if (strcmp(command, "dictionary") == 0) {
        do_dictionary(driver, words);
    } else if (strcmp(command, "forget") == 0) {
        say_done(zc_dictionary_remove(driver->store, (uint32_t)number(words->word[1])));
    } else if (strcmp(command, "restart") == 0) {
        do_restart(driver, words);
    } else if (strcmp(command, "fault") == 0) {
        say_done(faulty_fail(words->word[1], words->word[2], (unsigned)number(words->word[3]),
                             (unsigned)number(words->word[4])));
    } else if (strcmp(command, "die") == 0) {
        say_done(faulty_die((unsigned)number(words->word[1]), strcmp(words->word[2], "half") == 0));
    } else if (strcmp(command, "totals") == 0) {
        do_totals(driver);
    } else if (strcmp(command, "used") == 0) {
        do_used(driver);
    } else if (strcmp(command, "set") == 0) {
        say_done(zc_store_set_param(driver->store, words->word[1], words->word[2]));
    } else if (strcmp(command, "settle") == 0) {
        zc_debug_settle(driver->store);
        say_done(0);
    } else if (strcmp(command, "skip") == 0) {
        zc_debug_age(driver->store, (uint32_t)number(words->word[1]));
        say_done(0);
    } else if (strcmp(command, "pressure") == 0) {
        zc_limit_relieve(driver->store);
        say_done(0);
    } else if (zc_pool_find(driver->store, words->word[1], &pool) != 0) {
        complain(-ENOENT);
    } else {
        with_pool(driver, pool, words);
        zc_pool_release(pool);
    }
}

/* In debug builds, after every operation on a store that is not yet large. Damage is meant to be. */
static void check_invariants(struct driver *driver, const char *command)
{
#ifdef ZC_DEBUG
    char why[256];

    driver->damaged |= strcmp(command, "damage") == 0;
    driver->large |= strcmp(command, "bulk") == 0;
    if (!driver->store || driver->damaged || driver->large)
        return;
    if (zc_store_check(driver->store, why, sizeof(why)) != 0) {
        fprintf(stderr, "zc_driver: after %s: %s\n", command, why);
        abort();
    }
#else
    (void)driver;
    (void)command;
#endif
}

int main(void)
{
    struct driver driver = {0};
    char line[LINE_SIZE];
    struct words words;

    while (fgets(line, sizeof(line), stdin)) {
        static const char pending[] = "meanwhile ";
        bool is_pending = strncmp(line, pending, strlen(pending)) == 0;
        if (is_pending)
            do_meanwhile(&driver, line + strlen(pending));
        words_split(line, &words);
        if (words.count == 0 || words.word[0][0] == '#')
            continue;
        if (!is_pending)
            run(&driver, &words);
        printf("\n");
        fflush(stdout);
        check_invariants(&driver, words.word[0]);
    }
    if (driver.store)
        zc_store_destroy(driver.store);
    free((void *)driver.config.proc_dir);
    free(driver.page);
    return 0;
}
