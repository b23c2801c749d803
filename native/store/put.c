/* SPDX-License-Identifier: Apache-2.0 */
/* put: is a page to be kept, and where? */
#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "base/hash.h"
#include "store/entry.h"
#include "store/limit.h"
#include "store/record.h"

#define POOR_RUN_PROBE 16u  /* of a poor run, every such page is compressed */
#define CACHE_LINE 64u      /* bytes */
#define PREFETCH_MAX 4096u  /* bytes: more would drive out what is needed first */
#define LONG_AGO (1u << 30) /* by a pool's clock */
#define TRY_PAGES 64u       /* looked at together, to be tried by other codecs */

static bool same_filled(const void *page, size_t page_size, uint64_t *word)
{
    const char *bytes = page;
    uint64_t first, last;

    memcpy(&first, bytes, sizeof(first));
    memcpy(&last, bytes + page_size - sizeof(last), sizeof(last));
    /* A page equals itself moved by a word if and only if all its words are equal. */
    if (first != last || memcmp(bytes, bytes + sizeof(first), page_size - sizeof(first)) != 0)
        return false;
    *word = first;
    return true;
}

/* May the store, and the pool, take another frame? */
static enum zc_refusal admit_memory(zc_pool *pool)
{
    zc_store *store = pool->store;
    struct zc_frames_stats frames;
    struct zc_alloc_stats mine;

    if (!zc_limit_admits(pool))
        return ZC_POLICY_PERCENT_EXCEEDED;
    zc_frames_get_stats(store->frames, &frames);

    /* Asking the allocator costs a lock: only where all pools together are over the share. */
    uint64_t share = store->memory.total / 100 * zc_param(pool, ZC_PARAM_POLICY_PERCENT);
    if (frames.taken * store->page_size >= share) {
        zc_pool_alloc_stats(pool, &mine);
        if (mine.frames * store->page_size >= share)
            return ZC_POLICY_PERCENT_EXCEEDED;
    }
    if (!zc_param(pool, ZC_PARAM_IGNORE_LOW_MEMORY) &&
        zc_memory_low(&store->memory, frames.taken * store->page_size))
        return ZC_LOW_MEMORY;
    return ZC_STORED;
}

/* What threads count at the same time may get lost: a run is then a little longer. */
static void set_poor_run(zc_pool *pool, uint32_t pages)
{
    if (atomic_load_explicit(&pool->poor_run, memory_order_relaxed) != pages)
        atomic_store_explicit(&pool->poor_run, pages, memory_order_relaxed);
}

/* Is the page to be refused untried, as those before were all poor? */
static bool in_poor_run(zc_pool *pool)
{
    uint64_t limit = zc_param(pool, ZC_PARAM_POOR_RUN_LIMIT);
    uint32_t run = atomic_load_explicit(&pool->poor_run, memory_order_relaxed);

    if (limit == 0)
        set_poor_run(pool, 0);
    if (limit == 0 || run < limit)
        return false;
    set_poor_run(pool, run + 1);
    return (run - limit) % POOR_RUN_PROBE != POOR_RUN_PROBE - 1;
}

/* A page was compressed. */
static void count_poor_run(zc_pool *pool, bool is_poor)
{
    uint64_t limit = zc_param(pool, ZC_PARAM_POOR_RUN_LIMIT);
    uint32_t run = atomic_load_explicit(&pool->poor_run, memory_order_relaxed);

    if (!is_poor)
        set_poor_run(pool, 0);
    else if (run < limit)
        set_poor_run(pool, run + 1);
}

static enum zc_refusal admit_size(zc_pool *pool, size_t size)
{
    bool is_poor = size > zc_param(pool, ZC_PARAM_MAX_ZSIZE) || size > pool->store->page_size;

    count_poor_run(pool, is_poor);
    if (is_poor)
        return ZC_COMPRESS_POOR;

    uint64_t max_mean = zc_param(pool, ZC_PARAM_MAX_MEAN_ZSIZE);
    if (size <= max_mean)
        return ZC_STORED;
    uint64_t zpages = 0, zbytes = 0;
    for (size_t i = 0; i < ZC_SHARDS; i++) {
        zpages += atomic_load_explicit(&pool->shards[i].zpages, memory_order_relaxed);
        zbytes += atomic_load_explicit(&pool->shards[i].zbytes, memory_order_relaxed);
    }
    return zpages && zbytes > max_mean * zpages ? ZC_MEAN_COMPRESS_POOR : ZC_STORED;
}

