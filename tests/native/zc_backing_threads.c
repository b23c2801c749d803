/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zc_backing_threads PATH packed|in_place PAGE_SIZE SIZE SEED OPS THREADS: threads write, read and
 * forget records of one backing store as a pool's do, while one more cleans it. Each record is an
 * entry's, which has a lock; an entry that is the same before and after a read must have been read
 * right. At the end the store is opened again without having been closed cleanly, and must hold
 * what the entries say.
 *
 * Prints how often what happened.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

#include "backing/backing.h"
#include "base/node.h"
#include "check.h"

#define ENTRIES_A_THREAD 48
#define THREADS_MAX 8
#define ENTRIES (THREADS_MAX * ENTRIES_A_THREAD)
#define OBJECT 3u

/* `state` and what follows are protected by the lock. */
struct entry {
    pthread_mutex_t lock;
    enum { EMPTY, IN_BATCH, WRITTEN } state;
    bool is_changed; /* since it was put into a batch */
    struct zc_record record;
    uint64_t seed;
    zc_place place;
};

struct world {
    struct zc_backing_config config;
    struct zc_backing *backing;
    struct entry entries[ENTRIES];
    size_t entry_count, ops;
    atomic_bool is_over;
    atomic_size_t written, read, gone, forgotten, moved, freed, full;
};

struct worker {
    struct world *world;
    struct random random;
    size_t number;
    struct zc_batch *batch;
    size_t pending[ENTRIES_A_THREAD], count;
    char *room;
    pthread_t thread;
};

static struct entry *some_entry(struct worker *worker)
{
    return &worker->world->entries[random_below(&worker->random, worker->world->entry_count)];
}

/* ---- writing ---- */

static void begin_record(struct worker *worker, struct entry *entry)
{
    const struct zc_backing_config *config = &worker->world->config;
    bool is_packed = config->layout == ZC_PACKED;
    size_t size = 1 + random_below(&worker->random, 3 * config->page_size);

    entry->state = IN_BATCH;
    entry->is_changed = false;
    entry->seed = random_u64(&worker->random);
    entry->record = (struct zc_record){
        .object = OBJECT,
        .index = (uint32_t)(entry - worker->world->entries),
        .size = is_packed ? (uint32_t)size : config->page_size,
        .live = 1,
        .pages = 1,
        .codec = (uint8_t)entry->seed,
    };
}

static void commit(struct worker *worker)
{
    struct world *world = worker->world;
    zc_place places[ENTRIES_A_THREAD];

    CHECK(zc_batch_commit(worker->batch, places) == 0);
    for (size_t i = 0; i < worker->count; i++) {
        struct entry *entry = &world->entries[worker->pending[i]];
        pthread_mutex_lock(&entry->lock);
        CHECK(entry->state == IN_BATCH);
        entry->state = entry->is_changed ? EMPTY : WRITTEN;
        entry->place = places[i];
        if (entry->is_changed)
            CHECK(zc_backing_forget(world->backing, places[i], entry->record.size) == 0);
        pthread_mutex_unlock(&entry->lock);
    }
    CHECK(zc_batch_settle(worker->batch) == 0);
    world->written += worker->count;
    worker->count = 0;
}

static void write_some(struct worker *worker)
{
    struct world *world = worker->world;
    struct entry *mine = &world->entries[worker->number * ENTRIES_A_THREAD];
    void *bytes;

    for (size_t i = 0; i < ENTRIES_A_THREAD; i++) {
        struct entry *entry = &mine[i];
        pthread_mutex_lock(&entry->lock);
        bool is_free = entry->state == EMPTY && random_percent(&worker->random, 50);
        if (is_free)
            begin_record(worker, entry);
        pthread_mutex_unlock(&entry->lock);
        if (!is_free)
            continue;
        int error = zc_batch_add(worker->batch, &entry->record, &bytes);
        if (error == -EAGAIN) {
            commit(worker);
            error = zc_batch_add(worker->batch, &entry->record, &bytes);
        }
        if (error) {
            CHECK(error == -ENOSPC);
            world->full++;
            pthread_mutex_lock(&entry->lock);
            entry->state = EMPTY;
            pthread_mutex_unlock(&entry->lock);
            break;
        }
        pattern_fill(bytes, entry->record.size, entry->seed);
        worker->pending[worker->count++] = (size_t)(entry - world->entries);
    }
    commit(worker);
}

/* ---- the others ---- */

static void read_one(struct worker *worker, struct entry *entry)
{
    struct world *world = worker->world;
    const void *bytes;

    pthread_mutex_lock(&entry->lock);
    struct zc_record record = entry->record;
    uint64_t seed = entry->seed;
    zc_place place = entry->state == WRITTEN ? entry->place : 0;
    pthread_mutex_unlock(&entry->lock);
    if (!place)
        return;
    int error = zc_backing_read(world->backing, place, &record, worker->room, &bytes);
    CHECK(error == 0 || error == -EIO || error == -ENOENT);
    pthread_mutex_lock(&entry->lock);
    bool is_same = entry->state == WRITTEN && entry->place == place;
    pthread_mutex_unlock(&entry->lock);
    CHECK(!is_same || error == 0);
    /* It is that record or an error, even if it was forgotten since. */
    CHECK(error != 0 || pattern_is(bytes, record.size, seed));
    if (is_same)
        world->read++;
    else
        world->gone++;
}

