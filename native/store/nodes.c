/* SPDX-License-Identifier: Apache-2.0 */
/* The store's part of the control tree. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "store/nodes.h"
#include "store/pool.h"
#include "store/store.h"

/* ---- the store ---- */

static int show_page_size(void *object, const struct zc_node *node, struct zc_text *out)
{
    const zc_store *store = object;

    (void)node;
    zc_show_u64(out, store->page_size);
    return 0;
}

static int show_limit(void *object, const struct zc_node *node, struct zc_text *out)
{
    zc_store *store = object;

    (void)node;
    zc_show_u64(out, store->limit);
    return 0;
}

static int parse_limit(zc_store *store, const char *value, uint64_t *limit)
{
    int error = zc_parse_size(value, store->memory.total, limit);

    if (!error && *limit != 0 && *limit < store->page_size)
        error = -ERANGE;
    return error;
}

static int check_limit(void *object, const struct zc_node *node, const char *value,
                       struct zc_text *why)
{
    uint64_t limit;
    int error = parse_limit(object, value, &limit);

    return error ? zc_node_complain(why, error, value, node, node->range) : 0;
}

static int store_limit(void *object, const struct zc_node *node, const char *value,
                       struct zc_text *why)
{
    uint64_t limit;
    int error = parse_limit(object, value, &limit);

    (void)node;
    (void)why;
    return error ? error : zc_store_set_limit(object, limit);
}

static int show_reserve(void *object, const struct zc_node *node, struct zc_text *out)
{
    zc_store *store = object;

    (void)node;
    zc_show_u64(out, zc_frames_reserve(store->frames));
    return 0;
}

static int parse_reserve(zc_store *store, const char *value, uint64_t *frames)
{
    const char *end;

    if (!zc_parse_number(value, frames, &end) || *end)
        return -EINVAL;
    return *frames > store->memory.total / store->page_size / 100 ? -ERANGE : 0;
}

static int check_reserve(void *object, const struct zc_node *node, const char *value,
                         struct zc_text *why)
{
    uint64_t frames;
    int error = parse_reserve(object, value, &frames);

    return error ? zc_node_complain(why, error, value, node, node->range) : 0;
}

static int store_reserve(void *object, const struct zc_node *node, const char *value,
                         struct zc_text *why)
{
    uint64_t frames;
    int error = parse_reserve(object, value, &frames);

    (void)node;
    (void)why;
    if (!error)
        zc_store_set_reserve(object, (size_t)frames);
    return error;
}

static int show_percent(void *object, const struct zc_node *node, struct zc_text *out)
{
    zc_show_u64(out, ((zc_store *)object)->params[node->arg]);
    return 0;
}

static int parse_percent(const char *value, uint64_t *percent)
{
    const char *end;

    if (!zc_parse_number(value, percent, &end) || strcmp(end, *end == '%' ? "%" : "") != 0)
        return -EINVAL;
    return *percent > 100 ? -ERANGE : 0;
}

static int check_percent(void *object, const struct zc_node *node, const char *value,
                         struct zc_text *why)
{
    uint64_t percent;
    int error = parse_percent(value, &percent);

    (void)object;
    return error ? zc_node_complain(why, error, value, node, node->range) : 0;
}

static int store_percent(void *object, const struct zc_node *node, const char *value,
                         struct zc_text *why)
{
    zc_store *store = object;
    uint64_t percent;
    int error = parse_percent(value, &percent);

    (void)why;
    if (error)
        return error;
    store->params[node->arg] = percent;
    zc_keeper_wake(store);
    return 0;
}

#define PERCENT(name_, unit_, default_, arg_, meaning_) \
    {.name = name_,                                     \
     .type = ZC_NODE_PERCENT,                           \
     .unit = unit_,                                     \
     .range = "0..100",                                 \
     .deflt = default_,                                 \
     .meaning = meaning_,                               \
     .arg = arg_,                                       \
     .show = show_percent,                              \
     .check = check_percent,                            \
     .store = store_percent}

