/* SPDX-License-Identifier: Apache-2.0 */
#include "store/cold.h"

#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "base/hash.h"
#include "store/entry.h"
#include "store/extent.h"
#include "store/store.h"

#define SPANS 5u       /* lengths of extents: 1, 2, 4, 8, 16 pages */
#define HOPELESS 1024u /* runs remembered that did not get smaller, a power of two */

_Static_assert(1u << (SPANS - 1) == ZC_EXTENT_PAGES, "a span for each length");

/* What extents of a length are compressed with. */
struct span {
    unsigned number; /* the codec's in the pool */
    struct zc_compressor *compressor;
};

/* A run of pages, as it was copied. */
struct run {
    uint64_t object;
    uint32_t first;
    unsigned pages, span;                     /* its length, and log2 of that */
    struct zc_entry entries[ZC_EXTENT_PAGES]; /* ZC_ENTRY_EMPTY: cannot be a member */
    char *bytes;                              /* of the pages, zeros where there is none */
    char *zpages; /* as they were compressed, each at its page's place */
};

/* Of recompression. */
struct round {
    zc_pool *pool;
    char spec[ZC_COLD_CODEC_MAX + 1];
    unsigned pages; /* of an extent, at most */
    struct zc_reader reader;
    struct zc_recompressed sums;
    size_t tries;   /* units that may be isolated still */
    uint64_t saved; /* bytes, by extents */
    struct zc_text *why;
    struct span spans[SPANS];
    struct run run;
    uint64_t hopeless[HOPELESS]; /* hashes */
};

/* ---- the pool's codec ---- */

int zc_cold_set_codec(zc_pool *pool, const char *spec, struct zc_text *why)
{
    int error = zc_codecs_check(pool->store, spec, why);

    if (!error && strlen(spec) > ZC_COLD_CODEC_MAX)
        error = -EINVAL;
    if (error)
        return error;
    pthread_mutex_lock(&pool->codecs.lock);
    strcpy(pool->cold_codec, spec);
    pthread_mutex_unlock(&pool->codecs.lock);
    return 0;
}

static void copy_spec(zc_pool *pool, char *spec)
{
    pthread_mutex_lock(&pool->codecs.lock);
    strcpy(spec, pool->cold_codec);
    pthread_mutex_unlock(&pool->codecs.lock);
}

void zc_cold_show_codec(zc_pool *pool, struct zc_text *out)
{
    char spec[ZC_COLD_CODEC_MAX + 1];

    copy_spec(pool, spec);
    zc_text_add(out, "%s", spec);
}

static int compressor_for(struct round *round, unsigned span, struct zc_compressor **out)
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

/* ---- a run ---- */

static char *zpage_of(const struct round *round, unsigned i)
{
    return round->run.zpages + i * round->pool->store->page_size;
}

static char *bytes_of(const struct round *round, unsigned i)
{
    return round->run.bytes + i * round->pool->store->page_size;
}

/* Copies a page, and its zpage; a damaged one stays what it is. */
static void copy_page(struct round *round, struct zc_shard *shard, unsigned i)
{
    zc_pool *pool = round->pool;
    struct run *run = &round->run;

    run->entries[i].kind = ZC_ENTRY_EMPTY;
    zc_shard_share(shard);
    const struct zc_entry *entry = zc_index_find(&shard->index, run->object, run->first + i);
    if (entry && zc_entry_has_zpage(entry) &&
        zc_entry_load(&round->reader, shard, entry, bytes_of(round, i)) == 0) {
        memcpy(zpage_of(round, i), pool->alloc_ops->map(pool->alloc, entry->word).bytes,
               entry->size);
        run->entries[i] = *entry;
    }
    zc_shard_unlock(shard);
    if (run->entries[i].kind == ZC_ENTRY_EMPTY)
        memset(bytes_of(round, i), 0, pool->store->page_size);
}

/* The aligned run around a page, or as much of it as has pages. False: it has none any more. */
static bool copy_run(struct round *round, struct zc_shard *shard, uint64_t object, uint32_t index)
{
    struct run *run = &round->run;
    unsigned low = round->pages, high = 0;

    run->object = object;
    run->first = index & ~(round->pages - 1);
    for (unsigned i = 0; i < round->pages; i++) {
        copy_page(round, shard, i);
        if (run->entries[i].kind == ZC_ENTRY_EMPTY)
            continue;
        low = low < i ? low : i;
        high = i;
    }
    if (low == round->pages)
        return false;
    for (run->span = 0; low >> run->span != high >> run->span;)
        run->span++;
    run->pages = 1u << run->span;
    low &= ~(run->pages - 1);
    run->first += low;
    memmove(run->entries, run->entries + low, run->pages * sizeof(run->entries[0]));
    memmove(run->bytes, bytes_of(round, low), run->pages * round->pool->store->page_size);
    memmove(run->zpages, zpage_of(round, low), run->pages * round->pool->store->page_size);
    return true;
}

