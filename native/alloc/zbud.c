/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zbud: at most two zpages ("buddies") in a frame, one from the frame's first byte up, one that ends
 * with its last byte. Sizes, heads included, are rounded up to chunks, 64 a frame. A frame with one
 * buddy waits in the list for its number of free chunks; a new zpage goes to the frame that it fills
 * best. What is too large to leave a chunk fills its frame alone, its head in the frame's record.
 *
 * Records are numbered. A handle is twice the number of the zpage's frame, and one more for the last
 * buddy. Records are changed under the lock, except for their stamps; those who own a zpage read
 * where it is without the lock, which never changes while they do.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "alloc/alloc.h"
#include "alloc/coldest.h"
#include "base/base.h"
#include "base/node.h"
#include "base/table.h"
#include "base/thread.h"
#include "frame/frame.h"

#define CHUNKS 64u /* a frame; one bit each in zbud.waiting */
#define SCAN 1024u /* records gone through under one lock */

enum { FIRST, LAST }; /* buddies: the lowest bit of a handle */

/* A frame's place: its address in units of page_size, its buddies' sizes in chunks, 0: none. 0 as a
 * whole: the record is not in use. */
#define ADDRESS_BITS 40u
#define ADDRESS_MASK ((UINT64_C(1) << ADDRESS_BITS) - 1)
#define BUDDY_BITS 7u
#define BUDDY_MASK ((UINT64_C(1) << BUDDY_BITS) - 1)
#define ISOLATED (UINT64_C(1) << (ADDRESS_BITS + 2 * BUDDY_BITS))

struct zbud_frame {
    union {
        struct {
            uint32_t next, prev; /* records that wait too; 0: the end */
        };
        struct zc_zhead head; /* of a zpage that fills the frame */
    };
    _Atomic uint32_t stamp;
    _Atomic uint64_t place;
};

_Static_assert(sizeof(struct zbud_frame) == 24, "a record takes 24 bytes");

struct zbud {
    struct zc_frames *frames;
    size_t page_size, chunk_size;
    struct zc_table table; /* of zbud_frame */
    pthread_mutex_t lock;  /* far from what is read without it */
    size_t zpage_count;
    uint64_t waiting;           /* bit n: unbuddied[n] is not empty */
    uint32_t unbuddied[CHUNKS]; /* first record of those with n chunks free; 0: none */
    uint32_t lengths[CHUNKS];   /* of these lists */
    struct zc_coldest coldest;
};

/* ---- frames ---- */

static struct zbud_frame *frame_of(const struct zbud *zbud, uint32_t number)
{
    return zc_table_at(&zbud->table, number);
}

static uint32_t number_of(zc_handle handle)
{
    return (uint32_t)(handle >> 1);
}

static zc_handle handle_of(uint32_t number, unsigned which)
{
    return (zc_handle)number << 1 | which;
}

static uint64_t place_of(struct zbud_frame *frame)
{
    return atomic_load_explicit(&frame->place, memory_order_relaxed);
}

static unsigned buddy_shift(unsigned which)
{
    return ADDRESS_BITS + which * BUDDY_BITS;
}

/* Chunks of a buddy. */
static unsigned buddy(uint64_t place, unsigned which)
{
    return (unsigned)(place >> buddy_shift(which) & BUDDY_MASK);
}

static unsigned room(uint64_t place)
{
    return CHUNKS - buddy(place, FIRST) - buddy(place, LAST);
}

static bool is_empty(uint64_t place)
{
    return room(place) == CHUNKS;
}

/* Is one buddy to be added? */
static bool is_waiting(uint64_t place)
{
    bool has_both = buddy(place, FIRST) && buddy(place, LAST);

    return !(place & ISOLATED) && !is_empty(place) && !has_both && room(place) > 0;
}

static char *address_of(const struct zbud *zbud, uint64_t place)
{
    return (char *)((uintptr_t)(place & ADDRESS_MASK) * zbud->page_size);
}