/* A put on its way. */
struct put {
    const struct zc_key *key;
    const void *page;
    char *zpage; /* room for it */
    size_t size; /* bytes that the page compressed to; 0: not compressed */
    enum zc_refusal refusal;
    struct zc_entry made; /* in no index yet */
    const void *from;     /* bytes that are yet to be copied into the allocator's; NULL: none */
    struct zc_zpage to;   /* where; as long as it has no owner nobody moves it */
    uint32_t checksum;    /* of them, if made.is_checked */
    uint32_t stamp;
    uint16_t now;
    unsigned flags;
};

/* Memory that is written soon: a cold cache line costs as much as 100 compressed bytes. */
static void prefetch_to_write(const char *at, size_t size)
{
    for (const char *end = at + zc_min(size, PREFETCH_MAX); at < end; at += CACHE_LINE)
        __builtin_prefetch(at, 1);
}

/* A place for the bytes; while its memory comes into the cache, their checksum. */
static enum zc_refusal place(zc_pool *pool, const void *bytes, size_t size, struct put *put)
{
    zc_handle handle;

    while (!(handle = pool->alloc_ops->malloc(pool->alloc, size, put->stamp))) {
        if (!zc_limit_make_room(pool))
            return ZC_FAILED_GETFREEPAGES;
    }

    zc_entry_set_handle(&put->made, handle);
    zc_entry_set_age(&put->made, put->now);
    put->made.size = (uint32_t)size & 0x1fffff;
    put->from = bytes;
    put->to = pool->alloc_ops->map(pool->alloc, handle);
    prefetch_to_write(put->to.bytes, size);
    put->made.is_checked = zc_param(pool, ZC_PARAM_CHECKSUMS) != 0;
    if (put->made.is_checked)
        put->checksum = zc_checksum(bytes, size);
    return ZC_STORED;
}

/* The first stage of a put: what does not depend on the pages put before. */
static void put_compress(zc_pool *pool, struct zc_compressor *compressor, struct put *put)
{
    size_t page_size = pool->store->page_size;
    uint64_t gate = zc_param(pool, ZC_PARAM_ENTROPY_GATE);

    if (put->flags & ZC_PUT_INACTIVE && zc_param(pool, ZC_PARAM_IGNORE_INACTIVE)) {
        put->refusal = pool->kind == ZC_EPHEMERAL ? ZC_EPH_NONACTIVE_PUTS_IGNORED
                                                  : ZC_PERS_NONACTIVE_PUTS_IGNORED;
        return;
    }
    put->made.kind = ZC_ENTRY_FILL;
    if (same_filled(put->page, page_size, &put->made.word))
        return;
    put->refusal = admit_memory(pool);
    if (put->refusal)
        return;
    if (in_poor_run(pool)) {
        put->refusal = ZC_POOR_RUN_REFUSED;
        return;
    }
    if (gate && zc_entropy(put->page, page_size) > gate) {
        put->refusal = ZC_ENTROPY_REJECTED;
        return;
    }
    put->made.kind = ZC_ENTRY_ZPAGE;
    put->made.codec = compressor->number & 0xf;
    put->size = zc_compress(compressor->codec, compressor->state, put->page, put->zpage);
}

static bool keeps_raw(zc_pool *pool)
{
    return zc_param(pool, ZC_PARAM_KEEP_REJECTED) || zc_writeback_is_well(pool);
}

/* A page that is not worth compressing, for a pool that keeps those as they are. */
static void place_raw(zc_pool *pool, struct put *put)
{
    if (zc_writeback_is_open(pool))
        put->stamp -= LONG_AGO; /* the first to be written back */
    put->made.kind = ZC_ENTRY_RAW;
    put->made.codec = 0;
    put->size = pool->store->page_size;
    put->refusal = place(pool, put->page, put->size, put);
}

/* The second: is it to be kept, and where? */
static void put_place(zc_pool *pool, struct put *put)
{
    if (put->size)
        put->refusal = admit_size(pool, put->size);
    if (put->size && !put->refusal)
        put->refusal = place(pool, put->zpage, put->size, put);
    else if ((put->size || put->refusal == ZC_ENTROPY_REJECTED ||
              put->refusal == ZC_POOR_RUN_REFUSED) &&
             keeps_raw(pool))
        place_raw(pool, put);
}

