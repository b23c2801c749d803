/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ZC_FRAME_MAP_H
#define ZC_FRAME_MAP_H

#include <stdbool.h>
#include <stddef.h>

/* Address space aligned to its own size, a power of two, with no memory behind it yet. What comes is locked (mlock2
 * with MLOCK_ONFAULT) from the first byte on, if it is to be and may be. NULL: none left. */
void *zc_map_aligned(size_t size, bool is_locked);
/* Gives memory back to the OS, also where it is locked (likewise); the addresses stay, and are
 * locked when they are touched again. */
void zc_map_empty(void *addr, size_t size);
/* Splits a huge page which that is a part of; what is in it may be lost. */
void zc_map_split(void *addr, size_t size);

/* Of the OS's transparent huge pages, in bytes; 0: there are none to be had. Linux,
 * Documentation/admin-guide/mm/transhuge.rst */
size_t zc_huge_page_size(void);

#endif
