/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A packed backing store against fio, in turns, on the same file with the same block size and
 * O_DIRECT: how fast zpages are written that were compressed before. By one thread, which fills a
 * batch and then writes it; and with the next one filled while two are being written, as writeback
 * does. Then writeback itself: zpages are found in a pool, copied, written, and let go.
 *
 * Then what is written in all for each byte of zpages: filling; and, a random half freed, with
 * cleaning for as many again.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backing/backing.h"
#include "base/base.h"
#include "base/node.h"
#include "bench.h"

#define STORE_BYTES ((uint64_t)512 << 20)
#define BLOCK_BYTES ((uint64_t)1 << 20)
#define BATCH_RECORDS 4096
#define SLOTS 3         /* batches, of which one is filled */
#define READ_SHARE 61   /* of so many records one is read */
#define FREE_SEGMENTS 8 /* that cleaning keeps ready */

struct record {
    zc_place place; /* 0: none */
    uint32_t size;
};

struct slot {
    struct zc_batch *batch;
    size_t first, count; /* of records */
    zc_place places[BATCH_RECORDS];
};

struct run {
    const struct options *options;
    struct pages pages;
    struct alone *alone;
    const char **zpages; /* by page */
    struct zc_backing *backing;
    struct record *records;
    size_t count, most;
    uint64_t bytes; /* of records */
    uint64_t seed;
};

/* ---- the store ---- */

static bool no_record(void *arg, const struct zc_record *record, zc_place place)
{
    (void)arg;
    (void)record;
    (void)place;
    return false;
}

static void open_backing(struct run *run)
{
    struct zc_text why = {0};
    struct zc_backing_config config = {.path = run->options->device,
                                       .page_size = (uint32_t)run->options->page_size,
                                       .size = STORE_BYTES,
                                       .pool = "bench",
                                       .reset = true};

    if (zc_backing_open(&config, &run->backing, &why) != 0)
        die(why.data ? why.data : "out of memory", run->options->device);
    zc_backing_recover(run->backing, no_record, NULL);
    run->count = 0;
    run->bytes = 0;
}

static void close_backing(struct run *run)
{
    zc_backing_close(run->backing, false);
}

static struct zc_batch *new_batch(struct run *run)
{
    struct zc_batch *batch;

    if (zc_batch_create(run->backing, STORE_BYTES, &batch) != 0)
        die("out of memory", "batch");
    return batch;
}

/* Zpage of the next record. 0, or why there is no room. */
static int add(struct run *run, struct zc_batch *batch, uint32_t index)
{
    size_t page = index % run->pages.count;
    struct zc_record record = {
        .object = 1, .index = index, .size = alone_size(run->alone, page), .live = 1, .pages = 1};
    void *bytes;
    int error = zc_batch_add(batch, &record, &bytes);

    if (!error)
        memcpy(bytes, run->zpages[page], record.size);
    return error;
}

/* Fills a batch with new records. False: the store is full. */
static bool fill(struct run *run, struct slot *slot)
{
    int error = 0;

    slot->first = run->count;
    while (run->count < run->most) {
        error = add(run, slot->batch, (uint32_t)run->count);
        if (error)
            break;
        run->records[run->count].size = alone_size(run->alone, run->count % run->pages.count);
        run->bytes += run->records[run->count++].size;
    }
    slot->count = run->count - slot->first;
    return error == -EAGAIN;
}

static void write_out(struct run *run, struct slot *slot)
{
    if (zc_batch_commit(slot->batch, slot->places) != 0 || zc_batch_settle(slot->batch) != 0)
        die("it cannot be written", run->options->device);
    for (size_t i = 0; i < slot->count; i++)
        run->records[slot->first + i].place = slot->places[i];
}

static double mb_a_second(uint64_t bytes, double start)
{
    return (double)bytes * 1e3 / (now_ns() - start);
}

static double by_one(struct run *run)
{
    struct slot slot = {.batch = new_batch(run)};
    double start = now_ns();
    bool more;

    do {
        more = fill(run, &slot);
        write_out(run, &slot);
    } while (more);
    double speed = mb_a_second(run->bytes, start);
    zc_batch_destroy(slot.batch);
    return speed;
}

