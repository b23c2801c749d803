/* SPDX-License-Identifier: Apache-2.0 */
/* The packed layout: records in segments. */
#include <errno.h>
#include <string.h>

#include "backing/packed.h"
#include "base/hash.h"

static uint64_t align_up(uint64_t n, uint64_t by)
{
    return (n + by - 1) & ~(by - 1);
}

/* ---- filling a batch ---- */

static struct zc_table_entry *table_end(const struct zc_batch *batch)
{
    size_t unit = (size_t)batch->backing->geometry.unit;

    return (struct zc_table_entry *)(void *)(batch->buffer + unit - batch->start);
}

static bool fits(const struct zc_batch *batch, uint32_t size)
{
    size_t table = (batch->count + 1) * ZC_TABLE_ENTRY_BYTES;
    size_t record = ZC_RECORD_HEAD_BYTES + size;

    return batch->segment != ZC_NO_SEGMENT && batch->first + batch->count < ZC_SLOTS &&
           batch->front + record + table <= batch->backing->geometry.unit - batch->start;
}

static void enter_segment(struct zc_batch *batch)
{
    const struct zc_segment *segment = &batch->backing->segments[batch->segment];

    batch->start = segment->fill;
    batch->first = segment->slots;
    batch->front = ZC_HEAD_BYTES;
}

static void leave_segment(struct zc_batch *batch)
{
    if (batch->segment != ZC_NO_SEGMENT)
        zc_segment_give(batch->backing, batch->segment);
    batch->segment = ZC_NO_SEGMENT;
}

/* An empty batch looks for room for a record. */
static int find_room(struct zc_batch *batch, uint32_t size)
{
    struct zc_backing *backing = batch->backing;

    if (batch->segment != ZC_NO_SEGMENT && !zc_segment_has_room(backing, batch->segment))
        leave_segment(batch);
    while (!fits(batch, size)) {
        if (batch->segment != ZC_NO_SEGMENT)
            zc_segment_close(backing, batch->segment);
        batch->segment = ZC_NO_SEGMENT;
        int error = zc_segment_take(backing, batch->is_cleaning, &batch->segment);
        if (error)
            return error;
        enter_segment(batch);
    }
    return 0;
}

/* The last record's bytes are there by now, and in the cache. */
static void seal(struct zc_batch *batch)
{
    struct zc_backing *backing = batch->backing;
    const struct zc_segment *segment = &backing->segments[batch->segment];
    const struct zc_table_entry *entry = table_end(batch) - batch->count;
    struct zc_record record = {.object = entry->object, .index = entry->index, .size = entry->size};
    uint64_t seed = zc_slot_seed(backing, segment->sequence, batch->first + batch->count - 1);
    char *head = batch->buffer + entry->offset;

    uint64_t checksum = zc_record_checksum(seed, &record, head + ZC_RECORD_HEAD_BYTES);
    if (batch->is_damaged)
        checksum = ~checksum;
    batch->is_damaged = false;
    memcpy(head, &checksum, sizeof(checksum));
}

static int packed_add(struct zc_batch *batch, const struct zc_record *record, void **bytes)
{
    const struct zc_backing *backing = batch->backing;

    if (record->size >= ZC_RECORD_PAGES * (uint64_t)backing->super.page_size)
        return -EINVAL;
    if (batch->count && !fits(batch, record->size))
        return -EAGAIN;
    int error = batch->count ? 0 : find_room(batch, record->size);
    if (error)
        return error;
    if (batch->count)
        seal(batch);

    table_end(batch)[-1 - (ptrdiff_t)batch->count] = (struct zc_table_entry){
        .object = record->object,
        .index = record->index,
        .size = record->size,
        .offset = batch->front,
        .pages = record->pages,
        .codec = record->codec,
        .flags = record->flags,
    };
    *bytes = batch->buffer + batch->front + ZC_RECORD_HEAD_BYTES;
    uint64_t end = batch->front + ZC_RECORD_HEAD_BYTES + record->size;
    batch->front = (uint32_t)align_up(end, zc_granule(backing));
    return 0;
}

