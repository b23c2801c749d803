/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zc_alloc model ALLOCATOR PAGE_SIZE BUDGET SEED OPS: random operations on one allocator, next to a
 * model of what it holds. After each one the allocator checks itself, and its numbers are compared
 * with the model's and the frames'. Now and then all zpages are touched and their frames emptied in
 * the order that these touches prescribe, or moved together until nothing is sparse.
 *
 * zc_alloc lru ALLOCATOR PAGE_SIZE BUDGET SEED COUNT: so many zpages, of which every other one is
 * freed and the rest touched in random order; then all frames are emptied.
 *
 * zc_alloc threads ALLOCATOR PAGE_SIZE BUDGET SEED OPS THREADS: threads with zpages of their own that
 * also empty each other's frames, as a store's shards do.
 *
 * Prints how often what happened.
 */
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "alloc/alloc.h"
#include "base/node.h"
#include "check.h"
#include "frame/frame.h"

#define PAGES 300
#define ISOLATED 3 /* at one time, beside those of the LRU test */

struct allocator {
    const char *name;
    /* The frame or zspage of a zpage, as isolate() names it. NULL: the handle does not say. */
    uint32_t (*unit)(zc_handle handle);
    bool is_exact; /* is_sparse() says what compaction then does, no more and no less */
};

static uint32_t zbud_unit(zc_handle handle)
{
    return (uint32_t)(handle >> 1);
}

static const struct allocator allocators[] = {
    {.name = "zbud", .unit = zbud_unit, .is_exact = true},
    {.name = "zsmalloc"},
};

struct page {
    zc_handle handle; /* 0: none */
    size_t size;
    uint64_t seed, owner;
    uint32_t unit, stamp; /* of the LRU test */
};

/* What the model knows of a unit. */
struct unit {
    uint32_t stamp;
    size_t zpages;
    bool is_isolated;
    bool is_left_out; /* was released: isolate() may leave it out for a while */
};

struct counts {
    size_t mallocs, refused, moved, immovable, isolated, freed, sparse;
};

struct world {
    const struct allocator *allocator;
    const struct zc_alloc_ops *ops;
    void *alloc;
    struct zc_frames *frames;
    size_t page_size;
    struct random random;
    uint32_t clock;
    struct page pages[PAGES];
    struct unit units[PAGES + ISOLATED + 1]; /* by number; unused numbers are used again */
    uint32_t isolated[ISOLATED];             /* 0: none */
    struct counts counts;
};

static size_t some_size(struct random *random, size_t page_size)
{
    switch (random_below(random, 5)) {
    case 0:
        return 1 + random_below(random, page_size / 8);
    case 1:
        return page_size / 2 - 32 + random_below(random, 64);
    case 2:
        return page_size / 8 * (1 + random_below(random, 7)) - ZC_ZHEAD_BYTES;
    case 3:
        return page_size - random_below(random, 40);
    default:
        return 1 + random_below(random, page_size);
    }
}

static bool is_older(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b) < 0;
}

/* ---- one zpage ---- */

static void write_zpage(const struct zc_alloc_ops *ops, void *alloc, const struct page *page)
{
    struct zc_zpage zpage = ops->map(alloc, page->handle);

    CHECK(page->handle >> ZC_HANDLE_BITS == 0);
    CHECK(((uintptr_t)zpage.bytes & 3) == 0 && zc_owner_get(zpage.head) == ZC_NO_OWNER);
    pattern_fill(zpage.bytes, page->size, page->seed);
    zpage.head->checksum = (uint32_t)page->seed;
    zc_owner_set(zpage.head, page->owner);
}

static void check_zpage(const struct zc_alloc_ops *ops, void *alloc, const struct page *page)
{
    struct zc_zpage zpage = ops->map(alloc, page->handle);

    CHECK(zc_owner_get(zpage.head) == page->owner);
    CHECK(zpage.head->checksum == (uint32_t)page->seed);
    CHECK(pattern_is(zpage.bytes, page->size, page->seed));
}

