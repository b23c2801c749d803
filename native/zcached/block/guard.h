/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process beside the daemon for as long as it serves the swap device, or another by nbd. Without it a killed
 * daemon's device would let everybody wait who needs a page of it, and could not be had out of the kernel's use. The
 * guard takes such a device over and fails what is asked of it, at once, until it is swapped off; then it takes it
 * away and ends.
 */
#ifndef ZC_ZCACHED_GUARD_H
#define ZC_ZCACHED_GUARD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "zcached/block/swaps.h"

struct zc_guard {
    pid_t pid;
    int lifeline; /* descriptor: what ends with the daemon */
};

/* A device that a daemon left behind when it was killed. */
struct zc_orphan {
    struct zc_swap_area area;
    uint64_t lost; /* pages that were on it then, at most: of some the kernel had a copy */
};

/* Of a device, as the kernel knows it; reserve: what the guard of a killed daemon puts back (kernel_reserve.h), 0: it is
 * as it was; errors: a descriptor for what the guard has to say. 0 or -errno. */
int zc_guard_start(struct zc_guard *guard, const char *path, unsigned long reserve, int errors);
/* The device is not in use any more. Does nothing where start failed. */
void zc_guard_end(struct zc_guard *guard);

bool zc_guard_find_orphan(struct zc_orphan *orphan);

#endif
