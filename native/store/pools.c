/* SPDX-License-Identifier: Apache-2.0 */
/* Pools: names, ids, references, what they hold in numbers. */
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "base/base.h"
#include "store/extent.h"
#include "store/pool.h"
#include "store/record.h"

bool zc_pool_name_is_valid(const char *name)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
    size_t len = strlen(name);

    return len > 0 && len <= ZC_POOL_NAME_MAX && name[0] != '.' && strspn(name, allowed) == len;
}

static zc_pool *find_locked(zc_store *store, const char *name)
{
    for (struct zc_link *at = store->pools.next; at != &store->pools; at = at->next) {
        zc_pool *pool = ZC_CONTAINER(at, zc_pool, link);
        if (strcmp(pool->name, name) == 0)
            return pool;
    }
    return NULL;
}

static void pool_free(zc_pool *pool)
{
    zc_writeback_fini(pool);
    zc_frames_charge(pool->store->frames, -(ptrdiff_t)sizeof(*pool));
    zc_cold_fini(pool);
    zc_recorder_fini(pool);
    zc_codecs_fini(pool);
    for (unsigned i = 0; i < ZC_TIERS; i++) {
        struct zc_tier tier = zc_tier(pool, i);
        if (tier.alloc)
            tier.ops->destroy(tier.alloc);
    }
    pthread_mutex_destroy(&pool->compact_lock);
    for (size_t i = 0; i < ZC_SHARDS; i++)
        pthread_rwlock_destroy(&pool->shards[i].lock);
    free(pool);
}

static void pool_init(zc_pool *pool, const struct zc_pool_config *config)
{
    const zc_store *store = pool->store;
    uint64_t secrets[2] = {0};

    pool->kind = config->kind;
    strcpy(pool->name, config->name);
    pool->params[ZC_PARAM_MAX_ZSIZE] = store->page_size / 8 * 7;
    pool->params[ZC_PARAM_MAX_MEAN_ZSIZE] = store->page_size / 8 * 5;
    pool->params[ZC_PARAM_POLICY_PERCENT] = 75;
    pool->params[ZC_PARAM_EXCLUSIVE_GETS] = config->kind == ZC_EPHEMERAL;
    pool->params[ZC_PARAM_CHECKSUMS] = 1;
    pool->params[ZC_PARAM_COMPACT_AUTO] = 1;
    pool->params[ZC_PARAM_WRITEBACK_AUTO] = 1;
    for (size_t i = 0; i < ZC_CHORES; i++)
        pool->chores[i] = UINT64_MAX;
    pool->params[ZC_PARAM_COLD_EXTENT] = ZC_COLD_EXTENT;
    pool->params[ZC_PARAM_COLD_CPU_PERCENT] = ZC_COLD_CPU_PERCENT;
    strcpy(pool->cold.codec, ZC_COLD_CODEC);
    pthread_mutex_init(&pool->compact_lock, NULL);
    zc_writeback_init(pool);
    pool->references = 2; /* the store's and the caller's */
    if (getrandom(secrets, sizeof(secrets), GRND_NONBLOCK) != sizeof(secrets))
        secrets[0] = secrets[1] =
            zc_mix64((uintptr_t)pool); /* early boot: addresses are random too */
    pool->secret = secrets[0];
    for (size_t i = 0; i < ZC_SHARDS; i++) {
        pthread_rwlock_init(&pool->shards[i].lock, NULL);
        zc_index_init(&pool->shards[i].index, store->frames, secrets[1]);
    }
}

/* The pool without a name's place among the others. */
static int pool_new(zc_store *store, const struct zc_pool_config *config, zc_pool **out,
                    struct zc_text *why)
{
    const struct zc_alloc_ops *alloc_ops =
        zc_alloc_find(config->allocator ? config->allocator : "zbud");

    if (!alloc_ops || !config->name || !zc_pool_name_is_valid(config->name))
        return -EINVAL;
    if (config->kind != ZC_PERSISTENT && config->kind != ZC_EPHEMERAL)
        return -EINVAL;

    zc_pool *pool = calloc(1, sizeof(*pool));
    if (!pool)
        return -ENOMEM;
    pool->alloc_ops = alloc_ops;
    pool->store = store;
    int error = zc_codecs_init(pool, config->codec ? config->codec : "lz4", why);
    if (error)
        goto free_pool;
    error = alloc_ops->create(store->frames, store->page_size, &pool->alloc);
    if (error)
        goto fini_codecs;
    pool_init(pool, config);
    zc_frames_charge(store->frames, (ptrdiff_t)sizeof(*pool));
    *out = pool;
    return 0;

fini_codecs:
    zc_codecs_fini(pool);
free_pool:
    free(pool);
    return error;
}

