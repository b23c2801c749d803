/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Emptying frames: the sparsest, by moving their zpages to others (compaction), and the coldest, by
 * dropping them or handing them on (reclaim).
 *
 * The allocator isolates a frame or zspage and says whose its zpages are. Each zpage is dealt with by
 * itself, under the lock of the shard that has its entry, which alone knows whether it still is there:
 * no lock is held for longer than one zpage takes.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/base.h"
#include "store/entry.h"
#include "store/extent.h"

#define ASK_AFTER 256u /* zpages freed, then the allocator is asked whether it is sparse */
#define MISSES_MAX \
    64u /* frames isolated one after another for nothing, as others hold on to them */

struct sums {
    size_t frames, zpages;
};

/* ---- compaction ---- */

/* False: the zpage has no place to go. */
static bool move_zpage(zc_pool *pool, const struct zc_tier *tier, zc_handle handle, uint64_t owner,
                       struct sums *sums)
{
    struct zc_holder holder;
    if (!zc_holder_lock(pool, tier, owner, handle, &holder))
        return true; /* its owner lets it go anyway, or does not have it yet */

    zc_handle moved = tier->ops->move(tier->alloc, handle);
    if (moved)
        zc_holder_moved(&holder, handle, moved);
    zc_shard_unlock(holder.shard);
    if (!moved)
        return false;
    tier->ops->free(tier->alloc, handle);
    sums->zpages++;
    return true;
}

/* Empties one frame or zspage. False: there is none worth it. */
static bool compact_one(zc_pool *pool, const struct zc_tier *tier, struct sums *sums)
{
    uint32_t isolated = tier->ops->isolate(tier->alloc, ZC_ISOLATE_SPARSEST);
    zc_handle at = 0;
    uint64_t owner;

    if (!isolated)
        return false;
    while (tier->ops->next(tier->alloc, isolated, at, &at, &owner)) {
        if (!move_zpage(pool, tier, at, owner, sums))
            break;
    }
    sums->frames += tier->ops->release(tier->alloc, isolated);
    return true;
}

static void compact_tier(zc_pool *pool, const struct zc_tier *tier, size_t most, struct sums *sums)
{
    for (size_t i = 0, misses = 0; i < most && misses < MISSES_MAX; i++) {
        size_t before = sums->frames;
        if (!compact_one(pool, tier, sums))
            break;
        misses = sums->frames > before ? 0 : misses + 1;
    }
}

/* compact_lock is held, so that two do not move zpages to and fro. */
static int64_t compact(zc_pool *pool, size_t most)
{
    struct sums sums = {0};

    for (unsigned i = 0; i < ZC_TIERS; i++) {
        struct zc_tier tier = zc_tier(pool, i);
        if (tier.alloc)
            compact_tier(pool, &tier, most, &sums);
    }
    zc_shard_lock(&pool->shards[0]); /* which only lends its lock and counters */
    pool->shards[0].stats.compacted_frames += sums.frames;
    pool->shards[0].stats.compacted_zpages += sums.zpages;
    zc_shard_unlock(&pool->shards[0]);
    return (int64_t)sums.frames;
}

int64_t zc_pool_compact_some(zc_pool *pool, size_t most)
{
    pthread_mutex_lock(&pool->compact_lock);
    int64_t frames = compact(pool, most);
    pthread_mutex_unlock(&pool->compact_lock);
    return frames;
}

int64_t zc_pool_compact(zc_pool *pool)
{
    return pool->dead ? -ENOENT : zc_pool_compact_some(pool, SIZE_MAX);
}

static bool is_sparse(zc_pool *pool)
{
    for (unsigned i = 0; i < ZC_TIERS; i++) {
        struct zc_tier tier = zc_tier(pool, i);
        if (tier.alloc && tier.ops->is_sparse(tier.alloc))
            return true;
    }
    return false;
}

void zc_pool_freed(zc_pool *pool, size_t zpages)
{
    if (zpages == 0)
        return;

    size_t freed = atomic_fetch_add_explicit(&pool->freed, zpages, memory_order_relaxed) + zpages;
    if (freed < ASK_AFTER || !zc_param(pool, ZC_PARAM_COMPACT_AUTO) || pool->dead)
        return;
    if (pthread_mutex_trylock(&pool->compact_lock) != 0)
        return; /* somebody is at it */
    atomic_store_explicit(&pool->freed, 0, memory_order_relaxed);
    if (is_sparse(pool))
        compact(pool, freed); /* in proportion: whoever frees pays for it as it goes */
    pthread_mutex_unlock(&pool->compact_lock);
}

/* ---- reclaim ---- */

struct reclaim {
    zc_pool *pool;
    zc_evict *evict;
    void *arg;
    void *page; /* room for one */
    struct zc_reader reader;
    struct sums sums;
};

/* Offers a persistent page. Its entry may change meanwhile, so no lock is held. */
static bool offer(struct reclaim *reclaim, const struct zc_tier *tier, zc_handle handle,
                  uint64_t owner)
{
    struct zc_holder holder;
    if (!zc_holder_lock(reclaim->pool, tier, owner, handle, &holder))
        return false;

    struct zc_key key = {.object = holder.object, .index = holder.entry->index};
    int error = zc_entry_load(&reclaim->reader, holder.shard, holder.entry, reclaim->page);
    zc_shard_unlock(holder.shard);
    zc_reader_unlocked(&reclaim->reader);
    return !error && reclaim->evict(reclaim->arg, &key, reclaim->page) == 0;
}