static struct zc_zpage zpage_at(const struct zbud *zbud, struct zbud_frame *frame, unsigned which)
{
    uint64_t place = place_of(frame);
    char *at = address_of(zbud, place);

    if (buddy(place, FIRST) == CHUNKS)
        return (struct zc_zpage){.head = &frame->head, .bytes = at};
    if (which == LAST)
        at += zbud->page_size - buddy(place, LAST) * zbud->chunk_size;
    return (struct zc_zpage){.head = (struct zc_zhead *)(void *)at, .bytes = at + ZC_ZHEAD_BYTES};
}

/* ---- lists; all under the lock ---- */

static void list_add(struct zbud *zbud, uint32_t number, unsigned left)
{
    struct zbud_frame *frame = frame_of(zbud, number);

    frame->prev = 0;
    frame->next = zbud->unbuddied[left];
    if (frame->next)
        frame_of(zbud, frame->next)->prev = number;
    zbud->unbuddied[left] = number;
    zbud->lengths[left]++;
    zbud->waiting |= UINT64_C(1) << left;
}

static void list_del(struct zbud *zbud, uint32_t number, unsigned left)
{
    struct zbud_frame *frame = frame_of(zbud, number);

    if (frame->next)
        frame_of(zbud, frame->next)->prev = frame->prev;
    if (frame->prev)
        frame_of(zbud, frame->prev)->next = frame->next;
    else
        zbud->unbuddied[left] = frame->next;
    if (--zbud->lengths[left] == 0)
        zbud->waiting &= ~(UINT64_C(1) << left);
}

static void check_frame(const struct zbud *zbud, uint64_t place)
{
    ZC_ASSERT(buddy(place, FIRST) + buddy(place, LAST) <= CHUNKS);
    ZC_ASSERT(!is_empty(place) || (place & ISOLATED) || place == 0);
    ZC_ASSERT(zbud->zpage_count <= 2 * (size_t)zbud->table.used);
    (void)zbud;
    (void)place;
}

/* Changes a frame, and puts it into the list where it then belongs. */
static void set_place(struct zbud *zbud, uint32_t number, uint64_t place)
{
    struct zbud_frame *frame = frame_of(zbud, number);
    uint64_t before = place_of(frame);

    if (is_waiting(before))
        list_del(zbud, number, room(before));
    atomic_store_explicit(&frame->place, place, memory_order_relaxed);
    if (is_waiting(place))
        list_add(zbud, number, room(place));
    check_frame(zbud, place);
}

static void charge_table(const struct zbud *zbud, size_t before)
{
    if (zbud->table.bytes != before)
        zc_frames_charge(zbud->frames, (ptrdiff_t)(zbud->table.bytes - before));
}

/* A record for a frame. 0: out of memory. */
static uint32_t add_frame(struct zbud *zbud, const void *frame)
{
    size_t before = zbud->table.bytes;
    uint32_t number = zc_table_add(&zbud->table);

    if (number)
        atomic_store_explicit(&frame_of(zbud, number)->place,
                              zc_div_pow2((uintptr_t)frame, zbud->page_size), memory_order_relaxed);
    charge_table(zbud, before);
    return number;
}

/* Returns the frame, to be given back when the lock is not held. */
static void *remove_frame(struct zbud *zbud, uint32_t number)
{
    size_t before = zbud->table.bytes;
    void *frame = address_of(zbud, place_of(frame_of(zbud, number)));

    set_place(zbud, number, 0);
    zc_table_remove(&zbud->table, number);
    charge_table(zbud, before);
    return frame;
}

static void put_frame(struct zbud *zbud, void *frame)
{
    if (frame)
        zc_extent_put(zbud->frames, frame, 1, 1);
}

/* The frame with one buddy whose free space fits `chunks` best; 0: none. */
static uint32_t best_fit(const struct zbud *zbud, unsigned chunks)
{
    uint64_t fitting = chunks < CHUNKS ? zbud->waiting & ~UINT64_C(0) << chunks : 0;

    return fitting ? zbud->unbuddied[__builtin_ctzll(fitting)] : 0;
}

