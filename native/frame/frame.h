/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Page frames: page_size units of memory from the OS. They come in runs, regions aligned to their
 * own size, whose first frame is the head: it says of every frame what it is, and the frames
 * themselves hold nothing but zpages. A frame is
 *
 *   fresh    nobody's, no memory behind it
 *   ready    nobody's, resident: the reserve
 *   taken    an allocator's, resident
 *   claimed  an allocator's, no memory behind it yet: it costs and counts for nothing
 *
 * Allocators take extents of adjacent frames. An extent may be filled from its front on: its first
 * frames are taken, the rest is claimed until it is needed.
 *
 * The reserve exists because a page fault a frame costs as much as a third of a compression: fresh
 * frames are made resident many at a time, by a thread of their own as long as it keeps up. Once 32
 * runs are in use and the OS has huge pages of a run's size, a run comes as one, at half the cost a
 * frame. Frames given back fill the reserve; what is over it goes to the OS at once, and so does what
 * lies in pieces too short for those who ask. A run of nothing but fresh frames goes whole.
 *
 * Thread-safe. Nothing here calls up.
 */
#ifndef ZC_FRAME_FRAME_H
#define ZC_FRAME_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ZC_EXTENT_MAX 8u   /* frames */
#define ZC_PIECE_KINDS 16u /* sizes of pieces */
#define ZC_PIECE_MAX 8192u /* bytes */

struct zc_frames;

struct zc_frames_stats {
    size_t taken, ready;   /* frames */
    size_t metadata_bytes; /* heads of runs, pieces, and what others charged */
    size_t used_bytes;     /* (taken + ready) * page_size + metadata_bytes */
};

/* page_size: bytes, a power of two, at least the OS page size. 0 or -ENOMEM. */
int zc_frames_create(size_t page_size, struct zc_frames **out);

/* Every extent must have been given back. */
void zc_frames_destroy(struct zc_frames *frames);

/* `count` adjacent frames, 1..ZC_EXTENT_MAX, of which the first `resident`, 1..count, are taken, the
 * others claimed; contents arbitrary. NULL: none within the budget, or the OS has none. */
void *zc_extent_get(struct zc_frames *frames, size_t count, size_t resident);
/* Takes claimed frames: numbers `from` to `to` - 1 of an extent of which the first `from` are taken.
 * False: not within the budget, or the OS has no memory; nothing changed. */
bool zc_extent_grow(struct zc_frames *frames, void *extent, size_t from, size_t to);
/* The other way round: the frames go back to the OS at once, and are claimed. */
void zc_extent_shrink(struct zc_frames *frames, void *extent, size_t from, size_t to);
/* Gives an extent back, of which the first `resident`, 0..count, are taken. */
void zc_extent_put(struct zc_frames *frames, void *extent, size_t count, size_t resident);

/* Bytes that may be used, see used_bytes. */
void zc_frames_set_budget(struct zc_frames *frames, size_t bytes);
/* Within the budget, is there a frame to be had? */
bool zc_frames_have_room(const struct zc_frames *frames);
/* Bytes that others allocated (or, negative, freed) for what the frames hold; part of used_bytes. */
void zc_frames_charge(struct zc_frames *frames, ptrdiff_t bytes);

/*
 * Memory in small pieces, of a few sizes, for what comes and goes in large numbers: it goes back to the
 * OS when it is free, and counts for as long as it does not. A piece is zeroed and aligned to 16 bytes; all of
 * a kind, 0..ZC_PIECE_KINDS - 1, are of one size, a multiple of 16. Their bytes are for the owner to charge;
 * what is held beyond them is part of metadata_bytes. NULL: the OS has no memory.
 */
void *zc_piece_get(struct zc_frames *frames, unsigned kind, size_t size);
void zc_piece_put(struct zc_frames *frames, void *piece);

/* Is memory that comes from now on to be locked, as it is touched? */
void zc_frames_set_locked(struct zc_frames *frames, bool is_locked);

/* How many ready frames to keep; 0: as few as can be. A larger reserve shrinks at once. */
void zc_frames_set_reserve(struct zc_frames *frames, size_t count);
size_t zc_frames_reserve(const struct zc_frames *frames);

void zc_frames_get_stats(const struct zc_frames *frames, struct zc_frames_stats *out);

#endif