static void check_sound(const struct zc_alloc_ops *ops, void *alloc)
{
    struct zc_text why = {0};

    if (ops->check(alloc, &why) == 0 && !why.len)
        return;
    fprintf(stderr, "%s\n", why.data);
    abort();
}

/* ---- the model ---- */

/* NULL where handles do not say. */
static struct unit *unit_of(struct world *world, zc_handle handle)
{
    uint32_t number = world->allocator->unit ? world->allocator->unit(handle) : 0;

    CHECK(number < sizeof(world->units) / sizeof(world->units[0]));
    return number ? &world->units[number] : NULL;
}

static struct unit *unit_at(struct world *world, uint32_t number)
{
    CHECK(!world->allocator->unit || number < sizeof(world->units) / sizeof(world->units[0]));
    return world->allocator->unit ? &world->units[number] : NULL;
}

static uint32_t tick(struct world *world)
{
    return world->clock += random_percent(&world->random, 70);
}

/* A zpage came, with its stamp. */
static void note_zpage(struct world *world, zc_handle handle, uint32_t stamp)
{
    struct unit *unit = unit_of(world, handle);

    if (!unit)
        return;
    CHECK(!unit->is_isolated);
    if (unit->zpages++ == 0 || is_older(unit->stamp, stamp))
        unit->stamp = stamp;
}

static struct page *find_page(struct world *world, zc_handle handle)
{
    for (size_t i = 0; i < PAGES; i++) {
        if (world->pages[i].handle == handle)
            return &world->pages[i];
    }
    return NULL;
}

static void check_numbers(struct world *world)
{
    struct zc_alloc_stats stats;
    struct zc_frames_stats frames;
    size_t zpages = 0, units = 0;

    check_sound(world->ops, world->alloc);
    for (size_t i = 0; i < PAGES; i++)
        zpages += world->pages[i].handle != 0;
    for (size_t i = 0; i < sizeof(world->units) / sizeof(world->units[0]); i++)
        units += world->units[i].zpages > 0 || world->units[i].is_isolated;
    world->ops->get_stats(world->alloc, &stats);
    zc_frames_get_stats(world->frames, &frames);
    CHECK(stats.zpages == zpages && stats.frames == frames.taken);
    CHECK(!world->allocator->unit || stats.frames == units);
    /* The rest is heads of runs. */
    CHECK(frames.metadata_bytes >= stats.metadata_bytes);
    CHECK((frames.metadata_bytes - stats.metadata_bytes) % (size_t)sysconf(_SC_PAGESIZE) == 0);
}

static void do_malloc(struct world *world, struct page *page)
{
    uint32_t stamp = tick(world);

    page->size = some_size(&world->random, world->page_size);
    page->seed = random_u64(&world->random);
    page->owner = (uint64_t)(page - world->pages) << 33 | 1;
    if (random_percent(&world->random, 10))
        page->owner = ZC_NO_OWNER;
    page->handle = world->ops->malloc(world->alloc, page->size, stamp);
    if (!page->handle) {
        world->counts.refused++;
        return;
    }
    world->counts.mallocs++;
    note_zpage(world, page->handle, stamp);
    write_zpage(world->ops, world->alloc, page);
}

static void do_free(struct world *world, struct page *page)
{
    struct unit *unit = unit_of(world, page->handle);

    check_zpage(world->ops, world->alloc, page);
    world->ops->free(world->alloc, page->handle);
    page->handle = 0;
    if (unit && --unit->zpages == 0 && !unit->is_isolated)
        *unit = (struct unit){0};
}

static void do_touch(struct world *world, struct page *page)
{
    struct unit *unit = unit_of(world, page->handle);

    page->stamp = tick(world);
    world->ops->prefetch(world->alloc, page->handle);
    world->ops->touch(world->alloc, page->handle, page->stamp);
    if (!unit)
        return;
    unit->stamp = page->stamp;
    unit->is_left_out = unit->is_isolated && unit->is_left_out;
}

