/* SPDX-License-Identifier: Apache-2.0 */
#include "store/writeback.h"

#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "base/hash.h"
#include "store/entry.h"
#include "store/extent.h"
#include "store/idle.h"

#define FLIGHTS 1024u   /* records of a batch, at most */
#define UNITS 1024u     /* frames or zspages isolated for a batch, at most */
#define AHEAD 16u       /* zpages whose entries are brought into the cache at a time */
#define LOADS 3u        /* one is filled; with two being written, the medium need not wait for us */
#define CLEAN_SHARE 16u /* of a full store's segments, this part is cleaned at a time */
#define DAY_NS 86400e9
#define DELAY_MIN_NS ZC_SECOND_NS /* after an error, until it is tried again; doubled each time */
#define DELAY_MAX_NS (60 * DELAY_MIN_NS)
#define WAIT_MAX_NS (3600 * ZC_SECOND_NS) /* for a part of the budget */
#define REST_MAX \
    60u /* seconds, at most, between looks for idle pages, while there are younger ones */

/* A page on its way, or an extent: then that of its first page. */
struct flight {
    struct zc_shard *shard;
    uint64_t owner;
    struct zc_entry entry; /* as it was copied; ZC_ENTRY_EMPTY: it could not be */
    struct zc_record record;
};

/* What is written at one time. */
struct load {
    struct zc_batch *batch;
    size_t copied; /* units in units[], copied as a whole */
    size_t count;  /* of flights[] and places[] */
    size_t bytes;  /* of the zpages that they were */
    uint32_t units[UNITS];
    struct flight flights[FLIGHTS];
    zc_place places[FLIGHTS];
};

/* What is to be copied next: zpages of isolated units, each unit's followed by its end. */
struct window {
    size_t at, count; /* items[at..count) are to come */
    struct item {
        uint32_t unit;
        zc_handle handle; /* 0: the end of the unit */
    } items[AHEAD];
    uint64_t owners[AHEAD]; /* of the items */
    uint32_t unit;          /* its zpages up to `last` are or were among the items; 0: none */
    zc_handle last;
    size_t units; /* that have not ended */
};

/* Of writeback. */
struct round {
    zc_pool *pool;
    struct zc_backing *store;
    bool is_in_place;
    size_t coming; /* bytes, about */
    struct zc_reader reader;
    struct zc_written_back sums;
    struct zc_tier tier; /* whose units are isolated */

    struct window window;
    size_t tries; /* units that may be isolated still */
    /* One is filled while those right before it, as many as are under way, are written. */
    struct load loads[LOADS];
    unsigned count, filling, under_way; /* count: of loads, a ring */
};

static struct load *filled(struct round *round)
{
    return &round->loads[round->filling];
}

/* ---- a page ---- */

/* The record that a page is to be; false: it has to stay, for now. */
static bool describe(const struct round *round, const struct zc_shard *shard, uint64_t object,
                     const struct zc_entry *entry, struct zc_record *record)
{
    zc_pool *pool = round->pool;

    *record = (struct zc_record){.object = object, .index = entry->index, .live = 1, .pages = 1};
    if (round->is_in_place || entry->kind == ZC_ENTRY_RAW) {
        record->size = (uint32_t)pool->store->page_size;
        record->flags = ZC_RECORD_RAW;
    } else if (entry->kind == ZC_ENTRY_FILL) {
        record->size = sizeof(entry->word);
        record->flags = ZC_RECORD_FILL;
    } else if (zc_entry_is_cold(entry)) {
        const struct zc_extent *extent = zc_extent_at(shard, zc_entry_handle(entry));
        unsigned slot = zc_slots_find(&pool->writeback.slots, pool, entry->codec);
        record->index = extent->first;
        record->live = extent->live;
        record->pages = (uint8_t)zc_entry_pages(entry);
        record->size = extent->size;
        record->codec = (uint8_t)slot;
        return slot < ZC_POOL_CODECS;
    } else {
        unsigned slot = zc_slots_find(&pool->writeback.slots, pool, entry->codec);
        record->size = entry->size;
        record->codec = (uint8_t)slot;
        return slot < ZC_POOL_CODECS;
    }
    return true;
}

