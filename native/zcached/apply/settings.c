/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/apply/settings.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/base.h"
#include "zcached/rundir.h"

#define PATH_MAX_ 256
#define SWAPS_MAX 8192    /* bytes of /proc/swaps */
#define ANSWER_SECONDS 30 /* of the daemon's */

/* ---- the system's calls ---- */

static int write_all(int fd, const char *text, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, text, len);
        if (n < 0 && errno != EINTR)
            return -errno;
        text += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* In one call: the kernel takes each for a value. */
static int write_value(const char *path, const char *value)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int error = write(fd, value, strlen(value)) < 0 ? -errno : 0;
    close(fd);
    return error;
}

static int make_swap(const char *device)
{
    size_t os_page = (size_t)sysconf(_SC_PAGESIZE);
    char *page = calloc(1, os_page);
    if (!page)
        return -ENOMEM;

    int fd = open(device, O_RDWR | O_CLOEXEC);
    off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    int error = size < 0 ? -errno : 0;
    if (!error) {
        zc_swap_header(page, os_page, (uint64_t)size);
        if (pwrite(fd, page, os_page, 0) != (ssize_t)os_page || fsync(fd) != 0)
            error = errno ? -errno : -EIO;
    }
    if (fd >= 0)
        close(fd);
    free(page);
    return error;
}

/* OK or ERR, and the rest, until the daemon ends the connection. */
static int receive(int fd, struct zc_text *answer)
{
    char part[512];
    ssize_t len;

    while ((len = read(fd, part, sizeof(part))) > 0)
        zc_text_append(answer, part, (size_t)len);
    if (len < 0)
        return errno == EAGAIN ? -ETIMEDOUT : -errno;
    return answer->error ? answer->error : answer->len ? 0 : -EPIPE;
}

static int ask(const char *dir, const char *request, struct zc_text *answer)
{
    const struct timeval patience = {.tv_sec = ANSWER_SECONDS};
    struct zc_text said = {0};
    int fd = zc_rundir_connect(dir, ZC_CONTROL_PLANE);
    if (fd < 0)
        return fd;

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    int error = write_all(fd, request, strlen(request));
    if (!error)
        error = write_all(fd, "\n", 1);
    shutdown(fd, SHUT_WR);
    if (!error)
        error = receive(fd, &said);
    close(fd);
    char *rest = error ? NULL : strchr(said.data, ' ');
    if (!error &&
        (!rest || (strncmp(said.data, "OK ", 3) != 0 && strncmp(said.data, "ERR ", 4) != 0)))
        error = -EPROTO;
    if (!error && said.data[0] == 'E') {
        said.data[said.len - 1] = '\0'; /* its newline */
        error = strncmp(rest + 1, "ENOENT ", 7) == 0 ? -ENOENT : -EINVAL;
        rest = strchr(rest + 1, ' ');
        zc_text_add(answer, "%s", rest ? rest + 1 : "refused");
    } else if (!error) {
        rest = strchr(rest, '\n');
        zc_text_add(answer, "%.*s", (int)strcspn(rest + 1, "\n"), rest + 1);
    }
    zc_text_free(&said);
    return error;
}

static int put_file(int dir, const char *name, const char *text)
{
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    int error = write_all(fd, text, strlen(text));
    if (!error && fsync(fd) != 0)
        error = -errno;
    close(fd);
    return error;
}

static int move_file(int dir, const char *from, const char *to)
{
    return renameat(dir, from, dir, to) == 0 && fsync(dir) == 0 ? 0 : -errno;
}

static int drop_file(int dir, const char *name)
{
    if (unlinkat(dir, name, 0) != 0)
        return -errno;
    fsync(dir); /* after a loss of power the journal is of another boot: it may be there */
    return 0;
}

const struct zc_system_calls zc_system_calls = {
    .write = write_value,
    .make_swap = make_swap,
    .swap_on = zc_swap_on,
    .swap_off = zc_swap_off,
    .ask = ask,
    .put = put_file,
    .move = move_file,
    .drop = drop_file,
};

/* ---- files ---- */

static int in_root(const struct zc_system *system, const char *path, char full[PATH_MAX_])
{
    return snprintf(full, PATH_MAX_, "%s%s", system->root, path) < PATH_MAX_ ? 0 : -ENAMETOOLONG;
}

int zc_setting_read_at(int dir, const char *path, char *text, size_t size)
{
    int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
    size_t len = 0;
    ssize_t n = 0;

    *text = '\0';
    if (fd < 0)
        return -errno;
    while (len < size - 1 && (n = read(fd, text + len, size - 1 - len)) > 0)
        len += (size_t)n;
    int error = n < 0 ? -errno : 0;
    close(fd);
    text[len] = '\0';
    if (len && text[len - 1] == '\n')
        text[len - 1] = '\0';
    return error;
}

int zc_setting_read(const struct zc_system *system, const char *path, char *text, size_t size)
{
    char full[PATH_MAX_];
    int error = in_root(system, path, full);

    *text = '\0';
    return error ? error : zc_setting_read_at(AT_FDCWD, full, text, size);
}

size_t zc_setting_swaps(const struct zc_system *system,
                        struct zc_swap_area areas[ZC_SWAP_AREAS_MAX])
{
    char text[SWAPS_MAX];
    int error = zc_setting_read(system, "/proc/swaps", text, sizeof(text));

    return error ? 0 : zc_swaps_parse(text, areas);
}

/* Writes a file that shows nothing, or another thing than it was told. */
static int write_blindly(const struct zc_system *system, const char *path, const char *value,
                         struct zc_text *why)
{
    char full[PATH_MAX_];
    int error = in_root(system, path, full);

    if (!error)
        error = system->calls->write(full, value);
    if (error)
        zc_text_add(why, "%s: the kernel refuses '%s': %s", path, value, strerror(-error));
    return error;
}

int zc_setting_write(const struct zc_system *system, const char *path, const char *value,
                     struct zc_text *why)
{
    char now[ZC_SETTING_MAX];
    int error = write_blindly(system, path, value, why);

    if (error)
        return error;
    error = zc_setting_read(system, path, now, sizeof(now));
    if (error) {
        zc_text_add(why, "%s: %s", path, strerror(-error));
        return error;
    }
    if (strcmp(now, value) == 0)
        return 0;
    zc_text_add(why, "%s: the kernel made '%s' of '%s'", path, now, value);
    return -EINVAL;
}
