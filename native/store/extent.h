/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Extents: runs of adjacent, aligned pages of an object that were compressed together, a page that was not
 * there counting as zeros. A shard has a record of each. The bytes are kept as parts, zpages of the cold
 * allocator, of page_size bytes but for the last. A part's owner is that of the first live page.
 *
 * Records are of ZC_EXTENT_CLASSES sizes, by how many parts there is room for; what an entry has for a handle
 * is the record's number with the class below. All is protected by the shard's lock; what is said to change
 * anything needs it alone, the rest shared.
 */
#ifndef ZC_STORE_EXTENT_H
#define ZC_STORE_EXTENT_H

#include "store/pool.h"

struct zc_extent {
    uint32_t object; /* its number in the index */
    uint32_t first;  /* index of the first page */
    uint32_t size;   /* bytes */
    uint32_t checksum;
    uint16_t live;     /* bit i: page first + i is in it */
    uint16_t made;     /* the same when it was made */
    uint8_t codec : 4; /* both as in the entries of its pages */
    uint8_t span : 3;
    uint8_t is_poor : 1; /* to make it anew saves nothing, as long as no page leaves */
    uint8_t parts;       /* how many */
    zc_handle part[];    /* as many as the class has room for */
};

void zc_extents_init(struct zc_shard *shard);
/* What the records cost. */
size_t zc_extents_bytes(const struct zc_shard *shard);

static inline struct zc_extent *zc_extent_at(const struct zc_shard *shard, zc_handle word)
{
    return zc_table_at(&shard->extents[word % ZC_EXTENT_CLASSES],
                       (uint32_t)(word / ZC_EXTENT_CLASSES));
}

/* Puts the bytes into parts, which nobody has yet. No lock is needed. false: no frame to be had. */
bool zc_parts_make(zc_pool *pool, const void *bytes, size_t size, uint32_t stamp, zc_handle *parts);
void zc_parts_free(zc_pool *pool, const zc_handle *parts, size_t count);

/* The extent with these parts, whose owner is set. The word of its pages' entries; 0: out of memory. */
uint64_t zc_extent_add(zc_pool *pool, struct zc_shard *shard, const struct zc_extent *made,
                       const zc_handle *parts);
/* A page has left the index: of an entry of another kind nothing is to be told. */
void zc_extent_leave(zc_pool *pool, struct zc_shard *shard, const struct zc_entry *gone);

/* Copies the bytes, extent->size, to where they are wanted. 0, or -EIO: damaged. */
int zc_extent_read(zc_pool *pool, const struct zc_extent *extent, void *bytes);
/* Are these its bytes? */
bool zc_extent_has_bytes(zc_pool *pool, const struct zc_extent *extent, const void *bytes);
void zc_extent_touch(zc_pool *pool, const struct zc_extent *extent, uint32_t stamp);
/* What the owner of its parts has to be. */
uint64_t zc_extent_owner(const zc_pool *pool, const struct zc_shard *shard,
                         const struct zc_extent *extent);

/* Who has a zpage. */
struct zc_holder {
    struct zc_shard *shard;
    uint64_t object;
    struct zc_entry *entry;   /* of an extent: its first live page's */
    struct zc_extent *extent; /* NULL: it is the entry itself */
};

/* Of that tier, with the shard locked. False: nobody has it, nothing is locked. */
bool zc_holder_lock(zc_pool *pool, const struct zc_tier *tier, uint64_t owner, zc_handle handle,
                    struct zc_holder *out);
/* It has another handle from now on. */
void zc_holder_moved(const struct zc_holder *holder, zc_handle from, zc_handle to);

static inline unsigned zc_extent_count(uint16_t pages)
{
    return (unsigned)__builtin_popcount(pages);
}

/* Has it fewer than half of its pages left, and is worth being made anew? */
static inline bool zc_extent_is_sparse(const struct zc_extent *extent)
{
    return 2 * zc_extent_count(extent->live) < zc_extent_count(extent->made) && !extent->is_poor;
}

/* To make it anew has saved nothing. */
void zc_extent_set_poor(struct zc_shard *shard, struct zc_extent *extent, bool is_poor);

#endif
