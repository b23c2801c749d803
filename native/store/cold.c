/* SPDX-License-Identifier: Apache-2.0 */
#include "store/cold.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/base.h"
#include "base/hash.h"
#include "store/entry.h"
#include "store/extent.h"
#include "store/idle.h"
#include "store/store.h"

#define SPANS 5u          /* lengths of extents: 1, 2, 4, 8, 16 pages */
#define OWNERS 4096u      /* found in a shard at one time */
#define SLICE_NS 2000000u /* of a CPU, at least: then the chore lets go */
#define YIELD_MAX 3u      /* while others use the store it takes 2^this less of a CPU, at most */
#define AGAIN_NS (50 * UINT64_C(1000000)) /* when another round is under way */
#define RETRY_NS (10 * ZC_SECOND_NS)      /* when there was no memory, or no codec */
#define COMPACT_UNITS 64u                 /* frames or zspages emptied in a slice */
#define REST_SHARE 8u                     /* of cold_after, between two rounds, at least */
#define REST_MAX 3600u                    /* seconds */

_Static_assert(1u << (SPANS - 1) == ZC_EXTENT_PAGES, "a span for each length");

/* What extents of a length are compressed with. */
struct span {
    unsigned number; /* the codec's in the pool */
    struct zc_compressor *compressor;
};

/* A run of pages, as it was copied. */
struct run {
    struct zc_shard *shard;
    uint64_t object;
    uint32_t first;
    unsigned pages, span;                     /* its length, and log2 of that */
    uint16_t tried, copied;                   /* by bit: were wanted; and could be read */
    struct zc_entry entries[ZC_EXTENT_PAGES]; /* of those that were tried */
    char *bytes;                              /* of the pages, zeros where there is none */
    char *zpages; /* of warm ones as they were compressed, each at its page's place */
};

/* Of recompression. */
struct zc_cold_round {
    zc_pool *pool;
    char spec[ZC_COLD_CODEC_MAX + 1];
    unsigned pages; /* of an extent, at most */
    uint32_t idle;  /* seconds that pages have to have been, at least; 0: any page */
    uint16_t now;   /* zc_store_now() */
    struct zc_reader reader;
    struct zc_recompressed sums;
    size_t tries;   /* units that may be isolated still */
    uint64_t saved; /* bytes, by extents */
    struct zc_text *why;
    struct span spans[SPANS];
    struct run run;

