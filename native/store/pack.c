/* SPDX-License-Identifier: Apache-2.0 */
#include "store/pack.h"

#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "base/hash.h"
#include "store/extent.h"
#include "store/idle.h"

static int compressor_for(struct zc_packer *packer, unsigned span, struct zc_compressor **out)
{
    struct zc_span *mine = &packer->spans[span];
    int error = 0;

    if (!mine->compressor) {
        error = zc_codecs_hold(packer->pool, packer->spec, 1u << span, &mine->number, packer->why);
        if (error)
            return error;
        mine->compressor = zc_compressor_new(packer->pool, mine->number);
        if (!mine->compressor) {
            zc_codecs_drop(packer->pool, mine->number);
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

static bool is_idle(const struct zc_packer *packer, struct zc_entry *entry)
{
    return packer->idle.seconds == 0 ||
           zc_entry_idle(entry, packer->idle.now) >= packer->idle.seconds;
}

/* Extents with few pages left join what goes cold beside them, so that no run stays in pieces. */
static bool joins(const struct zc_packer *packer, const struct zc_extent *extent)
{
    return 1u << extent->span <= packer->pages &&
           (zc_extent_is_sparse(extent) || 2 * zc_extent_count(extent->live) <= packer->pages);
}

/* May the page be a member? */
static bool is_wanted(const struct zc_packer *packer, const struct zc_shard *shard,
                      struct zc_entry *entry)
{
    if (zc_entry_is_cold(entry))
        return joins(packer, zc_extent_at(shard, zc_entry_handle(entry)));
    return zc_entry_has_zpage(entry) && is_idle(packer, entry);
}

bool zc_packer_is_due(const struct zc_packer *packer, const struct zc_shard *shard,
                      struct zc_entry *entry)
{
    if (zc_entry_is_cold(entry))
        return zc_extent_is_sparse(zc_extent_at(shard, zc_entry_handle(entry)));
    return zc_entry_has_zpage(entry) && entry->span != ZC_SPAN_POOR && is_idle(packer, entry);
}

/* ---- a run ---- */

static char *zpage_of(const struct zc_packer *packer, unsigned i)
{
    return packer->run.zpages + i * packer->pool->store->page_size;
}

static char *bytes_of(const struct zc_packer *packer, unsigned i)
{
    return packer->run.bytes + i * packer->pool->store->page_size;
}

static struct zc_entry *entry_at(const struct zc_run *run, unsigned i)
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
static void copy_page(struct zc_packer *packer, unsigned i)
{
    zc_pool *pool = packer->pool;
    struct zc_run *run = &packer->run;

    zc_shard_share(run->shard);
    struct zc_entry *entry = entry_at(run, i);
    if (!entry || !is_wanted(packer, run->shard, entry))
        goto unlock;
    run->tried |= (uint16_t)(1u << i);
    run->entries[i] = copy_of(entry);
    if (zc_entry_load(&packer->reader, run->shard, entry, bytes_of(packer, i)) != 0)
        goto unlock;
    run->copied |= (uint16_t)(1u << i);
    if (zc_entry_has_zpage(entry))
        memcpy(zpage_of(packer, i), pool->alloc_ops->map(pool->alloc, zc_entry_handle(entry)).bytes,
               entry->size);
unlock:
    zc_shard_unlock(run->shard);
    zc_reader_unlocked(&packer->reader);
    if (!(run->copied >> i & 1))
        memset(bytes_of(packer, i), 0, pool->store->page_size);
}

/* The shortest aligned run that has all pages that were tried. */
static void shorten(struct zc_packer *packer)
{
    struct zc_run *run = &packer->run;
    size_t page_size = packer->pool->store->page_size;
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
    memmove(run->bytes, bytes_of(packer, low), run->pages * page_size);
    memmove(run->zpages, zpage_of(packer, low), run->pages * page_size);
}

/* The aligned run around a page, as far as its pages are wanted. */
static void copy_run(struct zc_packer *packer, struct zc_shard *shard, uint64_t object,
                     uint32_t index)
{
    struct zc_run *run = &packer->run;

    run->shard = shard;
    run->object = object;
    run->first = index & ~(packer->pages - 1);
    run->pages = packer->pages;
    run->tried = run->copied = 0;
    for (unsigned i = 0; i < packer->pages; i++)
        copy_page(packer, i);
    if (run->tried)
        shorten(packer);
}

/* Is page i what was copied? Handles come again, bytes tell for certain; of an extent it is certain anyway,
 * for nobody makes one meanwhile. */
static bool is_same(const struct zc_packer *packer, const struct zc_entry *entry, unsigned i)
{
    const struct zc_entry *copied = &packer->run.entries[i];
    zc_pool *pool = packer->pool;

    if (entry->kind != copied->kind || zc_entry_handle(entry) != zc_entry_handle(copied))
        return false;
    return zc_entry_is_cold(entry) ||
           (entry->size == copied->size && entry->codec == copied->codec &&
            memcmp(pool->alloc_ops->map(pool->alloc, zc_entry_handle(entry)).bytes,
                   zpage_of(packer, i), entry->size) == 0);
}

/* Which of those pages are as they were copied; the shard is locked. */
static uint16_t find_same(struct zc_packer *packer, uint16_t pages)
{
    const struct zc_run *run = &packer->run;
    uint16_t same = 0;

    for (unsigned i = 0; i < run->pages; i++) {
        struct zc_entry *entry = pages >> i & 1 ? entry_at(run, i) : NULL;
        if (entry && is_wanted(packer, run->shard, entry) && is_same(packer, entry, i))
            same |= (uint16_t)(1u << i);
    }
    return same;
}

/* Nothing is to be had from this run, by itself. */
static void note_poor(struct zc_packer *packer)
{
    const struct zc_run *run = &packer->run;

    zc_shard_lock(run->shard);
    uint16_t same = find_same(packer, run->tried);
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
static bool all_leave(const struct zc_run *run, const struct zc_extent *extent, uint16_t pages)
{
    for (unsigned live = extent->live; live; live &= live - 1) {
        uint32_t at = extent->first + (unsigned)__builtin_ctz(live) - run->first;
        if (at >= run->pages || !(pages >> at & 1))
            return false;
    }
    return true;
}

/* Bytes that are free when those pages, which are locked, leave what they are in. */
static size_t cost_of(const struct zc_run *run, uint16_t pages)
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
static void join(struct zc_packer *packer, const struct zc_extent *made, zc_handle word)
{
    struct zc_run *run = &packer->run;
    uint64_t packed = packer->packed;

    for (unsigned i = 0; i < run->pages; i++) {
        if (!(made->made >> i & 1))
            continue;
        struct zc_entry *entry = entry_at(run, i);
        struct zc_entry old = *entry;
        *entry = (struct zc_entry){
            .index = old.index, .kind = ZC_ENTRY_COLD, .codec = made->codec, .span = made->span};
        zc_entry_set_handle(entry, word);
        zc_entry_set_age(entry, zc_entry_age(&old));
        zc_entry_account(packer->pool, run->shard, entry, 1);
        zc_entry_account(packer->pool, run->shard, &old, -1);
        zc_extent_leave(packer->pool, run->shard, &old);
        run->entries[i] = old;
        packer->packed += !zc_entry_is_cold(&old);
    }
    packer->extents +=
        packer->packed > packed; /* one that only takes the place of sparse ones is none */
}

/* 1: done; 0: it would save nothing any more; -ENOMEM. */
static int swap_locked(struct zc_packer *packer, struct zc_extent *made, const zc_handle *parts)
{
    struct zc_run *run = &packer->run;
    size_t size = extent_cost(made->size, made->parts);

    made->live = made->made = find_same(packer, run->copied);
    size_t before = cost_of(run, made->live);
    if (before <= size)
        return 0;
    made->object = zc_index_number(&run->shard->index, run->object);
    uint64_t word = zc_extent_add(packer->pool, run->shard, made, parts);
    if (!word)
        return -ENOMEM;
    join(packer, made, word);
    packer->saved += before - size;
    zc_shard_count_bytes(packer->pool, run->shard);
    return 1;
}

static int swap(struct zc_packer *packer, const char *bytes, size_t size)
{
    zc_pool *pool = packer->pool;
    struct zc_run *run = &packer->run;
    zc_handle parts[ZC_EXTENT_PAGES];
    struct zc_extent made = {
        .first = run->first,
        .size = (uint32_t)size,
        .checksum = zc_checksum(bytes, size),
        .codec = packer->spans[run->span].number & 0xf,
        .span = run->span & 7,
        .parts = (uint8_t)zc_div_up(size, pool->store->page_size),
    };

    if (!zc_parts_make(pool, bytes, size, atomic_load(&pool->clock), parts))
        return -ENOMEM;
    zc_shard_lock(run->shard);
    int done = swap_locked(packer, &made, parts);
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

static size_t cost_now(struct zc_packer *packer)
{
    const struct zc_run *run = &packer->run;

    zc_shard_share(run->shard);
    size_t cost = cost_of(run, run->copied);
    zc_shard_unlock(run->shard);
    return cost;
}

/* What was copied becomes an extent. 1: done; 0: it has to stay; or -errno. */
static int pack(struct zc_packer *packer)
{
    struct zc_run *run = &packer->run;
    size_t page_size = packer->pool->store->page_size;
    struct zc_compressor *compressor;
    int error = compressor_for(packer, run->span, &compressor);
    if (error)
        return error;

    char *bytes = compressor->zpage[0];
    size_t size = zc_compress(compressor->codec, compressor->state, run->bytes, bytes);
    if (size > run->pages * page_size) /* a part for each page is all there is room for */
        return 0;
    if (extent_cost(size, zc_div_up(size, page_size)) >= cost_now(packer))
        return 0;
    return swap(packer, bytes, size);
}

int zc_pack_run(struct zc_packer *packer, struct zc_shard *shard, uint64_t object, uint32_t index)
{
    copy_run(packer, shard, object, index);
    int done = packer->run.copied ? pack(packer) : 0;
    if (done == 0)
        note_poor(packer);
    return done;
}

/* ---- the packer ---- */

int zc_packer_init(struct zc_packer *packer, zc_pool *pool, uint32_t idle)
{
    size_t page_size = pool->store->page_size;

    *packer = (struct zc_packer){
        .pool = pool, .idle = {.seconds = idle, .is_all = true}, .reader = {.pool = pool}};
    packer->pages = (unsigned)zc_param(pool, ZC_PARAM_COLD_EXTENT);
    while (packer->pages * page_size > ZC_PAGE_SIZE_MAX)
        packer->pages /= 2;
    zc_cold_copy_codec(pool, packer->spec);
    packer->run.bytes = malloc(2 * packer->pages * page_size);
    if (!packer->run.bytes)
        return -ENOMEM;
    packer->run.zpages = packer->run.bytes + packer->pages * page_size;
    return 0;
}

void zc_packer_fini(struct zc_packer *packer)
{
    for (unsigned i = 0; i < ZC_SPANS; i++) {
        if (!packer->spans[i].compressor)
            continue;
        zc_compressor_free(packer->pool, packer->spans[i].compressor);
        zc_codecs_drop(packer->pool, packer->spans[i].number);
    }
    zc_codecs_prune(packer->pool);
    zc_reader_end(&packer->reader);
    free(packer->run.bytes);
}
