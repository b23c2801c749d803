/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is zsmalloc's own; zc_alloc tests what all allocators promise.
 *
 * zc_zsmalloc classes PAGE_SIZE: prints "SIZE FRAMES SLOTS" of each class.
 *
 * zc_zsmalloc zspages PAGE_SIZE: in each class, fills zspages, lets zpages slide to the front of one, has
 * owners refuse, and so on.
 *
 * zc_zsmalloc compact PAGE_SIZE COUNT FREED REFUSED: stores zpages of LZ4's usual sizes, frees FREED
 * percent of them at random, compacts, REFUSED percent of owners not taking part. Prints
 * "bytes=N frames=N sparse=0|1" after each step.
 */
#include <errno.h>
#include <string.h>

#include "alloc/alloc.h"
#include "base/node.h"
#include "check.h"
#include "frame/frame.h"

#define CLASSES 255
#define ZPAGES 8192 /* more than two zspages have slots */

static const struct zc_alloc_ops *const ops = &zc_zsmalloc_ops;

/* A zpage; its owner is its place in an array. */
struct zpage {
    zc_handle handle; /* 0: there is none */
    size_t size;
    uint64_t seed;
    bool refuses;
};

struct test {
    size_t page_size;
    struct zc_frames *frames;
    void *alloc;
    struct zpage *zpages;
    size_t count;
    uint32_t now;
    struct random random;
};

static struct test start(size_t page_size, size_t count)
{
    struct test test = {.page_size = page_size, .count = count, .random.state = page_size};

    test.zpages = calloc(count, sizeof(*test.zpages));
    CHECK(test.zpages);
    CHECK(zc_frames_create(page_size, &test.frames) == 0);
    CHECK(ops->create(test.frames, page_size, &test.alloc) == 0);
    return test;
}

static struct zc_alloc_stats stats_of(struct test *test)
{
    struct zc_alloc_stats stats;
    struct zc_frames_stats frames;

    ops->get_stats(test->alloc, &stats);
    zc_frames_get_stats(test->frames, &frames);
    CHECK(stats.frames == frames.taken);
    CHECK(stats.metadata_bytes <= frames.metadata_bytes);
    return stats;
}

static size_t get_classes(struct test *test, struct zc_class_stats *classes)
{
    memset(classes, 0, CLASSES * sizeof(*classes));
    size_t count = ops->class_stats(test->alloc, classes, CLASSES);
    CHECK(count <= CLASSES);
    return count;
}

static void check_classes(struct test *test)
{
    struct zc_class_stats classes[CLASSES];
    struct zc_alloc_stats stats = stats_of(test);
    size_t count = get_classes(test, classes);

    for (size_t i = 0; i < count; i++) {
        size_t zspages = 0;
        for (size_t group = 0; group < ZC_FULLNESS; group++)
            zspages += classes[i].fullness[group];
        CHECK(zspages == classes[i].zspages);
        CHECK(classes[i].zpages <= classes[i].slots);
        CHECK(classes[i].slots <= zspages * classes[i].slots_per_zspage);
        CHECK(classes[i].slots * classes[i].size <= classes[i].frames * test->page_size);
        CHECK(classes[i].freeable <= classes[i].frames);
        stats.frames -= classes[i].frames;
        stats.zpages -= classes[i].zpages;
    }
    CHECK(stats.frames == 0 && stats.zpages == 0);
}

/* Nothing may be isolated. */
static void check(struct test *test)
{
    struct zc_text why = {0};

    if (ops->check(test->alloc, &why)) {
        fprintf(stderr, "check: %s\n", why.data);
        abort();
    }
    zc_text_free(&why);
    check_classes(test);
}

static size_t count_frames(struct test *test)
{
    return stats_of(test).frames;
}

static void put(struct test *test, size_t i, size_t size)
{
    struct zpage *zpage = &test->zpages[i];

    *zpage = (struct zpage){.size = size, .seed = random_u64(&test->random)};
    zpage->handle = ops->malloc(test->alloc, size, ++test->now);
    CHECK(zpage->handle && zpage->handle >> ZC_HANDLE_BITS == 0);

    struct zc_zpage at = ops->map(test->alloc, zpage->handle);
    CHECK(zc_owner_get(at.head) == ZC_NO_OWNER);
    pattern_fill(at.bytes, size, zpage->seed);
    at.head->checksum = (uint32_t)zpage->seed;
    zc_owner_set(at.head, i);
}

static void verify(struct test *test, size_t i)
{
    struct zpage *zpage = &test->zpages[i];
    struct zc_zpage at = ops->map(test->alloc, zpage->handle);

    CHECK(pattern_is(at.bytes, zpage->size, zpage->seed));
    CHECK(at.head->checksum == (uint32_t)zpage->seed);
    CHECK(zc_owner_get(at.head) == i);
}

