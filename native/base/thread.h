/* SPDX-License-Identifier: Apache-2.0 */
/* Threads of the library's own. */
#ifndef ZC_BASE_THREAD_H
#define ZC_BASE_THREAD_H

#include <pthread.h>
#include <stddef.h>

/* A thread that takes no signals: those are for the threads of whoever uses the library. `stack`: bytes,
 * more in debug builds, as sanitizers want room. 0, or -errno: there is none. */
int zc_thread_start(pthread_t *thread, size_t stack, void *(*run)(void *arg), void *arg);

/* A mutex that is held for less than it takes to sleep and to be woken: who finds it locked looks again
 * a few times first. musl's mutexes all do. */
void zc_mutex_init_brief(pthread_mutex_t *mutex);

#endif
