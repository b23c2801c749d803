/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A run of adjacent pages becomes an extent. It is copied out, a page under its shard's lock at a time, and
 * compressed with no lock held. Then those pages that are still the same are made members of the new extent.
 *
 * What does not get smaller is marked (ZC_SPAN_POOR), and left alone until it is put or a parameter is set,
 * unless a neighbour is tried.
 */
#ifndef ZC_STORE_PACK_H
#define ZC_STORE_PACK_H

#include "store/entry.h"
#include "store/idle.h"

#define ZC_SPANS 5u /* lengths of extents: 1, 2, 4, 8, 16 pages */

_Static_assert(1u << (ZC_SPANS - 1) == ZC_EXTENT_PAGES, "a span for each length");

/* What extents of a length are compressed with. */
struct zc_span {
    unsigned number; /* the codec's in the pool */
    struct zc_compressor *compressor;
};

/* A run of pages, as it was copied. */
struct zc_run {
    struct zc_shard *shard;
    uint64_t object;
    uint32_t first;
    unsigned pages, span;                     /* its length, and log2 of that */
    uint16_t tried, copied;                   /* by bit: were wanted; and could be read */
    struct zc_entry entries[ZC_EXTENT_PAGES]; /* of those that were tried */
    char *bytes;                              /* of the pages, zeros where there is none */
    char *zpages; /* of warm ones as they were compressed, each at its page's place */
};

struct zc_packer {
    zc_pool *pool;
    char spec[ZC_COLD_CODEC_MAX + 1];
    unsigned pages;           /* of an extent, at most */
    struct zc_idle idle;      /* of pages; .seconds 0: any page will do */
    uint64_t packed, extents; /* pages made cold; extents made of such */
    uint64_t saved;           /* bytes */
    struct zc_text *why;      /* for what is wrong with the codec; NULL: not wanted */
    struct zc_reader reader;
    struct zc_span spans[ZC_SPANS];
    struct zc_run run;
};

/* By the pool's parameters as they are now. zc_writeback.running is held as long as it is used: nobody else
 * makes extents. 0 or -ENOMEM. */
int zc_packer_init(struct zc_packer *packer, zc_pool *pool, uint32_t idle);
void zc_packer_fini(struct zc_packer *packer);

/* Is that page, whose shard is locked or shared, a reason to pack its run? */
bool zc_packer_is_due(const struct zc_packer *packer, const struct zc_shard *shard,
                      struct zc_entry *entry);
/* The aligned run around a page: those of its pages that have been idle, or are in extents with few pages left,
 * so that no run stays in pieces. 1: they are an extent; 0: they have to stay as they are; or -errno, as
 * zc_codecs_hold(), or -ENOMEM. */
int zc_pack_run(struct zc_packer *packer, struct zc_shard *shard, uint64_t object, uint32_t index);

#endif