static double by_more(struct run *run)
{
    struct slot slots[SLOTS];
    size_t at = 0;

    for (size_t i = 0; i < SLOTS; i++)
        slots[i] = (struct slot){.batch = new_batch(run)};
    run_on_both();
    double start = now_ns();
    while (fill(run, &slots[at])) {
        zc_batch_start(slots[at].batch, slots[at].places);
        at = (at + 1) % SLOTS;
        write_out(run, &slots[at]);
    }
    for (size_t i = 0; i < SLOTS; i++) {
        at = (at + 1) % SLOTS;
        write_out(run, &slots[at]);
    }
    double speed = mb_a_second(run->bytes, start);
    run_on(THIS_CPU, 0);
    for (size_t i = 0; i < SLOTS; i++)
        zc_batch_destroy(slots[i].batch);
    return speed;
}

/* As many zpages leave a pool by zc_pool_writeback(), but for some that the last batches leave no room. */
static double by_pool(struct run *run, const char *allocator)
{
    struct options options = *run->options;
    struct zc_pool_backing backing = {
        .path = options.device, .layout = "packed", .size = STORE_BYTES, .reset = true};
    struct zc_pool_stats stats;
    struct zc_written_back done;

    options.allocator = allocator;
    zc_store *store = open_store(options.page_size);
    zc_pool *pool = open_pool(store, &options);
    put_distinct(pool, &run->pages, 0, run->count * 7 / 8);
    if (zc_pool_set_backing(pool, &backing, NULL, 0) != 0)
        die("it cannot be a backing store", options.device);
    zc_pool_get_stats(pool, &stats);
    run_on_both();
    double start = now_ns();
    if (zc_pool_writeback(pool, SIZE_MAX, &done) != 0)
        die("it cannot be written", options.device);
    double speed = mb_a_second(stats.zbytes, start);
    run_on(THIS_CPU, 0);
    close_pool(pool);
    zc_store_destroy(store);
    return speed;
}

/* One of so many; returns nanoseconds a read. */
static double read_some(struct run *run)
{
    char *room = get_memory(zc_backing_room(run->options->page_size));
    double start = now_ns();
    size_t count = 0;
    const void *bytes;

    for (size_t i = 0; i < run->count; i += READ_SHARE, count++) {
        struct zc_record record = {.object = 1, .index = (uint32_t)i, .size = run->records[i].size};
        zc_place place = run->records[i].place;
        if (place && (zc_backing_read(run->backing, place, &record, room, &bytes) != 0 ||
                      memcmp(bytes, run->zpages[i % run->pages.count], record.size) != 0))
            die("a record does not come back as it was", run->options->device);
    }
    free(room);
    return (now_ns() - start) / (double)count;
}

/* ---- fio ---- */

static double by_fio(const struct options *options)
{
    char command[512], *line = NULL;
    size_t size = 0;
    double speed = 0;

    snprintf(command, sizeof(command),
             "fio --name=bench --filename='%s' --rw=write --bs=%" PRIu64 " --size=%" PRIu64
             " --direct=1 --ioengine=psync --overwrite=1 --fallocate=none --output-format=json",
             options->device, BLOCK_BYTES, STORE_BYTES);
    FILE *fio = popen(command, "re");
    if (!fio)
        die("cannot be started", "fio");
    bool is_write = false;
    while (getline(&line, &size, fio) > 0) {
        is_write |= strstr(line, "\"write\" :") != NULL;
        if (is_write && speed == 0)
            sscanf(line, " \"bw_bytes\" : %lf", &speed);
    }
    free(line);
    if (pclose(fio) != 0 || speed == 0)
        die("failed", "fio");
    return speed / 1e6;
}

/* ---- what is written in all ---- */

static uint64_t next(struct run *run)
{
    return zc_mix64(run->seed += 0x9e3779b97f4a7c15u);
}

static uint64_t forget_half(struct run *run)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < run->count; i++) {
        struct record *record = &run->records[i];
        if (!record->place || next(run) % 2)
            continue;
        zc_backing_forget(run->backing, record->place, record->size);
        record->place = 0;
        bytes += record->size;
    }
    return bytes;
}

static bool moved(void *arg, const struct zc_record *record, zc_place from, zc_place to)
{
    struct run *run = arg;
    struct record *mine = &run->records[record->index];

    if (mine->place != from)
        return false;
    zc_backing_move(run->backing, from, to, mine->size, 1);
    mine->place = to;
    return true;
}

