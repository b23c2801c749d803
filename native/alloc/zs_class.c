/* SPDX-License-Identifier: Apache-2.0 */
/* Which size classes there are. */
#include "alloc/zs.h"

/* Steps between two, at least: each has slots that are not used yet, and with more classes these cost more than a closer
 * fit saves, in pools of up to some hundred megabytes. */
#define GAP 4u

/* The zspage that wastes the smallest part of itself on slots of this size; the shortest of such. */
static struct zs_shape best_shape(size_t page_size, size_t size)
{
    struct zs_shape best = {0};
    size_t least = SIZE_MAX;

    for (size_t frames = 1; frames <= ZC_EXTENT_MAX; frames++) {
        size_t slots = frames * page_size / size;
        size_t waste = frames * page_size % size;
        if (best.frames && waste * best.frames >= least * frames)
            continue;
        least = waste;
        best.frames = (uint8_t)frames;
        best.slots = (uint16_t)slots;
    }
    return best;
}

/* Sizes of the same frames and slots share a class, whose slots are as large as they may be. */
void zc_zs_shapes_init(struct zs_shapes *shapes, size_t page_size)
{
    size_t step = zc_max(page_size / ZS_STEPS, ZS_ALIGN);

    shapes->page_size = page_size;
    shapes->page_shift = (unsigned)__builtin_ctzll(page_size);
    shapes->step_shift = (unsigned)__builtin_ctzll(step);
    shapes->shape[ZS_HUGE] =
        (struct zs_shape){.size = (uint32_t)page_size, .slots = 1, .frames = 1};
    shapes->count = 1;
    for (size_t i = page_size / step; i > 0; i--) {
        struct zs_shape shape = best_shape(page_size, zc_max(i * step, ZS_SLOT_MIN));
        size_t room = shape.frames * page_size / shape.slots;
        shape.size = (uint32_t)(room - room % ZS_ALIGN);

        bool is_huge = shape.frames == shape.slots;
        bool is_new = shape.size + GAP * step <= shapes->shape[shapes->count - 1].size;
        if (!is_huge && is_new && shapes->count < ZS_CLASSES)
            shapes->shape[shapes->count++] = shape;
        shapes->of[i] = (uint8_t)(shapes->count - 1);
    }
}
