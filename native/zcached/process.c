/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/base.h"

#define PAGEMAP_FILE (UINT64_C(1) << 61) /* a file's page, or shared anonymous memory */
#define PAGEMAP_SWAPPED (UINT64_C(1) << 62)
#define PAGEMAP_PRESENT (UINT64_C(1) << 63)

/* Of PAGEMAP_SCAN (Documentation/admin-guide/mm/pagemap.rst), which the headers we build with may lack. */
#define SCAN_FILE (UINT64_C(1) << 2)
#define SCAN_PRESENT (UINT64_C(1) << 3)
#define SCAN_SWAPPED (UINT64_C(1) << 4)
struct scan {
    uint64_t size, flags, start, end, walk_end, regions, region_count, max_pages;
    uint64_t inverted, all_of, any_of, returned;
};
struct scan_region {
    uint64_t start, end, categories;
};
#define IO_SCAN _IOWR('f', 16, struct scan)

/* How pages of a kind are told. */
static const struct wanted {
    uint64_t entry_mask, entry; /* of pagemap's entries */
    uint64_t scan_not, scan;    /* categories that it must not and must have */
} wanted_pages[] = {
    [ZC_PAGES_ANONYMOUS] = {PAGEMAP_PRESENT | PAGEMAP_FILE, PAGEMAP_PRESENT, SCAN_FILE,
                            SCAN_PRESENT},
    [ZC_PAGES_SWAPPED] = {PAGEMAP_SWAPPED | PAGEMAP_FILE, PAGEMAP_SWAPPED, SCAN_FILE, SCAN_SWAPPED},
    [ZC_PAGES_FILE] = {PAGEMAP_PRESENT | PAGEMAP_FILE, PAGEMAP_PRESENT | PAGEMAP_FILE, 0,
                       SCAN_FILE | SCAN_PRESENT},
};

static int visit(const struct zc_process_walk *walk, uint64_t start, uint64_t end)
{
    uint64_t page_size = walk->page_size;

    start = (start + page_size - 1) / page_size * page_size;
    end -= end % page_size;
    return start < end ? walk->visit(walk->arg, start, end) : 0;
}

static int check_time(const struct zc_process_walk *walk)
{
    return walk->until_ns && zc_now_ns() >= walk->until_ns ? -ETIME : 0;
}

/* As read_mapping(), and steps over what is only reserved, which may be terabytes. -ENOTTY: the kernel
 * cannot (before Linux 6.7). */
static int scan_mapping(const struct zc_process_walk *walk, int pagemap, uint64_t start,
                        uint64_t end)
{
    const struct wanted *wanted = &wanted_pages[walk->pages];
    struct scan_region regions[64];
    struct scan scan = {
        .size = sizeof(scan),
        .start = start,
        .end = end,
        .regions = (uintptr_t)regions,
        .region_count = sizeof(regions) / sizeof(regions[0]),
        .inverted = wanted->scan_not,
        .all_of = wanted->scan_not | wanted->scan,
        .returned = wanted->scan,
    };
    int error = 0;

    while (!error && scan.start < end) {
        int count = ioctl(pagemap, IO_SCAN, &scan);
        if (count < 0)
            return errno == ENOTTY ? -ENOTTY : 0; /* the mapping is gone, or is the kernel's */
        for (int i = 0; !error && i < count; i++)
            error = visit(walk, regions[i].start, regions[i].end);
        error = error ? error : check_time(walk);
        scan.start = scan.walk_end;
    }
    return error;
}

/* Visits the pages of one mapping whose OS pages are all of the kind. */
static int read_mapping(const struct zc_process_walk *walk, int pagemap, uint64_t start,
                        uint64_t end)
{
    const struct wanted *wanted = &wanted_pages[walk->pages];
    uint64_t entries[512];
    size_t page_size = walk->page_size, os_page_size = (size_t)sysconf(_SC_PAGESIZE);
    size_t each = page_size / os_page_size, at_once = sizeof(entries) / sizeof(entries[0]) / each;
    int error = 0;

    start = (start + page_size - 1) / page_size * page_size;
    while (!error && start + page_size <= end) {
        size_t count = zc_min((end - start) / page_size, at_once);
        ssize_t want = (ssize_t)(count * each * sizeof(uint64_t));
        off_t at = (off_t)(start / os_page_size * sizeof(uint64_t));
        if (pread(pagemap, entries, (size_t)want, at) != want)
            return 0; /* the mapping is gone, or is the kernel's */
        for (size_t i = 0; i < count && !error; i++) {
            size_t good = 0;
            while (good < each && (entries[i * each + good] & wanted->entry_mask) == wanted->entry)
                good++;
            if (good == each)
                error = visit(walk, start + i * page_size, start + (i + 1) * page_size);
        }
        error = error ? error : check_time(walk);
        start += count * page_size;
    }
    return error;
}

static int walk_mapping(const struct zc_process_walk *walk, int pagemap, uint64_t start,
                        uint64_t end)
{
    int error = scan_mapping(walk, pagemap, start, end);

    return error == -ENOTTY ? read_mapping(walk, pagemap, start, end) : error;
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

/* Are there pages to look for in a mapping of these rights, by the rest of its line? */
static bool is_wanted(const struct zc_process_walk *walk, const char *rights, const char *rest)
{
    if (rights[0] != 'r' || strstr(rest, "[vvar") || strstr(rest, "[vdso]"))
        return false;
    if (walk->pages != ZC_PAGES_FILE)
        return true;
    return rights[1] != 'w' && strchr(rest, '/') && (!walk->wants || walk->wants(walk->arg, rest));
}

static int walk_mappings(const struct zc_process_walk *walk, int pagemap, FILE *maps)
{
    char line[512];
    int error = 0;

    while (!error && fgets(line, sizeof(line), maps)) {
        uint64_t start, end;
        char rights[5];
        int rest = 0;
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s%n", &start, &end, rights, &rest) == 3 &&
            is_wanted(walk, rights, line + rest))
            error = walk_mapping(walk, pagemap, start, end);
    }
    return error;
}

int zc_process_walk(int pid, const struct zc_process_walk *walk)
{
    int pagemap = open_file(pid, "pagemap"), fd = open_file(pid, "maps");
    int error = pagemap < 0 ? pagemap : fd < 0 ? fd : 0;
    FILE *maps = error ? NULL : fdopen(fd, "r");

    if (!error)
        error = maps ? walk_mappings(walk, pagemap, maps) : -ENOMEM;
    if (maps)
        fclose(maps);
    else if (fd >= 0)
        close(fd);
    if (pagemap >= 0)
        close(pagemap);
    return error;
}

static int add_pages(void *arg, uint64_t start, uint64_t end)
{
    struct zc_process *process = arg;

    for (; start < end; start += process->page_size) {
        if (process->count == process->room) {
            size_t room = zc_max(1024, process->room * 2);
            uint64_t *pages = realloc(process->pages, room * sizeof(*pages));
            if (!pages)
                return -ENOMEM;
            process->pages = pages;
            process->room = room;
        }
        process->pages[process->count++] = start;
    }
    return 0;
}

int zc_process_attach(struct zc_process *process, int pid, size_t page_size)
{
    *process = (struct zc_process){.page_size = page_size, .mem = open_file(pid, "mem")};
    return process->mem < 0 ? process->mem : 0;
}

int zc_process_open(struct zc_process *process, int pid, size_t page_size)
{
    struct zc_process_walk walk = {.page_size = page_size, .visit = add_pages, .arg = process};
    int error = zc_process_attach(process, pid, page_size);
    if (error)
        return error;

    error = zc_process_walk(pid, &walk);
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
