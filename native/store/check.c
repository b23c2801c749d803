/* SPDX-License-Identifier: Apache-2.0 */
/* Does the store hold together? Every entry against its zpage, every count against what it counts. */
#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "base/hash.h"
#include "store/entry.h"
#include "store/extent.h"

struct walk {
    zc_pool *pool;
    struct zc_shard *shard;
    struct zc_text *why;
    struct zc_pool_stats found;
    uint64_t codec_zpages[ZC_POOL_CODECS];
    size_t sparse; /* extents */
    uint64_t dist[ZC_DIST_BUCKETS];
};

static bool has_codec(struct walk *walk, const struct zc_entry *entry, unsigned codec)
{
    if (codec < ZC_POOL_CODECS && zc_codecs_at(&walk->pool->codecs, codec)) {
        walk->codec_zpages[codec]++;
        return true;
    }
    zc_text_add(walk->why, "index %u: its codec %u is not there", entry->index, codec);
    return false;
}

/* What is in the backing store is not read. */
static bool check_written(struct walk *walk, const struct zc_entry *entry)
{
    walk->found.written_pages++;
    return !zc_written_is_compressed(entry) || has_codec(walk, entry, entry->codec);
}

static const char *check_extent(struct walk *walk, const struct zc_extent *extent)
{
    struct zc_tier cold = zc_tier(walk->pool, 1);
    size_t page_size = walk->pool->store->page_size;
    uint64_t owner = zc_extent_owner(walk->pool, walk->shard, extent);

    walk->found.cold_extents++;
    walk->found.cold_bytes += extent->size;
    if (extent->live & ~extent->made)
        return "its extent has pages that never were in it";
    walk->sparse += zc_extent_is_sparse(extent);
    if (extent->parts != zc_div_up(extent->size, page_size))
        return "its extent's parts are not as many as its bytes need";
    for (size_t i = 0; i < extent->parts; i++) {
        if (zc_owner_get(cold.ops->map(cold.alloc, extent->part[i]).head) != owner)
            return "a part of its extent has another owner";
    }
    char *bytes = malloc(extent->size);
    int error = bytes ? zc_extent_read(walk->pool, extent, bytes) : 0;
    free(bytes);
    return error ? "its extent is damaged" : NULL;
}

/* The first page that is left of an extent answers for all of it. */
static bool check_cold(struct walk *walk, uint32_t number, const struct zc_entry *entry)
{
    const struct zc_extent *extent = zc_extent_at(walk->shard, zc_entry_handle(entry));
    unsigned at = entry->index - extent->first;
    const char *wrong = NULL;

    walk->found.cold_pages++;
    if (extent->object != number || at >= zc_entry_pages(entry) || !(extent->live >> at & 1) ||
        extent->codec != entry->codec || extent->span != entry->span)
        wrong = "its extent does not know of it";
    else if ((unsigned)__builtin_ctz(extent->live) == at)
        wrong = check_extent(walk, extent);
    if (!wrong)
        return has_codec(walk, entry, entry->codec);
    zc_text_add(walk->why, "index %u: %s", entry->index, wrong);
    return false;
}

static bool check_entry(void *arg, uint32_t number, struct zc_entry *entry)
{
    struct walk *walk = arg;
    zc_pool *pool = walk->pool;

    if (entry->kind == ZC_ENTRY_FILL) {
        walk->found.same_filled++;
        return true;
    }
    if (zc_entry_is_written(entry))
        return check_written(walk, entry);
    if (zc_entry_is_cold(entry))
        return check_cold(walk, number, entry);
    struct zc_zpage zpage = pool->alloc_ops->map(pool->alloc, zc_entry_handle(entry));
    uint32_t high = number << ZC_SHARD_BITS | (uint32_t)(walk->shard - pool->shards);
    if (zc_owner_get(zpage.head) != ((uint64_t)high << 32 | entry->index)) {
        zc_text_add(walk->why, "index %u: its zpage has another owner", entry->index);
        return false;
    }
    if (entry->is_checked && zc_checksum(zpage.bytes, entry->size) != zpage.head->checksum) {
        zc_text_add(walk->why, "index %u: its zpage is damaged", entry->index);
        return false;
    }
    if (entry->kind == ZC_ENTRY_RAW) {
        walk->found.raw_pages++;
        return true;
    }
    if (!has_codec(walk, entry, entry->codec))
        return false;
    walk->found.zpages++;
    walk->found.zbytes += entry->size;
    walk->dist[zc_dist_bucket(pool, entry->size)]++;
    return true;
}

