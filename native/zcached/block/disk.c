/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/block/disk.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "base/large.h"

#define OBJECT 0u
#define RUN_MAX 16u /* pages at a time */
#define BITS 64u
#define MOST_BYTES (32u * 1024) /* at least a page: of a request */

/* Adjacent pages, each whole. */
struct run {
    size_t count;
    uint32_t first;
    struct zc_key keys[RUN_MAX];
    void *pages[RUN_MAX];
    int32_t results[RUN_MAX];
};

static size_t bitmap_bytes(const struct zc_disk *disk)
{
    return zc_div_up(disk->size / disk->page_size, BITS) * sizeof(uint64_t);
}

int zc_disk_init(struct zc_disk *disk, zc_pool *pool, size_t page_size, uint64_t size)
{
    int error = 0;

    *disk = (struct zc_disk){.pool = pool, .page_size = page_size, .size = size};
    if (size == 0 || size % page_size != 0)
        error = -EINVAL;
    else if (size / page_size > (uint64_t)UINT32_MAX + 1)
        error = -EFBIG;
    if (!error) {
        disk->is_held = zc_large_get(bitmap_bytes(disk));
        disk->scratch = zc_large_get(page_size);
        error = disk->is_held && disk->scratch ? 0 : -ENOMEM;
    }
    pthread_mutex_init(&disk->partial, NULL);
    if (error)
        zc_disk_fini(disk);
    return error;
}

void zc_disk_fini(struct zc_disk *disk)
{
    zc_flush_object(disk->pool, OBJECT);
    zc_pool_release(disk->pool);
    zc_large_put(disk->is_held, bitmap_bytes(disk));
    zc_large_put(disk->scratch, disk->page_size);
    pthread_mutex_destroy(&disk->partial);
}

static void add(_Atomic uint64_t *counter, uint64_t by)
{
    atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}

static bool is_held(const struct zc_disk *disk, uint32_t page)
{
    return disk->is_held[page / BITS] >> page % BITS & 1;
}

static void hold(struct zc_disk *disk, uint32_t page)
{
    uint64_t bit = UINT64_C(1) << page % BITS;

    if (!(atomic_fetch_or(&disk->is_held[page / BITS], bit) & bit))
        add(&disk->held, 1);
}

/* Was it held? */
static bool let_go(struct zc_disk *disk, uint32_t page)
{
    uint64_t bit = UINT64_C(1) << page % BITS;
    bool was = (atomic_fetch_and(&disk->is_held[page / BITS], ~bit) & bit) != 0;

    if (was)
        add(&disk->held, UINT64_MAX);
    return was;
}

static void run_add(struct run *run, uint32_t page, void *bytes)
{
    run->keys[run->count] = (struct zc_key){.object = OBJECT, .index = page};
    run->results[run->count] = -EIO;
    run->pages[run->count++] = bytes;
}

/* How many of the run failed. */
static size_t failures(const struct run *run)
{
    size_t failed = 0;

    for (size_t i = 0; i < run->count; i++)
        failed += run->results[i] != 0;
    return failed;
}

/* ---- whole pages ---- */

/* A page that is held and not in the pool is one that could not be written. */
static int read_pages(struct zc_disk *disk, uint32_t first, char *bytes, size_t count)
{
    struct run run = {.first = first};

    for (size_t i = 0; i < count; i++) {
        char *page = bytes + i * disk->page_size;
        if (is_held(disk, first + (uint32_t)i))
            run_add(&run, first + (uint32_t)i, page);
        else
            memset(page, 0, disk->page_size);
    }
    if (run.count > 0)
        zc_get_batch(disk->pool, run.keys, run.pages, run.count, 0, run.results);
    size_t failed = failures(&run);
    add(&disk->reads, count);
    add(&disk->read_errors, failed);
    return failed ? -EIO : 0;
}

static int write_pages(struct zc_disk *disk, uint32_t first, const char *bytes, size_t count)
{
    struct run run = {.first = first};

    for (size_t i = 0; i < count; i++) {
        hold(disk, first + (uint32_t)i);
        run_add(&run, first + (uint32_t)i, (char *)bytes + i * disk->page_size);
    }
    zc_put_batch(disk->pool, run.keys, (const void *const *)run.pages, run.count, 0, run.results,
                 NULL);
    size_t failed = failures(&run);
    add(&disk->writes, count);
    add(&disk->write_errors, failed);
    return failed ? -EIO : 0;
}

/* ---- a part of a page ---- */

