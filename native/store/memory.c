/* SPDX-License-Identifier: Apache-2.0 */
#include "store/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"

#define PERIOD_NS UINT64_C(100000000)
#define LOW_PERCENT 5u
/* Some task waits for memory for 150 ms of 2 s, the shortest time that Linux grants to everybody.
 * Linux, Documentation/accounting/psi.rst */
#define PSI_TRIGGER "some 150000 2000000"
#define LOW_BYTES (UINT64_C(16) << 20)

/* The value of "NAME: N kB" in bytes; 0: not there. */
static uint64_t field(const char *meminfo, const char *name)
{
    const char *at = strstr(meminfo, name);

    return at ? strtoull(at + strlen(name), NULL, 10) * 1024 : 0;
}

static bool read_meminfo(const struct zc_memory *memory, char *buf, size_t size)
{
    ssize_t len = pread(memory->meminfo, buf, size - 1, 0);
    if (len <= 0)
        return false;

    buf[len] = '\0';
    return true;
}

/* The number in a file; UINT64_MAX: no file, or no number ("max"). */
static uint64_t number_in(const char *path)
{
    char buf[32];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return UINT64_MAX;

    ssize_t len = read(fd, buf, sizeof(buf) - 1);
    close(fd);
    if (len <= 0 || buf[0] < '0' || buf[0] > '9')
        return UINT64_MAX;
    buf[len] = '\0';
    return strtoull(buf, NULL, 10);
}

/* The least limit on the way from the cgroup `group` (ends in this buffer) up to the root. */
static uint64_t limit_upwards(const char *dir, const char *controller, char *group,
                              const char *file)
{
    uint64_t least = UINT64_MAX;
    char path[PATH_MAX];

    for (;;) {
        int len = snprintf(path, sizeof(path), "%s%s%s/%s", dir, controller, group, file);
        if (len < (int)sizeof(path)) {
            uint64_t limit = number_in(path);
            least = limit < least ? limit : least;
        }
        char *slash = strrchr(group, '/');
        if (!slash)
            return least;
        *slash = '\0';
    }
}

/* This process's cgroup memory limit, version 2 ("0::/path") or 1 ("N:…,memory,…:/path"). */
static uint64_t cgroup_limit(const char *proc_dir, const char *cgroup_dir)
{
    uint64_t least = UINT64_MAX;
    char path[PATH_MAX], line[PATH_MAX];

    snprintf(path, sizeof(path), "%s/self/cgroup", proc_dir);
    FILE *file = fopen(path, "re");
    if (!file)
        return least;

    while (fgets(line, sizeof(line), file)) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *controllers++ = '\0';
        *group++ = '\0';
        if (strcmp(group, "/") == 0)
            *group = '\0';

        uint64_t limit = UINT64_MAX;
        if (!*controllers)
            limit = limit_upwards(cgroup_dir, "", group, "memory.max");
        else if (strstr(controllers, "memory"))
            limit = limit_upwards(cgroup_dir, "/memory", group, "memory.limit_in_bytes");
        least = limit < least ? limit : least;
    }
    fclose(file);
    return least;
}

int zc_memory_init(struct zc_memory *memory, const char *proc_dir, const char *cgroup_dir)
{
    char path[PATH_MAX], buf[4096];

    *memory = (struct zc_memory){.meminfo = -1, .pressure = -1};
    proc_dir = proc_dir ? proc_dir : "/proc";
    cgroup_dir = cgroup_dir ? cgroup_dir : "/sys/fs/cgroup";
    if (snprintf(path, sizeof(path), "%s/meminfo", proc_dir) >= (int)sizeof(path))
        return -ENAMETOOLONG;

    memory->meminfo = open(path, O_RDONLY | O_CLOEXEC);
    if (memory->meminfo < 0)
        return -errno;
    uint64_t total = read_meminfo(memory, buf, sizeof(buf)) ? field(buf, "MemTotal:") : 0;
    if (total == 0) {
        close(memory->meminfo);
        return -EIO;
    }

    uint64_t limit = cgroup_limit(proc_dir, cgroup_dir);
    memory->total = limit < total ? limit : total;
    memory->low = total * LOW_PERCENT / 100 > LOW_BYTES ? total * LOW_PERCENT / 100 : LOW_BYTES;
    pthread_mutex_init(&memory->lock, NULL);
    if (snprintf(path, sizeof(path), "%s/pressure/memory", proc_dir) < (int)sizeof(path))
        memory->pressure = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    return 0;
}

void zc_memory_fini(struct zc_memory *memory)
{
    close(memory->meminfo);
    if (memory->pressure >= 0)
        close(memory->pressure);
    pthread_mutex_destroy(&memory->lock);
}

static uint64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

bool zc_memory_low(struct zc_memory *memory, uint64_t used)
{
    char buf[4096];
    uint64_t time = now();

    if (ZC_LIKELY(time < memory->next && used < memory->mark + memory->low / 4))
        return memory->short_now;
    if (pthread_mutex_trylock(&memory->lock) != 0)
        return memory->short_now; /* somebody reads it now */

    if (read_meminfo(memory, buf, sizeof(buf))) {
        uint64_t available = field(buf, "MemAvailable:"); /* since Linux 3.14 */
        memory->short_now = available < memory->low;
    }
    memory->next = time + PERIOD_NS;
    memory->mark = used;
    pthread_mutex_unlock(&memory->lock);
    return memory->short_now;
}

bool zc_memory_watch(struct zc_memory *memory)
{
    return memory->pressure >= 0 &&
           write(memory->pressure, PSI_TRIGGER, sizeof(PSI_TRIGGER)) == sizeof(PSI_TRIGGER);
}
