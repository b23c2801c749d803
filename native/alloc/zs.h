/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zsmalloc, from the inside.
 *
 * A zspage is an extent of 1..8 frames, cut into slots of one size. A slot is a zhead and a zpage's
 * bytes behind it, and need not end where a frame does: an extent is adjacent in the address space,
 * so a zpage's bytes are. All zspages whose slots are of one size are a class. A zpage too large to
 * share an extent has a frame of its own, and its zhead in the zspage's record: it is huge.
 *
 * A zspage is filled from its front on. Frames are taken for it when all slots that lie wholly in
 * those before are used, a 16th of its class's frames at a time, so that a class of a few zpages
 * does not cost a whole extent. Free slots are chained through their zheads.
 *
 * A zspage waits in the list of its fullness, in eighths of its slots. A zpage goes into the fullest
 * that has a free slot, so that sparse ones become empty; one that does, gives its frames back at
 * once. Lists are rings of record numbers, their heads the first.
 *
 * A pinned zspage is in no list: nothing is placed in it, and it stays when its last zpage goes. It is
 * pinned while frames are taken for it, and while it is isolated.
 *
 * Compaction empties the sparsest zspages of a class into the free slots of others, and where these do
 * not suffice, moves zpages to the front of their own zspage, until no frame of the class could be
 * spared. What then is left of a class with few frames goes into larger slots of other classes.
 *
 * Locks, in this order: a class's `filling`, which he holds who gets frames for the class; coldest's;
 * the table's; a class's own. The last one is held for one slot's work, whatever the number of slots,
 * zspages and zpages, the table's for SCAN records'. Making slots, searching a zspage for zpages or
 * free slots, copying a zpage, getting frames and giving them back: all of that is done with neither.
 * Only check() does all its work under them.
 */
#ifndef ZC_ALLOC_ZS_H
#define ZC_ALLOC_ZS_H

#include <pthread.h>
#include <stdatomic.h>

#include "alloc/alloc.h"
#include "alloc/coldest.h"
#include "base/base.h"
#include "base/lock.h"
#include "base/table.h"
#include "frame/frame.h"

#define ZS_CLASSES 255u     /* at most */
#define ZS_STEPS 512u       /* sizes of slots told apart, at most */
#define ZS_SLOT_MIN 32u     /* bytes */
#define ZS_ALIGN 8u         /* bytes: a slot's size and address */
#define ZS_HUGE 0u          /* the class */
#define ZS_NO_SLOT 0xffffu  /* ends a chain */
#define ZS_FREE 0xfffffffeu /* in a free slot's owner[0]; owner[1] is the next one */

_Static_assert(ZS_FREE > ZC_OWNER_HIGH_MAX && ZS_FREE != ZC_NO_OWNER >> 32, "told from all owners");

struct zs_shape {
    uint32_t size;  /* bytes a slot */
    uint16_t slots; /* a zspage */
    uint8_t frames; /* a zspage */
};

/* From the largest slots down; the first are huge. */
struct zs_shapes {
    size_t page_size;
    unsigned page_shift, step_shift;
    unsigned count;
    uint8_t of[ZS_STEPS + 1]; /* the class of slots of up to so many steps */
    struct zs_shape shape[ZS_CLASSES];
};

enum zs_list {
    ZS_NONE,     /* pinned, or no zspage (yet, or any more) */
    ZS_SPARSEST, /* less than an eighth of its slots used; and so on */
    ZS_FULLEST = ZS_SPARSEST + ZC_FULLNESS - 2,
    ZS_SHORT, /* no free slot, but frames that are yet to be taken */
    ZS_FULL,  /* kept in no list, but counted as one */
    /* Isolated, so pinned: */
    ZS_COLD,
    ZS_SPARSE, /* its zpages are to go into others of its class, or to its front */
    ZS_SPREAD, /* … and into classes of larger slots */
};
#define ZS_LISTS (ZS_SHORT + 1)

/* What does not change as long as there is a zpage in it is read without a lock. */
struct zs_zspage {
    uint32_t page; /* of its address, in page_size; lower part */
    uint8_t page_high;
    uint8_t class;
    uint8_t frames;       /* taken; 0: none yet, or any more */
    _Atomic uint8_t list; /* written under the class's lock */
    union {
        struct {
            /* In its list. Pinned: the first slot that may be free; zpages when it was pinned. */
            uint32_t next, prev;
            uint16_t used; /* slots */
            uint16_t free; /* the first of the chain */
        };
        struct zc_zhead head; /* of a huge zpage */
    };
    _Atomic uint32_t stamp;
};

_Static_assert(sizeof(struct zs_zspage) == 24, "a record is small");

struct zs_class {
    struct zc_lock filling, lock; /* of a word each: a pool has dozens of classes */
    uint32_t first[ZS_LISTS];
    uint32_t count[ZS_FULL + 1]; /* zspages, [ZS_NONE]: pinned ones */
    uint16_t listed;             /* bit n: list n is not empty */
    uint32_t misses;             /* sparse zspages released in vain since a zpage was freed */
    /* Written under the lock, read without. */
    atomic_bool is_hopeless; /* as many misses as zspages in lists */
    _Atomic uint32_t room;   /* free slots of all that are not pinned */
    _Atomic uint32_t frames, slots, zpages;
};

struct zsmalloc {
    struct zc_frames *frames;
    struct zs_shapes shapes;
    pthread_mutex_t table_lock;
    struct zc_table table;  /* of zspages */
    _Atomic size_t charged; /* written under the table's lock */
    struct zc_coldest coldest;
    _Atomic unsigned turn; /* where in classes to go on with the search for sparse zspages */
    struct zs_class classes[];
};

