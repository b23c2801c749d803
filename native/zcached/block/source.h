/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a block cache is in front of: a block device, or a file, past the page cache where that works, so that
 * nothing is cached twice. All but open and close are thread-safe.
 */
#ifndef ZC_ZCACHED_SOURCE_H
#define ZC_ZCACHED_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/node.h"

#define ZC_SECTOR 512u /* bytes; sizes of sources are multiples of it */

struct zc_source {
    int file; /* descriptor, which nobody else may have */
    int direct; /* another, with O_DIRECT; -1: what is read and written goes through the page cache, and is dropped
                   from there */
    uint64_t size;       /* bytes */
    uint32_t block_size; /* bytes: unit of writes */
    bool is_device, is_read_only;
    bool has_discard;
};

/*
 * `page_size`: what will be read at one time is a multiple of it, at such places. Read-only if it is to be, or cannot
 * be written. -ENOENT, -EISDIR, -EINVAL: neither a device nor a file, or a size that is none; -EBUSY: mounted, or in
 * use otherwise; or what the system says. `why` got one line.
 */
int zc_source_open(struct zc_source *source, const char *path, bool is_read_only, size_t page_size,
                   struct zc_text *why);
void zc_source_close(struct zc_source *source);

/* 0 or -errno. Beyond the end there are zeros. `bytes` are aligned as a page of the OS is. */
int zc_source_read(const struct zc_source *source, uint64_t at, void *bytes, size_t size);
/* At multiples of block_size, within the source. */
int zc_source_write(const struct zc_source *source, uint64_t at, const void *bytes, size_t size);
int zc_source_discard(const struct zc_source *source, uint64_t at, uint64_t size);
/* What was written outlasts a loss of power. */
int zc_source_sync(const struct zc_source *source);

#endif
