/* SPDX-License-Identifier: Apache-2.0 */
/* A fair sample of pages whose number is not known before the last one came: each is in it as likely as
 * any other, and it takes the same memory however many there are. */
#ifndef ZC_ZCACHED_RESERVOIR_H
#define ZC_ZCACHED_RESERVOIR_H

#include <stddef.h>
#include <stdint.h>

struct zc_pick {
    uint64_t address; /* bytes */
    uint32_t source;  /* the caller's number of what it is an address in */
};

struct zc_reservoir {
    struct zc_pick *picks;
    size_t count, most;
    uint64_t seen;   /* pages that came */
    uint64_t random; /* state */
};

/* Of `most` pages, at least 1. -ENOMEM. */
int zc_reservoir_init(struct zc_reservoir *reservoir, size_t most, uint64_t seed);
void zc_reservoir_fini(struct zc_reservoir *reservoir);
/* The pages from `start` up to `end`, adjacent ones. */
void zc_reservoir_add(struct zc_reservoir *reservoir, uint32_t source, uint64_t start, uint64_t end,
                      size_t page_size);
/* Into an order of which every beginning is as fair a sample. */
void zc_reservoir_shuffle(struct zc_reservoir *reservoir);

#endif
