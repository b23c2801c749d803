/* SPDX-License-Identifier: Apache-2.0 */
/* A pool gets a backing store, with the pages that are in it, or loses it. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/base.h"
#include "store/entry.h"
#include "store/limit.h"
#include "store/store.h"

#define OVERHEAD 64u /* bytes of a record in a store besides the page's, at most */

void zc_writeback_init(zc_pool *pool)
{
    pthread_rwlock_init(&pool->writeback.lock, NULL);
    pthread_mutex_init(&pool->writeback.running, NULL);
}

void zc_writeback_fini(zc_pool *pool)
{
    zc_writeback_close(pool);
    pthread_mutex_destroy(&pool->writeback.running);
    pthread_rwlock_destroy(&pool->writeback.lock);
}

struct zc_backing *zc_writeback_enter(zc_pool *pool)
{
    pthread_rwlock_rdlock(&pool->writeback.lock);
    return atomic_load(&pool->writeback.store);
}

void zc_writeback_leave(zc_pool *pool)
{
    pthread_rwlock_unlock(&pool->writeback.lock);
}

/* Returns the store before, which nobody uses any more. The path is taken over. */
static struct zc_backing *exchange(zc_pool *pool, struct zc_backing *store, char *path)
{
    pthread_rwlock_wrlock(&pool->writeback.lock);
    struct zc_backing *before = atomic_exchange(&pool->writeback.store, store);
    free(pool->writeback.path);
    pool->writeback.path = path;
    pthread_rwlock_unlock(&pool->writeback.lock);
    return before;
}

static int close_locked(zc_pool *pool)
{
    struct zc_backing *store = exchange(pool, NULL, NULL);

    return store ? zc_backing_close(store, true) : 0;
}

int zc_writeback_close(zc_pool *pool)
{
    pthread_mutex_lock(&pool->writeback.running);
    int error = close_locked(pool);
    pthread_mutex_unlock(&pool->writeback.running);
    return error;
}

/* ---- pages that come back ---- */

struct recovery {
    zc_pool *pool;
    struct zc_text *why;
    int error;
    bool is_in_place;
    unsigned number[ZC_POOL_CODECS]; /* the pool's, by slot */
    bool is_held[ZC_POOL_CODECS];    /* known, by slot */
};

/* Returns false. It has a checksum, so another version wrote it; it is to stay for that. */
static bool makes_no_sense(struct recovery *recovery, const struct zc_record *record)
{
    zc_text_add(recovery->why, "page %" PRIu64 "/%" PRIu32 " there is not of this version's making",
                record->object, record->index);
    recovery->error = -EUCLEAN;
    return false;
}

/* Which of the pool's codecs made it. */
static bool find_codec(struct recovery *recovery, const struct zc_record *record, unsigned *number)
{
    unsigned slot = record->codec;

    *number = 0;
    if (record->flags & (ZC_RECORD_RAW | ZC_RECORD_FILL))
        return true;
    if (slot >= ZC_POOL_CODECS || !recovery->is_held[slot]) {
        recovery->error =
            zc_slots_hold(&recovery->pool->writeback.slots, slot, record->pages, recovery->pool,
                          &recovery->number[slot % ZC_POOL_CODECS], recovery->why);
        if (recovery->error)
            return false;
        recovery->is_held[slot] = true;
    }
    *number = recovery->number[slot];
    size_t room = zc_codecs_at(&recovery->pool->codecs, *number)->page_size;
    return room == record->pages * recovery->pool->store->page_size ||
           makes_no_sense(recovery, record);
}

static bool is_sound(const zc_pool *pool, const struct zc_record *record)
{
    size_t page_size = pool->store->page_size;

    if (!zc_is_pow2(record->pages) || record->index % record->pages != 0)
        return false;
    if (record->flags & ZC_RECORD_RAW)
        return record->size == page_size && record->pages == 1;
    if (record->flags & ZC_RECORD_FILL)
        return record->size == sizeof(uint64_t) && record->pages == 1;
    return record->size <= page_size * record->pages;
}

/* False: it is not wanted, as there is a newer page. */
static bool recover_page(struct recovery *recovery, uint64_t object, const struct zc_entry *made)
{
    zc_pool *pool = recovery->pool;
    struct zc_shard *shard = zc_shard_of(pool, object, made->index);
    bool is_wanted = false;

    zc_shard_lock(shard);
    if (pool->dead || zc_index_find(&shard->index, object, made->index))
        goto unlock;
    is_wanted = true;
    struct zc_entry *entry = zc_index_insert(&shard->index, object, made->index);
    zc_shard_count_bytes(pool, shard);
    if (!entry) {
        recovery->error = -ENOMEM;
        goto unlock;
    }
    *entry = *made;
    zc_entry_account(pool, shard, entry, 1);
unlock:
    zc_shard_unlock(shard);
    return is_wanted;
}

