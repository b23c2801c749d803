/* SPDX-License-Identifier: Apache-2.0 */
#include "store/cold.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/base.h"
#include "store/entry.h"
#include "store/extent.h"
#include "store/idle.h"
#include "store/pack.h"
#include "store/store.h"

#define OWNERS 4096u      /* found in a shard at one time */
#define SLICE_NS 2000000u /* of a CPU, at least: then the chore lets go */
#define YIELD_MAX 3u      /* while others use the store it takes 2^this less of a CPU, at most */
#define AGAIN_NS (50 * UINT64_C(1000000)) /* when another round is under way */
#define RETRY_NS (10 * ZC_SECOND_NS)      /* when there was no memory, or no codec */
#define COMPACT_UNITS 64u                 /* frames or zspages emptied in a slice */
#define REST_SHARE 8u                     /* of cold_after, between two rounds, at least */
#define REST_MAX 3600u                    /* seconds */

/* Of recompression. */
struct zc_cold_round {
    struct zc_packer packer;
    size_t tries; /* units that may be isolated still */

    /* The walk over the index: */
    unsigned shard;
    bool is_listed;
    struct zc_owners owners; /* of this shard, those before `at` are done */
    size_t at;
};

static uint64_t cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * ZC_SECOND_NS + (uint64_t)t.tv_nsec;
}

/* ---- the pool's codec ---- */

int zc_cold_set_codec(zc_pool *pool, const char *spec, struct zc_text *why)
{
    int error = zc_codecs_check(pool->store, spec, why);

    if (!error && strlen(spec) > ZC_COLD_CODEC_MAX)
        error = -EINVAL;
    if (error)
        return error;
    pthread_mutex_lock(&pool->codecs.lock);
    strcpy(pool->cold.codec, spec);
    pthread_mutex_unlock(&pool->codecs.lock);
    zc_cold_reconsider(pool);
    return 0;
}

void zc_cold_copy_codec(zc_pool *pool, char *spec)
{
    pthread_mutex_lock(&pool->codecs.lock);
    strcpy(spec, pool->cold.codec);
    pthread_mutex_unlock(&pool->codecs.lock);
}

void zc_cold_show_codec(zc_pool *pool, struct zc_text *out)
{
    char spec[ZC_COLD_CODEC_MAX + 1];

    zc_cold_copy_codec(pool, spec);
    zc_text_add(out, "%s", spec);
}

/* ---- by frames ---- */

/* 0, or -errno. What stays counts as young from now on, so that the next unit is another. */
static int recompress_zpage(struct zc_cold_round *round, zc_handle handle, uint64_t owner)
{
    zc_pool *pool = round->packer.pool;
    struct zc_shard *shard;
    uint64_t object;
    struct zc_entry *entry = zc_entry_lock(pool, owner, handle, &shard, &object);
    if (!entry)
        return 0;

    uint32_t index = entry->index;
    bool is_poor = entry->span == ZC_SPAN_POOR;
    zc_shard_unlock(shard);
    int done = is_poor ? 0 : zc_pack_run(&round->packer, shard, object, index);
    if (done != 1)
        pool->alloc_ops->touch(pool->alloc, handle, zc_pool_tick(pool));
    return done < 0 && done != -ENOMEM ? done : 0;
}

/* 0, or -errno; -EAGAIN: there is no unit left. */
static int recompress_unit(struct zc_cold_round *round)
{
    const struct zc_alloc_ops *ops = round->packer.pool->alloc_ops;
    void *alloc = round->packer.pool->alloc;
    uint32_t isolated = ops->isolate(alloc, ZC_ISOLATE_COLDEST);
    zc_handle at = 0;
    uint64_t owner;
    int error = 0;

    if (!isolated)
        return -EAGAIN;
    while (!error && ops->next(alloc, isolated, at, &at, &owner))
        error = recompress_zpage(round, at, owner);
    ops->release(alloc, isolated);
    return error;
}

