/* SPDX-License-Identifier: Apache-2.0 */
/* zsmalloc: zspages come and go, and zpages in them. See zs.h. */
#include <errno.h>

#include "alloc/zs.h"

#define SHARE 16u /* of a class's frames, that part is taken at a time */
#define WITH_ROOM ((1u << ZS_SHORT) - (1u << ZS_SPARSEST)) /* lists whose zspages have free slots */

static void charge(struct zsmalloc *zs, size_t bytes)
{
    size_t before = atomic_load_explicit(&zs->charged, memory_order_relaxed);

    atomic_store_explicit(&zs->charged, bytes, memory_order_relaxed);
    zc_frames_charge(zs->frames, (ptrdiff_t)(bytes - before));
}

static size_t own_bytes(const struct zsmalloc *zs)
{
    return sizeof(*zs) + zs->shapes.count * sizeof(zs->classes[0]) + zs->table.bytes;
}

static int zs_create(struct zc_frames *frames, size_t page_size, void **alloc)
{
    struct zs_shapes shapes = {0};

    zc_zs_shapes_init(&shapes, page_size);
    struct zsmalloc *zs = calloc(1, sizeof(*zs) + shapes.count * sizeof(zs->classes[0]));
    if (!zs)
        return -ENOMEM;

    zs->frames = frames;
    zs->shapes = shapes;
    pthread_mutex_init(&zs->table_lock, NULL);
    zc_table_init(&zs->table, sizeof(struct zs_zspage));
    zc_coldest_init(&zs->coldest, frames);
    charge(zs, own_bytes(zs));
    *alloc = zs;
    return 0;
}

static void zs_destroy(void *alloc)
{
    struct zsmalloc *zs = alloc;

    ZC_ASSERT(zs->table.used == 0);
    zc_coldest_destroy(&zs->coldest);
    pthread_mutex_destroy(&zs->table_lock);
    charge(zs, 0);
    free(zs);
}

/* In debug builds: a zspage that is in a list, or would be if it were not full. */
static void check_zspage(const struct zsmalloc *zs, struct zs_zspage *zspage)
{
    if (zspage->class == ZS_HUGE)
        return;
    ZC_ASSERT(zspage->used > 0);
    ZC_ASSERT(zspage->frames > 0 && zspage->frames <= zs->shapes.shape[zspage->class].frames);
    ZC_ASSERT((zspage->free == ZS_NO_SLOT) == (zc_zs_free_slots(zs, zspage) == 0));
    ZC_ASSERT(zs_list(zspage) == zc_zs_list_for(zs, zspage));
    (void)zs;
    (void)zspage;
}

unsigned zc_zs_free_slots(const struct zsmalloc *zs, const struct zs_zspage *zspage)
{
    if (zspage->class == ZS_HUGE)
        return 0;
    return zs_slots_in(&zs->shapes, zspage->class, zspage->frames) - zspage->used;
}

enum zs_list zc_zs_list_for(const struct zsmalloc *zs, const struct zs_zspage *zspage)
{
    const struct zs_shape *shape = &zs->shapes.shape[zspage->class];

    if (zspage->class == ZS_HUGE)
        return ZS_FULL;
    if (zspage->free != ZS_NO_SLOT)
        return ZS_SPARSEST + zspage->used * (ZC_FULLNESS - 1) / shape->slots;
    return zspage->frames < shape->frames ? ZS_SHORT : ZS_FULL;
}

static bool is_in_list(enum zs_list list)
{
    return list > ZS_NONE && list < ZS_LISTS;
}

static void unlink_zspage(struct zsmalloc *zs, struct zs_class *class, uint32_t number)
{
    struct zs_zspage *zspage = zs_at(zs, number);
    enum zs_list list = zs_list(zspage);

    if (zspage->next == number) {
        class->first[list] = 0;
        class->listed &= (uint16_t)~(1u << list);
        return;
    }
    zs_at(zs, zspage->prev)->next = zspage->next;
    zs_at(zs, zspage->next)->prev = zspage->prev;
    if (class->first[list] == number)
        class->first[list] = zspage->next;
}

static void link_zspage(struct zsmalloc *zs, struct zs_class *class, uint32_t number,
                        enum zs_list list, bool last)
{
    struct zs_zspage *zspage = zs_at(zs, number);
    uint32_t first = class->first[list];

