/* SPDX-License-Identifier: Apache-2.0 */
#include "base/large.h"

#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define LARGE_PAGES 4u
#define HUGE_FROM ((size_t)4 * 1024 * 1024) /* bytes */

static size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

static bool is_large(size_t size)
{
    return size >= LARGE_PAGES * page_size();
}

void *zc_large_get(size_t size)
{
    if (!is_large(size))
        return calloc(1, size);
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        return NULL;
    if (size >= HUGE_FROM)
        madvise(pages, size, MADV_HUGEPAGE);
    return pages;
}

void zc_large_put(void *memory, size_t size)
{
    if (!memory)
        return;
    if (is_large(size))
        munmap(memory, size);
    else
        free(memory);
}

size_t zc_large_bytes(size_t size)
{
    size_t page = page_size();

    return is_large(size) ? (size + page - 1) / page * page : size;
}
