/* SPDX-License-Identifier: Apache-2.0 */
/* put, get and flush. */
#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "store/context.h"
#include "store/pool.h"

#define CACHE_LINE 64u       /* bytes */
#define PREFETCH_MAX 4096u   /* bytes: more would drive out what is needed first */
#define CACHED_ENTRIES 4096u /* of a shard: so many are in the cache anyway */

/* An index's shard: runs of 256 adjacent pages stay together, so small objects have one shard. */
static struct zc_shard *shard_of(zc_pool *pool, uint64_t object, uint32_t index)
{
    uint64_t h = zc_mix64(zc_mix64(object ^ pool->secret) ^ index >> 8);

    return &pool->shards[h & (ZC_SHARDS - 1)];
}

static void count_bytes(zc_pool *pool, struct zc_shard *shard)
{
    size_t delta = shard->index.bytes - shard->index_bytes;
    if (delta == 0)
        return;

    shard->index_bytes = shard->index.bytes;
    atomic_fetch_add_explicit(&pool->metadata_bytes, delta, memory_order_relaxed);
    zc_frames_charge(pool->store->frames, (ptrdiff_t)delta);
}

static size_t dist_bucket(const zc_pool *pool, size_t size)
{
    return zc_div_pow2((size - 1) * ZC_DIST_BUCKETS, pool->store->page_size);
}

/* A page comes (by = 1) or goes (by = -1): everything that tells what the pool holds. */
static void account(zc_pool *pool, struct zc_shard *shard, const struct zc_entry *entry, int64_t by)
{
    uint64_t delta = (uint64_t)by;

    switch ((enum zc_entry_kind)entry->kind) {
    case ZC_ENTRY_ZPAGE:
        shard->stats.zpages += delta;
        shard->stats.zbytes += delta * entry->size;
        shard->curr_dist[dist_bucket(pool, entry->size)] += delta;
        atomic_store_explicit(&shard->zpages, shard->stats.zpages, memory_order_relaxed);
        atomic_store_explicit(&shard->zbytes, shard->stats.zbytes, memory_order_relaxed);
        break;
    case ZC_ENTRY_RAW:
        shard->stats.raw_pages += delta;
        break;
    case ZC_ENTRY_FILL:
        shard->stats.same_filled += delta;
        break;
    case ZC_ENTRY_EMPTY:
        break;
    }
}

static void release(zc_pool *pool, const struct zc_entry *entry)
{
    if (entry->kind == ZC_ENTRY_ZPAGE || entry->kind == ZC_ENTRY_RAW)
        pool->alloc_ops->free(pool->alloc, (uintptr_t)entry->word);
}

/* Takes the page out of the index; what it held is left to the caller. */
static struct zc_entry take_out(zc_pool *pool, struct zc_shard *shard, uint64_t object,
                                const struct zc_entry *entry)
{
    struct zc_entry taken = *entry;

    account(pool, shard, &taken, -1);
    zc_index_remove(&shard->index, object, taken.index);
    count_bytes(pool, shard);
    return taken;
}

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

static void fill(void *page, size_t page_size, uint64_t word)
{
    char *bytes = page;

    for (size_t i = 0; i < page_size; i += sizeof(word))
        memcpy(bytes + i, &word, sizeof(word));
}

static uint64_t param(zc_pool *pool, enum zc_param which)
{
    return atomic_load_explicit(&pool->params[which], memory_order_relaxed);
}

/* May the store, and the pool, take another frame? */
static enum zc_refusal admit_memory(zc_pool *pool)
{
    zc_store *store = pool->store;
    struct zc_frames_stats frames;
    struct zc_alloc_stats mine;

    if (!zc_frames_have_room(store->frames))
        return ZC_POLICY_PERCENT_EXCEEDED;
    zc_frames_get_stats(store->frames, &frames);

    /* Asking the allocator costs a lock: only where all pools together are over the share. */
    uint64_t share = store->memory.total / 100 * param(pool, ZC_PARAM_POLICY_PERCENT);
    if (frames.taken * store->page_size >= share) {
        pool->alloc_ops->get_stats(pool->alloc, &mine);
        if (mine.frames * store->page_size >= share)
            return ZC_POLICY_PERCENT_EXCEEDED;
    }
    if (zc_memory_low(&store->memory, frames.taken * store->page_size))
        return ZC_LOW_MEMORY;
    return ZC_STORED;
}