    if (!first) {
        zspage->next = zspage->prev = class->first[list] = number;
        class->listed |= (uint16_t)(1u << list);
        return;
    }
    zspage->next = first;
    zspage->prev = zs_at(zs, first)->prev;
    zs_at(zs, zspage->prev)->next = zs_at(zs, first)->prev = number;
    if (!last)
        class->first[list] = number;
}

static void set_list(struct zsmalloc *zs, uint32_t number, enum zs_list list, bool last)
{
    struct zs_zspage *zspage = zs_at(zs, number);
    struct zs_class *class = &zs->classes[zspage->class];
    enum zs_list before = zs_list(zspage);

    if (list == before)
        return;
    if (is_in_list(before))
        unlink_zspage(zs, class, number);
    if (is_in_list(list))
        link_zspage(zs, class, number, list, last);
    class->count[zs_is_pinned(before) ? ZS_NONE : before]--;
    class->count[zs_is_pinned(list) ? ZS_NONE : list]++;
    atomic_store_explicit(&zspage->list, (uint8_t)list, memory_order_relaxed);
}

/* A zspage that is not pinned was changed. */
static void settle(struct zsmalloc *zs, uint32_t number)
{
    set_list(zs, number, zc_zs_list_for(zs, zs_at(zs, number)), false);
    check_zspage(zs, zs_at(zs, number));
}

void zc_zs_pin(struct zsmalloc *zs, uint32_t number, enum zs_list as)
{
    struct zs_zspage *zspage = zs_at(zs, number);

    ZC_ASSERT(!zs_is_pinned(zs_list(zspage)));
    zs_add(&zs->classes[zspage->class].room, -zc_zs_free_slots(zs, zspage));
    set_list(zs, number, as, false);
    if (zspage->class == ZS_HUGE)
        return;
    zspage->next = 0;
    zspage->prev = zspage->used;
}

/* A pinned zspage that is to be dropped counts for nothing any more. Returns the frames it had. */
static unsigned uncount(struct zsmalloc *zs, struct zs_zspage *zspage)
{
    struct zs_class *class = &zs->classes[zspage->class];
    unsigned frames = zspage->frames;

    class->count[ZS_NONE]--;
    zs_add(&class->slots, -zs_slots_in(&zs->shapes, zspage->class, frames));
    zs_add(&class->frames, -frames);
    zspage->frames = 0;
    atomic_store_explicit(&zspage->list, ZS_NONE, memory_order_relaxed);
    return frames;
}

static bool is_empty(struct zs_zspage *zspage)
{
    return zspage->class == ZS_HUGE ? zs_is_free(&zspage->head) : zspage->used == 0;
}

unsigned zc_zs_unpin(struct zsmalloc *zs, uint32_t number, bool last)
{
    struct zs_zspage *zspage = zs_at(zs, number);

    ZC_ASSERT(zs_is_pinned(zs_list(zspage)));
    if (is_empty(zspage))
        return uncount(zs, zspage);
    zs_add(&zs->classes[zspage->class].room, zc_zs_free_slots(zs, zspage));
    set_list(zs, number, zc_zs_list_for(zs, zspage), last);
    check_zspage(zs, zspage);
    return 0;
}

void zc_zs_drop(struct zsmalloc *zs, uint32_t number, unsigned frames)
{
    struct zs_zspage *zspage = zs_at(zs, number);

    zc_extent_put(zs->frames, zs_address(zs, zspage), zs->shapes.shape[zspage->class].frames,
                  frames);
    pthread_mutex_lock(&zs->table_lock);
    zc_table_remove(&zs->table, number);
    charge(zs, own_bytes(zs));
    pthread_mutex_unlock(&zs->table_lock);
}

/* Takes the first slot of a zspage's chain. */
static zc_handle pop(struct zsmalloc *zs, uint32_t number)
{
    struct zs_zspage *zspage = zs_at(zs, number);
    unsigned slot = zspage->free;
    struct zc_zhead *head = zs_head(zs, zspage, slot);

    ZC_ASSERT(zs_is_free(head));
    zspage->free = (uint16_t)zs_load(&head->owner[1]);
    zspage->used++;
    zs_add(&zs->classes[zspage->class].zpages, 1);
    zc_owner_set(head, ZC_NO_OWNER);
    return zs_handle(number, slot);
}