/* ---- an extent ---- */

/* Is page i what was copied? Handles come again, bytes tell for certain. */
static bool is_same(const struct round *round, const struct zc_entry *entry, unsigned i)
{
    const struct zc_entry *copied = &round->run.entries[i];
    zc_pool *pool = round->pool;

    return entry && copied->kind != ZC_ENTRY_EMPTY && entry->kind == copied->kind &&
           entry->word == copied->word && entry->size == copied->size &&
           entry->codec == copied->codec &&
           memcmp(pool->alloc_ops->map(pool->alloc, entry->word).bytes, zpage_of(round, i),
                  entry->size) == 0;
}

/* What of the run is still there; the shard is locked. Returns the bytes of its zpages. */
static size_t find_live(const struct round *round, const struct zc_shard *shard, uint16_t *live)
{
    const struct run *run = &round->run;
    size_t bytes = 0;

    *live = 0;
    for (unsigned i = 0; i < run->pages; i++) {
        const struct zc_entry *entry = zc_index_find(&shard->index, run->object, run->first + i);
        if (!is_same(round, entry, i))
            continue;
        *live |= (uint16_t)(1u << i);
        bytes += entry->size;
    }
    return bytes;
}

/* Live pages become members; their old entries are left in the run. */
static void join(struct round *round, struct zc_shard *shard, const struct zc_extent *extent,
                 uint64_t word)
{
    struct run *run = &round->run;

    for (unsigned i = 0; i < run->pages; i++) {
        if (!(extent->live >> i & 1)) {
            run->entries[i].kind = ZC_ENTRY_EMPTY;
            continue;
        }
        struct zc_entry *entry = zc_index_find(&shard->index, run->object, run->first + i);
        struct zc_entry old = *entry;
        *entry = (struct zc_entry){
            .index = old.index,
            .kind = ZC_ENTRY_COLD,
            .codec = extent->codec & 0x7f,
            .word = word,
        };
        zc_entry_account(round->pool, shard, entry, 1);
        zc_entry_account(round->pool, shard, &old, -1);
        run->entries[i] = old;
        round->sums.pages++;
    }
    round->sums.extents++;
}

/* False: the pages have changed, or there is no memory. */
static bool swap_locked(struct round *round, struct zc_shard *shard, struct zc_extent *made,
                        const zc_handle *parts)
{
    const struct run *run = &round->run;
    size_t before = find_live(round, shard, &made->live);

    if (before <= made->size)
        return false;
    made->object = zc_index_number(&shard->index, run->object);
    uint64_t word = zc_extent_add(round->pool, shard, made, parts);
    if (!word)
        return false;
    join(round, shard, made, word);
    round->saved += before - made->size;
    zc_shard_count_bytes(round->pool, shard);
    return true;
}

static bool swap(struct round *round, struct zc_shard *shard, const char *bytes, size_t size)
{
    zc_pool *pool = round->pool;
    struct run *run = &round->run;
    zc_handle parts[ZC_EXTENT_PAGES];
    struct zc_extent made = {
        .first = run->first,
        .size = (uint32_t)size,
        .checksum = zc_checksum(bytes, size),
        .codec = (uint8_t)(round->spans[run->span].number | run->span << ZC_SPAN_SHIFT),
        .parts = (uint8_t)zc_div_up(size, pool->store->page_size),
    };

    if (!zc_parts_make(pool, bytes, size, zc_pool_tick(pool), parts))
        return false;
    zc_shard_lock(shard);
    bool is_in = swap_locked(round, shard, &made, parts);
    zc_shard_unlock(shard);
    if (!is_in) {
        zc_parts_free(pool, parts, made.parts);
        return false;
    }
    for (unsigned i = 0; i < run->pages; i++)
        zc_entry_release(pool, &run->entries[i]);
    return true;
}

static size_t zpage_bytes(const struct run *run)
{
    size_t bytes = 0;

    for (unsigned i = 0; i < run->pages; i++)
        bytes += run->entries[i].kind == ZC_ENTRY_EMPTY ? 0 : run->entries[i].size;
    return bytes;
}

