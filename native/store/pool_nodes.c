/* SPDX-License-Identifier: Apache-2.0 */
/* The control tree's pools. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "store/idle.h"
#include "store/limit.h"
#include "store/nodes.h"
#include "store/pool.h"
#include "store/store.h"

/* What a pool's directory shows: one snapshot for all its counters. Holds a reference. */
struct pool_view {
    zc_pool *pool;
    struct zc_pool_stats stats;
};

static zc_pool *pool_of(void *view)
{
    return ((struct pool_view *)view)->pool;
}

zc_pool *zc_pool_of_view(void *view)
{
    return pool_of(view);
}

static int show_kind(void *view, const struct zc_node *node, struct zc_text *out)
{
    (void)node;
    zc_text_add(out, "%s", pool_of(view)->kind == ZC_PERSISTENT ? "persistent" : "ephemeral");
    return 0;
}

static int show_allocator(void *view, const struct zc_node *node, struct zc_text *out)
{
    (void)node;
    zc_text_add(out, "%s", pool_of(view)->alloc_ops->name);
    return 0;
}

static int show_codec(void *view, const struct zc_node *node, struct zc_text *out)
{
    (void)node;
    zc_codecs_show(pool_of(view), out);
    return 0;
}

static int check_codec(void *view, const struct zc_node *node, const char *value,
                       struct zc_text *why)
{
    (void)node;
    return zc_codecs_check(pool_of(view)->store, value, why);
}

static int store_codec(void *view, const struct zc_node *node, const char *value,
                       struct zc_text *why)
{
    (void)node;
    return zc_codecs_set(pool_of(view), value, why);
}

static int show_cold_codec(void *view, const struct zc_node *node, struct zc_text *out)
{
    (void)node;
    zc_cold_show_codec(pool_of(view), out);
    return 0;
}

static int store_cold_codec(void *view, const struct zc_node *node, const char *value,
                            struct zc_text *why)
{
    (void)node;
    return zc_cold_set_codec(pool_of(view), value, why);
}

static int show_id(void *view, const struct zc_node *node, struct zc_text *out)
{
    (void)node;
    zc_show_u64(out, pool_of(view)->id);
    return 0;
}

static int show_pool_param(void *view, const struct zc_node *node, struct zc_text *out)
{
    zc_show_u64(out, pool_of(view)->params[node->arg]);
    return 0;
}

static uint64_t largest(const struct zc_node *node)
{
    if (node->type == ZC_NODE_PERCENT)
        return 100;
    if (node->type == ZC_NODE_BOOL)
        return 1;
    if (node->arg == ZC_PARAM_COLD_EXTENT)
        return ZC_EXTENT_PAGES;
    if (node->arg == ZC_PARAM_WRITEBACK_AFTER || node->arg == ZC_PARAM_COLD_AFTER)
        return ZC_IDLE_MAX;
    return node->arg == ZC_PARAM_ENTROPY_GATE ? ZC_ENTROPY_MAX : ZC_POOR_RUN_MAX;
}

static int parse_pool_param(zc_pool *pool, const struct zc_node *node, const char *value,
                            uint64_t *out)
{
    const char *end;

    if (node->arg == ZC_PARAM_WRITEBACK_BUDGET)
        return strchr(value, '%') ? -EINVAL : zc_parse_size(value, 0, out);
    if (node->type == ZC_NODE_BYTES)
        return zc_parse_threshold(value, pool->store->page_size, out);
    if (!zc_parse_number(value, out, &end))
        return -EINVAL;
    if (node->type == ZC_NODE_PERCENT && strcmp(end, "%") == 0)
        end++;
    if (*end)
        return -EINVAL;
    if (node->arg == ZC_PARAM_COLD_EXTENT && !zc_is_pow2(*out))
        return *out == 0 ? -ERANGE : -EINVAL;
    if (node->arg == ZC_PARAM_COLD_CPU_PERCENT && *out == 0)
        return -ERANGE;
    return *out > largest(node) ? -ERANGE : 0;
}

