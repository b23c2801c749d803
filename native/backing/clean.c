/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cleaning: what is live in the sparsest segment is written elsewhere, and the segment is free. A
 * record's copy is not live, and its old word stands, until the owner says that it has the record:
 * so a kill at any time finds one of the two, or both.
 */
#include <errno.h>
#include <string.h>

#include "backing/packed.h"

#define GAIN_SHARE 8u /* a segment is left alone when less than this part of it would be gained */

struct copy {
    struct zc_record record;
    zc_place from;
};

struct cleaning {
    struct zc_walk walk;
    struct zc_backing *backing;
    zc_moved *moved;
    void *arg;
    struct zc_batch *batch;
    char *segment; /* its bytes */
    int error;
    uint32_t words[ZC_SLOTS];
    struct copy copies[ZC_SLOTS]; /* what is in the batch */
    zc_place places[ZC_SLOTS];
};

/* ---- choosing ---- */

/* Pins it, so that it is not used anew when its last record goes meanwhile. */
static uint32_t choose(struct zc_backing *backing)
{
    uint64_t unit = backing->geometry.unit, best = unit - unit / GAIN_SHARE;
    uint32_t chosen = ZC_NO_SEGMENT;

    pthread_mutex_lock(&backing->lock);
    for (uint32_t i = 0; i < backing->geometry.count; i++) {
        const struct zc_segment *segment = &backing->segments[i];
        if (segment->state != ZC_SEGMENT_FULL || segment->is_dense || segment->live_bytes >= best)
            continue;
        chosen = i;
        best = segment->live_bytes;
    }
    if (chosen != ZC_NO_SEGMENT)
        atomic_fetch_add(&backing->segments[chosen].readers, 1);
    pthread_mutex_unlock(&backing->lock);
    return chosen;
}

static uint32_t free_segments(struct zc_backing *backing)
{
    pthread_mutex_lock(&backing->lock);
    uint32_t count = backing->free_segments;
    pthread_mutex_unlock(&backing->lock);
    return count;
}

/* Is it empty now? If not, though all went well, something in it is damaged: it is left alone. */
static bool end_of(struct zc_backing *backing, uint32_t number, int error)
{
    struct zc_segment *segment = &backing->segments[number];

    pthread_mutex_lock(&backing->lock);
    atomic_fetch_sub(&segment->readers, 1);
    bool is_empty = segment->live == 0;
    segment->is_dense = !is_empty && !error;
    pthread_mutex_unlock(&backing->lock);
    return is_empty;
}

/* ---- moving ---- */

/* Writes what the batch holds, and has the owner take it. */
static void hand_over(struct cleaning *cleaning)
{
    struct zc_batch *batch = cleaning->batch;
    uint32_t count = batch->count;

    if (count == 0 || cleaning->error)
        return;
    cleaning->error = zc_batch_write(batch, cleaning->places);
    for (uint32_t i = 0; i < count && !cleaning->error; i++) {
        const struct copy *copy = &cleaning->copies[i];
        if (!cleaning->moved(cleaning->arg, &copy->record, copy->from, cleaning->places[i]))
            zc_record_gone(cleaning->backing, cleaning->places[i], copy->record.size);
    }
    zc_batch_clear(batch);
}

static void copy_record(struct zc_walk *walk, const struct zc_record *record,
                        const struct zc_spot *spot)
{
    struct cleaning *cleaning = ZC_CONTAINER(walk, struct cleaning, walk);
    struct zc_batch *batch = cleaning->batch;
    const char *head = cleaning->segment + spot->offset;
    uint64_t sequence = walk->backing->segments[walk->segment].sequence, checksum;
    void *bytes;

    if (!cleaning->error)
        cleaning->error = zc_batch_add(batch, record, &bytes);
    if (cleaning->error == -EAGAIN) {
        cleaning->error = 0;
        hand_over(cleaning);
        if (!cleaning->error)
            cleaning->error = zc_batch_add(batch, record, &bytes);
    }
    if (cleaning->error)
        return;
    memcpy(&checksum, head, sizeof(checksum));
    memcpy(bytes, head + sizeof(checksum), record->size);
    batch->is_damaged =
        checksum !=
        zc_record_checksum(zc_slot_seed(walk->backing, sequence, spot->slot), record, bytes);
    cleaning->copies[batch->count - 1] = (struct copy){*record, zc_place_of(walk->backing, spot)};
}

