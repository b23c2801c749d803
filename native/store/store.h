/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store layer's contract is <zcache/store.h>; this adds what only the daemon needs.
 *
 * Locks, outermost first:
 *   zc_store.pools_lock         names and ids of pools; whether the keeper runs
 *   zc_writeback.running        one writeback of a pool at a time
 *   zc_pool.compact_lock        one compaction of a pool at a time
 *   zc_shard.lock               one shard of a pool's index, and its share of the counters; shared by
 *                               gets
 *   zc_writeback.lock           a pool's backing store does not go away
 *   zc_codecs.lock              the codecs of a pool, and the states that are lent
 *   zc_store.dictionaries_lock
 *   the backing store's         its own; it calls nobody with one held
 *   zc_recorder.tried_lock      the codecs that a recording tries
 *   zc_recorder.lock            events that nobody has taken yet; nothing is locked with it held
 *   the allocator's             its lists and records; in which order, it says itself
 *   zc_frames' lock             runs and the reserve
 * zc_memory.lock is taken alone. Nobody holds two shards' locks. The keeper (keeper.h) holds none while
 * it sleeps; an allocator's may be taken under pools_lock.
 */
#ifndef ZC_STORE_STORE_H
#define ZC_STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <zcache/store.h>

#include "base/node.h"

/* The store's part of the control tree; the object is a zc_store. */
extern const struct zc_node zc_store_nodes[];

/* Writes back until so many frames are freed, a pool with a backing store after the other, but no store that
 * was left alone after an error. Others may use the store meanwhile. Returns the frames freed. */
size_t zc_store_write_back(zc_store *store, size_t frames);

/* Bytes from "1048576", "64M" (K, M, G) or "25%" of `total`. 0, -EINVAL or -ERANGE. */
int zc_parse_size(const char *value, uint64_t total, uint64_t *out);

/* The memory there is, in bytes: min(MemTotal, cgroup limit). */
uint64_t zc_store_ram(const zc_store *store);
/* Is memory for pages and indexes that comes from now on to be locked (mlock2), as it is touched? */
void zc_store_set_locked(zc_store *store, bool is_locked);
/* Frames of params/reserve. */
size_t zc_store_reserve(const zc_store *store);

/* A pool that a frontend needs cannot be destroyed, which is -EBUSY. */
void zc_pool_claim(zc_pool *pool, bool is_claimed);
/* Bytes of pages that the backing store takes, each at its own place; UINT64_MAX: any, or there is none in place. */
uint64_t zc_pool_in_place_bytes(zc_pool *pool);

/* A size class of zsmalloc's for the store's pages. */
struct zc_zsmalloc_class {
    uint32_t
        size; /* bytes a slot, 12 of them a zpage's head; page_size: of a zpage alone, without one */
    uint32_t frames, slots; /* a zspage */
};

/* The first `max` of them, from the smallest slots up. Returns how many there are, or -ENOMEM. */
int zc_zsmalloc_get_classes(zc_store *store, struct zc_zsmalloc_class *out, size_t max);

/* Would a pool take that codec? As zc_pool_set_codec(), but for -E2BIG; `why` gets one line. */
int zc_codecs_check(zc_store *store, const char *spec, struct zc_text *why);

/* ---- recording: what happens to a pool's pages, without what is in them ---- */

enum zc_event_kind {
    ZC_EVENT_PUT = 1,
    ZC_EVENT_GET = 2,
    ZC_EVENT_FLUSH = 3,
    ZC_EVENT_FLUSH_OBJECT = 4,
    ZC_EVENT_HELD = 5, /* the page was in the pool before */
    ZC_EVENT_TRIED = 6 /* pages were compressed by another codec, too */
};

#define ZC_EVENT_PEEK 1u     /* get: left the page where it is */
#define ZC_EVENT_INACTIVE 1u /* put: ZC_PUT_INACTIVE */
#define ZC_EVENT_UNTRIED 2u  /* put: was refused uncompressed; size was found for the record */

/* As it leaves the device, little-endian; docs/simulate.md has what each kind means by its fields. */
struct zc_event {
    uint64_t object;   /*  0 */
    uint32_t index;    /*  8 */
    uint32_t size;     /* 12: bytes */
    uint32_t time_us;  /* 16: since the beginning, modulo 2^32; one for a batch */
    uint32_t ns;       /* 20 */
    uint32_t codec_ns; /* 24 */
    uint8_t kind;      /* 28: enum zc_event_kind */
    uint8_t result;    /* 29 */
    uint8_t detail;    /* 30 */
    uint8_t flags;     /* 31 */
};

#define ZC_RECORD_TRIES 6u /* codecs, at most */
#define ZC_RECORD_EVENTS \
    65536u /* that wait to be taken, at most: what comes then is lost, and counted */

/* Of pages that are put, one in `every` is compressed by each of these, too. */
struct zc_record_try {
    const char *codec; /* a spec */
    unsigned
        pages; /* compressed together, a power of two: an aligned run, where it is put at once */
};

struct zc_record_config {
    uint32_t every; /* 1..; about */
    unsigned count;
    struct zc_record_try tries[ZC_RECORD_TRIES];
};

/*
 * Has each operation on the pool noted, from now to zc_record_stop(). One at a time: -EBUSY. -EINVAL,
 * -ENOENT: a codec, `every` or a number of pages; -ENOMEM. `why` may be NULL.
 */
int zc_record_start(zc_pool *pool, const struct zc_record_config *config, struct zc_text *why);

struct zc_recorded {
    uint64_t time_us; /* since the beginning */
    uint64_t lost;    /* events, in all */
    size_t count;     /* of these here */
};

/* Takes up to `max` events, those first that have waited longest; waits for some up to `wait_ms`. For the one
 * who started it. -ENOENT: the pool is destroyed. */
int zc_record_take(zc_pool *pool, struct zc_event *events, size_t max, unsigned wait_ms,
                   struct zc_recorded *out);
void zc_record_stop(zc_pool *pool);

/* ---- a store whose time is made, for simulation ---- */

/* The clock is now `ns`, not 0, and stays there until it is set again. Before the first pool is made. The
 * store then has no keeper of its own. */
void zc_store_set_clock(zc_store *store, uint64_t ns);
/* Does what the keeper would do now. Returns when it has something to do again by itself; UINT64_MAX: it has
 * not. */
uint64_t zc_store_turn(zc_store *store);
/* Bytes in use, without the reserve: what is held against the limit. */
uint64_t zc_store_used(const zc_store *store);

#endif