/* A damaged page is not written: it would look as if it were none. */
static bool copy(struct round *round, const struct zc_shard *shard, const struct zc_entry *entry,
                 void *bytes)
{
    zc_pool *pool = round->pool;

    if (round->is_in_place)
        return zc_entry_load(&round->reader, shard, entry, bytes) == 0;
    if (entry->kind == ZC_ENTRY_FILL) {
        memcpy(bytes, &entry->word, sizeof(entry->word));
        return true;
    }
    if (zc_entry_is_cold(entry))
        return zc_extent_read(pool, zc_extent_at(shard, zc_entry_handle(entry)), bytes) == 0;
    struct zc_zpage zpage = pool->alloc_ops->map(pool->alloc, zc_entry_handle(entry));
    memcpy(bytes, zpage.bytes, entry->size);
    return !entry->is_checked || zc_checksum(bytes, entry->size) == zpage.head->checksum;
}

/* The entry's shard is locked. 0: it is in the batch, or has to stay in memory; else why the batch takes no more. */
static int add(struct round *round, struct zc_shard *shard, uint64_t owner, uint64_t object,
               const struct zc_entry *entry)
{
    struct load *load = filled(round);
    struct flight *flight = &load->flights[load->count];
    void *bytes;

    if (load->count == FLIGHTS)
        return -EAGAIN;
    if (!describe(round, shard, object, entry, &flight->record))
        return 0;
    int error = zc_batch_add(load->batch, &flight->record, &bytes);
    if (error == -EINVAL || error == -ERANGE)
        return 0; /* in place, a page that has no place there */
    if (error)
        return error;
    flight->shard = shard;
    flight->owner = owner;
    flight->entry = *entry;
    if (!copy(round, shard, entry, bytes))
        flight->entry.kind = ZC_ENTRY_EMPTY;
    load->bytes += entry->size;
    load->count++;
    return 0;
}

/* The entry, with its shard locked, if it still has what was copied. Pages that are written for their age are in no
 * isolated unit, so handles come again; but a page that was put or got since has another age. */
static struct zc_entry *lock_same(zc_pool *pool, const struct flight *flight,
                                  struct zc_shard **shard, uint64_t *object)
{
    const struct zc_entry *copied = &flight->entry;

    struct zc_entry *entry = zc_entry_lock_any(pool, flight->owner, shard, object);
    if (entry && entry->kind == copied->kind &&
        (zc_entry_is_cold(copied) ? zc_entry_handle(entry) == zc_entry_handle(copied)
                                  : entry->word == copied->word))
        return entry;
    if (entry)
        zc_shard_unlock(*shard);
    return NULL;
}

/* One page of an extent, whose shard is locked. Rounds of writeback and of recompression never run
 * together, so as long as an entry names the extent it is the same one. */
static bool land_member(struct round *round, const struct flight *flight, unsigned at,
                        zc_place place)
{
    zc_pool *pool = round->pool;
    const struct zc_record *record = &flight->record;
    struct zc_entry *entry =
        zc_index_find(&flight->shard->index, record->object, record->index + at);

    if (!entry || !zc_entry_is_cold(entry) ||
        zc_entry_handle(entry) != zc_entry_handle(&flight->entry))
        return false;
    struct zc_entry old = *entry;
    *entry = zc_written_entry(record, old.codec, place);
    entry->index = old.index;
    zc_entry_account(pool, flight->shard, entry, 1);
    zc_entry_account(pool, flight->shard, &old, -1);
    zc_extent_leave(pool, flight->shard, &old);
    round->sums.pages++;
    return true;
}

static void land_extent(struct round *round, const struct flight *flight, zc_place place)
{
    const struct zc_record *record = &flight->record;
    uint16_t live = 0;

    zc_shard_lock(flight->shard);
    for (unsigned i = 0; i < record->pages; i++) {
        if (record->live >> i & 1 && land_member(round, flight, i, place))
            live |= (uint16_t)(1u << i);
    }
    if (live != record->live)
        zc_backing_keep(round->store, place, record->size, live);
    zc_shard_count_bytes(round->pool, flight->shard);
    zc_shard_unlock(flight->shard);
}

