/* SPDX-License-Identifier: Apache-2.0 */
/* Readahead: the pages of an extent become zpages again. */
#include <string.h>

#include "base/base.h"
#include "base/hash.h"
#include "store/cold.h"
#include "store/entry.h"
#include "store/extent.h"

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