static bool recover(void *arg, const struct zc_record *found, zc_place place)
{
    struct recovery *recovery = arg;
    struct zc_record kept = *found;
    const struct zc_record *record = &kept;
    unsigned number, live = 0;

    if (recovery->error)
        return true;                                         /* it stays there */
    kept.flags |= recovery->is_in_place ? ZC_RECORD_RAW : 0; /* there is no room for it there */
    if (!is_sound(recovery->pool, record))
        makes_no_sense(recovery, record);
    if (recovery->error || !find_codec(recovery, record, &number))
        return true;
    for (unsigned i = 0; i < record->pages; i++) {
        if (!(record->live >> i & 1))
            continue;
        struct zc_entry made = zc_written_entry(record, number, place);
        made.index = record->index + i;
        live |= (unsigned)recover_page(recovery, record->object, &made) << i;
    }
    if (live && live != record->live)
        zc_backing_keep(atomic_load(&recovery->pool->writeback.store), place, record->size,
                        (uint16_t)live);
    return live != 0;
}

struct found {
    size_t count;
    struct {
        uint32_t number, index;
    } at[256];
};

static bool find_written(void *arg, uint32_t number, struct zc_entry *entry)
{
    struct found *found = arg;

    if (!zc_entry_is_written(entry))
        return true;
    found->at[found->count].number = number;
    found->at[found->count++].index = entry->index;
    return found->count < sizeof(found->at) / sizeof(found->at[0]);
}

/* The entries of pages in a store that the pool does not have any more. */
static void drop_written(zc_pool *pool, struct zc_shard *shard)
{
    struct found found;

    zc_shard_lock(shard);
    do {
        found.count = 0;
        zc_index_walk(&shard->index, find_written, &found);
        for (size_t i = 0; i < found.count; i++) {
            uint64_t object;
            struct zc_entry *entry = zc_index_find_by_number(&shard->index, found.at[i].number,
                                                             found.at[i].index, &object);
            zc_entry_take_out(pool, shard, object, entry);
        }
    } while (found.count > 0);
    zc_shard_unlock(shard);
}

static int recover_all(zc_pool *pool, struct zc_backing *store, struct zc_text *why)
{
    struct recovery recovery = {.pool = pool, .why = why};
    struct zc_backing_stats stats;

    zc_backing_get_stats(store, &stats);
    recovery.is_in_place = stats.layout == ZC_IN_PLACE;
    int error = zc_slots_read(&pool->writeback.slots, store);
    if (error)
        zc_text_add(why, "what it says of its codecs makes no sense");
    else
        error = zc_backing_recover(store, recover, &recovery);
    error = error ? error : recovery.error;
    for (unsigned i = 0; i < ZC_POOL_CODECS; i++) {
        if (recovery.is_held[i])
            zc_codecs_drop(pool, recovery.number[i]);
    }
    if (!error)
        return 0;
    exchange(pool, NULL, NULL);
    for (size_t i = 0; i < ZC_SHARDS; i++)
        drop_written(pool, &pool->shards[i]);
    return error;
}

/* ---- a pool's backing store ---- */

static int parse_layout(const char *name, enum zc_layout *layout, struct zc_text *why)
{
    *layout = name && strcmp(name, "in_place") == 0 ? ZC_IN_PLACE : ZC_PACKED;
    if (!name || *layout == ZC_IN_PLACE || strcmp(name, "packed") == 0)
        return 0;
    zc_text_add(why, "layout '%s' is not packed or in_place", name);
    return -EINVAL;
}

static int open_store(zc_pool *pool, const struct zc_pool_backing *backing, const struct zc_io *io,
                      struct zc_backing **store, struct zc_text *why)
{
    struct zc_backing_config config = {
        .path = backing->path,
        .page_size = (uint32_t)pool->store->page_size,
        .size = backing->size,
        .pool = pool->name,
        .reset = backing->reset == ZC_RESET_ALWAYS,
        .reset_stale = backing->reset == ZC_RESET_STALE,
        .must_be_direct = backing->must_be_direct,
        .proc_dir = pool->store->proc_dir,
        .frames = pool->store->frames,
        .io = io,
    };
    int error = parse_layout(backing->layout, &config.layout, why);

    return error ? error : zc_backing_open(&config, store, why);
}

