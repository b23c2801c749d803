/* SPDX-License-Identifier: Apache-2.0 */
#include "store/limit.h"

#include "base/base.h"

#define TAKE_FRAMES (2 * ZC_EXTENT_MAX) /* for a put that waits */
#define SLICE_FRAMES 256u               /* taken by the keeper, before it looks up */

static uint64_t used(const zc_store *store)
{
    struct zc_frames_stats frames;

    zc_frames_get_stats(store->frames, &frames);
    return frames.used_bytes - frames.ready * store->page_size;
}

static uint64_t share_of(const zc_store *store, enum zc_store_param percent)
{
    uint64_t limit = store->limit;

    return limit / 100 * store->params[percent] + limit % 100 * store->params[percent] / 100;
}

/* ---- ephemeral pools ---- */

/* Pools by frames, then by id. */
struct rank {
    size_t frames;
    uint32_t id;
};

static bool is_below(struct rank a, struct rank b)
{
    return a.frames < b.frames || (a.frames == b.frames && a.id < b.id);
}

/* A reference to the ephemeral pool that comes next in rank, which *rank is then; NULL: none that has
 * a frame. */
static zc_pool *next_ephemeral(zc_store *store, struct rank *rank)
{
    struct rank best = {0};
    zc_pool *found = NULL;

    pthread_mutex_lock(&store->pools_lock);
    for (struct zc_link *at = store->pools.next; at != &store->pools; at = at->next) {
        zc_pool *pool = ZC_CONTAINER(at, zc_pool, link);
        struct zc_alloc_stats alloc;
        if (pool->kind != ZC_EPHEMERAL)
            continue;
        zc_pool_alloc_stats(pool, &alloc);
        struct rank its = {alloc.frames, pool->id};
        if (alloc.frames == 0 || !is_below(its, *rank) || !is_below(best, its))
            continue;
        best = its;
        found = pool;
    }
    if (found)
        atomic_fetch_add(&found->references, 1);
    pthread_mutex_unlock(&store->pools_lock);
    *rank = best;
    return found;
}

/* Returns how many frames ephemeral pools gave up. */
static size_t take(zc_store *store, size_t frames, enum zc_eviction cause)
{
    uint64_t puts = store->ephemeral_puts;
    struct rank rank = {.frames = SIZE_MAX};
    size_t freed = 0, pools = 0;
    zc_pool *pool;

    while (freed < frames && (pool = next_ephemeral(store, &rank))) {
        freed += zc_pool_evict(pool, frames - freed, cause);
        zc_pool_release(pool);
        pools++;
    }
    if (pools == 0)
        store->ephemeral_none = puts;
    return freed;
}

bool zc_limit_has_ephemeral(const zc_store *store)
{
    return store->ephemeral_puts != store->ephemeral_none;
}

/* ---- puts ---- */

/* Is the keeper to make room? A limit of a few frames is reached before the high watermark. */
static bool is_full(const zc_store *store)
{
    return store->refuses || used(store) > share_of(store, ZC_STORE_HIGH_WATERMARK) ||
           !zc_frames_have_room(store->frames);
}

static bool is_open(zc_store *store)
{
    if (!zc_frames_have_room(store->frames))
        return false;
    if (ZC_LIKELY(!store->refuses))
        return true;
    if (used(store) > share_of(store, ZC_STORE_ACCEPT))
        return false;
    store->refuses = false;
    return true;
}

bool zc_limit_make_room(zc_pool *pool)
{
    zc_store *store = pool->store;

    return pool->kind == ZC_PERSISTENT && zc_limit_has_ephemeral(store) &&
           take(store, TAKE_FRAMES, ZC_PERS_ATE_EPH) > 0;
}

bool zc_limit_admits(zc_pool *pool)
{
    zc_store *store = pool->store;

    while (ZC_UNLIKELY(!is_open(store))) {
        bool has_room = zc_limit_make_room(pool);
        store->refuses = !has_room;
        if (!has_room)
            return false;
    }
    return true;
}

void zc_limit_after_puts(zc_pool *pool)
{
    zc_store *store = pool->store;
    bool is_first = false;

    if (pool->kind == ZC_EPHEMERAL)
        is_first = atomic_fetch_add_explicit(&store->ephemeral_puts, 1, memory_order_relaxed) ==
                   store->ephemeral_none;
    bool is_wanted = zc_limit_has_ephemeral(store) && is_full(store);
    if (is_wanted && pool->kind == ZC_PERSISTENT)
        store->persistent_wants = true;
    if (is_first || is_wanted)
        zc_keeper_wake(store);
}

/* ---- the keeper's ---- */

/* Bytes to be freed. */
static uint64_t excess(zc_store *store)
{
    uint64_t low = share_of(store, ZC_STORE_LOW_WATERMARK), now = used(store);

    if (store->refuses)
        low = zc_min(low, share_of(store, ZC_STORE_ACCEPT));
    if (now > low)
        return now - low;
    return zc_frames_have_room(store->frames) ? 0 : 1;
}

void zc_limit_keep(zc_store *store)
{
    bool is_for_persistent = atomic_exchange(&store->persistent_wants, false);
    uint64_t bytes;

    if (!is_full(store))
        return;
    while (!store->keeper.stopping && (bytes = excess(store)) > 0) {
        uint64_t frames = (bytes + store->page_size - 1) / store->page_size;
        if (take(store, zc_min(frames, SLICE_FRAMES),
                 is_for_persistent ? ZC_PERS_ATE_EPH : ZC_EVICTED_LIMIT) == 0)
            return; /* persistent pages with somewhere to go are next */
    }
}

static size_t ephemeral_frames(zc_store *store)
{
    struct rank rank = {.frames = SIZE_MAX};
    size_t frames = 0;
    zc_pool *pool;

    while ((pool = next_ephemeral(store, &rank))) {
        frames += rank.frames;
        zc_pool_release(pool);
    }
    return frames;
}

void zc_limit_relieve(zc_store *store)
{
    uint64_t percent = store->params[ZC_STORE_PRESSURE_SHRINK];
    size_t frames = zc_div_up(ephemeral_frames(store) * percent, 100);

    store->pressures++;
    take(store, frames, ZC_EVICTED_PRESSURE);
}
