/* SPDX-License-Identifier: Apache-2.0 */
/* What the store's own files share: the structures behind zc_store and zc_pool. */
#ifndef ZC_STORE_POOL_H
#define ZC_STORE_POOL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#include <zcache/store.h>

#include "alloc/alloc.h"
#include "base/base.h"
#include "base/list.h"
#include "base/node.h"
#include "base/table.h"
#include "codec/codec.h"
#include "frame/frame.h"
#include "store/codecs.h"
#include "store/cold.h"
#include "store/index.h"
#include "store/keeper.h"
#include "store/memory.h"
#include "store/writeback.h"

#define ZC_SHARD_BITS 4u
#define ZC_SHARDS (1u << ZC_SHARD_BITS) /* of a pool */
#define ZC_DIST_BUCKETS 64u             /* of the zpage-size histograms */
#define ZC_POOR_RUN_MAX 65535u          /* of the parameter poor_run_limit */

/* A pool's parameters, all changeable while it is in use. */
enum zc_param {
    ZC_PARAM_MAX_ZSIZE,         /* bytes */
    ZC_PARAM_MAX_MEAN_ZSIZE,    /* bytes */
    ZC_PARAM_POLICY_PERCENT,    /* of RAM */
    ZC_PARAM_EXCLUSIVE_GETS,    /* bool */
    ZC_PARAM_KEEP_REJECTED,     /* bool */
    ZC_PARAM_IGNORE_LOW_MEMORY, /* bool */
    ZC_PARAM_CHECKSUMS,         /* bool */
    ZC_PARAM_ENTROPY_GATE,      /* millibits a byte; 0: none */
    ZC_PARAM_COMPACT_AUTO,      /* bool */
    ZC_PARAM_IGNORE_INACTIVE,   /* bool */
    ZC_PARAM_POOR_RUN_LIMIT,    /* pages; 0: none */
    ZC_PARAM_WRITEBACK_BUDGET,  /* bytes a day; 0: any number */
    ZC_PARAM_WRITEBACK_AUTO,    /* bool */
    ZC_PARAM_WRITEBACK_AFTER,   /* seconds; 0: never */
    ZC_PARAM_COLD_AFTER,        /* seconds; 0: never */
    ZC_PARAM_COLD_EXTENT,       /* pages, a power of two */
    ZC_PARAM_COLD_READAHEAD,    /* bool */
    ZC_PARAM_COLD_CPU_PERCENT,  /* of one */
    ZC_PARAMS,
};

/* The store's, of the limit; all percent. */
enum zc_store_param {
    ZC_STORE_HIGH_WATERMARK,
    ZC_STORE_LOW_WATERMARK,
    ZC_STORE_ACCEPT,
    ZC_STORE_PRESSURE_SHRINK, /* of the frames of pools that give some */
    ZC_STORE_PARAMS,
};

/* Counters are summed over the shards one lock at a time. What one operation counts, it counts in
 * one shard at one time, so the sums agree among themselves. */
struct zc_shard {
    pthread_rwlock_t lock; /* see zc_shard_lock() */
    struct zc_index index;
    struct zc_table *extents; /* ZC_EXTENT_CLASSES, see extent.h; NULL: there are none */
    size_t sparse;            /* of these: zc_extent_is_sparse() */
    size_t index_bytes;       /* of both, as last added to the pool's and store's metadata */
    struct zc_pool_stats stats;
    /* Of stats, but added to by those who share the lock. */
    _Atomic uint64_t gets, gets_found, damaged, written_gets, read_errors;
    /* Written under the lock, read without: for the mean, and by codec. */
    _Atomic uint64_t zpages, zbytes;
    _Atomic uint64_t codec_zpages[ZC_POOL_CODECS];
    uint64_t curr_dist[ZC_DIST_BUCKETS], cumul_dist[ZC_DIST_BUCKETS];
};