static void push(struct zsmalloc *zs, struct zs_zspage *zspage, unsigned slot)
{
    struct zc_zhead *head = zs_head(zs, zspage, slot);
    unsigned next = ZS_NO_SLOT;

    ZC_ASSERT(!zs_is_free(head));
    if (zspage->class != ZS_HUGE) {
        next = zspage->free;
        zspage->free = (uint16_t)slot;
        zspage->used--;
    }
    zs_add(&zs->classes[zspage->class].zpages, (uint32_t)-1);
    zs_set_free(head, next);
}

zc_handle zc_zs_take(struct zsmalloc *zs, unsigned class)
{
    struct zs_class *c = &zs->classes[class];
    unsigned lists = c->listed & WITH_ROOM;

    if (!lists)
        return 0;

    uint32_t number = c->first[31 - __builtin_clz(lists)];
    zc_handle handle = pop(zs, number);
    zs_add(&c->room, (uint32_t)-1);
    settle(zs, number);
    return handle;
}

static zc_handle take(struct zsmalloc *zs, unsigned class, uint32_t stamp)
{
    struct zs_class *c = &zs->classes[class];

    zc_lock_take(&c->lock);
    zc_handle handle = zc_zs_take(zs, class);
    if (handle)
        zs_touch(zs_at(zs, zs_number_of(handle)), stamp);
    zc_lock_leave(&c->lock);
    return handle;
}

/* A zspage without frames, pinned. 0: no memory for its record. */
static uint32_t add_zspage(struct zsmalloc *zs, unsigned class, const void *address)
{
    uint64_t page = (uint64_t)(uintptr_t)address >> zs->shapes.page_shift;

    ZC_ASSERT(page << zs->shapes.page_shift == (uintptr_t)address && page >> 40 == 0);
    pthread_mutex_lock(&zs->table_lock);
    uint32_t number = zc_table_add(&zs->table);
    if (number) {
        struct zs_zspage *zspage = zs_at(zs, number);
        zspage->page = (uint32_t)page;
        zspage->page_high = (uint8_t)(page >> 32);
        zspage->class = (uint8_t)class;
        charge(zs, own_bytes(zs));
    }
    pthread_mutex_unlock(&zs->table_lock);
    return number;
}

/* An extent for a zspage of the class, its first `*frames` taken: fewer if there are not as many. */
static uint32_t get_zspage(struct zsmalloc *zs, unsigned class, unsigned *frames)
{
    unsigned whole = zs->shapes.shape[class].frames;
    void *address = zc_extent_get(zs->frames, whole, *frames);

    if (!address && *frames > 1) {
        *frames = 1;
        address = zc_extent_get(zs->frames, whole, *frames);
    }
    if (!address)
        return 0;

    uint32_t number = add_zspage(zs, class, address);
    if (!number)
        zc_extent_put(zs->frames, address, whole, *frames);
    return number;
}

/* Makes slots of frames that a pinned zspage has from now on, `frames` in all, takes a slot if there is
 * one, and unpins it. */
static zc_handle open_slots(struct zsmalloc *zs, uint32_t number, unsigned frames, uint32_t stamp)
{
    struct zs_zspage *zspage = zs_at(zs, number);
    struct zs_class *class = &zs->classes[zspage->class];
    unsigned first = zs_slots_in(&zs->shapes, zspage->class, zspage->frames);
    unsigned end = zs_slots_in(&zs->shapes, zspage->class, frames);
    zc_handle handle = 0;

    for (unsigned slot = first; slot < end; slot++)
        zs_set_free(zs_head(zs, zspage, slot), slot + 1);

    zc_lock_take(&class->lock);
    if (end > first) {
        zs_set_next(zs_head(zs, zspage, end - 1), zspage->free);
        zspage->free = (uint16_t)first;
        zs_add(&class->slots, end - first);
        zs_add(&class->frames, frames - zspage->frames);
        zspage->frames = (uint8_t)frames;
    }
    if (zspage->free != ZS_NO_SLOT) {
        handle = pop(zs, number);
        zs_touch(zspage, stamp);
    }
    frames = zc_zs_unpin(zs, number, false);
    zc_lock_leave(&class->lock);
    if (frames)
        zc_zs_drop(zs, number, frames);
    return handle;
}

static zc_handle grow(struct zsmalloc *zs, uint32_t number, unsigned by, uint32_t stamp)
{
    struct zs_zspage *zspage = zs_at(zs, number);
    unsigned from = zspage->frames;
    unsigned to = (unsigned)zc_min(from + by, zs->shapes.shape[zspage->class].frames);

    if (!zc_extent_grow(zs->frames, zs_address(zs, zspage), from, to))
        to = from; /* then there is a slot only if one was freed meanwhile */
    return open_slots(zs, number, to, stamp);
}

