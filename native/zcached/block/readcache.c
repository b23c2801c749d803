/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/block/readcache.h"

#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "base/large.h"

#define MOST_BYTES (128u * 1024) /* of a request, or a page */
#define PAGES_MAX 34u /* that a request touches, or a part of it that is done at one time */
#define STRIPES 4096u /* so many that a page is rarely not kept for a write of another */
#define LOCKS 64u

/* Pages of the same number modulo STRIPES. */
struct stripe {
    uint32_t writers; /* under way */
    uint64_t version; /* from 1 on; grows with each that begins */
};

struct zc_stripes {
    /* Of the stripes of the same number modulo LOCKS, and of what of them is in the pool. */
    pthread_mutex_t locks[LOCKS];
    struct stripe stripes[STRIPES];
};

/* Adjacent pages, and what of them was asked for. */
struct span {
    uint64_t first;
    size_t count;
    uint64_t at; /* bytes */
    size_t size;
    char *bytes;  /* the caller's, from `at` on */
    char *window; /* ours, from the first page on */
    int32_t missing[PAGES_MAX];
    /* Of missing pages, before the source was asked; 0: one that may not be kept. */
    uint64_t versions[PAGES_MAX];
};

static size_t window_bytes(const struct zc_readcache *cache)
{
    return cache->window_pages * cache->page_size;
}

int zc_readcache_init(struct zc_readcache *cache, zc_pool *pool, const struct zc_source *source)
{
    size_t page_size = zc_pool_page_size(pool);
    bool is_complete = true;

    *cache = (struct zc_readcache){.pool = pool, .source = source, .page_size = page_size};
    cache->window_pages = zc_min(PAGES_MAX, MOST_BYTES / page_size + 2);
    pthread_mutex_init(&cache->lock, NULL);
    pthread_cond_init(&cache->is_free, NULL);
    cache->stripes = zc_large_get(sizeof(*cache->stripes));
    for (size_t i = 0; cache->stripes && i < LOCKS; i++)
        pthread_mutex_init(&cache->stripes->locks[i], NULL);
    for (size_t i = 0; cache->stripes && i < STRIPES; i++)
        cache->stripes->stripes[i].version = 1;
    for (size_t i = 0; i < ZC_READCACHE_WINDOWS; i++) {
        struct zc_window *window = &cache->windows[i];
        window->bytes = zc_large_get(window_bytes(cache));
        window->next = cache->free_windows;
        cache->free_windows = window;
        is_complete = is_complete && window->bytes;
    }
    if (cache->stripes && is_complete)
        return 0;
    zc_readcache_fini(cache);
    return -ENOMEM;
}

static struct zc_key key_of(uint64_t page)
{
    return (struct zc_key){.object = page >> 32, .index = (uint32_t)page};
}

void zc_readcache_fini(struct zc_readcache *cache)
{
    uint64_t objects = key_of((cache->source->size - 1) / cache->page_size).object + 1;

    for (uint64_t object = 0; object < objects; object++)
        zc_flush_object(cache->pool, object);
    zc_pool_release(cache->pool);
    for (size_t i = 0; cache->stripes && i < LOCKS; i++)
        pthread_mutex_destroy(&cache->stripes->locks[i]);
    zc_large_put(cache->stripes, sizeof(*cache->stripes));
    for (size_t i = 0; i < ZC_READCACHE_WINDOWS; i++)
        zc_large_put(cache->windows[i].bytes, window_bytes(cache));
    pthread_mutex_destroy(&cache->lock);
    pthread_cond_destroy(&cache->is_free);
}

static void add(_Atomic uint64_t *counter, uint64_t by)
{
    atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}

static struct zc_window *borrow(struct zc_readcache *cache)
{
    pthread_mutex_lock(&cache->lock);
    while (!cache->free_windows)
        pthread_cond_wait(&cache->is_free, &cache->lock);
    struct zc_window *window = cache->free_windows;
    cache->free_windows = window->next;
    pthread_mutex_unlock(&cache->lock);
    return window;
}

static void give_back(struct zc_readcache *cache, struct zc_window *window)
{
    pthread_mutex_lock(&cache->lock);
    window->next = cache->free_windows;
    cache->free_windows = window;
    pthread_cond_signal(&cache->is_free);
    pthread_mutex_unlock(&cache->lock);
}

/* ---- what of a page may be kept ---- */

static struct stripe *lock_stripe(struct zc_readcache *cache, uint64_t page)
{
    pthread_mutex_lock(&cache->stripes->locks[page % LOCKS]);
    return &cache->stripes->stripes[page % STRIPES];
}

