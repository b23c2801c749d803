/* SPDX-License-Identifier: Apache-2.0 */
/* What put, get, flush and the emptying of frames share: entries, and what they stand for. */
#ifndef ZC_STORE_ENTRY_H
#define ZC_STORE_ENTRY_H

#include "store/pool.h"

/* An index's shard: runs of 256 adjacent pages stay together, so small objects have one shard. */
struct zc_shard *zc_shard_of(zc_pool *pool, uint64_t object, uint32_t index);

/* A zpage's owner, as the allocator knows it: where its entry is. */
uint64_t zc_entry_owner(const zc_pool *pool, const struct zc_shard *shard, uint64_t object,
                        uint32_t index);
/* The entry that has this zpage now, with its shard locked, and its object. NULL: none, nothing is
 * locked. */
struct zc_entry *zc_entry_lock(zc_pool *pool, uint64_t owner, zc_handle handle,
                               struct zc_shard **shard, uint64_t *object);

/* A page comes (by = 1) or goes (by = -1): everything that tells what the pool holds. */
void zc_entry_account(zc_pool *pool, struct zc_shard *shard, const struct zc_entry *entry,
                      int64_t by);
/* The index of a shard has changed: so has its share of the metadata. */
void zc_shard_count_bytes(zc_pool *pool, struct zc_shard *shard);
/* Takes the page out of the index; what it held is left to the caller, see zc_entry_release(). */
struct zc_entry zc_entry_take_out(zc_pool *pool, struct zc_shard *shard, uint64_t object,
                                  const struct zc_entry *entry);
/* Frees what the entry held. No lock is needed. Returns the number of zpages freed, 0 or 1. */
size_t zc_entry_release(zc_pool *pool, const struct zc_entry *entry);

static inline bool zc_entry_has_zpage(const struct zc_entry *entry)
{
    return entry->kind == ZC_ENTRY_ZPAGE || entry->kind == ZC_ENTRY_RAW;
}

size_t zc_dist_bucket(const zc_pool *pool, size_t size);

/* What reading pages needs, taken when it is needed first; starts as {pool}. */
struct zc_reader {
    zc_pool *pool;
    struct zc_decompressor *decompressor;
};

/* Makes the page of an entry whose shard is locked. 0, -EIO: damaged, or -ENOMEM. */
int zc_entry_load(struct zc_reader *reader, const struct zc_entry *entry, void *page);
void zc_reader_end(struct zc_reader *reader);

#endif