    /* The walk over the index: */
    unsigned shard;
    bool is_listed;
    struct zc_owners owners; /* of this shard, those before `at` are done */
    size_t at;
    uint32_t oldest; /* seconds: of the pages met that were not idle for long enough */
    bool is_all;     /* there were none of these */
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

static void copy_spec(zc_pool *pool, char *spec)
{
    pthread_mutex_lock(&pool->codecs.lock);
    strcpy(spec, pool->cold.codec);
    pthread_mutex_unlock(&pool->codecs.lock);
}

void zc_cold_show_codec(zc_pool *pool, struct zc_text *out)
{
    char spec[ZC_COLD_CODEC_MAX + 1];

    copy_spec(pool, spec);
    zc_text_add(out, "%s", spec);
}

static int compressor_for(struct zc_cold_round *round, unsigned span, struct zc_compressor **out)
{
    struct span *mine = &round->spans[span];
    int error = 0;

    if (!mine->compressor) {
        error = zc_codecs_hold(round->pool, round->spec, 1u << span, &mine->number, round->why);
        if (error)
            return error;
        mine->compressor = zc_compressor_new(round->pool, mine->number);
        if (!mine->compressor) {
            zc_codecs_drop(round->pool, mine->number);
            return -ENOMEM;
        }
    }
    *out = mine->compressor;
    return 0;
}

/* ---- what is to be compressed again ---- */

static void set_poor(struct zc_shard *shard, struct zc_entry *entry, bool is_poor)
{
    if (zc_entry_is_cold(entry))
        zc_extent_set_poor(shard, zc_extent_at(shard, zc_entry_handle(entry)), is_poor);
    else
        entry->span = is_poor ? ZC_SPAN_POOR : 0;
}

static bool is_idle(const struct zc_cold_round *round, struct zc_entry *entry)
{
    return round->idle == 0 || zc_entry_idle(entry, round->now) >= round->idle;
}

/* Extents with few pages left join what goes cold beside them, so that no run stays in pieces. */
static bool joins(const struct zc_cold_round *round, const struct zc_extent *extent)
{
    return 1u << extent->span <= round->pages &&
           (zc_extent_is_sparse(extent) || 2 * zc_extent_count(extent->live) <= round->pages);
}

/* May the page be a member? */
static bool is_wanted(const struct zc_cold_round *round, const struct zc_shard *shard,
                      struct zc_entry *entry)
{
    if (zc_entry_is_cold(entry))
        return joins(round, zc_extent_at(shard, zc_entry_handle(entry)));
    return zc_entry_has_zpage(entry) && is_idle(round, entry);
}

/* Is it a reason to make an extent? */
static bool is_due(const struct zc_cold_round *round, const struct zc_shard *shard,
                   struct zc_entry *entry)
{
    if (zc_entry_is_cold(entry))
        return zc_extent_is_sparse(zc_extent_at(shard, zc_entry_handle(entry)));
    return zc_entry_has_zpage(entry) && entry->span != ZC_SPAN_POOR && is_idle(round, entry);
}

/* ---- a run ---- */

static char *zpage_of(const struct zc_cold_round *round, unsigned i)
{
    return round->run.zpages + i * round->pool->store->page_size;
}

static char *bytes_of(const struct zc_cold_round *round, unsigned i)
{
    return round->run.bytes + i * round->pool->store->page_size;
}

static struct zc_entry *entry_at(const struct run *run, unsigned i)
{
    return zc_index_find(&run->shard->index, run->object, run->first + i);
}

/* Whoever shares the lock may stamp it. */
static struct zc_entry copy_of(const struct zc_entry *entry)
{
    struct zc_entry copy = {.index = entry->index,
                            .size = entry->size,
                            .kind = entry->kind,
                            .is_checked = entry->is_checked,
                            .codec = entry->codec,
                            .span = entry->span};

