/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What of a segment is live, found from the medium alone. Every byte read here may be damaged, or
 * left from an earlier life of the segment: only what is checked is believed.
 */
#include <errno.h>
#include <string.h>

#include "backing/packed.h"
#include "base/hash.h"

/* ---- parsing ---- */

static bool is_head(const struct zc_walk *walk, const struct zc_head *head, uint32_t start)
{
    uint64_t unit = walk->backing->geometry.unit;
    uint64_t table = (uint64_t)head->count * ZC_TABLE_ENTRY_BYTES;

    return head->magic == ZC_HEAD_MAGIC && head->checksum == zc_head_checksum(head) &&
           head->id == walk->backing->super.id && head->segment == walk->segment &&
           head->start == start && head->length > 0 && head->length % ZC_BLOCK == 0 &&
           head->length <= unit - start && head->count > 0 && head->first < ZC_SLOTS &&
           head->count <= ZC_SLOTS - head->first && head->table_at >= ZC_HEAD_BYTES &&
           head->table_at + table <= head->length;
}

/* False: there can be no such record. */
static bool parse(const struct zc_walk *walk, const struct zc_head *head,
                  const struct zc_table_entry *entry, struct zc_record *record)
{
    uint64_t end = (uint64_t)entry->offset + ZC_RECORD_HEAD_BYTES + entry->size;

    *record = (struct zc_record){.object = entry->object,
                                 .index = entry->index,
                                 .size = entry->size,
                                 .pages = entry->pages,
                                 .codec = entry->codec,
                                 .flags = entry->flags};
    return entry->size > 0 && entry->offset >= ZC_HEAD_BYTES &&
           (head->start + entry->offset) % zc_granule(walk->backing) == 0 &&
           end <= head->table_at && entry->pages >= 1 && entry->pages <= ZC_RECORD_PAGES;
}

/* What the word of a slot says is live of a record of so many pages; 0: nothing. */
static uint16_t live_of(const struct zc_walk *walk, uint64_t sequence, uint32_t slot, uint8_t pages)
{
    uint32_t word = walk->words[slot];
    int live = word ? zc_word_live(zc_slot_seed(walk->backing, sequence, slot), word) : 0;

    return live > 0 && live >> pages == 0 ? (uint16_t)live : 0;
}

/* ---- walking ---- */

/* The live records of one batch. Returns how many there are. */
static uint32_t walk_batch(struct zc_walk *walk, const struct zc_head *head)
{
    struct zc_segment *segment = &walk->backing->segments[walk->segment];
    size_t bytes = head->count * ZC_TABLE_ENTRY_BYTES;
    const char *loaded = walk->load(walk, head->start + head->table_at, (uint32_t)bytes);
    struct zc_table_entry entry;
    uint32_t found = 0;

    if (!loaded || zc_hash(loaded, bytes) != head->table_checksum)
        return 0;
    for (uint32_t i = 0; i < head->count; i++) {
        struct zc_spot spot = {.segment = walk->segment, .slot = head->first + i};
        struct zc_record record;
        memcpy(&entry, loaded + (head->count - 1 - i) * sizeof(entry), sizeof(entry));
        if (!walk->words[spot.slot] || !parse(walk, head, &entry, &record))
            continue;
        record.live = live_of(walk, head->sequence, spot.slot, record.pages);
        if (record.live && !segment->sequence)
            segment->sequence = head->sequence;
        if (!record.live || segment->sequence != head->sequence)
            continue;
        spot.offset = head->start + entry.offset;
        spot.life = atomic_load(&segment->life);
        walk->visit(walk, &record, &spot);
        found++;
    }
    return found;
}