static int check_name_locked(zc_store *store, const char *name, struct zc_text *why)
{
    if (!find_locked(store, name))
        return 0;
    if (why)
        zc_text_add(why, "pool '%s' exists already", name);
    return -EEXIST;
}

static int check_name(zc_store *store, const char *name, struct zc_text *why)
{
    pthread_mutex_lock(&store->pools_lock);
    int error = check_name_locked(store, name, why);
    pthread_mutex_unlock(&store->pools_lock);
    return error;
}

static int publish(zc_pool *pool, struct zc_text *why)
{
    zc_store *store = pool->store;

    pthread_mutex_lock(&store->pools_lock);
    int error = check_name_locked(store, pool->name, why);
    if (!error) {
        pool->id = store->next_id++;
        zc_list_add(store->pools.prev, &pool->link);
        store->pool_count++;
        zc_keeper_start(store);
    }
    pthread_mutex_unlock(&store->pools_lock);
    return error;
}

int zc_pool_create_with(zc_store *store, const struct zc_pool_config *config,
                        const struct zc_pool_backing *backing, zc_pool **out, struct zc_text *why)
{
    zc_pool *pool;
    int error = pool_new(store, config, &pool, why);
    if (error)
        return error;

    error = check_name(store, config->name, why); /* first: a store may be made anew */
    if (!error && backing)
        error = zc_writeback_attach(pool, backing, NULL, why);
    if (!error)
        error = publish(pool, why);
    if (error)
        goto free_pool;
    *out = pool;
    return 0;

free_pool:
    zc_writeback_close(pool); /* what is in the store is to stay */
    zc_pool_clear(pool);
    pool_free(pool);
    return error;
}

int zc_pool_create(zc_store *store, const struct zc_pool_config *config, zc_pool **out)
{
    return zc_pool_create_with(store, config, NULL, out, NULL);
}

int zc_pool_find(zc_store *store, const char *name, zc_pool **out)
{
    pthread_mutex_lock(&store->pools_lock);
    *out = find_locked(store, name);
    if (*out)
        atomic_fetch_add(&(*out)->references, 1);
    pthread_mutex_unlock(&store->pools_lock);
    return *out ? 0 : -ENOENT;
}

int zc_pool_by_id(zc_store *store, uint32_t id, zc_pool **out)
{
    *out = NULL;
    pthread_mutex_lock(&store->pools_lock);
    for (struct zc_link *at = store->pools.next; at != &store->pools; at = at->next) {
        zc_pool *pool = ZC_CONTAINER(at, zc_pool, link);
        if (pool->id != id)
            continue;
        atomic_fetch_add(&pool->references, 1);
        *out = pool;
        break;
    }
    pthread_mutex_unlock(&store->pools_lock);
    return *out ? 0 : -ENOENT;
}

zc_pool *zc_pool_next(zc_store *store, uint32_t id)
{
    zc_pool *found = NULL;

    pthread_mutex_lock(&store->pools_lock);
    for (struct zc_link *at = store->pools.next; at != &store->pools && !found; at = at->next) {
        zc_pool *pool = ZC_CONTAINER(at, zc_pool, link); /* they stand by their numbers */
        if (pool->id > id)
            found = pool;
    }
    if (found)
        atomic_fetch_add(&found->references, 1);
    pthread_mutex_unlock(&store->pools_lock);
    return found;
}

void zc_pool_release(zc_pool *pool)
{
    if (atomic_fetch_sub(&pool->references, 1) == 1)
        pool_free(pool);
}

void zc_pool_claim(zc_pool *pool, bool is_claimed)
{
    pthread_mutex_lock(&pool->store->pools_lock);
    pool->is_claimed = is_claimed;
    pthread_mutex_unlock(&pool->store->pools_lock);
}