/* The page is in the store from now on, if it is still the one that was written. */
static void land(struct round *round, const struct flight *flight, zc_place place)
{
    zc_pool *pool = round->pool;
    struct zc_shard *shard;
    uint64_t object;
    struct zc_entry *entry = lock_same(pool, flight, &shard, &object);

    if (!entry) {
        zc_backing_forget(round->store, place, flight->record.size);
        return;
    }
    struct zc_entry old = *entry;
    *entry = zc_written_entry(&flight->record, old.codec, place);
    zc_entry_account(pool, shard, entry, 1); /* first: the codec stays in use */
    zc_entry_account(pool, shard, &old, -1);
    zc_extent_leave(pool, shard, &old);
    zc_shard_count_bytes(pool, shard);
    zc_shard_unlock(shard);
    zc_entry_release(pool, &old);
    round->sums.pages++;
}

/* ---- a load ---- */

/* The entries of the next flights. */
static void prefetch(struct round *round, const struct load *load, size_t from)
{
    uint64_t owners[AHEAD];
    size_t count = zc_min(load->count - from, AHEAD);

    for (size_t i = 0; i < count; i++)
        owners[i] = load->flights[from + i].owner;
    zc_entries_prefetch(round->pool, owners, count);
}

static void land_all(struct round *round, const struct load *load)
{
    for (size_t i = 0; i < load->count; i++) {
        const struct flight *flight = &load->flights[i];
        bool is_extent = zc_entry_is_cold(&flight->entry) && !round->is_in_place;
        if (i % AHEAD == 0)
            prefetch(round, load, i);
        (is_extent ? land_extent : land)(round, flight, load->places[i]);
    }
}

static size_t release_units(struct round *round, struct load *load)
{
    const struct zc_tier *tier = &round->tier;
    size_t freed = 0;

    for (size_t i = 0; i < load->copied; i++)
        freed += tier->ops->release(tier->alloc, load->units[i]);
    load->copied = 0;
    return freed;
}

/* What was copied is written. 0, or -errno: pages may still be in memory. */
static int finish(struct round *round, struct load *load)
{
    size_t before = zc_tier_frames(&round->tier);
    int error = load->count ? zc_batch_commit(load->batch, load->places) : 0;

    if (!error && load->count) {
        land_all(round, load);
        error = zc_batch_settle(load->batch);
    }
    load->count = load->bytes = 0;
    size_t freed = release_units(round, load), now = zc_tier_frames(&round->tier);
    if (round->tier.is_cold) /* an extent's other parts free frames elsewhere */
        freed = now < before ? before - now : 0;
    round->sums.frames += freed;
    return error;
}

/* Which was filled so many loads ago. */
static unsigned load_before(const struct round *round, unsigned ago)
{
    return (round->filling + round->count - ago) % round->count;
}

static int finish_oldest(struct round *round)
{
    unsigned oldest = load_before(round, round->under_way--);

    return finish(round, &round->loads[oldest]);
}

/* All that was copied is written; also when a part of it cannot be. */
static int write_all(struct round *round)
{
    int error = 0;

    while (round->under_way) {
        int other = finish_oldest(round);
        error = error ? error : other;
    }
    int last = finish(round, filled(round));
    return error ? error : last;
}

/* The load is full: it is being written from now on, and the next one is to be filled. */
static int pass_on(struct round *round)
{
    struct load *full = filled(round);
    unsigned next = (round->filling + 1) % round->count;
    int error = 0;

    if (!round->loads[next].batch &&
        zc_batch_create(round->store, round->coming, &round->loads[next].batch) != 0)
        return write_all(round);
    if (round->under_way == round->count - 1)
        error = finish_oldest(round);
    zc_batch_start(full->batch, full->places);
    round->filling = next;
    round->under_way++;
    return error;
}

/* The record of a cold entry: its extent's, or in place its own. */
static bool has_record(const struct round *round, const struct load *load,
                       const struct zc_shard *shard, const struct zc_entry *entry)
{
    for (size_t i = load->count; i-- > 0;) {
        const struct flight *flight = &load->flights[i];
        if (flight->shard == shard && zc_entry_is_cold(&flight->entry) &&
            zc_entry_handle(&flight->entry) == zc_entry_handle(entry) &&
            (!round->is_in_place || flight->entry.index == entry->index))
            return true;
    }
    return false;
}

