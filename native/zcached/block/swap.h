/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The swap device: a disk over a pool, shown to the kernel by a transport, and what the kernel is asked to
 * do with it. One at a time. Used by the thread that serves the control plane only.
 */
#ifndef ZC_ZCACHED_SWAP_H
#define ZC_ZCACHED_SWAP_H

#include <stdbool.h>

#include "zcached/block/areas.h"
#include "zcached/block/disk.h"
#include "zcached/block/export.h"
#include "zcached/block/guard.h"
#include "zcached/log.h"
#include "zcached/shortage.h"

struct zc_swap {
    zc_store *store;
    struct zc_log *log;
    bool is_on;
    struct zc_disk disk;
    const struct zc_transport *transport;
    struct zc_export *export;
    struct zc_guard guard;
    struct zc_shortage shortage;
    char path[ZC_NODE_PATH_MAX]; /* of the device */
    char refused[320]; /* what the kernel did not grant for the moment of shortage, or "none" */
    struct zc_areas areas;
    size_t reserve;         /* frames, before */
    unsigned long kernels;  /* reserve, as zc_kernel_reserve_restore() takes it */
    uint64_t limit, raised; /* bytes: the store's before, and since */
};

/* The nodes of swap/; the object is a zc_swap. */
extern const struct zc_node zc_swap_nodes[];

/* Has the kernel move all that is swapped out back into memory, if need be, and takes the device away. -EBUSY: it
 * could not, and the device goes on. */
int zc_swap_end(struct zc_swap *swap);

#endif