static int read_part(struct zc_disk *disk, uint64_t at, char *bytes, size_t size)
{
    pthread_mutex_lock(&disk->partial);
    int error = read_pages(disk, (uint32_t)(at / disk->page_size), disk->scratch, 1);
    if (!error)
        memcpy(bytes, disk->scratch + at % disk->page_size, size);
    pthread_mutex_unlock(&disk->partial);
    return error;
}

static int write_part(struct zc_disk *disk, uint64_t at, const char *bytes, size_t size)
{
    uint32_t page = (uint32_t)(at / disk->page_size);

    pthread_mutex_lock(&disk->partial);
    int error = read_pages(disk, page, disk->scratch, 1);
    if (!error) {
        memcpy(disk->scratch + at % disk->page_size, bytes, size);
        error = write_pages(disk, page, disk->scratch, 1);
    }
    pthread_mutex_unlock(&disk->partial);
    return error;
}

/* ---- ranges ---- */

static bool is_valid(const struct zc_disk *disk, uint64_t at, uint64_t size)
{
    return at % ZC_DISK_SECTOR == 0 && size % ZC_DISK_SECTOR == 0 && at <= disk->size &&
           size <= disk->size - at;
}

/* Bytes from `at` on that are done at one time: up to RUN_MAX whole pages, or a part of one. */
static size_t step(const struct zc_disk *disk, uint64_t at, size_t size)
{
    size_t into = at % disk->page_size;

    if (into == 0 && size >= disk->page_size)
        return zc_min(size / disk->page_size, RUN_MAX) * disk->page_size;
    return zc_min(disk->page_size - into, size);
}

int zc_disk_read(struct zc_disk *disk, uint64_t at, void *bytes, size_t size)
{
    int error = 0;

    if (!is_valid(disk, at, size))
        return -EINVAL;
    for (char *to = bytes; size > 0;) {
        size_t some = step(disk, at, size);
        bool is_whole = some >= disk->page_size;
        int failed = is_whole ? read_pages(disk, (uint32_t)(at / disk->page_size), to,
                                           some / disk->page_size)
                              : read_part(disk, at, to, some);
        error = error ? error : failed;
        at += some;
        to += some;
        size -= some;
    }
    return error;
}

int zc_disk_write(struct zc_disk *disk, uint64_t at, const void *bytes, size_t size)
{
    int error = 0;

    if (!is_valid(disk, at, size))
        return -EINVAL;
    for (const char *from = bytes; size > 0;) {
        size_t some = step(disk, at, size);
        bool is_whole = some >= disk->page_size;
        int failed = is_whole ? write_pages(disk, (uint32_t)(at / disk->page_size), from,
                                            some / disk->page_size)
                              : write_part(disk, at, from, some);
        error = error ? error : failed;
        at += some;
        from += some;
        size -= some;
    }
    return error;
}

int zc_disk_discard(struct zc_disk *disk, uint64_t at, uint64_t size)
{
    if (!is_valid(disk, at, size))
        return -EINVAL;

    uint64_t first = (at + disk->page_size - 1) / disk->page_size;
    uint64_t end = (at + size) / disk->page_size;
    for (uint64_t page = first; page < end; page++) {
        if (!let_go(disk, (uint32_t)page))
            continue;
        zc_flush_page(disk->pool, OBJECT, (uint32_t)page);
        add(&disk->discards, 1);
    }
    return 0;
}

/* ---- for a transport ---- */

static int blocks_read(void *object, uint64_t at, void *bytes, size_t size)
{
    return zc_disk_read(object, at, bytes, size);
}

static int blocks_write(void *object, uint64_t at, const void *bytes, size_t size)
{
    return zc_disk_write(object, at, bytes, size);
}

static int blocks_discard(void *object, uint64_t at, uint64_t size)
{
    return zc_disk_discard(object, at, size);
}

struct zc_blocks zc_disk_blocks(struct zc_disk *disk)
{
    static const struct zc_blocks_ops ops = {
        .read = blocks_read, .write = blocks_write, .discard = blocks_discard};

    return (struct zc_blocks){
        .ops = &ops,
        .object = disk,
        .size = disk->size,
        .block_size = (uint32_t)zc_min(disk->page_size, (size_t)sysconf(_SC_PAGESIZE)),
        .best_size = (uint32_t)disk->page_size,
        .most_size = (uint32_t)zc_max(MOST_BYTES, disk->page_size),
    };
}

void zc_disk_get_stats(const struct zc_disk *disk, struct zc_disk_stats *out)
{
    out->reads = disk->reads;
    out->writes = disk->writes;
    out->discards = disk->discards;
    out->read_errors = disk->read_errors;
    out->write_errors = disk->write_errors;
    out->held = disk->held;
}
