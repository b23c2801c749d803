/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <zcache/proto.h>

#include "base/base.h"

#define BACKLOG (2 * (int)ZC_MAX_CONNECTIONS)
#define STATE_MAX 1024 /* bytes */
#define LOCK_TRIES 100u
#define LOCK_PAUSE_NS 10000000 /* between two */

static const char *const plane_names[2] = {"control", "data"};

static int fail(const char *path, const char *what, int error)
{
    fprintf(stderr, "zcached: %s: %s: %s\n", path, what, strerror(error));
    return -error;
}

/* A killed daemon holds its lock until its last thread has ended, which the OS may take a while for. */
static int lock_soon(int fd)
{
    for (unsigned tries = LOCK_TRIES; flock(fd, LOCK_EX | LOCK_NB) != 0; tries--) {
        if (errno != EWOULDBLOCK || tries == 1)
            return -errno;
        nanosleep(&(struct timespec){.tv_nsec = LOCK_PAUSE_NS}, NULL);
    }
    return 0;
}

static int take_lock(struct zc_rundir *rundir)
{
    char pid[16] = "";

    rundir->lock = openat(rundir->dir, "zcached.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (rundir->lock < 0)
        return fail(rundir->path, "cannot make zcached.lock", errno);
    int error = lock_soon(rundir->lock);
    if (error) {
        if (error != -EWOULDBLOCK)
            return fail(rundir->path, "cannot lock zcached.lock", -error);
        ssize_t len = pread(rundir->lock, pid, sizeof(pid) - 1, 0);
        pid[len > 0 ? len : 0] = '\0';
        fprintf(stderr, "zcached: %s is in use by pid %s; stop it, or use another --dir\n",
                rundir->path, *pid ? pid : "?");
        return -EBUSY;
    }
    int len = snprintf(pid, sizeof(pid), "%d", (int)getpid());
    if (ftruncate(rundir->lock, 0) != 0 || pwrite(rundir->lock, pid, (size_t)len, 0) != len)
        return fail(rundir->path, "cannot write zcached.lock", errno);
    return 0;
}

static void remove_leftovers(const struct zc_rundir *rundir)
{
    unlinkat(rundir->dir, "zcached.state", 0);
    unlinkat(rundir->dir, "control.sock", 0);
    unlinkat(rundir->dir, "data.sock", 0);
}

static int choose_addresses(struct zc_rundir *rundir, bool abstract)
{
    uint64_t token = 0;

    if (abstract && getrandom(&token, sizeof(token), 0) != sizeof(token))
        return fail(rundir->path, "no random name", errno);
    for (int plane = 0; plane < 2; plane++) {
        char *address = rundir->address[plane];
        int len = abstract ? snprintf(address, ZC_ADDRESS_MAX, "@zcache-%016llx-%s",
                                      (unsigned long long)token, plane_names[plane])
                           : snprintf(address, ZC_ADDRESS_MAX, "%s/%s.sock", rundir->path,
                                      plane_names[plane]);
        if (len >= (int)ZC_ADDRESS_MAX) {
            fprintf(stderr,
                    "zcached: %s: a socket's path has at most %zu bytes; use a shorter --dir\n",
                    rundir->path, ZC_ADDRESS_MAX - 1);
            return -ENAMETOOLONG;
        }
    }
    return 0;
}

int zc_rundir_open(struct zc_rundir *rundir, const char *path, bool abstract)
{
    *rundir = (struct zc_rundir){.path = path, .dir = -1, .lock = -1};
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return fail(path, "cannot make the run directory", errno);
    rundir->dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (rundir->dir < 0)
        return fail(path, "cannot open the run directory", errno);

    int error = take_lock(rundir);
    if (!error)
        error = choose_addresses(rundir, abstract);
    if (error) {
        if (rundir->lock >= 0)
            close(rundir->lock);
        close(rundir->dir);
        return error;
    }
    remove_leftovers(rundir);
    return 0;
}

void zc_rundir_close(struct zc_rundir *rundir)
{
    remove_leftovers(rundir);
    close(rundir->lock);
    close(rundir->dir);
}

int zc_rundir_publish(const struct zc_rundir *rundir, size_t page_size)
{
    char boot_id[40] = "";
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t len = read(fd, boot_id, sizeof(boot_id) - 1);
        boot_id[len > 0 ? len : 0] = '\0';
        boot_id[strcspn(boot_id, "\n")] = '\0';
        close(fd);
    }

    fd = openat(rundir->dir, "zcached.state.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int len = dprintf(fd,
                      "pid=%d\nversion=%s\nabi=%u\ncontrol=%s\ndata=%s\npage_size=%zu\n"
                      "started=%lld\nboot_id=%s\n",
                      (int)getpid(), ZC_VERSION, ZC_ABI, rundir->address[0], rundir->address[1],
                      page_size, (long long)time(NULL), boot_id);
    int error = len < 0 ? -errno : 0;
    close(fd);
    if (!error && renameat(rundir->dir, "zcached.state.new", rundir->dir, "zcached.state") != 0)
        error = -errno;
    if (error)
        unlinkat(rundir->dir, "zcached.state.new", 0);
    return error;
}

static socklen_t socket_address(const char *address, struct sockaddr_un *sa)
{
    size_t len = strlen(address);

    *sa = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(sa->sun_path, address, len);
    if (address[0] == '@')
        sa->sun_path[0] = '\0';
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
}

int zc_rundir_listen(const struct zc_rundir *rundir, enum zc_plane plane)
{
    struct sockaddr_un sa;
    socklen_t len = socket_address(rundir->address[plane], &sa);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;

    mode_t mask = umask(0177);
    int failed = bind(fd, (struct sockaddr *)&sa, len) != 0 || listen(fd, BACKLOG) != 0;
    int error = -errno;
    umask(mask);
    if (!failed)
        return fd;
    close(fd);
    return error;
}

int zc_rundir_connect(const char *path, enum zc_plane plane)
{
    char file[4096], state[STATE_MAX], key[16];
    struct sockaddr_un sa;

    if (snprintf(file, sizeof(file), "%s/zcached.state", path) >= (int)sizeof(file))
        return -ENAMETOOLONG;
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t size = read(fd, state, sizeof(state) - 1);
    close(fd);
    state[size > 0 ? size : 0] = '\0';

    snprintf(key, sizeof(key), "\n%s=", plane_names[plane]);
    char *address = strstr(state, key);
    if (!address)
        return -ENOENT;
    address += strlen(key);
    address[strcspn(address, "\n")] = '\0';
    if (strlen(address) >= ZC_ADDRESS_MAX)
        return -EINVAL;

    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    socklen_t len = socket_address(address, &sa);
    if (connect(fd, (struct sockaddr *)&sa, len) != 0) {
        int error = -errno;
        close(fd);
        return error;
    }
    return fd;
}

bool zc_peer_is_allowed(int fd, uid_t *uid, pid_t *pid)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0)
        return false;
    *uid = peer.uid;
    *pid = peer.pid;
    return peer.uid == 0 || peer.uid == geteuid();
}
