/* SPDX-License-Identifier: Apache-2.0 */
#include "store/extent.h"

#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "base/hash.h"
#include "store/entry.h"

static size_t parts_of_class(unsigned class)
{
    return (size_t)2 << class;
}

static unsigned class_for(size_t parts)
{
    unsigned class = 0;

    while (parts_of_class(class) < parts)
        class++;
    return class;
}

void zc_extents_init(struct zc_shard *shard)
{
    _Static_assert((2u << (ZC_EXTENT_CLASSES - 1)) == ZC_EXTENT_PAGES, "a part for each page");

    for (unsigned i = 0; i < ZC_EXTENT_CLASSES; i++)
        zc_table_init(&shard->extents[i],
                      sizeof(struct zc_extent) + parts_of_class(i) * sizeof(zc_handle));
}

size_t zc_extents_bytes(const struct zc_shard *shard)
{
    size_t bytes = 0;

    for (unsigned i = 0; i < ZC_EXTENT_CLASSES; i++)
        bytes += shard->extents[i].bytes;
    return bytes;
}

/* ---- parts ---- */

void zc_parts_free(zc_pool *pool, const zc_handle *parts, size_t count)
{
    struct zc_tier cold = zc_tier(pool, 1);

    for (size_t i = 0; i < count; i++)
        cold.ops->free(cold.alloc, parts[i]);
}

bool zc_parts_make(zc_pool *pool, const void *bytes, size_t size, uint32_t stamp, zc_handle *parts)
{
    struct zc_tier cold = zc_tier(pool, 1);
    size_t page_size = pool->store->page_size;

    for (size_t at = 0, i = 0; at < size; at += page_size, i++) {
        size_t len = zc_min(page_size, size - at);
        parts[i] = cold.ops->malloc(cold.alloc, len, stamp);
        if (!parts[i]) {
            zc_parts_free(pool, parts, i);
            return false;
        }
        memcpy(cold.ops->map(cold.alloc, parts[i]).bytes, (const char *)bytes + at, len);
    }
    return true;
}

uint64_t zc_extent_owner(const zc_pool *pool, const struct zc_shard *shard,
                         const struct zc_extent *extent)
{
    uint32_t high = extent->object << ZC_SHARD_BITS | (uint32_t)(shard - pool->shards);

    return (uint64_t)high << 32 | (extent->first + (unsigned)__builtin_ctz(extent->live));
}

static void own(zc_pool *pool, const struct zc_shard *shard, const struct zc_extent *extent)
{
    struct zc_tier cold = zc_tier(pool, 1);
    uint64_t owner = zc_extent_owner(pool, shard, extent);

    for (size_t i = 0; i < extent->parts; i++)
        zc_owner_set(cold.ops->map(cold.alloc, extent->part[i]).head, owner);
}

void zc_extent_touch(zc_pool *pool, const struct zc_extent *extent, uint32_t stamp)
{
    struct zc_tier cold = zc_tier(pool, 1);

    for (size_t i = 0; i < extent->parts; i++)
        cold.ops->touch(cold.alloc, extent->part[i], stamp);
}

int zc_extent_read(zc_pool *pool, const struct zc_extent *extent, void *bytes)
{
    struct zc_tier cold = zc_tier(pool, 1);
    size_t page_size = pool->store->page_size;

    for (size_t at = 0, i = 0; at < extent->size; at += page_size, i++)
        memcpy((char *)bytes + at, cold.ops->map(cold.alloc, extent->part[i]).bytes,
               zc_min(page_size, extent->size - at));
    return zc_checksum(bytes, extent->size) == extent->checksum ? 0 : -EIO;
}

bool zc_extent_has_bytes(zc_pool *pool, const struct zc_extent *extent, const void *bytes)
{
    struct zc_tier cold = zc_tier(pool, 1);
    size_t page_size = pool->store->page_size;

    for (size_t at = 0, i = 0; at < extent->size; at += page_size, i++) {
        if (memcmp((const char *)bytes + at, cold.ops->map(cold.alloc, extent->part[i]).bytes,
                   zc_min(page_size, extent->size - at)) != 0)
            return false;
    }
    return true;
}

/* ---- records ---- */

uint64_t zc_extent_add(zc_pool *pool, struct zc_shard *shard, const struct zc_extent *made,
                       const zc_handle *parts)
{
    unsigned class = class_for(made->parts);
    uint32_t number = zc_table_add(&shard->extents[class]);
    if (!number)
        return 0;

    uint64_t word = (uint64_t)number * ZC_EXTENT_CLASSES + class;
    struct zc_extent *extent = zc_extent_at(shard, word);
    *extent = *made;
    memcpy(extent->part, parts, made->parts * sizeof(*parts));
    own(pool, shard, extent);
    shard->stats.cold_extents++;
    shard->stats.cold_bytes += extent->size;
    return word;
}

void zc_extent_set_poor(struct zc_shard *shard, struct zc_extent *extent, bool is_poor)
{
    shard->sparse -= zc_extent_is_sparse(extent);
    extent->is_poor = is_poor;
    shard->sparse += zc_extent_is_sparse(extent);
}

static void drop(zc_pool *pool, struct zc_shard *shard, zc_handle word)
{
    struct zc_extent *extent = zc_extent_at(shard, word);

    zc_parts_free(pool, extent->part, extent->parts);
    shard->stats.cold_extents--;
    shard->stats.cold_bytes -= extent->size;
    zc_table_remove(&shard->extents[word % ZC_EXTENT_CLASSES],
                    (uint32_t)(word / ZC_EXTENT_CLASSES));
}

void zc_extent_leave(zc_pool *pool, struct zc_shard *shard, const struct zc_entry *gone)
{
    if (gone->kind != ZC_ENTRY_COLD)
        return;

    struct zc_extent *extent = zc_extent_at(shard, zc_entry_handle(gone));
    bool was_first = extent->first + (unsigned)__builtin_ctz(extent->live) == gone->index;
    shard->sparse -= zc_extent_is_sparse(extent);
    extent->live &= (uint16_t)~(1u << (gone->index - extent->first));
    extent->is_poor = false;
    if (!extent->live) {
        drop(pool, shard, zc_entry_handle(gone));
        return;
    }
    shard->sparse += zc_extent_is_sparse(extent);
    if (was_first)
        own(pool, shard, extent);
}

/* ---- by a zpage ---- */

static zc_handle *find_part(struct zc_extent *extent, zc_handle part)
{
    for (size_t i = 0; i < extent->parts; i++) {
        if (extent->part[i] == part)
            return &extent->part[i];
    }
    return NULL;
}

bool zc_holder_lock(zc_pool *pool, const struct zc_tier *tier, uint64_t owner, zc_handle handle,
                    struct zc_holder *out)
{
    *out = (struct zc_holder){0};
    if (!tier->is_cold) {
        out->entry = zc_entry_lock(pool, owner, handle, &out->shard, &out->object);
        return out->entry != NULL;
    }
    out->entry = zc_entry_lock_any(pool, owner, &out->shard, &out->object);
    if (!out->entry)
        return false;
    if (zc_entry_is_cold(out->entry)) {
        out->extent = zc_extent_at(out->shard, zc_entry_handle(out->entry));
        if (find_part(out->extent, handle))
            return true;
    }
    zc_shard_unlock(out->shard);
    return false;
}

void zc_holder_moved(const struct zc_holder *holder, zc_handle from, zc_handle to)
{
    if (holder->extent)
        *find_part(holder->extent, from) = to;
    else
        zc_entry_set_handle(holder->entry, to);
}
