/* SPDX-License-Identifier: Apache-2.0 */
#include "store/writeback.h"

#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "base/hash.h"
#include "store/entry.h"
#include "store/extent.h"

#define FLIGHTS 1024u   /* records of a batch, at most */
#define UNITS 1024u     /* frames or zspages isolated for a batch, at most */
#define CLEAN_SHARE 16u /* of a full store's segments, this part is cleaned at a time */
#define DAY_NS 86400e9
#define DELAY_MIN_NS 1000000000ull /* after an error, until it is tried again; doubled each time */
#define DELAY_MAX_NS (60 * DELAY_MIN_NS)

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

/* Of writeback. */
struct round {
    zc_pool *pool;
    struct zc_backing *store;
    bool is_in_place;
    struct zc_reader reader;
    struct zc_written_back sums;
    struct zc_tier tier; /* whose units are isolated */

    uint32_t unit; /* isolated, its zpages up to `at` are copied; 0: none */
    zc_handle at;
    size_t tries; /* units that may be isolated still */
    /* One is filled while the other, if there is one under way, is written. */
    struct load loads[2], *load, *under_way;
};

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
        const struct zc_extent *extent = zc_extent_at(shard, entry->word);
        unsigned slot = zc_slots_find(&pool->writeback.slots, pool, zc_written_codec(entry));
        record->index = extent->first;
        record->live = extent->live;
        record->pages = (uint8_t)zc_written_pages(entry);
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
        return zc_extent_read(pool, zc_extent_at(shard, entry->word), bytes) == 0;
    struct zc_zpage zpage = pool->alloc_ops->map(pool->alloc, entry->word);
    memcpy(bytes, zpage.bytes, entry->size);
    return !entry->is_checked || zc_checksum(bytes, entry->size) == zpage.head->checksum;
}

/* The entry's shard is locked. 0: it is in the batch, or has to stay in memory; else why the batch takes no more. */
static int add(struct round *round, struct zc_shard *shard, uint64_t owner, uint64_t object,
               const struct zc_entry *entry)
{
    struct load *load = round->load;
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

/* The entry, with its shard locked, if it still has what was copied. */
static struct zc_entry *lock_same(zc_pool *pool, const struct flight *flight,
                                  struct zc_shard **shard, uint64_t *object)
{
    const struct zc_entry *copied = &flight->entry;

    if (zc_entry_has_zpage(copied))
        return zc_entry_lock(pool, flight->owner, copied->word, shard, object);
    struct zc_entry *entry = zc_entry_lock_any(pool, flight->owner, shard, object);
    if (entry && entry->kind == copied->kind && entry->word == copied->word)
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

    if (!entry || !zc_entry_is_cold(entry) || entry->word != flight->entry.word)
        return false;
    struct zc_entry old = *entry;
    *entry = zc_written_entry(record, zc_written_codec(&old), place);
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
    *entry = zc_written_entry(&flight->record, zc_written_codec(&old), place);
    zc_entry_account(pool, shard, entry, 1); /* first: the codec stays in use */
    zc_entry_account(pool, shard, &old, -1);
    zc_extent_leave(pool, shard, &old);
    zc_shard_count_bytes(pool, shard);
    zc_shard_unlock(shard);
    zc_entry_release(pool, &old);
    round->sums.pages++;
}

/* ---- a load ---- */

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
        for (size_t i = 0; i < load->count; i++) {
            const struct flight *flight = &load->flights[i];
            bool is_extent = zc_entry_is_cold(&flight->entry) && !round->is_in_place;
            (is_extent ? land_extent : land)(round, flight, load->places[i]);
        }
        error = zc_batch_settle(load->batch);
    }
    load->count = load->bytes = 0;
    size_t freed = release_units(round, load), now = zc_tier_frames(&round->tier);
    if (round->tier.is_cold) /* an extent's other parts free frames elsewhere */
        freed = now < before ? before - now : 0;
    round->sums.frames += freed;
    return error;
}

