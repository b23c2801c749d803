/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Allocators put zpages into frames. One allocator instance belongs to one pool; every function is
 * thread-safe. A zpage is named by a handle, whose meaning is the allocator's own. Who has a zpage's
 * handle is its owner, and beside each zpage stands who that is: so it can be told that its zpage
 * moves, or is to be dropped.
 *
 * As long as an owner uses what map() returned, it keeps others from freeing and moving the zpage.
 * Nothing here calls an owner or takes its locks, so these functions may be called under them.
 *
 * An instance tells zc_frames_charge() of all memory that it allocates beside frames, itself included.
 */
#ifndef ZC_ALLOC_ALLOC_H
#define ZC_ALLOC_ALLOC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct zc_frames;
struct zc_text;

/* Of ZC_HANDLE_BITS; 0: none. */
typedef uint64_t zc_handle;
#define ZC_HANDLE_BITS 48u

/* What stands beside a zpage for its owner: right before its bytes or, for a zpage that fills its
 * frame, in the allocator's record of the frame. */
struct zc_zhead {
    _Atomic uint32_t owner[2]; /* upper and lower half; read by others at any time */
    uint32_t checksum;         /* the owner's own */
};
#define ZC_ZHEAD_BYTES 12u            /* so a zpage is aligned to 4 bytes */
#define ZC_NO_OWNER UINT64_MAX        /* in no index yet: can be neither moved nor dropped */
#define ZC_OWNER_HIGH_MAX 0xfffffff0u /* of an owner's upper half; above: an allocator's marks */

_Static_assert(sizeof(struct zc_zhead) == ZC_ZHEAD_BYTES, "a zhead has no padding");

/* Relaxed, one half after the other: who reads an owner takes it as a hint, and verifies it under
 * the owner's lock. */
static inline void zc_owner_set(struct zc_zhead *head, uint64_t owner)
{
    atomic_store_explicit(&head->owner[0], (uint32_t)(owner >> 32), memory_order_relaxed);
    atomic_store_explicit(&head->owner[1], (uint32_t)owner, memory_order_relaxed);
}

static inline uint64_t zc_owner_get(struct zc_zhead *head)
{
    uint64_t high = atomic_load_explicit(&head->owner[0], memory_order_relaxed);

    return high << 32 | atomic_load_explicit(&head->owner[1], memory_order_relaxed);
}

struct zc_zpage {
    struct zc_zhead *head;
    void *bytes;
};

struct zc_alloc_stats {
    size_t frames;         /* held now */
    size_t zpages;         /* held now */
    size_t metadata_bytes; /* outside frames; what was charged */
};

#define ZC_FULLNESS 9u /* eighths of its slots that a zspage uses, and: none free in its frames */

/* A size class of zsmalloc's. */
struct zc_class_stats {
    uint32_t size; /* bytes a slot; page_size: a zpage alone in its frame */
    uint32_t frames_per_zspage, slots_per_zspage;
    size_t fullness[ZC_FULLNESS]; /* zspages; isolated ones are not among them */
    size_t zspages;
    size_t slots, zpages; /* in its frames; of these: used */
    size_t frames;
    size_t freeable; /* frames: what moving zpages together frees at least */
};

/* Which frames are to be emptied. */
enum zc_isolate {
    ZC_ISOLATE_COLDEST,  /* touched longest ago */
    ZC_ISOLATE_SPARSEST, /* whose zpages all fit into free space of others, or closer together */
};

struct zc_alloc_ops {
    const char *name;
    /* page_size: bytes, as the frames'. 0 or -ENOMEM. */
    int (*create)(struct zc_frames *frames, size_t page_size, void **alloc);
    /* Every zpage must have been freed. */
    void (*destroy)(void *alloc);
    /* Space for `size` bytes, 1..page_size, its owner ZC_NO_OWNER. 0: no frame to be had. */
    zc_handle (*malloc)(void *alloc, size_t size, uint32_t stamp);
    void (*free)(void *alloc, zc_handle handle);
    struct zc_zpage (*map)(void *alloc, zc_handle handle);
    /* The zpage is used now. Stamps grow, and wrap: two are compared by their signed difference.
     * Takes no lock, and writes only what changes. */
    void (*touch)(void *alloc, zc_handle handle, uint32_t stamp);
    /* Brings into the cache what map() and touch() will look at. The zpage is not freed meanwhile. */
    void (*prefetch)(void *alloc, zc_handle handle);

    /* Emptying frames: isolate() a unit of them, a frame or a zspage, in which nothing is placed from
     * then on; go through its zpages with next(); have each dropped, or moved, by its owner; end with
     * release(). Several threads may do so, each with a unit of its own. */

    /* The unit's number; 0: there is none. Exact: no other unit that is not isolated was touched
     * earlier, but one that was isolated and released may be left out for a while. */
    uint32_t (*isolate)(void *alloc, enum zc_isolate which);
    /* The zpage behind `after` (0: the first), which may have been freed meanwhile, with its owner,
     * which may be ZC_NO_OWNER, and as long as malloc() has not returned it, anything. False: no more. */
    bool (*next)(void *alloc, uint32_t isolated, zc_handle after, zc_handle *handle,
                 uint64_t *owner);
    /* Copies a zpage with its head to free space of frames in use; 0: no space, frames are never
     * taken for it. The owner, who calls this, frees the old one when it has noted the new handle. */
    zc_handle (*move)(void *alloc, zc_handle handle);
    /* Back to the others, or to the OS. Returns how many frames went to the OS. After 0, the next
     * sparsest unit may be the same one again. */
    size_t (*release)(void *alloc, uint32_t isolated);

    void (*get_stats)(void *alloc, struct zc_alloc_stats *out);
    /* Adds to the first `max` of out[], one a size class by size; all instances of a page size have
     * the same. Returns how many classes there are. NULL: none. */
    size_t (*class_stats)(void *alloc, struct zc_class_stats *out, size_t max);
    /* Would moving zpages together free an eighth of the frames, or more? Cheap. */
    bool (*is_sparse)(void *alloc);
    /* Goes through everything: lists, counts, accounting. 0, or -EUCLEAN with what is wrong. */
    int (*check)(void *alloc, struct zc_text *why);
};

/* NULL: no allocator of that name. */
const struct zc_alloc_ops *zc_alloc_find(const char *name);

extern const struct zc_alloc_ops zc_zbud_ops, zc_zsmalloc_ops;

#endif