    zc_entry_set_handle(&copy, zc_entry_handle(entry));
    return copy;
}

/* Copies a page, and its zpage; a damaged one stays what it is. */
static void copy_page(struct zc_cold_round *round, unsigned i)
{
    zc_pool *pool = round->pool;
    struct run *run = &round->run;

    zc_shard_share(run->shard);
    struct zc_entry *entry = entry_at(run, i);
    if (!entry || !is_wanted(round, run->shard, entry))
        goto unlock;
    run->tried |= (uint16_t)(1u << i);
    run->entries[i] = copy_of(entry);
    if (zc_entry_load(&round->reader, run->shard, entry, bytes_of(round, i)) != 0)
        goto unlock;
    run->copied |= (uint16_t)(1u << i);
    if (zc_entry_has_zpage(entry))
        memcpy(zpage_of(round, i), pool->alloc_ops->map(pool->alloc, zc_entry_handle(entry)).bytes,
               entry->size);
unlock:
    zc_shard_unlock(run->shard);
    zc_reader_unlocked(&round->reader);
    if (!(run->copied >> i & 1))
        memset(bytes_of(round, i), 0, pool->store->page_size);
}

/* The shortest aligned run that has all pages that were tried. */
static void shorten(struct zc_cold_round *round)
{
    struct run *run = &round->run;
    size_t page_size = round->pool->store->page_size;
    unsigned low = (unsigned)__builtin_ctz(run->tried);
    unsigned high = 31 - (unsigned)__builtin_clz(run->tried);

    for (run->span = 0; low >> run->span != high >> run->span;)
        run->span++;
    run->pages = 1u << run->span;
    low &= ~(run->pages - 1);
    run->first += low;
    run->tried = (uint16_t)(run->tried >> low);
    run->copied = (uint16_t)(run->copied >> low);
    memmove(run->entries, run->entries + low, run->pages * sizeof(run->entries[0]));
    memmove(run->bytes, bytes_of(round, low), run->pages * page_size);
    memmove(run->zpages, zpage_of(round, low), run->pages * page_size);
}

/* The aligned run around a page, as far as its pages are wanted. */
static void copy_run(struct zc_cold_round *round, struct zc_shard *shard, uint64_t object,
                     uint32_t index)
{
    struct run *run = &round->run;

    run->shard = shard;
    run->object = object;
    run->first = index & ~(round->pages - 1);
    run->pages = round->pages;
    run->tried = run->copied = 0;
    for (unsigned i = 0; i < round->pages; i++)
        copy_page(round, i);
    if (run->tried)
        shorten(round);
}

/* Is page i what was copied? Handles come again, bytes tell for certain; of an extent it is certain anyway,
 * for nobody makes one meanwhile. */
static bool is_same(const struct zc_cold_round *round, const struct zc_entry *entry, unsigned i)
{
    const struct zc_entry *copied = &round->run.entries[i];
    zc_pool *pool = round->pool;

    if (entry->kind != copied->kind || zc_entry_handle(entry) != zc_entry_handle(copied))
        return false;
    return zc_entry_is_cold(entry) ||
           (entry->size == copied->size && entry->codec == copied->codec &&
            memcmp(pool->alloc_ops->map(pool->alloc, zc_entry_handle(entry)).bytes,
                   zpage_of(round, i), entry->size) == 0);
}

/* Which of those pages are as they were copied; the shard is locked. */
static uint16_t find_same(struct zc_cold_round *round, uint16_t pages)
{
    const struct run *run = &round->run;
    uint16_t same = 0;

    for (unsigned i = 0; i < run->pages; i++) {
        struct zc_entry *entry = pages >> i & 1 ? entry_at(run, i) : NULL;
        if (entry && is_wanted(round, run->shard, entry) && is_same(round, entry, i))
            same |= (uint16_t)(1u << i);
    }
    return same;
}

/* Nothing is to be had from this run, by itself. */
static void note_poor(struct zc_cold_round *round)
{
    const struct run *run = &round->run;

    zc_shard_lock(run->shard);
    uint16_t same = find_same(round, run->tried);
    for (unsigned i = 0; i < run->pages; i++) {
        if (same >> i & 1)
            set_poor(run->shard, entry_at(run, i), true);
    }
    zc_shard_unlock(run->shard);
}

/* ---- an extent ---- */

static size_t extent_cost(size_t size, size_t parts)
{
    return sizeof(struct zc_extent) + size + parts * (ZC_ZHEAD_BYTES + sizeof(zc_handle));
}

/* Are all pages of the extent among those of the run? */
static bool all_leave(const struct run *run, const struct zc_extent *extent, uint16_t pages)
{
    for (unsigned live = extent->live; live; live &= live - 1) {
        uint32_t at = extent->first + (unsigned)__builtin_ctz(live) - run->first;
        if (at >= run->pages || !(pages >> at & 1))
            return false;
    }
    return true;
}

/* Bytes that are free when those pages, which are locked, leave what they are in. */
static size_t cost_of(const struct run *run, uint16_t pages)
{
    size_t cost = 0;

    for (unsigned i = 0; i < run->pages; i++) {
        const struct zc_entry *entry = pages >> i & 1 ? entry_at(run, i) : NULL;
        if (!entry)
            continue;
        if (!zc_entry_is_cold(entry)) {
            cost += entry->size + ZC_ZHEAD_BYTES;
            continue;
        }
        const struct zc_extent *extent = zc_extent_at(run->shard, zc_entry_handle(entry));
        bool is_first = entry->index == extent->first + (unsigned)__builtin_ctz(extent->live);
        if (is_first && all_leave(run, extent, pages))
            cost += extent_cost(extent->size, extent->parts);
    }
    return cost;
}

/* Those pages become members; their old entries are left in the run. */
static void join(struct zc_cold_round *round, const struct zc_extent *made, zc_handle word)
{
    struct run *run = &round->run;

    for (unsigned i = 0; i < run->pages; i++) {
        if (!(made->made >> i & 1))
            continue;
        struct zc_entry *entry = entry_at(run, i);
        struct zc_entry old = *entry;
        *entry = (struct zc_entry){
            .index = old.index, .kind = ZC_ENTRY_COLD, .codec = made->codec, .span = made->span};
        zc_entry_set_handle(entry, word);
        zc_entry_set_age(entry, zc_entry_age(&old));
        zc_entry_account(round->pool, run->shard, entry, 1);
        zc_entry_account(round->pool, run->shard, &old, -1);
        zc_extent_leave(round->pool, run->shard, &old);
        run->entries[i] = old;
        round->sums.pages += !zc_entry_is_cold(&old);
    }
    round->sums.extents++;
}

/* 1: done; 0: it would save nothing any more; -ENOMEM. */
static int swap_locked(struct zc_cold_round *round, struct zc_extent *made, const zc_handle *parts)
{
    struct run *run = &round->run;
    size_t size = extent_cost(made->size, made->parts);

    made->live = made->made = find_same(round, run->copied);
    size_t before = cost_of(run, made->live);
    if (before <= size)
        return 0;
    made->object = zc_index_number(&run->shard->index, run->object);
    uint64_t word = zc_extent_add(round->pool, run->shard, made, parts);
    if (!word)
        return -ENOMEM;
    join(round, made, word);
    round->saved += before - size;
    zc_shard_count_bytes(round->pool, run->shard);
    return 1;
}

static int swap(struct zc_cold_round *round, const char *bytes, size_t size)
{
    zc_pool *pool = round->pool;
    struct run *run = &round->run;
    zc_handle parts[ZC_EXTENT_PAGES];
    struct zc_extent made = {
        .first = run->first,
        .size = (uint32_t)size,
        .checksum = zc_checksum(bytes, size),
        .codec = round->spans[run->span].number & 0xf,
        .span = run->span & 7,
        .parts = (uint8_t)zc_div_up(size, pool->store->page_size),
    };

    if (!zc_parts_make(pool, bytes, size, atomic_load(&pool->clock), parts))
        return -ENOMEM;
    zc_shard_lock(run->shard);
    int done = swap_locked(round, &made, parts);
    zc_shard_unlock(run->shard);
    if (done <= 0) {
        zc_parts_free(pool, parts, made.parts);
        return done;
    }
    for (unsigned i = 0; i < run->pages; i++) {
        if (made.made >> i & 1)
            zc_entry_release(pool, &run->entries[i]);
    }
    return done;
}

static size_t cost_now(struct zc_cold_round *round)
{
    const struct run *run = &round->run;

    zc_shard_share(run->shard);
    size_t cost = cost_of(run, run->copied);
    zc_shard_unlock(run->shard);
    return cost;
}

/* What was copied becomes an extent. 1: done; 0: it has to stay; or -errno. */
static int pack(struct zc_cold_round *round)
{
    struct run *run = &round->run;
    size_t page_size = round->pool->store->page_size;
    struct zc_compressor *compressor;
    int error = compressor_for(round, run->span, &compressor);
    if (error)
        return error;

    char *bytes = compressor->zpage[0];
    size_t size = zc_compress(compressor->codec, compressor->state, run->bytes, bytes);
    if (extent_cost(size, zc_div_up(size, page_size)) >= cost_now(round))
        return 0;
    return swap(round, bytes, size);
}

/* The run around a page. 1: it is an extent; 0: it has to stay as it is; or -errno. */
static int recompress_run(struct zc_cold_round *round, struct zc_shard *shard, uint64_t object,
                          uint32_t index)
{
    copy_run(round, shard, object, index);
    int done = round->run.copied ? pack(round) : 0;
    if (done == 0)
        note_poor(round);
    return done;
}

/* ---- on demand, by frames ---- */

/* 0, or -errno. What stays counts as young from now on, so that the next unit is another. */
static int recompress_zpage(struct zc_cold_round *round, zc_handle handle, uint64_t owner)
{
    zc_pool *pool = round->pool;
    struct zc_shard *shard;
    uint64_t object;
    struct zc_entry *entry = zc_entry_lock(pool, owner, handle, &shard, &object);
    if (!entry)
        return 0;

    uint32_t index = entry->index;
    bool is_poor = entry->span == ZC_SPAN_POOR;
    zc_shard_unlock(shard);
    int done = is_poor ? 0 : recompress_run(round, shard, object, index);
    if (done != 1)
        pool->alloc_ops->touch(pool->alloc, handle, zc_pool_tick(pool));
    return done < 0 && done != -ENOMEM ? done : 0;
}

/* 0, or -errno; -EAGAIN: there is no unit left. */
static int recompress_unit(struct zc_cold_round *round)
{
    const struct zc_alloc_ops *ops = round->pool->alloc_ops;
    void *alloc = round->pool->alloc;
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
    uint64_t until = round->saved + bytes;
    int error = 0;

    while (!error && round->saved < until)
        error = round->tries-- > 0 ? recompress_unit(round) : -EAGAIN;
    return error;
}

static size_t frames_of(zc_pool *pool)
{
    struct zc_alloc_stats stats;

    zc_pool_alloc_stats(pool, &stats);
    return stats.frames;
}

/* ---- by a walk over the index ---- */

static bool find_due(void *arg, const struct zc_shard *shard, struct zc_entry *entry)
{
    struct zc_cold_round *round = arg;

    if (is_due(round, shard, entry))
        return true;
    if (!zc_entry_has_zpage(entry) || entry->span == ZC_SPAN_POOR)
        return false;
    round->is_all = false;
    round->oldest = (uint32_t)zc_max(round->oldest, zc_entry_idle(entry, round->now));
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
    struct zc_entry *entry = zc_entry_lock_any(round->pool, owner, &shard, &object);
    if (!entry)
        return 0;

    bool is_still = is_due(round, shard, entry);
    zc_shard_unlock(shard);
    int done = is_still ? recompress_run(round, shard, object, (uint32_t)owner) : 0;
    return done < 0 ? done : 0;
}

/* The next shard's owners, or more of this one's. */
static int list_owners(struct zc_cold_round *round, zc_owner_wanted *wanted)
{
    struct zc_shard *shard = &round->pool->shards[round->shard];

    free(round->owners.list);
    round->at = 0;
    round->now = zc_store_now(round->pool->store);
    return zc_owners_list(round->pool, shard, OWNERS, wanted, round, &round->owners);
}

/* The pages that are wanted, until `until` of this thread's CPU time. 0, or -errno. What is tried is then cold, or
 * poor, or has changed, so that each list is of others. */
static int walk(struct zc_cold_round *round, zc_owner_wanted *wanted, uint64_t until)
{
    int error = 0;

    while (!error && round->shard < ZC_SHARDS && !round->pool->dead && cpu_ns() < until) {
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
    size_t page_size = pool->store->page_size;
    int error = make_tier(pool);
    struct zc_cold_round *round = error ? NULL : calloc(1, sizeof(*round));
    if (!round)
        return -ENOMEM;

    round->pool = round->reader.pool = pool;
    round->idle = idle;
    round->is_all = true;
    round->pages = (unsigned)zc_param(pool, ZC_PARAM_COLD_EXTENT);
    while (round->pages * page_size > ZC_PAGE_SIZE_MAX)
        round->pages /= 2;
    copy_spec(pool, round->spec);
    round->run.bytes = malloc(2 * round->pages * page_size);
    if (!round->run.bytes) {
        free(round);
        return -ENOMEM;
    }
    round->run.zpages = round->run.bytes + round->pages * page_size;
    *out = round;
    return 0;
}

static void end(struct zc_cold_round *round)
{
    for (unsigned i = 0; i < SPANS; i++) {
        if (!round->spans[i].compressor)
            continue;
        zc_compressor_free(round->pool, round->spans[i].compressor);
        zc_codecs_drop(round->pool, round->spans[i].number);
    }
    zc_codecs_prune(round->pool);
    zc_reader_end(&round->reader);
    free(round->owners.list);
    free(round->run.bytes);
    free(round);
}

/* The shard only lends its lock and counters. */
static void note(zc_pool *pool, const struct zc_recompressed *sums)
{
    zc_shard_lock(&pool->shards[0]);
    pool->shards[0].stats.recompressed_frames += sums->frames;
    pool->shards[0].stats.recompressed_pages += sums->pages;
    zc_shard_unlock(&pool->shards[0]);
}

/* What runs leave behind are holes, all over: only compaction makes frames of them. */
static int run_round(struct zc_cold_round *round, size_t frames)
{
    zc_pool *pool = round->pool;
    struct zc_tier warm = zc_tier(pool, 0);
    size_t before = frames_of(pool), page_size = pool->store->page_size;
    int error = 0;

    round->tries = zc_tier_frames(&warm);
    while (!error && round->sums.frames < frames) {
        size_t missing = zc_min(frames - round->sums.frames, SIZE_MAX / page_size);
        error = save(round, missing * page_size);
        if (error == -EAGAIN) { /* what is left are extents that have become sparse */
            error = walk(round, find_sparse, UINT64_MAX);
            error = error ? error : -EAGAIN;
        }
        zc_pool_compact(pool);
        size_t now = frames_of(pool);
        round->sums.frames = now < before ? before - now : 0;
    }
    return error == -EAGAIN || error == -ENOMEM ? 0 : error;
}

int zc_cold_recompress(zc_pool *pool, size_t frames, struct zc_recompressed *out,
                       struct zc_text *why)
{
    struct zc_cold_round *round;

    *out = (struct zc_recompressed){0};
    if (pool->dead)
        return -ENOENT;
    pthread_mutex_lock(&pool->writeback.running); /* see land_member() in writeback.c */
    int error = begin(pool, 0, &round);
    if (!error) {
        round->why = why;
        error = run_round(round, frames);
        *out = round->sums;
        note(pool, out);
        end(round);
    }
    pthread_mutex_unlock(&pool->writeback.running);
    return error;
}

int zc_pool_recompress(zc_pool *pool, size_t frames, struct zc_recompressed *out)
{
    return zc_cold_recompress(pool, frames, out, NULL);
}

int zc_pool_recompress_idle(zc_pool *pool, uint32_t seconds, struct zc_recompressed *out)
{
    struct zc_cold_round *round;

    *out = (struct zc_recompressed){0};
    if (pool->dead)
        return -ENOENT;
    if (seconds == 0 || seconds > ZC_IDLE_MAX)
        return -EINVAL;
    pthread_mutex_lock(&pool->writeback.running);
    size_t before = frames_of(pool);
    int error = begin(pool, seconds, &round);
    if (!error) {
        error = walk(round, find_due, UINT64_MAX);
        zc_pool_compact(pool);
        size_t now = frames_of(pool);
        round->sums.frames = now < before ? before - now : 0;
        *out = round->sums;
        note(pool, out);
        end(round);
    }
    pthread_mutex_unlock(&pool->writeback.running);
    return error;
}

/* ---- by itself ---- */

/* Calls of others that touched pages, up to now. */
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

/* When the next round is due. Ages are of whole seconds. */
static uint64_t next_round(const struct zc_cold_round *round)
{
    uint32_t rest = (uint32_t)zc_min(round->idle / REST_SHARE, REST_MAX);

    if (round->is_all)
        return UINT64_MAX;
    if (round->idle > round->oldest && round->idle - round->oldest > rest)
        rest = round->idle - round->oldest;
    return zc_store_ns(round->pool->store) + (rest + 1) * ZC_SECOND_NS;
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
static bool compact_some(struct zc_cold_round *round)
{
    return round->sums.pages && zc_param(round->pool, ZC_PARAM_COMPACT_AUTO) &&
           zc_pool_compact_some(round->pool, COMPACT_UNITS) > 0;
}

/* A part of a round. Returns when the next one is due. */
static uint64_t run_slice(zc_pool *pool, uint32_t idle)
{
    struct zc_cold *cold = &pool->cold;
    uint64_t start = cpu_ns(), calls = count_calls(pool->store);

    if (atomic_exchange(&cold->is_changed, false))
        end_idle(pool);
    int error = cold->round ? 0 : begin(pool, idle, &cold->round);
    if (error)
        return zc_store_ns(pool->store) + RETRY_NS;

    struct zc_cold_round *round = cold->round;
    struct zc_recompressed before = round->sums, mine;
    error = walk(round, find_due, start + SLICE_NS);
    mine = (struct zc_recompressed){.pages = round->sums.pages - before.pages};
    note(pool, &mine);
    bool is_done = !error && round->shard == ZC_SHARDS && !compact_some(round);
    if (error || is_done) {
        uint64_t next = is_done ? next_round(round) : zc_store_ns(pool->store) + RETRY_NS;
        end_idle(pool);
        return next;
    }
    zc_pool_freed(pool, mine.pages);
    bool is_alone = count_calls(pool->store) == calls;
    return zc_store_ns(pool->store) + pause_for(pool, cpu_ns() - start, is_alone);
}

uint64_t zc_cold_idle(zc_pool *pool)
{
    uint32_t idle = (uint32_t)zc_param(pool, ZC_PARAM_COLD_AFTER);
    uint64_t next = UINT64_MAX;

    if (pthread_mutex_trylock(&pool->writeback.running) != 0)
        return zc_store_ns(pool->store) + AGAIN_NS; /* that takes its time */
    if (idle && !pool->dead)
        next = run_slice(pool, idle);
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
    (void)number;
    if (zc_entry_is_cold(entry) || entry->span == ZC_SPAN_POOR)
        set_poor(arg, entry, false);
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

/* ---- warm again ---- */

/* A zpage of its own, if it is to be had and as small as one of a put. */
static void make_warm(zc_pool *pool, struct zc_compressor *compressor, const void *page,
                      struct zc_entry *made)
{
    char *bytes = compressor->zpage[0];
    size_t size = zc_compress(compressor->codec, compressor->state, page, bytes);
    if (size > zc_min(zc_param(pool, ZC_PARAM_MAX_ZSIZE), pool->store->page_size))
        return;
    zc_handle handle = pool->alloc_ops->malloc(pool->alloc, size, atomic_load(&pool->clock));
    if (!handle)
        return;

    *made = (struct zc_entry){.kind = ZC_ENTRY_ZPAGE,
                              .size = (uint32_t)size & 0x1fffff,
                              .codec = compressor->number & 0xf,
                              .is_checked = zc_param(pool, ZC_PARAM_CHECKSUMS) != 0};
    zc_entry_set_handle(made, handle);
    zc_entry_set_age(made, zc_store_now(pool->store));
    struct zc_zpage zpage = pool->alloc_ops->map(pool->alloc, handle);
    memcpy(zpage.bytes, bytes, size);
    if (made->is_checked)
        zpage.head->checksum = zc_checksum(bytes, size);
}

/* Those of the pages that still are in the extent that the reader has unpacked. */
static void find_unpacked(struct zc_reader *reader, const struct zc_shard *shard,
                          const struct zc_key *first, struct zc_entry **entries)
{
    for (unsigned i = 0; i < ZC_EXTENT_PAGES; i++) {
        struct zc_entry *entry = zc_index_find(&shard->index, first->object, first->index + i);
        if (entry && zc_entry_is_cold(entry) &&
            zc_reader_has(reader, zc_extent_at(shard, zc_entry_handle(entry))))
            entries[i] = entry;
    }
}

/* `made` are left what is to be released. */
static void take_back(struct zc_reader *reader, struct zc_shard *shard, const struct zc_key *first,
                      struct zc_entry *made)
{
    zc_pool *pool = reader->pool;
    struct zc_entry *entries[ZC_EXTENT_PAGES] = {NULL};

    find_unpacked(reader, shard, first, entries); /* of all, before one of them leaves it */
    for (unsigned i = 0; i < ZC_EXTENT_PAGES; i++) {
        if (!entries[i] || made[i].kind == ZC_ENTRY_EMPTY)
            continue;
        struct zc_entry old = *entries[i];
        made[i].index = old.index;
        *entries[i] = made[i];
        zc_owner_set(pool->alloc_ops->map(pool->alloc, zc_entry_handle(&made[i])).head,
                     zc_entry_owner(pool, shard, first->object, old.index));
        zc_entry_account(pool, shard, &made[i], 1);
        zc_entry_account(pool, shard, &old, -1);
        zc_extent_leave(pool, shard, &old);
        made[i].kind = ZC_ENTRY_EMPTY;
        shard->stats.warmed_pages++;
    }
    zc_shard_count_bytes(pool, shard);
}

void zc_cold_warm(struct zc_reader *reader, const struct zc_key *first, uint16_t live)
{
    zc_pool *pool = reader->pool;
    size_t page_size = pool->store->page_size;
    struct zc_entry made[ZC_EXTENT_PAGES] = {0};
    struct zc_shard *shard = zc_shard_of(pool, first->object, first->index);
    struct zc_compressor *compressor = zc_compressor_take(pool);
    if (!compressor)
        return;

    for (unsigned i = 0; i < ZC_EXTENT_PAGES; i++) {
        if (live >> i & 1)
            make_warm(pool, compressor, reader->unpacked->bytes + i * page_size, &made[i]);
    }
    zc_shard_lock(shard);
    take_back(reader, shard, first, made);
    zc_shard_unlock(shard);
    zc_compressor_give(pool, compressor);
    for (unsigned i = 0; i < ZC_EXTENT_PAGES; i++)
        zc_entry_release(pool, &made[i]);
}
