/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/block/blockcache.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "store/store.h"
#include "zcached/block/device_nodes.h"

#define POOL "blockcache" /* default */
#define WHO "a block cache"

/* ---- the request ---- */

struct request {
    char source[ZC_SOURCE_PATH_MAX];
    char pool[ZC_POOL_NAME_MAX + 1];
    char transport[8]; /* "": any */
    bool is_read_only;
};

static bool take_text(const char *text, char *to, size_t size)
{
    return *text && snprintf(to, size, "%s", text) < (int)size;
}

static bool take_word(struct request *request, const char *word)
{
    if (strncmp(word, "source=/", 8) == 0)
        return take_text(word + 7, request->source, sizeof(request->source));
    if (strncmp(word, "pool=", 5) == 0)
        return take_text(word + 5, request->pool, sizeof(request->pool));
    if (strncmp(word, "transport=", 10) == 0)
        return take_text(word + 10, request->transport, sizeof(request->transport));
    request->is_read_only = strcmp(word, "read_only=1") == 0;
    return request->is_read_only || strcmp(word, "read_only=0") == 0;
}

static int parse(const char *value, struct request *request, struct zc_text *why)
{
    char word[ZC_SOURCE_PATH_MAX + 8];
    int used;

    *request = (struct request){.pool = POOL};
    _Static_assert(sizeof(word) == 520, "the width below");
    for (; sscanf(value, "%519s%n", word, &used) == 1; value += used) {
        if (take_word(request, word))
            continue;
        zc_text_add(why,
                    "on: '%s' is not source=/PATH, pool=NAME, read_only=0, read_only=1, "
                    "transport=ublk or transport=nbd",
                    word);
        return -EINVAL;
    }
    if (*request->source)
        return 0;
    zc_text_add(why, "on: a source is needed, such as source=/dev/block/mmcblk0p1");
    return -EINVAL;
}

/* ---- on ---- */

/* What is got stays: nobody says when the page cache drops it. */
static int open_cache(struct zc_blockcache *blockcache, const struct request *request,
                      struct zc_text *why)
{
    zc_pool *pool;
    int error = zc_find_empty_pool(blockcache->store, request->pool, ZC_EPHEMERAL, WHO, &pool, why);

    if (error)
        return error;
    zc_pool_set_param(pool, "exclusive_gets", "0");
    zc_pool_claim(pool, true);
    error = zc_readcache_init(&blockcache->cache, pool, &blockcache->source);
    if (error)
        zc_pool_claim(pool, false);
    return error;
}

static void close_cache(struct zc_blockcache *blockcache)
{
    zc_pool_claim(blockcache->cache.pool, false);
    zc_readcache_fini(&blockcache->cache);
}

static int find_node(struct zc_blockcache *blockcache, struct zc_text *why)
{
    const char *name = blockcache->transport->name_of(blockcache->export);
    int error = zc_block_node(name, blockcache->path);

    if (error)
        zc_text_add(why, "no device node for %s: %s", name, strerror(-error));
    return error;
}

/* Of nbd's devices: others go away by themselves if zcached is killed, and fail what they are asked. */
static void set_guard(struct zc_blockcache *blockcache)
{
    int error = 0;

    blockcache->guard.lifeline = -1;
    if (blockcache->transport == &zc_nbd)
        error = zc_guard_start(&blockcache->guard, blockcache->path, 0, blockcache->log->fd);
    if (error)
        zc_log_line(blockcache->log, "error",
                    "%s has no guard: %s; should zcached be killed, requests fail after 30 s",
                    blockcache->path, strerror(-error));
}

static int open_export(struct zc_blockcache *blockcache, struct zc_text *why)
{
    struct zc_blocks blocks = zc_readcache_blocks(&blockcache->cache);
    int error = blockcache->transport->open(&blocks, &blockcache->export, why);

    if (error)
        return error;
    error = find_node(blockcache, why);
    if (error)
        blockcache->transport->close(blockcache->export);
    return error;
}

static int open_source(struct zc_blockcache *blockcache, const struct request *request,
                       struct zc_text *why)
{
    size_t page_size = zc_store_page_size(blockcache->store);

    return zc_source_open(&blockcache->source, request->source, request->is_read_only, page_size,
                          why);
}

