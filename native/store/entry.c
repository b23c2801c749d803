/* SPDX-License-Identifier: Apache-2.0 */
#include "store/entry.h"

#include <errno.h>
#include <string.h>

#include "base/base.h"

struct zc_shard *zc_shard_of(zc_pool *pool, uint64_t object, uint32_t index)
{
    uint64_t h = zc_mix64(zc_mix64(object ^ pool->secret) ^ index >> 8);

    return &pool->shards[h & (ZC_SHARDS - 1)];
}

/* The object's number, 28 bits, with the shard's below, then the index. */
uint64_t zc_entry_owner(const zc_pool *pool, const struct zc_shard *shard, uint64_t object,
                        uint32_t index)
{
    uint32_t number = zc_index_number(&shard->index, object);
    uint32_t high = number << ZC_SHARD_BITS | (uint32_t)(shard - pool->shards);

    return (uint64_t)high << 32 | index;
}

struct zc_entry *zc_entry_lock(zc_pool *pool, uint64_t owner, zc_handle handle,
                               struct zc_shard **shard, uint64_t *object)
{
    uint32_t high = (uint32_t)(owner >> 32);

    if (owner == ZC_NO_OWNER)
        return NULL;
    *shard = &pool->shards[high & (ZC_SHARDS - 1)];
    zc_shard_lock(*shard);
    struct zc_entry *entry =
        zc_index_find_by_number(&(*shard)->index, high >> ZC_SHARD_BITS, (uint32_t)owner, object);
    if (entry && zc_entry_has_zpage(entry) && entry->word == handle)
        return entry;
    zc_shard_unlock(*shard);
    return NULL;
}

void zc_shard_count_bytes(zc_pool *pool, struct zc_shard *shard)
{
    size_t delta = shard->index.bytes - shard->index_bytes;
    if (delta == 0)
        return;

    shard->index_bytes = shard->index.bytes;
    atomic_fetch_add_explicit(&pool->metadata_bytes, delta, memory_order_relaxed);
    zc_frames_charge(pool->store->frames, (ptrdiff_t)delta);
}

size_t zc_dist_bucket(const zc_pool *pool, size_t size)
{
    return zc_div_pow2((size - 1) * ZC_DIST_BUCKETS, pool->store->page_size);
}

/* A counter that only the holder of the shard's lock writes. */
static void add(_Atomic uint64_t *counter, uint64_t by)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by,
                          memory_order_relaxed);
}

void zc_entry_account(zc_pool *pool, struct zc_shard *shard, const struct zc_entry *entry,
                      int64_t by)
{
    uint64_t delta = (uint64_t)by;

    switch ((enum zc_entry_kind)entry->kind) {
    case ZC_ENTRY_ZPAGE:
        shard->stats.zpages += delta;
        shard->stats.zbytes += delta * entry->size;
        shard->curr_dist[zc_dist_bucket(pool, entry->size)] += delta;
        add(&shard->zpages, delta);
        add(&shard->zbytes, delta * entry->size);
        add(&shard->codec_zpages[entry->codec], delta);
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

struct zc_entry zc_entry_take_out(zc_pool *pool, struct zc_shard *shard, uint64_t object,
                                  const struct zc_entry *entry)
{
    struct zc_entry taken = *entry;

    zc_entry_account(pool, shard, &taken, -1);
    zc_index_remove(&shard->index, object, taken.index);
    zc_shard_count_bytes(pool, shard);
    return taken;
}

size_t zc_entry_release(zc_pool *pool, const struct zc_entry *entry)
{
    if (!zc_entry_has_zpage(entry))
        return 0;
    pool->alloc_ops->free(pool->alloc, entry->word);
    return 1;
}

static void fill(void *page, size_t page_size, uint64_t word)
{
    char *bytes = page;

    for (size_t i = 0; i < page_size; i += sizeof(word))
        memcpy(bytes + i, &word, sizeof(word));
}

static int decompress(struct zc_reader *reader, const struct zc_entry *entry, const void *bytes,
                      void *page)
{
    zc_pool *pool = reader->pool;
    const struct zc_codec *codec = zc_codecs_at(&pool->codecs, entry->codec);
    struct zc_decompressor *mine = reader->decompressor;

    if (!codec->decompressor_size)
        return zc_decompress(codec, NULL, bytes, entry->size, page);
    if (mine && mine->kind != codec->kind) {
        zc_decompressor_give(pool, mine);
        mine = NULL;
    }
    reader->decompressor = mine = mine ? mine : zc_decompressor_take(pool, codec);
    return mine ? zc_decompress(codec, mine->state, bytes, entry->size, page) : -ENOMEM;
}

int zc_entry_load(struct zc_reader *reader, const struct zc_entry *entry, void *page)
{
    zc_pool *pool = reader->pool;
    size_t page_size = pool->store->page_size;

    if (entry->kind == ZC_ENTRY_FILL) {
        fill(page, page_size, entry->word);
        return 0;
    }
    struct zc_zpage zpage = pool->alloc_ops->map(pool->alloc, entry->word);
    if (entry->is_checked && zc_checksum(zpage.bytes, entry->size) != zpage.head->checksum)
        return -EIO;
    if (entry->kind == ZC_ENTRY_RAW) {
        memcpy(page, zpage.bytes, page_size);
        return 0;
    }
    return decompress(reader, entry, zpage.bytes, page);
}

void zc_reader_end(struct zc_reader *reader)
{
    if (reader->decompressor)
        zc_decompressor_give(reader->pool, reader->decompressor);
}
