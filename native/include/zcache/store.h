/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A store keeps pages compressed in memory. Pages live in pools; a page's key is
 * (pool, object id, index). Every function may be called from any thread.
 *
 * Unless said otherwise a function returns 0 or a negative errno value.
 */
#ifndef ZCACHE_STORE_H
#define ZCACHE_STORE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define ZC_API __attribute__((visibility("default")))
#else
#define ZC_API
#endif

typedef struct zc_store zc_store;
typedef struct zc_pool zc_pool;

enum zc_pool_kind {
    ZC_PERSISTENT, /* frontswap: a page leaves only by flush, destroy or to a backing store */
    ZC_EPHEMERAL,  /* cleancache: a page may be dropped at any time */
};

/*
 * Why a put was refused. Values are part of the data plane's wire format; the counter
 * pools/NAME/stats/<name> carries the same name, see zc_refusal_name().
 */
enum zc_refusal {
    ZC_STORED = 0,
    ZC_POLICY_PERCENT_EXCEEDED = 1,
    ZC_LOW_MEMORY = 2,
    ZC_ENTROPY_REJECTED = 3,
    ZC_COMPRESS_POOR = 4,
    ZC_MEAN_COMPRESS_POOR = 5,
    ZC_FAILED_GETFREEPAGES = 6,
    ZC_EPH_NONACTIVE_PUTS_IGNORED = 7,
    ZC_PERS_NONACTIVE_PUTS_IGNORED = 8,
    ZC_POOR_RUN_REFUSED = 9,
    ZC_REFUSALS = 10, /* one past the last */
};

/* Why pages of an ephemeral pool were dropped, see the counters pools/NAME/stats/<name>. */
enum zc_eviction {
    ZC_EVICTED_USER,     /* zc_pool_reclaim(), of any pool */
    ZC_EVICTED_LIMIT,    /* the store came near its limit by ephemeral puts, or a lower limit */
    ZC_EVICTED_PRESSURE, /* the system was short of memory */
    ZC_PERS_ATE_EPH,     /* persistent pages needed the room */
    ZC_EVICTIONS,        /* one past the last */
};

/* Why pages of a persistent pool were written to its backing store, likewise. */
enum zc_writeback_cause {
    ZC_WRITEBACK_USER,     /* zc_pool_writeback() */
    ZC_WRITEBACK_LIMIT,    /* the store came near its limit */
    ZC_WRITEBACK_PRESSURE, /* the system was short of memory */
    ZC_WRITEBACK_IDLE,     /* they were idle for as long as writeback_after says */
    ZC_WRITEBACK_CAUSES,   /* one past the last */
};

/* Who says that the system is short of memory. */
enum zc_pressure_source {
    ZC_PRESSURE_NONE,    /* nobody: there was no pool yet */
    ZC_PRESSURE_PSI,     /* /proc/pressure/memory */
    ZC_PRESSURE_MEMINFO, /* /proc/meminfo, looked at once a second */
};

/* Flags of a put. */
#define ZC_PUT_INACTIVE 1u /* the page was not in use lately, see nonactive_puts_ignored */

/* Flags of a get. */
#define ZC_GET_PEEK 1u /* leave the page where it is, whatever the pool's rule */
#define ZC_GET_NO_ALLOC                                                      \
    2u /* the same, take no memory, and read no backing store: -EAGAIN where \
          that would be needed */

#define ZC_POOL_NAME_MAX 63         /* bytes; [A-Za-z0-9_.-]+, not beginning with '.' */
#define ZC_PAGE_SIZE_MAX (1u << 20) /* bytes */

struct zc_store_config {
    uint32_t page_size; /* bytes; 0: the OS page size. Else that times a power of two, or -EINVAL */
    uint64_t limit;     /* bytes; 0: 25 % of min(MemTotal, cgroup limit) */
    const char *proc_dir;   /* where meminfo is read; NULL: "/proc" */
    const char *cgroup_dir; /* where the memory limit is read; NULL: "/sys/fs/cgroup" */
};