/* ---- writing it ---- */

/* Puts the table behind the records. Returns how many bytes are to be written. */
static uint32_t finish(struct zc_batch *batch)
{
    struct zc_backing *backing = batch->backing;
    size_t table = batch->count * ZC_TABLE_ENTRY_BYTES;
    /* The last record's padding may reach into the table where it is. */
    uint32_t room = (uint32_t)(backing->geometry.unit - batch->start - table);
    uint32_t table_at = batch->front < room ? batch->front : room;
    uint32_t length = (uint32_t)align_up(table_at + table, ZC_BLOCK);
    struct zc_head *head = (struct zc_head *)(void *)batch->buffer;

    memmove(batch->buffer + table_at, table_end(batch) - batch->count, table);
    memset(batch->buffer + table_at + table, 0, length - table_at - table);
    *head = (struct zc_head){
        .magic = ZC_HEAD_MAGIC,
        .count = batch->count,
        .id = backing->super.id,
        .sequence = backing->segments[batch->segment].sequence,
        .segment = batch->segment,
        .start = batch->start,
        .length = length,
        .table_at = table_at,
        .first = batch->first,
        .table_checksum = zc_hash(batch->buffer + table_at, table),
    };
    head->checksum = zc_head_checksum(head);
    return length;
}

static void say_places(const struct zc_batch *batch, zc_place *places)
{
    const struct zc_backing *backing = batch->backing;
    const struct zc_head *head = (const struct zc_head *)(const void *)batch->buffer;
    const struct zc_table_entry *table =
        (const struct zc_table_entry *)(const void *)(batch->buffer + head->table_at);
    struct zc_spot spot = {.segment = batch->segment,
                           .life = atomic_load(&backing->segments[batch->segment].life)};

    for (uint32_t i = 0; i < batch->count; i++) {
        spot.slot = batch->first + i;
        spot.offset = batch->start + table[batch->count - 1 - i].offset;
        places[i] = zc_place_of(backing, &spot);
    }
}

static int packed_commit(struct zc_batch *batch, zc_place *places)
{
    struct zc_backing *backing = batch->backing;
    struct zc_segment *segment = &backing->segments[batch->segment];
    enum zc_wear wear = batch->is_cleaning ? ZC_WEAR_CLEANED : ZC_WEAR_EVICTED;

    seal(batch);
    uint32_t length = finish(batch);
    int error = zc_medium_write(&backing->medium, backing->medium.data, batch->buffer, length,
                                zc_segment_at(backing, batch->segment) + batch->start, wear);
    if (error) {
        zc_segment_close(backing, batch->segment); /* it may be the place */
        batch->segment = ZC_NO_SEGMENT;
        return error;
    }
    say_places(batch, places);
    pthread_mutex_lock(&backing->lock);
    segment->fill = batch->start + length;
    segment->slots = (uint16_t)(batch->first + batch->count);
    segment->live = (uint16_t)(segment->live + batch->count);
    segment->live_bytes += (uint32_t)batch->bytes;
    segment->is_dense |= batch->is_cleaning;
    pthread_mutex_unlock(&backing->lock);
    return 0;
}

static int packed_settle(struct zc_batch *batch)
{
    struct zc_backing *backing = batch->backing;
    uint64_t sequence = backing->segments[batch->segment].sequence;
    uint32_t words[ZC_SLOTS];

    for (uint32_t i = 0; i < batch->count; i++)
        words[i] = zc_word(zc_slot_seed(backing, sequence, batch->first + i), batch->live[i]);
    return zc_words_write(backing, words, batch->count * sizeof(*words),
                          zc_words_at(backing, batch->segment) + batch->first * sizeof(*words));
}

static int packed_create(struct zc_backing *backing)
{
    uint32_t count = (uint32_t)backing->geometry.count;

    backing->segments = calloc(count, sizeof(*backing->segments));
    if (!backing->segments)
        return -ENOMEM;
    for (uint32_t i = 0; i < count; i++)
        backing->segments[i].is_discarded = true;
    backing->free_segments = count;
    backing->sequence = backing->super.generation << 32;
    return 0;
}