/* All that was copied is written; also when a part of it cannot be. */
static int write_all(struct round *round)
{
    struct load *under_way = round->under_way;
    int error = under_way ? finish(round, under_way) : 0;

    round->under_way = NULL;
    int other = finish(round, round->load);
    return error ? error : other;
}

/* The load is full: it is being written from now on, and the other one is to be filled. */
static int pass_on(struct round *round)
{
    struct load *full = round->load, *next = &round->loads[full == round->loads];
    int error = 0;

    if (!next->batch && zc_batch_create(round->store, &next->batch) != 0)
        return write_all(round);
    if (round->under_way) /* that is the other one */
        error = finish(round, round->under_way);
    zc_batch_start(full->batch, full->places);
    round->under_way = full;
    round->load = next;
    return error;
}

static bool has_extent(const struct load *load, const struct zc_shard *shard, uint64_t extent)
{
    for (size_t i = load->count; i-- > 0;) {
        const struct flight *flight = &load->flights[i];
        if (flight->shard == shard && zc_entry_is_cold(&flight->entry) &&
            flight->entry.word == extent)
            return true;
    }
    return false;
}

static bool is_in_batch(const struct round *round, const struct zc_shard *shard, uint64_t extent)
{
    return has_extent(&round->loads[0], shard, extent) ||
           has_extent(&round->loads[1], shard, extent);
}

/* The extent of an entry whose shard is locked; in place, its pages one by one. */
static int add_extent(struct round *round, struct zc_shard *shard, uint64_t object,
                      const struct zc_entry *entry)
{
    const struct zc_extent *extent = zc_extent_at(shard, entry->word);
    int error = 0;

    if (is_in_batch(round, shard, entry->word))
        return 0; /* by another of its parts */
    for (unsigned live = extent->live; !error && live; live &= live - 1) {
        uint32_t index = extent->first + (unsigned)__builtin_ctz(live);
        uint64_t owner = zc_entry_owner(round->pool, shard, object, index);
        error = add(round, shard, owner, object, zc_index_find(&shard->index, object, index));
        if (!round->is_in_place)
            break;
    }
    return error;
}