/* By another of its extent's parts; maybe in a load under way, so that its entry does not say so yet. */
static bool is_in_batch(const struct round *round, const struct zc_shard *shard,
                        const struct zc_entry *entry)
{
    bool is_there = false;

    for (unsigned i = 0; i < round->count && !is_there; i++)
        is_there = has_record(round, &round->loads[i], shard, entry);
    return is_there;
}

/* The extent of an entry whose shard is locked; in place, its pages one by one. */
static int add_extent(struct round *round, struct zc_shard *shard, uint64_t object,
                      const struct zc_entry *entry)
{
    const struct zc_extent *extent = zc_extent_at(shard, zc_entry_handle(entry));
    int error = 0;

    for (unsigned live = extent->live; !error && live; live &= live - 1) {
        uint32_t index = extent->first + (unsigned)__builtin_ctz(live);
        uint64_t owner = zc_entry_owner(round->pool, shard, object, index);
        const struct zc_entry *member = zc_index_find(&shard->index, object, index);
        if (!is_in_batch(round, shard, member))
            error = add(round, shard, owner, object, member);
        if (!round->is_in_place)
            break;
    }
    return error;
}

static int copy_part(struct round *round, zc_handle part, uint64_t owner)
{
    struct zc_holder holder;

    if (!zc_holder_lock(round->pool, &round->tier, owner, part, &holder))
        return 0;
    int error = add_extent(round, holder.shard, holder.object, holder.entry);
    zc_shard_unlock(holder.shard);
    zc_reader_unlocked(&round->reader);
    return error;
}

static int copy_zpage(struct round *round, zc_handle handle, uint64_t owner)
{
    zc_pool *pool = round->pool;
    struct zc_shard *shard;
    uint64_t object;
    struct zc_entry *entry = zc_entry_lock(pool, owner, handle, &shard, &object);
    if (!entry)
        return 0;

    int error = add(round, shard, owner, object, entry);
    zc_shard_unlock(shard);
    return error;
}

/* 0, or why the load takes no more. What has to stay counts as young from now on, so that the next unit is
 * another. */
static int copy_item(struct round *round, const struct item *item, uint64_t owner)
{
    const struct zc_tier *tier = &round->tier;
    struct load *load = filled(round);
    size_t before = load->count;

    if (item->handle == 0) {
        if (load->copied == UNITS)
            return -EAGAIN;
        load->units[load->copied++] = item->unit;
        round->window.units--;
        return 0;
    }
    int error = (tier->is_cold ? copy_part : copy_zpage)(round, item->handle, owner);
    if (!error && load->count == before)
        tier->ops->touch(tier->alloc, item->handle, zc_pool_tick(round->pool));
    return error;
}

static int copy_window(struct round *round)
{
    struct window *window = &round->window;
    int error = 0;

    while (!error && window->at < window->count) {
        error = copy_item(round, &window->items[window->at], window->owners[window->at]);
        window->at += !error;
    }
    return error;
}

static bool isolate(struct round *round)
{
    const struct zc_tier *tier = &round->tier;
    struct window *window = &round->window;

    if (round->tries == 0)
        return false;
    round->tries--;
    window->unit = tier->ops->isolate(tier->alloc, ZC_ISOLATE_COLDEST);
    window->last = 0;
    window->units += window->unit != 0;
    return window->unit != 0;
}

/* The next zpage of the unit, or its end. */
static void add_item(struct round *round)
{
    const struct zc_tier *tier = &round->tier;
    struct window *window = &round->window;
    struct item *item = &window->items[window->count];
    uint64_t *owner = &window->owners[window->count++];

    *item = (struct item){.unit = window->unit};
    *owner = ZC_NO_OWNER;
    if (tier->ops->next(tier->alloc, window->unit, window->last, &item->handle, owner))
        window->last = item->handle;
    else
        window->unit = item->handle = 0;
}

