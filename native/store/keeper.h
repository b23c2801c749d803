/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper: one thread a store, for what no caller is to wait for. It starts with the first pool and
 * sleeps until it is woken, the OS says that tasks wait for memory (PSI), or a chore is due. Where the
 * OS cannot say so, it looks at meminfo once a second, and that only while there are pages to give up.
 *
 * A chore is done for a pool now and then. It returns when it is to be done next, by the store's clock,
 * or UINT64_MAX: not by itself. It is then planned anew by puts, if the parameter that says after how many seconds it has
 * something to do is not 0, and by a change of a parameter.
 *
 * Where no thread is to be had, callers do what they need at once, and the rest is left undone.
 */
#ifndef ZC_STORE_KEEPER_H
#define ZC_STORE_KEEPER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <zcache/store.h>

enum zc_chore {
    ZC_CHORE_WRITE_IDLE, /* pages that writeback_after says of */
    ZC_CHORE_RECOMPRESS, /* those of cold_after */
    ZC_CHORES,
};

struct zc_keeper {
    pthread_t thread;
    int event;              /* an eventfd that wakes it */
    atomic_bool is_running; /* written under pools_lock */
    atomic_bool woken, busy, stopping;
    _Atomic uint32_t source; /* enum zc_pressure_source */
    uint64_t next_look;      /* at meminfo, zc_now_ns() */
    _Atomic uint64_t due;    /* zc_store_ns(); it wakes by itself; UINT64_MAX: not */
};

/* Starts it, if it does not run. pools_lock is held. */
void zc_keeper_start(zc_store *store);
/* Ends it, if it runs. */
void zc_keeper_stop(zc_store *store);
/* Chores of a pool may have become due, or are not any more. */
void zc_keeper_reconsider(zc_pool *pool);
/* Pages were put into this pool. */
void zc_keeper_after_puts(zc_pool *pool);
/* There is something to do. Cheap while it is awake already. */
void zc_keeper_wake(zc_store *store);

/* For tests: waits until nothing is left to do. */
void zc_debug_settle(zc_store *store);

#endif
