/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/block/swaps.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

#include "zcached/shortage.h"

#define SWAPS "/proc/swaps"
#define TEXT_MAX 8192 /* bytes */
#define KB 1024u
#define DISCARD_PAGES 0x40000 /* Linux, include/linux/swap.h; not in every libc */

size_t zc_swaps_parse(const char *text, struct zc_swap_area areas[ZC_SWAP_AREAS_MAX])
{
    size_t count = 0;
    const char *line = strchr(text, '\n'); /* after the heading */

    for (; line && count < ZC_SWAP_AREAS_MAX; line = strchr(line, '\n')) {
        struct zc_swap_area *area = &areas[count];
        line++;
        if (sscanf(line, "%127s %*s %" SCNu64 " %" SCNu64 " %d", area->path, &area->size,
                   &area->used, &area->priority) != 4)
            continue;
        area->size *= KB;
        area->used *= KB;
        count++;
    }
    return count;
}

size_t zc_swaps_read(struct zc_swap_area areas[ZC_SWAP_AREAS_MAX])
{
    char text[TEXT_MAX];
    size_t size = 0;
    ssize_t len;
    int fd = open(SWAPS, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;

    while (size < sizeof(text) - 1 && (len = read(fd, text + size, sizeof(text) - 1 - size)) > 0)
        size += (size_t)len;
    close(fd);
    text[size] = '\0';
    return zc_swaps_parse(text, areas);
}

/* ---- of one device ---- */

/* As the kernel calls it, whatever its node is called: zc_device_node() puts a word before it. */
static const char *name_of(const char *node)
{
    static const char ours[] = "zcache-";
    const char *slash = strrchr(node, '/'), *name = slash ? slash + 1 : node;

    return strncmp(name, ours, strlen(ours)) == 0 ? name + strlen(ours) : name;
}

static bool is_of(const char *path, const char *device)
{
    const char *name = name_of(path), *whole = name_of(device);
    size_t len = strlen(whole);
    unsigned number;

    return strncmp(name, whole, len) == 0 &&
           (!name[len] || sscanf(name + len, "p%u", &number) == 1);
}

/* How many; the last to be filled first. */
static size_t read_areas_of(const char *device, struct zc_swap_area areas[ZC_SWAP_AREAS_MAX])
{
    size_t all = zc_swaps_read(areas), count = 0;

    for (size_t i = 0; i < all; i++) {
        struct zc_swap_area area = areas[i];
        size_t at = count;
        if (!is_of(area.path, device))
            continue;
        for (; at > 0 && areas[at - 1].priority > area.priority; at--)
            areas[at] = areas[at - 1];
        areas[at] = area;
        count++;
    }
    return count;
}

bool zc_swaps_find(const char *device, struct zc_swap_area *area)
{
    struct zc_swap_area areas[ZC_SWAP_AREAS_MAX];
    size_t count = read_areas_of(device, areas);

    if (count == 0)
        return false;
    *area = areas[0];
    snprintf(area->path, sizeof(area->path), "%s", device);
    for (size_t i = 1; i < count; i++) {
        area->size += areas[i].size;
        area->used += areas[i].used;
    }
    return true;
}

/* ---- on and off ---- */

/* Linux, include/linux/swap.h, union swap_header. */
void zc_swap_header(char *page, size_t os_page, uint64_t size)
{
    static const char magic[] = "SWAPSPACE2"; /* without its end */
    const uint32_t info[3] = {1, (uint32_t)(size / os_page - 1),
                              0}; /* version, last page, bad pages */

    memcpy(page + 1024, info, sizeof(info));
    memcpy(page + os_page - strlen(magic), magic, strlen(magic));
}

int zc_swap_on(const char *path, int priority)
{
    int flags = SWAP_FLAG_DISCARD | DISCARD_PAGES;

    if (priority >= 0)
        flags |= SWAP_FLAG_PREFER | (priority & SWAP_FLAG_PRIO_MASK);
    return swapon(path, flags) == 0 ? 0 : -errno;
}

static int off(const char *path)
{
    pid_t pid = fork();
    int status = 0;

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        zc_shortage_be_usual();
        _exit(swapoff(path) == 0 ? 0 : errno);
    }
    if (pid < 0)
        return -errno;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    return WIFEXITED(status) ? -WEXITSTATUS(status) : -ENOMEM; /* the OOM killer's */
}

int zc_swap_off(const char *device)
{
    struct zc_swap_area areas[ZC_SWAP_AREAS_MAX];
    size_t count = read_areas_of(device, areas), done = 0;
    int error = count ? 0 : -EINVAL;

    while (done < count && (error = off(areas[done].path)) == 0)
        done++;
    while (error && done > 0) {
        done--;
        zc_swap_on(areas[done].path, areas[done].priority);
    }
    return error;
}
