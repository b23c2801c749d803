/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes a backing store's bytes, opens it, takes back what it finds, reads and cleans. Whatever
 * was changed: what can be read is what was written last under that key, and what was forgotten
 * stays so.
 *
 * The input is a byte of flags, then changes of 8 bytes each: a region, an operation, 16 bits of
 * where in it, 32 bits of value. By the flags, checksums are made right again after that, so that
 * what they protect is reached too.
 */
#include <errno.h>

#include "backing/packed.h"
#include "base/hash.h"
#include "fuzz.h"

#define PAGE_SIZE 4096u
#define IMAGE_BYTES ((size_t)6 << 20)
#define BLOCKS (IMAGE_BYTES / ZC_BLOCK)
#define INDEXES 48u
#define OBJECT 7u
#define CHANGES_MAX 64u

enum { IN_PLACE = 1, SUM_SUPER = 2, SUM_BATCHES = 4 };

/* A medium in memory. What is written to it is undone after each run. */
struct image {
    char *bytes, *pristine;
    bool changed[BLOCKS];
    int opened; /* so many times */
};

/* What was written last under an index of OBJECT. */
struct known {
    bool is_live;
    struct zc_record record;
    uint32_t seed;
};

static struct image images[2]; /* by layout */
static struct known known[2][INDEXES];

/* ---- the medium ---- */

static void touch(struct image *image, uint64_t at, size_t size)
{
    for (uint64_t block = at / ZC_BLOCK; block * ZC_BLOCK < at + size; block++)
        image->changed[block] = true;
}

static int image_open(void *arg, const char *path, int flags)
{
    struct image *image = arg;

    (void)path;
    (void)flags;
    return ++image->opened;
}

static void image_close(void *arg, int fd)
{
    (void)arg;
    (void)fd;
}

static int image_zero_errors(void *arg, int fd)
{
    (void)arg;
    (void)fd;
    return 0;
}

static int image_info(void *arg, int fd, struct zc_medium_info *out)
{
    (void)arg;
    (void)fd;
    *out = (struct zc_medium_info){.size = IMAGE_BYTES, .is_file = true};
    return 0;
}

static ssize_t image_pread(void *arg, int fd, void *bytes, size_t size, uint64_t at)
{
    struct image *image = arg;

    (void)fd;
    if (at > IMAGE_BYTES || size > IMAGE_BYTES - at)
        abort(); /* it goes by the geometry */
    memcpy(bytes, image->bytes + at, size);
    return (ssize_t)size;
}

static int image_is_cached(void *arg, int fd, uint64_t at)
{
    (void)arg;
    (void)fd;
    (void)at;
    return 0;
}

static ssize_t image_pwritev(void *arg, int fd, const struct iovec *iov, int count, uint64_t at)
{
    struct image *image = arg;
    size_t done = 0;

    (void)fd;
    for (int i = 0; i < count; i++) {
        if (at + done > IMAGE_BYTES || iov[i].iov_len > IMAGE_BYTES - at - done)
            abort();
        touch(image, at + done, iov[i].iov_len);
        memcpy(image->bytes + at + done, iov[i].iov_base, iov[i].iov_len);
        done += iov[i].iov_len;
    }
    return (ssize_t)done;
}

static int image_extend(void *arg, int fd, uint64_t size)
{
    (void)arg;
    (void)fd;
    (void)size;
    return 0;
}

static int image_zero(void *arg, int fd, uint64_t at, uint64_t size)
{
    struct image *image = arg;

    (void)fd;
    touch(image, at, (size_t)size);
    memset(image->bytes + at, 0, (size_t)size);
    return 0;
}

static struct zc_backing *open_image(unsigned layout, int *error)
{
    struct zc_io io = {
        .arg = &images[layout],
        .open = image_open,
        .close = image_close,
        .lock = image_zero_errors,
        .info = image_info,
        .pread = image_pread,
        .is_cached = image_is_cached,
        .pwritev = image_pwritev,
        .sync = image_zero_errors,
        .extend = image_extend,
        .zero = image_zero,
        .discard = image_zero,
    };
    struct zc_backing_config config = {.path = "image",
                                       .layout = layout ? ZC_IN_PLACE : ZC_PACKED,
                                       .page_size = PAGE_SIZE,
                                       .pool = "pool",
                                       .io = &io};
    struct zc_backing *backing = NULL;
    struct zc_text why = {0};