static enum zc_refusal admit_size(zc_pool *pool, size_t size)
{
    if (size > param(pool, ZC_PARAM_MAX_ZSIZE) || size > pool->store->page_size)
        return ZC_COMPRESS_POOR;

    uint64_t max_mean = param(pool, ZC_PARAM_MAX_MEAN_ZSIZE);
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
};

/* Memory that is written, or read, soon: a cold cache line costs as much as 100 compressed bytes. */
static void prefetch_to_write(const char *at, size_t size)
{
    for (const char *end = at + zc_min(size, PREFETCH_MAX); at < end; at += CACHE_LINE)
        __builtin_prefetch(at, 1);
}

static void prefetch_to_read(const char *at, size_t size)
{
    for (const char *end = at + zc_min(size, PREFETCH_MAX); at < end; at += CACHE_LINE)
        __builtin_prefetch(at, 0);
}

static enum zc_refusal place(zc_pool *pool, const void *bytes, size_t size, struct put *put)
{
    uintptr_t handle = pool->alloc_ops->malloc(pool->alloc, size);
    if (!handle)
        return ZC_FAILED_GETFREEPAGES;

    put->made.word = handle;
    put->made.size = (uint32_t)size & 0xffffff;
    put->from = bytes;
    prefetch_to_write(pool->alloc_ops->map(pool->alloc, handle), size);
    return ZC_STORED;
}

/* The first stage of a put: what does not depend on the pages put before. */
static void put_compress(zc_pool *pool, struct zc_context *context, struct put *put)
{
    size_t page_size = pool->store->page_size;

    put->made.kind = ZC_ENTRY_FILL;
    if (same_filled(put->page, page_size, &put->made.word))
        return;
    put->refusal = admit_memory(pool);
    if (put->refusal)
        return;
    put->made.kind = ZC_ENTRY_ZPAGE;
    put->size = zc_compress(pool->codec, context->state, put->page, put->zpage);
}

/* The second: is it to be kept, and where? */
static void put_place(zc_pool *pool, struct put *put)
{
    size_t page_size = pool->store->page_size;

    if (!put->size)
        return;
    put->refusal = admit_size(pool, put->size);
    if (!put->refusal) {
        put->refusal = place(pool, put->zpage, put->size, put);
        return;
    }
    if (!param(pool, ZC_PARAM_KEEP_REJECTED))
        return;
    put->made.kind = ZC_ENTRY_RAW;
    put->size = page_size;
    put->refusal = place(pool, put->page, page_size, put);
}

/* The refusal as the pool's counters and index see it: an older page under the key is gone. */
static int refuse(zc_pool *pool, struct zc_shard *shard, const struct zc_key *key,
                  enum zc_refusal refusal)
{
    struct zc_entry old = {0};

    pthread_mutex_lock(&shard->lock);
    if (pool->dead) {
        pthread_mutex_unlock(&shard->lock);
        return -ENOENT;
    }
    struct zc_entry *entry = zc_index_find(&shard->index, key->object, key->index);
    if (entry) {
        old = take_out(pool, shard, key->object, entry);
        shard->stats.put_to_flush++;
    }
    shard->stats.puts++;
    shard->stats.refused[refusal]++;
    pthread_mutex_unlock(&shard->lock);

    release(pool, &old);
    return (int)refusal;
}

/* The last: the page is in its place, then in the index. */
static int put_finish(zc_pool *pool, const struct put *put)
{
    const struct zc_key *key = put->key;
    struct zc_shard *shard = shard_of(pool, key->object, key->index);
    struct zc_entry made = put->made, old = {0};

    if (put->refusal)
        return refuse(pool, shard, key, put->refusal);
    if (put->from)
        memcpy(pool->alloc_ops->map(pool->alloc, (uintptr_t)made.word), put->from, made.size);

    pthread_mutex_lock(&shard->lock);
    if (pool->dead) {
        pthread_mutex_unlock(&shard->lock);
        release(pool, &made);
        return -ENOENT;
    }
    struct zc_entry *entry = zc_index_find(&shard->index, key->object, key->index);
    if (entry) {
        old = *entry;
        account(pool, shard, &old, -1);
        shard->stats.dup_puts++;
    } else {
        entry = zc_index_insert(&shard->index, key->object, key->index);
        count_bytes(pool, shard);
    }
    if (!entry) { /* no memory for the index; there is no older page */
        pthread_mutex_unlock(&shard->lock);
        release(pool, &made);
        return refuse(pool, shard, key, ZC_FAILED_GETFREEPAGES);
    }
    made.index = key->index;
    *entry = made;
    account(pool, shard, &made, 1);
    if (made.kind == ZC_ENTRY_ZPAGE)
        shard->cumul_dist[dist_bucket(pool, made.size)]++;
    shard->stats.kept_rejected += made.kind == ZC_ENTRY_RAW;
    shard->stats.puts++;
    shard->stats.stored_puts++;
    pthread_mutex_unlock(&shard->lock);

    release(pool, &old);
    return ZC_STORED;
}

