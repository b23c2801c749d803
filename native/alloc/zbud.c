/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zbud: at most two zpages ("buddies") in a frame, one from the frame's first byte up, one that ends
 * with its last byte. Sizes are rounded up to chunks, 64 a frame. A frame with one buddy waits in the
 * list for its number of free chunks; a new zpage goes to the frame that it fills best.
 *
 * A handle is the address of the zpage's first byte. The first buddy's is the frame's own address,
 * the last one's never is, which tells them apart.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "alloc/alloc.h"
#include "base/base.h"
#include "base/list.h"
#include "frame/frame.h"

#define CHUNKS 64u /* a frame; one bit each in zbud.waiting */

struct zbud_frame {
    struct zc_link link; /* in unbuddied[free chunks]; linked only with exactly one buddy */
    uint8_t first, last; /* chunks of each buddy; 0: none */
};

_Static_assert(sizeof(struct zbud_frame) <= ZC_FRAME_META, "a zbud frame fits its record");

struct zbud {
    pthread_mutex_t lock;
    struct zc_frames *frames;
    size_t page_size, chunk_size;
    uint64_t waiting; /* bit n: unbuddied[n] is not empty */
    struct zc_link unbuddied[CHUNKS];
    size_t frame_count, zpage_count;
};

static int zbud_create(struct zc_frames *frames, size_t page_size, void **alloc)
{
    struct zbud *zbud = calloc(1, sizeof(*zbud));
    if (!zbud)
        return -ENOMEM;

    pthread_mutex_init(&zbud->lock, NULL);
    zbud->frames = frames;
    zbud->page_size = page_size;
    zbud->chunk_size = page_size / CHUNKS;
    for (size_t i = 0; i < CHUNKS; i++)
        zc_list_init(&zbud->unbuddied[i]);
    *alloc = zbud;
    return 0;
}

static void zbud_destroy(void *alloc)
{
    struct zbud *zbud = alloc;

    ZC_ASSERT(zbud->frame_count == 0 && zbud->zpage_count == 0);
    pthread_mutex_destroy(&zbud->lock);
    free(zbud);
}

static void zbud_check(const struct zbud *zbud, const struct zbud_frame *frame)
{
    ZC_ASSERT(frame->first + frame->last <= (int)CHUNKS);
    ZC_ASSERT(zbud->zpage_count >= zbud->frame_count);
    ZC_ASSERT(zbud->zpage_count <= 2 * zbud->frame_count);
    (void)zbud;
    (void)frame;
}

static void zbud_wait(struct zbud *zbud, struct zbud_frame *frame)
{
    unsigned room = CHUNKS - frame->first - frame->last;

    if (room == 0)
        return; /* a zpage that fills its frame has no buddy */
    zc_list_add(&zbud->unbuddied[room], &frame->link);
    zbud->waiting |= UINT64_C(1) << room;
}

static void zbud_unwait(struct zbud *zbud, struct zbud_frame *frame)
{
    unsigned room = CHUNKS - frame->first - frame->last;

    if (room == 0)
        return;
    zc_list_del(&frame->link);
    if (zc_list_empty(&zbud->unbuddied[room]))
        zbud->waiting &= ~(UINT64_C(1) << room);
}

/* The frame with one buddy whose free space fits `chunks` best; NULL: none. */
static struct zbud_frame *zbud_best_fit(struct zbud *zbud, unsigned chunks)
{
    if (chunks >= CHUNKS)
        return NULL;

    uint64_t fitting = zbud->waiting & (~UINT64_C(0) << chunks);
    if (!fitting)
        return NULL;
    return ZC_CONTAINER(zbud->unbuddied[__builtin_ctzll(fitting)].next, struct zbud_frame, link);
}

static uintptr_t zbud_place(struct zbud *zbud, struct zbud_frame *frame, unsigned chunks)
{
    uintptr_t base = (uintptr_t)zc_frame_of_meta(zbud->frames, frame);

    zbud->zpage_count++;
    if (!frame->first) {
        frame->first = (uint8_t)chunks;
        return base;
    }
    frame->last = (uint8_t)chunks;
    return base + zbud->page_size - chunks * zbud->chunk_size;
}

static uintptr_t zbud_malloc(void *alloc, size_t size)
{
    struct zbud *zbud = alloc;
    unsigned chunks = (unsigned)zc_div_pow2(size + zbud->chunk_size - 1, zbud->chunk_size);
    uintptr_t handle = 0;

    ZC_ASSERT(size > 0 && size <= zbud->page_size);
    pthread_mutex_lock(&zbud->lock);
    struct zbud_frame *frame = zbud_best_fit(zbud, chunks);
    if (frame) {
        zbud_unwait(zbud, frame);
        handle = zbud_place(zbud, frame, chunks);
        zbud_check(zbud, frame);
        goto unlock;
    }

    void *fresh = zc_frame_get(zbud->frames);
    if (!fresh)
        goto unlock;
    zbud->frame_count++;
    frame = zc_frame_meta(zbud->frames, fresh);
    handle = zbud_place(zbud, frame, chunks);
    zbud_wait(zbud, frame);
    zbud_check(zbud, frame);
unlock:
    pthread_mutex_unlock(&zbud->lock);
    return handle;
}

static void zbud_free(void *alloc, uintptr_t handle)
{
    struct zbud *zbud = alloc;
    bool is_first = (handle & (zbud->page_size - 1)) == 0;
    struct zbud_frame *frame = zc_frame_meta(zbud->frames, (void *)handle);
    void *empty = NULL;

    pthread_mutex_lock(&zbud->lock);
    ZC_ASSERT(is_first ? frame->first : frame->last);
    if (!frame->first || !frame->last)
        zbud_unwait(zbud, frame);
    if (is_first)
        frame->first = 0;
    else
        frame->last = 0;
    zbud->zpage_count--;
    if (frame->first || frame->last) {
        zbud_wait(zbud, frame);
    } else {
        zbud->frame_count--;
        empty = (void *)(handle & ~(uintptr_t)(zbud->page_size - 1));
    }
    pthread_mutex_unlock(&zbud->lock);

    if (empty)
        zc_frame_put(zbud->frames, empty);
}

static void *zbud_map(void *alloc, uintptr_t handle)
{
    (void)alloc;
    return (void *)handle;
}

static void zbud_get_stats(void *alloc, struct zc_alloc_stats *out)
{
    struct zbud *zbud = alloc;

    pthread_mutex_lock(&zbud->lock);
    *out = (struct zc_alloc_stats){
        .frames = zbud->frame_count,
        .zpages = zbud->zpage_count,
        .metadata_bytes = sizeof(*zbud),
    };
    pthread_mutex_unlock(&zbud->lock);
}

const struct zc_alloc_ops zc_zbud_ops = {
    .name = "zbud",
    .create = zbud_create,
    .destroy = zbud_destroy,
    .malloc = zbud_malloc,
    .free = zbud_free,
    .map = zbud_map,
    .get_stats = zbud_get_stats,
};