/* About how many frames there will be once all is written. */
static size_t due(const struct round *round)
{
    size_t frames = round->sums.frames;

    for (unsigned i = 0; i < round->count; i++) {
        const struct load *load = &round->loads[i];
        frames += zc_max(load->copied, load->bytes / round->pool->store->page_size);
    }
    return frames;
}

/* The coldest units' zpages, but no more units than should do for `frames`. False: there are none. */
static bool fill_window(struct round *round, size_t frames)
{
    struct window *window = &round->window;

    window->at = window->count = 0;
    while (window->count < AHEAD) {
        bool is_enough = window->count > 0 && due(round) + window->units >= frames;
        if (!window->unit && (is_enough || !isolate(round)))
            break;
        add_item(round);
    }
    if (!round->tier.is_cold)
        zc_entries_prefetch(round->pool, window->owners, window->count);
    return window->count > 0;
}

/* Copies what is in the coldest frames, until all in all it should be about `frames`. 0, or why the load
 * takes no more. */
static int gather(struct round *round, size_t frames)
{
    struct window *window = &round->window;
    int error = 0;

    while (!error && (window->at < window->count || due(round) < frames)) {
        if (window->at == window->count && !fill_window(round, frames))
            break;
        error = copy_window(round);
    }
    return error;
}

/* Units that were not copied as a whole stay. */
static void empty_window(struct round *round)
{
    const struct zc_tier *tier = &round->tier;
    struct window *window = &round->window;

    for (; window->at < window->count; window->at++) {
        const struct item *item = &window->items[window->at];
        if (item->handle == 0)
            round->sums.frames += tier->ops->release(tier->alloc, item->unit);
    }
    if (window->unit)
        round->sums.frames += tier->ops->release(tier->alloc, window->unit);
    *window = (struct window){0};
}

/* ---- the store ---- */

static bool moved(void *arg, const struct zc_record *record, zc_place from, zc_place to)
{
    zc_pool *pool = arg;
    struct zc_shard *shard = zc_shard_of(pool, record->object, record->index);
    struct zc_backing *store = atomic_load(&pool->writeback.store);
    uint16_t live = 0;

    zc_shard_lock(shard);
    for (unsigned i = 0; i < record->pages; i++) {
        struct zc_entry *entry = zc_index_find(&shard->index, record->object, record->index + i);
        if (!entry || !zc_entry_is_written(entry) || zc_written_place(entry) != from)
            continue;
        entry->word += to - from; /* the flags stay */
        live |= (uint16_t)(1u << i);
    }
    if (live)
        zc_backing_move(store, from, to, record->size, live);
    zc_shard_unlock(shard);
    return live != 0;
}

/* The load takes no more. 0: the next one will; a part of a full store is cleaned. */
static int make_room(struct round *round, int full)
{
    struct zc_backing_stats stats;

    if (full == -EAGAIN)
        return pass_on(round);
    int error = write_all(round);
    if (error || full != -ENOSPC)
        return error ? error : full;
    zc_backing_get_stats(round->store, &stats);
    uint32_t want = (uint32_t)(stats.free_segments + stats.segments / CLEAN_SHARE + 1);
    int64_t freed = zc_backing_clean(round->store, want, moved, round->pool);
    return freed > 0 ? 0 : freed < 0 ? (int)freed : -ENOSPC;
}

/* ---- the budget ---- */

/* Charges what was written since it was asked last. Returns the bytes that may still be. */
static int64_t budget(zc_pool *pool, struct zc_backing *store)
{
    struct zc_writeback *mine = &pool->writeback;
    uint64_t a_day = zc_param(pool, ZC_PARAM_WRITEBACK_BUDGET), written = 0;
    uint64_t now = zc_store_ns(pool->store);
    struct zc_backing_stats stats;

    zc_backing_get_stats(store, &stats);
    for (int i = 0; i < ZC_WEARS; i++)
        written += stats.written[i];
    uint64_t spent = written - mine->charged;
    mine->charged = written;
    if (a_day == 0) {
        mine->filled_at = 0; /* the next budget begins full */
        return INT64_MAX;
    }
    int64_t most = a_day < INT64_MAX / 2 ? (int64_t)a_day : INT64_MAX / 2;
    double gained = (double)most * (double)(now - mine->filled_at) / DAY_NS;
    if (mine->filled_at == 0 || gained >= (double)most - (double)mine->left) {
        mine->left = most;
        mine->filled_at = now;
    } else if (gained >= 1) { /* else parts of a byte would be lost */
        mine->left += (int64_t)gained;
        mine->filled_at = now;
    }
    mine->left -= (int64_t)spent;
    return mine->left;
}