/* False: it has to stay. */
static bool drop_page(struct reclaim *reclaim, const struct zc_tier *tier, zc_handle handle,
                      uint64_t owner)
{
    zc_pool *pool = reclaim->pool;
    struct zc_holder holder;

    if (pool->kind == ZC_PERSISTENT && !offer(reclaim, tier, handle, owner))
        return false;
    if (!zc_holder_lock(pool, tier, owner, handle, &holder))
        return false;
    struct zc_entry gone = zc_entry_take_out(pool, holder.shard, holder.object, holder.entry);
    zc_shard_unlock(holder.shard);
    zc_entry_release(pool, &gone);
    reclaim->sums.zpages++;
    return true;
}

/* All pages of an extent, each by itself. False: one has to stay, and so the zpage. */
static bool drop_zpage(struct reclaim *reclaim, const struct zc_tier *tier, zc_handle handle,
                       uint64_t owner)
{
    struct zc_holder holder;
    bool all = true;

    if (!tier->is_cold)
        return drop_page(reclaim, tier, handle, owner);
    if (!zc_holder_lock(reclaim->pool, tier, owner, handle, &holder))
        return false;
    unsigned live = holder.extent->live;
    uint64_t first = (owner >> 32 << 32) | holder.extent->first;
    zc_shard_unlock(holder.shard);
    for (; live; live &= live - 1)
        all &= drop_page(reclaim, tier, handle, first + (unsigned)__builtin_ctz(live));
    return all;
}

/* Frames that a tier has fewer than before. An extent's other parts free frames elsewhere. */
static int64_t fewer(const struct zc_tier *tier, size_t before)
{
    size_t now = zc_tier_frames(tier);

    return now < before ? (int64_t)(before - now) : 0;
}

/* Frames freed; -1: there is none to be had. What has to stay counts as young from now on, so that the
 * next one is another. */
static int64_t reclaim_one(struct reclaim *reclaim, const struct zc_tier *tier)
{
    const struct zc_alloc_ops *ops = tier->ops;
    void *alloc = tier->alloc;
    uint32_t isolated = ops->isolate(alloc, ZC_ISOLATE_COLDEST);
    size_t before = tier->is_cold ? zc_tier_frames(tier) : 0;
    zc_handle at = 0;
    uint64_t owner;

    if (!isolated)
        return -1;
    while (ops->next(alloc, isolated, at, &at, &owner)) {
        if (!drop_zpage(reclaim, tier, at, owner))
            ops->touch(alloc, at, zc_pool_tick(reclaim->pool));
    }
    int64_t freed = (int64_t)ops->release(alloc, isolated);
    return tier->is_cold ? fewer(tier, before) : freed;
}

/* Once each frame was tried, those that stay are all there is. */
static void reclaim_tier(struct reclaim *reclaim, const struct zc_tier *tier, size_t frames)
{
    for (size_t tries = zc_tier_frames(tier); tries > 0 && reclaim->sums.frames < frames; tries--) {
        int64_t freed = reclaim_one(reclaim, tier);
        if (freed < 0)
            break;
        reclaim->sums.frames += (size_t)freed;
    }
}

static void reclaim_all(struct reclaim *reclaim, size_t frames, enum zc_eviction cause)
{
    zc_pool *pool = reclaim->pool;
    struct zc_pool_stats *stats = &pool->shards[0].stats;

    for (unsigned i = ZC_TIERS; i-- > 0;) { /* the coldest are in the cold one */
        struct zc_tier tier = zc_tier(pool, i);
        if (tier.alloc)
            reclaim_tier(reclaim, &tier, frames);
    }
    zc_shard_lock(&pool->shards[0]); /* which only lends its lock and counters */
    stats->reclaimed_frames += reclaim->sums.frames;
    stats->reclaimed_zpages += reclaim->sums.zpages;
    stats->evicted_frames[cause] += reclaim->sums.frames;
    stats->evicted[cause] += reclaim->sums.zpages;
    zc_shard_unlock(&pool->shards[0]);
}

size_t zc_pool_evict(zc_pool *pool, size_t frames, enum zc_eviction cause)
{
    struct reclaim reclaim = {.pool = pool};

    ZC_ASSERT(pool->kind == ZC_EPHEMERAL);
    reclaim_all(&reclaim, frames, cause);
    return reclaim.sums.frames;
}

int zc_pool_reclaim(zc_pool *pool, size_t frames, zc_evict *evict, void *arg,
                    struct zc_reclaimed *out)
{
    struct reclaim reclaim = {.pool = pool, .evict = evict, .arg = arg, .reader = {.pool = pool}};

    *out = (struct zc_reclaimed){0};
    if (pool->dead)
        return -ENOENT;
    if (pool->kind == ZC_PERSISTENT && !evict)
        return 0;
    reclaim.page = malloc(pool->store->page_size);
    if (!reclaim.page)
        return -ENOMEM;

    reclaim_all(&reclaim, frames, ZC_EVICTED_USER);
    zc_reader_end(&reclaim.reader);
    free(reclaim.page);
    out->frames = reclaim.sums.frames;
    out->zpages = reclaim.sums.zpages;
    return 0;
}
