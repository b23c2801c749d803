/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cold tier: pages touched long ago are compressed again, by a denser codec, runs of adjacent ones of
 * an object together (pack.h). What comes of it is an extent (extent.h).
 *
 * Which pages: on demand those in the frames touched longest ago, each with its whole run; by itself those
 * that have been idle for cold_after seconds, page by page: one that is not is as if absent from its run.
 */
#ifndef ZC_STORE_COLD_H
#define ZC_STORE_COLD_H

#include <stdatomic.h>
#include <stdbool.h>

#include <zcache/store.h>

#include "base/node.h"

#define ZC_EXTENT_PAGES 16u /* at most */
#define ZC_EXTENT_CLASSES 4u
#define ZC_COLD_CODEC_MAX 63u /* bytes */
#define ZC_COLD_CPU_PERCENT 10u
/* By zc_bench cold. Extents twice as long take 4 % less, and a get of one of their pages 1.6 times as long: nearly
 * 4 times as long as that of a page alone. */
#define ZC_COLD_CODEC "zstd:9"
#define ZC_COLD_EXTENT 4u /* pages */

struct zc_cold_round;
struct zc_reader;

/* A pool's. */
struct zc_cold {
    void *_Atomic alloc;               /* zsmalloc's, for extents; NULL: there were none yet */
    char codec[ZC_COLD_CODEC_MAX + 1]; /* a spec; under the codecs' lock */
    atomic_bool is_changed;            /* parameters were, since the chore began its round */
    /* Under zc_writeback.running, for rounds of both never run together: */
    struct zc_cold_round *round; /* the chore's, between its slices; NULL: none is under way */
    unsigned yields;             /* slices in a row in which others used the store */
};

/* Nobody uses the pool any more. */
void zc_cold_fini(zc_pool *pool);

/* As zc_pool_recompress(). `why` may be NULL. */
int zc_cold_recompress(zc_pool *pool, size_t frames, struct zc_recompressed *out,
                       struct zc_text *why);
/* Of the extents made from now on. As zc_pool_set_codec(). */
int zc_cold_set_codec(zc_pool *pool, const char *spec, struct zc_text *why);
void zc_cold_show_codec(zc_pool *pool, struct zc_text *out);
/* Its spec, ZC_COLD_CODEC_MAX bytes at most. */
void zc_cold_copy_codec(zc_pool *pool, char *spec);
/* A parameter was set: what saved nothing before may save something now. */
void zc_cold_reconsider(zc_pool *pool);

/* A chore, see keeper.h: recompresses pages idle for cold_after seconds, in slices that take no more than
 * cold_cpu_percent of a CPU, and less while others use the store. */
uint64_t zc_cold_idle(zc_pool *pool);

/* The pages of the extent that the reader has unpacked, and whose shard is unlocked since, are made warm
 * again, by the pool's codec: from `first` on those of `live`, as far as they are still in it. */
void zc_cold_warm(struct zc_reader *reader, const struct zc_key *first, uint16_t live);

#endif