/* The refusal as the pool's counters and index see it: an older page under the key is gone. */
static int refuse(zc_pool *pool, struct zc_shard *shard, const struct zc_key *key,
                  enum zc_refusal refusal)
{
    struct zc_entry old = {0};

    zc_shard_lock(shard);
    if (pool->dead) {
        zc_shard_unlock(shard);
        return -ENOENT;
    }
    struct zc_entry *entry = zc_index_find(&shard->index, key->object, key->index);
    if (entry) {
        old = zc_entry_take_out(pool, shard, key->object, entry);
        shard->stats.put_to_flush++;
    }
    shard->stats.puts++;
    shard->stats.refused[refusal]++;
    zc_shard_unlock(shard);

    zc_pool_freed(pool, zc_entry_release(pool, &old));
    return (int)refusal;
}

/* The zpage to its place. Returns what its owner is to be written to; NULL: there is no zpage. */
static struct zc_zhead *write_zpage(const struct put *put)
{
    if (!put->from)
        return NULL;

    memcpy(put->to.bytes, put->from, put->made.size);
    put->to.head->checksum = put->checksum;
    return put->to.head;
}

/* The last: the page is in its place, then in the index. */
static int put_finish(zc_pool *pool, const struct put *put)
{
    const struct zc_key *key = put->key;
    struct zc_shard *shard = zc_shard_of(pool, key->object, key->index);
    struct zc_entry made = put->made, old = {0};

    if (put->refusal)
        return refuse(pool, shard, key, put->refusal);
    struct zc_zhead *head = write_zpage(put);

    zc_shard_lock(shard);
    if (pool->dead) {
        zc_shard_unlock(shard);
        zc_entry_release(pool, &made);
        return -ENOENT;
    }
    struct zc_entry *entry = zc_index_find(&shard->index, key->object, key->index);
    if (entry) {
        old = *entry;
        zc_entry_account(pool, shard, &old, -1);
        shard->stats.dup_puts++;
    } else {
        entry = zc_index_insert(&shard->index, key->object, key->index);
        zc_shard_count_bytes(pool, shard);
    }
    if (!entry) { /* no memory for the index; there is no older page */
        zc_shard_unlock(shard);
        zc_entry_release(pool, &made);
        return refuse(pool, shard, key, ZC_FAILED_GETFREEPAGES);
    }
    made.index = key->index;
    *entry = made;
    zc_entry_forget(pool, shard, key->object, &old);
    if (head)
        zc_owner_set(head, zc_entry_owner(pool, shard, key->object, key->index));
    zc_entry_account(pool, shard, &made, 1);
    if (made.kind == ZC_ENTRY_ZPAGE)
        shard->cumul_dist[zc_dist_bucket(pool, made.size)]++;
    shard->stats.kept_rejected += made.kind == ZC_ENTRY_RAW;
    shard->stats.puts++;
    shard->stats.stored_puts++;
    zc_shard_unlock(shard);

    zc_pool_freed(pool, zc_entry_release(pool, &old));
    return ZC_STORED;
}

/* A page is compressed while the memory that the one before goes to comes into the cache; it is
 * judged after that one is stored, as if they had come one by one. */
static void put_all(zc_pool *pool, struct zc_compressor *compressor, const struct zc_key *keys,
                    const void *const *pages, size_t count, unsigned flags, int32_t *results,
                    uint32_t *zsizes)
{
    uint32_t stamp = zc_pool_tick(pool);
    uint16_t now = zc_store_now(pool->store);
    struct put puts[2];

    for (size_t i = 0; i < count; i++) {
        struct put *put = &puts[i % 2], *before = &puts[(i + 1) % 2];
        *put = (struct put){&keys[i],       pages[i],   .zpage = compressor->zpage[i % 2],
                            .stamp = stamp, .now = now, .flags = flags};
        put_compress(pool, compressor, put);
        if (i > 0)
            results[i - 1] = put_finish(pool, before);
        put_place(pool, put);
        if (zsizes)
            zsizes[i] = (uint32_t)put->size;
    }
    if (count > 0)
        results[count - 1] = put_finish(pool, &puts[(count - 1) % 2]);
}

/* ---- the same, recorded ---- */

/* A put and its times. */
struct recorded {
    struct put put;
    size_t size; /* bytes that the page compresses to; 0: same-filled */
    uint64_t ns, codec_ns;
    bool is_untried;
};