static void unlock_stripe(struct zc_readcache *cache, uint64_t page)
{
    pthread_mutex_unlock(&cache->stripes->locks[page % LOCKS]);
}

/* To be called before the source is asked for the page. */
static uint64_t version_of(struct zc_readcache *cache, uint64_t page)
{
    const struct stripe *stripe = lock_stripe(cache, page);
    uint64_t version = stripe->writers ? 0 : stripe->version;

    unlock_stripe(cache, page);
    return version;
}

/* Puts the page, unless a write was under way since that was its version. What the pool refuses is not kept. */
static void keep(struct zc_readcache *cache, uint64_t page, const char *bytes, uint64_t version)
{
    const struct stripe *stripe = lock_stripe(cache, page);
    struct zc_key key = key_of(page);

    if (version != 0 && version == stripe->version)
        zc_put(cache->pool, key.object, key.index, bytes, 0, NULL);
    else
        add(&cache->raced, 1);
    unlock_stripe(cache, page);
}

/* From now on nobody puts the page, until the write has ended. */
static void begin_write(struct zc_readcache *cache, uint64_t page)
{
    struct stripe *stripe = lock_stripe(cache, page);
    struct zc_key key = key_of(page);

    stripe->writers++;
    stripe->version++;
    zc_flush_page(cache->pool, key.object, key.index);
    unlock_stripe(cache, page);
}

static void end_write(struct zc_readcache *cache, uint64_t page)
{
    lock_stripe(cache, page)->writers--;
    unlock_stripe(cache, page);
}

/* ---- reading ---- */

/* What was asked for of the span's page `i`: *from bytes into the page. Returns how many. */
static size_t wanted(const struct zc_readcache *cache, const struct span *span, size_t i,
                     size_t *from)
{
    uint64_t page_at = (span->first + i) * cache->page_size;
    uint64_t begin = zc_max64(page_at, span->at);
    uint64_t end = zc_min64(page_at + cache->page_size, span->at + span->size);

    *from = (size_t)(begin - page_at);
    return (size_t)(end - begin);
}

/* Where in the caller's memory that goes. */
static char *target(const struct zc_readcache *cache, const struct span *span, size_t i,
                    size_t from)
{
    return span->bytes + ((span->first + i) * cache->page_size + from - span->at);
}

static char *in_window(const struct zc_readcache *cache, const struct span *span, size_t i)
{
    return span->window + i * cache->page_size;
}

/* From the pool: whole pages into the caller's memory, others into the window. */
static void get_kept(struct zc_readcache *cache, struct span *span)
{
    struct zc_key keys[PAGES_MAX];
    void *pages[PAGES_MAX];
    size_t from;

    for (size_t i = 0; i < span->count; i++) {
        bool is_whole = wanted(cache, span, i, &from) == cache->page_size;
        keys[i] = key_of(span->first + i);
        pages[i] = is_whole ? target(cache, span, i, 0) : in_window(cache, span, i);
    }
    zc_get_batch(cache->pool, keys, pages, span->count, 0, span->missing);
}

/* From the source, pages of which none was kept. */
static int get_missing(struct zc_readcache *cache, struct span *span, size_t first, size_t count)
{
    for (size_t i = first; i < first + count; i++)
        span->versions[i] = version_of(cache, span->first + i);
    int error = zc_source_read(cache->source, (span->first + first) * cache->page_size,
                               in_window(cache, span, first), count * cache->page_size);
    for (size_t i = first; i < first + count && !error; i++)
        keep(cache, span->first + i, in_window(cache, span, i), span->versions[i]);
    return error;
}

static int get_all_missing(struct zc_readcache *cache, struct span *span)
{
    for (size_t i = 0; i < span->count; i++) {
        size_t first = i;
        while (i < span->count && span->missing[i] != 0)
            i++;
        int error = i > first ? get_missing(cache, span, first, i - first) : 0;
        if (error)
            return error;
    }
    return 0;
}

/* What is in the window goes to the caller. */
static void hand_out(struct zc_readcache *cache, const struct span *span)
{
    uint64_t hits = 0, saved = 0;

    for (size_t i = 0; i < span->count; i++) {
        size_t from, size = wanted(cache, span, i, &from);
        bool is_hit = span->missing[i] == 0;
        if (!is_hit || size < cache->page_size)
            memcpy(target(cache, span, i, from), in_window(cache, span, i) + from, size);
        hits += is_hit;
        saved += is_hit ? size : 0;
    }
    add(&cache->hits, hits);
    add(&cache->misses, span->count - hits);
    add(&cache->saved, saved);
}