static void drop(struct test *test, size_t i)
{
    if (!test->zpages[i].handle)
        return;
    verify(test, i);
    ops->free(test->alloc, test->zpages[i].handle);
    test->zpages[i].handle = 0;
}

static void drop_all(struct test *test)
{
    for (size_t i = 0; i < test->count; i++)
        drop(test, i);
    check(test);
    struct zc_alloc_stats stats = stats_of(test);
    CHECK(stats.frames == 0 && stats.zpages == 0);
}

static void end(struct test *test)
{
    struct zc_frames_stats stats;

    drop_all(test);
    ops->destroy(test->alloc);
    zc_frames_get_stats(test->frames, &stats);
    CHECK(stats.used_bytes == 0);
    zc_frames_destroy(test->frames);
    free(test->zpages);
}

/* Has owners move their zpages out of an isolated zspage. Returns how many did. */
static size_t move_all(struct test *test, uint32_t isolated)
{
    zc_handle handle = 0;
    uint64_t owner;
    size_t moved = 0;

    while (ops->next(test->alloc, isolated, handle, &handle, &owner)) {
        CHECK(owner < test->count && test->zpages[owner].handle == handle);
        if (test->zpages[owner].refuses)
            continue;
        zc_handle new = ops->move(test->alloc, handle);
        if (!new)
            continue;
        test->zpages[owner].handle = new;
        verify(test, owner);
        ops->free(test->alloc, handle);
        moved++;
    }
    return moved;
}

/* Returns the frames that went. */
static size_t compact_one(struct test *test, uint32_t isolated)
{
    size_t before = count_frames(test);

    move_all(test, isolated);
    size_t freed = ops->release(test->alloc, isolated);
    CHECK(count_frames(test) == before - freed);
    return freed;
}

static size_t compact(struct test *test)
{
    size_t freed = 0, in_vain = 0;
    uint32_t isolated;

    while ((isolated = ops->isolate(test->alloc, ZC_ISOLATE_SPARSEST)) != 0) {
        size_t now = compact_one(test, isolated);
        freed += now;
        in_vain += now == 0;
        CHECK(in_vain <= test->count);
    }
    check(test);
    return freed;
}

/* ---- classes ---- */

static int run_classes(size_t page_size)
{
    struct zc_class_stats classes[CLASSES];
    struct test test = start(page_size, 1);
    size_t count = get_classes(&test, classes);

    for (size_t i = 0; i < count; i++)
        printf("%u %u %u\n", classes[i].size, classes[i].frames_per_zspage,
               classes[i].slots_per_zspage);
    end(&test);
    return 0;
}

/* A zpage of every size goes into the class with the smallest slots that hold it. */
static void test_sizes(size_t page_size)
{
    struct zc_class_stats classes[CLASSES];
    struct test test = start(page_size, 1);
    size_t class = 0, step = zc_max(page_size / 4096, 1);

    for (size_t size = 1; size <= page_size; size += size < page_size - step ? step : 1) {
        put(&test, 0, size);
        size_t count = get_classes(&test, classes);
        while (class < count - 1 && classes[class].size < size + ZC_ZHEAD_BYTES)
            class++;
        CHECK(classes[class].zpages == 1 && classes[class].zspages == 1);
        CHECK(classes[class].frames == 1 && classes[class].freeable == 0);
        drop(&test, 0);
    }
    CHECK(classes[class].size == page_size);
    end(&test);
}

/* ---- zspages ---- */

struct class {
    size_t size; /* of a zpage that fills a slot */
    size_t slot, frames, slots;
};

static size_t frames_for(const struct test *test, const struct class *class, size_t slots)
{
    return zc_div_up(slots * class->slot, test->page_size);
}

/* A frame more is taken when those before are used up, and another zspage after that. */
static void test_filling(struct test *test, const struct class *class)
{
    for (size_t i = 0; i < 2 * class->slots; i++) {
        size_t full = i / class->slots * class->frames;
        put(test, i, class->size);
        CHECK(count_frames(test) == full + frames_for(test, class, i % class->slots + 1));
    }
    check(test);
    CHECK(!ops->is_sparse(test->alloc));
    CHECK(compact(test) == 0);
    drop_all(test);
}

/* The last zpage of a zspage goes to its front, and its frames to the OS. */
static void test_sliding(struct test *test, const struct class *class)
{
    for (size_t i = 0; i < class->slots; i++)
        put(test, i, class->size);
    for (size_t i = 0; i < class->slots - 1; i++)
        drop(test, i);
    CHECK(count_frames(test) == class->frames);
    CHECK(ops->is_sparse(test->alloc) == (class->frames > 1));
    CHECK(compact(test) == class->frames - 1);
    CHECK(count_frames(test) == 1);
    verify(test, class->slots - 1);
    for (size_t i = 0; i < class->slots - 1; i++)
        put(test, i, class->size);
    CHECK(count_frames(test) == class->frames);
    drop_all(test);
}

