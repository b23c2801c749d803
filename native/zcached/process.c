/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/base.h"

#define PAGEMAP_FILE (UINT64_C(1) << 61) /* a file's page, or shared anonymous memory */
#define PAGEMAP_PRESENT (UINT64_C(1) << 63)

/* Of PAGEMAP_SCAN (Documentation/admin-guide/mm/pagemap.rst), which the headers we build with may lack. */
#define SCAN_FILE (UINT64_C(1) << 2)
#define SCAN_PRESENT (UINT64_C(1) << 3)
struct scan {
    uint64_t size, flags, start, end, walk_end, regions, region_count, max_pages;
    uint64_t inverted, all_of, any_of, returned;
};
struct scan_region {
    uint64_t start, end, categories;
};
#define IO_SCAN _IOWR('f', 16, struct scan)

static int add_page(struct zc_process *process, uint64_t address)
{
    if (process->count == process->room) {
        size_t room = zc_max(1024, process->room * 2);
        uint64_t *pages = realloc(process->pages, room * sizeof(*pages));
        if (!pages)
            return -ENOMEM;
        process->pages = pages;
        process->room = room;
    }
    process->pages[process->count++] = address;
    return 0;
}

static int add_region(struct zc_process *process, uint64_t start, uint64_t end)
{
    uint64_t page_size = process->page_size;
    int error = 0;

    start = (start + page_size - 1) / page_size * page_size;
    for (; !error && start + page_size <= end; start += page_size)
        error = add_page(process, start);
    return error;
}

/* As read_mapping(), and steps over what is only reserved, which may be terabytes. -ENOTTY: the kernel
 * cannot (before Linux 6.7). */
static int scan_mapping(struct zc_process *process, int pagemap, uint64_t start, uint64_t end)
{
    struct scan_region regions[64];
    struct scan scan = {
        .size = sizeof(scan),
        .start = start,
        .end = end,
        .regions = (uintptr_t)regions,
        .region_count = sizeof(regions) / sizeof(regions[0]),
        .inverted = SCAN_FILE,
        .all_of = SCAN_FILE | SCAN_PRESENT,
        .returned = SCAN_PRESENT,
    };
    int error = 0;

    while (!error && scan.start < end) {
        int count = ioctl(pagemap, IO_SCAN, &scan);
        if (count < 0)
            return errno == ENOTTY ? -ENOTTY : 0; /* the mapping is gone, or is the kernel's */
        for (int i = 0; !error && i < count; i++)
            error = add_region(process, regions[i].start, regions[i].end);
        scan.start = scan.walk_end;
    }
    return error;
}

/* Adds the pages of one mapping whose OS pages are all resident and anonymous. */
static int read_mapping(struct zc_process *process, int pagemap, uint64_t start, uint64_t end)
{
    uint64_t entries[512];
    size_t page_size = process->page_size, os_page_size = (size_t)sysconf(_SC_PAGESIZE);
    size_t each = page_size / os_page_size, at_once = sizeof(entries) / sizeof(entries[0]) / each;

    start = (start + page_size - 1) / page_size * page_size;
    while (start + page_size <= end) {
        size_t count = zc_min((end - start) / page_size, at_once);
        ssize_t want = (ssize_t)(count * each * sizeof(uint64_t));
        off_t at = (off_t)(start / os_page_size * sizeof(uint64_t));
        if (pread(pagemap, entries, (size_t)want, at) != want)
            return 0; /* the mapping is gone, or is the kernel's */
        for (size_t i = 0; i < count; i++) {
            size_t good = 0;
            while (good < each && (entries[i * each + good] & PAGEMAP_PRESENT) &&
                   !(entries[i * each + good] & PAGEMAP_FILE))
                good++;
            int error = good == each ? add_page(process, start + i * page_size) : 0;
            if (error)
                return error;
        }
        start += count * page_size;
    }
    return 0;
}

static int add_mapping(struct zc_process *process, int pagemap, uint64_t start, uint64_t end)
{
    int error = scan_mapping(process, pagemap, start, end);

    return error == -ENOTTY ? read_mapping(process, pagemap, start, end) : error;
}

/* A file of the process in /proc. */
static int open_file(int pid, const char *name)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? -ESRCH : -errno;
    return fd;
}

static int list_pages(struct zc_process *process, int pagemap, FILE *maps)
{
    char line[512];
    int error = 0;

    while (!error && fgets(line, sizeof(line), maps)) {
        uint64_t start, end;
        char rights[5];
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &start, &end, rights) == 3 &&
            rights[0] == 'r' && !strstr(line, "[vvar") && !strstr(line, "[vdso]"))
            error = add_mapping(process, pagemap, start, end);
    }
    return error;
}

int zc_process_open(struct zc_process *process, int pid, size_t page_size)
{
    *process = (struct zc_process){.page_size = page_size};
    process->mem = open_file(pid, "mem");
    if (process->mem < 0)
        return process->mem;

    int pagemap = open_file(pid, "pagemap"), fd = open_file(pid, "maps");
    int error = pagemap < 0 ? pagemap : fd < 0 ? fd : 0;
    FILE *maps = error ? NULL : fdopen(fd, "r");
    if (!error)
        error = maps ? list_pages(process, pagemap, maps) : -ENOMEM;
    if (maps)
        fclose(maps);
    else if (fd >= 0)
        close(fd);
    if (pagemap >= 0)
        close(pagemap);
    if (error)
        zc_process_close(process);
    return error;
}

void zc_process_close(struct zc_process *process)
{
    close(process->mem);
    free(process->pages);
}

int zc_process_read(const struct zc_process *process, uint64_t address, void *page)
{
    ssize_t len = pread(process->mem, page, process->page_size, (off_t)address);

    if (len == 0)
        return -ESRCH;
    return len == (ssize_t)process->page_size;
}
