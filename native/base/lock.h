/* SPDX-License-Identifier: Apache-2.0 */
/* A lock and a condition of one word and of two: for where there are many, and in signal handlers, where
 * pthread's may not be used (Drepper, "Futexes are tricky", 2011). Zeroed, they are ready. */
#ifndef ZC_BASE_LOCK_H
#define ZC_BASE_LOCK_H

#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>

struct zc_lock {
    _Atomic uint32_t state; /* 0: free, 1: taken, 2: and somebody may wait */
};

struct zc_change {
    _Atomic uint32_t times;
    _Atomic uint32_t waiters;
};

/* Who takes a lock that a handler may want blocks all signals first, and restores them after. */
void zc_signals_block(sigset_t *before);
void zc_signals_restore(const sigset_t *before);

void zc_lock_take(struct zc_lock *lock);
void zc_lock_leave(struct zc_lock *lock);

/* Leaves the lock until the next zc_change_tell(), or for `ns` at most (0: no bound), or for no reason. */
void zc_change_wait(struct zc_change *change, struct zc_lock *lock, uint64_t ns);
/* The lock is held. */
void zc_change_tell(struct zc_change *change);

#endif
