/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Simulation: a recorded stream of operations (store/store.h) run against a real store, whose pages have nothing in
 * them but their numbers. A codec that exists for this only, `simulated`, says of each page the size that was
 * recorded for it. So allocators, thresholds, limits, the cold tier and writeback are what they are on a device;
 * time is the record's. It is a library of its own, libzcsim.so, and no part of zcached or libzcache.
 *
 * Functions return 0 or a negative errno value. A simulation is used by one thread at a time.
 */
#ifndef ZC_SIM_SIM_H
#define ZC_SIM_SIM_H

#include <stddef.h>
#include <stdint.h>

#include <zcache/store.h>

typedef struct zc_sim zc_sim;

#define ZC_SIM_SPANS 5u /* lengths of extents: 1, 2, 4, 8, 16 pages */

struct zc_sim_config {
    uint32_t page_size;     /* bytes: the recorded one */
    const char *proc_dir;   /* meminfo of the device that is simulated */
    const char *cgroup_dir; /* likewise; may be empty */
    const char *create;     /* as pools/create takes it, without name and codec */
    /* What the simulated codec stands for: its states are as large. */
    const char *codec, *cold_codec;
    uint32_t
        gain[ZC_SIM_SPANS]; /* millionths: of 2^i pages together, of what they take one by one */
};

/* *why, of `size` bytes, gets what is wrong. */
ZC_API int zc_sim_create(const struct zc_sim_config *config, zc_sim **out, char *why, size_t size);
ZC_API void zc_sim_destroy(zc_sim *sim);

/* One request of the control tree, see docs/protocol.md; the pool is pools/sim. Returns the bytes of the whole
 * answer, of which as many as fit are in `answer`, or -ENOMEM. */
ZC_API int64_t zc_sim_ask(zc_sim *sim, const char *line, char *answer, size_t size);

/* Operations, the i-th of each array. Kinds and flags are those of zc_event. */
struct zc_sim_stream {
    size_t count;
    size_t held;           /* so many at the beginning are puts of what was there before */
    const uint64_t *times; /* us, never less than the one before; the same in a batch */
    const uint64_t *objects;
    const uint32_t *indexes;
    const uint32_t *sizes; /* of a put: bytes compressed; 0: same-filled */
    const uint32_t *colds; /* of a put: bytes by the cold codec, alone */
    const uint8_t *kinds, *flags;
};

#define ZC_SIM_SHORT 128u /* flag of a put: the device was short of memory */

/* How often, of operations after those held. */
struct zc_sim_counts {
    uint64_t compressed;                      /* by the pool's codec */
    uint64_t decompressed;                    /* likewise */
    uint64_t compressed_cold[ZC_SIM_SPANS];   /* runs of 2^i pages */
    uint64_t decompressed_cold[ZC_SIM_SPANS]; /* pages of such runs */
    uint64_t
        short_puts; /* refused as the device was short of memory, and in no counter of the pool's */
    uint64_t short_found; /* of these: there was an older page */
    uint64_t peak_bytes;  /* the most that the store used */
    uint64_t kib_ms;      /* KiB it used, times ms */
};

/* Used bytes and so on at points of time at equal distances. */
struct zc_sim_point {
    uint64_t time_us, used_bytes, written_bytes;
};

/* Runs it, once. `begin` of `begin_size` bytes gets `dump pools/sim` after the pages that were there
 * before. Points: `point_count` of them, 0: none are wanted. -ENOMEM, or -EINVAL: an operation. */
ZC_API int zc_sim_run(zc_sim *sim, const struct zc_sim_stream *stream, char *begin,
                      size_t begin_size, struct zc_sim_point *points, size_t point_count,
                      struct zc_sim_counts *out);

#endif
