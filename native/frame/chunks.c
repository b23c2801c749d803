/* SPDX-License-Identifier: Apache-2.0 */
#include "frame/chunks.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/base.h"
#include "frame/map.h"

#define BLOCK (32 * ZC_CHUNK) /* bytes; a bit a chunk */
#define MANY (8 * BLOCK)      /* bytes in use: from then on, chunks come in blocks */
#define UNUSED_PART 8u        /* of what is in use, unused chunks are at most such a part */

struct zc_block {
    struct zc_link link;
    char *base;
    uint32_t unused, gone; /* bit i: chunk i is in no use, with memory behind it, without */
};

void zc_chunks_init(struct zc_chunks *chunks, size_t huge_page_size)
{
    *chunks = (struct zc_chunks){.has_huge = huge_page_size == BLOCK};
    zc_list_init(&chunks->blocks);
}

static struct zc_block *block_new(struct zc_chunks *chunks)
{
    struct zc_block *block = calloc(1, sizeof(*block));
    if (!block)
        return NULL;

    block->base = zc_map_aligned(BLOCK, chunks->is_locked);
    if (!block->base) {
        free(block);
        return NULL;
    }
    madvise(block->base, BLOCK, MADV_HUGEPAGE);
    block->unused = UINT32_MAX;
    chunks->unused += BLOCK / ZC_CHUNK;
    zc_list_add(&chunks->blocks, &block->link);
    return block;
}

static void block_free(struct zc_chunks *chunks, struct zc_block *block)
{
    chunks->unused -= (size_t)__builtin_popcount(block->unused);
    zc_list_del(&block->link);
    munmap(block->base, BLOCK);
    free(block);
}

/* The memory goes back. Nobody would count what a huge page brought here from now on; emptied alone, one would stay
 * whole until memory is short. */
static void let_go(struct zc_chunks *chunks, struct zc_block *block, char *chunk, uint32_t bit)
{
    madvise(block->base, BLOCK, MADV_NOHUGEPAGE);
    zc_map_split(chunk, ZC_CHUNK);
    zc_map_empty(chunk, ZC_CHUNK);
    block->unused &= ~bit;
    block->gone |= bit;
    chunks->unused--;
}

static void *take(struct zc_chunks *chunks, struct zc_block *block, struct zc_chunk_from *from)
{
    bool is_resident = block->unused != 0;
    unsigned i = (unsigned)__builtin_ctz(is_resident ? block->unused : block->gone);

    *(is_resident ? &block->unused : &block->gone) &= ~(UINT32_C(1) << i);
    chunks->unused -= is_resident;
    if (!(block->unused | block->gone))
        zc_list_del(&block->link);
    *from = (struct zc_chunk_from){.block = block, .is_resident = is_resident};
    return block->base + i * ZC_CHUNK;
}

static struct zc_block *find_block(struct zc_chunks *chunks)
{
    if (!zc_list_empty(&chunks->blocks))
        return ZC_CONTAINER(chunks->blocks.next, struct zc_block, link);
    if (chunks->has_huge && chunks->used * ZC_CHUNK >= MANY)
        return block_new(chunks);
    return NULL;
}

static void *map_alone(const struct zc_chunks *chunks, struct zc_chunk_from *from)
{
    void *chunk = zc_map_aligned(ZC_CHUNK, chunks->is_locked);

    *from = (struct zc_chunk_from){0};
    if (chunk)
        madvise(chunk, ZC_CHUNK, MADV_NOHUGEPAGE); /* nobody would count the rest of one */
    return chunk;
}

void *zc_chunk_get(struct zc_chunks *chunks, struct zc_chunk_from *from)
{
    struct zc_block *block = find_block(chunks);
    void *chunk = block ? take(chunks, block, from) : map_alone(chunks, from);

    chunks->used += chunk != NULL;
    return chunk;
}

void zc_chunk_put(struct zc_chunks *chunks, void *chunk, const struct zc_chunk_from *from)
{
    struct zc_block *block = from->block;

    chunks->used--;
    if (!block) {
        munmap(chunk, ZC_CHUNK);
        return;
    }

    uint32_t bit = UINT32_C(1) << ((size_t)((char *)chunk - block->base) / ZC_CHUNK);
    if (!(block->unused | block->gone))
        zc_list_add(&chunks->blocks, &block->link);
    block->unused |= bit;
    chunks->unused++;
    if ((block->unused | block->gone) == UINT32_MAX)
        block_free(chunks, block);
    else if (chunks->unused > chunks->used / UNUSED_PART)
        let_go(chunks, block, chunk, bit);
}
