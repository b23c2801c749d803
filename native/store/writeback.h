/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writeback: a persistent pool's pages leave memory for its backing store, and are read from there.
 *
 * A round isolates the coldest frames or zspages and copies what is in them into a batch, as it is
 * compressed, a zpage under its shard's lock at a time. The batch is written with no lock held. Then
 * every entry that still has what was copied is made to say where that is in the store, what was
 * written of the others is forgotten, the batch is settled, and the emptied frames go to the OS.
 *
 * Until its entry changes a page is as it was, so that puts, gets and flushes need not know that it is
 * under way. From then on the entry is a ZC_ENTRY_WRITTEN, and whoever takes that out of the index has
 * the record forgotten under the same lock: what was put or flushed over never comes back.
 *
 * A record may be an extent of several pages. Each of them has an entry that names it. Which of the
 * others are left, their entries say, which are in the same shard.
 */
#ifndef ZC_STORE_WRITEBACK_H
#define ZC_STORE_WRITEBACK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <zcache/store.h>

#include "backing/backing.h"
#include "base/node.h"
#include "store/slots.h"

/* Of a record in a store. */
#define ZC_RECORD_RAW 1u  /* it is the page */
#define ZC_RECORD_FILL 2u /* it is the fill word of a same-filled page */

/* A pool's. */
struct zc_writeback {
    pthread_rwlock_t lock;            /* who uses the store reads, who exchanges it writes */
    struct zc_backing *_Atomic store; /* NULL: none */
    char *path;                       /* the store's */
    pthread_mutex_t running;          /* one round, or exchange, at a time; protects what follows */
    struct zc_slots slots;
    _Atomic uint64_t
        retry_at; /* zc_store_ns(); not by itself before: there was an error, or the budget is
                   * used up */
    _Atomic uint64_t delay; /* ns; how long an error has put it off; 0: there was none */
    uint64_t charged;       /* bytes written to the store that the budget knows of */
    int64_t left;           /* bytes of the budget; a batch may take more than there were */
    uint64_t filled_at;     /* zc_store_ns(); when `left` was right */
};

void zc_writeback_init(zc_pool *pool);
/* Nobody uses the pool any more. */
void zc_writeback_fini(zc_pool *pool);

/* As zc_pool_set_backing(), by these system calls; NULL: the system's. */
int zc_writeback_attach(zc_pool *pool, const struct zc_pool_backing *backing,
                        const struct zc_io *io, struct zc_text *why);
/* -EBUSY: pages are in it. */
int zc_writeback_detach(zc_pool *pool, struct zc_text *why);
/* Closes the store, with all that is in it. What is written can be read no more. 0, or -errno: it may
 * not come back. */
int zc_writeback_close(zc_pool *pool);
/* As zc_pool_writeback(), but not while the store is left alone. Returns the frames freed; for the limit's sake
 * as many as were asked for, if somebody else, who was at it already, has made room. */
size_t zc_writeback_some(zc_pool *pool, size_t frames, enum zc_writeback_cause cause);
/* A chore, see keeper.h: writes the pages that have been idle for as long as writeback_after says. */
uint64_t zc_writeback_idle(zc_pool *pool);
/* A parameter was set: what was put off for the sake of another is not. */
void zc_writeback_reconsider(zc_pool *pool);
/* Everything goes into the store, same-filled pages too. Nothing else uses the pool. */
int zc_writeback_save(zc_pool *pool);

/* The store, which stays until zc_writeback_leave(); NULL: there is none, which is to be left all the same. */
struct zc_backing *zc_writeback_enter(zc_pool *pool);
void zc_writeback_leave(zc_pool *pool);

/* "none", or what zc_pool_set_backing() was told and what became of it. */
void zc_writeback_show(zc_pool *pool, struct zc_text *out);
/* Of the backing store only. */
void zc_writeback_get_stats(zc_pool *pool, struct zc_pool_stats *out);
/* Would all that the pool holds find a place in its store? */
bool zc_writeback_has_room(zc_pool *pool, const struct zc_pool_stats *stats);

#endif
