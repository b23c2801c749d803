/* SPDX-License-Identifier: Apache-2.0 */
#include "frame/map.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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
