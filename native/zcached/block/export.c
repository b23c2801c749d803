/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/block/export.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

int zc_transport_find(const char *name, const struct zc_transport **out, struct zc_text *why)
{
    static const struct zc_transport *const known[] = {&zc_ublk, &zc_nbd};

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        bool is_meant = !*name || strcmp(known[i]->name, name) == 0;
        if (is_meant && known[i]->is_there()) {
            *out = known[i];
            return 0;
        }
    }
    zc_text_add(why, "the kernel shows no %s; load the module ublk_drv or nbd",
                *name ? name : "ublk and no nbd");
    return -ENODEV;
}

/* The numbers in SYS/dev. */
static int read_numbers(const char *sys, dev_t *dev)
{
    char path[128], text[32] = "";
    unsigned major, minor;

    snprintf(path, sizeof(path), "%s/dev", sys);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? -ENODEV : -errno;
    ssize_t len = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (len <= 0 || sscanf(text, "%u:%u", &major, &minor) != 2)
        return -ENODEV;
    *dev = makedev(major, minor);
    return 0;
}

static bool is_node(const char *path, mode_t type, dev_t dev)
{
    struct stat st;

    return stat(path, &st) == 0 && (st.st_mode & S_IFMT) == type && st.st_rdev == dev;
}

int zc_device_node(const char *sys, bool is_block, char path[ZC_NODE_PATH_MAX])
{
    static const char *const places[] = {"/dev/", "/dev/block/", "/dev/zcache-"};
    const char *name = strrchr(sys, '/') + 1;
    mode_t type = is_block ? S_IFBLK : S_IFCHR;
    dev_t dev = 0;
    int error = read_numbers(sys, &dev);

    if (error)
        return error;
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        snprintf(path, ZC_NODE_PATH_MAX, "%s%s", places[i], name);
        if (is_node(path, type, dev))
            return 0;
    }
    unlink(path); /* of an earlier device: the last place is ours */
    return mknod(path, type | 0600, dev) == 0 ? 0 : -errno;
}

int zc_block_node(const char *name, char path[ZC_NODE_PATH_MAX])
{
    char sys[96];

    snprintf(sys, sizeof(sys), "/sys/class/block/%s", name);
    return zc_device_node(sys, true, path);
}

int zc_queue_set(const char *name, const char *what, size_t value)
{
    char path[96], text[24];

    snprintf(path, sizeof(path), "/sys/class/block/%s/queue/%s", name, what);
    int len = snprintf(text, sizeof(text), "%zu", value);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int error = write(fd, text, (size_t)len) == len ? 0 : -errno;
    close(fd);
    return error;
}