static int load(zc_pool *pool, const struct zc_entry *entry, void *page)
{
    size_t page_size = pool->store->page_size;

    if (entry->kind == ZC_ENTRY_FILL) {
        fill(page, page_size, entry->word);
        return 0;
    }
    const void *bytes = pool->alloc_ops->map(pool->alloc, (uintptr_t)entry->word);
    if (entry->kind == ZC_ENTRY_RAW) {
        memcpy(page, bytes, page_size);
        return 0;
    }
    return zc_decompress(pool->codec, NULL, bytes, entry->size, page);
}

/* The zpage is read under the shard's lock, which keeps it from being freed. */
static int get_one(zc_pool *pool, const struct zc_key *key, void *page, unsigned flags)
{
    struct zc_shard *shard = shard_of(pool, key->object, key->index);
    struct zc_entry gone = {0};
    int error = -ENOENT;

    pthread_mutex_lock(&shard->lock);
    shard->stats.gets++;
    struct zc_entry *entry = zc_index_find(&shard->index, key->object, key->index);
    if (!entry)
        goto unlock;

    error = load(pool, entry, page);
    shard->stats.gets_found += error == 0;
    if (!error && !(flags & ZC_GET_PEEK) && param(pool, ZC_PARAM_EXCLUSIVE_GETS))
        gone = take_out(pool, shard, key->object, entry);
unlock:
    pthread_mutex_unlock(&shard->lock);
    release(pool, &gone);
    return error;
}

typedef void prefetch_step(const struct zc_index *index, uint64_t object, uint32_t i);

/* A key will be looked for, in an index that may be larger than the cache. */
static void prefetch_index(zc_pool *pool, const struct zc_key *key, prefetch_step *step)
{
    struct zc_shard *shard = shard_of(pool, key->object, key->index);

    if (atomic_load_explicit(&shard->zpages, memory_order_relaxed) < CACHED_ENTRIES)
        return;
    pthread_mutex_lock(&shard->lock);
    step(&shard->index, key->object, key->index);
    pthread_mutex_unlock(&shard->lock);
}

/* A key's page will be asked for. */
static void prefetch_page(zc_pool *pool, const struct zc_key *key)
{
    struct zc_shard *shard = shard_of(pool, key->object, key->index);

    pthread_mutex_lock(&shard->lock);
    const struct zc_entry *entry = zc_index_find(&shard->index, key->object, key->index);
    if (entry && entry->kind == ZC_ENTRY_ZPAGE)
        prefetch_to_read(pool->alloc_ops->map(pool->alloc, (uintptr_t)entry->word), entry->size);
    pthread_mutex_unlock(&shard->lock);
}

static int flush_one(zc_pool *pool, const struct zc_key *key)
{
    struct zc_shard *shard = shard_of(pool, key->object, key->index);
    struct zc_entry gone = {0};
    int error = -ENOENT;

    pthread_mutex_lock(&shard->lock);
    shard->stats.flush_total++;
    struct zc_entry *entry = zc_index_find(&shard->index, key->object, key->index);
    if (entry) {
        gone = take_out(pool, shard, key->object, entry);
        shard->stats.flush_found++;
        error = 0;
    }
    pthread_mutex_unlock(&shard->lock);

    release(pool, &gone);
    return error;
}

struct drop {
    zc_pool *pool;
    struct zc_shard *shard;
};

static void drop_entry(void *arg, const struct zc_entry *entry)
{
    struct drop *drop = arg;

    account(drop->pool, drop->shard, entry, -1);
    release(drop->pool, entry);
}

