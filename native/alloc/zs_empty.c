/* SPDX-License-Identifier: Apache-2.0 */
/* zsmalloc: emptying zspages, the coldest or the sparsest. See zs.h. */
#include <string.h>

#include "alloc/zs.h"

#define SCAN 256u /* records looked at under one lock */
#define FEW 16u   /* frames: a class that has fewer may be emptied into slots of others */
/* Borrowed slots are larger by that part at most: they are free anyway, and a frame goes. */
#define LENDER_SHARE 4u

static uint32_t count_zspages(void *alloc)
{
    struct zsmalloc *zs = alloc;

    pthread_mutex_lock(&zs->table_lock);
    uint32_t count = zs->table.used;
    pthread_mutex_unlock(&zs->table_lock);
    return count;
}

static uint32_t scan(void *alloc, struct zc_coldest *coldest, uint32_t from)
{
    struct zsmalloc *zs = alloc;

    pthread_mutex_lock(&zs->table_lock);
    uint32_t end = (uint32_t)zc_min((size_t)from + SCAN, (size_t)zs->table.top + 1);
    for (uint32_t number = from; number < end; number++) {
        struct zs_zspage *zspage = zs_at(zs, number);
        if (!zs_is_pinned(zs_list(zspage)))
            zc_coldest_offer(coldest, number, zs_load(&zspage->stamp));
    }
    bool is_last = end > zs->table.top;
    pthread_mutex_unlock(&zs->table_lock);
    return is_last ? 0 : end;
}

/* With the table's lock, that a record keeps its class. */
static bool isolate_cold(struct zsmalloc *zs, uint32_t number, uint32_t *stamp)
{
    struct zs_zspage *zspage = zs_at(zs, number);
    struct zs_class *class = &zs->classes[zspage->class];
    uint32_t before = *stamp;
    bool is_right = false;

    zc_lock_take(&class->lock);
    if (!zs_is_pinned(zs_list(zspage))) {
        *stamp = zs_load(&zspage->stamp);
        is_right = *stamp == before;
    }
    if (is_right)
        zc_zs_pin(zs, number, ZS_COLD);
    zc_lock_leave(&class->lock);
    return is_right;
}

static bool isolate(void *alloc, uint32_t number, uint32_t *stamp)
{
    struct zsmalloc *zs = alloc;

    pthread_mutex_lock(&zs->table_lock);
    bool done = number <= zs->table.top && isolate_cold(zs, number, stamp);
    pthread_mutex_unlock(&zs->table_lock);
    return done;
}

static const struct zc_coldest_ops coldest_ops = {
    .count = count_zspages,
    .scan = scan,
    .isolate = isolate,
};

static size_t largest_lent(const struct zsmalloc *zs, unsigned class)
{
    size_t size = zs->shapes.shape[class].size;

    return size + size / LENDER_SHARE;
}

/* The next class of larger slots, of at most `most` bytes, that has a free one; ZS_HUGE: none has. Needs
 * no lock. */
static unsigned lender(const struct zsmalloc *zs, unsigned class, size_t most)
{
    while (--class > ZS_HUGE && zs->shapes.shape[class].size <= most) {
        if (zs_load(&zs->classes[class].room) > 0)
            return class;
    }
    return ZS_HUGE;
}

/* Free slots that a class of few frames may borrow. */
static size_t count_lent(const struct zsmalloc *zs, unsigned class)
{
    size_t most = largest_lent(zs, class), room = 0;

    if (zs_load(&zs->classes[class].frames) >= FEW)
        return 0;
    for (unsigned c = lender(zs, class, most); c != ZS_HUGE; c = lender(zs, c, most))
        room += zs_load(&zs->classes[c].room);
    return room;
}

/* Would the zspage have fewer frames, or none, once its zpages went into the free slots of others and
 * into `lent` ones, as far as these go, and the rest to its front? */
static bool is_worthwhile(const struct zsmalloc *zs, unsigned class, uint32_t number, size_t lent)
{
    const struct zs_zspage *zspage = zs_at(zs, number);
    size_t own = zs_load(&zs->classes[class].room) - zc_zs_free_slots(zs, zspage);
    size_t others = zc_min(own + lent, zspage->used);

    return zs_frames_for(&zs->shapes, class, zspage->used - (unsigned)others) < zspage->frames;
}

/* Has the class more frames than it needs if its zpages lay closely? Needs no lock. */
static bool has_spare(const struct zsmalloc *zs, unsigned class)
{
    const struct zs_shape *shape = &zs->shapes.shape[class];
    uint32_t zpages = zs_load(&zs->classes[class].zpages);
    size_t needed = (size_t)(zpages / shape->slots) * shape->frames +
                    zs_frames_for(&zs->shapes, class, zpages % shape->slots);

    return zs_load(&zs->classes[class].frames) > needed;
}

