/* SPDX-License-Identifier: Apache-2.0 */
/* get. A zpage is read under its shard's lock, which keeps it from being freed and moved. Gets that
 * leave their pages where they are share it. */
#include <errno.h>

#include "base/base.h"
#include "store/entry.h"
#include "store/extent.h"
#include "store/record.h"

#define CACHE_LINE 64u       /* bytes */
#define PREFETCH_NEAR 256u   /* bytes: what comes after is prefetched by the processor itself */
#define PREFETCH_FAR 4096u   /* the same in a shard too large for the cache */
#define CACHED_ENTRIES 4096u /* of a shard: so many are in the cache anyway */
#define AHEAD 8u   /* keys whose shards are remembered, a power of two; one more than looked at */
#define RUN_MAX 8u /* pages got under one lock */

/* A batch of gets on its way. */
struct gets {
    zc_pool *pool;
    const struct zc_key *keys;
    size_t count;
    bool is_peek, takes_away, reads_ahead;
    uint32_t stamp;
    uint16_t now;
    struct zc_reader reader;
    struct zc_shard *shards[AHEAD]; /* of key i: at i % AHEAD */
    struct zc_shard *locked;        /* NULL: none */
    struct zc_entry *entry, *next;  /* of this page, and of the next; NULL: not looked for */
    unsigned count_gets, count_found, count_damaged; /* since `locked` was */
    unsigned count_written, count_unread;
    struct zc_recorder *recorder; /* NULL: the pool is not recorded */
    uint32_t time;                /* of the batch, for it */
    uint8_t kind;                 /* of the entry of this page; enum zc_entry_kind */
};

static void lock(struct gets *gets, struct zc_shard *shard)
{
    if (gets->takes_away)
        zc_shard_lock(shard);
    else
        zc_shard_share(shard);
    gets->locked = shard;
}

static void add(_Atomic uint64_t *counter, unsigned *by)
{
    if (*by)
        atomic_fetch_add_explicit(counter, *by, memory_order_relaxed);
    *by = 0;
}

static void unlock(struct gets *gets)
{
    struct zc_shard *shard = gets->locked;
    if (!shard)
        return;

    add(&shard->gets, &gets->count_gets);
    add(&shard->gets_found, &gets->count_found);
    add(&shard->damaged, &gets->count_damaged);
    add(&shard->written_gets, &gets->count_written);
    add(&shard->read_errors, &gets->count_unread);
    zc_shard_unlock(shard);
    zc_reader_unlocked(&gets->reader);
    gets->locked = NULL;
    gets->entry = gets->next = NULL;
}

/* A written page is read with no lock held, then looked for again: if its entry is the same, what was
 * read is right. NULL: it has gone. */
static struct zc_entry *fetch(struct gets *gets, const struct zc_key *key, struct zc_entry *entry)
{
    struct zc_shard *shard = gets->locked;
    struct zc_entry before;

    do {
        before = *entry;
        unlock(gets);
        zc_reader_fetch(&gets->reader, key->object, &before);
        lock(gets, shard);
        entry = zc_index_find(&shard->index, key->object, key->index);
    } while (entry && zc_entry_is_written(entry) && entry->word != before.word);
    return entry;
}

/* A page of an extent was got: all that is in it is made warm, and this page may be taken away. */
static void warm_all(struct gets *gets, const struct zc_key *key, const struct zc_entry *entry)
{
    const struct zc_extent *extent = zc_extent_at(gets->locked, zc_entry_handle(entry));
    struct zc_key first = {.object = key->object, .index = extent->first};
    uint16_t live = extent->live;
    bool is_unpacked = zc_reader_unpack(&gets->reader, gets->locked, entry) == 0;

    if (gets->takes_away) {
        zc_entry_take_out(gets->pool, gets->locked, key->object, entry);
        live &= (uint16_t)~(1u << (key->index - first.index));
    }
    unlock(gets);
    if (is_unpacked)
        zc_cold_warm(&gets->reader, &first, live);
}

static void prefetch_to_read(const char *at, size_t size)
{
    for (const char *end = at + size; at < end; at += CACHE_LINE)
        __builtin_prefetch(at, 0);
}