static bool do_move(struct world *world, struct page *page)
{
    struct unit *from = unit_of(world, page->handle);
    struct page moved = *page;

    moved.handle = world->ops->move(world->alloc, page->handle);
    if (!moved.handle) {
        world->counts.immovable++;
        return false;
    }
    CHECK(moved.handle != page->handle);
    check_zpage(world->ops, world->alloc, &moved);
    check_zpage(world->ops, world->alloc, page);
    if (from) {
        CHECK(unit_of(world, moved.handle)->zpages > 0);
        note_zpage(world, moved.handle, from->stamp);
        from->zpages--;
    }
    world->ops->free(world->alloc, page->handle);
    page->handle = moved.handle;
    world->counts.moved++;
    return true;
}

/* None that is not isolated was touched before `number`. */
static void check_coldest(struct world *world, uint32_t number)
{
    const struct unit *coldest = unit_at(world, number);

    if (!coldest)
        return;
    for (size_t i = 1; i < sizeof(world->units) / sizeof(world->units[0]); i++) {
        const struct unit *unit = &world->units[i];
        if (unit->zpages == 0 || unit->is_isolated)
            continue;
        CHECK(number != 0);
        CHECK(unit->is_left_out || !is_older(unit->stamp, coldest->stamp));
    }
}

static uint32_t do_isolate(struct world *world, enum zc_isolate which)
{
    uint32_t number = world->ops->isolate(world->alloc, which);
    struct unit *unit = unit_at(world, number);

    if (which == ZC_ISOLATE_COLDEST)
        check_coldest(world, number);
    if (number && unit) {
        CHECK(unit->zpages > 0 && !unit->is_isolated);
        unit->is_isolated = true;
    }
    world->counts.isolated += number != 0;
    return number;
}

/* What to do with each zpage of an isolated unit: returns whether it is gone from there. */
typedef bool on_zpage(struct world *world, struct page *page);

static bool drop_move_or_leave(struct world *world, struct page *page)
{
    unsigned what = (unsigned)random_below(&world->random, 5);

    if (page->owner == ZC_NO_OWNER || what == 0)
        return false;
    if (what >= 3)
        return do_move(world, page);
    do_free(world, page);
    return true;
}

static bool only_move(struct world *world, struct page *page)
{
    return do_move(world, page);
}

/* Returns how many zpages are left in a unit. */
static size_t empty_unit(struct world *world, uint32_t number, on_zpage *action)
{
    size_t left = 0, seen = 0;
    zc_handle handle = 0;
    uint64_t owner;

    while (world->ops->next(world->alloc, number, handle, &handle, &owner)) {
        struct page *page = find_page(world, handle);
        CHECK(page && page->owner == owner);
        CHECK(!world->allocator->unit || world->allocator->unit(handle) == number);
        check_zpage(world->ops, world->alloc, page);
        left += !action(world, page);
        seen++;
    }
    if (unit_at(world, number))
        CHECK(unit_at(world, number)->zpages == left && seen >= left);
    return left;
}

static size_t do_release(struct world *world, uint32_t number, bool is_empty)
{
    struct zc_alloc_stats before, after;
    struct unit *unit = unit_at(world, number);

    world->ops->get_stats(world->alloc, &before);
    size_t freed = world->ops->release(world->alloc, number);
    world->ops->get_stats(world->alloc, &after);
    CHECK(before.frames - after.frames == freed);
    CHECK(freed > 0 || !is_empty);
    world->counts.freed += freed;
    if (unit) {
        CHECK(freed == (unit->zpages == 0));
        if (unit->zpages == 0)
            *unit = (struct unit){0};
        unit->is_isolated = false;
        unit->is_left_out = true;
    }
    return freed;
}