static zc_handle add(struct zsmalloc *zs, unsigned class, unsigned frames, uint32_t stamp)
{
    frames = (unsigned)zc_min(frames, zs->shapes.shape[class].frames);

    uint32_t number = get_zspage(zs, class, &frames);
    if (!number)
        return 0;

    zc_lock_take(&zs->classes[class].lock);
    zs->classes[class].count[ZS_NONE]++;
    zs_at(zs, number)->free = ZS_NO_SLOT;
    zc_lock_leave(&zs->classes[class].lock);
    return open_slots(zs, number, frames, stamp);
}

/* Pins the zspage that frames are to be taken for first. 0: there is none. */
static uint32_t pin_short(struct zsmalloc *zs, struct zs_class *class)
{
    zc_lock_take(&class->lock);
    uint32_t number = class->first[ZS_SHORT];
    if (number)
        zc_zs_pin(zs, number, ZS_NONE);
    zc_lock_leave(&class->lock);
    return number;
}

/* Takes frames for the class, one thread at a time: others who wait for it most likely need none. */
static zc_handle fill(struct zsmalloc *zs, unsigned class, uint32_t stamp)
{
    struct zs_class *c = &zs->classes[class];

    zc_lock_take(&c->filling);
    zc_handle handle = take(zs, class, stamp);
    if (!handle) {
        unsigned frames = (unsigned)zc_max(zs_load(&c->frames) / SHARE, 1);
        uint32_t number = pin_short(zs, c);
        handle = number ? grow(zs, number, frames, stamp) : add(zs, class, frames, stamp);
    }
    zc_lock_leave(&c->filling);
    return handle;
}

static zc_handle malloc_huge(struct zsmalloc *zs, uint32_t stamp)
{
    struct zs_class *class = &zs->classes[ZS_HUGE];
    unsigned frames = 1;
    uint32_t number = get_zspage(zs, ZS_HUGE, &frames);
    if (!number)
        return 0;

    struct zs_zspage *zspage = zs_at(zs, number);
    zc_owner_set(&zspage->head, ZC_NO_OWNER);
    zs_touch(zspage, stamp);
    zc_lock_take(&class->lock);
    zspage->frames = 1;
    class->count[ZS_NONE]++;
    zs_add(&class->slots, 1);
    zs_add(&class->frames, 1);
    zs_add(&class->zpages, 1);
    set_list(zs, number, ZS_FULL, false);
    zc_lock_leave(&class->lock);
    return zs_handle(number, 0);
}

static zc_handle zs_malloc(void *alloc, size_t size, uint32_t stamp)
{
    struct zsmalloc *zs = alloc;
    unsigned class = zs_class_of(&zs->shapes, size);

    ZC_ASSERT(size > 0 && size <= zs->shapes.page_size);
    if (class == ZS_HUGE)
        return malloc_huge(zs, stamp);

    zc_handle handle = take(zs, class, stamp);
    return handle ? handle : fill(zs, class, stamp);
}

static void zs_free(void *alloc, zc_handle handle)
{
    struct zsmalloc *zs = alloc;
    uint32_t number = zs_number_of(handle);
    struct zs_zspage *zspage = zs_at(zs, number);
    struct zs_class *class = &zs->classes[zspage->class];
    unsigned frames = 0;

    zc_lock_take(&class->lock);
    enum zs_list list = zs_list(zspage);
    push(zs, zspage, zs_slot_of(handle));
    if (list < ZS_SPARSE && class->misses > 0) {
        class->misses = 0;
        atomic_store_explicit(&class->is_hopeless, false, memory_order_relaxed);
    }
    if (!zs_is_pinned(list)) {
        if (zspage->class != ZS_HUGE)
            zs_add(&class->room, 1);
        if (is_empty(zspage)) {
            zc_zs_pin(zs, number, ZS_NONE);
            frames = zc_zs_unpin(zs, number, false);
        } else {
            settle(zs, number);
        }
    }
    zc_lock_leave(&class->lock);
    if (frames)
        zc_zs_drop(zs, number, frames);
}

