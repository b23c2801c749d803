/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A block device over a persistent pool: page i of object 0 is what lies at i * page_size. Who serves it to
 * the kernel is a transport's business (export.h). What was never written, or discarded, reads as zeros.
 *
 * A page that the pool refuses is gone, with what was there before: writing it is -EIO, and so is reading it
 * until it is written again. No function allocates memory; all but init and fini are thread-safe.
 */
#ifndef ZC_ZCACHED_DISK_H
#define ZC_ZCACHED_DISK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <zcache/store.h>

#include "zcached/block/blocks.h"

#define ZC_DISK_SECTOR 512u /* bytes; offsets and sizes are multiples of it */

struct zc_disk_stats {
    uint64_t reads, writes, discards; /* pages; a part of one counts as one */
    uint64_t read_errors, write_errors;
    uint64_t held; /* pages that were written and not discarded */
};

struct zc_disk {
    zc_pool *pool;
    size_t page_size;          /* bytes */
    uint64_t size;             /* bytes, a multiple of page_size */
    _Atomic uint64_t *is_held; /* a bit a page */
    pthread_mutex_t partial;   /* who writes a part of a page reads and writes all of it */
    char *scratch;             /* a page, for that */
    _Atomic uint64_t reads, writes, discards, read_errors, write_errors, held;
};

/* Takes over the reference to the pool, which must have no pages; also where it fails. 0; -EINVAL: size is 0 or no
 * multiple of page_size; -EFBIG: more than 2^32 pages; -ENOMEM. */
int zc_disk_init(struct zc_disk *disk, zc_pool *pool, size_t page_size, uint64_t size);
/* Forgets all pages. */
void zc_disk_fini(struct zc_disk *disk);

/* 0; -EINVAL: not on sectors, or beyond the end; -EIO: some page could not be read, written. The others were. */
int zc_disk_read(struct zc_disk *disk, uint64_t at, void *bytes, size_t size);
int zc_disk_write(struct zc_disk *disk, uint64_t at, const void *bytes, size_t size);
/* Pages that lie wholly in there are forgotten; of the others nothing is. 0 or -EINVAL. */
int zc_disk_discard(struct zc_disk *disk, uint64_t at, uint64_t size);

/* As a transport takes it. */
struct zc_blocks zc_disk_blocks(struct zc_disk *disk);

void zc_disk_get_stats(const struct zc_disk *disk, struct zc_disk_stats *out);

#endif