/* Makes extents until they are so many bytes smaller than their pages were; once each unit was tried,
 * what stays is all there is. 0, or -errno; -EAGAIN: that was all. */
static int save(struct zc_cold_round *round, uint64_t bytes)
{
    uint64_t until = round->packer.saved + bytes;
    int error = 0;

    while (!error && round->packer.saved < until)
        error = round->tries-- > 0 ? recompress_unit(round) : -EAGAIN;
    return error;
}

static size_t frames_of(zc_pool *pool)
{
    struct zc_alloc_stats stats;

    zc_pool_alloc_stats(pool, &stats);
    return stats.frames;
}

static size_t fewer(size_t before, size_t now)
{
    return now < before ? before - now : 0;
}

/* ---- by a walk over the index ---- */

static bool find_due(void *arg, const struct zc_shard *shard, struct zc_entry *entry)
{
    struct zc_cold_round *round = arg;

    if (zc_packer_is_due(&round->packer, shard, entry))
        return true;
    if (zc_entry_has_zpage(entry) && entry->span != ZC_SPAN_POOR)
        zc_idle_has(&round->packer.idle, zc_entry_idle(entry, round->packer.idle.now));
    return false;
}

static bool find_sparse(void *arg, const struct zc_shard *shard, struct zc_entry *entry)
{
    (void)arg;
    return zc_entry_is_cold(entry) &&
           zc_extent_is_sparse(zc_extent_at(shard, zc_entry_handle(entry)));
}

/* 0, or -errno. */
static int recompress_owner(struct zc_cold_round *round, uint64_t owner)
{
    struct zc_shard *shard;
    uint64_t object;
    struct zc_entry *entry = zc_entry_lock_any(round->packer.pool, owner, &shard, &object);
    if (!entry)
        return 0;

    bool is_still = zc_packer_is_due(&round->packer, shard, entry);
    zc_shard_unlock(shard);
    int done = is_still ? zc_pack_run(&round->packer, shard, object, (uint32_t)owner) : 0;
    return done < 0 ? done : 0;
}

/* The next shard's owners, or more of this one's. */
static int list_owners(struct zc_cold_round *round, zc_owner_wanted *wanted)
{
    struct zc_shard *shard = &round->packer.pool->shards[round->shard];

    free(round->owners.list);
    round->at = 0;
    round->packer.idle.now = zc_store_now(round->packer.pool->store);
    return zc_owners_list(round->packer.pool, shard, OWNERS, wanted, round, &round->owners);
}

/* The pages that are wanted, until `until` of this thread's CPU time. 0, or -errno. What is tried is then cold, or
 * poor, or has changed, so that each list is of others. */
static int walk(struct zc_cold_round *round, zc_owner_wanted *wanted, uint64_t until)
{
    int error = 0;

    while (!error && round->shard < ZC_SHARDS && !round->packer.pool->dead && cpu_ns() < until) {
        if (!round->is_listed) {
            error = list_owners(round, wanted);
            round->is_listed = !error;
        } else if (round->at < round->owners.count) {
            error = recompress_owner(round, round->owners.list[round->at++]);
        } else {
            round->shard += round->owners.is_all;
            round->is_listed = false;
        }
    }
    return error;
}

/* ---- rounds ---- */

/* The allocator, when it is needed first. */
static int make_tier(zc_pool *pool)
{
    void *alloc;

    if (atomic_load(&pool->cold.alloc))
        return 0;
    int error = zc_zsmalloc_ops.create(pool->store->frames, pool->store->page_size, &alloc);
    if (!error)
        atomic_store(&pool->cold.alloc, alloc);
    return error;
}

static int begin(zc_pool *pool, uint32_t idle, struct zc_cold_round **out)
{
    struct zc_cold_round *round = calloc(1, sizeof(*round));
    int error = round ? make_tier(pool) : -ENOMEM;

    if (!error)
        error = zc_packer_init(&round->packer, pool, idle);
    if (error) {
        free(round);
        return error;
    }
    *out = round;
    return 0;
}