/* 1: done; 0: it has to stay; or -errno. */
static int pack(struct round *round, struct zc_shard *shard)
{
    struct run *run = &round->run;
    struct zc_compressor *compressor;
    uint64_t hash = zc_mix64(zc_mix64(run->object) ^ run->first) | 1;
    uint64_t *hopeless = &round->hopeless[hash / 2 % HOPELESS];

    if (*hopeless == hash)
        return 0;
    int error = compressor_for(round, run->span, &compressor);
    if (error)
        return error;
    char *bytes = compressor->zpage[0];
    size_t size = zc_compress(compressor->codec, compressor->state, run->bytes, bytes);
    if (size < zpage_bytes(run))
        return swap(round, shard, bytes, size);
    *hopeless = hash;
    return 0;
}

/* ---- frames ---- */

/* 0, or -errno. What stays counts as young from now on, so that the next unit is another. */
static int recompress_zpage(struct round *round, zc_handle handle, uint64_t owner)
{
    zc_pool *pool = round->pool;
    struct zc_shard *shard;
    uint64_t object;
    struct zc_entry *entry = zc_entry_lock(pool, owner, handle, &shard, &object);
    if (!entry)
        return 0;

    uint32_t index = entry->index;
    zc_shard_unlock(shard);
    int done = copy_run(round, shard, object, index) ? pack(round, shard) : 0;
    if (done == 0)
        pool->alloc_ops->touch(pool->alloc, handle, zc_pool_tick(pool));
    return done < 0 ? done : 0;
}

/* 0, or -errno; -EAGAIN: there is no unit left. */
static int recompress_unit(struct round *round)
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

static size_t frames_of(zc_pool *pool)
{
    struct zc_alloc_stats stats;

    zc_pool_alloc_stats(pool, &stats);
    return stats.frames;
}

/* Makes extents until they are so many bytes smaller than their pages were; once each unit was tried,
 * what stays is all there is. 0, or -errno; -EAGAIN: that was all. */
static int save(struct round *round, uint64_t bytes)
{
    uint64_t until = round->saved + bytes;
    int error = 0;

    while (!error && round->saved < until)
        error = round->tries-- > 0 ? recompress_unit(round) : -EAGAIN;
    return error;
}

/* What a run leaves behind are holes, all over: only compaction makes frames of them. */
static int run_round(struct round *round, size_t frames)
{
    zc_pool *pool = round->pool;
    struct zc_tier warm = zc_tier(pool, 0);
    size_t before = frames_of(pool), page_size = pool->store->page_size;
    int error = 0;

    round->tries = zc_tier_frames(&warm);
    while (!error && round->sums.frames < frames) {
        size_t missing = zc_min(frames - round->sums.frames, SIZE_MAX / page_size);
        error = save(round, missing * page_size);
        zc_pool_compact(pool);
        size_t now = frames_of(pool);
        round->sums.frames = now < before ? before - now : 0;
    }
    return error == -EAGAIN ? 0 : error;
}

static int begin(zc_pool *pool, struct round **out)
{
    size_t page_size = pool->store->page_size;
    void *cold;
    struct round *round = calloc(1, sizeof(*round));
    if (!round)
        return -ENOMEM;

    round->pool = round->reader.pool = pool;
    round->pages = (unsigned)zc_param(pool, ZC_PARAM_COLD_EXTENT);
    while (round->pages * page_size > ZC_PAGE_SIZE_MAX)
        round->pages /= 2;
    copy_spec(pool, round->spec);
    round->run.bytes = malloc(2 * round->pages * page_size);
    int error = round->run.bytes ? 0 : -ENOMEM;
    if (!error && !atomic_load(&pool->cold)) {
        error = zc_zsmalloc_ops.create(pool->store->frames, page_size, &cold);
        if (!error)
            atomic_store(&pool->cold, cold);
    }
    if (error) {
        free(round->run.bytes);
        free(round);
        return error;
    }
    round->run.zpages = round->run.bytes + round->pages * page_size;
    *out = round;
    return 0;
}

static void end(struct round *round)
{
    for (unsigned i = 0; i < SPANS; i++) {
        if (!round->spans[i].compressor)
            continue;
        zc_compressor_free(round->pool, round->spans[i].compressor);
        zc_codecs_drop(round->pool, round->spans[i].number);
    }
    zc_codecs_prune(round->pool);
    zc_reader_end(&round->reader);
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

int zc_cold_recompress(zc_pool *pool, size_t frames, struct zc_recompressed *out,
                       struct zc_text *why)
{
    struct round *round;

    *out = (struct zc_recompressed){0};
    if (pool->dead)
        return -ENOENT;
    pthread_mutex_lock(&pool->writeback.running); /* see land_member() in writeback.c */
    int error = begin(pool, &round);
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
