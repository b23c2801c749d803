/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Buffers of batches. Where much is to be written they lie side by side, in one stretch that is large
 * enough for huge pages: what is not in hundreds of pieces costs the system half as much to write.
 */
#include "backing/inside.h"
#include "base/large.h"

#define MANY 2u /* batches, that fill more than they take to make */

static size_t stretch_bytes(const struct zc_backing *backing)
{
    return ZC_BUFFERS * zc_batch_room(backing);
}

/* The number of a free one; -1: there is none. */
static int take(struct zc_buffers *buffers)
{
    unsigned free = ~buffers->taken & ((1u << ZC_BUFFERS) - 1);

    if (!buffers->base || !free)
        return -1;
    int number = __builtin_ctz(free);
    buffers->taken |= 1u << number;
    return number;
}

void *zc_buffer_get(struct zc_backing *backing, size_t coming)
{
    struct zc_buffers *buffers = &backing->buffers;
    size_t room = zc_batch_room(backing);
    int number = -1;

    if (coming / MANY >= room) {
        pthread_mutex_lock(&backing->lock);
        if (!buffers->base)
            buffers->base = zc_large_get(stretch_bytes(backing));
        number = take(buffers);
        pthread_mutex_unlock(&backing->lock);
    }
    return number < 0 ? zc_pages_get(room) : buffers->base + (size_t)number * room;
}

static bool is_in_stretch(const struct zc_backing *backing, const char *buffer)
{
    const char *base = backing->buffers.base;

    return base && buffer >= base && buffer < base + stretch_bytes(backing);
}

void zc_buffer_put(struct zc_backing *backing, char *buffer)
{
    struct zc_buffers *buffers = &backing->buffers;
    size_t room = zc_batch_room(backing);

    pthread_mutex_lock(&backing->lock);
    bool is_own = !is_in_stretch(backing, buffer);
    if (!is_own)
        buffers->taken &= ~(1u << (size_t)(buffer - buffers->base) / room);
    if (!is_own && !buffers->taken) {
        zc_large_put(buffers->base, stretch_bytes(backing));
        buffers->base = NULL;
    }
    pthread_mutex_unlock(&backing->lock);
    if (is_own)
        zc_pages_put(buffer, room);
}