/* Of several sparse zspages as much is left as the zpages need. */
static void test_gathering(struct test *test, const struct class *class)
{
    size_t kept = 0;

    for (size_t i = 0; i < 6 * class->slots; i++)
        put(test, i, class->size);
    for (size_t i = 0; i < 6 * class->slots; i++) {
        if (i % 3)
            drop(test, i);
        else
            kept++;
    }
    compact(test);
    CHECK(count_frames(test) ==
          kept / class->slots * class->frames + frames_for(test, class, kept % class->slots));
    drop_all(test);
}

/* Every second zpage stays, the last one of a zspage among them. Returns how many. */
static size_t thin_out(struct test *test, const struct class *class, size_t count)
{
    size_t left = 0;

    for (size_t i = 0; i < count; i++) {
        if ((class->slots - i % class->slots) % 2)
            left++;
        else
            drop(test, i);
    }
    return left;
}

static void set_refuses(struct test *test, size_t count, bool refuses)
{
    for (size_t i = 0; i < count; i++)
        test->zpages[i].refuses = refuses;
}

/* Owners who refuse are not asked for ever; they are again when something was freed. */
static void test_refusing(struct test *test, const struct class *class)
{
    size_t count = 4 * class->slots;

    for (size_t i = 0; i < count; i++)
        put(test, i, class->size);
    size_t left = thin_out(test, class, count);
    set_refuses(test, count, true);
    CHECK(compact(test) == 0);
    CHECK(ops->isolate(test->alloc, ZC_ISOLATE_SPARSEST) == 0);
    CHECK(stats_of(test).zpages == left);

    set_refuses(test, count, false);
    drop(test, count - 1);
    left--;
    CHECK(compact(test) > 0);
    CHECK(count_frames(test) ==
          left / class->slots * class->frames + frames_for(test, class, left % class->slots));
    drop_all(test);
}

/* Into an isolated zspage nothing is placed, and it stays when its last zpage goes. */
static void test_isolated(struct test *test, const struct class *class)
{
    zc_handle handle = 0;
    uint64_t owner;

    put(test, 0, class->size);
    uint32_t isolated = ops->isolate(test->alloc, ZC_ISOLATE_COLDEST);
    CHECK(isolated);
    CHECK(ops->isolate(test->alloc, ZC_ISOLATE_COLDEST) == 0);
    put(test, 1, class->size);
    CHECK(count_frames(test) == 2);
    CHECK(ops->next(test->alloc, isolated, 0, &handle, &owner));
    CHECK(handle == test->zpages[0].handle && owner == 0);
    drop(test, 0);
    CHECK(!ops->next(test->alloc, isolated, 0, &handle, &owner));
    CHECK(count_frames(test) == 2);
    CHECK(ops->release(test->alloc, isolated) == 1);
    CHECK(count_frames(test) == 1);
    drop_all(test);
}

/* An owner that was never set is not to be seen as one, nor lost when its zspage comes back. */
static void test_ownerless(struct test *test, const struct class *class)
{
    zc_handle handle = ops->malloc(test->alloc, class->size, 1), found;
    uint64_t owner;
    uint32_t isolated = ops->isolate(test->alloc, ZC_ISOLATE_COLDEST);

    CHECK(handle && isolated);
    CHECK(ops->next(test->alloc, isolated, 0, &found, &owner));
    CHECK(found == handle && owner == ZC_NO_OWNER);
    CHECK(!ops->next(test->alloc, isolated, found, &found, &owner));
    CHECK(ops->release(test->alloc, isolated) == 0);
    check(test);
    ops->free(test->alloc, handle);
    CHECK(count_frames(test) == 0);
}

static void test_huge(struct test *test, const struct class *largest)
{
    size_t sizes[] = {largest->size + 1, test->page_size - 1, test->page_size};
    zc_handle handle;
    uint64_t owner;

    for (size_t i = 0; i < 3; i++)
        put(test, i, sizes[i]);
    check(test);
    CHECK(count_frames(test) == 3);
    CHECK(compact(test) == 0);
    for (size_t i = 0; i < 3; i++) {
        uint32_t isolated = ops->isolate(test->alloc, ZC_ISOLATE_COLDEST);
        CHECK(ops->next(test->alloc, isolated, 0, &handle, &owner) && owner == i);
        CHECK(ops->move(test->alloc, handle) == 0);
        CHECK(!ops->next(test->alloc, isolated, handle, &handle, &owner));
        if (i < 2)
            drop(test, i);
        CHECK(ops->release(test->alloc, isolated) == (i < 2));
        check(test);
    }
    verify(test, 2);
    drop_all(test);
}