static int turn_on(struct zc_blockcache *blockcache, const struct request *request,
                   struct zc_text *why)
{
    if (blockcache->is_on) {
        zc_text_add(why, "the block cache is on already, at %s", blockcache->path);
        return -EBUSY;
    }
    int error = zc_check_rights(WHO, why);
    if (!error)
        error = zc_transport_find(request->transport, &blockcache->transport, why);
    if (!error)
        error = open_source(blockcache, request, why);
    if (error)
        return error;
    error = open_cache(blockcache, request, why);
    if (error)
        goto close_source;
    error = open_export(blockcache, why);
    if (error)
        goto close_cache;
    set_guard(blockcache);
    blockcache->is_on = true;
    memcpy(blockcache->source_path, request->source, sizeof(request->source));
    zc_log_line(blockcache->log, "info",
                "block cache is on: %s of %s, %" PRIu64 " bytes%s, pool %s", blockcache->path,
                request->source, blockcache->source.size,
                blockcache->source.is_read_only ? ", read-only" : "", request->pool);
    return 0;

close_cache:
    close_cache(blockcache);
close_source:
    zc_source_close(&blockcache->source);
    return error;
}

/* ---- off ---- */

/* Mounted, or used by another device. */
static bool is_used(const struct zc_blockcache *blockcache)
{
    int fd = open(blockcache->path, O_RDONLY | O_EXCL | O_CLOEXEC);

    if (fd >= 0)
        close(fd);
    return fd < 0 && errno == EBUSY;
}

static void take_away(struct zc_blockcache *blockcache)
{
    struct zc_readcache_stats stats;

    zc_readcache_get_stats(&blockcache->cache, &stats);
    blockcache->transport->close(blockcache->export);
    zc_guard_end(&blockcache->guard);
    close_cache(blockcache);
    zc_source_close(&blockcache->source);
    blockcache->is_on = false;
    zc_log_line(blockcache->log, "info",
                "block cache is off: %s; pages hit %" PRIu64 ", missed %" PRIu64
                ", errors %" PRIu64,
                blockcache->path, stats.hits, stats.misses, stats.read_errors + stats.write_errors);
}

int zc_blockcache_end(struct zc_blockcache *blockcache)
{
    if (!blockcache->is_on)
        return 0;
    if (is_used(blockcache)) {
        zc_log_line(blockcache->log, "error", "block cache stays on: %s is mounted",
                    blockcache->path);
        return -EBUSY;
    }
    take_away(blockcache);
    return 0;
}

/* ---- nodes ---- */

static int check_on(void *object, const struct zc_node *node, const char *value,
                    struct zc_text *why)
{
    struct request request;

    (void)object;
    (void)node;
    return parse(value, &request, why);
}

static int store_on(void *object, const struct zc_node *node, const char *value,
                    struct zc_text *why)
{
    struct request request;
    int error = parse(value, &request, why);

    (void)node;
    return error ? error : turn_on(object, &request, why);
}

static int store_off(void *object, const struct zc_node *node, const char *value,
                     struct zc_text *why)
{
    struct zc_blockcache *blockcache = object;

    (void)node;
    (void)value;
    if (!blockcache->is_on) {
        zc_text_add(why, "the block cache is not on");
        return -ENOENT;
    }
    if (is_used(blockcache)) {
        zc_text_add(why, "%s is mounted or in use; umount it first", blockcache->path);
        return -EBUSY;
    }
    take_away(blockcache);
    return 0;
}

enum { TEXT_DEVICE, TEXT_SOURCE, TEXT_TRANSPORT, TEXT_POOL };
enum {
    NUMBER_SIZE,
    NUMBER_DIRECT,
    NUMBER_READ_ONLY,
    NUMBER_IN_USE,
    NUMBER_HITS,
    NUMBER_MISSES,
    NUMBER_HIT_PERCENT,
    NUMBER_SAVED,
    NUMBER_WRITES,
    NUMBER_DISCARDS,
    NUMBER_FLUSHES,
    NUMBER_READ_ERRORS,
    NUMBER_WRITE_ERRORS,
    NUMBER_RACED
};

static const char *text_of(const struct zc_blockcache *blockcache, uintptr_t which)
{
    if (!blockcache->is_on)
        return "none";
    switch (which) {
    case TEXT_DEVICE:
        return blockcache->path;
    case TEXT_SOURCE:
        return blockcache->source_path;
    case TEXT_TRANSPORT:
        return blockcache->transport->name;
    default:
        return zc_pool_name(blockcache->cache.pool);
    }
}

static int show_text(void *object, const struct zc_node *node, struct zc_text *out)
{
    zc_text_add(out, "%s", text_of(object, node->arg));
    return 0;
}