static const char *check_counters(const struct walk *walk)
{
    const struct zc_shard *shard = walk->shard;
    const struct zc_pool_stats *stats = &shard->stats;
    uint64_t refused = 0;

    for (int i = 0; i < ZC_REFUSALS; i++)
        refused += stats->refused[i];
    if (stats->puts != stats->stored_puts + refused)
        return "puts is not stored_puts and the refusals";
    if (stats->zpages != walk->found.zpages || shard->zpages != walk->found.zpages)
        return "zpages is not what the index has";
    if (stats->zbytes != walk->found.zbytes || shard->zbytes != walk->found.zbytes)
        return "zbytes is not what the index has";
    if (stats->same_filled != walk->found.same_filled || stats->raw_pages != walk->found.raw_pages)
        return "same_filled or raw_pages is not what the index has";
    if (stats->written_pages != walk->found.written_pages)
        return "written_pages is not what the index has";
    if (stats->cold_pages != walk->found.cold_pages ||
        stats->cold_extents != walk->found.cold_extents ||
        stats->cold_bytes != walk->found.cold_bytes)
        return "cold_pages, cold_extents or cold_bytes is not what the index has";
    if (shard->sparse != walk->sparse)
        return "sparse extents are not what the index has";
    if (memcmp(shard->curr_dist, walk->dist, sizeof(walk->dist)) != 0)
        return "zv_curr_dist_counts is not what the index has";
    for (size_t i = 0; i < ZC_POOL_CODECS; i++) {
        if (shard->codec_zpages[i] != walk->codec_zpages[i])
            return "a codec's zpages are not what the index has";
    }
    return shard->index_bytes == shard->index.bytes + zc_extents_bytes(shard)
               ? NULL
               : "the index's bytes are not accounted";
}

static int check_shard(struct walk *walk)
{
    const char *wrong = zc_index_check(&walk->shard->index);

    if (!wrong && !zc_index_walk(&walk->shard->index, check_entry, walk))
        return -EUCLEAN;
    if (!wrong)
        wrong = check_counters(walk);
    if (!wrong)
        return 0;
    zc_text_add(walk->why, "%s", wrong);
    return -EUCLEAN;
}

static int check_pool(zc_pool *pool, struct zc_text *why)
{
    int error = 0;

    zc_text_add(why, "pool %s: ", pool->name);
    for (size_t i = 0; !error && i < ZC_SHARDS; i++) {
        struct walk walk = {.pool = pool, .shard = &pool->shards[i], .why = why};

        zc_shard_lock(walk.shard);
        error = check_shard(&walk);
        zc_shard_unlock(walk.shard);
    }
    for (unsigned i = 0; !error && i < ZC_TIERS; i++) {
        struct zc_tier tier = zc_tier(pool, i);
        error = tier.alloc ? tier.ops->check(tier.alloc, why) : 0;
    }
    return error;
}

/* A pool at a time, the store going on meanwhile. */
int zc_store_check(zc_store *store, char *why, size_t size)
{
    uint32_t id = 0, top;
    zc_pool *pool;
    int error = 0;

    pthread_mutex_lock(&store->pools_lock);
    top = store->next_id;
    pthread_mutex_unlock(&store->pools_lock);
    while (!error && id < top && (pool = zc_pool_next(store, id))) {
        struct zc_text text = {0};
        id = pool->id;
        error = check_pool(pool, &text);
        error = error ? error : text.error;
        if (error)
            snprintf(why, size, "%s", text.data ? text.data : "out of memory");
        zc_text_free(&text);
        zc_pool_release(pool);
    }
    return error;
}

int zc_debug_damage(zc_pool *pool, uint64_t object, uint32_t index)
{
    struct zc_shard *shard = zc_shard_of(pool, object, index);
    int error = -ENOENT;

    zc_shard_lock(shard);
    const struct zc_entry *entry = zc_index_find(&shard->index, object, index);
    if (entry && zc_entry_has_zpage(entry)) {
        char *bytes = pool->alloc_ops->map(pool->alloc, zc_entry_handle(entry)).bytes;
        bytes[entry->size / 2] ^= 1;
        error = 0;
    } else if (entry && zc_entry_is_cold(entry)) {
        struct zc_tier cold = zc_tier(pool, 1);
        *(char *)cold.ops->map(cold.alloc, zc_extent_at(shard, zc_entry_handle(entry))->part[0])
             .bytes ^= 1;
        error = 0;
    }
    zc_shard_unlock(shard);
    return error;
}
