/* SPDX-License-Identifier: Apache-2.0 */
/* flush: a page, an object, a whole pool. */
#include <errno.h>

#include "base/base.h"
#include "store/entry.h"
#include "store/extent.h"
#include "store/record.h"

/* A flush of so many pages took that long; of an object: index 0. */
static void note(zc_pool *pool, enum zc_event_kind kind, const struct zc_key *key, int64_t pages,
                 uint64_t start)
{
    struct zc_recorder *recorder = zc_recorder_of(pool);

    if (!recorder || !start)
        return;
    zc_recorder_note(recorder, &(struct zc_event){
                                   .object = key->object,
                                   .index = key->index,
                                   .size = (uint32_t)zc_min64((uint64_t)pages, UINT32_MAX),
                                   .time_us = zc_recorder_time(recorder),
                                   .ns = zc_event_ns(zc_now_ns() - start),
                                   .kind = (uint8_t)kind,
                                   .result = pages == 0,
                               });
}

static uint64_t start_of(zc_pool *pool)
{
    return zc_recorder_of(pool) ? zc_now_ns() : 0;
}

static int flush_one(zc_pool *pool, const struct zc_key *key)
{
    struct zc_shard *shard = zc_shard_of(pool, key->object, key->index);
    struct zc_entry gone = {0};
    uint64_t start = start_of(pool);
    int error = -ENOENT;

    zc_shard_lock(shard);
    shard->stats.flush_total++;
    struct zc_entry *entry = zc_index_find(&shard->index, key->object, key->index);
    if (entry) {
        gone = zc_entry_take_out(pool, shard, key->object, entry);
        shard->stats.flush_found++;
        error = 0;
    }
    zc_shard_unlock(shard);

    zc_pool_freed(pool, zc_entry_release(pool, &gone));
    note(pool, ZC_EVENT_FLUSH, key, error == 0, start);
    return error;
}

struct drop {
    zc_pool *pool;
    struct zc_shard *shard;
};

static void drop_entry(void *arg, uint64_t object, const struct zc_entry *entry)
{
    struct drop *drop = arg;

    zc_written_drop(drop->pool, drop->shard, object, entry);
    zc_entry_account(drop->pool, drop->shard, entry, -1);
    zc_extent_leave(drop->pool, drop->shard, entry);
    zc_entry_release(drop->pool, entry);
}

int64_t zc_flush_object(zc_pool *pool, uint64_t object)
{
    uint64_t start = start_of(pool);
    int64_t flushed = 0;

    if (pool->dead)
        return -ENOENT;
    for (size_t i = 0; i < ZC_SHARDS; i++) {
        struct zc_shard *shard = &pool->shards[i];
        struct drop drop = {pool, shard};

        zc_shard_lock(shard);
        flushed += (int64_t)zc_index_remove_object(&shard->index, object, drop_entry, &drop);
        zc_shard_count_bytes(pool, shard);
        if (i == ZC_SHARDS - 1) {
            shard->stats.flobj_total++;
            shard->stats.flobj_found += flushed > 0;
        }
        zc_shard_unlock(shard);
    }
    zc_pool_freed(pool, (size_t)flushed);
    note(pool, ZC_EVENT_FLUSH_OBJECT, &(struct zc_key){.object = object}, flushed, start);
    return flushed;
}

int64_t zc_pool_clear(zc_pool *pool)
{
    int64_t dropped = 0;

    for (size_t i = 0; i < ZC_SHARDS; i++) {
        struct zc_shard *shard = &pool->shards[i];
        struct drop drop = {pool, shard};

        zc_shard_lock(shard);
        dropped += (int64_t)zc_index_clear(&shard->index, drop_entry, &drop);
        zc_shard_count_bytes(pool, shard);
        zc_shard_unlock(shard);
    }
    return dropped;
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
