/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The swap device as several areas, a partition each, which the kernel fills one after the other.
 *
 * In an area the kernel takes slots that were never used before those it needs no more, and says of whole free
 * clusters only that they are free (Linux, mm/swapfile.c). So one large area comes to hold pages that nobody needs,
 * as many as it has slots. But an area of a higher priority is used again as soon as a slot there is free: of several,
 * all but the one that is being filled are full of pages that are needed.
 */
#ifndef ZC_ZCACHED_AREAS_H
#define ZC_ZCACHED_AREAS_H

#include "zcached/block/disk.h"
#include "zcached/block/export.h"

#define ZC_AREAS_MAX 16u /* the kernel takes some 23 in all */

struct zc_areas {
    uint64_t size, each; /* bytes, of all and of one; the last has what is left */
    unsigned count;
    int priority; /* of the last to be filled */
};

/* Of a device of `size` bytes; priorities from `priority` up. each is a multiple of page_size. */
void zc_areas_plan(struct zc_areas *areas, uint64_t size, uint32_t page_size, int priority);
/* As mkswap writes them. Before the kernel sees the disk. 0 or -errno. */
int zc_areas_write_headers(const struct zc_areas *areas, struct zc_disk *disk);
/* Makes the partitions of the block device at `path`, `name` to the kernel, and has the kernel swap to each. On a kernel
 * that makes none the device is one area. All or none is on. -errno: `why` says which, and why. */
int zc_areas_on(struct zc_areas *areas, struct zc_disk *disk, const char *path, const char *name,
                struct zc_text *why);

#endif