struct zc_pool_config {
    const char *name; /* unique in the store */
    enum zc_pool_kind kind;
    const char *allocator; /* "zbud" or "zsmalloc"; NULL: "zbud" */
    const char *codec;     /* NAME[:LEVEL][:dict=ID], see zc_pool_set_codec(); NULL: "lz4" */
};

struct zc_key {
    uint64_t object;
    uint32_t index;
};

/* A pool's counters, read at one instant: puts == stored_puts + sum of refused[]. */
struct zc_pool_stats {
    uint64_t puts;        /* puts of well-formed pages */
    uint64_t stored_puts; /* of these: kept, same-filled ones included */
    uint64_t refused[ZC_REFUSALS];
    uint64_t gets, gets_found;
    uint64_t flush_total, flush_found; /* page flushes asked for, of these: found */
    uint64_t flobj_total, flobj_found; /* object flushes, likewise */
    uint64_t put_to_flush;             /* a refused or failed put that removed an older copy */
    uint64_t dup_puts;                 /* puts over an existing key */
    uint64_t kept_rejected;            /* of stored_puts: kept uncompressed, see keep_rejected */
    uint64_t damaged;                  /* gets that found the page, but not as it was stored */
    uint64_t compacted_frames, compacted_zpages;       /* freed and moved by compaction */
    uint64_t reclaimed_frames, reclaimed_zpages;       /* freed and given up by reclaim */
    uint64_t evicted[ZC_EVICTIONS];                    /* reclaimed_zpages by cause */
    uint64_t evicted_frames[ZC_EVICTIONS];             /* reclaimed_frames by cause */
    uint64_t writeback_frames, writeback_pages;        /* freed and written by writeback */
    uint64_t written_back[ZC_WRITEBACK_CAUSES];        /* writeback_pages by cause */
    uint64_t written_back_frames[ZC_WRITEBACK_CAUSES]; /* writeback_frames by cause; idle pages are
                                                          none of whole frames */
    uint64_t writeback_errors; /* writebacks that the backing store ended by an error */
    uint64_t written_gets;     /* of gets: of pages in the backing store */
    uint64_t read_errors;      /* of these: not to be read, or not as they were written */
    uint64_t recompressed_frames, recompressed_pages; /* freed on demand, and made cold, by
                                                         recompression */
    uint64_t warmed_pages;             /* cold pages made warm with a neighbour that was got */
    uint64_t zpages;                   /* compressed pages held now */
    uint64_t same_filled;              /* same-filled pages held now */
    uint64_t raw_pages;                /* uncompressed pages held now */
    uint64_t written_pages;            /* pages in the backing store now */
    uint64_t cold_pages;               /* pages in extents now */
    uint64_t cold_extents, cold_bytes; /* extents held now, and their bytes */
    uint64_t zbytes;                   /* bytes of the compressed pages held now */
    uint64_t frames;                   /* frames held now by the pool's allocators */
    uint64_t cold_frames;              /* of these: of extents */
    uint64_t metadata_bytes;           /* index and allocator metadata of this pool */
    uint64_t used_bytes;               /* frames * page_size + metadata_bytes */
    /* Of the backing store: */
    uint64_t written_bytes;                             /* bytes of the records in it now */
    uint64_t wear_evicted, wear_cleaned, wear_metadata; /* bytes written to it since it is set */
};

