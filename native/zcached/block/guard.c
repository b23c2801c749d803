/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/block/guard.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "zcached/block/export.h"
#include "zcached/block/kernel_reserve.h"
#include "zcached/block/nbd_link.h"
#include "zcached/block/ublk.h"
#include "zcached/commands.h"
#include "zcached/shortage.h"

#define SELF "/proc/self/exe"
#define LOOK_MS 200

extern char **environ;

/* ---- the daemon's side ---- */

static int spawn(pid_t *pid, int lifeline, int errors, const char *path, unsigned long reserve)
{
    char kib[24];
    char *const words[] = {"zcached", "guard", (char *)path, kib, NULL};
    posix_spawn_file_actions_t actions;

    snprintf(kib, sizeof(kib), "%lu", reserve);
    int error = posix_spawn_file_actions_init(&actions);
    if (error)
        return -error;
    error = posix_spawn_file_actions_adddup2(&actions, lifeline, STDIN_FILENO);
    if (!error && errors >= 0)
        error = posix_spawn_file_actions_adddup2(&actions, errors, STDERR_FILENO);
    if (!error)
        error = posix_spawn(pid, SELF, &actions, NULL, words, environ);
    posix_spawn_file_actions_destroy(&actions);
    return -error;
}

int zc_guard_start(struct zc_guard *guard, const char *path, unsigned long reserve, int errors)
{
    int ends[2];

    *guard = (struct zc_guard){.lifeline = -1};
    if (pipe2(ends, O_CLOEXEC) != 0)
        return -errno;
    int error = spawn(&guard->pid, ends[0], errors, path, reserve);
    close(ends[0]);
    if (error)
        close(ends[1]);
    else
        guard->lifeline = ends[1];
    return error;
}

void zc_guard_end(struct zc_guard *guard)
{
    if (guard->lifeline < 0)
        return;
    /* A word: without one, it was killed. */
    ssize_t len = write(guard->lifeline, "", 1);
    (void)len;
    close(guard->lifeline);
    while (waitpid(guard->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    guard->lifeline = -1;
}

/* The words of a process's command line, the first `count`; each ends with a NUL. */
static bool read_words(const char *pid, char *text, size_t size, const char *words[], size_t count)
{
    char path[300];

    snprintf(path, sizeof(path), "/proc/%s/cmdline", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t len = read(fd, text, size - 1);
    close(fd);
    text[len > 0 ? len : 0] = '\0';
    const char *end = text + (len > 0 ? len : 0);
    for (size_t i = 0; i < count; i++, text += strlen(text) + 1) {
        if (text >= end)
            return false;
        words[i] = text;
    }
    return true;
}

/* What mourn() was started with. */
static bool find_guarded(const char *pid, struct zc_orphan *orphan)
{
    char text[256];
    const char *words[5];

    if (!read_words(pid, text, sizeof(text), words, 5) || strcmp(words[0], "zcached") != 0 ||
        strcmp(words[1], "guard") != 0 || !zc_swaps_find(words[2], &orphan->area))
        return false;
    orphan->lost = strtoull(words[4], NULL, 10);
    return true;
}

bool zc_guard_find_orphan(struct zc_orphan *orphan)
{
    DIR *processes = opendir("/proc");
    struct dirent *entry;
    bool is_found = false;

    if (!processes)
        return false;
    while (!is_found && (entry = readdir(processes)))
        is_found = atoi(entry->d_name) > 0 && find_guarded(entry->d_name, orphan);
    closedir(processes);
    return is_found;
}

/* ---- the guard ---- */

/* Waits until the daemon says that the device is not in use any more, or is gone. */
static bool was_killed(void)
{
    char byte;
    ssize_t len;

    do
        len = read(STDIN_FILENO, &byte, 1);
    while (len < 0 && errno == EINTR);
    return len <= 0;
}

static void wait_for_swapoff(const char *path)
{
    struct zc_swap_area area;

    while (zc_swaps_find(path, &area))
        poll(NULL, 0, LOOK_MS);
}

static void say(const char *path, const char *what)
{
    fprintf(stderr, "zcached: guard of %s: %s\n", path, what);
}

/* nbd keeps what is under way until its time is up. */
static void fail_requests(const char *path)
{
    const char *name = strrchr(path, '/');
    uint32_t index;

    if (name && sscanf(name + 1, "nbd%" SCNu32, &index) == 1)
        zc_nbd_disconnect(index);
}

/* The daemon is gone. As a program anew, since its command line tells others of it. Returns where there is nothing to
 * mourn. */
static int become_mourner(const char *path, const char *reserve)
{
    struct zc_swap_area area;
    char lost[24], text[96];

    if (!zc_swaps_find(path, &area))
        return ZC_EXIT_OK;
    snprintf(lost, sizeof(lost), "%" PRIu64, area.used / (uint64_t)sysconf(_SC_PAGESIZE));
    snprintf(text, sizeof(text),
             "zcached was killed; up to %s pages that were swapped out are lost", lost);
    say(path, text);
    char *const words[] = {"zcached", "guard", (char *)path, (char *)reserve, lost, NULL};
    execv(SELF, words);
    say(path, strerror(errno));
    return ZC_EXIT_FAILED;
}

/* A killed process that had much memory may take long to end, and the kernel has the device busy until then. */
static int adopt(const char *name, struct zc_export **out, struct zc_text *why)
{
    struct zc_swap_area area;
    int error;

    while ((error = zc_ublk_adopt(name, out, why)) == -EBUSY && zc_swaps_find(name, &area))
        zc_text_free(why);
    return error;
}

static int mourn(const char *path)
{
    struct zc_export *export = NULL;
    struct zc_text why = {0};
    const char *name = strrchr(path, '/');
    int error = 0;

    if (name && zc_ublk_is_name(name + 1))
        error = adopt(name + 1, &export, &why);
    if (error)
        say(path, why.data ? why.data : strerror(-error));
    zc_text_free(&why);
    wait_for_swapoff(path);
    if (export)
        zc_ublk.close(export);
    return error ? ZC_EXIT_FAILED : ZC_EXIT_OK;
}

/* What is to be done for a device once its daemon was killed. */
static int attend(const char *path, const char *reserve, const char *lost)
{
    int code;

    if (lost) {
        code = mourn(path);
    } else {
        fail_requests(path);
        code = become_mourner(path, reserve);
    }
    zc_kernel_reserve_restore(strtoul(reserve, NULL, 10));
    return code;
}

int zc_guard(const char *path, const char *reserve, const char *lost)
{
    struct zc_shortage shortage;
    struct zc_text refused = {0};

    prctl(PR_SET_NAME, "zc-guard");
    setsid(); /* what ends the daemon's group is not to end the guard */
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    zc_shortage_begin(&shortage, &refused);
    zc_text_free(&refused); /* the daemon said the same */
    if (!lost && !was_killed())
        return ZC_EXIT_OK;
    return attend(path, reserve, lost);
}
