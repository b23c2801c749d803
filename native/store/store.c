/* SPDX-License-Identifier: Apache-2.0 */
#include "store/store.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "store/pool.h"

#define DEFAULT_LIMIT_PERCENT 25u

static const unsigned default_params[ZC_STORE_PARAMS] = {
    [ZC_STORE_HIGH_WATERMARK] = 95,
    [ZC_STORE_LOW_WATERMARK] = 90,
    [ZC_STORE_ACCEPT] = 90,
    [ZC_STORE_PRESSURE_SHRINK] = 10,
};

static const char *const refusal_names[ZC_REFUSALS] = {
    [ZC_POLICY_PERCENT_EXCEEDED] = "policy_percent_exceeded",
    [ZC_LOW_MEMORY] = "low_memory",
    [ZC_ENTROPY_REJECTED] = "entropy_rejected",
    [ZC_COMPRESS_POOR] = "compress_poor",
    [ZC_MEAN_COMPRESS_POOR] = "mean_compress_poor",
    [ZC_FAILED_GETFREEPAGES] = "failed_getfreepages",
    [ZC_EPH_NONACTIVE_PUTS_IGNORED] = "eph_nonactive_puts_ignored",
    [ZC_PERS_NONACTIVE_PUTS_IGNORED] = "pers_nonactive_puts_ignored",
    [ZC_POOR_RUN_REFUSED] = "poor_run_refused",
};

const char *zc_version(void)
{
    return ZC_VERSION;
}

const char *zc_version_text(void)
{
#ifdef ZC_LZO
    return ZC_VERSION " (with LZO: GPL-2.0-or-later)";
#else
    return ZC_VERSION;
#endif
}

const char *zc_refusal_name(int refusal)
{
    return refusal > 0 && refusal < ZC_REFUSALS ? refusal_names[refusal] : NULL;
}

int zc_store_create(const struct zc_store_config *config, zc_store **out)
{
    static const struct zc_store_config defaults;
    size_t os_page_size = (size_t)sysconf(_SC_PAGESIZE);

    config = config ? config : &defaults;
    size_t page_size = config->page_size ? config->page_size : os_page_size;
    if (!zc_is_pow2(page_size) || page_size < os_page_size || page_size > ZC_PAGE_SIZE_MAX)
        return -EINVAL;

    zc_store *store = calloc(1, sizeof(*store));
    if (!store)
        return -ENOMEM;
    store->page_size = page_size;
    store->proc_dir = config->proc_dir ? strdup(config->proc_dir) : NULL;
    int error = config->proc_dir && !store->proc_dir ? -ENOMEM : 0;
    if (error)
        goto free_store;
    error = zc_memory_init(&store->memory, config->proc_dir, config->cgroup_dir);
    if (error)
        goto free_store;
    error = zc_frames_create(page_size, &store->frames);
    if (error)
        goto fini_memory;

    pthread_mutex_init(&store->pools_lock, NULL);
    zc_dictionaries_init(store);
    zc_list_init(&store->pools);
    store->next_id = 1;
    store->write_at = UINT64_MAX;
    for (size_t i = 0; i < ZC_STORE_PARAMS; i++)
        store->params[i] = default_params[i];
    error = zc_store_set_limit(store, config->limit);
    if (error) {
        zc_store_destroy(store);
        return error;
    }
    *out = store;
    return 0;

fini_memory:
    zc_memory_fini(&store->memory);
free_store:
    free(store->proc_dir);
    free(store);
    return error;
}

void zc_store_destroy(zc_store *store)
{
    zc_keeper_stop(store);
    while (!zc_list_empty(&store->pools)) {
        zc_pool *pool = ZC_CONTAINER(store->pools.next, zc_pool, link);
        zc_writeback_close(pool); /* what is in the store is to stay */
        zc_pool_destroy(pool);
    }
    zc_dictionaries_fini(store);
    zc_frames_destroy(store->frames);
    zc_memory_fini(&store->memory);
    pthread_mutex_destroy(&store->pools_lock);
    free(store->proc_dir);
    free(store);
}

void zc_debug_age(zc_store *store, uint32_t seconds)
{
    atomic_fetch_add(&store->skipped, seconds);
    zc_keeper_wake(store);
}