static int check_pool_param(void *view, const struct zc_node *node, const char *value,
                            struct zc_text *why)
{
    uint64_t number;
    int error = parse_pool_param(pool_of(view), node, value, &number);

    return error ? zc_node_complain(why, error, value, node, node->range) : 0;
}

static void set_param(zc_pool *pool, const struct zc_node *node, uint64_t number)
{
    pool->params[node->arg] = number;
    if (node->arg == ZC_PARAM_COLD_EXTENT || node->arg == ZC_PARAM_COLD_AFTER)
        zc_cold_reconsider(pool);
    zc_limit_reconsider(pool);
}

static int store_pool_param(void *view, const struct zc_node *node, const char *value,
                            struct zc_text *why)
{
    uint64_t number;
    int error = parse_pool_param(pool_of(view), node, value, &number);

    (void)why;
    if (!error)
        set_param(pool_of(view), node, number);
    return error;
}

#define PARAM(name_, type_, unit_, range_, default_, arg_, meaning_) \
    {.name = name_,                                                  \
     .type = type_,                                                  \
     .unit = unit_,                                                  \
     .range = range_,                                                \
     .deflt = default_,                                              \
     .meaning = meaning_,                                            \
     .arg = arg_,                                                    \
     .show = show_pool_param,                                        \
     .check = check_pool_param,                                      \
     .store = store_pool_param}
#define THRESHOLD "0..page_size, bytes or 7/8 or 87%"

const struct zc_node zc_pool_param_nodes[] = {
    PARAM("zv_max_zsize", ZC_NODE_BYTES, "bytes", THRESHOLD, "7/8 of a page", ZC_PARAM_MAX_ZSIZE,
          "a zpage larger than this is refused (compress_poor)"),
    PARAM("zv_max_mean_zsize", ZC_NODE_BYTES, "bytes", THRESHOLD, "5/8 of a page",
          ZC_PARAM_MAX_MEAN_ZSIZE,
          "a zpage larger than this is refused while the pool's mean is too (mean_compress_poor)"),
    PARAM("zv_page_count_policy_percent", ZC_NODE_PERCENT, "percent of RAM", "0..100", "75",
          ZC_PARAM_POLICY_PERCENT, "share of RAM that the pool's frames may use"),
    PARAM("exclusive_gets", ZC_NODE_BOOL, "", "0 or 1", "1 in ephemeral pools, else 0",
          ZC_PARAM_EXCLUSIVE_GETS, "a get takes the page away"),
    PARAM("keep_rejected", ZC_NODE_BOOL, "", "0 or 1", "0", ZC_PARAM_KEEP_REJECTED,
          "keep badly compressing pages uncompressed, a frame each, counted in kept_rejected"),
    PARAM("ignore_low_memory", ZC_NODE_BOOL, "", "0 or 1", "0", ZC_PARAM_IGNORE_LOW_MEMORY,
          "take pages also while the system is short of memory, as when that frees more (swap)"),
    PARAM("checksums", ZC_NODE_BOOL, "", "0 or 1", "1", ZC_PARAM_CHECKSUMS,
          "zpages stored from now on get a checksum, which a get verifies"),
    PARAM("entropy_gate", ZC_NODE_UINT, "millibits a byte", "0..8000", "0", ZC_PARAM_ENTROPY_GATE,
          "a page estimated above this is refused uncompressed (entropy_rejected); 0: none is"),
    PARAM("compact_auto", ZC_NODE_BOOL, "", "0 or 1", "1", ZC_PARAM_COMPACT_AUTO,
          "compact when flushes and overwriting have left the frames badly filled"),
    PARAM("nonactive_puts_ignored", ZC_NODE_BOOL, "", "0 or 1", "0", ZC_PARAM_IGNORE_INACTIVE,
          "pages that the frontend calls inactive are refused (eph_, pers_nonactive_puts_ignored)"),
    PARAM("poor_run_limit", ZC_NODE_UINT, "pages", "0..65535", "0", ZC_PARAM_POOR_RUN_LIMIT,
          "after so many compress_poor in a row 15 of 16 pages are refused untried "
          "(poor_run_refused), until one compresses; 0: all are tried"),
    PARAM("writeback_budget", ZC_NODE_BYTES, "bytes a day", "0.., K M G", "0",
          ZC_PARAM_WRITEBACK_BUDGET,
          "what writeback may write to the backing store, which wears flash; 0: any number"),
    PARAM("writeback_auto", ZC_NODE_BOOL, "", "0 or 1", "1", ZC_PARAM_WRITEBACK_AUTO,
          "pages go to the backing store when the store is over its high watermark or memory is "
          "short"),
    PARAM("writeback_after", ZC_NODE_UINT, "seconds", "0..32767", "0", ZC_PARAM_WRITEBACK_AFTER,
          "pages neither put nor got for so long go to the backing store; 0: none do"),
    PARAM("cold_after", ZC_NODE_UINT, "seconds", "0..32767", "0", ZC_PARAM_COLD_AFTER,
          "pages neither put nor got for so long are compressed again by themselves; 0: never"),
    PARAM("cold_extent", ZC_NODE_UINT, "pages", "1, 2, 4, 8 or 16", "4", ZC_PARAM_COLD_EXTENT,
          "adjacent pages that recompress compresses together: more are denser, and slower to get"),
    PARAM("cold_readahead", ZC_NODE_BOOL, "", "0 or 1", "0", ZC_PARAM_COLD_READAHEAD,
          "a get of a cold page makes it and its neighbours in the extent warm again"),
    PARAM("cold_cpu_percent", ZC_NODE_PERCENT, "percent of a CPU", "1..100", "10",
          ZC_PARAM_COLD_CPU_PERCENT,
          "what cold_after may take; less while other calls use the store"),
    {.name = "cold_codec",
     .type = ZC_NODE_TEXT,
     .unit = "",
     .range = "lz4[:1..65537], zstd[:-5..19][:dict=ID], lzo or none",
     .deflt = ZC_COLD_CODEC,
     .meaning = "what recompress compresses with",
     .show = show_cold_codec,
     .check = check_codec,
     .store = store_cold_codec},
    {0},
};