/* Its frame is not younger than `stamp`. */
static void set_younger(struct zbud_frame *frame, uint32_t stamp)
{
    uint32_t before = atomic_load_explicit(&frame->stamp, memory_order_relaxed);

    /* Where this fails, the frame was touched right now. */
    if ((int32_t)(stamp - before) > 0)
        atomic_compare_exchange_strong_explicit(&frame->stamp, &before, stamp, memory_order_relaxed,
                                                memory_order_relaxed);
}

/* A new buddy in a frame, or the only one. */
static zc_handle place_buddy(struct zbud *zbud, uint32_t number, unsigned chunks, uint32_t stamp)
{
    struct zbud_frame *frame = frame_of(zbud, number);
    uint64_t place = place_of(frame);
    unsigned which = buddy(place, FIRST) ? LAST : FIRST;

    zbud->zpage_count++;
    if (is_empty(place))
        atomic_store_explicit(&frame->stamp, stamp, memory_order_relaxed);
    else
        set_younger(frame, stamp);
    set_place(zbud, number, place | (uint64_t)chunks << buddy_shift(which));
    return handle_of(number, which);
}

/* In the frame that it fills best; 0: none has room. */
static zc_handle join_buddy(struct zbud *zbud, unsigned chunks, uint32_t stamp)
{
    zc_handle handle = 0;

    pthread_mutex_lock(&zbud->lock);
    uint32_t number = best_fit(zbud, chunks);
    if (number)
        handle = place_buddy(zbud, number, chunks, stamp);
    pthread_mutex_unlock(&zbud->lock);
    return handle;
}

/* In a new frame; 0: there is none to be had. */
static zc_handle place_alone(struct zbud *zbud, unsigned chunks, uint32_t stamp)
{
    zc_handle handle = 0;
    void *frame = zc_extent_get(zbud->frames, 1, 1);
    if (!frame)
        return 0;

    pthread_mutex_lock(&zbud->lock);
    uint32_t number = add_frame(zbud, frame);
    if (number)
        handle = place_buddy(zbud, number, chunks, stamp);
    pthread_mutex_unlock(&zbud->lock);
    if (!handle)
        put_frame(zbud, frame);
    return handle;
}

static struct zc_zpage map(const struct zbud *zbud, zc_handle handle)
{
    return zpage_at(zbud, frame_of(zbud, number_of(handle)), handle & 1);
}

/* ---- the allocator ---- */

static int zbud_create(struct zc_frames *frames, size_t page_size, void **alloc)
{
    struct zbud *zbud = calloc(1, sizeof(*zbud));
    if (!zbud)
        return -ENOMEM;

    zc_mutex_init_brief(&zbud->lock);
    zbud->frames = frames;
    zbud->page_size = page_size;
    zbud->chunk_size = page_size / CHUNKS;
    zc_table_init(&zbud->table, sizeof(struct zbud_frame));
    zc_coldest_init(&zbud->coldest, frames);
    zc_frames_charge(frames, (ptrdiff_t)sizeof(*zbud));
    *alloc = zbud;
    return 0;
}

static void zbud_destroy(void *alloc)
{
    struct zbud *zbud = alloc;

    ZC_ASSERT(zbud->table.used == 0 && zbud->table.bytes == 0 && zbud->zpage_count == 0);
    zc_coldest_destroy(&zbud->coldest);
    pthread_mutex_destroy(&zbud->lock);
    zc_frames_charge(zbud->frames, -(ptrdiff_t)sizeof(*zbud));
    free(zbud);
}

static zc_handle zbud_malloc(void *alloc, size_t size, uint32_t stamp)
{
    struct zbud *zbud = alloc;
    size_t whole = size + ZC_ZHEAD_BYTES + zbud->chunk_size - 1;
    unsigned chunks = (unsigned)zc_min(zc_div_pow2(whole, zbud->chunk_size), CHUNKS);

    ZC_ASSERT(size > 0 && size <= zbud->page_size);
    zc_handle handle = join_buddy(zbud, chunks, stamp);
    if (!handle)
        handle = place_alone(zbud, chunks, stamp);
    if (handle) /* with no lock held: this memory is seldom in the cache */
        zc_owner_set(map(zbud, handle).head, ZC_NO_OWNER);
    return handle;
}

