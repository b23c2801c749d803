/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/commands/samples.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "zcached/process.h"

#define PROCESSES_MAX 64u
#define FILES_MAX 16u
#define FILE_MIN (64 * 1024) /* bytes; the largest are wanted */
#define ENTRIES_MAX 50000u   /* of directories, looked at at most */
#define DEPTH_MAX 4u         /* of directories */
#define PATH_SIZE 512

int zc_samples_init(struct zc_samples *samples, size_t page_size, size_t most)
{
    *samples = (struct zc_samples){.page_size = page_size, .most = most};
    samples->pages = most <= SIZE_MAX / page_size ? malloc(most * page_size) : NULL;
    return samples->pages ? 0 : -ENOMEM;
}

void zc_samples_fini(struct zc_samples *samples)
{
    free(samples->pages);
}

/* Where the next page is read to. */
static char *next_page(const struct zc_samples *samples)
{
    return samples->pages + samples->count * samples->page_size;
}

/* The next page was read. */
static void take_page(struct zc_samples *samples)
{
    const char *page = next_page(samples);

    if (memcmp(page, page + sizeof(uint64_t), samples->page_size - sizeof(uint64_t)) == 0)
        samples->same_filled++;
    else
        samples->count++;
}

static size_t room(const struct zc_samples *samples)
{
    return samples->most - samples->count;
}

/* The i-th of `count` places in `there`. */
static size_t spread(size_t i, size_t there, size_t count)
{
    return (size_t)((uint64_t)i * there / count);
}

/* ---- processes ---- */

static int add_process(struct zc_samples *samples, int pid, size_t most)
{
    struct zc_process process;
    size_t before = samples->count;
    int error = zc_process_open(&process, pid, samples->page_size);
    if (error)
        return error;

    size_t count = zc_min(process.count, most);
    for (size_t i = 0; i < count; i++) {
        int got = zc_process_read(&process, process.pages[spread(i, process.count, count)],
                                  next_page(samples));
        if (got < 0)
            break;
        if (got)
            take_page(samples);
    }
    zc_process_close(&process);
    samples->processes += samples->count > before;
    return samples->count > before ? 0 : -ENODATA;
}

int zc_samples_add_process(struct zc_samples *samples, int pid)
{
    return add_process(samples, pid, room(samples));
}

/* Ids of other processes of this user. How many. */
static size_t list_processes(int *pids)
{
    DIR *proc = opendir("/proc");
    size_t count = 0;

    for (struct dirent *entry; proc && count < PROCESSES_MAX && (entry = readdir(proc));) {
        struct stat st;
        int pid = atoi(entry->d_name);
        if (pid > 0 && pid != (int)getpid() && fstatat(dirfd(proc), entry->d_name, &st, 0) == 0 &&
            st.st_uid == geteuid())
            pids[count++] = pid;
    }
    if (proc)
        closedir(proc);
    return count;
}

/* ---- files ---- */

static int add_file(struct zc_samples *samples, const char *path, size_t most)
{
    struct stat st;
    size_t before = samples->count;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) != 0) {
        int error = -errno;
        if (fd >= 0)
            close(fd);
        return error;
    }
    size_t there = (size_t)st.st_size / samples->page_size, count = zc_min(there, most);
    for (size_t i = 0; i < count; i++) {
        off_t at = (off_t)spread(i, there, count) * (off_t)samples->page_size;
        if (pread(fd, next_page(samples), samples->page_size, at) == (ssize_t)samples->page_size)
            take_page(samples);
    }
    close(fd);
    samples->files += samples->count > before;
    return samples->count > before ? 0 : -ENODATA;
}

int zc_samples_add_file(struct zc_samples *samples, const char *path)
{
    return add_file(samples, path, room(samples));
}

struct found {
    char path[PATH_SIZE];
    off_t size;
    dev_t device;
    ino_t inode;
};

/* The largest files found, the largest first. */
struct search {
    struct found found[FILES_MAX];
    size_t count;
    unsigned entries; /* looked at */
};

static void keep_if_large(struct search *search, const char *path, const struct stat *st)
{
    size_t at = 0;

    for (size_t i = 0; i < search->count; i++) { /* two paths may lead to it */
        if (search->found[i].inode == st->st_ino && search->found[i].device == st->st_dev)
            return;
    }
    while (at < search->count && search->found[at].size >= st->st_size)
        at++;
    if (at == FILES_MAX)
        return;
    search->count = zc_min(search->count + 1, FILES_MAX);
    memmove(search->found + at + 1, search->found + at,
            (search->count - 1 - at) * sizeof(*search->found));
    search->found[at] =
        (struct found){.size = st->st_size, .device = st->st_dev, .inode = st->st_ino};
    snprintf(search->found[at].path, PATH_SIZE, "%s", path);
}

static void search_directory(struct search *search, const char *path, unsigned depth)
{
    DIR *directory = opendir(path);

    for (struct dirent *entry;
         directory && search->entries < ENTRIES_MAX && (entry = readdir(directory));) {
        char below[PATH_SIZE];
        struct stat st;
        int len = snprintf(below, sizeof(below), "%s/%s", path, entry->d_name);
        search->entries++;
        if (entry->d_name[0] == '.' || len >= PATH_SIZE || lstat(below, &st) != 0)
            continue;
        if (S_ISDIR(st.st_mode) && depth < DEPTH_MAX)
            search_directory(search, below, depth + 1);
        else if (S_ISREG(st.st_mode) && st.st_size >= FILE_MIN && strstr(entry->d_name, ".so"))
            keep_if_large(search, below, &st);
    }
    if (directory)
        closedir(directory);
}

static void add_libraries(struct zc_samples *samples)
{
    static const char *const places[] = {"/system/lib64", "/system/lib", "/usr/lib", "/lib"};
    struct search *search = calloc(1, sizeof(*search));

    for (size_t i = 0; search && i < sizeof(places) / sizeof(places[0]); i++)
        search_directory(search, places[i], 1);
    for (size_t i = 0; search && i < search->count; i++)
        add_file(samples, search->found[i].path, room(samples) / (search->count - i));
    free(search);
}

int zc_samples_add_device(struct zc_samples *samples)
{
    int pids[PROCESSES_MAX];
    size_t most = samples->most, count = list_processes(pids);

    samples->most = most / 2;
    for (size_t i = 0; i < count; i++)
        add_process(samples, pids[i], room(samples) / (count - i));
    samples->most = most;
    add_libraries(samples);
    if (room(samples))
        add_file(samples, "/proc/self/exe", room(samples));
    return samples->count ? 0 : -ENODATA;
}

/* A piece at a time: it needs no page of memory. */
static void swap_pages(char *a, char *b, size_t page_size)
{
    char piece[256];

    for (size_t at = 0; at < page_size; at += sizeof(piece)) {
        memcpy(piece, a + at, sizeof(piece));
        memcpy(a + at, b + at, sizeof(piece));
        memcpy(b + at, piece, sizeof(piece));
    }
}

void zc_samples_shuffle(struct zc_samples *samples)
{
    for (size_t i = samples->count; i > 1; i--) {
        size_t other = zc_mix64(i) % i;
        if (other != i - 1)
            swap_pages(samples->pages + (i - 1) * samples->page_size,
                       samples->pages + other * samples->page_size, samples->page_size);
    }
}
