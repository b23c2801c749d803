/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pieces lie in chunks, a kind a chunk, the fuller of which are used first. An empty chunk goes to the
 * OS, but for one that is kept for the next piece, of whatever kind. What chunks hold beyond pieces in
 * use is counted, so that holes are not forgotten: the C library's heap keeps them too, and cannot say
 * how many.
 *
 * Thread-safe.
 */
#ifndef ZC_FRAME_PIECES_H
#define ZC_FRAME_PIECES_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#include "base/list.h"
#include "frame/chunks.h"
#include "frame/frame.h"

#define ZC_PIECE_LISTS 8u /* of chunks of a kind, by how full they are */

struct zc_pieces {
    pthread_mutex_t lock;
    size_t os_page_size;
    struct zc_chunks chunks;
    struct zc_chunk *spare; /* an empty one; NULL: none */
    struct zc_link with_room[ZC_PIECE_KINDS][ZC_PIECE_LISTS];
    _Atomic size_t slack; /* bytes that all chunks hold beyond pieces in use */
};

/* huge_page_size: as zc_huge_page_size() says. */
void zc_pieces_init(struct zc_pieces *pieces, size_t huge_page_size);
/* Every piece must have been given back. */
void zc_pieces_fini(struct zc_pieces *pieces);

/* As zc_piece_get(), zc_piece_put(). */
void *zc_pieces_take(struct zc_pieces *pieces, unsigned kind, size_t size);
void zc_pieces_give(struct zc_pieces *pieces, void *piece);

#endif