/* All of a zpage from memory: the second-level cache can wait for more lines at a time than the first. */
static void prefetch_from_far(const char *at, size_t size)
{
    const char *end = at + zc_min(size, PREFETCH_FAR);

    for (at -= (uintptr_t)at % CACHE_LINE; at < end; at += CACHE_LINE)
        __builtin_prefetch(at, 0, 2);
}

static const char *zpage_of(zc_pool *pool, const struct zc_entry *entry)
{
    return pool->alloc_ops->map(pool->alloc, zc_entry_handle(entry)).bytes;
}

/* Of a page that was not looked at ahead: its zpage's lines come all at once, not one after another. */
static struct zc_entry *find_now(const struct gets *gets, const struct zc_key *key)
{
    struct zc_entry *entry = zc_index_find(&gets->locked->index, key->object, key->index);

    if (entry && zc_entry_has_zpage(entry))
        prefetch_from_far(zpage_of(gets->pool, entry), entry->size);
    return entry;
}

static int get_one(struct gets *gets, size_t i, void *page)
{
    zc_pool *pool = gets->pool;
    const struct zc_key *key = &gets->keys[i];
    struct zc_entry *entry = gets->entry ? gets->entry : find_now(gets, key);

    if (entry && zc_entry_is_written(entry) && !gets->reader.no_alloc)
        entry = fetch(gets, key, entry);
    if (!entry) {
        gets->kind = ZC_ENTRY_EMPTY;
        gets->count_gets++;
        return -ENOENT;
    }
    bool is_written = zc_entry_is_written(entry);
    gets->kind = entry->kind;
    int error = zc_entry_load(&gets->reader, gets->locked, entry, page);
    if (error == -EAGAIN)
        return error;
    gets->count_gets++;
    gets->count_damaged += error == -EIO && !is_written;
    gets->count_written += is_written;
    gets->count_unread += error == -EIO && is_written;
    if (error)
        return error;

    gets->count_found++;
    if (zc_entry_is_cold(entry) && gets->reads_ahead) {
        warm_all(gets, key, entry);
    } else if (gets->takes_away) {
        struct zc_entry gone = zc_entry_take_out(pool, gets->locked, key->object, entry);
        unlock(gets);
        zc_pool_freed(pool, zc_entry_release(pool, &gone));
    } else if (!gets->is_peek && zc_entry_has_zpage(entry)) {
        pool->alloc_ops->touch(pool->alloc, zc_entry_handle(entry), gets->stamp);
        zc_entry_set_age(entry, gets->now);
    } else if (!gets->is_peek && zc_entry_is_cold(entry)) {
        zc_extent_touch(pool, zc_extent_at(gets->locked, zc_entry_handle(entry)), gets->stamp);
        zc_entry_set_age(entry, gets->now);
    }
    return 0;
}

/* The steps towards a page's bytes, each step's memory being the next one's address. */
enum step { LEAF = 4, ENTRY = 3, RECORD = 2, BYTES = 1 };

static bool is_large(const struct zc_shard *shard)
{
    return atomic_load_explicit(&shard->zpages, memory_order_relaxed) >= CACHED_ENTRIES;
}

static void take_step(struct gets *gets, struct zc_shard *shard, const struct zc_key *key,
                      enum step step)
{
    zc_pool *pool = gets->pool;

    if (step == LEAF || step == ENTRY) {
        (step == LEAF ? zc_index_prefetch_leaf : zc_index_prefetch_entry)(&shard->index,
                                                                          key->object, key->index);
        return;
    }
    struct zc_entry *entry = zc_index_find(&shard->index, key->object, key->index);
    if (step == BYTES && gets->locked)
        gets->next = entry; /* stays where it is while the lock is held */
    if (!entry || !zc_entry_has_zpage(entry))
        return;
    if (step == RECORD) {
        pool->alloc_ops->prefetch(pool->alloc, zc_entry_handle(entry));
        return;
    }
    const char *bytes = zpage_of(pool, entry);
    if (is_large(shard))
        prefetch_from_far(bytes, entry->size);
    else
        prefetch_to_read(bytes, zc_min(entry->size, PREFETCH_NEAR));
}

