/* SPDX-License-Identifier: Apache-2.0 */
#include "base/lock.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"

#define SPINS 100

void zc_signals_block(sigset_t *before)
{
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, before);
}

void zc_signals_restore(const sigset_t *before)
{
    pthread_sigmask(SIG_SETMASK, before, NULL);
}

static void futex_wait(_Atomic uint32_t *word, uint32_t is, const struct timespec *most)
{
    int error = errno; /* a signal handler leaves it as it was */

    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, is, most);
    errno = error;
}

static void futex_wake(_Atomic uint32_t *word, int waiters)
{
    int error = errno;

    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, waiters);
    errno = error;
}

static bool try_take(struct zc_lock *lock, uint32_t as)
{
    uint32_t is = 0;

    return atomic_compare_exchange_strong_explicit(&lock->state, &is, as, memory_order_acquire,
                                                   memory_order_relaxed);
}

void zc_lock_take(struct zc_lock *lock)
{
    for (int i = 0; i < SPINS; i++) {
        if (try_take(lock, 1))
            return;
        zc_relax();
    }
    while (atomic_exchange_explicit(&lock->state, 2, memory_order_acquire) != 0)
        futex_wait(&lock->state, 2, NULL);
}

void zc_lock_leave(struct zc_lock *lock)
{
    if (atomic_exchange_explicit(&lock->state, 0, memory_order_release) == 2)
        futex_wake(&lock->state, 1);
}

void zc_change_wait(struct zc_change *change, struct zc_lock *lock, uint64_t ns)
{
    struct timespec most = {.tv_sec = (time_t)(ns / 1000000000u),
                            .tv_nsec = (long)(ns % 1000000000u)};
    uint32_t seen = change->times;

    change->waiters++;
    zc_lock_leave(lock);
    futex_wait(&change->times, seen, ns ? &most : NULL);
    zc_lock_take(lock);
    change->waiters--;
}

void zc_change_tell(struct zc_change *change)
{
    change->times++;
    if (change->waiters)
        futex_wake(&change->times, INT_MAX);
}