static uint32_t isolate_sparse(struct zsmalloc *zs, unsigned class, enum zs_list as)
{
    struct zs_class *c = &zs->classes[class];
    size_t lent = as == ZS_SPREAD ? count_lent(zs, class) : 0;
    bool has_chance = as == ZS_SPREAD ? lent > 0 : has_spare(zs, class);

    if (!has_chance || atomic_load_explicit(&c->is_hopeless, memory_order_relaxed))
        return 0;

    zc_lock_take(&c->lock);
    /* A zspage all of whose slots are used, but that has few frames, may be the one to go. */
    uint32_t number = c->listed ? c->first[__builtin_ctz(c->listed)] : 0;
    if (number && !is_worthwhile(zs, class, number, lent))
        number = c->first[ZS_SHORT];
    if (number && !is_worthwhile(zs, class, number, lent))
        number = 0;
    if (number)
        zc_zs_pin(zs, number, as);
    zc_lock_leave(&c->lock);
    return number;
}

static uint32_t isolate_sparsest(struct zsmalloc *zs, enum zs_list as)
{
    unsigned count = zs->shapes.count - 1; /* huge ones cannot be moved */
    unsigned turn = atomic_load_explicit(&zs->turn, memory_order_relaxed);

    for (unsigned i = 0; i < count; i++) {
        unsigned at = (turn + i) % count;
        uint32_t number = isolate_sparse(zs, ZS_HUGE + 1 + at, as);
        if (!number)
            continue;
        atomic_store_explicit(&zs->turn, at, memory_order_relaxed);
        return number;
    }
    return 0;
}

uint32_t zc_zs_isolate(void *alloc, enum zc_isolate which)
{
    struct zsmalloc *zs = alloc;

    if (which == ZC_ISOLATE_COLDEST)
        return zc_coldest_next(&zs->coldest, zs, &coldest_ops);

    uint32_t number = isolate_sparsest(zs, ZS_SPARSE);
    return number ? number : isolate_sparsest(zs, ZS_SPREAD);
}

/* From the last slot to the first, so that the frames in the rear are emptied if not all can be. */
bool zc_zs_next(void *alloc, uint32_t isolated, zc_handle after, zc_handle *handle, uint64_t *owner)
{
    struct zsmalloc *zs = alloc;
    struct zs_zspage *zspage = zs_at(zs, isolated);
    unsigned slot =
        after ? zs_slot_of(after) : zs_slots_in(&zs->shapes, zspage->class, zspage->frames);

    while (slot-- > 0) {
        struct zc_zhead *head = zs_head(zs, zspage, slot);
        if (zs_is_free(head))
            continue;
        *handle = zs_handle(isolated, slot);
        *owner = zc_owner_get(head);
        if (*owner >> 32 > ZC_OWNER_HIGH_MAX)
            *owner = ZC_NO_OWNER; /* it may also have been freed just now */
        return true;
    }
    return false;
}

/* A free slot for a zpage of an isolated zspage whose `used` zpages fit into frames before it.
 * ZS_NO_SLOT: it lies within these, or there is none. */
static unsigned slide(struct zsmalloc *zs, struct zs_zspage *zspage, unsigned slot, unsigned used)
{
    unsigned frames = zs_frames_for(&zs->shapes, zspage->class, used);
    unsigned end = zs_slots_in(&zs->shapes, zspage->class, frames);

    if (slot < end)
        return ZS_NO_SLOT;
    while (zspage->next < end) {
        unsigned to = zspage->next++;
        if (zs_is_free(zs_head(zs, zspage, to)))
            return to;
    }
    return ZS_NO_SLOT;
}

/* Out of the chain's middle: release() makes the chain anew. */
static zc_handle take_isolated(struct zsmalloc *zs, uint32_t number, unsigned slot)
{
    struct zs_zspage *zspage = zs_at(zs, number);
    struct zs_class *class = &zs->classes[zspage->class];

    if (slot == ZS_NO_SLOT)
        return 0;
    zc_lock_take(&class->lock);
    zspage->used++;
    zs_add(&class->zpages, 1);
    zc_owner_set(zs_head(zs, zspage, slot), ZC_NO_OWNER);
    zc_lock_leave(&class->lock);
    return zs_handle(number, slot);
}

static zc_handle take_lent(struct zsmalloc *zs, unsigned class)
{
    size_t most = largest_lent(zs, class);
    zc_handle handle = 0;

    while (!handle && (class = lender(zs, class, most)) != ZS_HUGE) {
        zc_lock_take(&zs->classes[class].lock);
        handle = zc_zs_take(zs, class);
        zc_lock_leave(&zs->classes[class].lock);
    }
    return handle;
}

static void copy_zpage(struct zsmalloc *zs, zc_handle from, zc_handle to)
{
    struct zs_zspage *source = zs_at(zs, zs_number_of(from));
    struct zs_zspage *target = zs_at(zs, zs_number_of(to));
    struct zc_zhead *old = zs_head(zs, source, zs_slot_of(from));
    struct zc_zhead *new = zs_head(zs, target, zs_slot_of(to));
    uint32_t stamp = zs_load(&source->stamp);

    memcpy(new + 1, old + 1, zs->shapes.shape[source->class].size - ZC_ZHEAD_BYTES);
    new->checksum = old->checksum;
    zc_owner_set(new, zc_owner_get(old));
    if ((int32_t)(stamp - zs_load(&target->stamp)) > 0)
        zs_touch(target, stamp);
}