    *error = zc_backing_open(&config, &backing, &why);
    if (*error && !why.data)
        abort(); /* it says why */
    zc_text_free(&why);
    return backing;
}

/* ---- what is there to begin with ---- */

static void fill_bytes(char *bytes, size_t size, uint32_t seed)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)zc_mix64((uint64_t)seed << 32 | i);
}

static bool visit_all(void *arg, const struct zc_record *record, zc_place place)
{
    (void)arg;
    (void)record;
    (void)place;
    return true;
}

static void write_some(struct zc_backing *backing, unsigned layout, uint32_t from, uint32_t to)
{
    struct zc_batch *batch;
    zc_place places[INDEXES];
    void *bytes;

    if (zc_batch_create(backing, 0, &batch) != 0)
        abort();
    for (uint32_t i = from; i < to; i++) {
        struct known *mine = &known[layout][i];
        bool is_packed = layout == 0;
        mine->seed = i + 1 + from * 1000;
        mine->is_live = true;
        mine->record = (struct zc_record){.object = OBJECT,
                                          .index = i,
                                          .size = is_packed ? 100 + i * 90 : PAGE_SIZE,
                                          .live = (uint16_t)(is_packed && i % 3 == 0 ? 5 : 1),
                                          .pages = (uint8_t)(is_packed && i % 3 == 0 ? 4 : 1),
                                          .codec = (uint8_t)(is_packed ? i : 0)};
        if (zc_batch_add(batch, &mine->record, &bytes) != 0)
            abort();
        fill_bytes(bytes, mine->record.size, mine->seed);
    }
    if (zc_batch_commit(batch, places) != 0 || zc_batch_settle(batch) != 0)
        abort();
    for (uint32_t i = from; i < to; i += 4) {
        zc_backing_forget(backing, places[i - from], known[layout][i].record.size);
        known[layout][i].is_live = false;
    }
    zc_batch_destroy(batch);
}

static void make_image(unsigned layout)
{
    struct image *image = &images[layout];
    int error;

    image->bytes = calloc(1, IMAGE_BYTES);
    image->pristine = malloc(IMAGE_BYTES);
    struct zc_backing *backing = open_image(layout, &error);
    if (!backing || zc_backing_recover(backing, visit_all, NULL) != 0)
        abort();
    write_some(backing, layout, 0, INDEXES / 2);
    write_some(backing, layout, INDEXES / 2, INDEXES);
    if (zc_backing_close(backing, true) != 0)
        abort();
    memcpy(image->pristine, image->bytes, IMAGE_BYTES);
    memset(image->changed, 0, sizeof(image->changed));
}

static void undo(struct image *image)
{
    for (size_t i = 0; i < BLOCKS; i++) {
        if (image->changed[i])
            memcpy(image->bytes + i * ZC_BLOCK, image->pristine + i * ZC_BLOCK, ZC_BLOCK);
        image->changed[i] = false;
    }
}

/* ---- changing it ---- */

struct region {
    uint64_t at;
    uint32_t size;
};

static uint64_t data_at(unsigned layout)
{
    struct zc_geometry geometry;

    zc_geometry(IMAGE_BYTES, layout ? ZC_IN_PLACE : ZC_PACKED, PAGE_SIZE, &geometry);
    return geometry.data_at;
}

/* Superblocks, words, the first batch's head and table, everything that has records. */
static struct region region_of(unsigned layout, uint8_t number)
{
    uint64_t data = data_at(layout);
    const struct zc_head *head =
        (const struct zc_head *)(const void *)(images[layout].bytes + data);
    const struct region regions[] = {{0, ZC_SUPER_BYTES},
                                     {ZC_SUPER_BYTES, ZC_SUPER_BYTES},
                                     {ZC_WORDS_AT, INDEXES * sizeof(struct zc_slot)},
                                     {data, ZC_HEAD_BYTES},
                                     {data + (layout ? 0 : head->table_at % 65536), 2048},
                                     {data, 65535}};

    return regions[number % (sizeof(regions) / sizeof(*regions))];
}

