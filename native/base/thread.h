/* SPDX-License-Identifier: Apache-2.0 */
/* Threads of the library's own. */
#ifndef ZC_BASE_THREAD_H
#define ZC_BASE_THREAD_H

#include <pthread.h>
#include <stddef.h>

/* A thread that takes no signals: those are for the threads of whoever uses the library. `stack`: bytes,
 * more in debug builds, as sanitizers want room. 0, or -errno: there is none. */
int zc_thread_start(pthread_t *thread, size_t stack, void *(*run)(void *arg), void *arg);

#endif