static const struct zc_node param_nodes[] = {
    {.name = "limit",
     .type = ZC_NODE_BYTES,
     .unit = "bytes",
     .range = "page_size.., K M G or N% of RAM; 0: default",
     .deflt = "25% of min(MemTotal, cgroup limit)",
     .meaning = "memory that the store may use: ephemeral pages give way, then those with a "
                "backing store, then puts are refused",
     .show = show_limit,
     .check = check_limit,
     .store = store_limit},
    {.name = "reserve",
     .type = ZC_NODE_UINT,
     .unit = "frames",
     .range = "0..1% of RAM",
     .deflt = "512 KiB worth",
     .meaning = "frames kept ready for the next puts; part of used_bytes",
     .show = show_reserve,
     .check = check_reserve,
     .store = store_reserve},
    PERCENT("high_watermark_percent", "percent of the limit", "95", ZC_STORE_HIGH_WATERMARK,
            "over this, the coldest pages are dropped, or written to a backing store, in the "
            "background"),
    PERCENT("low_watermark_percent", "percent of the limit", "90", ZC_STORE_LOW_WATERMARK,
            "what is done over the high watermark goes on down to this"),
    PERCENT("accept_threshold_percent", "percent of the limit", "90", ZC_STORE_ACCEPT,
            "once the limit refused a put, puts are refused until no more than this is used"),
    PERCENT("pressure_shrink_percent", "percent of their frames", "10", ZC_STORE_PRESSURE_SHRINK,
            "what ephemeral pools, and those with a backing store, give up each time that the "
            "system is short of memory"),
    {0},
};

int zc_store_set_param(zc_store *store, const char *name, const char *value)
{
    for (const struct zc_node *node = param_nodes; node->name; node++) {
        if (strcmp(node->name, name) == 0)
            return node->store(store, node, value, NULL);
    }
    return -ENOENT;
}

static void *open_store_stats(void *object)
{
    struct zc_store_stats *stats = malloc(sizeof(*stats));

    if (stats)
        zc_store_get_stats(object, stats);
    return stats;
}

#define STORE_STAT(field, type, unit, meaning) COUNTER(zc_store_stats, field, type, unit, meaning)
#define STORE_COUNTER(name, field, unit, meaning) \
    NAMED_COUNTER(name, zc_store_stats, field, ZC_NODE_UINT, unit, meaning, zc_show_field)
#define EVICTED(name, cause, why)                                             \
    STORE_COUNTER(name, evicted[cause], "pages", "of ephemeral pools: " why), \
        STORE_COUNTER(name "_frames", evicted_frames[cause], "frames", "freed " why)

#define WRITTEN_BACK(name, field, cause, unit, meaning) \
    STORE_COUNTER(name, field[cause], unit, meaning)

static int show_pressure_source(void *view, const struct zc_node *node, struct zc_text *out)
{
    static const char *const names[] = {
        [ZC_PRESSURE_NONE] = "none",
        [ZC_PRESSURE_PSI] = "psi",
        [ZC_PRESSURE_MEMINFO] = "meminfo",
    };

    (void)node;
    zc_text_add(out, "%s", names[((struct zc_store_stats *)view)->pressure_source]);
    return 0;
}