static int attach_locked(zc_pool *pool, const struct zc_pool_backing *backing,
                         const struct zc_io *io, struct zc_text *why)
{
    struct zc_writeback *writeback = &pool->writeback;
    struct zc_backing *store;

    if (atomic_load(&writeback->store)) {
        zc_text_add(why, "pool '%s' has a backing store, %s; set none first", pool->name,
                    writeback->path);
        return -EBUSY;
    }
    char *path = strdup(backing->path);
    int error = path ? open_store(pool, backing, io, &store, why) : -ENOMEM;
    if (error) {
        free(path);
        return error;
    }
    exchange(pool, store, path);
    writeback->charged = writeback->retry_at = writeback->delay = 0;
    error = recover_all(pool, store, why);
    if (error)
        zc_backing_close(store, true);
    else
        zc_limit_reconsider(pool);
    return error;
}

int zc_writeback_attach(zc_pool *pool, const struct zc_pool_backing *backing,
                        const struct zc_io *io, struct zc_text *why)
{
    if (pool->kind != ZC_PERSISTENT) {
        zc_text_add(why, "pool '%s' is ephemeral: its pages are dropped, not written", pool->name);
        return -EPERM;
    }
    pthread_mutex_lock(&pool->writeback.running);
    int error = pool->dead ? -ENOENT : attach_locked(pool, backing, io, why);
    pthread_mutex_unlock(&pool->writeback.running);
    return error;
}

int zc_writeback_detach(zc_pool *pool, struct zc_text *why)
{
    uint64_t pages = 0;
    int error = 0;

    pthread_mutex_lock(&pool->writeback.running);
    for (size_t i = 0; i < ZC_SHARDS; i++) {
        zc_shard_lock(&pool->shards[i]);
        pages += pool->shards[i].stats.written_pages;
        zc_shard_unlock(&pool->shards[i]);
    }
    if (pages) {
        zc_text_add(why, "%" PRIu64 " pages of pool '%s' are in %s; flush them first", pages,
                    pool->name, pool->writeback.path);
        error = -EBUSY;
    } else {
        error = close_locked(pool);
    }
    pthread_mutex_unlock(&pool->writeback.running);
    return error;
}

int zc_pool_set_backing(zc_pool *pool, const struct zc_pool_backing *backing, char *why,
                        size_t size)
{
    struct zc_text text = {0};
    int error = backing ? zc_writeback_attach(pool, backing, NULL, &text)
                        : zc_writeback_detach(pool, &text);

    if (why && size)
        snprintf(why, size, "%s", text.data ? text.data : "");
    zc_text_free(&text);
    return error;
}

/* ---- what it says of itself ---- */

void zc_writeback_show(zc_pool *pool, struct zc_text *out)
{
    struct zc_backing *store = zc_writeback_enter(pool);
    struct zc_backing_stats stats;

    if (store) {
        zc_backing_get_stats(store, &stats);
        zc_text_add(out, "path=%s layout=%s", pool->writeback.path,
                    stats.layout == ZC_PACKED ? "packed" : "in_place");
    } else {
        zc_text_add(out, "none");
    }
    zc_writeback_leave(pool);
}

uint64_t zc_pool_in_place_bytes(zc_pool *pool)
{
    struct zc_backing *store = zc_writeback_enter(pool);
    struct zc_backing_stats stats = {.layout = ZC_PACKED};

    if (store)
        zc_backing_get_stats(store, &stats);
    zc_writeback_leave(pool);
    return stats.layout == ZC_IN_PLACE ? stats.size : UINT64_MAX;
}

bool zc_writeback_has_room(zc_pool *pool, const struct zc_pool_stats *stats)
{
    struct zc_backing *store = zc_writeback_enter(pool);
    struct zc_backing_stats there;
    uint64_t pages = stats->zpages + stats->raw_pages + stats->same_filled + stats->cold_pages,
             needed;
    bool has_room = false;

    if (store) {
        zc_backing_get_stats(store, &there);
        needed = stats->zbytes + stats->cold_bytes + stats->raw_pages * pool->store->page_size +
                 pages * OVERHEAD;
        if (there.layout == ZC_IN_PLACE)
            needed = pages * pool->store->page_size;
        has_room = !there.is_failed &&
                   needed <= there.size / 16 * 15 - zc_min(there.live_bytes, there.size / 16 * 15);
    }
    zc_writeback_leave(pool);
    return has_room;
}

void zc_writeback_get_stats(zc_pool *pool, struct zc_pool_stats *out)
{
    struct zc_backing_stats stats = {0};
    struct zc_backing *store = zc_writeback_enter(pool);

    if (store)
        zc_backing_get_stats(store, &stats);
    zc_writeback_leave(pool);
    out->written_bytes = stats.live_bytes;
    out->wear_evicted = stats.written[ZC_WEAR_EVICTED];
    out->wear_cleaned = stats.written[ZC_WEAR_CLEANED];
    out->wear_metadata = stats.written[ZC_WEAR_METADATA];
}