struct zc_store_stats {
    uint64_t limit_bytes;
    uint64_t frames;         /* held by all pools */
    uint64_t reserve_frames; /* ready, held by none */
    uint64_t metadata_bytes;
    uint64_t used_bytes;              /* (frames + reserve_frames) * page_size + metadata_bytes */
    uint64_t pers_zpages, eph_zpages; /* pages held, same-filled, raw and cold ones included */
    uint64_t pers_pageframes, eph_pageframes; /* frames */
    uint64_t same_filled, zbytes;
    uint64_t cold_pages, cold_bytes;       /* in extents */
    uint64_t written_pages, written_bytes; /* in backing stores */
    uint64_t pers_unsaved; /* persistent pages that zc_store_save() would find no place for */
    uint64_t pools;
    uint64_t evicted[ZC_EVICTIONS], evicted_frames[ZC_EVICTIONS]; /* of the pools that exist */
    uint64_t written_back[ZC_WRITEBACK_CAUSES],
        written_back_frames[ZC_WRITEBACK_CAUSES]; /* likewise */
    uint64_t pressures;       /* times that the system was found short of memory */
    uint64_t pressure_source; /* enum zc_pressure_source */
};

ZC_API const char *zc_version(void);
/* For people: with the license added in a build where it is not Apache-2.0. */
ZC_API const char *zc_version_text(void);

/* The refusal's counter name, e.g. "compress_poor"; NULL where there is none. */
ZC_API const char *zc_refusal_name(int refusal);

/* *config may be NULL for all defaults. -EINVAL: page size; -ENOMEM. */
ZC_API int zc_store_create(const struct zc_store_config *config, zc_store **out);

/* Forgets every page but those in backing stores. No other call may be running or come after, pools'
 * references included. */
ZC_API void zc_store_destroy(zc_store *store);

ZC_API uint32_t zc_store_page_size(const zc_store *store);

/* Bytes, 0: the default rule. -ERANGE: below one frame. */
ZC_API int zc_store_set_limit(zc_store *store, uint64_t limit);
/* Ready frames to keep at most when frames come back. */
ZC_API void zc_store_set_reserve(zc_store *store, size_t frames);
/* A setting by its name in params/; value as the control tree takes it. -ENOENT: no such setting;
 * -EINVAL, -ERANGE: bad value. */
ZC_API int zc_store_set_param(zc_store *store, const char *name, const char *value);
ZC_API void zc_store_get_stats(zc_store *store, struct zc_store_stats *out);

/*
 * Pools are counted references: whoever gets a zc_pool * from create, find or by_id ends with
 * zc_pool_release(). A destroyed pool stays valid memory for its holders and answers -ENOENT.
 *
 * create: -EEXIST: name taken; -EINVAL: bad name, unknown allocator or codec; -ENOENT: no such
 * dictionary.
 */
ZC_API int zc_pool_create(zc_store *store, const struct zc_pool_config *config, zc_pool **out);
ZC_API int zc_pool_find(zc_store *store, const char *name, zc_pool **out); /* -ENOENT */
ZC_API int zc_pool_by_id(zc_store *store, uint32_t id, zc_pool **out);     /* -ENOENT */
ZC_API void zc_pool_release(zc_pool *pool);

ZC_API uint32_t zc_pool_id(const zc_pool *pool);        /* never used again after destroy */
ZC_API uint32_t zc_pool_page_size(const zc_pool *pool); /* bytes */
ZC_API const char *zc_pool_name(const zc_pool *pool);
ZC_API enum zc_pool_kind zc_pool_get_kind(const zc_pool *pool);
ZC_API void zc_pool_get_stats(zc_pool *pool, struct zc_pool_stats *out);

/* A pool parameter by its name in pools/NAME/params/; value as the control tree takes it.
 * -ENOENT: no such parameter; -EINVAL, -ERANGE: bad value. */
ZC_API int zc_pool_set_param(zc_pool *pool, const char *name, const char *value);

/*
 * The codec of pages put from now on; stored ones keep theirs. The spec is NAME[:LEVEL][:dict=ID]:
 *
 *   lz4    level: acceleration, 1 (default) to 65537
 *   zstd   level -5 to 19, not 0; default 1; may have a dictionary
 *   lzo    where it was built in
 *   none   copies
 *
 * -EINVAL: no such codec or level, or it takes no dictionary; -ENOENT: no such dictionary; -E2BIG:
 * pages of too many different codecs are held; -ENOMEM.
 */