uint32_t zc_segment_walk(struct zc_walk *walk)
{
    uint64_t unit = walk->backing->geometry.unit;
    uint32_t left = 0;

    for (uint32_t slot = 0; slot < ZC_SLOTS; slot++)
        left += walk->words[slot] != 0;
    for (uint32_t at = 0; left && at < unit;) {
        struct zc_head head;
        const char *loaded = walk->load(walk, at, sizeof(head));
        if (loaded)
            memcpy(&head, loaded, sizeof(head));
        if (!loaded || !is_head(walk, &head, at)) {
            at += ZC_BLOCK; /* where the next batch begins is not known then */
            continue;
        }
        left -= walk_batch(walk, &head);
        at += head.length;
    }
    return left;
}

int zc_segment_words(struct zc_backing *backing, uint32_t segment, uint32_t words[ZC_SLOTS],
                     bool *any)
{
    size_t size = ZC_SLOTS * sizeof(*words);
    int error = zc_medium_read(&backing->medium, backing->medium.meta, words, size,
                               zc_words_at(backing, segment));

    *any = !error && (words[0] || memcmp(words, words + 1, size - sizeof(*words)) != 0);
    return error ? -EIO : 0;
}

/* ---- recovery ---- */

struct recovery {
    struct zc_walk walk;
    zc_recover_visit *wants;
    void *arg;
    char *buffer;
    uint32_t words[ZC_SLOTS];
};

static const char *load_blocks(struct zc_walk *walk, uint32_t at, uint32_t size)
{
    struct recovery *recovery = ZC_CONTAINER(walk, struct recovery, walk);
    struct zc_medium *medium = &walk->backing->medium;
    uint32_t from = at & ~(ZC_BLOCK - 1);
    uint32_t to = (at + size + ZC_BLOCK - 1) & ~(ZC_BLOCK - 1);

    if (zc_medium_read(medium, medium->data, recovery->buffer, to - from,
                       zc_segment_at(walk->backing, walk->segment) + from))
        return NULL;
    return recovery->buffer + (at - from);
}

static void recover_record(struct zc_walk *walk, const struct zc_record *record,
                           const struct zc_spot *spot)
{
    struct recovery *recovery = ZC_CONTAINER(walk, struct recovery, walk);
    struct zc_backing *backing = walk->backing;
    struct zc_segment *segment = &backing->segments[walk->segment];
    zc_place place = zc_place_of(backing, spot);

    if (!recovery->wants(recovery->arg, record, place)) {
        zc_words_set(backing, place, 0);
        return;
    }
    segment->live++;
    segment->live_bytes += record->size;
    backing->records++;
    backing->live_bytes += record->size;
}

static int recover_segment(struct recovery *recovery, uint32_t number)
{
    struct zc_walk *walk = &recovery->walk;
    struct zc_backing *backing = walk->backing;
    struct zc_segment *segment = &backing->segments[number];
    bool any;
    int error = zc_segment_words(backing, number, recovery->words, &any);

    if (error || !any)
        return error;
    walk->segment = number;
    backing->damaged += zc_segment_walk(walk);
    if (segment->live == 0)
        return 0;
    segment->state = ZC_SEGMENT_FULL;
    segment->is_discarded = false;
    segment->fill = (uint32_t)backing->geometry.unit;
    backing->free_segments--;
    return 0;
}

int zc_packed_recover(struct zc_backing *backing, zc_recover_visit *visit, void *arg)
{
    size_t unit = (size_t)backing->geometry.unit;
    struct recovery *recovery = calloc(1, sizeof(*recovery));
    int error = -ENOMEM;

    if (!recovery)
        return error;
    recovery->buffer = zc_pages_get(unit);
    if (recovery->buffer) {
        recovery->wants = visit;
        recovery->arg = arg;
        recovery->walk = (struct zc_walk){.backing = backing,
                                          .words = recovery->words,
                                          .load = load_blocks,
                                          .visit = recover_record};
        error = 0;
        for (uint32_t i = 0; i < backing->geometry.count && !error; i++)
            error = recover_segment(recovery, i);
    }
    zc_pages_put(recovery->buffer, unit);
    free(recovery);
    return error;
}