static void start_or_end_isolation(struct world *world)
{
    uint32_t *isolated = &world->isolated[random_below(&world->random, ISOLATED)];

    if (*isolated) {
        size_t left = empty_unit(world, *isolated, drop_move_or_leave);
        do_release(world, *isolated, left == 0);
        *isolated = 0;
        return;
    }
    bool is_coldest = random_percent(&world->random, 70);
    *isolated = do_isolate(world, is_coldest ? ZC_ISOLATE_COLDEST : ZC_ISOLATE_SPARSEST);
}

static void end_isolation(struct world *world)
{
    for (size_t i = 0; i < ISOLATED; i++) {
        if (!world->isolated[i])
            continue;
        size_t left = empty_unit(world, world->isolated[i], drop_move_or_leave);
        do_release(world, world->isolated[i], left == 0);
        world->isolated[i] = 0;
    }
}

static void free_some(struct world *world, unsigned percent)
{
    for (size_t i = 0; i < PAGES; i++) {
        if (world->pages[i].handle && random_percent(&world->random, percent))
            do_free(world, &world->pages[i]);
    }
}

static size_t frames_held(const struct world *world)
{
    struct zc_alloc_stats stats;

    world->ops->get_stats(world->alloc, &stats);
    return stats.frames;
}

/* False: there is none. */
static bool empty_sparsest(struct world *world)
{
    uint32_t number = do_isolate(world, ZC_ISOLATE_SPARSEST);
    if (!number)
        return false;

    size_t left = empty_unit(world, number, only_move);
    CHECK(left == 0 || !world->allocator->is_exact);
    CHECK(do_release(world, number, left == 0) > 0);
    return true;
}

/* Moves zpages together until no frame can be emptied any more, and sees whether is_sparse() said so
 * at each step. */
static void compact(struct world *world)
{
    bool is_sparse[PAGES];
    size_t frames[PAGES], steps = 0;

    end_isolation(world);
    free_some(world, (unsigned)random_below(&world->random, 80));
    do {
        CHECK(steps < PAGES);
        frames[steps] = frames_held(world);
        is_sparse[steps] = world->ops->is_sparse(world->alloc);
        world->counts.sparse += is_sparse[steps++];
    } while (empty_sparsest(world));
    for (size_t i = 0; i < steps; i++) {
        size_t freed = frames[i] - frames[steps - 1];
        CHECK(freed > 0 || !is_sparse[i]);
        if (world->allocator->is_exact && frames[i] > 0)
            CHECK(is_sparse[i] == (8 * freed >= frames[i]));
    }
}

/* ---- LRU, for any allocator ---- */

/* The youngest stamp in an isolated unit, whose zpages are told which that is. */
static uint32_t learn_unit(struct world *world, uint32_t number)
{
    uint32_t youngest = 0;
    bool is_first = true;
    zc_handle handle = 0;
    uint64_t owner;

    while (world->ops->next(world->alloc, number, handle, &handle, &owner)) {
        struct page *page = find_page(world, handle);
        CHECK(page && !page->unit);
        page->unit = number;
        if (is_first || is_older(youngest, page->stamp))
            youngest = page->stamp;
        is_first = false;
    }
    CHECK(!is_first);
    return youngest;
}

/* All are isolated, coldest first; equally cold ones by their numbers. Returns how many. */
static size_t isolate_all(struct world *world, uint32_t *numbers)
{
    uint32_t youngest = 0, before = 0, number;
    size_t count = 0;

    while ((number = do_isolate(world, ZC_ISOLATE_COLDEST))) {
        uint32_t stamp = learn_unit(world, number);
        CHECK(count == 0 || !is_older(stamp, youngest));
        CHECK(count == 0 || stamp != youngest || number > before);
        CHECK(count < PAGES);
        numbers[count++] = number;
        youngest = stamp;
        before = number;
    }
    for (size_t i = 0; i < PAGES; i++)
        CHECK(!world->pages[i].handle || world->pages[i].unit);
    return count;
}