static void change(struct world *world, struct entry *entry)
{
    pthread_mutex_lock(&entry->lock);
    entry->is_changed = true;
    if (entry->state == WRITTEN) {
        CHECK(zc_backing_forget(world->backing, entry->place, entry->record.size) == 0);
        entry->state = EMPTY;
        world->forgotten++;
    }
    pthread_mutex_unlock(&entry->lock);
}

static void *work(void *arg)
{
    struct worker *worker = arg;
    struct world *world = worker->world;

    CHECK(zc_batch_create(world->backing, SIZE_MAX, &worker->batch) == 0);
    for (size_t op = 0; op < world->ops; op++) {
        size_t what = random_below(&worker->random, 100);
        if (what < 4)
            write_some(worker);
        else if (what < 60)
            read_one(worker, some_entry(worker));
        else
            change(world, some_entry(worker));
    }
    zc_batch_destroy(worker->batch);
    return NULL;
}

static bool moved(void *arg, const struct zc_record *record, zc_place from, zc_place to)
{
    struct world *world = arg;
    struct entry *entry = &world->entries[record->index];

    pthread_mutex_lock(&entry->lock);
    bool is_there = entry->state == WRITTEN && entry->place == from;
    if (is_there) {
        CHECK(zc_backing_move(world->backing, from, to, entry->record.size, 1) == 0);
        entry->place = to;
        world->moved++;
    }
    pthread_mutex_unlock(&entry->lock);
    return is_there;
}

static void *clean(void *arg)
{
    struct world *world = arg;

    while (!world->is_over) {
        int64_t freed = zc_backing_clean(world->backing, 8, moved, world);
        CHECK(freed >= 0 || freed == -ENOSPC);
        if (freed > 0)
            world->freed += (size_t)freed;
        sched_yield();
    }
    return NULL;
}

/* ---- what it came to ---- */

static bool visit(void *arg, const struct zc_record *record, zc_place place)
{
    struct world *world = arg;
    struct entry *entry = &world->entries[record->index];
    struct zc_record expected = entry->record;

    if (world->config.layout == ZC_IN_PLACE)
        expected.codec = 0;
    CHECK(entry->state == WRITTEN && memcmp(record, &expected, sizeof(expected)) == 0);
    entry->state = IN_BATCH; /* was seen */
    entry->place = place;
    return true;
}

static void open_backing(struct world *world, zc_recover_visit *visit_it)
{
    struct zc_text why = {0};

    if (zc_backing_open(&world->config, &world->backing, &why) != 0) {
        fprintf(stderr, "%s\n", why.data);
        abort();
    }
    CHECK(zc_backing_recover(world->backing, visit_it, world) == 0);
}

static void check_reopened(struct world *world, struct worker *worker)
{
    struct zc_backing_stats stats;

    zc_backing_close(world->backing, false);
    open_backing(world, visit);
    for (size_t i = 0; i < world->entry_count; i++) {
        struct entry *entry = &world->entries[i];
        CHECK(entry->state != WRITTEN);
        if (entry->state == IN_BATCH) {
            entry->state = WRITTEN;
            read_one(worker, entry);
        }
    }
    zc_backing_get_stats(world->backing, &stats);
    CHECK(stats.damaged == 0 && !stats.is_failed);
    zc_backing_close(world->backing, false);
}

int main(int argc, char **argv)
{
    static struct world world;
    static struct worker workers[THREADS_MAX];
    pthread_t cleaner;

    CHECK(argc == 8);
    size_t threads = zc_min(strtoull(argv[7], NULL, 10), THREADS_MAX);
    world.config = (struct zc_backing_config){
        .path = argv[1],
        .layout = strcmp(argv[2], "packed") == 0 ? ZC_PACKED : ZC_IN_PLACE,
        .page_size = (uint32_t)strtoul(argv[3], NULL, 10),
        .size = strtoull(argv[4], NULL, 10),
        .pool = "threads"};
    world.ops = (size_t)strtoull(argv[6], NULL, 10);
    world.entry_count = threads * ENTRIES_A_THREAD;
    for (size_t i = 0; i < ENTRIES; i++)
        pthread_mutex_init(&world.entries[i].lock, NULL);
    open_backing(&world, visit);
    for (size_t i = 0; i < threads; i++) {
        workers[i] = (struct worker){
            .world = &world,
            .random = {strtoull(argv[5], NULL, 10) + i},
            .number = i,
            .room = aligned_alloc(ZC_BLOCK, zc_backing_room(3 * world.config.page_size))};
        CHECK(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
    }
    CHECK(pthread_create(&cleaner, NULL, clean, &world) == 0);
    for (size_t i = 0; i < threads; i++)
        pthread_join(workers[i].thread, NULL);
    world.is_over = true;
    pthread_join(cleaner, NULL);
    check_reopened(&world, &workers[0]);
    for (size_t i = 0; i < threads; i++)
        free(workers[i].room);
    printf("written=%zu read=%zu gone=%zu forgotten=%zu moved=%zu freed=%zu full=%zu\n",
           world.written, world.read, world.gone, world.forgotten, world.moved, world.freed,
           world.full);
    return 0;
}