int64_t zc_flush_object(zc_pool *pool, uint64_t object)
{
    int64_t flushed = 0;

    if (pool->dead)
        return -ENOENT;
    for (size_t i = 0; i < ZC_SHARDS; i++) {
        struct zc_shard *shard = &pool->shards[i];
        struct drop drop = {pool, shard};

        pthread_mutex_lock(&shard->lock);
        flushed += (int64_t)zc_index_remove_object(&shard->index, object, drop_entry, &drop);
        count_bytes(pool, shard);
        if (i == ZC_SHARDS - 1) {
            shard->stats.flobj_total++;
            shard->stats.flobj_found += flushed > 0;
        }
        pthread_mutex_unlock(&shard->lock);
    }
    return flushed;
}

int64_t zc_pool_clear(zc_pool *pool)
{
    int64_t dropped = 0;

    for (size_t i = 0; i < ZC_SHARDS; i++) {
        struct zc_shard *shard = &pool->shards[i];
        struct drop drop = {pool, shard};

        pthread_mutex_lock(&shard->lock);
        dropped += (int64_t)zc_index_clear(&shard->index, drop_entry, &drop);
        count_bytes(pool, shard);
        pthread_mutex_unlock(&shard->lock);
    }
    return dropped;
}

/* A page is compressed while the memory that the one before goes to comes into the cache; it is
 * judged after that one is stored, as if they had come one by one. */
static void put_all(zc_pool *pool, struct zc_context *context, const struct zc_key *keys,
                    const void *const *pages, size_t count, int32_t *results, uint32_t *zsizes)
{
    struct put puts[2];

    for (size_t i = 0; i < count; i++) {
        struct put *put = &puts[i % 2], *before = &puts[(i + 1) % 2];
        *put = (struct put){&keys[i], pages[i], .zpage = context->zpage[i % 2]};
        put_compress(pool, context, put);
        if (i > 0)
            results[i - 1] = put_finish(pool, before);
        put_place(pool, put);
        if (zsizes)
            zsizes[i] = (uint32_t)put->size;
    }
    if (count > 0)
        results[count - 1] = put_finish(pool, &puts[(count - 1) % 2]);
}

int zc_put_batch(zc_pool *pool, const struct zc_key *keys, const void *const *pages, size_t count,
                 int32_t *results, uint32_t *zsizes)
{
    struct zc_context *context = zc_context_take(pool->store, pool->codec);
    if (!context)
        return -ENOMEM;

    put_all(pool, context, keys, pages, count, results, zsizes);
    zc_context_give(pool->store, context);
    return pool->dead ? -ENOENT : 0;
}

int zc_put(zc_pool *pool, uint64_t object, uint32_t index, const void *page, uint32_t *zsize)
{
    struct zc_key key = {.object = object, .index = index};
    int32_t result = 0;
    int error = zc_put_batch(pool, &key, &page, 1, &result, zsize);

    return error ? error : result;
}

int zc_get(zc_pool *pool, uint64_t object, uint32_t index, void *page, unsigned flags)
{
    struct zc_key key = {.object = object, .index = index};

    return get_one(pool, &key, page, flags);
}

/* At each page of a batch: one step each for some of the next, every step's memory being the next
 * one's address. */
static void look_ahead(zc_pool *pool, const struct zc_key *next, size_t count)
{
    if (count > 4)
        prefetch_index(pool, &next[4], zc_index_prefetch_leaf);
    if (count > 3)
        prefetch_index(pool, &next[3], zc_index_prefetch_entry);
    if (count > 2)
        prefetch_page(pool, &next[2]);
}

int zc_get_batch(zc_pool *pool, const struct zc_key *keys, void *const *pages, size_t count,
                 unsigned flags, int32_t *results)
{
    for (size_t i = 0; i < count; i++) {
        look_ahead(pool, keys + i, count - i);
        results[i] = get_one(pool, &keys[i], pages[i], flags);
    }
    return pool->dead ? -ENOENT : 0;
}

int zc_flush_page(zc_pool *pool, uint64_t object, uint32_t index)
{
    struct zc_key key = {.object = object, .index = index};

    return flush_one(pool, &key);
}

int zc_flush_page_batch(zc_pool *pool, const struct zc_key *keys, size_t count, int32_t *results)
{
    for (size_t i = 0; i < count; i++)
        results[i] = flush_one(pool, &keys[i]);
    return pool->dead ? -ENOENT : 0;
}

int zc_flush_object_batch(zc_pool *pool, const uint64_t *objects, size_t count, int64_t *results)
{
    for (size_t i = 0; i < count; i++)
        results[i] = zc_flush_object(pool, objects[i]);
    return pool->dead ? -ENOENT : 0;
}