static void change(unsigned layout, const uint8_t *change)
{
    struct image *image = &images[layout];
    struct region region = region_of(layout, change[0]);
    uint32_t where = (uint32_t)(change[2] | change[3] << 8) % (region.size - 4), value, old;
    char *at = image->bytes + region.at + where;

    memcpy(&value, change + 4, sizeof(value));
    memcpy(&old, at, sizeof(old));
    if (change[1] % 3 == 0)
        value ^= old;
    else if (change[1] % 3 == 1)
        value = old ^ 1u << value % 32;
    touch(image, region.at + where, sizeof(value));
    memcpy(at, &value, sizeof(value));
}

static void sum_supers(struct image *image)
{
    size_t from = offsetof(struct zc_super, serial);

    for (size_t i = 0; i < 2; i++) {
        char *super = image->bytes + i * ZC_SUPER_BYTES;
        uint64_t sum = zc_hash(super + from, ZC_SUPER_BYTES - from);
        memcpy(super + offsetof(struct zc_super, checksum), &sum, sizeof(sum));
    }
}

/* Of the first batch. */
static void sum_batch(struct image *image)
{
    char *data = image->bytes + data_at(0);
    struct zc_head *head = (struct zc_head *)(void *)data;
    uint64_t table = (uint64_t)head->count * ZC_TABLE_ENTRY_BYTES;

    if (head->table_at < 1 << 20 && table < 1 << 20)
        head->table_checksum = zc_hash(data + head->table_at, (size_t)table);
    head->checksum = zc_head_checksum(head);
    touch(image, data_at(0), ZC_HEAD_BYTES);
}

/* ---- looking at it ---- */

struct found {
    size_t count;
    struct zc_record records[INDEXES * 4];
    zc_place places[INDEXES * 4];
};

static bool visit(void *arg, const struct zc_record *record, zc_place place)
{
    struct found *found = arg;

    if (found->count == INDEXES * 4)
        return false;
    found->records[found->count] = *record;
    found->places[found->count++] = place;
    return true;
}

static bool is_right(unsigned layout, const struct zc_record *record, const char *bytes)
{
    static char expected[16 * PAGE_SIZE];
    const struct known *mine = &known[layout][record->index % INDEXES];

    if (record->object != OBJECT || record->index >= INDEXES || !mine->is_live ||
        record->size != mine->record.size)
        return false;
    fill_bytes(expected, record->size, mine->seed);
    return memcmp(bytes, expected, record->size) == 0;
}

static void read_all(struct zc_backing *backing, unsigned layout, const struct found *found,
                     bool is_forged)
{
    for (size_t i = 0; i < found->count; i++) {
        const struct zc_record *record = &found->records[i];
        const struct known *mine = &known[layout][record->index % INDEXES];
        char *room = aligned_alloc(ZC_BLOCK, zc_backing_room(record->size));
        const void *bytes;
        int error = zc_backing_read(backing, found->places[i], record, room, &bytes);
        if (error ? error != -EIO : !is_right(layout, record, bytes))
            abort();
        if (!is_forged && memcmp(record, &mine->record, sizeof(*record)) != 0)
            abort();
        free(room);
    }
}

static bool moved(void *arg, const struct zc_record *record, zc_place from, zc_place to)
{
    struct zc_backing *backing = arg;

    zc_backing_move(backing, from, to, record->size, record->live);
    return true;
}

static void look(unsigned layout, bool is_forged)
{
    struct found found = {0};
    int error;
    struct zc_backing *backing = open_image(layout, &error);
    size_t size;

    if (!backing)
        return;
    const void *codecs = zc_backing_codecs(backing, &size);
    (void)zc_hash(codecs, size);
    if (zc_backing_recover(backing, visit, &found) != 0)
        abort();
    read_all(backing, layout, &found, is_forged);
    if (zc_backing_clean(backing, 10, moved, backing) < 0)
        abort();
    if (zc_backing_close(backing, true) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!images[0].bytes) {
        make_image(0);
        make_image(1);
    }
    if (size == 0)
        return 0;
    unsigned layout = data[0] & IN_PLACE;
    struct image *image = &images[layout];
    size_t count = zc_min((size - 1) / 8, CHANGES_MAX);
    for (size_t i = 0; i < count; i++)
        change(layout, data + 1 + i * 8);
    if (data[0] & SUM_SUPER)
        sum_supers(image);
    if (data[0] & SUM_BATCHES && layout == 0)
        sum_batch(image);
    look(layout, data[0] & (SUM_SUPER | SUM_BATCHES));
    undo(image);
    return 0;
}