static struct zc_zpage zs_map(void *alloc, zc_handle handle)
{
    struct zsmalloc *zs = alloc;
    struct zs_zspage *zspage = zs_at(zs, zs_number_of(handle));
    struct zc_zhead *head = zs_head(zs, zspage, zs_slot_of(handle));

    ZC_ASSERT(!zs_is_free(head));
    if (zspage->class == ZS_HUGE)
        return (struct zc_zpage){.head = head, .bytes = zs_address(zs, zspage)};
    return (struct zc_zpage){.head = head, .bytes = head + 1};
}

static void zs_touch_zpage(void *alloc, zc_handle handle, uint32_t stamp)
{
    zs_touch(zs_at(alloc, zs_number_of(handle)), stamp);
}

static void zs_prefetch(void *alloc, zc_handle handle)
{
    __builtin_prefetch(zs_at(alloc, zs_number_of(handle)));
}

static void zs_get_stats(void *alloc, struct zc_alloc_stats *out)
{
    struct zsmalloc *zs = alloc;

    *out = (struct zc_alloc_stats){0};
    for (unsigned i = 0; i < zs->shapes.count; i++) {
        out->frames += zs_load(&zs->classes[i].frames);
        out->zpages += zs_load(&zs->classes[i].zpages);
    }
    out->metadata_bytes =
        atomic_load_explicit(&zs->charged, memory_order_relaxed) + zc_coldest_bytes(&zs->coldest);
}

/* Frames that compaction will free at least, however the free slots are scattered: for each zspage's
 * worth of these as many as it has, and of the rest those that cannot but become free. */
static size_t freeable(struct zsmalloc *zs, unsigned class)
{
    const struct zs_shape *shape = &zs->shapes.shape[class];
    struct zs_class *c = &zs->classes[class];
    uint32_t slots = zs_load(&c->slots), zpages = zs_load(&c->zpages);
    uint32_t room = slots > zpages ? slots - zpages : 0;

    if (room == 0 || atomic_load_explicit(&c->is_hopeless, memory_order_relaxed))
        return 0;
    return room / shape->slots * shape->frames +
           room % shape->slots / zc_div_up(zs->shapes.page_size, shape->size);
}

static void add_class_stats(struct zsmalloc *zs, unsigned class, struct zc_class_stats *out)
{
    const struct zs_shape *shape = &zs->shapes.shape[class];
    struct zs_class *c = &zs->classes[class];

    out->size = shape->size;
    out->frames_per_zspage = shape->frames;
    out->slots_per_zspage = shape->slots;
    zc_lock_take(&c->lock);
    for (unsigned i = 0; i < ZC_FULLNESS; i++)
        out->fullness[i] += c->count[ZS_SPARSEST + i];
    out->fullness[ZC_FULLNESS - 1] += c->count[ZS_FULL];
    for (unsigned i = ZS_NONE; i <= ZS_FULL; i++)
        out->zspages += c->count[i];
    out->slots += zs_load(&c->slots);
    out->zpages += zs_load(&c->zpages);
    out->frames += zs_load(&c->frames);
    out->freeable += freeable(zs, class);
    zc_lock_leave(&c->lock);
}

static size_t zs_class_stats(void *alloc, struct zc_class_stats *out, size_t max)
{
    struct zsmalloc *zs = alloc;
    unsigned count = zs->shapes.count;

    for (unsigned i = 0; i < count && i < max; i++)
        add_class_stats(zs, count - 1 - i, &out[i]);
    return count;
}

static bool zs_is_sparse(void *alloc)
{
    struct zsmalloc *zs = alloc;
    size_t frames = 0, spare = 0;

    for (unsigned i = 0; i < zs->shapes.count; i++) {
        frames += zs_load(&zs->classes[i].frames);
        spare += freeable(zs, i);
    }
    return spare > 0 && spare * 8 >= frames;
}

const struct zc_alloc_ops zc_zsmalloc_ops = {
    .name = "zsmalloc",
    .create = zs_create,
    .destroy = zs_destroy,
    .malloc = zs_malloc,
    .free = zs_free,
    .map = zs_map,
    .touch = zs_touch_zpage,
    .prefetch = zs_prefetch,
    .isolate = zc_zs_isolate,
    .next = zc_zs_next,
    .move = zc_zs_move,
    .release = zc_zs_release,
    .get_stats = zs_get_stats,
    .class_stats = zs_class_stats,
    .is_sparse = zs_is_sparse,
    .check = zc_zs_check,
};