static uint32_t stamp_of(const struct world *world, uint32_t number)
{
    uint32_t youngest = world->clock - INT32_MAX;

    for (size_t i = 0; i < PAGES; i++) {
        const struct page *page = &world->pages[i];
        if (page->handle && page->unit == number && is_older(youngest, page->stamp))
            youngest = page->stamp;
    }
    return youngest;
}

/* Touches, while units are isolated one after the other. */
static void isolate_and_touch(struct world *world, const uint32_t *numbers, size_t count)
{
    bool is_isolated[PAGES] = {0};

    for (size_t left = count; left > 0;) {
        struct page *page = &world->pages[random_below(&world->random, PAGES)];
        if (random_percent(&world->random, 50) && page->handle) {
            do_touch(world, page);
            continue;
        }
        uint32_t number = do_isolate(world, ZC_ISOLATE_COLDEST), stamp = stamp_of(world, number);
        CHECK(number);
        for (size_t i = 0; i < count; i++) {
            is_isolated[i] = is_isolated[i] || numbers[i] == number;
            CHECK(is_isolated[i] || !is_older(stamp_of(world, numbers[i]), stamp));
        }
        left--;
    }
    CHECK(do_isolate(world, ZC_ISOLATE_COLDEST) == 0);
}

static void check_lru(struct world *world)
{
    uint32_t numbers[PAGES];
    size_t order[PAGES];

    end_isolation(world);
    for (size_t i = 0; i < PAGES; i++) {
        size_t j = random_below(&world->random, i + 1);
        order[i] = order[j];
        order[j] = i;
        world->pages[i].unit = 0;
    }
    world->clock++; /* what was found before is older than all of these */
    for (size_t i = 0; i < PAGES; i++) {
        if (world->pages[order[i]].handle)
            do_touch(world, &world->pages[order[i]]);
    }
    size_t count = isolate_all(world, numbers);
    for (size_t i = 0; i < count; i++)
        CHECK(do_release(world, numbers[i], false) == 0);
    for (size_t i = 0; i < sizeof(world->units) / sizeof(world->units[0]); i++)
        world->units[i].is_left_out = false; /* the last isolate() looked at all in vain */
    isolate_and_touch(world, numbers, count);
    for (size_t i = 0; i < count; i++)
        CHECK(do_release(world, numbers[i], false) == 0);
}

/* ---- one thread ---- */

static void step(struct world *world, size_t pages)
{
    struct page *page = &world->pages[random_below(&world->random, pages)];
    size_t what = random_below(&world->random, 1000);

    if (what < 8)
        check_lru(world);
    else if (what < 16)
        compact(world);
    else if (what < 200)
        start_or_end_isolation(world);
    else if (!page->handle)
        do_malloc(world, page);
    else if (what < 500)
        do_free(world, page);
    else if (what < 800)
        do_touch(world, page);
    else
        check_zpage(world->ops, world->alloc, page);
    check_numbers(world);
}

static struct zc_frames *make_frames(size_t page_size, size_t budget)
{
    struct zc_frames *frames;

    CHECK(zc_frames_create(page_size, &frames) == 0);
    if (budget)
        zc_frames_set_budget(frames, budget);
    return frames;
}

static void destroy_all(const struct zc_alloc_ops *ops, void *alloc, struct zc_frames *frames)
{
    struct zc_alloc_stats stats;
    struct zc_frames_stats totals;

    check_sound(ops, alloc);
    ops->get_stats(alloc, &stats);
    zc_frames_get_stats(frames, &totals);
    CHECK(stats.frames == 0 && stats.zpages == 0 && totals.taken == 0);
    CHECK(totals.used_bytes == stats.metadata_bytes);
    ops->destroy(alloc);
    zc_frames_get_stats(frames, &totals);
    CHECK(totals.used_bytes == 0);
    zc_frames_destroy(frames);
}

