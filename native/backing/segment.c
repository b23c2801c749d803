/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segments: taken when they are free, filled from the front by one batch after the other, full, and free
 * again once their last record is dead. Which is taken goes round, so that all wear alike.
 */
#include <errno.h>

#include "backing/packed.h"
#include "base/hash.h"

/* Bits of a place. */
#define SLOT_BITS 11u
#define OFFSET_BITS 17u
#define SEGMENT_BITS 21u
#define LIFE_BITS 11u

_Static_assert(1u << SLOT_BITS == ZC_SLOTS, "a slot has a place");
_Static_assert(SLOT_BITS + OFFSET_BITS + SEGMENT_BITS + LIFE_BITS == ZC_PLACE_BITS,
               "no bit is lost");

#define LIFE_MASK ((1u << LIFE_BITS) - 1)
#define ROOM_SHARE 8u /* a segment with less than this part of it left is full */

uint32_t zc_granule(const struct zc_backing *backing)
{
    return (uint32_t)(backing->geometry.unit >> OFFSET_BITS);
}

zc_place zc_place_of(const struct zc_backing *backing, const struct zc_spot *spot)
{
    zc_place place = spot->life & LIFE_MASK;

    place = place << SEGMENT_BITS | spot->segment;
    place = place << OFFSET_BITS | spot->offset / zc_granule(backing);
    return place << SLOT_BITS | spot->slot;
}

static uint32_t cut(zc_place *place, unsigned bits)
{
    uint32_t value = (uint32_t)(*place & ((1u << bits) - 1));

    *place >>= bits;
    return value;
}

struct zc_spot zc_spot_of(const struct zc_backing *backing, zc_place place)
{
    struct zc_spot spot;

    spot.slot = cut(&place, SLOT_BITS);
    spot.offset = cut(&place, OFFSET_BITS) * zc_granule(backing);
    spot.segment = cut(&place, SEGMENT_BITS);
    spot.life = cut(&place, LIFE_BITS);
    return spot;
}

uint64_t zc_slot_seed(const struct zc_backing *backing, uint64_t sequence, uint32_t slot)
{
    return zc_mix64(backing->super.id + zc_mix64(sequence) + slot);
}

uint64_t zc_record_checksum(uint64_t slot_seed, const struct zc_record *record, const void *bytes)
{
    uint64_t key =
        zc_mix64(record->object + zc_mix64((uint64_t)record->index << 32 | record->size));

    return zc_hash_seeded(bytes, record->size, slot_seed ^ key);
}

uint64_t zc_head_checksum(const struct zc_head *head)
{
    size_t from = offsetof(struct zc_head, id);

    return zc_hash((const char *)head + from, sizeof(*head) - from) + head->count;
}

bool zc_life_is(uint32_t life, uint32_t of_place)
{
    return (life & LIFE_MASK) == of_place;
}

uint64_t zc_words_at(const struct zc_backing *backing, uint32_t segment)
{
    return ZC_WORDS_AT + segment * backing->geometry.stride;
}

uint64_t zc_segment_at(const struct zc_backing *backing, uint32_t segment)
{
    return backing->geometry.data_at + segment * backing->geometry.unit;
}

/* ---- with the lock held ---- */

static void close_segment(struct zc_backing *backing, struct zc_segment *segment)
{
    segment->state = segment->live ? ZC_SEGMENT_FULL : ZC_SEGMENT_FREE;
    backing->free_segments += segment->live == 0;
}

/*
 * A reader counts itself in, then looks at the life; here it is the other way round. So either it finds
 * the life changed, or is seen here, and the segment is left until later.
 */
static bool renew(struct zc_backing *backing, struct zc_segment *segment)
{
    if (segment->state != ZC_SEGMENT_FREE)
        return false;
    atomic_fetch_add(&segment->life, 1);
    if (atomic_load(&segment->readers))
        return false;
    segment->sequence = ++backing->sequence;
    segment->fill = segment->live_bytes = 0;
    segment->slots = 0;
    segment->state = ZC_SEGMENT_OPEN;
    segment->is_discarded = segment->is_dense = false;
    backing->free_segments--;
    return true;
}

static int take_free(struct zc_backing *backing, uint32_t *out)
{
    uint32_t count = (uint32_t)backing->geometry.count;

    for (uint32_t i = 0; i < count; i++) {
        uint32_t segment = backing->next;
        backing->next = segment + 1 < count ? segment + 1 : 0;
        if (renew(backing, &backing->segments[segment])) {
            *out = segment;
            return 0;
        }
    }
    return -ENOSPC;
}

/* ---- taking and giving ---- */

bool zc_segment_has_room(const struct zc_backing *backing, uint32_t number)
{
    const struct zc_segment *segment = &backing->segments[number];
    uint64_t unit = backing->geometry.unit;

    return segment->slots < ZC_SLOTS && unit - segment->fill >= unit / ROOM_SHARE;
}

int zc_segment_take(struct zc_backing *backing, bool is_cleaning, uint32_t *out)
{
    int error = 0;

    pthread_mutex_lock(&backing->lock);
    if (backing->partial != ZC_NO_SEGMENT) {
        *out = backing->partial;
        backing->partial = ZC_NO_SEGMENT;
    } else {
        error = backing->free_segments > !is_cleaning ? take_free(backing, out) : -ENOSPC;
    }
    pthread_mutex_unlock(&backing->lock);
    return error;
}

void zc_segment_give(struct zc_backing *backing, uint32_t number)
{
    pthread_mutex_lock(&backing->lock);
    if (backing->partial == ZC_NO_SEGMENT && zc_segment_has_room(backing, number))
        backing->partial = number;
    else
        close_segment(backing, &backing->segments[number]);
    pthread_mutex_unlock(&backing->lock);
}

void zc_segment_close(struct zc_backing *backing, uint32_t number)
{
    pthread_mutex_lock(&backing->lock);
    close_segment(backing, &backing->segments[number]);
    pthread_mutex_unlock(&backing->lock);
}
