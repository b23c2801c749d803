/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How blocks are shown to the kernel as a block device: the contract of the transports.
 *
 *   ublk  io_uring commands at /dev/ublkcN; Linux 6.0 (Documentation/block/ublk.rst)
 *   nbd   requests on a socket pair; what older kernels have
 */
#ifndef ZC_ZCACHED_EXPORT_H
#define ZC_ZCACHED_EXPORT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/node.h"
#include "zcached/block/blocks.h"

struct zc_export;

struct zc_transport {
    const char *name;
    bool (*is_there)(void); /* does this kernel have it, loaded? */
    /* The device is there when it returns; the blocks' object must stay until close. -errno: `why` got one line. */
    int (*open)(const struct zc_blocks *blocks, struct zc_export **out, struct zc_text *why);
    /* Of the device, as in /sys/class/block. */
    const char *(*name_of)(const struct zc_export *export);
    /* Nobody may use the device any more. */
    void (*close)(struct zc_export *export);
};

extern const struct zc_transport zc_ublk, zc_nbd;

/* The first that is there, ublk before nbd; by its name, where that is not "". 0 or -ENODEV. */
int zc_transport_find(const char *name, const struct zc_transport **out, struct zc_text *why);

#define ZC_NODE_PATH_MAX 64u
/*
 * A device node for what /sys says at `sys` (a directory with a file `dev`): one that is there, wherever the
 * system keeps it, or else one made in /dev. 0; -ENODEV: no such device; or what the system says.
 */
int zc_device_node(const char *sys, bool is_block, char path[ZC_NODE_PATH_MAX]);
/* The same of a block device or partition, `name` in /sys/class/block. */
int zc_block_node(const char *name, char path[ZC_NODE_PATH_MAX]);
/* Sets what /sys shows as queue/WHAT of a block device. 0; -ENOENT: this kernel has no such; or what the system says. */
int zc_queue_set(const char *name, const char *what, size_t value);

#endif