int zc_pool_set_param(zc_pool *pool, const char *name, const char *value)
{
    for (const struct zc_node *node = zc_pool_param_nodes; node->name; node++) {
        uint64_t number;
        if (strcmp(node->name, name) != 0)
            continue;
        if (node->type == ZC_NODE_TEXT)
            return zc_cold_set_codec(pool, value, NULL);
        int error = parse_pool_param(pool, node, value, &number);
        if (!error)
            set_param(pool, node, number);
        return error;
    }
    return -ENOENT;
}

static int show_stat(void *view, const struct zc_node *node, struct zc_text *out)
{
    return zc_show_field(&((struct pool_view *)view)->stats, node, out);
}

#define POOL_COUNTER(name, field, type, unit, meaning) \
    NAMED_COUNTER(name, zc_pool_stats, field, type, unit, meaning, show_stat)
#define POOL_STAT(field, type, unit, meaning) POOL_COUNTER(#field, field, type, unit, meaning)
#define REFUSED(name, which, meaning) \
    POOL_COUNTER(name, refused[which], ZC_NODE_UINT, "puts", meaning)

#define EVICTED(name, cause, why)                                                           \
    POOL_COUNTER(name, evicted[cause], ZC_NODE_UINT, "pages", "of reclaimed_zpages: " why), \
        POOL_COUNTER(name "_frames", evicted_frames[cause], ZC_NODE_UINT, "frames",         \
                     "of reclaimed_frames: " why)

#define WRITTEN_BACK(name, cause, why) \
    POOL_COUNTER(name, written_back[cause], ZC_NODE_UINT, "pages", "of writeback_pages: " why)
#define WRITTEN_BACK_FRAMES(name, cause, why)                              \
    POOL_COUNTER(name, written_back_frames[cause], ZC_NODE_UINT, "frames", \
                 "of writeback_frames: " why)