static int packed_begin(struct zc_batch *batch)
{
    batch->segment = ZC_NO_SEGMENT;
    return 0;
}

static void packed_next(struct zc_batch *batch)
{
    if (batch->segment != ZC_NO_SEGMENT)
        enter_segment(batch);
}

static int64_t packed_find(const struct zc_batch *batch, zc_place place)
{
    struct zc_spot spot = zc_spot_of(batch->backing, place);

    if (spot.segment != batch->segment || spot.slot < batch->first)
        return -1;
    return spot.slot - batch->first < batch->count ? (int64_t)(spot.slot - batch->first) : -1;
}

/* ---- reading ---- */

static int read_record(struct zc_backing *backing, const struct zc_spot *spot,
                       const struct zc_record *record, char *room, const void **bytes)
{
    uint64_t at = zc_segment_at(backing, spot->segment) + spot->offset;
    uint64_t from = at & ~(uint64_t)(ZC_BLOCK - 1);
    uint64_t to = align_up(at + ZC_RECORD_HEAD_BYTES + record->size, ZC_BLOCK);
    uint64_t sequence = backing->segments[spot->segment].sequence, checksum;

    if (spot->offset + ZC_RECORD_HEAD_BYTES + record->size > backing->geometry.unit)
        return -ENOENT;
    if (zc_medium_read(&backing->medium, backing->medium.data, room, (size_t)(to - from), from))
        return -EIO;
    memcpy(&checksum, room + (at - from), sizeof(checksum));
    *bytes = room + (at - from) + ZC_RECORD_HEAD_BYTES;
    uint64_t seed = zc_slot_seed(backing, sequence, spot->slot);
    return zc_record_checksum(seed, record, *bytes) == checksum ? 0 : -EIO;
}

static int packed_read(struct zc_backing *backing, zc_place place, const struct zc_record *record,
                       void *room, const void **bytes)
{
    struct zc_spot spot = zc_spot_of(backing, place);

    if (spot.segment >= backing->geometry.count)
        return -ENOENT;
    struct zc_segment *segment = &backing->segments[spot.segment];
    int error = -ENOENT;
    atomic_fetch_add(&segment->readers, 1);
    if (zc_life_is(atomic_load(&segment->life), spot.life))
        error = read_record(backing, &spot, record, room, bytes);
    atomic_fetch_sub(&segment->readers, 1);
    return error;
}

/* ---- what becomes of a record ---- */

static uint32_t packed_word(const struct zc_backing *backing, zc_place place, uint16_t live,
                            uint64_t *at)
{
    struct zc_spot spot = zc_spot_of(backing, place);
    uint64_t sequence = backing->segments[spot.segment].sequence;

    *at = zc_words_at(backing, spot.segment) + spot.slot * sizeof(uint32_t);
    return zc_word(zc_slot_seed(backing, sequence, spot.slot), live);
}

static void packed_gone(struct zc_backing *backing, zc_place place, uint32_t size)
{
    struct zc_spot spot = zc_spot_of(backing, place);
    struct zc_segment *segment = &backing->segments[spot.segment];

    pthread_mutex_lock(&backing->lock);
    ZC_ASSERT(zc_life_is(atomic_load(&segment->life), spot.life));
    ZC_ASSERT(segment->live > 0 && segment->live_bytes >= size);
    segment->live--;
    segment->live_bytes -= size;
    segment->is_dense = false;
    if (segment->state == ZC_SEGMENT_FULL && segment->live == 0) {
        segment->state = ZC_SEGMENT_FREE;
        backing->free_segments++;
    }
    pthread_mutex_unlock(&backing->lock);
}

const struct zc_layout_ops zc_packed_ops = {
    .create = packed_create,
    .recover = zc_packed_recover,
    .begin = packed_begin,
    .next = packed_next,
    .end = leave_segment,
    .add = packed_add,
    .commit = packed_commit,
    .settle = packed_settle,
    .read = packed_read,
    .find = packed_find,
    .word = packed_word,
    .gone = packed_gone,
};