static int read_span(struct zc_readcache *cache, struct span *span)
{
    get_kept(cache, span);
    int error = get_all_missing(cache, span);
    if (!error)
        hand_out(cache, span);
    return error;
}

int zc_readcache_read(struct zc_readcache *cache, uint64_t at, void *bytes, size_t size)
{
    struct zc_window *window = borrow(cache);
    struct span span = {.window = window->bytes};
    int error = 0;

    for (size_t done = 0; done < size && !error; done += span.size) {
        span.at = at + done;
        span.bytes = (char *)bytes + done;
        span.first = span.at / cache->page_size;
        uint64_t end = (span.first + cache->window_pages) * cache->page_size;
        span.size = (size_t)zc_min64(size - done, end - span.at);
        span.count = (size_t)((span.at + span.size - 1) / cache->page_size - span.first + 1);
        error = read_span(cache, &span);
    }
    if (error)
        add(&cache->read_errors, 1);
    give_back(cache, window);
    return error;
}

/* ---- writing ---- */

/* Calls `change` of the source; meanwhile, no page in there is kept. */
static int change(struct zc_readcache *cache, uint64_t at, const void *bytes, uint64_t size,
                  _Atomic uint64_t *counter)
{
    uint64_t first = at / cache->page_size, end = (at + size - 1) / cache->page_size + 1;

    for (uint64_t page = first; page < end; page++)
        begin_write(cache, page);
    int error = bytes ? zc_source_write(cache->source, at, bytes, (size_t)size)
                      : zc_source_discard(cache->source, at, size);
    for (uint64_t page = first; page < end; page++)
        end_write(cache, page);
    add(counter, end - first);
    if (error)
        add(&cache->write_errors, 1);
    return error;
}

int zc_readcache_write(struct zc_readcache *cache, uint64_t at, const void *bytes, size_t size)
{
    return size ? change(cache, at, bytes, size, &cache->writes) : 0;
}

int zc_readcache_discard(struct zc_readcache *cache, uint64_t at, uint64_t size)
{
    return size ? change(cache, at, NULL, size, &cache->discards) : 0;
}

int zc_readcache_flush(struct zc_readcache *cache)
{
    int error = zc_source_sync(cache->source);

    add(&cache->flushes, 1);
    if (error)
        add(&cache->write_errors, 1);
    return error;
}

/* ---- for a transport ---- */

static int blocks_read(void *object, uint64_t at, void *bytes, size_t size)
{
    return zc_readcache_read(object, at, bytes, size);
}

static int blocks_write(void *object, uint64_t at, const void *bytes, size_t size)
{
    return zc_readcache_write(object, at, bytes, size);
}

static int blocks_discard(void *object, uint64_t at, uint64_t size)
{
    return zc_readcache_discard(object, at, size);
}

static int blocks_flush(void *object)
{
    return zc_readcache_flush(object);
}

struct zc_blocks zc_readcache_blocks(struct zc_readcache *cache)
{
    static const struct zc_blocks_ops can_read = {.read = blocks_read};
    static const struct zc_blocks_ops can_write = {
        .read = blocks_read, .write = blocks_write, .flush = blocks_flush};
    static const struct zc_blocks_ops can_discard = {.read = blocks_read,
                                                     .write = blocks_write,
                                                     .discard = blocks_discard,
                                                     .flush = blocks_flush};
    const struct zc_source *source = cache->source;

    return (struct zc_blocks){
        .ops = source->is_read_only  ? &can_read
               : source->has_discard ? &can_discard
                                     : &can_write,
        .object = cache,
        .size = source->size,
        .block_size = source->block_size,
        .best_size = (uint32_t)cache->page_size,
        .most_size = (uint32_t)zc_max(MOST_BYTES, cache->page_size),
        .is_read_only = source->is_read_only,
    };
}

void zc_readcache_get_stats(const struct zc_readcache *cache, struct zc_readcache_stats *out)
{
    *out = (struct zc_readcache_stats){
        .hits = cache->hits,
        .misses = cache->misses,
        .saved = cache->saved,
        .writes = cache->writes,
        .discards = cache->discards,
        .flushes = cache->flushes,
        .read_errors = cache->read_errors,
        .write_errors = cache->write_errors,
        .raced = cache->raced,
    };
}