static const struct zc_node pool_stat_nodes[] = {
    POOL_STAT(puts, ZC_NODE_UINT, "puts", "puts of pages: stored_puts and all refusals"),
    POOL_STAT(stored_puts, ZC_NODE_UINT, "puts",
              "puts that kept the page, same-filled ones included"),
    REFUSED("policy_percent_exceeded", ZC_POLICY_PERCENT_EXCEEDED,
            "refused: the store is over its limit or the pool over zv_page_count_policy_percent"),
    REFUSED("low_memory", ZC_LOW_MEMORY, "refused: MemAvailable is under max(5 % of RAM, 16 MiB)"),
    REFUSED("entropy_rejected", ZC_ENTROPY_REJECTED, "refused: estimated as incompressible"),
    REFUSED("compress_poor", ZC_COMPRESS_POOR, "refused: zpage larger than zv_max_zsize"),
    REFUSED("mean_compress_poor", ZC_MEAN_COMPRESS_POOR,
            "refused: zpage and the pool's mean larger than zv_max_mean_zsize"),
    REFUSED("failed_getfreepages", ZC_FAILED_GETFREEPAGES, "refused: no frame to be had"),
    REFUSED("eph_nonactive_puts_ignored", ZC_EPH_NONACTIVE_PUTS_IGNORED,
            "refused in an ephemeral pool: inactive (nonactive_puts_ignored)"),
    REFUSED("pers_nonactive_puts_ignored", ZC_PERS_NONACTIVE_PUTS_IGNORED,
            "refused in a persistent pool: inactive (nonactive_puts_ignored)"),
    REFUSED("poor_run_refused", ZC_POOR_RUN_REFUSED,
            "refused untried, after many that compressed poorly (poor_run_limit)"),
    POOL_STAT(kept_rejected, ZC_NODE_UINT, "puts",
              "of stored_puts: kept uncompressed (keep_rejected, or for the backing store)"),
    POOL_STAT(dup_puts, ZC_NODE_UINT, "puts", "of stored_puts: over an existing page"),
    POOL_STAT(put_to_flush, ZC_NODE_UINT, "puts",
              "of the refusals: those that removed an older page"),
    POOL_STAT(gets, ZC_NODE_UINT, "gets", "pages asked for"),
    POOL_STAT(gets_found, ZC_NODE_UINT, "gets", "of gets: found"),
    POOL_STAT(flush_total, ZC_NODE_UINT, "flushes", "pages asked to be forgotten"),
    POOL_STAT(flush_found, ZC_NODE_UINT, "flushes", "of flush_total: found"),
    POOL_STAT(flobj_total, ZC_NODE_UINT, "flushes", "objects asked to be forgotten"),
    POOL_STAT(flobj_found, ZC_NODE_UINT, "flushes", "of flobj_total: found"),
    POOL_STAT(damaged, ZC_NODE_UINT, "gets", "pages that were not as they had been stored: EIO"),
    POOL_STAT(compacted_frames, ZC_NODE_UINT, "frames", "freed by compaction"),
    POOL_STAT(compacted_zpages, ZC_NODE_UINT, "pages", "moved by compaction"),
    POOL_STAT(reclaimed_frames, ZC_NODE_UINT, "frames", "freed by reclaim, coldest first"),
    POOL_STAT(reclaimed_zpages, ZC_NODE_UINT, "pages", "given up by reclaim"),
    POOL_STAT(writeback_frames, ZC_NODE_UINT, "frames", "freed by writeback, coldest first"),
    POOL_STAT(writeback_pages, ZC_NODE_UINT, "pages", "written to the backing store"),
    WRITTEN_BACK("writeback_user", ZC_WRITEBACK_USER, "on demand"),
    WRITTEN_BACK_FRAMES("writeback_user_frames", ZC_WRITEBACK_USER, "on demand"),
    WRITTEN_BACK("writeback_limit", ZC_WRITEBACK_LIMIT, "as the store came near its limit"),
    WRITTEN_BACK_FRAMES("writeback_limit_frames", ZC_WRITEBACK_LIMIT,
                        "as the store came near its limit"),
    WRITTEN_BACK("writeback_pressure", ZC_WRITEBACK_PRESSURE, "as the system was short of memory"),
    WRITTEN_BACK_FRAMES("writeback_pressure_frames", ZC_WRITEBACK_PRESSURE,
                        "as the system was short of memory"),
    WRITTEN_BACK("writeback_idle", ZC_WRITEBACK_IDLE,
                 "idle for long (writeback_after); their frames are free as they get empty"),
    POOL_STAT(writeback_errors, ZC_NODE_UINT, "writebacks",
              "that the backing store ended by an error; the pages stayed in memory"),
    POOL_STAT(written_gets, ZC_NODE_UINT, "gets", "of gets: of pages in the backing store"),
    POOL_STAT(read_errors, ZC_NODE_UINT, "gets",
              "of written_gets: not to be read, or not as written: EIO"),
    EVICTED("evicted_user", ZC_EVICTED_USER, "on demand"),
    EVICTED("evicted_limit", ZC_EVICTED_LIMIT, "as ephemeral pages came near the limit"),
    EVICTED("evicted_pressure", ZC_EVICTED_PRESSURE, "as the system was short of memory"),
    EVICTED("pers_ate_eph", ZC_PERS_ATE_EPH, "as persistent pages needed the room"),
    POOL_STAT(zpages, ZC_NODE_UINT, "pages", "compressed pages held"),
    POOL_STAT(same_filled, ZC_NODE_UINT, "pages", "same-filled pages held, without a frame"),
    POOL_STAT(raw_pages, ZC_NODE_UINT, "pages", "uncompressed pages held (keep_rejected)"),
    POOL_STAT(recompressed_frames, ZC_NODE_UINT, "frames", "freed by recompression on demand"),
    POOL_STAT(recompressed_pages, ZC_NODE_UINT, "pages", "made cold by recompression"),
    POOL_STAT(warmed_pages, ZC_NODE_UINT, "pages",
              "made warm again, as one of their extent was got (cold_readahead)"),
    POOL_STAT(cold_pages, ZC_NODE_UINT, "pages", "pages held in extents"),
    POOL_STAT(cold_extents, ZC_NODE_UINT, "extents", "runs of pages compressed together"),
    POOL_STAT(cold_bytes, ZC_NODE_BYTES, "bytes", "bytes of the extents held"),
    POOL_STAT(zbytes, ZC_NODE_BYTES, "bytes", "bytes of the compressed pages held"),
    POOL_STAT(written_pages, ZC_NODE_UINT, "pages", "pages in the backing store"),
    POOL_STAT(written_bytes, ZC_NODE_BYTES, "bytes", "bytes of the records in the backing store"),
    POOL_STAT(wear_evicted, ZC_NODE_BYTES, "bytes",
              "written to the backing store: records, and what belongs to them"),
    POOL_STAT(wear_cleaned, ZC_NODE_BYTES, "bytes",
              "written to the backing store: records moved to get space back"),
    POOL_STAT(wear_metadata, ZC_NODE_BYTES, "bytes",
              "written to the backing store: what says which records are live"),
    POOL_STAT(frames, ZC_NODE_UINT, "frames", "frames held"),
    POOL_STAT(cold_frames, ZC_NODE_UINT, "frames", "of frames: of extents"),
    POOL_STAT(metadata_bytes, ZC_NODE_BYTES, "bytes", "index and allocator records of this pool"),
    POOL_STAT(used_bytes, ZC_NODE_BYTES, "bytes", "frames and metadata of this pool"),
    {0},
};

