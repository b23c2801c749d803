/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper: one thread a store, for what no caller is to wait for. It starts with the first pool and
 * sleeps until it is woken, or the OS says that tasks wait for memory (PSI). Where the OS cannot say
 * so, it looks at meminfo once a second, and that only while there are ephemeral pages to give up.
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

struct zc_keeper {
    pthread_t thread;
    int event;              /* an eventfd that wakes it */
    atomic_bool is_running; /* written under pools_lock */
    atomic_bool woken, busy, stopping;
    _Atomic uint32_t source; /* enum zc_pressure_source */
    uint64_t next_look;      /* at meminfo, zc_now_ns() */
};

/* Starts it, if it does not run. pools_lock is held. */
void zc_keeper_start(zc_store *store);
/* Ends it, if it runs. */
void zc_keeper_stop(zc_store *store);
/* There is something to do. Cheap while it is awake already. */
void zc_keeper_wake(zc_store *store);

/* For tests: waits until nothing is left to do. */
void zc_debug_settle(zc_store *store);

#endif