static int copy_part(struct round *round, zc_handle part, uint64_t owner)
{
    struct zc_shard *shard;
    uint64_t object;

    if (!zc_extent_lock(round->pool, owner, part, &shard, &object))
        return 0;
    int error =
        add_extent(round, shard, object, zc_index_find(&shard->index, object, (uint32_t)owner));
    zc_shard_unlock(shard);
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

/* 0, or why the batch takes no more. What has to stay counts as young from now on, so that the next unit is
 * another. */
static int copy_unit(struct round *round)
{
    const struct zc_tier *tier = &round->tier;
    struct load *load = round->load;
    zc_handle handle;
    uint64_t owner;

    while (tier->ops->next(tier->alloc, round->unit, round->at, &handle, &owner)) {
        size_t before = load->count;
        int error = (tier->is_cold ? copy_part : copy_zpage)(round, handle, owner);
        if (error)
            return error;
        if (load->count == before)
            tier->ops->touch(tier->alloc, handle, zc_pool_tick(round->pool));
        round->at = handle;
    }
    load->units[load->copied++] = round->unit;
    round->unit = 0;
    return 0;
}

static bool isolate(struct round *round)
{
    const struct zc_tier *tier = &round->tier;

    if (round->tries == 0)
        return false;
    round->tries--;
    round->unit = tier->ops->isolate(tier->alloc, ZC_ISOLATE_COLDEST);
    round->at = 0;
    return round->unit != 0;
}

/* About how many frames there will be once it is written. */
static size_t due(const struct round *round, const struct load *load)
{
    return zc_max(load->copied, load->bytes / round->pool->store->page_size);
}

/* Copies what is in the coldest frames, until all in all it should be about `frames`. 0, or why the load
 * takes no more. */
static int gather(struct round *round, size_t frames)
{
    while (round->sums.frames + due(round, &round->loads[0]) + due(round, &round->loads[1]) <
           frames) {
        if (round->load->copied == UNITS)
            return -EAGAIN;
        if (!round->unit && !isolate(round))
            return 0;
        int error = copy_unit(round);
        if (error)
            return error;
    }
    return 0;
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
static uint64_t budget(zc_pool *pool, struct zc_backing *store)
{
    struct zc_writeback *mine = &pool->writeback;
    uint64_t a_day = zc_param(pool, ZC_PARAM_WRITEBACK_BUDGET), now = zc_now_ns(), written = 0;
    struct zc_backing_stats stats;

    zc_backing_get_stats(store, &stats);
    for (int i = 0; i < ZC_WEARS; i++)
        written += stats.written[i];
    uint64_t spent = written - mine->charged;
    mine->charged = written;
    if (a_day == 0) {
        mine->filled_at = 0; /* the next budget begins full */
        return UINT64_MAX;
    }
    if (mine->filled_at == 0)
        mine->left = a_day;
    double gained = mine->filled_at ? (double)a_day * (double)(now - mine->filled_at) / DAY_NS : 1;
    if (gained >= 1) { /* else parts of a byte would be lost */
        mine->left += (uint64_t)gained;
        mine->filled_at = now;
    }
    mine->left = mine->left < a_day ? mine->left : a_day;
    mine->left -= mine->left < spent ? mine->left : spent;
    return mine->left;
}

/* ---- rounds ---- */

static int run(struct round *round, size_t frames, bool has_budget)
{
    int error = 0;

    while (!error && round->sums.frames < frames) {
        if (has_budget && budget(round->pool, round->store) == 0) {
            error = -EDQUOT;
            break;
        }
        int full = gather(round, frames);
        bool is_last = !full && !round->load->count && !round->load->copied && !round->under_way;
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
    int error = run(round, frames, true);
    if (round->unit) /* what is not written of it stays */
        round->sums.frames += tier.ops->release(tier.alloc, round->unit);
    round->unit = 0;
    return error;
}

/* What is not a fault of the store. */
static bool is_fault(int error)
{
    return error && error != -EDQUOT && error != -ENOMEM;
}

/* A store that fails is left alone for a while. */
static void note(zc_pool *pool, const struct round *round, int error)
{
    struct zc_writeback *mine = &pool->writeback;
    struct zc_shard *shard = &pool->shards[0]; /* lends its lock and counters */

    if (is_fault(error)) {
        uint64_t delay = mine->delay ? mine->delay * 2 : DELAY_MIN_NS;
        mine->delay = delay < DELAY_MAX_NS ? delay : DELAY_MAX_NS;
        mine->retry_at = zc_now_ns() + mine->delay;
    } else if (round->sums.pages) {
        mine->delay = mine->retry_at = 0;
    }
    zc_shard_lock(shard);
    shard->stats.writeback_frames += round->sums.frames;
    shard->stats.writeback_pages += round->sums.pages;
    shard->stats.writeback_errors += is_fault(error);
    zc_shard_unlock(shard);
}

static int begin(zc_pool *pool, struct round **out)
{
    struct zc_backing *store = atomic_load(&pool->writeback.store);
    struct zc_backing_stats stats;

    if (!store)
        return -ENXIO;
    struct round *round = calloc(1, sizeof(*round));
    int error = round ? zc_batch_create(store, &round->loads[0].batch) : -ENOMEM;
    if (error) {
        free(round);
        return error;
    }
    zc_backing_get_stats(store, &stats);
    round->pool = pool;
    round->store = store;
    round->load = &round->loads[0];
    round->is_in_place = stats.layout == ZC_IN_PLACE;
    round->reader.pool = pool;
    *out = round;
    return 0;
}

static void end(struct round *round)
{
    zc_batch_destroy(round->loads[0].batch);
    if (round->loads[1].batch)
        zc_batch_destroy(round->loads[1].batch);
    zc_reader_end(&round->reader);
}

/* `running` is held. */
static int write_back(zc_pool *pool, size_t frames, struct zc_written_back *out)
{
    struct round *round;
    int error = begin(pool, &round);
    if (error)
        return error;

    error = zc_slots_update(&pool->writeback.slots, pool, round->store);
    for (unsigned i = ZC_TIERS; !error && i-- > 0;) /* the coldest are in the cold one */
        error = run_tier(round, i, frames);
    end(round);
    note(pool, round, error);
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
    int error = write_back(pool, frames, out);
    pthread_mutex_unlock(&pool->writeback.running);
    return error;
}

size_t zc_writeback_some(zc_pool *pool, size_t frames)
{
    struct zc_written_back done = {0};

    if (pool->dead || !zc_writeback_is_open(pool))
        return 0;
    pthread_mutex_lock(&pool->writeback.running);
    if (zc_now_ns() >= pool->writeback.retry_at)
        write_back(pool, frames, &done); /* what fails is counted */
    pthread_mutex_unlock(&pool->writeback.running);
    return done.frames;
}

/* ---- all there is ---- */

struct owners {
    const zc_pool *pool;
    const struct zc_shard *shard;
    size_t count, room;
    uint64_t *list;
};

static bool note_owner(void *arg, uint32_t number, const struct zc_entry *entry)
{
    struct owners *owners = arg;
    uint32_t high = number << ZC_SHARD_BITS | (uint32_t)(owners->shard - owners->pool->shards);

    if (zc_entry_is_written(entry))
        return true;
    if (owners->count < owners->room)
        owners->list[owners->count] = (uint64_t)high << 32 | entry->index;
    owners->count++;
    return true;
}

/* The owners of the pages in memory. */
static int list_owners(struct owners *owners)
{
    zc_index_walk(&owners->shard->index, note_owner, owners);
    if (owners->count == 0)
        return 0;
    owners->list = malloc(owners->count * sizeof(*owners->list));
    if (!owners->list)
        return -ENOMEM;
    owners->room = owners->count;
    owners->count = 0;
    zc_index_walk(&owners->shard->index, note_owner, owners);
    return 0;
}

static int add_owner(struct round *round, uint64_t owner)
{
    struct zc_shard *shard;
    uint64_t object;
    struct zc_entry *entry = zc_entry_lock_any(round->pool, owner, &shard, &object);
    if (!entry)
        return 0;

    int error = zc_entry_is_written(entry) ? 0 /* with its extent */
                : zc_entry_is_cold(entry)  ? add_extent(round, shard, object, entry)
                                           : add(round, shard, owner, object, entry);
    zc_shard_unlock(shard);
    zc_reader_unlocked(&round->reader);
    return error;
}

static int save_shard(struct round *round, const struct zc_shard *shard)
{
    struct owners owners = {.pool = round->pool, .shard = shard};
    int error = list_owners(&owners);

    for (size_t i = 0; !error && i < owners.count;) {
        int full = add_owner(round, owners.list[i]);
        if (!full) {
            i++;
            continue;
        }
        error = make_room(round, full);
    }
    free(owners.list);
    int last = write_all(round);
    return error ? error : last;
}

int zc_writeback_save(zc_pool *pool)
{
    struct round *round;

    pthread_mutex_lock(&pool->writeback.running);
    int error = begin(pool, &round);
    if (error)
        goto unlock;
    error = zc_slots_update(&pool->writeback.slots, pool, round->store);
    for (size_t i = 0; !error && i < ZC_SHARDS; i++)
        error = save_shard(round, &pool->shards[i]);
    end(round);
    note(pool, round, error);
    free(round);
unlock:
    pthread_mutex_unlock(&pool->writeback.running);
    return error;
}