static int show_dist(void *view, const struct zc_node *node, struct zc_text *out)
{
    zc_pool *pool = pool_of(view);
    uint64_t dist[2][ZC_DIST_BUCKETS];

    zc_pool_get_dist(pool, dist[0], dist[1]);
    for (size_t b = 0; b < ZC_DIST_BUCKETS; b++)
        zc_text_add(out, "%s%zu %" PRIu64, b ? "\n" : "",
                    (b + 1) * pool->store->page_size / ZC_DIST_BUCKETS, dist[node->arg][b]);
    return 0;
}

static int check_one(void *object, const struct zc_node *node, const char *value,
                     struct zc_text *why)
{
    (void)object;
    return strcmp(value, "1") == 0 ? 0 : zc_node_complain(why, -EINVAL, value, node, node->range);
}

static int store_destroy(void *view, const struct zc_node *node, const char *value,
                         struct zc_text *why)
{
    int64_t dropped = zc_pool_destroy(pool_of(view));

    (void)node;
    (void)value;
    if (dropped == -EBUSY)
        zc_text_add(why, "pool '%s' is the swap device's; zcache swap off frees it",
                    pool_of(view)->name);
    else if (dropped < 0)
        zc_text_add(why, "pool '%s' is already destroyed", pool_of(view)->name);
    return dropped < 0 ? (int)dropped : 0;
}