/* page_size: bytes, a power of two. */
void zc_zs_shapes_init(struct zs_shapes *shapes, size_t page_size);

/* The class for zpages of `size` bytes, 1..page_size. */
static inline unsigned zs_class_of(const struct zs_shapes *shapes, size_t size)
{
    size_t slot = size + ZC_ZHEAD_BYTES;

    if (slot > shapes->page_size)
        return ZS_HUGE;

    unsigned class =
        shapes->of[(slot + ((size_t)1 << shapes->step_shift) - 1) >> shapes->step_shift];
    bool has_smaller = class + 1 < shapes->count && shapes->shape[class + 1].size >= slot;
    return class + has_smaller;
}

/* Slots that lie wholly in the first `frames` frames. */
static inline unsigned zs_slots_in(const struct zs_shapes *shapes, unsigned class, unsigned frames)
{
    return (unsigned)((uint32_t)frames << shapes->page_shift) / shapes->shape[class].size;
}

/* Frames that hold the first `slots` slots. */
static inline unsigned zs_frames_for(const struct zs_shapes *shapes, unsigned class, unsigned slots)
{
    size_t bytes = (size_t)slots * shapes->shape[class].size;

    return (unsigned)((bytes + shapes->page_size - 1) >> shapes->page_shift);
}

static inline zc_handle zs_handle(uint32_t number, unsigned slot)
{
    return (zc_handle)number << 16 | slot;
}

static inline uint32_t zs_number_of(zc_handle handle)
{
    return (uint32_t)(handle >> 16);
}

static inline unsigned zs_slot_of(zc_handle handle)
{
    return handle & 0xffff;
}

static inline struct zs_zspage *zs_at(const struct zsmalloc *zs, uint32_t number)
{
    return zc_table_at(&zs->table, number);
}

static inline char *zs_address(const struct zsmalloc *zs, const struct zs_zspage *zspage)
{
    uint64_t page = (uint64_t)zspage->page_high << 32 | zspage->page;

    return (char *)(uintptr_t)(page << zs->shapes.page_shift);
}

static inline struct zc_zhead *zs_head(const struct zsmalloc *zs, struct zs_zspage *zspage,
                                       unsigned slot)
{
    if (zspage->class == ZS_HUGE)
        return &zspage->head;
    return (struct zc_zhead *)(zs_address(zs, zspage) +
                               (size_t)slot * zs->shapes.shape[zspage->class].size);
}

/* Who sees the mark, without a lock, may write what stands beside it. */
static inline bool zs_is_free(struct zc_zhead *head)
{
    return atomic_load_explicit(&head->owner[0], memory_order_acquire) == ZS_FREE;
}

static inline void zs_set_next(struct zc_zhead *head, unsigned next)
{
    atomic_store_explicit(&head->owner[1], next, memory_order_relaxed);
}

static inline void zs_set_free(struct zc_zhead *head, unsigned next)
{
    zs_set_next(head, next);
    atomic_store_explicit(&head->owner[0], ZS_FREE, memory_order_release);
}

static inline enum zs_list zs_list(struct zs_zspage *zspage)
{
    return atomic_load_explicit(&zspage->list, memory_order_relaxed);
}

static inline bool zs_is_pinned(enum zs_list list)
{
    return list == ZS_NONE || list > ZS_FULL;
}

static inline uint32_t zs_load(const _Atomic uint32_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* A counter that only its lock's holder writes. */
static inline void zs_add(_Atomic uint32_t *counter, uint32_t by)
{
    atomic_store_explicit(counter, zs_load(counter) + by, memory_order_relaxed);
}

/* The zspage is used now. */
static inline void zs_touch(struct zs_zspage *zspage, uint32_t stamp)
{
    if (zs_load(&zspage->stamp) != stamp)
        atomic_store_explicit(&zspage->stamp, stamp, memory_order_relaxed);
}

/* Free slots in the frames of a zspage. */
unsigned zc_zs_free_slots(const struct zsmalloc *zs, const struct zs_zspage *zspage);

/* Under the class's lock: */

/* A slot of the fullest zspage that has a free one; 0: there is none. */
zc_handle zc_zs_take(struct zsmalloc *zs, unsigned class);
/* Out of its list; `as` says what for. */
void zc_zs_pin(struct zsmalloc *zs, uint32_t number, enum zs_list as);
/* Back into one, behind the others if `last`. Returns the frames it had, if no zpage was left: it then
 * is to be dropped. */
unsigned zc_zs_unpin(struct zsmalloc *zs, uint32_t number, bool last);
/* The list that it belongs to. */
enum zs_list zc_zs_list_for(const struct zsmalloc *zs, const struct zs_zspage *zspage);

/* Without it: gives back a zspage, of which `frames` are taken, and its number. */
void zc_zs_drop(struct zsmalloc *zs, uint32_t number, unsigned frames);

/* The functions of the vtable that are elsewhere. */
uint32_t zc_zs_isolate(void *alloc, enum zc_isolate which);
bool zc_zs_next(void *alloc, uint32_t isolated, zc_handle after, zc_handle *handle,
                uint64_t *owner);
zc_handle zc_zs_move(void *alloc, zc_handle handle);
size_t zc_zs_release(void *alloc, uint32_t isolated);
int zc_zs_check(void *alloc, struct zc_text *why);

#endif