static void zbud_free(void *alloc, zc_handle handle)
{
    struct zbud *zbud = alloc;
    uint32_t number = number_of(handle);
    unsigned which = handle & 1;
    void *frame = NULL;

    pthread_mutex_lock(&zbud->lock);
    uint64_t place = place_of(frame_of(zbud, number));
    ZC_ASSERT(buddy(place, which));
    place &= ~(BUDDY_MASK << buddy_shift(which));
    zbud->zpage_count--;
    if (is_empty(place) && !(place & ISOLATED))
        frame = remove_frame(zbud, number);
    else
        set_place(zbud, number, place);
    pthread_mutex_unlock(&zbud->lock);
    put_frame(zbud, frame);
}

static struct zc_zpage zbud_map(void *alloc, zc_handle handle)
{
    return map(alloc, handle);
}

static void zbud_touch(void *alloc, zc_handle handle, uint32_t stamp)
{
    struct zbud_frame *frame = frame_of(alloc, number_of(handle));

    if (atomic_load_explicit(&frame->stamp, memory_order_relaxed) != stamp)
        atomic_store_explicit(&frame->stamp, stamp, memory_order_relaxed);
}

static void zbud_prefetch(void *alloc, zc_handle handle)
{
    __builtin_prefetch(frame_of(alloc, number_of(handle)));
}

/* ---- emptying frames ---- */

static uint32_t count_frames(void *alloc)
{
    struct zbud *zbud = alloc;

    pthread_mutex_lock(&zbud->lock);
    uint32_t count = zbud->table.used;
    pthread_mutex_unlock(&zbud->lock);
    return count;
}

static uint32_t scan_frames(void *alloc, struct zc_coldest *coldest, uint32_t from)
{
    struct zbud *zbud = alloc;

    pthread_mutex_lock(&zbud->lock);
    uint32_t end = (uint32_t)zc_min((size_t)from + SCAN, (size_t)zbud->table.top + 1);
    for (uint32_t number = from; number < end; number++) {
        struct zbud_frame *frame = frame_of(zbud, number);
        uint64_t place = place_of(frame);
        if (place && !(place & ISOLATED))
            zc_coldest_offer(coldest, number,
                             atomic_load_explicit(&frame->stamp, memory_order_relaxed));
    }
    bool is_last = end > zbud->table.top;
    pthread_mutex_unlock(&zbud->lock);
    return is_last ? 0 : end;
}

static bool isolate_frame(void *alloc, uint32_t number, uint32_t *stamp)
{
    struct zbud *zbud = alloc;
    bool is_isolated = false;

    pthread_mutex_lock(&zbud->lock);
    struct zbud_frame *frame = number <= zbud->table.top ? frame_of(zbud, number) : NULL;
    uint64_t place = frame ? place_of(frame) : 0;
    if (place && !(place & ISOLATED)) {
        uint32_t before = *stamp;
        *stamp = atomic_load_explicit(&frame->stamp, memory_order_relaxed);
        is_isolated = *stamp == before;
    }
    if (is_isolated)
        set_place(zbud, number, place | ISOLATED);
    pthread_mutex_unlock(&zbud->lock);
    return is_isolated;
}

/* The smallest zpage without a buddy, if it fits to the next smallest. */
static uint32_t isolate_sparsest(struct zbud *zbud)
{
    uint32_t number = 0;

    pthread_mutex_lock(&zbud->lock);
    if (zbud->waiting) {
        unsigned most = 63 - (unsigned)__builtin_clzll(zbud->waiting), next = most;
        uint64_t others = zbud->waiting & ~(UINT64_C(1) << most);
        if (zbud->lengths[most] == 1)
            next = others ? 63 - (unsigned)__builtin_clzll(others) : 0;
        if (most + next >= CHUNKS)
            number = zbud->unbuddied[most];
    }
    if (number)
        set_place(zbud, number, place_of(frame_of(zbud, number)) | ISOLATED);
    pthread_mutex_unlock(&zbud->lock);
    return number;
}