struct zc_pool {
    zc_store *store;
    struct zc_link link; /* in zc_store.pools while alive */
    uint32_t id;
    enum zc_pool_kind kind;
    char name[ZC_POOL_NAME_MAX + 1];
    const struct zc_alloc_ops *alloc_ops;
    void *alloc;
    struct zc_cold cold;
    struct zc_codecs codecs;
    uint64_t secret; /* keys the choice of the shard */
    atomic_size_t references;
    atomic_bool dead;
    bool is_claimed; /* a frontend needs it; under pools_lock */
    _Atomic uint64_t params[ZC_PARAMS];
    atomic_size_t metadata_bytes; /* of indexes and codecs */
    _Atomic uint32_t clock;       /* calls that touched pages: what zpages are stamped with */
    _Atomic uint32_t poor_run; /* pages in a row that compressed poorly, or were refused for that */
    atomic_size_t freed;       /* zpages, since the allocator was asked whether it is sparse */
    pthread_mutex_t compact_lock;
    struct zc_writeback writeback;
    struct zc_recorder *_Atomic recorder; /* NULL: the pool was never recorded */
    _Atomic uint64_t chores[ZC_CHORES];   /* when they are due, zc_store_ns(); see keeper.h */
    struct zc_shard shards[ZC_SHARDS];
};

/* Pools that frames are to be had from, when they are wanted. */
enum zc_giver {
    ZC_GIVER_EPHEMERAL,
    ZC_GIVER_BACKED, /* persistent ones that write back by themselves */
    ZC_GIVERS,
};

/* Batches of puts into such pools; and how many there had been when none had a frame. */
struct zc_giving {
    _Atomic uint64_t puts, none;
};

struct zc_store {
    size_t page_size;
    struct zc_frames *frames;
    struct zc_memory memory;
    char *proc_dir; /* NULL: /proc */
    struct zc_keeper keeper;
    _Atomic uint32_t skipped;  /* seconds that its clock is ahead, see zc_store_ns() */
    _Atomic uint64_t clock_ns; /* its clock, where somebody else moves it; 0: nobody does */

    _Atomic uint64_t limit; /* bytes */
    _Atomic uint64_t params[ZC_STORE_PARAMS];
    atomic_bool refuses; /* the limit refused a put, and usage did not yet fall far enough */
    atomic_bool persistent_wants; /* the keeper is to make room for persistent pages */
    struct zc_giving giving[ZC_GIVERS];
    _Atomic uint64_t write_at;  /* zc_store_ns(): until then the limit has nothing to write back */
    _Atomic uint64_t pressures; /* times that memory was short */

    pthread_mutex_t pools_lock;
    struct zc_link pools;
    size_t pool_count;
    uint32_t next_id;

    pthread_mutex_t dictionaries_lock;
    struct zc_link dictionaries;
    uint32_t next_dictionary;
};

/* A shard is had alone, or shared by gets that leave every page where it is: neighbours lie in one
 * shard, so two threads that read the same object would wait for each other page by page. */
static inline void zc_shard_lock(struct zc_shard *shard)
{
    pthread_rwlock_wrlock(&shard->lock);
}

static inline void zc_shard_share(struct zc_shard *shard)
{
    pthread_rwlock_rdlock(&shard->lock);
}

static inline void zc_shard_unlock(struct zc_shard *shard)
{
    pthread_rwlock_unlock(&shard->lock);
}

/* The store's clock: CLOCK_MONOTONIC, which tests move on; or zc_store_set_clock()'s. */
static inline uint64_t zc_store_ns(const zc_store *store)
{
    uint64_t set = atomic_load_explicit(&store->clock_ns, memory_order_relaxed);

    if (ZC_UNLIKELY(set))
        return set;
    return zc_now_ns() + atomic_load_explicit(&store->skipped, memory_order_relaxed) * ZC_SECOND_NS;
}