static void end(struct zc_cold_round *round)
{
    zc_packer_fini(&round->packer);
    free(round->owners.list);
    free(round);
}

/* The shard only lends its lock and counters. */
static void count(zc_pool *pool, uint64_t pages, uint64_t frames)
{
    zc_shard_lock(&pool->shards[0]);
    pool->shards[0].stats.recompressed_pages += pages;
    pool->shards[0].stats.recompressed_frames += frames;
    zc_shard_unlock(&pool->shards[0]);
}

/* ---- on demand ---- */

typedef int run_round(struct zc_cold_round *round, size_t frames);

/* What runs leave behind are holes, all over: only compaction makes frames of them. */
static int run_coldest(struct zc_cold_round *round, size_t frames)
{
    zc_pool *pool = round->packer.pool;
    struct zc_tier warm = zc_tier(pool, 0);
    size_t before = frames_of(pool), page_size = pool->store->page_size, freed = 0;
    int error = 0;

    round->tries = zc_tier_frames(&warm);
    while (!error && freed < frames) {
        error = save(round, zc_min(frames - freed, SIZE_MAX / page_size) * page_size);
        if (error == -EAGAIN) /* what is left are extents that have become sparse */
            error = walk(round, find_sparse, UINT64_MAX) == 0 ? -EAGAIN : -ENOMEM;
        zc_pool_compact(pool);
        freed = fewer(before, frames_of(pool));
    }
    return error == -EAGAIN || error == -ENOMEM ? 0 : error; /* what there is no memory for stays */
}

static int run_idle(struct zc_cold_round *round, size_t frames)
{
    int error = walk(round, find_due, UINT64_MAX);

    (void)frames;
    zc_pool_compact(round->packer.pool);
    return error;
}

static int recompress(zc_pool *pool, uint32_t idle, run_round *run, size_t frames,
                      struct zc_recompressed *out, struct zc_text *why)
{
    struct zc_cold_round *round;

    *out = (struct zc_recompressed){0};
    if (pool->dead)
        return -ENOENT;
    pthread_mutex_lock(&pool->writeback.running); /* see land_member() in writeback.c */
    size_t before = frames_of(pool);
    int error = begin(pool, idle, &round);
    if (!error) {
        round->packer.why = why;
        error = run(round, frames);
        *out = (struct zc_recompressed){fewer(before, frames_of(pool)), round->packer.packed,
                                        round->packer.extents};
        count(pool, out->pages, out->frames);
        end(round);
    }
    pthread_mutex_unlock(&pool->writeback.running);
    return error;
}

int zc_cold_recompress(zc_pool *pool, size_t frames, struct zc_recompressed *out,
                       struct zc_text *why)
{
    return recompress(pool, 0, run_coldest, frames, out, why);
}

int zc_pool_recompress(zc_pool *pool, size_t frames, struct zc_recompressed *out)
{
    return zc_cold_recompress(pool, frames, out, NULL);
}

int zc_pool_recompress_idle(zc_pool *pool, uint32_t seconds, struct zc_recompressed *out)
{
    if (seconds == 0 || seconds > ZC_IDLE_MAX) {
        *out = (struct zc_recompressed){0};
        return -EINVAL;
    }
    return recompress(pool, seconds, run_idle, 0, out, NULL);
}

/* ---- by itself ---- */

/* Calls that touched pages, up to now. */
static uint64_t count_calls(zc_store *store)
{
    uint64_t calls = 0;

    pthread_mutex_lock(&store->pools_lock);
    for (struct zc_link *at = store->pools.next; at != &store->pools; at = at->next)
        calls +=
            atomic_load_explicit(&ZC_CONTAINER(at, zc_pool, link)->clock, memory_order_relaxed);
    pthread_mutex_unlock(&store->pools_lock);
    return calls;
}

static void end_idle(zc_pool *pool)
{
    if (pool->cold.round)
        end(pool->cold.round);
    pool->cold.round = NULL;
    pool->cold.yields = 0;
}

