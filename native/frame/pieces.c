/* SPDX-License-Identifier: Apache-2.0 */
#include "frame/pieces.h"

#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "base/thread.h"

struct zc_chunk {
    struct zc_link link; /* among those of its kind, while it has room */
    struct zc_chunk_from from;
    unsigned kind;
    uint32_t used, top, room; /* pieces in use, ever handed out, that there could be */
    size_t size;              /* of a piece */
    size_t resident;          /* bytes from the chunk's beginning on that have memory behind them */
    void *unused;             /* pieces given back, chained through their first bytes */
};

#define HEAD ((sizeof(struct zc_chunk) + 63) / 64 * 64)

static struct zc_chunk *chunk_of(const void *piece)
{
    return (struct zc_chunk *)((uintptr_t)piece & ~(uintptr_t)(ZC_CHUNK - 1));
}

static void count(struct zc_pieces *pieces, ptrdiff_t slack)
{
    atomic_fetch_add_explicit(&pieces->slack, (size_t)slack, memory_order_relaxed);
}

/* The memory up to `end` is about to be written to. */
static void touch(struct zc_pieces *pieces, struct zc_chunk *chunk, size_t end)
{
    size_t resident = (end + pieces->os_page_size - 1) & ~(pieces->os_page_size - 1);

    if (resident <= chunk->resident)
        return;
    count(pieces, (ptrdiff_t)(resident - chunk->resident));
    chunk->resident = resident;
}

static struct zc_chunk *chunk_get(struct zc_pieces *pieces)
{
    size_t unused = pieces->chunks.unused;
    struct zc_chunk_from from;
    struct zc_chunk *chunk = zc_chunk_get(&pieces->chunks, &from);
    if (!chunk)
        return NULL;

    count(pieces, (ptrdiff_t)(pieces->chunks.unused - unused) * (ptrdiff_t)ZC_CHUNK);
    chunk->from = from;
    chunk->resident = 0;
    touch(pieces, chunk, from.is_resident ? ZC_CHUNK : HEAD);
    return chunk;
}

static void chunk_put(struct zc_pieces *pieces, struct zc_chunk *chunk)
{
    size_t unused = pieces->chunks.unused;
    struct zc_chunk_from from = chunk->from;

    count(pieces, -(ptrdiff_t)chunk->resident);
    zc_chunk_put(&pieces->chunks, chunk, &from);
    count(pieces, (ptrdiff_t)(pieces->chunks.unused - unused) * (ptrdiff_t)ZC_CHUNK);
}

/* Into the list where it belongs now, if in any. */
static void place(struct zc_pieces *pieces, struct zc_chunk *chunk)
{
    unsigned list = chunk->used * ZC_PIECE_LISTS / chunk->room;

    zc_list_del(&chunk->link);
    zc_list_init(&chunk->link);
    if (list < ZC_PIECE_LISTS)
        zc_list_add(&pieces->with_room[chunk->kind][list], &chunk->link);
}

static struct zc_chunk *chunk_new(struct zc_pieces *pieces, unsigned kind, size_t size)
{
    struct zc_chunk *chunk = pieces->spare ? pieces->spare : chunk_get(pieces);

    pieces->spare = NULL;
    if (!chunk)
        return NULL;
    *chunk = (struct zc_chunk){
        .from = chunk->from,
        .kind = kind,
        .room = (uint32_t)((ZC_CHUNK - HEAD) / size),
        .size = size,
        .resident = chunk->resident,
    };
    zc_list_init(&chunk->link);
    return chunk;
}

static struct zc_chunk *chunk_with_room(struct zc_pieces *pieces, unsigned kind, size_t size)
{
    for (unsigned list = ZC_PIECE_LISTS; list-- > 0;) {
        struct zc_link *chunks = &pieces->with_room[kind][list];
        if (!zc_list_empty(chunks))
            return ZC_CONTAINER(chunks->next, struct zc_chunk, link);
    }
    return chunk_new(pieces, kind, size);
}

static void *take(struct zc_pieces *pieces, struct zc_chunk *chunk)
{
    void *piece = chunk->unused;

    if (piece) {
        memcpy(&chunk->unused, piece, sizeof(chunk->unused));
    } else {
        piece = (char *)chunk + HEAD + chunk->top++ * chunk->size;
        touch(pieces, chunk, HEAD + chunk->top * chunk->size);
    }
    chunk->used++;
    count(pieces, -(ptrdiff_t)chunk->size);
    place(pieces, chunk);
    return piece;
}

void zc_pieces_init(struct zc_pieces *pieces, size_t huge_page_size)
{
    *pieces = (struct zc_pieces){.os_page_size = (size_t)sysconf(_SC_PAGESIZE)};
    zc_chunks_init(&pieces->chunks, huge_page_size);
    zc_mutex_init_brief(&pieces->lock);
    for (unsigned kind = 0; kind < ZC_PIECE_KINDS; kind++) {
        for (unsigned list = 0; list < ZC_PIECE_LISTS; list++)
            zc_list_init(&pieces->with_room[kind][list]);
    }
}

void zc_pieces_fini(struct zc_pieces *pieces)
{
    if (pieces->spare)
        chunk_put(pieces, pieces->spare);
    ZC_ASSERT(pieces->slack == 0);
    pthread_mutex_destroy(&pieces->lock);
}

void *zc_pieces_take(struct zc_pieces *pieces, unsigned kind, size_t size)
{
    ZC_ASSERT(kind < ZC_PIECE_KINDS && size % 16 == 0 && size <= ZC_PIECE_MAX);
    pthread_mutex_lock(&pieces->lock);
    struct zc_chunk *chunk = chunk_with_room(pieces, kind, size);
    void *piece = chunk ? take(pieces, chunk) : NULL;
    pthread_mutex_unlock(&pieces->lock);
    return piece ? memset(piece, 0, size) : NULL;
}

/* An empty chunk. One in a block would hold that. */
static void retire(struct zc_pieces *pieces, struct zc_chunk *chunk)
{
    struct zc_chunk *gone = chunk->from.block ? chunk : pieces->spare;

    if (!chunk->from.block)
        pieces->spare = chunk;
    if (gone)
        chunk_put(pieces, gone);
}

void zc_pieces_give(struct zc_pieces *pieces, void *piece)
{
    struct zc_chunk *chunk = chunk_of(piece);

    pthread_mutex_lock(&pieces->lock);
    count(pieces, (ptrdiff_t)chunk->size);
    memcpy(piece, &chunk->unused, sizeof(chunk->unused));
    chunk->unused = piece;
    if (--chunk->used > 0) {
        place(pieces, chunk);
    } else {
        zc_list_del(&chunk->link);
        retire(pieces, chunk);
    }
    pthread_mutex_unlock(&pieces->lock);
}