/* So many keys further on a page will be asked for. Nobody holds two shards' locks, so while another
 * is held its shard is left alone. */
static void look_ahead(struct gets *gets, size_t i, enum step step)
{
    if (i + step >= gets->count)
        return;
    struct zc_shard *shard = gets->shards[(i + step) % AHEAD];
    if (step != BYTES && !is_large(shard))
        return;

    if (!gets->locked) {
        zc_shard_share(shard);
        take_step(gets, shard, &gets->keys[i + step], step);
        zc_shard_unlock(shard);
    } else if (gets->locked == shard) {
        take_step(gets, shard, &gets->keys[i + step], step);
    }
}

static struct zc_shard *shard_at(const struct gets *gets, size_t i)
{
    return zc_shard_of(gets->pool, gets->keys[i].object, gets->keys[i].index);
}

static void note(const struct gets *gets, size_t i, int32_t result, uint64_t ns)
{
    if (result == -EAGAIN)
        return; /* it will be asked for again */
    zc_recorder_note(gets->recorder, &(struct zc_event){
                                         .object = gets->keys[i].object,
                                         .index = gets->keys[i].index,
                                         .time_us = gets->time,
                                         .ns = zc_event_ns(ns),
                                         .kind = ZC_EVENT_GET,
                                         .result = result == 0         ? 0
                                                   : result == -ENOENT ? 1
                                                                       : 2,
                                         .detail = gets->kind,
                                         .flags = gets->is_peek ? ZC_EVENT_PEEK : 0,
                                     });
}

static void get_all(struct gets *gets, void *const *pages, int32_t *results)
{
    for (size_t i = 0; i < zc_min(LEAF, gets->count); i++)
        gets->shards[i] = shard_at(gets, i);

    for (size_t i = 0, run = 0; i < gets->count; i++, run++) {
        if (i + LEAF < gets->count)
            gets->shards[(i + LEAF) % AHEAD] = shard_at(gets, i + LEAF);
        struct zc_shard *shard = gets->shards[i % AHEAD];
        uint64_t start = gets->recorder ? zc_now_ns() : 0;
        gets->entry = gets->next;
        gets->next = NULL;
        if (gets->locked != shard || run == RUN_MAX) {
            unlock(gets);
            run = 0;
        }
        for (enum step step = LEAF; step >= BYTES; step--)
            look_ahead(gets, i, step);
        if (!gets->locked)
            lock(gets, shard);
        results[i] = get_one(gets, i, pages[i]);
        if (gets->recorder)
            note(gets, i, results[i], zc_now_ns() - start);
        if (i + 1 < gets->count && gets->shards[(i + 1) % AHEAD] != shard)
            unlock(gets);
    }
    unlock(gets);
    zc_reader_end(&gets->reader);
}

int zc_get_batch(zc_pool *pool, const struct zc_key *keys, void *const *pages, size_t count,
                 unsigned flags, int32_t *results)
{
    bool no_alloc = (flags & ZC_GET_NO_ALLOC) != 0, is_peek = no_alloc || (flags & ZC_GET_PEEK);
    struct gets gets = {
        .pool = pool,
        .keys = keys,
        .count = count,
        .is_peek = is_peek,
        .takes_away = !is_peek && zc_param(pool, ZC_PARAM_EXCLUSIVE_GETS),
        .reads_ahead = !is_peek && zc_param(pool, ZC_PARAM_COLD_READAHEAD),
        .stamp = zc_pool_tick(pool),
        .now = zc_store_now(pool->store),
        .reader = {.pool = pool, .no_alloc = no_alloc},
        .recorder = zc_recorder_of(pool),
    };

    if (gets.recorder)
        gets.time = zc_recorder_time(gets.recorder);
    get_all(&gets, pages, results);
    return pool->dead ? -ENOENT : 0;
}

int zc_get(zc_pool *pool, uint64_t object, uint32_t index, void *page, unsigned flags)
{
    struct zc_key key = {.object = object, .index = index};
    int32_t result;

    zc_get_batch(pool, &key, &page, 1, flags, &result);
    return result;
}