static int store_compact(void *view, const struct zc_node *node, const char *value,
                         struct zc_text *why)
{
    int64_t frames = zc_pool_compact(pool_of(view));

    (void)node;
    (void)value;
    if (frames < 0)
        zc_text_add(why, "pool '%s' is already destroyed", pool_of(view)->name);
    return frames < 0 ? (int)frames : 0;
}

static int check_shrink(void *view, const struct zc_node *node, const char *value,
                        struct zc_text *why)
{
    uint64_t frames;
    const char *end;

    if (!zc_parse_number(value, &frames, &end) || *end)
        return zc_node_complain(why, -EINVAL, value, node, node->range);
    if (frames == 0)
        return zc_node_complain(why, -ERANGE, value, node, node->range);
    if (pool_of(view)->kind == ZC_EPHEMERAL)
        return 0;
    zc_text_add(why, "shrink: pool '%s' is persistent, its pages may not be dropped",
                pool_of(view)->name);
    return -EPERM;
}

static int store_shrink(void *view, const struct zc_node *node, const char *value,
                        struct zc_text *why)
{
    struct zc_reclaimed reclaimed;
    int error = zc_pool_reclaim(pool_of(view), strtoull(value, NULL, 10), NULL, NULL, &reclaimed);

    (void)node;
    if (error)
        zc_text_add(why, "shrink: pool '%s' is destroyed, or memory is short", pool_of(view)->name);
    return error;
}

static int store_recompress(void *view, const struct zc_node *node, const char *value,
                            struct zc_text *why)
{
    struct zc_recompressed done;
    size_t frames = strcmp(value, "all") == 0 ? SIZE_MAX : (size_t)strtoull(value, NULL, 10);
    int error = zc_cold_recompress(pool_of(view), frames, &done, why);

    (void)node;
    if (error && !why->len)
        zc_text_add(why, "recompress: pool '%s' is destroyed, or memory is short",
                    pool_of(view)->name);
    return error;
}

