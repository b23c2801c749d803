/* SPDX-License-Identifier: Apache-2.0 */
/* What put, get, flush and the emptying of frames share: entries, and what they stand for. */
#ifndef ZC_STORE_ENTRY_H
#define ZC_STORE_ENTRY_H

#include "backing/backing.h"
#include "store/pool.h"

struct zc_extent;

/* An index's shard: runs of 256 adjacent pages stay together, so small objects have one shard. */
struct zc_shard *zc_shard_of(zc_pool *pool, uint64_t object, uint32_t index);

/* A zpage's owner, as the allocator knows it: where its entry is. */
uint64_t zc_entry_owner(const zc_pool *pool, const struct zc_shard *shard, uint64_t object,
                        uint32_t index);
/* The entry that has this zpage now, with its shard locked, and its object. NULL: none, nothing is
 * locked. */
struct zc_entry *zc_entry_lock(zc_pool *pool, uint64_t owner, zc_handle handle,
                               struct zc_shard **shard, uint64_t *object);
/* The same whatever it has. */
struct zc_entry *zc_entry_lock_any(zc_pool *pool, uint64_t owner, struct zc_shard **shard,
                                   uint64_t *object);
/* Brings into the cache the entries that will be locked next. No lock is held. */
void zc_entries_prefetch(zc_pool *pool, const uint64_t *owners, size_t count);

/* A page comes (by = 1) or goes (by = -1): everything that tells what the pool holds. */
void zc_entry_account(zc_pool *pool, struct zc_shard *shard, const struct zc_entry *entry,
                      int64_t by);
/* The index of a shard has changed: so has its share of the metadata. */
void zc_shard_count_bytes(zc_pool *pool, struct zc_shard *shard);
/* Takes the page out of the index; what it held is left to the caller, see zc_entry_release(). */
struct zc_entry zc_entry_take_out(zc_pool *pool, struct zc_shard *shard, uint64_t object,
                                  const struct zc_entry *entry);
/* What else has to be told that a page has left the index, or has been put over, under the shard's lock. */
void zc_entry_forget(zc_pool *pool, struct zc_shard *shard, uint64_t object,
                     const struct zc_entry *gone);
/* Frees what the entry held. No lock is needed. Returns the number of pages freed from memory, 0 or 1. */
size_t zc_entry_release(zc_pool *pool, const struct zc_entry *entry);

static inline bool zc_entry_has_zpage(const struct zc_entry *entry)
{
    return entry->kind == ZC_ENTRY_ZPAGE || entry->kind == ZC_ENTRY_RAW;
}

static inline bool zc_entry_is_cold(const struct zc_entry *entry)
{
    return entry->kind == ZC_ENTRY_COLD;
}

/* ---- of entries with a zpage, or of an extent ---- */

/* The allocator's; of a page of an extent, what zc_extent_at() takes. */
static inline zc_handle zc_entry_handle(const struct zc_entry *entry)
{
    return (zc_handle)entry->zpage.high << 32 | entry->zpage.low;
}

static inline void zc_entry_set_handle(struct zc_entry *entry, zc_handle handle)
{
    entry->zpage.low = (uint32_t)handle;
    entry->zpage.high = (uint16_t)(handle >> 32);
}

/* When the page was put or last got, by zc_store_now(). */
static inline uint16_t zc_entry_age(const struct zc_entry *entry)
{
    return __atomic_load_n(&entry->zpage.age, __ATOMIC_RELAXED);
}

/* The shard's lock may be shared. */
static inline void zc_entry_set_age(struct zc_entry *entry, uint16_t now)
{
    if (zc_entry_age(entry) != now)
        __atomic_store_n(&entry->zpage.age, now, __ATOMIC_RELAXED);
}

/* Pages that were compressed together, a power of two; the entry's is one of them. */
static inline unsigned zc_entry_pages(const struct zc_entry *entry)
{
    return entry->span == ZC_SPAN_POOR ? 1 : 1u << entry->span;
}

/* ---- written pages: their entries' words ---- */

#define ZC_WRITTEN_RAW (1ull << 63)  /* the record is the page */
#define ZC_WRITTEN_FILL (1ull << 62) /* the record is the fill word */

static inline bool zc_entry_is_written(const struct zc_entry *entry)
{
    return entry->kind == ZC_ENTRY_WRITTEN;
}

static inline zc_place zc_written_place(const struct zc_entry *entry)
{
    return entry->word & ((1ull << ZC_PLACE_BITS) - 1);
}

/* Is it made by one of the pool's codecs? */
static inline bool zc_written_is_compressed(const struct zc_entry *entry)
{
    return !(entry->word & (ZC_WRITTEN_RAW | ZC_WRITTEN_FILL));
}

/* The entry of the first page of a record, whose codec is the pool's of that number; and the other way
 * round, but for what is live, and what the store knows of the codec. */
struct zc_entry zc_written_entry(const struct zc_record *record, unsigned codec, zc_place place);
struct zc_record zc_written_record(uint64_t object, const struct zc_entry *entry);

/* The store is told that a page has left the index. Under the lock of its shard; of an entry of another
 * kind nothing is to be told. */
void zc_written_forget(zc_pool *pool, const struct zc_shard *shard, uint64_t object,
                       const struct zc_entry *gone);
/* That all pages of its record are about to leave. */
void zc_written_drop(zc_pool *pool, const struct zc_shard *shard, uint64_t object,
                     const struct zc_entry *entry);

size_t zc_dist_bucket(const zc_pool *pool, size_t size);

/* What reading pages needs, taken when it is needed first; starts as {pool}. */
struct zc_reader {
    zc_pool *pool;
    bool no_alloc; /* only what is ready to be lent is taken, and no written page is read */
    struct zc_decompressor *decompressor;
    struct zc_room *unpacked; /* an extent's pages, and behind them its bytes; NULL: not lent */
    zc_handle unpacked_word;  /* of which extent, until its shard is unlocked; 0: of none */
    size_t unpacked_size;     /* bytes of the extent */
    size_t unpacked_upto;     /* bytes of its pages that are there */
    unsigned unpacked_pages;
    void *room; /* for a record of a written page */
    size_t room_size;
    const void *record; /* what was fetched last, in `room` */
    int error;          /* or why not */
};

/* Reads the record of a written page. No lock is held: the entry, of which this is a copy, may be another by
 * the end. */
void zc_reader_fetch(struct zc_reader *reader, uint64_t object, const struct zc_entry *entry);
/* Makes the page of an entry whose shard is locked; a written one was fetched. 0, -EIO: damaged,
 * -ENOMEM, or -EAGAIN: no_alloc, and it takes more. */
int zc_entry_load(struct zc_reader *reader, const struct zc_shard *shard,
                  const struct zc_entry *entry, void *page);
/* The shard is unlocked, so an extent may become another. */
static inline void zc_reader_unlocked(struct zc_reader *reader)
{
    reader->unpacked_word = 0;
}
/* All pages of an extent, of which the entry is one, for zc_cold_warm(). As zc_entry_load(). */
int zc_reader_unpack(struct zc_reader *reader, const struct zc_shard *shard,
                     const struct zc_entry *entry);
/* Are the bytes of the extent those that were unpacked last? */
bool zc_reader_has(const struct zc_reader *reader, const struct zc_extent *extent);
void zc_reader_end(struct zc_reader *reader);

#endif
