/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Allocators put zpages into frames. A zpage is named by a handle (never 0); its bytes are reached
 * by map(). One allocator instance belongs to one pool; every function is thread-safe, but a handle
 * must not be freed while somebody uses what map() returned.
 */
#ifndef ZC_ALLOC_ALLOC_H
#define ZC_ALLOC_ALLOC_H

#include <stddef.h>
#include <stdint.h>

struct zc_frames;

struct zc_alloc_stats {
    size_t frames;         /* held now */
    size_t zpages;         /* held now */
    size_t metadata_bytes; /* outside frames and their records */
};

struct zc_alloc_ops {
    const char *name;
    /* 0 or -ENOMEM. */
    int (*create)(struct zc_frames *frames, size_t page_size, void **alloc);
    /* Every zpage must have been freed. */
    void (*destroy)(void *alloc);
    /* Space for `size` bytes, 1..page_size. 0: no frame to be had. */
    uintptr_t (*malloc)(void *alloc, size_t size);
    void (*free)(void *alloc, uintptr_t handle);
    void *(*map)(void *alloc, uintptr_t handle);
    void (*get_stats)(void *alloc, struct zc_alloc_stats *out);
};

/* NULL: no allocator of that name. */
const struct zc_alloc_ops *zc_alloc_find(const char *name);

extern const struct zc_alloc_ops zc_zbud_ops;

#endif