static void print_counts(const struct counts *counts)
{
    printf("mallocs=%zu refused=%zu moved=%zu immovable=%zu isolated=%zu freed=%zu sparse=%zu\n",
           counts->mallocs, counts->refused, counts->moved, counts->immovable, counts->isolated,
           counts->freed, counts->sparse);
}

static struct world *make_world(const struct allocator *allocator, const size_t *numbers)
{
    struct world *world = calloc(1, sizeof(*world));

    CHECK(world);
    world->allocator = allocator;
    world->ops = zc_alloc_find(allocator->name);
    world->page_size = numbers[0];
    world->random.state = zc_mix64(numbers[2]);
    world->clock = (uint32_t)-(int32_t)random_below(&world->random, numbers[3]); /* it will wrap */
    world->frames = make_frames(world->page_size, numbers[1]);
    CHECK(world->ops && world->ops->create(world->frames, world->page_size, &world->alloc) == 0);
    return world;
}

static void destroy_world(struct world *world)
{
    print_counts(&world->counts);
    destroy_all(world->ops, world->alloc, world->frames);
    free(world);
}

static int run_model(const struct allocator *allocator, const size_t *numbers)
{
    struct world *world = make_world(allocator, numbers);
    size_t budget = numbers[1], ops = numbers[3];

    for (size_t i = 0; i < ops; i++)
        step(world, i * 8 / ops % 2 ? PAGES / 20 : PAGES);
    end_isolation(world);
    free_some(world, 100);
    CHECK(budget || world->counts.refused == 0);
    destroy_world(world);
    return 0;
}

/* ---- LRU of many ---- */

/* The youngest stamp of an isolated unit, whose zpages are freed. */
static uint32_t free_unit(struct world *world, uint32_t number, const struct page *pages)
{
    uint32_t youngest = 0;
    bool is_first = true;
    zc_handle handle = 0;
    uint64_t owner;

    while (world->ops->next(world->alloc, number, handle, &handle, &owner)) {
        const struct page *page = &pages[owner];
        CHECK(page->handle == handle);
        check_zpage(world->ops, world->alloc, page);
        if (is_first || is_older(youngest, page->stamp))
            youngest = page->stamp;
        is_first = false;
        world->ops->free(world->alloc, handle);
        world->counts.freed++;
    }
    CHECK(!is_first);
    return youngest;
}

static void make_pages(struct world *world, struct page *pages, size_t *order, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t j = random_below(&world->random, i + 1);
        order[i] = order[j];
        order[j] = i;
        pages[i].size = some_size(&world->random, world->page_size);
        pages[i].owner = i;
        pages[i].handle = world->ops->malloc(world->alloc, pages[i].size, 0);
        CHECK(pages[i].handle);
        write_zpage(world->ops, world->alloc, &pages[i]);
    }
    for (size_t i = 0; i < count; i += 2) {
        world->ops->free(world->alloc, pages[i].handle);
        pages[i].handle = 0;
    }
}

static int run_lru(const struct allocator *allocator, const size_t *numbers)
{
    struct world *world = make_world(allocator, numbers);
    size_t count = numbers[3], *order = calloc(count, sizeof(*order));
    struct page *pages = calloc(count, sizeof(*pages));
    uint32_t number, before = world->clock;

    CHECK(order && pages);
    make_pages(world, pages, order, count);
    check_sound(world->ops, world->alloc);
    for (size_t i = 0; i < count; i++) {
        struct page *page = &pages[order[i]];
        page->stamp = world->clock++;
        if (page->handle)
            world->ops->touch(world->alloc, page->handle, page->stamp);
    }
    while ((number = world->ops->isolate(world->alloc, ZC_ISOLATE_COLDEST))) {
        uint32_t stamp = free_unit(world, number, pages);
        CHECK(!is_older(stamp, before));
        before = stamp;
        CHECK(world->ops->release(world->alloc, number) > 0);
        world->counts.isolated++;
    }
    CHECK(world->counts.freed == count / 2);
    free(order);
    free(pages);
    destroy_world(world);
    return 0;
}

