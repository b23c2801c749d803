/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index of one shard: object id → object, and for each object index → entry.
 *
 * An object's entries lie in leaves, small open-addressed tables, so that a look-up in a large object
 * costs one cache miss. Which leaf is said by the top bits of the index's hash (extendible hashing,
 * Fagin et al. 1979): a full leaf splits in two, two nearly empty ones merge, and no operation ever
 * moves more than one leaf's entries. Hashes are keyed by a secret, so that no client can choose
 * indexes that collide.
 *
 * The shard's lock protects all of it. An entry's address is valid until the next insert or remove.
 */
#ifndef ZC_STORE_INDEX_H
#define ZC_STORE_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/table.h"
#include "frame/frame.h"

enum zc_entry_kind {
    ZC_ENTRY_EMPTY,   /* no entry; in the leaf's own use */
    ZC_ENTRY_ZPAGE,   /* the allocator's handle and an age stamp, size: bytes */
    ZC_ENTRY_RAW,     /* the same, uncompressed (keep_rejected) */
    ZC_ENTRY_FILL,    /* word: the fill word of a same-filled page; size: 0 */
    ZC_ENTRY_WRITTEN, /* word: where its record is in the backing store; see zc_written_place() */
    ZC_ENTRY_COLD,    /* its extent, see zc_extent_at(), and an age stamp; size: 0 */
};

#define ZC_SPAN_POOR 7u /* of a page by itself: to recompress it has saved nothing */

struct zc_entry {
    uint32_t index;
    uint32_t size : 21, kind : 3;
    uint32_t is_checked : 1; /* the zpage's checksum was taken */
    uint32_t codec : 4;      /* which of the pool's it was compressed with */
    uint32_t span : 3;       /* log2 of the pages that were compressed together; or ZC_SPAN_POOR */
    union {
        uint64_t word;
        struct {
            uint32_t low; /* of the handle */
            uint16_t high;
            uint16_t age; /* written by those who share the shard's lock, too */
        } zpage;          /* see zc_entry_handle() */
    };
};

struct zc_index {
    struct zc_frames *frames; /* where the leaves come from */
    uint64_t secret;
    struct zc_table objects;
    uint32_t *buckets; /* numbers of objects, by object id, chained */
    size_t bucket_count;
    size_t heap, pieces; /* bytes of directories and buckets; of leaves */
    size_t bytes;        /* of everything allocated here */
};

void zc_index_init(struct zc_index *index, struct zc_frames *frames, uint64_t secret);

/* NULL: not there. */
struct zc_entry *zc_index_find(const struct zc_index *index, uint64_t object, uint32_t i);

/* Brings into the cache what zc_index_find will look at: where the leaf is, some time later the entry
 * itself. */
void zc_index_prefetch_leaf(const struct zc_index *index, uint64_t object, uint32_t i);
void zc_index_prefetch_entry(const struct zc_index *index, uint64_t object, uint32_t i);
void zc_index_prefetch_by_number(const struct zc_index *index, uint32_t number, uint32_t i);

/* A new entry of kind ZC_ENTRY_EMPTY, which the caller sets at once; the key must not be there.
 * NULL: out of memory, nothing changed. */
struct zc_entry *zc_index_insert(struct zc_index *index, uint64_t object, uint32_t i);

/* An object that is there has a number, of this index alone, for as long as it has entries. */
uint32_t zc_index_number(const struct zc_index *index, uint64_t object);
/* The entry by that number, which may be any, and the object. NULL: not there. */
struct zc_entry *zc_index_find_by_number(const struct zc_index *index, uint32_t number, uint32_t i,
                                         uint64_t *object);

/* The key must be there. */
void zc_index_remove(struct zc_index *index, uint64_t object, uint32_t i);

/* Removes the object, or all objects, handing every entry to `drop` first: an object's entries can be
 * found until all of them were. Returns how many. */
typedef void zc_index_drop(void *arg, uint64_t object, const struct zc_entry *entry);
size_t zc_index_remove_object(struct zc_index *index, uint64_t object, zc_index_drop *drop,
                              void *arg);
size_t zc_index_clear(struct zc_index *index, zc_index_drop *drop, void *arg);

/* Hands every entry to `visit`, with its object's number, until that says no. */
typedef bool zc_index_visit(void *arg, uint32_t number, struct zc_entry *entry);
bool zc_index_walk(const struct zc_index *index, zc_index_visit *visit, void *arg);

/* Does the index hold together: every count, depth and place? NULL: yes. Else what does not. */
const char *zc_index_check(const struct zc_index *index);

#endif