static uint32_t zbud_isolate(void *alloc, enum zc_isolate which)
{
    static const struct zc_coldest_ops ops = {
        .count = count_frames, .scan = scan_frames, .isolate = isolate_frame};
    struct zbud *zbud = alloc;

    if (which == ZC_ISOLATE_SPARSEST)
        return isolate_sparsest(zbud);
    return zc_coldest_next(&zbud->coldest, zbud, &ops);
}

static bool zbud_next(void *alloc, uint32_t isolated, zc_handle after, zc_handle *handle,
                      uint64_t *owner)
{
    struct zbud *zbud = alloc;
    struct zbud_frame *frame = frame_of(zbud, isolated);
    bool found = false;

    pthread_mutex_lock(&zbud->lock);
    ZC_ASSERT(place_of(frame) & ISOLATED);
    for (unsigned which = after ? (after & 1) + 1 : FIRST; which <= LAST && !found; which++) {
        if (!buddy(place_of(frame), which))
            continue;
        *handle = handle_of(isolated, which);
        *owner = zc_owner_get(zpage_at(zbud, frame, which).head);
        found = true;
    }
    pthread_mutex_unlock(&zbud->lock);
    return found;
}

static zc_handle zbud_move(void *alloc, zc_handle handle)
{
    struct zbud *zbud = alloc;
    struct zbud_frame *frame = frame_of(zbud, number_of(handle));
    uint32_t stamp = atomic_load_explicit(&frame->stamp, memory_order_relaxed);
    unsigned chunks = buddy(place_of(frame), handle & 1);
    zc_handle moved = join_buddy(zbud, chunks, stamp);
    if (!moved)
        return 0;

    struct zc_zpage from = map(zbud, handle), to = map(zbud, moved);
    memcpy(to.bytes, from.bytes, chunks * zbud->chunk_size - ZC_ZHEAD_BYTES);
    to.head->checksum = from.head->checksum;
    zc_owner_set(to.head, zc_owner_get(from.head));
    return moved;
}

static size_t zbud_release(void *alloc, uint32_t isolated)
{
    struct zbud *zbud = alloc;
    void *frame = NULL;

    pthread_mutex_lock(&zbud->lock);
    uint64_t place = place_of(frame_of(zbud, isolated));
    ZC_ASSERT(place & ISOLATED);
    if (is_empty(place))
        frame = remove_frame(zbud, isolated);
    else
        set_place(zbud, isolated, place & ~ISOLATED);
    pthread_mutex_unlock(&zbud->lock);
    put_frame(zbud, frame);
    return frame ? 1 : 0;
}

/* How many frames go if the smallest zpages without a buddy move to the largest that take them. */
static size_t count_sparse(const struct zbud *zbud)
{
    unsigned least = 1, most = CHUNKS - 1; /* chunks free */
    size_t at_least = zbud->lengths[least], at_most = zbud->lengths[most], pairs = 0;

    while (least < most) {
        if (at_most == 0) {
            at_most = zbud->lengths[--most];
        } else if (at_least == 0 || least + most < CHUNKS) {
            at_least = zbud->lengths[++least];
        } else {
            size_t count = zc_min(at_least, at_most);
            pairs += count;
            at_least -= count;
            at_most -= count;
        }
    }
    return pairs + (2 * most >= CHUNKS ? zc_min(at_least, at_most) / 2 : 0);
}

static bool zbud_is_sparse(void *alloc)
{
    struct zbud *zbud = alloc;

    pthread_mutex_lock(&zbud->lock);
    bool is_sparse = zbud->waiting && 8 * count_sparse(zbud) >= zbud->table.used;
    pthread_mutex_unlock(&zbud->lock);
    return is_sparse;
}

