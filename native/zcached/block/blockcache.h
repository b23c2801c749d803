/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The block cache: a source that is read through a pool, shown to the kernel by a transport. One at a time. Used by
 * the thread that serves the control plane only.
 */
#ifndef ZC_ZCACHED_BLOCKCACHE_H
#define ZC_ZCACHED_BLOCKCACHE_H

#include <stdbool.h>

#include "zcached/block/export.h"
#include "zcached/block/guard.h"
#include "zcached/block/readcache.h"
#include "zcached/block/source.h"
#include "zcached/log.h"

#define ZC_SOURCE_PATH_MAX 512u

struct zc_blockcache {
    zc_store *store;
    struct zc_log *log;
    bool is_on;
    struct zc_source source;
    struct zc_readcache cache;
    const struct zc_transport *transport;
    struct zc_export *export;
    struct zc_guard guard;
    char source_path[ZC_SOURCE_PATH_MAX];
    char path[ZC_NODE_PATH_MAX]; /* of the device */
};

/* The nodes of blockcache/; the object is a zc_blockcache. */
extern const struct zc_node zc_blockcache_nodes[];

/* Takes the device away. -EBUSY: it is mounted, and goes on. */
int zc_blockcache_end(struct zc_blockcache *blockcache);

#endif