/* ---- threads ---- */

struct shared {
    const struct zc_alloc_ops *ops;
    void *alloc;
    size_t page_size, ops_each, threads;
    _Atomic uint32_t clock;
    struct worker *workers;
};

struct worker {
    struct shared *shared;
    pthread_t thread;
    pthread_mutex_t lock; /* over its pages; never two of these */
    struct random random;
    size_t number;
    struct page pages[PAGES];
    struct counts counts;
};

static void worker_malloc(struct worker *worker, struct page *page)
{
    struct shared *shared = worker->shared;
    struct page fresh = {
        .size = some_size(&worker->random, shared->page_size),
        .seed = random_u64(&worker->random),
        .owner = (uint64_t)worker->number << 32 | (uint64_t)(page - worker->pages),
    };

    fresh.handle = shared->ops->malloc(shared->alloc, fresh.size, shared->clock++);
    worker->counts.mallocs += fresh.handle != 0;
    worker->counts.refused += fresh.handle == 0;
    if (!fresh.handle)
        return;
    pthread_mutex_lock(&worker->lock);
    write_zpage(shared->ops, shared->alloc, &fresh);
    *page = fresh;
    pthread_mutex_unlock(&worker->lock);
}

static void worker_use(struct worker *worker, struct page *page)
{
    struct shared *shared = worker->shared;

    pthread_mutex_lock(&worker->lock);
    if (page->handle) { /* else it was dropped just now */
        shared->ops->touch(shared->alloc, page->handle, shared->clock++);
        check_zpage(shared->ops, shared->alloc, page);
        if (random_percent(&worker->random, 50)) {
            shared->ops->free(shared->alloc, page->handle);
            page->handle = 0;
        }
    }
    pthread_mutex_unlock(&worker->lock);
}

/* Drops or moves what an owner still has under that handle. */
static void reclaim_zpage(struct worker *worker, zc_handle handle, uint64_t owner)
{
    struct shared *shared = worker->shared;

    /* It may be read before it is written, or while half of it is: then it is anything, or nobody. */
    uint32_t number = (uint32_t)(owner >> 32), index = (uint32_t)owner;
    if (number >= shared->threads || index >= PAGES)
        return;
    struct worker *other = &shared->workers[number];
    struct page *page = &other->pages[index];
    pthread_mutex_lock(&other->lock);
    if (page->handle == handle) {
        zc_handle moved = 0;
        if (random_percent(&worker->random, 70)) {
            moved = shared->ops->move(shared->alloc, handle);
            worker->counts.moved += moved != 0;
            worker->counts.immovable += moved == 0;
        }
        page->handle = moved;
        if (moved)
            check_zpage(shared->ops, shared->alloc, page);
        shared->ops->free(shared->alloc, handle);
    }
    pthread_mutex_unlock(&other->lock);
}

static void reclaim(struct worker *worker)
{
    struct shared *shared = worker->shared;
    bool is_coldest = random_percent(&worker->random, 50);
    uint32_t number =
        shared->ops->isolate(shared->alloc, is_coldest ? ZC_ISOLATE_COLDEST : ZC_ISOLATE_SPARSEST);
    zc_handle handle = 0;
    uint64_t owner;

    if (!number)
        return;
    worker->counts.isolated++;
    while (shared->ops->next(shared->alloc, number, handle, &handle, &owner))
        reclaim_zpage(worker, handle, owner);
    worker->counts.freed += shared->ops->release(shared->alloc, number);
}

