/* SPDX-License-Identifier: Apache-2.0 */
/* What both layouts have in common: opening, batches, counters. */
#include "backing/inside.h"

#include <errno.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/thread.h"
#include "frame/frame.h"

#define STACK_BYTES (64u * 1024)

void zc_backing_charge(struct zc_backing *backing, ptrdiff_t bytes)
{
    if (backing->frames)
        zc_frames_charge(backing->frames, bytes);
}

/* ---- opening and closing ---- */

static ptrdiff_t own_bytes(const struct zc_backing *backing)
{
    size_t segments = backing->segments ? (size_t)backing->geometry.count : 0;

    return (ptrdiff_t)(sizeof(*backing) + segments * sizeof(*backing->segments) +
                       backing->owed.len);
}

static void destroy(struct zc_backing *backing)
{
    zc_medium_close(&backing->medium);
    zc_backing_charge(backing, -own_bytes(backing));
    pthread_mutex_destroy(&backing->words);
    pthread_mutex_destroy(&backing->lock);
    zc_text_free(&backing->owed);
    free(backing->segments);
    free(backing);
}

static int open_medium(struct zc_backing *backing, const struct zc_backing_config *config,
                       struct zc_text *why)
{
    int error = zc_medium_open(&backing->medium, config, why);

    if (!error)
        error = zc_super_open(backing, config, why);
    if (error)
        return error;
    if (config->must_be_direct &&
        !zc_medium_is_direct(&backing->medium, backing->geometry.data_at)) {
        zc_text_add(why,
                    "backing store %s: its pages go through the page cache (no O_DIRECT), and swap "
                    "cannot be kept so; choose a block device, or a file of another file system",
                    config->path);
        return -EOPNOTSUPP;
    }
    backing->ops = backing->super.layout == ZC_PACKED ? &zc_packed_ops : &zc_in_place_ops;
    return backing->ops->create(backing);
}

int zc_backing_open(const struct zc_backing_config *config, struct zc_backing **out,
                    struct zc_text *why)
{
    if (config->codecs_size > ZC_CODECS_MAX_BYTES || strlen(config->pool) >= ZC_POOL_BYTES) {
        zc_text_add(why, "backing store %s: the pool's name or codecs are too long", config->path);
        return -EINVAL;
    }
    struct zc_backing *backing = calloc(1, sizeof(*backing));
    if (!backing)
        return -ENOMEM;
    pthread_mutex_init(&backing->lock, NULL);
    pthread_mutex_init(&backing->words, NULL);
    backing->partial = ZC_NO_SEGMENT;

    int error = open_medium(backing, config, why);
    backing->frames = config->frames;
    zc_backing_charge(backing, own_bytes(backing));
    if (error) {
        destroy(backing);
        return error;
    }
    *out = backing;
    return 0;
}

int zc_backing_recover(struct zc_backing *backing, zc_recover_visit *visit, void *arg)
{
    ZC_ASSERT(!backing->is_recovered);
    int error = backing->ops->recover(backing, visit, arg);
    backing->is_recovered = !error;
    return error;
}

static int stop(struct zc_backing *backing)
{
    int error = backing->is_recovered ? zc_words_mend(backing) : -EBUSY;

    if (!error)
        error = zc_medium_sync(&backing->medium);
    if (error)
        return error;
    backing->super.state = ZC_SUPER_CLEAN;
    error = zc_super_write(backing);
    return error ? error : zc_medium_sync(&backing->medium);
}

int zc_backing_close(struct zc_backing *backing, bool clean)
{
    ZC_ASSERT(!backing->unsettled);
    int error = clean ? stop(backing) : 0;
    destroy(backing);
    return error;
}

const void *zc_backing_codecs(const struct zc_backing *backing, size_t *size)
{
    *size = backing->super.codecs_size;
    return backing->super.codecs;
}

int zc_backing_set_codecs(struct zc_backing *backing, const void *codecs, size_t size)
{
    struct zc_super *super = &backing->super;
    char before[sizeof(super->codecs)];

    if (size > sizeof(super->codecs))
        return -E2BIG;
    pthread_mutex_lock(&backing->words);
    uint32_t size_before = super->codecs_size;
    memcpy(before, super->codecs, sizeof(before));
    memset(super->codecs, 0, sizeof(super->codecs));
    memcpy(super->codecs, codecs, size);
    super->codecs_size = (uint32_t)size;
    int error = zc_super_write(backing);
    if (error) { /* only these: others read the rest without the lock */
        memcpy(super->codecs, before, sizeof(before));
        super->codecs_size = size_before;
    }
    pthread_mutex_unlock(&backing->words);
    return error;
}

/* ---- batches ---- */

size_t zc_batch_room(const struct zc_backing *backing)
{
    return zc_segment_bytes(backing->super.page_size);
}

static ptrdiff_t batch_bytes(const struct zc_backing *backing)
{
    return (ptrdiff_t)(sizeof(struct zc_batch) + zc_batch_room(backing));
}

static void free_batch(struct zc_batch *batch)
{
    if (batch->buffer)
        zc_buffer_put(batch->backing, batch->buffer);
    free(batch);
}