/* Its seconds, modulo 2^16: what pages' ages are told by. Cheap, but to be asked once for a batch. */
static inline uint16_t zc_store_now(const zc_store *store)
{
    struct timespec t;

    if (ZC_UNLIKELY(atomic_load_explicit(&store->clock_ns, memory_order_relaxed)))
        return (uint16_t)(zc_store_ns(store) / ZC_SECOND_NS);
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return (uint16_t)((uint32_t)t.tv_sec +
                      atomic_load_explicit(&store->skipped, memory_order_relaxed));
}

static inline uint64_t zc_param(const zc_pool *pool, enum zc_param which)
{
    return atomic_load_explicit(&pool->params[which], memory_order_relaxed);
}

static inline bool zc_writeback_is_open(zc_pool *pool)
{
    return atomic_load_explicit(&pool->writeback.store, memory_order_relaxed) != NULL;
}

/* And as far as is known it takes pages. */
static inline bool zc_writeback_is_well(zc_pool *pool)
{
    return zc_writeback_is_open(pool) &&
           atomic_load_explicit(&pool->writeback.delay, memory_order_relaxed) == 0;
}

/* An allocator instance of a pool. */
struct zc_tier {
    const struct zc_alloc_ops *ops;
    void *alloc; /* NULL: there is none */
    bool is_cold;
};

#define ZC_TIERS 2u

/* 0: warm; 1: cold, where extents are. */
static inline struct zc_tier zc_tier(zc_pool *pool, unsigned which)
{
    if (which == 0)
        return (struct zc_tier){pool->alloc_ops, pool->alloc, false};
    return (struct zc_tier){&zc_zsmalloc_ops, atomic_load(&pool->cold.alloc), true};
}

/* Held now; 0 of a tier that is not there. */
size_t zc_tier_frames(const struct zc_tier *tier);
/* Of all tiers. */
void zc_pool_alloc_stats(zc_pool *pool, struct zc_alloc_stats *out);

/* What is touched now is stamped with. */
static inline uint32_t zc_pool_tick(zc_pool *pool)
{
    return atomic_fetch_add_explicit(&pool->clock, 1, memory_order_relaxed) + 1;
}

/* A threshold in bytes from "3584", "7/8" or "87%". 0, -EINVAL or -ERANGE. */
int zc_parse_threshold(const char *value, size_t page_size, uint64_t *out);

bool zc_pool_name_is_valid(const char *name);

/* As zc_pool_create(), and zc_pool_set_backing() before anybody can find the pool: if there is no such
 * store, there is no pool. NULL: no backing; without one, why may be NULL, too. */
int zc_pool_create_with(zc_store *store, const struct zc_pool_config *config,
                        const struct zc_pool_backing *backing, zc_pool **out, struct zc_text *why);

/* A reference to the pool of the lowest number above `id`; NULL: there is none. */
zc_pool *zc_pool_next(zc_store *store, uint32_t id);

/* Forgets every page. Returns how many. */
int64_t zc_pool_clear(zc_pool *pool);

/* As zc_pool_reclaim() of an ephemeral pool. Returns the frames freed. */
size_t zc_pool_evict(zc_pool *pool, size_t frames, enum zc_eviction cause);

/* As zc_pool_compact(), but empties at most so many frames or zspages of each allocator. */
int64_t zc_pool_compact_some(zc_pool *pool, size_t most);
/* So many zpages were freed: compacts, where that left the allocator sparse. Takes every lock. */
void zc_pool_freed(zc_pool *pool, size_t zpages);

/* Moves the store's clock on: every page has been idle for longer, and what is due by then is due. */
void zc_debug_age(zc_store *store, uint32_t seconds);
/* Flips a bit of a stored zpage, to see that it is noticed. -ENOENT: there is none. */
int zc_debug_damage(zc_pool *pool, uint64_t object, uint32_t index);

/* The pool's histograms, each of ZC_DIST_BUCKETS. */
void zc_pool_get_dist(zc_pool *pool, uint64_t *curr, uint64_t *cumul);

extern const struct zc_node zc_pool_param_nodes[];

#endif