uint32_t zc_store_page_size(const zc_store *store)
{
    return (uint32_t)store->page_size;
}

int zc_store_set_limit(zc_store *store, uint64_t limit)
{
    if (limit == 0)
        limit = store->memory.total / 100 * DEFAULT_LIMIT_PERCENT;
    if (limit < store->page_size)
        return -ERANGE;

    store->limit = limit;
    zc_frames_set_budget(store->frames, limit < SIZE_MAX ? (size_t)limit : SIZE_MAX);
    store->refuses = false;
    zc_keeper_wake(store);
    return 0;
}

size_t zc_store_write_back(zc_store *store, size_t frames)
{
    size_t freed = 0;
    uint32_t id = 0;
    zc_pool *pool;

    while (freed < frames && (pool = zc_pool_next(store, id))) {
        id = pool->id;
        freed += zc_writeback_some(pool, frames - freed, ZC_WRITEBACK_USER);
        zc_pool_release(pool);
    }
    return freed;
}

int zc_store_save(zc_store *store, struct zc_saved *out)
{
    int first = 0;

    *out = (struct zc_saved){0};
    zc_keeper_stop(store);
    for (struct zc_link *at = store->pools.next; at != &store->pools; at = at->next) {
        zc_pool *pool = ZC_CONTAINER(at, zc_pool, link);
        struct zc_pool_stats stats;
        if (!zc_writeback_is_open(pool))
            continue;
        int error = zc_writeback_save(pool);
        zc_pool_get_stats(pool, &stats);
        out->pages += stats.written_pages;
        out->lost += stats.zpages + stats.same_filled + stats.raw_pages + stats.cold_pages;
        int closing = zc_writeback_close(pool);
        error = error ? error : closing;
        first = first ? first : error;
    }
    return first;
}

void zc_store_set_reserve(zc_store *store, size_t frames)
{
    zc_frames_set_reserve(store->frames, frames);
}

uint64_t zc_store_ram(const zc_store *store)
{
    return store->memory.total;
}

void zc_store_set_locked(zc_store *store, bool is_locked)
{
    zc_frames_set_locked(store->frames, is_locked);
}

size_t zc_store_reserve(const zc_store *store)
{
    return zc_frames_reserve(store->frames);
}

void zc_store_get_stats(zc_store *store, struct zc_store_stats *out)
{
    struct zc_frames_stats frames;

    *out = (struct zc_store_stats){0};
    pthread_mutex_lock(&store->pools_lock);
    for (struct zc_link *at = store->pools.next; at != &store->pools; at = at->next) {
        zc_pool *pool = ZC_CONTAINER(at, zc_pool, link);
        struct zc_pool_stats stats;
        zc_pool_get_stats(pool, &stats);

        uint64_t pages = stats.zpages + stats.same_filled + stats.raw_pages + stats.cold_pages;
        if (pool->kind == ZC_PERSISTENT) {
            out->pers_zpages += pages;
            out->pers_pageframes += stats.frames;
            out->pers_unsaved += zc_writeback_has_room(pool, &stats) ? 0 : pages;
        } else {
            out->eph_zpages += pages;
            out->eph_pageframes += stats.frames;
        }
        out->same_filled += stats.same_filled;
        out->zbytes += stats.zbytes;
        out->cold_pages += stats.cold_pages;
        out->cold_bytes += stats.cold_bytes;
        out->written_pages += stats.written_pages;
        out->written_bytes += stats.written_bytes;
        for (size_t i = 0; i < ZC_EVICTIONS; i++) {
            out->evicted[i] += stats.evicted[i];
            out->evicted_frames[i] += stats.evicted_frames[i];
        }
        for (size_t i = 0; i < ZC_WRITEBACK_CAUSES; i++) {
            out->written_back[i] += stats.written_back[i];
            out->written_back_frames[i] += stats.written_back_frames[i];
        }
    }
    out->pools = store->pool_count;
    pthread_mutex_unlock(&store->pools_lock);

    zc_frames_get_stats(store->frames, &frames);
    out->limit_bytes = store->limit;
    out->pressures = store->pressures;
    out->pressure_source = store->keeper.source;
    out->frames = frames.taken;
    out->reserve_frames = frames.ready;
    out->metadata_bytes = frames.metadata_bytes;
    out->used_bytes = frames.used_bytes;
}
