/* SPDX-License-Identifier: Apache-2.0 */
#include "frame/map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 /* Linux 5.18 */
#endif
#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1u
#endif

void *zc_map_aligned(size_t size, bool is_locked)
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
    if (is_locked)
        mlock2(base, size, MLOCK_ONFAULT);
    return base;
}

/* What the kernel does not do to locked memory. */
static void advise_unlocked(void *addr, size_t size, int advice)
{
    munlock(addr, size);
    madvise(addr, size, advice);
    mlock2(addr, size, MLOCK_ONFAULT);
}

void zc_map_empty(void *addr, size_t size)
{
    if (madvise(addr, size, MADV_DONTNEED) == 0 || errno != EINVAL ||
        madvise(addr, size, MADV_DONTNEED_LOCKED) == 0)
        return;
    advise_unlocked(addr, size, MADV_DONTNEED);
}

void zc_map_split(void *addr, size_t size)
{
    if (madvise(addr, size, MADV_FREE) != 0 && errno == EINVAL)
        advise_unlocked(addr, size, MADV_FREE);
}

static ssize_t read_file(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;

    ssize_t len = read(fd, text, size - 1);
    close(fd);
    text[len > 0 ? len : 0] = '\0';
    return len;
}

size_t zc_huge_page_size(void)
{
    char text[64];

    if (read_file("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof(text)) <= 0 ||
        strstr(text, "[never]"))
        return 0;
    if (read_file("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", text, sizeof(text)) <= 0)
        return 0;
    return strtoul(text, NULL, 10);
}