static bool has_budget(const struct round *round)
{
    int64_t under_way = 0; /* these bytes are spent, and not counted yet */

    for (unsigned i = 1; i <= round->under_way; i++) {
        const struct load *load = &round->loads[load_before(round, i)];
        for (size_t f = 0; f < load->count; f++)
            under_way += load->flights[f].record.size;
    }
    return budget(round->pool, round->store) > under_way;
}

/* ns until there is some again. */
static uint64_t until_budget(const zc_pool *pool)
{
    double missing = 1 - (double)pool->writeback.left;
    double ns = missing * DAY_NS / (double)(zc_param(pool, ZC_PARAM_WRITEBACK_BUDGET) | 1);

    if (ns < (double)DELAY_MIN_NS)
        return DELAY_MIN_NS;
    return ns < (double)WAIT_MAX_NS ? (uint64_t)ns : WAIT_MAX_NS;
}

/* ---- rounds ---- */

static int run(struct round *round, size_t frames)
{
    int error = 0;

    while (!error && round->sums.frames < frames) {
        if (!has_budget(round)) {
            error = -EDQUOT;
            break;
        }
        int full = gather(round, frames);
        bool is_last =
            !full && !filled(round)->count && !filled(round)->copied && !round->under_way;
        error = full ? make_room(round, full) : write_all(round);
        if (is_last)
            break;
    }
    int last = write_all(round);
    return error ? error : last;
}

/* The frames of a tier; once each was tried, those that stay are all there is. */
static int run_tier(struct round *round, unsigned which, size_t frames)
{
    struct zc_tier tier = zc_tier(round->pool, which);

    if (!tier.alloc)
        return 0;
    round->tier = tier;
    round->tries = zc_tier_frames(&tier);
    int error = run(round, frames);
    empty_window(round);
    return error;
}

/* What is not a fault of the store. */
static bool is_fault(int error)
{
    return error && error != -EDQUOT && error != -ENOMEM;
}

/* A store that fails, or has had its share, is left alone for a while. */
static void put_off(zc_pool *pool, const struct round *round, int error)
{
    struct zc_writeback *mine = &pool->writeback;
    uint64_t now = zc_store_ns(pool->store);

    if (is_fault(error)) {
        uint64_t delay = mine->delay ? mine->delay * 2 : DELAY_MIN_NS;
        mine->delay = delay < DELAY_MAX_NS ? delay : DELAY_MAX_NS;
        mine->retry_at = now + mine->delay;
        return;
    }
    if (!error && !round->sums.pages)
        return; /* nothing has become known */
    if (round->sums.pages)
        mine->delay = 0;
    mine->retry_at = error == -EDQUOT ? now + until_budget(pool) : error ? now + DELAY_MIN_NS : 0;
}

static void note(zc_pool *pool, const struct round *round, enum zc_writeback_cause cause, int error)
{
    struct zc_shard *shard = &pool->shards[0]; /* lends its lock and counters */

    put_off(pool, round, error);
    zc_shard_lock(shard);
    shard->stats.writeback_frames += round->sums.frames;
    shard->stats.writeback_pages += round->sums.pages;
    shard->stats.written_back_frames[cause] += round->sums.frames;
    shard->stats.written_back[cause] += round->sums.pages;
    shard->stats.writeback_errors += is_fault(error);
    zc_shard_unlock(shard);
}

/* About how many bytes `frames` frames are, or all there are. */
static size_t bytes_of(zc_pool *pool, size_t frames)
{
    size_t all = 0;

    for (unsigned i = 0; i < ZC_TIERS; i++) {
        struct zc_tier tier = zc_tier(pool, i);
        all += tier.alloc ? zc_tier_frames(&tier) : 0;
    }
    return zc_min(frames, all) * pool->store->page_size;
}

