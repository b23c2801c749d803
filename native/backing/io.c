/* SPDX-License-Identifier: Apache-2.0 */
/* The system's calls. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backing/inside.h"
#include "base/base.h"

static int result(int64_t value)
{
    return value < 0 ? -errno : (int)value;
}

static int io_open(void *arg, const char *path, int flags)
{
    (void)arg;
    return result(open(path, flags | O_CLOEXEC, 0600));
}

static void io_close(void *arg, int fd)
{
    (void)arg;
    close(fd);
}

static int io_lock(void *arg, int fd)
{
    (void)arg;
    return result(flock(fd, LOCK_EX | LOCK_NB));
}

static int io_info(void *arg, int fd, struct zc_medium_info *out)
{
    struct stat st;

    (void)arg;
    if (fstat(fd, &st) != 0)
        return -errno;
    *out = (struct zc_medium_info){.size = (uint64_t)st.st_size,
                                   .is_device = S_ISBLK(st.st_mode),
                                   .is_file = S_ISREG(st.st_mode),
                                   .tells_direct = zc_tells_direct(fd)};
    return out->is_device ? result(ioctl(fd, BLKGETSIZE64, &out->size)) : 0;
}

static ssize_t io_pread(void *arg, int fd, void *bytes, size_t size, uint64_t at)
{
    (void)arg;
    return result(pread(fd, bytes, size, (off_t)at));
}

static int io_is_cached(void *arg, int fd, uint64_t at)
{
    unsigned char resident[ZC_BLOCK] = {0}; /* at least one a page of the OS */
    size_t os_page = (size_t)sysconf(_SC_PAGESIZE);
    off_t from = (off_t)(at & ~(uint64_t)(os_page - 1));

    (void)arg;
    void *map = mmap(NULL, os_page, PROT_READ, MAP_SHARED, fd, from);
    if (map == MAP_FAILED)
        return -errno;
    int error = result(mincore(map, os_page, resident));
    munmap(map, os_page);
    return error ? error : resident[0] & 1;
}

static ssize_t io_pwritev(void *arg, int fd, const struct iovec *iov, int count, uint64_t at)
{
    (void)arg;
    return result(pwritev(fd, iov, count, (off_t)at));
}

static int io_sync(void *arg, int fd)
{
    (void)arg;
    return result(fdatasync(fd));
}

static int io_extend(void *arg, int fd, uint64_t size)
{
    (void)arg;
    if (fallocate(fd, 0, 0, (off_t)size) == 0)
        return 0;
    return errno == EOPNOTSUPP || errno == ENOSYS ? result(ftruncate(fd, (off_t)size)) : -errno;
}

static int io_zero(void *arg, int fd, uint64_t at, uint64_t size)
{
    (void)arg;
    return result(fallocate(fd, FALLOC_FL_ZERO_RANGE, (off_t)at, (off_t)size));
}

static int io_discard(void *arg, int fd, uint64_t at, uint64_t size)
{
    uint64_t range[2] = {at, size};

    (void)arg;
    if (ioctl(fd, BLKDISCARD, range) == 0)
        return 0;
    if (errno != ENOTTY && errno != EINVAL)
        return -errno;
    return result(
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)size));
}

const struct zc_io zc_system_io = {
    .open = io_open,
    .close = io_close,
    .lock = io_lock,
    .info = io_info,
    .pread = io_pread,
    .is_cached = io_is_cached,
    .pwritev = io_pwritev,
    .sync = io_sync,
    .extend = io_extend,
    .zero = io_zero,
    .discard = io_discard,
};
