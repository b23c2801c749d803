/* SPDX-License-Identifier: Apache-2.0 */
#include "store/limit.h"

#include "base/base.h"
#include "store/store.h"

#define TAKE_FRAMES (2 * ZC_EXTENT_MAX) /* for a put that waits */
#define WRITE_FRAMES 64u                /* the same, of what has to be written */
#define SLICE_FRAMES 256u               /* taken by the keeper, before it looks up */
#define IN_VAIN_NS \
    (ZC_SECOND_NS / 10) /* from a look for pages to write that found none to the next */

uint64_t zc_store_used(const zc_store *store)
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

/* ---- pools that give frames ---- */

static bool gives(zc_pool *pool, enum zc_giver giver)
{
    if (pool->kind == ZC_EPHEMERAL)
        return giver == ZC_GIVER_EPHEMERAL;
    return giver == ZC_GIVER_BACKED && zc_writeback_is_open(pool) &&
           zc_param(pool, ZC_PARAM_WRITEBACK_AUTO);
}

/* Pools by frames, then by id. */
struct rank {
    size_t frames;
    uint32_t id;
};

static bool is_below(struct rank a, struct rank b)
{
    return a.frames < b.frames || (a.frames == b.frames && a.id < b.id);
}

/* A reference to the pool that comes next in rank, which *rank is then; NULL: none that has a frame. */
static zc_pool *next_giver(zc_store *store, enum zc_giver giver, struct rank *rank)
{
    struct rank best = {0};
    zc_pool *found = NULL;

    pthread_mutex_lock(&store->pools_lock);
    for (struct zc_link *at = store->pools.next; at != &store->pools; at = at->next) {
        zc_pool *pool = ZC_CONTAINER(at, zc_pool, link);
        struct zc_alloc_stats alloc;
        if (!gives(pool, giver))
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

static size_t give(zc_pool *pool, size_t frames, enum zc_eviction cause)
{
    if (pool->kind == ZC_EPHEMERAL)
        return zc_pool_evict(pool, frames, cause);
    return zc_writeback_some(
        pool, frames, cause == ZC_EVICTED_PRESSURE ? ZC_WRITEBACK_PRESSURE : ZC_WRITEBACK_LIMIT);
}

/* Returns how many frames such pools gave up. */
static size_t take(zc_store *store, enum zc_giver giver, size_t frames, enum zc_eviction cause)
{
    struct zc_giving *giving = &store->giving[giver];
    uint64_t puts = giving->puts;
    struct rank rank = {.frames = SIZE_MAX};
    size_t freed = 0, pools = 0;
    zc_pool *pool;

    while (freed < frames && (pool = next_giver(store, giver, &rank))) {
        freed += give(pool, frames - freed, cause);
        zc_pool_release(pool);
        pools++;
    }
    if (frames > 0 && pools == 0)
        giving->none = puts;
    return freed;
}

static bool has(const zc_store *store, enum zc_giver giver)
{
    return store->giving[giver].puts != store->giving[giver].none;
}

bool zc_limit_has_givers(zc_store *store)
{
    for (unsigned giver = 0; giver < ZC_GIVERS; giver++) {
        uint64_t puts = store->giving[giver].puts;
        struct rank rank = {.frames = SIZE_MAX};
        zc_pool *pool = has(store, giver) ? next_giver(store, giver, &rank) : NULL;
        if (pool) {
            zc_pool_release(pool);
            return true;
        }
        store->giving[giver].none = puts;
    }
    return false;
}

/* Pages were put into such a pool. Are they the first? */
static bool note_puts(zc_store *store, enum zc_giver giver)
{
    struct zc_giving *giving = &store->giving[giver];

    return atomic_fetch_add_explicit(&giving->puts, 1, memory_order_relaxed) == giving->none;
}

/* ---- writeback for the limit's sake ---- */

static bool may_write(const zc_store *store)
{
    uint64_t at = store->write_at;

    return has(store, ZC_GIVER_BACKED) && (at == 0 || at <= zc_store_ns(store));
}

/* When a backing store that is left alone may be tried; UINT64_MAX: none is. *has_other: there is
 * another. */
static uint64_t next_try(zc_store *store, bool *has_other)
{
    uint64_t now = zc_store_ns(store), next = UINT64_MAX;

    *has_other = false;
    pthread_mutex_lock(&store->pools_lock);
    for (struct zc_link *at = store->pools.next; at != &store->pools; at = at->next) {
        zc_pool *pool = ZC_CONTAINER(at, zc_pool, link);
        if (!gives(pool, ZC_GIVER_BACKED))
            continue;
        uint64_t its = pool->writeback.retry_at;
        if (its > now)
            next = zc_min64(next, its);
        else
            *has_other = true;
    }
    pthread_mutex_unlock(&store->pools_lock);
    return next;
}

/* Returns the frames that came free. If none did, no put is to ask for it soon. */
static size_t write_back(zc_store *store, size_t frames)
{
    size_t freed = may_write(store) ? take(store, ZC_GIVER_BACKED, frames, ZC_EVICTED_LIMIT) : 0;
    bool has_other;

    if (freed == 0 && may_write(store)) {
        uint64_t next = next_try(store, &has_other);
        store->write_at = has_other ? zc_store_ns(store) + IN_VAIN_NS : next;
    }
    return freed;
}

void zc_limit_reconsider(zc_pool *pool)
{
    zc_store *store = pool->store;

    zc_writeback_reconsider(pool);
    if (gives(pool, ZC_GIVER_BACKED))
        note_puts(store, ZC_GIVER_BACKED); /* that were before */
    store->write_at = 0;
    zc_keeper_reconsider(pool);
}

/* ---- puts ---- */

/* Is the keeper to make room? A limit of a few frames is reached before the high watermark. */
static bool is_full(const zc_store *store)
{
    return store->refuses || zc_store_used(store) > share_of(store, ZC_STORE_HIGH_WATERMARK) ||
           !zc_frames_have_room(store->frames);
}

static bool is_open(zc_store *store)
{
    if (!zc_frames_have_room(store->frames))
        return false;
    if (ZC_LIKELY(!store->refuses))
        return true;
    if (zc_store_used(store) > share_of(store, ZC_STORE_ACCEPT))
        return false;
    store->refuses = false;
    return true;
}

bool zc_limit_make_room(zc_pool *pool)
{
    zc_store *store = pool->store;

    if (pool->kind != ZC_PERSISTENT)
        return false;
    if (has(store, ZC_GIVER_EPHEMERAL) &&
        take(store, ZC_GIVER_EPHEMERAL, TAKE_FRAMES, ZC_PERS_ATE_EPH) > 0)
        return true;
    return write_back(store, WRITE_FRAMES) > 0;
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

    for (unsigned giver = 0; giver < ZC_GIVERS; giver++)
        is_first |= gives(pool, giver) && note_puts(store, giver);
    bool is_wanted = (has(store, ZC_GIVER_EPHEMERAL) || has(store, ZC_GIVER_BACKED)) &&
                     is_full(store) && (has(store, ZC_GIVER_EPHEMERAL) || may_write(store));
    if (is_wanted && pool->kind == ZC_PERSISTENT)
        store->persistent_wants = true;
    if (is_first || is_wanted)
        zc_keeper_wake(store);
}

/* ---- the keeper's ---- */

/* Bytes to be freed. */
static uint64_t excess(zc_store *store)
{
    uint64_t low = share_of(store, ZC_STORE_LOW_WATERMARK), now = zc_store_used(store);

    if (store->refuses)
        low = zc_min(low, share_of(store, ZC_STORE_ACCEPT));
    if (now > low)
        return now - low;
    return zc_frames_have_room(store->frames) ? 0 : 1;
}

/* So many frames from whoever has some. */
static size_t take_any(zc_store *store, size_t frames, enum zc_eviction cause)
{
    size_t freed = take(store, ZC_GIVER_EPHEMERAL, frames, cause);

    return freed ? freed : write_back(store, frames);
}

uint64_t zc_limit_keep(zc_store *store)
{
    bool is_for_persistent = atomic_exchange(&store->persistent_wants, false), has_other;
    enum zc_eviction cause = is_for_persistent ? ZC_PERS_ATE_EPH : ZC_EVICTED_LIMIT;
    uint64_t bytes;

    if (!is_full(store))
        return UINT64_MAX;
    while (!store->keeper.stopping && (bytes = excess(store)) > 0) {
        uint64_t frames = (bytes + store->page_size - 1) / store->page_size;
        if (take_any(store, zc_min(frames, SLICE_FRAMES), cause) == 0)
            return next_try(store, &has_other);
    }
    return UINT64_MAX;
}

static size_t frames_of(zc_store *store, enum zc_giver giver)
{
    struct rank rank = {.frames = SIZE_MAX};
    size_t frames = 0;
    zc_pool *pool;

    while ((pool = next_giver(store, giver, &rank))) {
        frames += rank.frames;
        zc_pool_release(pool);
    }
    return frames;
}

void zc_limit_relieve(zc_store *store)
{
    uint64_t percent = store->params[ZC_STORE_PRESSURE_SHRINK];

    store->pressures++;
    for (unsigned giver = 0; giver < ZC_GIVERS; giver++)
        take(store, giver, zc_div_up(frames_of(store, giver) * percent, 100), ZC_EVICTED_PRESSURE);
}