/* About so many frames, or pages, are to be written. */
static int begin(zc_pool *pool, size_t frames, struct round **out)
{
    struct zc_backing *store = atomic_load(&pool->writeback.store);
    struct zc_backing_stats stats;

    if (!store)
        return -ENXIO;
    struct round *round = calloc(1, sizeof(*round));
    if (!round)
        return -ENOMEM;
    round->coming = bytes_of(pool, frames);
    int error = zc_batch_create(store, round->coming, &round->loads[0].batch);
    if (error) {
        free(round);
        return error;
    }
    zc_backing_get_stats(store, &stats);
    round->pool = pool;
    round->store = store;
    round->is_in_place = stats.layout == ZC_IN_PLACE;
    /* In place, one at a time is written: the next may have a page anew, which was put again meanwhile. */
    round->count = round->is_in_place ? 2 : LOADS;
    round->reader.pool = pool;
    *out = round;
    return 0;
}

static void end(struct round *round)
{
    for (unsigned i = 0; i < round->count; i++) {
        if (round->loads[i].batch)
            zc_batch_destroy(round->loads[i].batch);
    }
    zc_reader_end(&round->reader);
}

/* `running` is held. */
static int write_back(zc_pool *pool, size_t frames, enum zc_writeback_cause cause,
                      struct zc_written_back *out)
{
    struct round *round;
    int error = begin(pool, frames, &round);
    if (error)
        return error;

    error = zc_slots_update(&pool->writeback.slots, pool, round->store);
    for (unsigned i = ZC_TIERS; !error && i-- > 0;) /* the coldest are in the cold one */
        error = run_tier(round, i, frames);
    end(round);
    note(pool, round, cause, error);
    *out = round->sums;
    free(round);
    return error;
}

int zc_pool_writeback(zc_pool *pool, size_t frames, struct zc_written_back *out)
{
    *out = (struct zc_written_back){0};
    if (pool->dead)
        return -ENOENT;

    pthread_mutex_lock(&pool->writeback.running);
    int error = write_back(pool, frames, ZC_WRITEBACK_USER, out);
    pthread_mutex_unlock(&pool->writeback.running);
    return error;
}

static bool is_left_alone(const zc_pool *pool)
{
    return zc_store_ns(pool->store) < pool->writeback.retry_at;
}

/* Who has waited for another, who made room, goes on. */
static bool wait_for_another(zc_pool *pool, enum zc_writeback_cause cause)
{
    if (pthread_mutex_trylock(&pool->writeback.running) == 0)
        return false;
    pthread_mutex_lock(&pool->writeback.running);
    return cause == ZC_WRITEBACK_LIMIT && zc_frames_have_room(pool->store->frames);
}

size_t zc_writeback_some(zc_pool *pool, size_t frames, enum zc_writeback_cause cause)
{
    struct zc_written_back done = {0};

    if (pool->dead || !zc_writeback_is_open(pool) || is_left_alone(pool))
        return 0;
    if (wait_for_another(pool, cause))
        done.frames = frames;
    else if (!is_left_alone(pool))
        write_back(pool, frames, cause, &done); /* what fails is counted */
    pthread_mutex_unlock(&pool->writeback.running);
    return done.frames;
}

void zc_writeback_reconsider(zc_pool *pool)
{
    if (pool->writeback.delay == 0)
        pool->writeback.retry_at = 0;
}

/* ---- pages one by one ---- */

/* Idle ones; or, if that says 0, all that are in memory, without a look at the budget. */
static bool is_chosen(void *arg, const struct zc_shard *shard, struct zc_entry *entry)
{
    struct zc_idle *choice = arg;

    (void)shard;
    if (choice->seconds == 0)
        return !zc_entry_is_written(entry);
    return (zc_entry_has_zpage(entry) || zc_entry_is_cold(entry)) &&
           zc_idle_has(choice, zc_entry_idle(entry, choice->now));
}

/* The shard is locked. An extent is as young as its youngest page. */
static bool is_still_chosen(struct zc_idle *choice, struct zc_shard *shard, uint64_t object,
                            struct zc_entry *entry)
{
    if (!zc_entry_is_cold(entry) || choice->seconds == 0)
        return is_chosen(choice, shard, entry);