int zc_batch_create(struct zc_backing *backing, size_t coming, struct zc_batch **out)
{
    struct zc_batch *batch = calloc(1, sizeof(*batch));

    ZC_ASSERT(backing->is_recovered);
    if (!batch)
        return -ENOMEM;
    batch->backing = backing;
    batch->buffer = zc_buffer_get(backing, coming);
    if (!batch->buffer || backing->ops->begin(batch) != 0) {
        free_batch(batch);
        return -ENOMEM;
    }
    zc_backing_charge(backing, batch_bytes(backing));
    *out = batch;
    return 0;
}

void zc_batch_destroy(struct zc_batch *batch)
{
    ZC_ASSERT(!batch->is_committed && !batch->is_started);
    batch->backing->ops->end(batch);
    zc_backing_charge(batch->backing, -batch_bytes(batch->backing));
    free_batch(batch);
}

size_t zc_batch_count(const struct zc_batch *batch)
{
    return batch->count;
}

int zc_batch_add(struct zc_batch *batch, const struct zc_record *record, void **bytes)
{
    struct zc_backing *backing = batch->backing;

    ZC_ASSERT(!batch->is_committed && record->size > 0 && record->live);
    ZC_ASSERT(record->pages >= 1 && record->pages <= ZC_RECORD_PAGES);
    ZC_ASSERT(record->live >> record->pages == 0);
    int error = zc_words_mend(backing);
    if (!error)
        error = backing->ops->add(batch, record, bytes);
    if (error)
        return error;
    batch->live[batch->count++] = record->live;
    batch->bytes += record->size;
    return 0;
}

void zc_batch_clear(struct zc_batch *batch)
{
    batch->count = 0;
    batch->bytes = 0;
    batch->backing->ops->next(batch);
}

int zc_batch_write(struct zc_batch *batch, zc_place *places)
{
    struct zc_backing *backing = batch->backing;
    int error = backing->ops->commit(batch, places);

    if (error) {
        zc_batch_clear(batch);
        return error;
    }
    backing->records += batch->count;
    backing->live_bytes += batch->bytes;
    return 0;
}

static void *writer_main(void *arg)
{
    struct zc_batch *batch = arg;

    prctl(PR_SET_NAME, "zc-write");
    batch->error = zc_batch_write(batch, batch->places);
    return NULL;
}

void zc_batch_start(struct zc_batch *batch, zc_place *places)
{
    ZC_ASSERT(!batch->is_committed && !batch->is_started);
    if (batch->count == 0)
        return;
    batch->places = places;
    batch->is_started = zc_thread_start(&batch->writer, STACK_BYTES, writer_main, batch) == 0;
}

static int await_writer(struct zc_batch *batch)
{
    pthread_join(batch->writer, NULL);
    batch->is_started = false;
    return batch->error;
}

int zc_batch_commit(struct zc_batch *batch, zc_place *places)
{
    ZC_ASSERT(!batch->is_committed);
    if (!batch->is_started && batch->count == 0)
        return 0;
    int error = batch->is_started ? await_writer(batch) : zc_batch_write(batch, places);
    if (!error)
        zc_words_unsettled(batch->backing, batch);
    return error;
}

int zc_batch_settle(struct zc_batch *batch)
{
    if (!batch->is_committed)
        return 0;
    int error = zc_words_settle(batch->backing, batch);
    zc_batch_clear(batch);
    return error;
}

/* ---- records ---- */

size_t zc_backing_room(size_t size)
{
    return zc_div_up(size + sizeof(uint64_t), ZC_BLOCK) * ZC_BLOCK + ZC_BLOCK;
}

int zc_backing_read(struct zc_backing *backing, zc_place place, const struct zc_record *record,
                    void *room, const void **bytes)
{
    return backing->ops->read(backing, place, record, room, bytes);
}

void zc_record_gone(struct zc_backing *backing, zc_place place, uint32_t size)
{
    backing->records--;
    backing->live_bytes -= size;
    backing->ops->gone(backing, place, size);
}

int zc_backing_keep(struct zc_backing *backing, zc_place place, uint32_t size, uint16_t live)
{
    int error = zc_words_set(backing, place, live);

    if (live == 0)
        zc_record_gone(backing, place, size);
    return error;
}

/* ---- counters ---- */

static uint64_t read_counter(_Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void zc_backing_get_stats(struct zc_backing *backing, struct zc_backing_stats *out)
{
    const struct zc_geometry *geometry = &backing->geometry;
    struct zc_medium *medium = &backing->medium;
    bool is_packed = backing->super.layout == ZC_PACKED;

    *out = (struct zc_backing_stats){
        .layout = backing->super.layout,
        .generation = backing->super.generation,
        .size = geometry->count * geometry->unit,
        .segment_size = is_packed ? geometry->unit : 0,
        .segments = is_packed ? geometry->count : 0,
        .records = read_counter(&backing->records),
        .live_bytes = read_counter(&backing->live_bytes),
        .discarded = read_counter(&medium->discarded),
        .write_errors = read_counter(&medium->write_errors),
        .read_errors = read_counter(&medium->read_errors),
        .damaged = read_counter(&backing->damaged),
        .is_direct = medium->is_direct,
        .is_failed = atomic_load(&backing->is_failed),
    };
    for (size_t i = 0; i < ZC_WEARS; i++)
        out->written[i] = read_counter(&medium->written[i]);
    pthread_mutex_lock(&backing->lock);
    out->free_segments = backing->free_segments;
    pthread_mutex_unlock(&backing->lock);
}