static const struct zc_node pool_nodes[] = {
    {.name = "id",
     .type = ZC_NODE_UINT,
     .unit = "",
     .range = "",
     .deflt = "",
     .meaning = "the pool's number on the data plane",
     .show = show_id},
    {.name = "kind",
     .type = ZC_NODE_TEXT,
     .unit = "",
     .range = "",
     .deflt = "",
     .meaning = "persistent or ephemeral",
     .show = show_kind},
    {.name = "allocator",
     .type = ZC_NODE_TEXT,
     .unit = "",
     .range = "",
     .deflt = "",
     .meaning = "what puts zpages into frames",
     .show = show_allocator},
    {.name = "codec",
     .type = ZC_NODE_TEXT,
     .unit = "",
     .range = "lz4[:1..65537], zstd[:-5..19][:dict=ID], lzo or none",
     .deflt = "lz4",
     .meaning = "what compresses new pages; stored ones keep theirs",
     .show = show_codec,
     .check = check_codec,
     .store = store_codec},
    {.name = "backing",
     .type = ZC_NODE_TEXT,
     .unit = "",
     .range = "path=PATH [layout=packed|in_place] [size=SIZE] [reset=1|stale] [direct=1], or none",
     .deflt = "none",
     .meaning = "where pages go when their frames are wanted; those that a pool of this name left "
                "there come back",
     .show = zc_show_backing,
     .check = zc_check_backing,
     .store = zc_store_backing},
    {.name = "params",
     .type = ZC_NODE_DIR,
     .unit = "",
     .range = "",
     .deflt = "",
     .meaning = "the pool's parameters, changeable at any time",
     .children = zc_pool_param_nodes},
    {.name = "stats",
     .type = ZC_NODE_DIR,
     .unit = "",
     .range = "",
     .deflt = "",
     .meaning = "the pool's counters, which agree among themselves",
     .children = pool_stat_nodes},
    {.name = "zv_curr_dist_counts",
     .type = ZC_NODE_TABLE,
     .unit = "bytes pages",
     .range = "",
     .deflt = "",
     .meaning = "zpages held by size: upper bound and count a line",
     .arg = 0,
     .show = show_dist},
    {.name = "zv_cumul_dist_counts",
     .type = ZC_NODE_TABLE,
     .unit = "bytes pages",
     .range = "",
     .deflt = "",
     .meaning = "zpages ever stored by size: upper bound and count a line",
     .arg = 1,
     .show = show_dist},
    {.name = "compact",
     .type = ZC_NODE_ACTION,
     .unit = "",
     .range = "1",
     .deflt = "",
     .meaning = "write 1: move zpages together, see stats/compacted_frames",
     .check = check_one,
     .store = store_compact},
    {.name = "shrink",
     .type = ZC_NODE_ACTION,
     .unit = "frames",
     .range = "1..",
     .deflt = "",
     .meaning = "write a number: drop the coldest pages of an ephemeral pool until so many frames "
                "are free",
     .check = check_shrink,
     .store = store_shrink},
    {.name = "writeback",
     .type = ZC_NODE_ACTION,
     .unit = "frames",
     .range = "1.. or all",
     .deflt = "",
     .meaning = "write a number: write the coldest pages to the backing store until so many frames "
                "are free",
     .check = zc_check_writeback,
     .store = zc_store_writeback},
    {.name = "recompress",
     .type = ZC_NODE_ACTION,
     .unit = "frames",
     .range = "1.. or all",
     .deflt = "",
     .meaning =
         "write a number: compress the coldest pages again by cold_codec, cold_extent of them "
         "together, until so many frames are free",
     .check = zc_check_writeback,
     .store = store_recompress},
    {.name = "destroy",
     .type = ZC_NODE_ACTION,
     .unit = "",
     .range = "1",
     .deflt = "",
     .meaning = "write 1: forget all pages and the pool",
     .check = check_one,
     .store = store_destroy},
    {0},
};

static void close_pool(void *view)
{
    zc_pool_release(pool_of(view));
    free(view);
}

const struct zc_node zc_each_pool = {
    .name = "NAME",
    .type = ZC_NODE_DIR,
    .unit = "",
    .range = "",
    .deflt = "",
    .meaning = "one pool",
    .children = pool_nodes,
    .close = close_pool,
};

void *zc_lookup_pool(void *object, const char *name)
{
    struct pool_view *view = malloc(sizeof(*view));
    if (!view)
        return NULL;
    if (zc_pool_find(object, name, &view->pool) != 0) {
        free(view);
        return NULL;
    }
    zc_pool_get_stats(view->pool, &view->stats);
    return view;
}

int zc_list_pools(void *object, int (*emit)(void *arg, const char *name), void *arg)
{
    zc_store *store = object;
    struct zc_text names = {0};

    /* Names first, then emit without the lock: emit may look the pool up. */
    pthread_mutex_lock(&store->pools_lock);
    for (struct zc_link *at = store->pools.next; at != &store->pools; at = at->next) {
        const char *name = ZC_CONTAINER(at, zc_pool, link)->name;
        zc_text_append(&names, name, strlen(name) + 1);
    }
    pthread_mutex_unlock(&store->pools_lock);

    int error = names.error;
    for (size_t i = 0; !error && i < names.len; i += strlen(names.data + i) + 1)
        error = emit(arg, names.data + i);
    zc_text_free(&names);
    return error;
}

