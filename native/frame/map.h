/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ZC_FRAME_MAP_H
#define ZC_FRAME_MAP_H

#include <stddef.h>

/* Address space aligned to its own size, a power of two, with no memory behind it yet. NULL: none left. */
void *zc_map_aligned(size_t size);

#endif