zc_handle zc_zs_move(void *alloc, zc_handle handle)
{
    struct zsmalloc *zs = alloc;
    uint32_t number = zs_number_of(handle);
    struct zs_zspage *zspage = zs_at(zs, number);
    struct zs_class *class = &zs->classes[zspage->class];

    if (zspage->class == ZS_HUGE)
        return 0;

    zc_lock_take(&class->lock);
    zc_handle moved = zc_zs_take(zs, zspage->class);
    unsigned used = zspage->used;
    enum zs_list list = zs_list(zspage);
    zc_lock_leave(&class->lock);
    if (!moved && list > ZS_FULL)
        moved = take_isolated(zs, number, slide(zs, zspage, zs_slot_of(handle), used));
    if (!moved && list == ZS_SPREAD)
        moved = take_lent(zs, zspage->class);
    if (moved)
        copy_zpage(zs, handle, moved);
    return moved;
}

/* Slots up to the last used one. */
static unsigned slots_used(struct zsmalloc *zs, struct zs_zspage *zspage)
{
    unsigned end = zs_slots_in(&zs->shapes, zspage->class, zspage->frames);

    while (end > 0 && zs_is_free(zs_head(zs, zspage, end - 1)))
        end--;
    return end;
}

/* Gives back the frames in the rear in which there is no zpage; but not all. Returns how many. One
 * isolated as the coldest in which nothing was freed stays as it is. */
static unsigned shrink(struct zsmalloc *zs, struct zs_zspage *zspage)
{
    struct zs_class *class = &zs->classes[zspage->class];
    unsigned before = zspage->frames;
    unsigned frames = zs_frames_for(&zs->shapes, zspage->class, slots_used(zs, zspage));

    zc_lock_take(&class->lock);
    bool is_changed = zs_list(zspage) != ZS_COLD || zspage->used < zspage->prev;
    if (frames == 0 || frames == before || !is_changed) {
        zc_lock_leave(&class->lock);
        return 0;
    }
    zs_add(&class->slots, zs_slots_in(&zs->shapes, zspage->class, frames) -
                              zs_slots_in(&zs->shapes, zspage->class, before));
    zs_add(&class->frames, frames - before);
    zspage->frames = (uint8_t)frames;
    zc_lock_leave(&class->lock);
    zc_extent_shrink(zs->frames, zs_address(zs, zspage), frames, before);
    return before - frames;
}

/* Chains the free slots from the front on. Returns how many are used. */
static unsigned chain(struct zsmalloc *zs, struct zs_zspage *zspage, unsigned *first)
{
    unsigned used = 0;

    *first = ZS_NO_SLOT;
    for (unsigned slot = zs_slots_in(&zs->shapes, zspage->class, zspage->frames); slot-- > 0;) {
        struct zc_zhead *head = zs_head(zs, zspage, slot);
        if (!zs_is_free(head)) {
            used++;
            continue;
        }
        zs_set_next(head, *first);
        *first = slot;
    }
    return used;
}

/* Makes the chain of an isolated zspage; ends with the class's lock held. */
static void chain_and_lock(struct zsmalloc *zs, struct zs_zspage *zspage)
{
    struct zs_class *class = &zs->classes[zspage->class];
    unsigned first, used;

    for (;;) {
        used = chain(zs, zspage, &first);
        zc_lock_take(&class->lock);
        if (used == zspage->used)
            break;
        zc_lock_leave(&class->lock); /* a zpage was freed meanwhile */
    }
    zspage->free = (uint16_t)first;
}

/* If as many were tried in vain as there are, others are not tried until a zpage is freed: so it ends,
 * whatever owners refuse. */
static void add_miss(struct zs_class *class)
{
    uint32_t count = 0;

    for (unsigned list = ZS_SPARSEST; list < ZS_LISTS; list++)
        count += class->count[list];
    class->misses++;
    atomic_store_explicit(&class->is_hopeless, class->misses >= count, memory_order_relaxed);
}

size_t zc_zs_release(void *alloc, uint32_t isolated)
{
    struct zsmalloc *zs = alloc;
    struct zs_zspage *zspage = zs_at(zs, isolated);
    struct zs_class *class = &zs->classes[zspage->class];
    unsigned freed = 0;

    if (zspage->class != ZS_HUGE) {
        freed = shrink(zs, zspage);
        chain_and_lock(zs, zspage);
    } else {
        zc_lock_take(&class->lock);
    }
    bool is_miss = freed == 0 && zs_list(zspage) != ZS_COLD;
    unsigned frames = zc_zs_unpin(zs, isolated, is_miss);
    if (frames == 0 && is_miss)
        add_miss(class);
    zc_lock_leave(&class->lock);
    if (frames)
        zc_zs_drop(zs, isolated, frames);
    return freed + frames;
}