static uint64_t hit_percent(const struct zc_readcache_stats *stats)
{
    uint64_t pages = stats->hits + stats->misses;

    return pages ? stats->hits * 100 / pages : 0;
}

static uint64_t number_of(const struct zc_blockcache *blockcache, uintptr_t which)
{
    struct zc_readcache_stats stats;

    if (!blockcache->is_on)
        return 0;
    zc_readcache_get_stats(&blockcache->cache, &stats);
    switch (which) {
    case NUMBER_SIZE:
        return blockcache->source.size;
    case NUMBER_DIRECT:
        return blockcache->source.direct >= 0;
    case NUMBER_READ_ONLY:
        return blockcache->source.is_read_only;
    case NUMBER_IN_USE:
        return is_used(blockcache);
    case NUMBER_HITS:
        return stats.hits;
    case NUMBER_MISSES:
        return stats.misses;
    case NUMBER_HIT_PERCENT:
        return hit_percent(&stats);
    case NUMBER_SAVED:
        return stats.saved;
    case NUMBER_WRITES:
        return stats.writes;
    case NUMBER_DISCARDS:
        return stats.discards;
    case NUMBER_FLUSHES:
        return stats.flushes;
    case NUMBER_READ_ERRORS:
        return stats.read_errors;
    case NUMBER_WRITE_ERRORS:
        return stats.write_errors;
    default:
        return stats.raced;
    }
}

static int show_number(void *object, const struct zc_node *node, struct zc_text *out)
{
    zc_text_add(out, "%" PRIu64, number_of(object, node->arg));
    return 0;
}

static const struct zc_node nodes[] = {
    ACTION("on", "source=/PATH [pool=NAME] [read_only=0|1] [transport=ublk|nbd]", check_on,
           store_on, "shows the kernel a block device that reads a device or file through a pool"),
    ACTION("off", "1", zc_check_off, store_off, "takes the device away, unless it is mounted"),
    TEXT("device", TEXT_DEVICE, "the device to mount, or none"),
    TEXT("source", TEXT_SOURCE, "the device or file behind it"),
    TEXT("transport", TEXT_TRANSPORT, "how the kernel reaches it: ublk or nbd"),
    TEXT("pool", TEXT_POOL, "the pool that keeps what was read"),
    NUMBER("size", ZC_NODE_BYTES, "bytes", NUMBER_SIZE, "size of the device"),
    NUMBER("direct", ZC_NODE_BOOL, "", NUMBER_DIRECT,
           "1: the source is read past the page cache; 0: through it, and dropped from there"),
    NUMBER("read_only", ZC_NODE_BOOL, "", NUMBER_READ_ONLY, "1: the device takes no writes"),
    NUMBER("in_use", ZC_NODE_BOOL, "", NUMBER_IN_USE, "1: the device is mounted"),
    NUMBER("hits", ZC_NODE_UINT, "pages", NUMBER_HITS, "pages read that the pool had"),
    NUMBER("misses", ZC_NODE_UINT, "pages", NUMBER_MISSES, "pages that the source was read for"),
    NUMBER("hit_percent", ZC_NODE_PERCENT, "percent", NUMBER_HIT_PERCENT,
           "of all pages read, those that the pool had"),
    NUMBER("saved", ZC_NODE_BYTES, "bytes", NUMBER_SAVED,
           "bytes that were asked for and not read from the source"),
    NUMBER("writes", ZC_NODE_UINT, "pages", NUMBER_WRITES,
           "pages written, to the source; the pool forgets them"),
    NUMBER("discards", ZC_NODE_UINT, "pages", NUMBER_DISCARDS,
           "pages discarded, of the source too"),
    NUMBER("flushes", ZC_NODE_UINT, "requests", NUMBER_FLUSHES,
           "times that the source was to keep what was written"),
    NUMBER("read_errors", ZC_NODE_UINT, "requests", NUMBER_READ_ERRORS,
           "reads that the source failed"),
    NUMBER("write_errors", ZC_NODE_UINT, "requests", NUMBER_WRITE_ERRORS,
           "writes, discards and flushes that the source failed"),
    NUMBER("raced", ZC_NODE_UINT, "pages", NUMBER_RACED,
           "of misses: not kept, as they were written meanwhile"),
    {0},
};

const struct zc_node zc_blockcache_nodes[] = {
    {.name = "blockcache",
     .type = ZC_NODE_DIR,
     .unit = "",
     .range = "",
     .deflt = "",
     .meaning = "the block cache",
     .children = nodes},
    {0},
};