    const struct zc_extent *extent = zc_extent_at(shard, zc_entry_handle(entry));
    bool is_idle = true;
    for (unsigned live = extent->live; live; live &= live - 1)
        is_idle &= is_chosen(
            choice, shard,
            zc_index_find(&shard->index, object, extent->first + (unsigned)__builtin_ctz(live)));
    return is_idle;
}

static int add_owner(struct round *round, uint64_t owner, struct zc_idle *choice)
{
    struct zc_shard *shard;
    uint64_t object;
    struct zc_entry *entry = zc_entry_lock_any(round->pool, owner, &shard, &object);
    int error = 0;

    if (!entry)
        return 0;
    if (is_still_chosen(choice, shard, object, entry))
        error = zc_entry_is_cold(entry) ? add_extent(round, shard, object, entry)
                                        : add(round, shard, owner, object, entry);
    zc_shard_unlock(shard);
    zc_reader_unlocked(&round->reader);
    return error;
}

static int write_owners(struct round *round, const struct zc_owners *owners, struct zc_idle *choice)
{
    int error = zc_slots_update(&round->pool->writeback.slots, round->pool, round->store);

    for (size_t i = 0; !error && i < owners->count;) {
        int full = add_owner(round, owners->list[i], choice);
        if (!full) {
            i++;
            continue;
        }
        error = make_room(round, full);
        if (!error && choice->seconds && !has_budget(round))
            error = -EDQUOT;
    }
    int last = write_all(round);
    return error ? error : last;
}

/* `running` is held. *pages: how many went. */
static int write_listed(zc_pool *pool, const struct zc_owners *owners, struct zc_idle *choice,
                        size_t *pages)
{
    struct round *round;
    int error = begin(pool, owners->count, &round);
    if (error)
        return error;

    bool may = choice->seconds == 0 || budget(pool, round->store) > 0;
    error = may ? write_owners(round, owners, choice) : -EDQUOT;
    end(round);
    note(pool, round, choice->seconds ? ZC_WRITEBACK_IDLE : ZC_WRITEBACK_USER, error);
    *pages = round->sums.pages;
    free(round);
    return error;
}

static int write_shard(zc_pool *pool, struct zc_shard *shard, struct zc_idle *choice)
{
    struct zc_owners owners;
    size_t pages = 0;

    pthread_mutex_lock(&pool->writeback.running);
    choice->now = zc_store_now(pool->store);
    int error = zc_owners_list(pool, shard, SIZE_MAX, is_chosen, choice, &owners);
    if (!error && owners.count > 0)
        error = write_listed(pool, &owners, choice, &pages);
    if (choice->seconds && pages < owners.count)
        zc_idle_has(choice, 0); /* got or moved meanwhile: to be looked at again */
    pthread_mutex_unlock(&pool->writeback.running);
    free(owners.list);
    if (choice->seconds)
        zc_pool_freed(pool, pages);
    return error;
}

int zc_writeback_save(zc_pool *pool)
{
    struct zc_idle all = {0};
    int error = 0;

    for (size_t i = 0; !error && i < ZC_SHARDS; i++)
        error = write_shard(pool, &pool->shards[i], &all);
    return error;
}

uint64_t zc_writeback_idle(zc_pool *pool)
{
    const zc_store *store = pool->store;
    struct zc_idle choice = {
        .seconds = (uint32_t)zc_param(pool, ZC_PARAM_WRITEBACK_AFTER),
        .is_all = true,
    };
    int error = 0;

    if (choice.seconds == 0 || pool->dead || !zc_writeback_is_open(pool))
        return UINT64_MAX;
    if (is_left_alone(pool))
        return pool->writeback.retry_at;
    /* A shard at a time: a put that waits for room has its turn. */
    for (size_t i = 0; !error && i < ZC_SHARDS && !store->keeper.stopping; i++)
        error = write_shard(pool, &pool->shards[i], &choice);
    if (error)
        return zc_max64(pool->writeback.retry_at, zc_store_ns(store) + DELAY_MIN_NS);
    return zc_idle_next(&choice, store, (uint32_t)zc_min(choice.seconds / 8, REST_MAX));
}