ZC_API int zc_pool_set_codec(zc_pool *pool, const char *spec);

/* Keeps a copy of bytes that codecs may compress against. *id: its number, never used again; the same
 * bytes have one number. -EINVAL: empty, over 1 MiB, or a damaged dictionary of zstd's; -ENOMEM,
 * also where the store is at its limit. */
ZC_API int zc_dictionary_load(zc_store *store, const void *bytes, size_t size, uint32_t *id);
/* -ENOENT; -EBUSY: a pool or a stored page uses it. */
ZC_API int zc_dictionary_remove(zc_store *store, uint32_t id);

/*
 * Moves zpages closer together until no frame can be freed this way any more. Other calls go on
 * meanwhile: no lock is held for longer than it takes to move one zpage. Returns the frames freed, or
 * -ENOENT.
 */
ZC_API int64_t zc_pool_compact(zc_pool *pool);

/* Is offered a persistent page of page_size bytes. 0: it is kept elsewhere from now on, and leaves
 * the pool; else it stays. May not call the pool. */
typedef int zc_evict(void *arg, const struct zc_key *key, const void *page);

struct zc_reclaimed {
    uint64_t frames, zpages;
};

/*
 * Frees whole frames, those touched longest ago first, until `frames` are freed or none is left that
 * can be. Ephemeral pages are dropped; a persistent one leaves only if `evict` (NULL: none does) takes
 * it. *out says how many went. 0, -ENOENT or -ENOMEM.
 */
ZC_API int zc_pool_reclaim(zc_pool *pool, size_t frames, zc_evict *evict, void *arg,
                           struct zc_reclaimed *out);

/* When a backing store is made anew, although something is there. */
enum zc_backing_reset {
    ZC_RESET_NEVER,
    ZC_RESET_ALWAYS, /* whatever it is */
    ZC_RESET_STALE, /* where it would else be -ESTALE: this pool's own, whose pages cannot come back */
};

/* Where a persistent pool's pages go when their frames are wanted. */
struct zc_pool_backing {
    const char *path; /* a file, or a block device */
    const char
        *layout;   /* "packed": as they are compressed; "in_place": page i of the pool's one object
                      uncompressed at i * page_size. NULL: "packed" */
    uint64_t size; /* bytes: a file is made, or extended, to that; 0: as large as it is */
    enum zc_backing_reset reset;
    int must_be_direct; /* refuse one that would be read and written through the page cache */
};

/*
 * Gives the pool a backing store, or, NULL, takes it away. Pages that a pool of the same name left there
 * come back: all of them after zc_store_save() or zc_store_destroy(), those written back by then after
 * a kill within this boot of the OS. A page that the pool has by now is newer than the one there.
 * `why` (NULL: not wanted) of `size` bytes gets what was wrong.
 *
 * -EPERM: an ephemeral pool; -EBUSY: it has one already, or pages are in it, or somebody else uses that
 * path; -EEXIST: something else is there; -ESTALE: it was not stopped in good order on another boot;
 * -ENOENT: no such path, or pages there need a dictionary that is not loaded; -EINVAL, -EUCLEAN, -EOPNOTSUPP,
 * -ENOSPC, -ENOMEM, or what the system says.
 */
ZC_API int zc_pool_set_backing(zc_pool *pool, const struct zc_pool_backing *backing, char *why,
                               size_t size);

struct zc_written_back {
    uint64_t frames, pages;
};

/*
 * Writes what is in the frames touched longest ago to the backing store, until `frames` are freed or
 * none is left. Other calls go on meanwhile; no lock is held while it writes. Where a write fails, the
 * pages stay as they are. *out says how many went, also after an error. -ENXIO: no backing store;
 * -EDQUOT: writeback_budget is used up; -ENOSPC, -EIO, … : the store's; -ENOENT; -ENOMEM.
 */
ZC_API int zc_pool_writeback(zc_pool *pool, size_t frames, struct zc_written_back *out);

struct zc_recompressed {
    uint64_t frames; /* fewer than before */
    uint64_t pages, extents;
};

