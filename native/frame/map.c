/* SPDX-License-Identifier: Apache-2.0 */
#include "frame/map.h"

#include <stdint.h>
#include <sys/mman.h>

void *zc_map_aligned(size_t size)
{
    char *wide = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (wide == MAP_FAILED)
        return NULL;

    char *base = (char *)(((uintptr_t)wide + size - 1) & ~(uintptr_t)(size - 1));
    if (base > wide)
        munmap(wide, (size_t)(base - wide));
    if (base < wide + size)
        munmap(base + size, (size_t)(wide + size - base));
    return base;
}