static void *work(void *arg)
{
    struct worker *worker = arg;
    struct shared *shared = worker->shared;
    struct zc_alloc_stats stats;

    for (size_t i = 0; i < shared->ops_each; i++) {
        struct page *page = &worker->pages[random_below(&worker->random, PAGES)];
        size_t what = random_below(&worker->random, 1000);
        pthread_mutex_lock(&worker->lock);
        bool is_used = page->handle != 0;
        pthread_mutex_unlock(&worker->lock);
        if (what < 5)
            check_sound(shared->ops, shared->alloc);
        else if (what < 10)
            worker->counts.sparse += shared->ops->is_sparse(shared->alloc);
        else if (what < 15)
            shared->ops->get_stats(shared->alloc, &stats);
        else if (what < 100)
            reclaim(worker);
        else if (is_used)
            worker_use(worker, page);
        else
            worker_malloc(worker, page);
    }
    return NULL;
}

static void add_counts(struct counts *sum, const struct counts *counts)
{
    sum->mallocs += counts->mallocs;
    sum->refused += counts->refused;
    sum->moved += counts->moved;
    sum->immovable += counts->immovable;
    sum->isolated += counts->isolated;
    sum->freed += counts->freed;
    sum->sparse += counts->sparse;
}

static void start_worker(struct shared *shared, size_t number, uint64_t seed)
{
    struct worker *worker = &shared->workers[number];

    worker->shared = shared;
    worker->number = number;
    worker->random.state = zc_mix64(seed + number);
    pthread_mutex_init(&worker->lock, NULL);
    CHECK(pthread_create(&worker->thread, NULL, work, worker) == 0);
}

static int run_threads(const struct allocator *allocator, const size_t *numbers)
{
    struct shared shared = {.ops = zc_alloc_find(allocator->name),
                            .page_size = numbers[0],
                            .ops_each = numbers[3],
                            .threads = numbers[4]};
    struct zc_frames *frames = make_frames(shared.page_size, numbers[1]);
    struct counts sum = {0};

    shared.workers = calloc(shared.threads, sizeof(*shared.workers));
    CHECK(shared.workers && shared.ops);
    CHECK(shared.ops->create(frames, shared.page_size, &shared.alloc) == 0);
    for (size_t i = 0; i < shared.threads; i++)
        start_worker(&shared, i, numbers[2]);
    for (size_t i = 0; i < shared.threads; i++)
        pthread_join(shared.workers[i].thread, NULL);
    check_sound(shared.ops, shared.alloc);
    for (size_t i = 0; i < shared.threads; i++) {
        struct worker *worker = &shared.workers[i];
        for (size_t p = 0; p < PAGES; p++) {
            if (!worker->pages[p].handle)
                continue;
            check_zpage(shared.ops, shared.alloc, &worker->pages[p]);
            shared.ops->free(shared.alloc, worker->pages[p].handle);
        }
        add_counts(&sum, &worker->counts);
        pthread_mutex_destroy(&worker->lock);
    }
    print_counts(&sum);
    destroy_all(shared.ops, shared.alloc, frames);
    free(shared.workers);
    return 0;
}

int main(int argc, char **argv)
{
    size_t numbers[5] = {0};

    for (int i = 3; i < argc && i < 8; i++)
        numbers[i - 3] = strtoull(argv[i], NULL, 10);
    for (size_t i = 0; argc > 2 && i < sizeof(allocators) / sizeof(allocators[0]); i++) {
        if (strcmp(argv[2], allocators[i].name) != 0)
            continue;
        if (argc == 7 && strcmp(argv[1], "model") == 0)
            return run_model(&allocators[i], numbers);
        if (argc == 7 && strcmp(argv[1], "lru") == 0)
            return run_lru(&allocators[i], numbers);
        if (argc == 8 && strcmp(argv[1], "threads") == 0)
            return run_threads(&allocators[i], numbers);
    }
    fprintf(stderr, "usage: zc_alloc model ALLOCATOR PAGE_SIZE BUDGET SEED OPS\n"
                    "       zc_alloc lru ALLOCATOR PAGE_SIZE BUDGET SEED COUNT\n"
                    "       zc_alloc threads ALLOCATOR PAGE_SIZE BUDGET SEED OPS THREADS\n");
    return 2;
}
