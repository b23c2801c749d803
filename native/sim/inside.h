/* SPDX-License-Identifier: Apache-2.0 */
/* What the simulation and its codec share. */
#ifndef ZC_SIM_INSIDE_H
#define ZC_SIM_INSIDE_H

#include "codec/codec.h"
#include "sim/sim.h"

#define ZC_SIM_BATCH 64u    /* operations at one time */
#define ZC_SIM_SPEC_MAX 63u /* bytes */

struct zc_control;

/* The bytes of the dictionary by which the codec finds it; the zeros are no magic of zstd's. */
struct zc_sim_link {
    uint64_t zeros;
    zc_sim *sim;
};

struct zc_sim {
    size_t page_size;
    char codec[ZC_SIM_SPEC_MAX + 1], cold_codec[ZC_SIM_SPEC_MAX + 1];
    uint32_t gain[ZC_SIM_SPANS];
    zc_store *store;
    zc_pool *pool;
    struct zc_control *control;
    uint32_t dictionary;
    uint64_t now, due; /* the store's clock; when the store has something to do by itself */
    const struct zc_sim_stream *stream;
    struct zc_sim_counts counts;
    char *pages; /* ZC_SIM_BATCH of them, one of zeros, and room for as many that are got */
    struct zc_sim_point *points;
    size_t point_count, point;
    uint64_t last_us; /* when memory was looked at */
};

#endif