/* A class of few frames is emptied into slots that are hardly larger. */
static void test_borrowing(struct test *test, const struct class *class, const struct class *larger)
{
    if (larger->slot - class->slot > class->size / 16 || larger->slot > test->page_size / 2)
        return;
    put(test, 0, larger->size);
    put(test, 1, class->size);
    CHECK(count_frames(test) == 2);
    CHECK(compact(test) == 1);
    verify(test, 0);
    verify(test, 1);
    drop_all(test);
}

static int run_zspages(size_t page_size)
{
    struct zc_class_stats classes[CLASSES];
    struct test test = start(page_size, 6 * ZPAGES);
    size_t count = get_classes(&test, classes);
    struct class all[CLASSES];

    for (size_t i = 0; i < count - 1; i++) {
        all[i] = (struct class){
            .size = classes[i].size - ZC_ZHEAD_BYTES,
            .slot = classes[i].size,
            .frames = classes[i].frames_per_zspage,
            .slots = classes[i].slots_per_zspage,
        };
        CHECK(all[i].slots <= ZPAGES);
        test_filling(&test, &all[i]);
        test_sliding(&test, &all[i]);
        test_gathering(&test, &all[i]);
        test_refusing(&test, &all[i]);
        test_isolated(&test, &all[i]);
        test_ownerless(&test, &all[i]);
        if (i > 0)
            test_borrowing(&test, &all[i - 1], &all[i]);
    }
    test_huge(&test, &all[count - 2]);
    end(&test);
    test_sizes(page_size);
    return 0;
}

/* ---- broken ---- */

/* A zhead that was written over is found. */
static int run_broken(size_t page_size)
{
    struct test test = start(page_size, 2);
    struct zc_text why = {0};

    put(&test, 0, page_size / 4);
    put(&test, 1, page_size / 4);
    struct zc_zpage at = ops->map(test.alloc, test.zpages[0].handle);
    zc_owner_set(at.head, UINT64_C(0xfffffffe00000000));
    CHECK(ops->check(test.alloc, &why) == -EUCLEAN);
    printf("%s\n", why.data);
    zc_text_free(&why);
    zc_owner_set(at.head, 0);
    end(&test);
    return 0;
}

/* ---- compact ---- */

/* Mostly small, up to 7/8 of a page. */
static size_t some_size(struct test *test)
{
    size_t least = test->page_size / 40, most = test->page_size * 7 / 8;
    uint64_t x = random_below(&test->random, 1 << 16);

    return least + (size_t)((most - least) * (x * x >> 16) >> 16);
}

static void print_step(struct test *test)
{
    size_t bytes = 0;

    for (size_t i = 0; i < test->count; i++)
        bytes += test->zpages[i].handle ? test->zpages[i].size : 0;
    check(test);
    printf("bytes=%zu frames=%zu sparse=%d\n", bytes, count_frames(test),
           ops->is_sparse(test->alloc));
}

static int run_compact(size_t page_size, size_t count, unsigned freed, unsigned refused)
{
    struct test test = start(page_size, count);

    for (size_t i = 0; i < count; i++)
        put(&test, i, some_size(&test));
    print_step(&test);
    for (size_t i = 0; i < count; i++) {
        if (random_percent(&test.random, freed))
            drop(&test, i);
        test.zpages[i].refuses = random_percent(&test.random, refused);
    }
    print_step(&test);
    compact(&test);
    print_step(&test);
    for (size_t i = 0; i < count; i++) {
        if (test.zpages[i].handle)
            verify(&test, i);
    }
    end(&test);
    return 0;
}

int main(int argc, char **argv)
{
    size_t numbers[4] = {0};

    for (int i = 2; i < argc && i < 6; i++)
        numbers[i - 2] = strtoull(argv[i], NULL, 10);
    if (argc == 3 && strcmp(argv[1], "classes") == 0)
        return run_classes(numbers[0]);
    if (argc == 3 && strcmp(argv[1], "zspages") == 0)
        return run_zspages(numbers[0]);
    if (argc == 3 && strcmp(argv[1], "broken") == 0)
        return run_broken(numbers[0]);
    if (argc == 6 && strcmp(argv[1], "compact") == 0)
        return run_compact(numbers[0], numbers[1], (unsigned)numbers[2], (unsigned)numbers[3]);
    fprintf(stderr, "usage: zc_zsmalloc classes|zspages|broken PAGE_SIZE\n"
                    "       zc_zsmalloc compact PAGE_SIZE COUNT FREED REFUSED\n");
    return 2;
}
