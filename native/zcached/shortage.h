/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a process needs that the kernel asks for memory when it has none: it must not be swapped out itself, nor
 * killed, nor wait for the pages that it is to write. What cannot be had is said, one clause each.
 */
#ifndef ZC_ZCACHED_SHORTAGE_H
#define ZC_ZCACHED_SHORTAGE_H

#include <pthread.h>
#include <stdbool.h>

#include "base/node.h"

/* Of this thread and those that it starts: when they lack memory the kernel writes nothing out for them. To be
 * called before any other thread starts. Does nothing where that is not allowed. */
void zc_shortage_be_flusher(void);

/* The opposite of this and of what zc_shortage_begin() does, for a process that was started by such a one. */
void zc_shortage_be_usual(void);

struct zc_shortage {
    pthread_t locker;
    pthread_mutex_t lock;
    pthread_cond_t wakes;
    bool has_locker, stopping;
};

/* From here to end: the process's memory stays in memory, its threads are real-time ones, the OOM killer passes it
 * over. What is mapped meanwhile is locked within a second, by a thread (a
 * store locks what it maps at once); what is shared with clients never is. */
void zc_shortage_begin(struct zc_shortage *shortage, struct zc_text *refused);
void zc_shortage_end(struct zc_shortage *shortage);

/* Locks what is mapped now and is the process's own: the program wholly, all else as it is touched. 0, or
 * the first error. */
int zc_shortage_lock(void);

/* Would the process be ended with adbd, as Android's init ends what is in a service's cgroup? */
bool zc_dies_with_adbd(void);

#endif