/* ---- pools/create ---- */

struct create_request {
    char words[4][ZC_POOL_NAME_MAX + 1]; /* name, kind, allocator, codec */
    const char *backing;                 /* as pools/NAME/backing takes it; NULL: none */
};

/* "name=swap kind=persistent allocator=zbud codec=lz4 path=/dev/vdb": from path= on, a backing store */
static int parse_create(const char *value, struct create_request *request, struct zc_text *why)
{
    static const char *const keys[4] = {"name=", "kind=", "allocator=", "codec="};

    *request = (struct create_request){.words = {"", "", "zbud", "lz4"}};
    while (*(value += strspn(value, " "))) {
        size_t len = strcspn(value, " "), k = 0;
        if (strncmp(value, "path=", 5) == 0) {
            request->backing = value;
            return 0;
        }
        while (k < 4 && strncmp(value, keys[k], strlen(keys[k])) != 0)
            k++;
        if (k == 4) {
            zc_text_add(why,
                        "create: '%.*s' is not name=, kind=, allocator=, codec= or, last, path=",
                        (int)len, value);
            return -EINVAL;
        }
        size_t skip = strlen(keys[k]);
        if (len - skip == 0 || len - skip > ZC_POOL_NAME_MAX) {
            zc_text_add(why, "create: '%.*s' needs a value of 1 to %d bytes", (int)len, value,
                        ZC_POOL_NAME_MAX);
            return -EINVAL;
        }
        memcpy(request->words[k], value + skip, len - skip);
        request->words[k][len - skip] = '\0';
        value += len;
    }
    return 0;
}

static int check_create(void *object, const struct zc_node *node, const char *value,
                        struct zc_text *why)
{
    struct create_request request;
    struct zc_backing_request backing;
    const char *name = request.words[0], *kind = request.words[1];

    (void)node;
    int error = parse_create(value, &request, why);
    if (error)
        return error;
    if (!zc_pool_name_is_valid(name))
        zc_text_add(why,
                    "create: name='%s': use 1 to %d of A-Z a-z 0-9 _ . -, not beginning with '.'",
                    name, ZC_POOL_NAME_MAX);
    else if (strcmp(kind, "persistent") != 0 && strcmp(kind, "ephemeral") != 0)
        zc_text_add(why, "create: kind='%s' is not persistent or ephemeral", kind);
    else if (!zc_alloc_find(request.words[2]))
        zc_text_add(why, "create: allocator='%s' is not zbud or zsmalloc", request.words[2]);
    else if ((error = zc_codecs_check(object, request.words[3], why)) || !request.backing)
        return error;
    else
        return zc_parse_backing(request.backing, &backing, why);
    return -EINVAL;
}

static int store_create(void *object, const struct zc_node *node, const char *value,
                        struct zc_text *why)
{
    struct create_request request;
    struct zc_backing_request backing = {0};
    zc_pool *pool;

    (void)node;
    int error = parse_create(value, &request, why);
    if (!error && request.backing)
        error = zc_parse_backing(request.backing, &backing, why);
    if (error)
        return error;

    struct zc_pool_config config = {
        .name = request.words[0],
        .kind = strcmp(request.words[1], "ephemeral") == 0 ? ZC_EPHEMERAL : ZC_PERSISTENT,
        .allocator = request.words[2],
        .codec = request.words[3],
    };
    error =
        zc_pool_create_with(object, &config, request.backing ? &backing.backing : NULL, &pool, why);
    if (!error)
        zc_pool_release(pool);
    return error;
}

const struct zc_node zc_pools_nodes[] = {
    {.name = "create",
     .type = ZC_NODE_ACTION,
     .unit = "",
     .range =
         "name=NAME kind=persistent|ephemeral [allocator=zbud|zsmalloc] [codec=lz4] [path=PATH "
         "…, as in backing]",
     .deflt = "",
     .meaning = "write: make a pool; with a backing store, or not at all",
     .check = check_create,
     .store = store_create},
    {0},
};