/* A page that was refused before it was compressed has a size, too, which other settings might ask for. */
static void find_size(struct zc_compressor *compressor, struct recorded *recorded)
{
    struct put *put = &recorded->put;

    recorded->size = put->size;
    recorded->is_untried = put->refusal && !put->size;
    if (recorded->is_untried)
        recorded->size = zc_compress(compressor->codec, compressor->state, put->page, put->zpage);
}

static void note_put(struct zc_recorder *recorder, uint32_t time, const struct recorded *recorded,
                     int32_t result)
{
    const struct put *put = &recorded->put;
    unsigned flags = put->flags & ZC_PUT_INACTIVE ? ZC_EVENT_INACTIVE : 0;

    flags |= recorded->is_untried ? ZC_EVENT_UNTRIED : 0;
    zc_recorder_note(recorder, &(struct zc_event){
                                   .object = put->key->object,
                                   .index = put->key->index,
                                   .size = (uint32_t)recorded->size,
                                   .time_us = time,
                                   .ns = zc_event_ns(recorded->ns),
                                   .codec_ns = zc_event_ns(recorded->codec_ns),
                                   .kind = ZC_EVENT_PUT,
                                   .result = result < 0 ? UINT8_MAX : (uint8_t)result,
                                   .detail = result == 0 ? put->made.kind : 0,
                                   .flags = (uint8_t)flags,
                               });
}

/* Puts a page. Returns what became of it. */
static int32_t put_recorded(zc_pool *pool, struct zc_recorder *recorder,
                            struct zc_compressor *compressor, struct recorded *recorded,
                            uint32_t time)
{
    struct put *put = &recorded->put;
    uint64_t start = zc_now_ns();

    put_compress(pool, compressor, put);
    uint64_t compressed = zc_now_ns();
    find_size(compressor, recorded);
    recorded->codec_ns = put->size ? compressed - start : 0;

    uint64_t again = zc_now_ns();
    put_place(pool, put);
    int32_t result = put_finish(pool, put);
    recorded->ns = compressed - start + (zc_now_ns() - again);
    note_put(recorder, time, recorded, result);
    return result;
}

/* As put_all(), page by page. */
static void put_all_recorded(zc_pool *pool, struct zc_recorder *recorder,
                             struct zc_compressor *compressor, const struct zc_key *keys,
                             const void *const *pages, size_t count, unsigned flags,
                             int32_t *results, uint32_t *zsizes)
{
    uint32_t stamp = zc_pool_tick(pool), time = zc_recorder_time(recorder), sizes[TRY_PAGES];
    uint16_t now = zc_store_now(pool->store);

    for (size_t i = 0; i < count; i++) {
        struct recorded recorded = {.put = {&keys[i], pages[i], .zpage = compressor->zpage[0],
                                            .stamp = stamp, .now = now, .flags = flags}};
        size_t at = i % TRY_PAGES;
        results[i] = put_recorded(pool, recorder, compressor, &recorded, time);
        sizes[at] = (uint32_t)recorded.size;
        if (zsizes)
            zsizes[i] = (uint32_t)recorded.put.size;
        if (at == TRY_PAGES - 1 || i == count - 1)
            zc_recorder_try(recorder, &keys[i - at], &pages[i - at], sizes, at + 1);
    }
}

int zc_put_batch(zc_pool *pool, const struct zc_key *keys, const void *const *pages, size_t count,
                 unsigned flags, int32_t *results, uint32_t *zsizes)
{
    struct zc_compressor *compressor = zc_compressor_take(pool);
    if (!compressor)
        return -ENOMEM;

    struct zc_recorder *recorder = zc_recorder_of(pool);
    if (recorder)
        put_all_recorded(pool, recorder, compressor, keys, pages, count, flags, results, zsizes);
    else
        put_all(pool, compressor, keys, pages, count, flags, results, zsizes);
    zc_compressor_give(pool, compressor);
    zc_limit_after_puts(pool);
    zc_keeper_after_puts(pool);
    return pool->dead ? -ENOENT : 0;
}

int zc_put(zc_pool *pool, uint64_t object, uint32_t index, const void *page, unsigned flags,
           uint32_t *zsize)
{
    struct zc_key key = {.object = object, .index = index};
    int32_t result = 0;
    int error = zc_put_batch(pool, &key, &page, 1, flags, &result, zsize);

    return error ? error : result;
}
