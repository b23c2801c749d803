/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recording: each operation on a pool is noted as an event, and waits in a ring until somebody takes it
 * (store/store.h). An operation never waits for that: what finds no room is lost, and counted. A pool that is not
 * recorded pays for one look at a pointer.
 *
 * Some of the pages that are put are tried with other codecs, at once, as their contents are not kept.
 */
#ifndef ZC_STORE_RECORD_H
#define ZC_STORE_RECORD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <zcache/store.h>

#include "store/idle.h"
#include "store/pool.h"
#include "store/store.h"

struct zc_try;

struct zc_recorder {
    zc_pool *pool;
    atomic_bool is_on;
    _Atomic uint64_t start_ns; /* zc_store_ns() */

    pthread_mutex_t lock;
    pthread_cond_t filled; /* so far that it is worth while to take events */
    struct zc_event *ring; /* ZC_RECORD_EVENTS; NULL: nothing is recorded */
    size_t first, count;   /* of those in the ring */
    uint64_t lost;

    pthread_mutex_t tried_lock;
    struct zc_try *tries; /* NULL: nothing is tried */
    unsigned try_count;
    uint32_t every;
    uint64_t until, tried; /* pages to pass over; tried so far */

    /* Of who takes events: the walk over the pages that were there before. */
    unsigned shard;
    struct zc_owners owners; /* of this shard, those before `at` are done */
    size_t at;
};

/* NULL: the pool is not recorded now. */
static inline struct zc_recorder *zc_recorder_of(zc_pool *pool)
{
    struct zc_recorder *mine = atomic_load_explicit(&pool->recorder, memory_order_acquire);

    return ZC_UNLIKELY(mine && atomic_load_explicit(&mine->is_on, memory_order_acquire)) ? mine
                                                                                         : NULL;
}

/* Nobody uses the pool any more. */
void zc_recorder_fini(zc_pool *pool);

/* For events of now. */
uint32_t zc_recorder_time(const struct zc_recorder *recorder);
/* A shard's lock may be held. */
void zc_recorder_note(struct zc_recorder *recorder, const struct zc_event *event);
/* Tries some of the pages that were put; sizes[i] 0: a same-filled one, which is not tried. */
void zc_recorder_try(struct zc_recorder *recorder, const struct zc_key *keys,
                     const void *const *pages, const uint32_t *sizes, size_t count);

/* ns as an event has it. */
static inline uint32_t zc_event_ns(uint64_t ns)
{
    return (uint32_t)zc_min64(ns, UINT32_MAX);
}

#endif