/* As many bytes again as were freed, cleaning when there is no room. */
static void refill(struct run *run, uint64_t bytes)
{
    struct slot slot = {.batch = new_batch(run)};
    uint64_t until = run->bytes + bytes;
    struct zc_backing_stats stats;

    while (run->bytes < until && run->count < run->most) {
        zc_backing_get_stats(run->backing, &stats);
        if (stats.free_segments < FREE_SEGMENTS / 2 &&
            zc_backing_clean(run->backing, FREE_SEGMENTS, moved, run) <= 0)
            break;
        fill(run, &slot);
        write_out(run, &slot);
    }
    zc_batch_destroy(slot.batch);
}

static uint64_t written(const struct zc_backing_stats *stats)
{
    return stats->written[ZC_WEAR_EVICTED] + stats->written[ZC_WEAR_METADATA];
}

static void print_wear(struct run *run)
{
    struct zc_backing_stats start, full, end;

    open_backing(run);
    zc_backing_get_stats(run->backing, &start);
    by_one(run);
    zc_backing_get_stats(run->backing, &full);
    uint64_t first = run->bytes;
    refill(run, forget_half(run) * 3 / 4);
    zc_backing_get_stats(run->backing, &end);
    read_some(run);
    uint64_t second = run->bytes - first;
    printf("\"filling_written\": %.4f, \"again_written\": %.4f, \"cleaned\": %.4f, "
           "\"again_bytes\": %" PRIu64 ", ",
           (double)(written(&full) - written(&start)) / (double)first,
           (double)(written(&end) - written(&full)) / (double)second,
           (double)end.written[ZC_WEAR_CLEANED] / (double)second, second);
    close_backing(run);
}

/* ---- all of it ---- */

static void compress(struct run *run)
{
    run->alone = alone_new(run->options->codec, &run->pages, ALONE_APART);
    alone_put(run->alone, &run->pages);
    run->zpages = get_memory(run->pages.count * sizeof(*run->zpages));
    const char *at = alone_bytes(run->alone);
    for (size_t i = 0; i < run->pages.count; i++) {
        run->zpages[i] = at;
        at += alone_size(run->alone, i);
    }
    run->most = (size_t)(4 * STORE_BYTES * run->pages.count / (uint64_t)(at - run->zpages[0]));
    run->records = get_memory(run->most * sizeof(*run->records));
    memset(run->records, 0, run->most * sizeof(*run->records));
}

void backing(const struct options *options)
{
    struct run run = {.options = options, .seed = 1};
    size_t rounds = options->rounds;
    double *fio = get_memory(rounds * sizeof(*fio)), *one = get_memory(rounds * sizeof(*one));
    double *two = get_memory(rounds * sizeof(*two)), *read_ns = get_memory(rounds * sizeof(*two));
    double *zbud = get_memory(rounds * sizeof(*zbud));
    double *zsmalloc = get_memory(rounds * sizeof(*zsmalloc));
    struct zc_backing_stats stats;

    if (!*options->device)
        die("say which file, which is overwritten: --device=", "backing");
    pages_load(&run.pages, options, PAGES_STORED);
    compress(&run);
    open_backing(&run);
    close_backing(&run);
    by_fio(options); /* so that every block of the file is there */
    for (size_t i = 0; i < rounds; i++) {
        fio[i] = by_fio(options);
        open_backing(&run);
        one[i] = by_one(&run);
        close_backing(&run);
        open_backing(&run);
        two[i] = by_more(&run);
        read_ns[i] = read_some(&run);
        zc_backing_get_stats(run.backing, &stats);
        close_backing(&run);
        zbud[i] = by_pool(&run, "zbud");
        zsmalloc[i] = by_pool(&run, "zsmalloc");
    }
    printf("{\"store_bytes\": %" PRIu64 ", \"block_bytes\": %" PRIu64 ", \"is_direct\": %d, "
           "\"zpages\": %zu, \"zpage_bytes\": %.0f, ",
           STORE_BYTES, BLOCK_BYTES, stats.is_direct, run.count,
           (double)run.bytes / (double)run.count);
    print_series("fio_mbs", fio, rounds);
    print_series("one_mbs", one, rounds);
    print_series("two_mbs", two, rounds);
    print_series("zbud_mbs", zbud, rounds);
    print_series("zsmalloc_mbs", zsmalloc, rounds);
    print_series("read_ns", read_ns, rounds);
    print_wear(&run);
    printf("\"rounds\": %zu}\n", rounds);
    alone_free(run.alone);
    pages_free(&run.pages);
    free(run.zpages);
    free(run.records);
    free(fio);
    free(one);
    free(two);
    free(zbud);
    free(zsmalloc);
    free(read_ns);
    unlink(options->device);
}