static uint64_t next_round(const struct zc_cold_round *round)
{
    const struct zc_idle *idle = &round->packer.idle;

    return zc_idle_next(idle, round->packer.pool->store,
                        (uint32_t)zc_min(idle->seconds / REST_SHARE, REST_MAX));
}

/* How long it is to leave a CPU alone that it has used for so many ns. */
static uint64_t pause_for(zc_pool *pool, uint64_t used, bool is_alone)
{
    uint64_t percent = zc_param(pool, ZC_PARAM_COLD_CPU_PERCENT);
    unsigned *yields = &pool->cold.yields;

    *yields = is_alone ? 0 : (unsigned)zc_min(*yields + 1, YIELD_MAX);
    return (used * (100 - percent) / percent) << *yields;
}

/* At the end of a round. False: there is nothing more to be had. */
static bool compact_some(const struct zc_cold_round *round)
{
    return round->packer.packed && zc_param(round->packer.pool, ZC_PARAM_COMPACT_AUTO) &&
           zc_pool_compact_some(round->packer.pool, COMPACT_UNITS) > 0;
}

/* A part of a round, which is begun if none is under way. *is_done: it was the last. 0, or -errno. */
static int run_slice(zc_pool *pool, uint32_t idle, bool *is_done)
{
    struct zc_cold *cold = &pool->cold;

    if (atomic_exchange(&cold->is_changed, false))
        end_idle(pool);
    int error = cold->round ? 0 : begin(pool, idle, &cold->round);
    if (error)
        return error;

    struct zc_cold_round *round = cold->round;
    uint64_t before = round->packer.packed;
    error = walk(round, find_due, cpu_ns() + SLICE_NS);
    uint64_t pages = round->packer.packed - before;
    count(pool, pages, 0);
    zc_pool_freed(pool, pages);
    *is_done = round->shard == ZC_SHARDS && !compact_some(round);
    return error;
}

/* Returns when it is due again. */
static uint64_t go_on(zc_pool *pool, uint32_t idle)
{
    uint64_t start = cpu_ns(), calls = count_calls(pool->store), next;
    bool is_done = false;
    int error = run_slice(pool, idle, &is_done);

    if (!error && !is_done) {
        bool is_alone = count_calls(pool->store) == calls;
        return zc_store_ns(pool->store) + pause_for(pool, cpu_ns() - start, is_alone);
    }
    next = error ? zc_store_ns(pool->store) + RETRY_NS : next_round(pool->cold.round);
    end_idle(pool);
    return next;
}

uint64_t zc_cold_idle(zc_pool *pool)
{
    uint32_t idle = (uint32_t)zc_param(pool, ZC_PARAM_COLD_AFTER);
    uint64_t next = UINT64_MAX;

    if (pthread_mutex_trylock(&pool->writeback.running) != 0)
        return zc_store_ns(pool->store) + AGAIN_NS; /* that may take long */
    if (idle && !pool->dead)
        next = go_on(pool, idle);
    else
        end_idle(pool);
    pthread_mutex_unlock(&pool->writeback.running);
    return next;
}

void zc_cold_fini(zc_pool *pool)
{
    end_idle(pool);
}

static bool clear_poor(void *arg, uint32_t number, struct zc_entry *entry)
{
    struct zc_shard *shard = arg;

    (void)number;
    if (zc_entry_is_cold(entry))
        zc_extent_set_poor(shard, zc_extent_at(shard, zc_entry_handle(entry)), false);
    else if (entry->span == ZC_SPAN_POOR)
        entry->span = 0;
    return true;
}

void zc_cold_reconsider(zc_pool *pool)
{
    for (size_t i = 0; i < ZC_SHARDS; i++) {
        struct zc_shard *shard = &pool->shards[i];
        zc_shard_lock(shard);
        zc_index_walk(&shard->index, clear_poor, shard);
        zc_shard_unlock(shard);
    }
    pool->cold.is_changed = true;
}