/*
 * Compresses pages in the frames touched longest ago again, by the pool's cold_codec, up to cold_extent
 * adjacent ones together, until the pool has `frames` fewer or every frame was tried once. What does not get
 * smaller stays as it is. Other calls go on meanwhile; no lock is held while it compresses. -EINVAL,
 * -ENOENT, -E2BIG: of the codec, see zc_pool_set_codec(), -ENOENT also: pool destroyed; -ENOMEM.
 */
ZC_API int zc_pool_recompress(zc_pool *pool, size_t frames, struct zc_recompressed *out);
/*
 * The same of pages that were neither put nor got for `seconds`, 1..32767, wherever they are; a neighbour that
 * was stays as it is. Extents of which fewer than half of the pages are left are made anew. Also -EINVAL:
 * seconds.
 */
ZC_API int zc_pool_recompress_idle(zc_pool *pool, uint32_t seconds, struct zc_recompressed *out);

struct zc_saved {
    uint64_t pages; /* of pools with a backing store: in it, to come back */
    uint64_t lost;  /* held, and could not be written */
};

/* Writes all that pools with a backing store hold into it, and closes that. Nothing but
 * zc_store_destroy() may be called then, nor be running meanwhile. 0, or the first error. */
ZC_API int zc_store_save(zc_store *store, struct zc_saved *out);

/* Goes through everything that is held and the counters of it, while other calls go on. 0, or -EUCLEAN
 * and what is wrong in `why`, of `size` bytes. */
ZC_API int zc_store_check(zc_store *store, char *why, size_t size);

/* Forgets all pages of the pool, those in its backing store too, and its name. Returns the number of pages forgotten, or -ENOENT. */
ZC_API int64_t zc_pool_destroy(zc_pool *pool);

/*
 * Store a copy of the page. Returns ZC_STORED, another enum zc_refusal (the page is not kept),
 * or a negative errno. Whenever the page is not kept, an older page under the key is gone too.
 * *zsize (may be NULL) receives the stored size in bytes, 0 for a same-filled page.
 */
ZC_API int zc_put(zc_pool *pool, uint64_t object, uint32_t index, const void *page, unsigned flags,
                  uint32_t *zsize);

/* Load the page into `page` (page_size bytes). -ENOENT: not here; -EIO: damaged, or the backing store
 * cannot be read. The page stays in a
 * persistent pool and leaves an ephemeral one, unless exclusive_gets or ZC_GET_PEEK says otherwise. */
ZC_API int zc_get(zc_pool *pool, uint64_t object, uint32_t index, void *page, unsigned flags);

/* Forget a page. -ENOENT: was not here. */
ZC_API int zc_flush_page(zc_pool *pool, uint64_t object, uint32_t index);

/* Forget all pages of an object. Returns their number (0: unknown object), or -ENOENT: pool destroyed. */
ZC_API int64_t zc_flush_object(zc_pool *pool, uint64_t object);

/*
 * The same for `count` keys; results[i] is what the single call would have returned. Batches are
 * cheaper, not atomic. Return 0, or -ENOENT when the pool is destroyed (results are then undefined).
 */
ZC_API int zc_put_batch(zc_pool *pool, const struct zc_key *keys, const void *const *pages,
                        size_t count, unsigned flags, int32_t *results, uint32_t *zsizes);
ZC_API int zc_get_batch(zc_pool *pool, const struct zc_key *keys, void *const *pages, size_t count,
                        unsigned flags, int32_t *results);
ZC_API int zc_flush_page_batch(zc_pool *pool, const struct zc_key *keys, size_t count,
                               int32_t *results);
ZC_API int zc_flush_object_batch(zc_pool *pool, const uint64_t *objects, size_t count,
                                 int64_t *results);
ZC_API int zc_pool_destroy_batch(zc_pool *const *pools, size_t count, int64_t *results);

#ifdef __cplusplus
}
#endif
#endif