int64_t zc_pool_destroy(zc_pool *pool)
{
    zc_store *store = pool->store;

    pthread_mutex_lock(&store->pools_lock);
    if (pool->dead) {
        pthread_mutex_unlock(&store->pools_lock);
        return -ENOENT;
    }
    if (pool->is_claimed) {
        pthread_mutex_unlock(&store->pools_lock);
        return -EBUSY;
    }
    pool->dead = true; /* from here on no put succeeds */
    zc_list_del(&pool->link);
    store->pool_count--;
    pthread_mutex_unlock(&store->pools_lock);

    int64_t dropped = zc_pool_clear(pool);
    zc_writeback_close(pool);
    zc_pool_release(pool);
    return dropped;
}

int zc_pool_destroy_batch(zc_pool *const *pools, size_t count, int64_t *results)
{
    for (size_t i = 0; i < count; i++)
        results[i] = zc_pool_destroy(pools[i]);
    return 0;
}

uint32_t zc_pool_id(const zc_pool *pool)
{
    return pool->id;
}

uint32_t zc_pool_page_size(const zc_pool *pool)
{
    return (uint32_t)pool->store->page_size;
}

const char *zc_pool_name(const zc_pool *pool)
{
    return pool->name;
}

enum zc_pool_kind zc_pool_get_kind(const zc_pool *pool)
{
    return pool->kind;
}

static void shard_stats(const struct zc_shard *shard, struct zc_pool_stats *out)
{
    *out = shard->stats;
    out->gets = shard->gets;
    out->gets_found = shard->gets_found;
    out->damaged = shard->damaged;
    out->written_gets = shard->written_gets;
    out->read_errors = shard->read_errors;
}

size_t zc_tier_frames(const struct zc_tier *tier)
{
    struct zc_alloc_stats stats = {0};

    if (tier->alloc)
        tier->ops->get_stats(tier->alloc, &stats);
    return stats.frames;
}

void zc_pool_alloc_stats(zc_pool *pool, struct zc_alloc_stats *out)
{
    *out = (struct zc_alloc_stats){0};
    for (unsigned i = 0; i < ZC_TIERS; i++) {
        struct zc_tier tier = zc_tier(pool, i);
        struct zc_alloc_stats stats = {0};
        if (tier.alloc)
            tier.ops->get_stats(tier.alloc, &stats);
        out->frames += stats.frames;
        out->zpages += stats.zpages;
        out->metadata_bytes += stats.metadata_bytes;
    }
}

void zc_pool_get_stats(zc_pool *pool, struct zc_pool_stats *out)
{
    enum { FIELDS = sizeof(*out) / sizeof(uint64_t) };
    _Static_assert(sizeof(*out) == FIELDS * sizeof(uint64_t), "only counters");
    struct zc_tier cold = zc_tier(pool, 1);
    struct zc_alloc_stats alloc;
    uint64_t sums[FIELDS] = {0};
    union {
        struct zc_pool_stats stats;
        uint64_t fields[FIELDS];
    } shard;

    for (size_t i = 0; i < ZC_SHARDS; i++) {
        zc_shard_lock(&pool->shards[i]);
        shard_stats(&pool->shards[i], &shard.stats);
        zc_shard_unlock(&pool->shards[i]);
        for (size_t f = 0; f < FIELDS; f++)
            sums[f] += shard.fields[f];
    }
    memcpy(out, sums, sizeof(*out));

    zc_pool_alloc_stats(pool, &alloc);
    out->frames = alloc.frames;
    out->cold_frames = zc_tier_frames(&cold);
    out->metadata_bytes = sizeof(*pool) + alloc.metadata_bytes + pool->metadata_bytes;
    out->used_bytes = out->frames * pool->store->page_size + out->metadata_bytes;
    zc_writeback_get_stats(pool, out);
}

void zc_pool_get_dist(zc_pool *pool, uint64_t *curr, uint64_t *cumul)
{
    memset(curr, 0, ZC_DIST_BUCKETS * sizeof(*curr));
    memset(cumul, 0, ZC_DIST_BUCKETS * sizeof(*cumul));
    for (size_t i = 0; i < ZC_SHARDS; i++) {
        struct zc_shard *shard = &pool->shards[i];

        zc_shard_lock(shard);
        for (size_t b = 0; b < ZC_DIST_BUCKETS; b++) {
            curr[b] += shard->curr_dist[b];
            cumul[b] += shard->cumul_dist[b];
        }
        zc_shard_unlock(shard);
    }
}

int zc_pool_set_codec(zc_pool *pool, const char *spec)
{
    return pool->dead ? -ENOENT : zc_codecs_set(pool, spec, NULL);
}