static const char *load_part(struct zc_walk *walk, uint32_t at, uint32_t size)
{
    (void)size;
    return ZC_CONTAINER(walk, struct cleaning, walk)->segment + at;
}

static void clean_segment(struct cleaning *cleaning, uint32_t number)
{
    struct zc_backing *backing = cleaning->backing;
    struct zc_medium *medium = &backing->medium;
    bool any;

    cleaning->walk.segment = number;
    if (zc_segment_words(backing, number, cleaning->words, &any) ||
        zc_medium_read(medium, medium->data, cleaning->segment, (size_t)backing->geometry.unit,
                       zc_segment_at(backing, number)))
        return; /* it may be the place */
    backing->damaged += zc_segment_walk(&cleaning->walk);
    hand_over(cleaning);
}

/* Nobody is to take it meanwhile. */
static bool take_to_discard(struct zc_backing *backing, struct zc_segment *segment)
{
    pthread_mutex_lock(&backing->lock);
    bool is_due = segment->state == ZC_SEGMENT_FREE && !segment->is_discarded &&
                  atomic_load(&segment->readers) == 0;
    if (is_due) {
        segment->state = ZC_SEGMENT_OPEN;
        backing->free_segments--;
    }
    pthread_mutex_unlock(&backing->lock);
    return is_due;
}

static void discard_free(struct zc_backing *backing)
{
    for (uint32_t i = 0; i < backing->geometry.count; i++) {
        struct zc_segment *segment = &backing->segments[i];
        if (!take_to_discard(backing, segment))
            continue;
        zc_medium_discard(&backing->medium, zc_segment_at(backing, i), backing->geometry.unit);
        segment->is_discarded = true;
        zc_segment_close(backing, i);
    }
}

static int64_t clean(struct cleaning *cleaning, uint32_t want)
{
    struct zc_backing *backing = cleaning->backing;
    int64_t freed = 0;

    cleaning->error = zc_words_mend(backing); /* they say what is to be moved */
    while (!cleaning->error && free_segments(backing) < want) {
        uint32_t number = choose(backing);
        if (number == ZC_NO_SEGMENT)
            break;
        clean_segment(cleaning, number);
        freed += end_of(backing, number, cleaning->error);
    }
    discard_free(backing);
    return cleaning->error ? cleaning->error : freed;
}

int64_t zc_backing_clean(struct zc_backing *backing, uint32_t want, zc_moved *moved, void *arg)
{
    size_t unit = (size_t)backing->geometry.unit;
    int64_t freed = -ENOMEM;

    if (backing->super.layout != ZC_PACKED)
        return 0;
    struct cleaning *cleaning = calloc(1, sizeof(*cleaning));
    if (!cleaning)
        return freed;
    *cleaning = (struct cleaning){.backing = backing, .moved = moved, .arg = arg};
    cleaning->walk = (struct zc_walk){
        .backing = backing, .words = cleaning->words, .load = load_part, .visit = copy_record};
    cleaning->segment = zc_pages_get(unit);
    if (cleaning->segment && zc_batch_create(backing, want * unit, &cleaning->batch) == 0) {
        cleaning->batch->is_cleaning = true;
        freed = clean(cleaning, want);
        zc_batch_destroy(cleaning->batch);
    }
    zc_pages_put(cleaning->segment, unit);
    free(cleaning);
    return freed;
}

int zc_backing_move(struct zc_backing *backing, zc_place from, zc_place to, uint32_t size,
                    uint16_t live)
{
    int error = zc_words_set(backing, to, live);
    int other = zc_words_set(backing, from, 0);

    zc_record_gone(backing, from, size);
    return error ? error : other;
}