static const struct zc_node stat_nodes[] = {
    STORE_STAT(used_bytes, ZC_NODE_BYTES, "bytes", "frames, reserve and metadata of the store"),
    STORE_STAT(limit_bytes, ZC_NODE_BYTES, "bytes", "the limit in force, see params/limit"),
    STORE_STAT(frames, ZC_NODE_UINT, "frames", "frames that hold pages"),
    STORE_STAT(reserve_frames, ZC_NODE_UINT, "frames", "frames ready for the next puts"),
    STORE_STAT(metadata_bytes, ZC_NODE_BYTES, "bytes", "index, allocator records and codec states"),
    STORE_STAT(pers_zpages, ZC_NODE_UINT, "pages",
               "pages held in persistent pools, same-filled and cold ones included"),
    STORE_STAT(eph_zpages, ZC_NODE_UINT, "pages",
               "pages held in ephemeral pools, same-filled and cold ones included"),
    STORE_STAT(pers_pageframes, ZC_NODE_UINT, "frames", "frames of persistent pools"),
    STORE_STAT(eph_pageframes, ZC_NODE_UINT, "frames", "frames of ephemeral pools"),
    STORE_STAT(same_filled, ZC_NODE_UINT, "pages", "pages held as one fill word"),
    STORE_STAT(zbytes, ZC_NODE_BYTES, "bytes", "compressed bytes held"),
    STORE_STAT(cold_pages, ZC_NODE_UINT, "pages",
               "pages held in extents, see pools/NAME/recompress"),
    STORE_STAT(cold_bytes, ZC_NODE_BYTES, "bytes", "bytes of the extents held"),
    STORE_STAT(written_pages, ZC_NODE_UINT, "pages", "pages in backing stores"),
    STORE_STAT(written_bytes, ZC_NODE_BYTES, "bytes", "bytes of the records in backing stores"),
    STORE_STAT(
        pers_unsaved, ZC_NODE_UINT, "pages",
        "of pers_zpages: lost if the daemon ends, for want of a backing store or of room there"),
    STORE_STAT(pools, ZC_NODE_UINT, "pools", "pools that exist"),
    EVICTED("evicted_user", ZC_EVICTED_USER, "on demand, by shrink"),
    EVICTED("evicted_limit", ZC_EVICTED_LIMIT, "as ephemeral pages came near the limit"),
    EVICTED("evicted_pressure", ZC_EVICTED_PRESSURE, "as the system was short of memory"),
    EVICTED("pers_ate_eph", ZC_PERS_ATE_EPH, "as persistent pages needed the room"),
    WRITTEN_BACK("writeback_user", written_back, ZC_WRITEBACK_USER, "pages", "written on demand"),
    WRITTEN_BACK("writeback_user_frames", written_back_frames, ZC_WRITEBACK_USER, "frames",
                 "freed on demand, by writeback"),
    WRITTEN_BACK("writeback_limit", written_back, ZC_WRITEBACK_LIMIT, "pages",
                 "written as the store came near its limit"),
    WRITTEN_BACK("writeback_limit_frames", written_back_frames, ZC_WRITEBACK_LIMIT, "frames",
                 "freed as the store came near its limit"),
    WRITTEN_BACK("writeback_pressure", written_back, ZC_WRITEBACK_PRESSURE, "pages",
                 "written as the system was short of memory"),
    WRITTEN_BACK("writeback_pressure_frames", written_back_frames, ZC_WRITEBACK_PRESSURE, "frames",
                 "freed as the system was short of memory"),
    WRITTEN_BACK("writeback_idle", written_back, ZC_WRITEBACK_IDLE, "pages",
                 "written as they were idle for long (writeback_after)"),
    STORE_STAT(pressures, ZC_NODE_UINT, "times", "that the system was found short of memory"),
    {.name = "pressure_source",
     .type = ZC_NODE_TEXT,
     .unit = "",
     .range = "",
     .deflt = "",
     .meaning = "who tells that memory is short: psi, or meminfo, looked at; none before a pool is",
     .show = show_pressure_source},
    {0},
};

static int show_codecs(void *object, const struct zc_node *node, struct zc_text *out)
{
    (void)object;
    (void)node;
    zc_text_add(out, "%s", zc_codec_names());
    return 0;
}

/* ---- checks ---- */

static int show_check(void *object, const struct zc_node *node, struct zc_text *out)
{
    char why[256];

    (void)node;
    zc_text_add(out, "%s", zc_store_check(object, why, sizeof(why)) == 0 ? "ok" : why);
    return 0;
}

const struct zc_node zc_store_nodes[] = {
    {.name = "page_size",
     .type = ZC_NODE_BYTES,
     .unit = "bytes",
     .range = "",
     .deflt = "",
     .meaning = "size of a page and of a frame",
     .show = show_page_size},
    {.name = "params",
     .type = ZC_NODE_DIR,
     .unit = "",
     .range = "",
     .deflt = "",
     .meaning = "settings of the whole store",
     .children = param_nodes},
    {.name = "stats",
     .type = ZC_NODE_DIR,
     .unit = "",
     .range = "",
     .deflt = "",
     .meaning = "counters of the whole store",
     .children = stat_nodes,
     .open = open_store_stats,
     .close = free},
    {.name = "pools",
     .type = ZC_NODE_DIR,
     .unit = "",
     .range = "",
     .deflt = "",
     .meaning = "the pools",
     .children = zc_pools_nodes,
     .each = &zc_each_pool,
     .list = zc_list_pools,
     .lookup = zc_lookup_pool},
    {.name = "allocators",
     .type = ZC_NODE_DIR,
     .unit = "",
     .range = "",
     .deflt = "",
     .meaning = "what an allocator shows of all pools that use it",
     .children = zc_allocators_nodes},
    {.name = "codecs",
     .type = ZC_NODE_TEXT,
     .unit = "",
     .range = "",
     .deflt = "",
     .meaning = "the codecs of this build",
     .show = show_codecs},
    {.name = "dictionaries",
     .type = ZC_NODE_DIR,
     .unit = "",
     .range = "",
     .deflt = "",
     .meaning = "bytes that zstd may compress against, loaded over the data socket",
     .children = zc_dictionaries_nodes,
     .each = &zc_each_dictionary,
     .list = zc_list_dictionaries,
     .lookup = zc_lookup_dictionary},
    {.name = "check",
     .type = ZC_NODE_TABLE,
     .unit = "",
     .range = "",
     .deflt = "",
     .meaning = "goes through everything that is held: ok, or what is wrong",
     .show = show_check},
    {0},
};
