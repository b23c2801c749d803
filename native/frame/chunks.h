/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory in chunks of ZC_CHUNK bytes, aligned to that, for what is cut from them. Once there are many, they
 * come in blocks, each a huge page of the OS: a large index is looked up with a miss of the TLB less. A block's
 * chunks that are in no use stay with it, for the next who wants one, as long as they are few; and a block of
 * nothing else goes to the OS.
 *
 * Not thread-safe.
 */
#ifndef ZC_FRAME_CHUNKS_H
#define ZC_FRAME_CHUNKS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/list.h"

#define ZC_CHUNK ((size_t)64 * 1024)

struct zc_block;

struct zc_chunks {
    bool has_huge;         /* the OS's huge pages are of a block's size */
    atomic_bool is_locked; /* what comes is to be; anybody may set it */
    size_t used, unused;   /* chunks; unused: with memory behind them */
    struct zc_link blocks; /* those with chunks that are in no use */
};

/* Where a chunk is from. */
struct zc_chunk_from {
    struct zc_block *block; /* NULL: it was mapped alone */
    bool is_resident; /* has memory behind it, or gets all of it with the first byte written */
};

/* huge_page_size: as zc_huge_page_size() says. */
void zc_chunks_init(struct zc_chunks *chunks, size_t huge_page_size);
/* NULL: the OS has no memory. Contents arbitrary. */
void *zc_chunk_get(struct zc_chunks *chunks, struct zc_chunk_from *from);
void zc_chunk_put(struct zc_chunks *chunks, void *chunk, const struct zc_chunk_from *from);

#endif
