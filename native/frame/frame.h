/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Page frames: page_size units of memory from the OS. They come in runs, regions aligned to their
 * own size, whose head keeps a small record for every frame (zc_frame_meta), so that a frame's
 * record is found by address alone and the frame itself holds nothing but zpages.
 *
 * A frame is taken (an allocator has it), ready (resident, in the reserve) or fresh (no memory
 * behind it). The reserve exists because a page fault a frame costs as much as a third of a
 * compression: fresh frames are made resident many at a time, by a thread of their own as long as it
 * keeps up. Once 32 runs are in use and the OS has huge pages of a run's size, a run comes as one, at
 * half the cost a frame. Frames given back fill the reserve; what is over it goes to the OS at once,
 * and a run without taken or ready frames goes whole.
 *
 * Thread-safe. Nothing here calls up.
 */
#ifndef ZC_FRAME_FRAME_H
#define ZC_FRAME_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ZC_FRAME_META 24 /* bytes of record a frame, for its allocator */

struct zc_frames;

struct zc_frames_stats {
    size_t taken, ready;   /* frames */
    size_t metadata_bytes; /* heads of runs, and what others charged */
    size_t used_bytes;     /* (taken + ready) * page_size + metadata_bytes */
};

/* page_size: bytes, a power of two, at least the OS page size. 0 or -ENOMEM. */
int zc_frames_create(size_t page_size, struct zc_frames **out);

/* Every frame must have been given back. */
void zc_frames_destroy(struct zc_frames *frames);

/* One frame, its contents arbitrary, its record zeroed; NULL: none within the budget or the OS has
 * none. */
void *zc_frame_get(struct zc_frames *frames);
void zc_frame_put(struct zc_frames *frames, void *frame);

/* The record of the frame that `addr` points into. */
void *zc_frame_meta(const struct zc_frames *frames, const void *addr);
/* The frame of a record. */
void *zc_frame_of_meta(const struct zc_frames *frames, const void *meta);

/* Bytes that may be used, see used_bytes. */
void zc_frames_set_budget(struct zc_frames *frames, size_t bytes);
/* Within the budget, is there a frame to be had? */
bool zc_frames_have_room(const struct zc_frames *frames);
/* Bytes that others allocated (or, negative, freed) for what the frames hold; part of used_bytes. */
void zc_frames_charge(struct zc_frames *frames, ptrdiff_t bytes);
/* How many ready frames to keep; 0: as few as can be. A larger reserve shrinks at once. */
void zc_frames_set_reserve(struct zc_frames *frames, size_t count);
size_t zc_frames_reserve(const struct zc_frames *frames);

void zc_frames_get_stats(const struct zc_frames *frames, struct zc_frames_stats *out);

#endif