/* ---- what it holds ---- */

static void zbud_get_stats(void *alloc, struct zc_alloc_stats *out)
{
    struct zbud *zbud = alloc;

    pthread_mutex_lock(&zbud->lock);
    *out = (struct zc_alloc_stats){
        .frames = zbud->table.used,
        .zpages = zbud->zpage_count,
        .metadata_bytes = sizeof(*zbud) + zbud->table.bytes + zc_coldest_bytes(&zbud->coldest),
    };
    pthread_mutex_unlock(&zbud->lock);
}

/* The list of those with `left` chunks free. */
static bool check_list(const struct zbud *zbud, unsigned left, struct zc_text *why)
{
    uint32_t count = 0, prev = 0;

    for (uint32_t number = zbud->unbuddied[left]; number && count <= zbud->table.used; count++) {
        struct zbud_frame *frame = number <= zbud->table.top ? frame_of(zbud, number) : NULL;
        if (!frame || !is_waiting(place_of(frame)) || room(place_of(frame)) != left) {
            zc_text_add(why, "zbud: frame %u is in the list for %u free chunks", number, left);
            return false;
        }
        if (frame->prev != prev) {
            zc_text_add(why, "zbud: frame %u comes after %u, but says %u", number, prev,
                        frame->prev);
            return false;
        }
        prev = number;
        number = frame->next;
    }
    if (count != zbud->lengths[left] || !!count != (zbud->waiting >> left & 1)) {
        zc_text_add(why, "zbud: %u frames with %u free chunks are listed, not %u", count, left,
                    zbud->lengths[left]);
        return false;
    }
    return true;
}

static bool check_table(const struct zbud *zbud, struct zc_text *why)
{
    uint32_t frames = 0, waiting[CHUNKS] = {0};
    size_t zpages = 0;

    for (uint32_t number = 1; number <= zbud->table.top; number++) {
        uint64_t place = place_of(frame_of(zbud, number));
        unsigned first = buddy(place, FIRST), last = buddy(place, LAST);
        if (!place)
            continue;
        frames++;
        zpages += !!first + !!last;
        if (first + last > CHUNKS || !(place & ADDRESS_MASK) ||
            (is_empty(place) && !(place & ISOLATED))) {
            zc_text_add(why, "zbud: frame %u is of %u and %u chunks", number, first, last);
            return false;
        }
        if (is_waiting(place))
            waiting[room(place)]++;
    }
    if (frames != zbud->table.used || zpages != zbud->zpage_count) {
        zc_text_add(why, "zbud: %u frames and %zu zpages, not %u and %zu", frames, zpages,
                    zbud->table.used, zbud->zpage_count);
        return false;
    }
    for (unsigned left = 0; left < CHUNKS; left++) {
        if (waiting[left] != zbud->lengths[left]) {
            zc_text_add(why, "zbud: %u frames have %u free chunks, but %u are listed",
                        waiting[left], left, zbud->lengths[left]);
            return false;
        }
    }
    return true;
}

static int zbud_check(void *alloc, struct zc_text *why)
{
    struct zbud *zbud = alloc;

    pthread_mutex_lock(&zbud->lock);
    bool is_good = check_table(zbud, why);
    for (unsigned left = 0; left < CHUNKS && is_good; left++)
        is_good = check_list(zbud, left, why);
    pthread_mutex_unlock(&zbud->lock);
    return is_good ? 0 : -EUCLEAN;
}

const struct zc_alloc_ops zc_zbud_ops = {
    .name = "zbud",
    .create = zbud_create,
    .destroy = zbud_destroy,
    .malloc = zbud_malloc,
    .free = zbud_free,
    .map = zbud_map,
    .touch = zbud_touch,
    .prefetch = zbud_prefetch,
    .isolate = zbud_isolate,
    .next = zbud_next,
    .move = zbud_move,
    .release = zbud_release,
    .get_stats = zbud_get_stats,
    .is_sparse = zbud_is_sparse,
    .check = zbud_check,
};
