/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cold tier: pages touched long ago are compressed again, by a denser codec, runs of adjacent ones of
 * an object together. What comes of it is an extent, see extent.h.
 *
 * A round isolates the coldest frames or zspages as writeback does. The run of pages around each zpage in
 * them is copied out, a page under its shard's lock at a time, and compressed with no lock held. Then
 * those pages whose zpages are still the same, byte by byte, are made members of the new extent.
 */
#ifndef ZC_STORE_COLD_H
#define ZC_STORE_COLD_H

#include <zcache/store.h>

#include "base/node.h"

#define ZC_EXTENT_PAGES 16u /* at most */
#define ZC_EXTENT_CLASSES 4u
#define ZC_COLD_CODEC_MAX 63u  /* bytes */
#define ZC_COLD_CODEC "zstd:6" /* by zc_bench cold */
#define ZC_COLD_EXTENT 4u      /* pages; of twice as many a get costs over 4 times a page's */

/* As zc_pool_recompress(). `why` may be NULL. */
int zc_cold_recompress(zc_pool *pool, size_t frames, struct zc_recompressed *out,
                       struct zc_text *why);
/* Of the extents made from now on. As zc_pool_set_codec(). */
int zc_cold_set_codec(zc_pool *pool, const char *spec, struct zc_text *why);
void zc_cold_show_codec(zc_pool *pool, struct zc_text *out);

#endif
