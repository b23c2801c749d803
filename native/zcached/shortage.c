/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/shortage.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "base/thread.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57 /* Linux 5.6 */
#define PR_GET_IO_FLUSHER 58
#endif
#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1u /* Linux 4.4 */
#endif

#define OOM "/proc/self/oom_score_adj"
#define NEVER "-1000"
#define USUAL "0"
#define MAPS "/proc/self/maps"
#define MAPS_BYTES 4096u /* of it, at a time; more than a line has */
#define LOCK_SECONDS 1
#define STACK_BYTES (64u * 1024)
#define NICEST (-20)

void zc_shortage_be_flusher(void)
{
    prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
}

static int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;

    ssize_t len = write(fd, text, strlen(text));
    int error = len < 0 ? -errno : 0;
    close(fd);
    return error;
}

/* ---- memory ---- */

/* A line of /proc/self/maps. What the kernel itself maps is no memory; what is shared is a client's segment, whose size
 * is the client's business. Of files all is to be there: where they lie in a tmpfs they are swapped out themselves. */
static int lock_mapping(const char *line)
{
    uintptr_t start, end;
    char rights[5];

    if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s", &start, &end, rights) != 3 ||
        strstr(line, " [v"))
        return 0;
    void *at = (void *)start; /* NOLINT(performance-no-int-to-ptr) */
    if (rights[3] != 'p')
        return munlock(at, end - start) == 0 ? 0 : -errno;
    return mlock2(at, end - start, strchr(line, '/') ? 0 : MLOCK_ONFAULT) == 0 ? 0 : -errno;
}

int zc_shortage_lock(void)
{
    char text[MAPS_BYTES + 1], *line, *next;
    size_t size = 0;
    ssize_t len;
    int first = 0;
    int fd = open(MAPS, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;

    while ((len = read(fd, text + size, MAPS_BYTES - size)) > 0) {
        size += (size_t)len;
        text[size] = '\0';
        for (line = text; (next = strchr(line, '\n')); line = next + 1) {
            *next = '\0';
            int error = lock_mapping(line);
            first = first ? first : error;
        }
        size -= (size_t)(line - text);
        memmove(text, line, size);
    }
    close(fd);
    return first;
}

static void *locker_main(void *arg)
{
    struct zc_shortage *shortage = arg;
    struct timespec until;

    prctl(PR_SET_NAME, "zc-lock");
    pthread_mutex_lock(&shortage->lock);
    while (!shortage->stopping) {
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += LOCK_SECONDS;
        pthread_cond_timedwait(&shortage->wakes, &shortage->lock, &until);
        zc_shortage_lock();
    }
    pthread_mutex_unlock(&shortage->lock);
    return NULL;
}

/* ---- threads ---- */

static int schedule(int thread, bool is_urgent)
{
    const struct sched_param param = {.sched_priority = is_urgent};
    int policy = is_urgent ? SCHED_RR : SCHED_OTHER;
    int error = syscall(SYS_sched_setscheduler, thread, policy, &param) == 0 ? 0 : -errno;

    setpriority(PRIO_PROCESS, (id_t)thread, is_urgent && error ? NICEST : 0);
    return error;
}

/* All threads there are; those that come later inherit it. Real-time threads may use half of the memory below the
 * kernel's minimum (vm.min_free_kbytes), where all others have to wait: else whoever fills memory takes every page
 * that a write frees, and the next write finds no frame. Where they may not be that, they are as nice as can be. */
static int schedule_all(bool is_urgent)
{
    DIR *threads = opendir("/proc/self/task");
    struct dirent *entry;
    int error = 0;

    if (!threads)
        return -errno;
    while ((entry = readdir(threads))) {
        int thread = atoi(entry->d_name);
        int failed = thread > 0 ? schedule(thread, is_urgent) : 0;
        error = error ? error : failed;
    }
    closedir(threads);
    return error;
}

/* ---- all of it ---- */

void zc_shortage_be_usual(void)
{
    prctl(PR_SET_IO_FLUSHER, 0, 0, 0, 0);
    schedule_all(false);
    write_file(OOM, USUAL);
}

static void refuse(struct zc_text *refused, const char *what, int error)
{
    zc_text_add(refused, "%s%s: %s", refused->len ? "; " : "", what, strerror(-error));
}

void zc_shortage_begin(struct zc_shortage *shortage, struct zc_text *refused)
{
    *shortage = (struct zc_shortage){0};
    pthread_mutex_init(&shortage->lock, NULL);
    pthread_cond_init(&shortage->wakes, NULL);
    int error = zc_shortage_lock();
    if (error)
        refuse(refused, "memory is not locked", error);
    error = zc_thread_start(&shortage->locker, STACK_BYTES, locker_main, shortage);
    shortage->has_locker = !error;
    if (error)
        refuse(refused, "memory that comes later is not locked", error);
    error = schedule_all(true);
    if (error)
        refuse(refused, "threads are not real-time, but nice", error);
    error = write_file(OOM, NEVER);
    if (error)
        refuse(refused, "the OOM killer may choose zcached", error);
    if (prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0) != 1)
        refuse(refused, "no IO_FLUSHER", -EPERM);
}

void zc_shortage_end(struct zc_shortage *shortage)
{
    pthread_mutex_lock(&shortage->lock);
    shortage->stopping = true;
    pthread_cond_signal(&shortage->wakes);
    pthread_mutex_unlock(&shortage->lock);
    if (shortage->has_locker)
        pthread_join(shortage->locker, NULL);
    pthread_cond_destroy(&shortage->wakes);
    pthread_mutex_destroy(&shortage->lock);
    munlockall();
    schedule_all(false);
    write_file(OOM, USUAL);
}

/* The process whose cgroup this is, as Android names them: …/uid_0/pid_123; 0: none. */
static int cgroup_leader(void)
{
    char text[1024];
    int leader = 0;
    int fd = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;

    ssize_t len = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[len > 0 ? len : 0] = '\0';
    const char *at = strstr(text, "/pid_");
    return at && sscanf(at, "/pid_%d", &leader) == 1 ? leader : 0;
}

bool zc_dies_with_adbd(void)
{
    char path[48], name[16] = "";
    int leader = cgroup_leader();

    if (leader == 0)
        return false;
    snprintf(path, sizeof(path), "/proc/%d/comm", leader);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t len = read(fd, name, sizeof(name) - 1);
    close(fd);
    return len > 0 && strncmp(name, "adbd", 4) == 0;
}
