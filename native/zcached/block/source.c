/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/block/source.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/base.h"

/* ---- opening ---- */

static int look_at(struct zc_source *source, const char *path)
{
    struct stat st;

    if (stat(path, &st) != 0)
        return -errno;
    if (S_ISDIR(st.st_mode))
        return -EISDIR;
    source->is_device = S_ISBLK(st.st_mode);
    return source->is_device || S_ISREG(st.st_mode) ? 0 : -EINVAL;
}

static bool is_read_only(int error)
{
    return error == -EROFS || error == -EACCES || error == -EPERM || error == -ETXTBSY;
}

static int open_file(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

/* For us alone: a device that is mounted, or swapped to, is not. */
static int open_alone(struct zc_source *source, const char *path)
{
    int flags = source->is_device ? O_EXCL : 0;

    source->file = source->is_read_only ? -EROFS : open_file(path, O_RDWR | flags);
    if (is_read_only(source->file)) {
        source->is_read_only = true;
        source->file = open_file(path, O_RDONLY | flags);
    }
    if (source->file < 0)
        return source->file;
    if (!source->is_device && flock(source->file, LOCK_EX | LOCK_NB) != 0)
        return errno == EWOULDBLOCK ? -EBUSY : -errno;
    return 0;
}

static int measure_device(struct zc_source *source)
{
    int block_size = 0, is_read_only = 0;

    if (ioctl(source->file, BLKGETSIZE64, &source->size) != 0 ||
        ioctl(source->file, BLKSSZGET, &block_size) != 0 ||
        ioctl(source->file, BLKROGET, &is_read_only) != 0)
        return -errno;
    source->block_size = (uint32_t)block_size;
    source->is_read_only |= is_read_only != 0;
    return 0;
}

static int measure(struct zc_source *source)
{
    struct stat st;

    if (source->is_device)
        return measure_device(source);
    if (fstat(source->file, &st) != 0)
        return -errno;
    source->size = (uint64_t)st.st_size;
    source->block_size = ZC_SECTOR;
    return 0;
}

/* Does the device know of discards? A partition's limits are its disk's. */
static bool device_has_discard(int fd)
{
    struct stat st;
    uint64_t most = 0;

    if (fstat(fd, &st) != 0)
        return false;
    for (int is_partition = 0; is_partition < 2; is_partition++) {
        char path[96];
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%squeue/discard_max_bytes",
                 major(st.st_rdev), minor(st.st_rdev), is_partition ? "../" : "");
        FILE *file = fopen(path, "re");
        if (!file)
            continue;
        int found = fscanf(file, "%" SCNu64, &most);
        fclose(file);
        return found == 1 && most > 0;
    }
    return false;
}

/* Is the page at the front of it in the page cache? */
static bool is_cached(int fd, size_t size)
{
    unsigned char resident = 1;
    size_t os_page = (size_t)sysconf(_SC_PAGESIZE);
    void *map = mmap(NULL, zc_min(size, os_page), PROT_READ, MAP_SHARED, fd, 0);

    if (map == MAP_FAILED)
        return true;
    if (mincore(map, 1, &resident) != 0)
        resident = 1;
    munmap(map, zc_min(size, os_page));
    return resident & 1;
}

/* Some file systems take O_DIRECT and go through the page cache all the same. */
static bool is_direct(const struct zc_source *source, size_t page_size)
{
    void *page = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED)
        return false;
    fdatasync(source->file);
    posix_fadvise(source->file, 0, 0, POSIX_FADV_DONTNEED);
    bool is_so = pread(source->direct, page, page_size, 0) > 0 &&
                 (source->is_device || !is_cached(source->file, (size_t)source->size));
    munmap(page, page_size);
    return is_so;
}

static void open_direct(struct zc_source *source, const char *path, size_t page_size)
{
    source->direct = open_file(path, O_DIRECT | (source->is_read_only ? O_RDONLY : O_RDWR));
    if (source->direct >= 0 && is_direct(source, page_size))
        return;
    if (source->direct >= 0)
        close(source->direct);
    source->direct = -1;
    posix_fadvise(source->file, 0, 0, POSIX_FADV_RANDOM); /* what it reads ahead is dropped */
}

static int say(struct zc_text *why, const char *path, int error)
{
    const char *what = strerror(-error);

    if (error == -EISDIR)
        what = "a directory; a block device or an image file is needed";
    else if (error == -EINVAL)
        what = "neither a block device nor a file";
    else if (error == -EBUSY)
        what = "mounted, or in use by another; stop that first";
    zc_text_add(why, "%s: %s", path, what);
    return error;
}

int zc_source_open(struct zc_source *source, const char *path, bool is_read_only, size_t page_size,
                   struct zc_text *why)
{
    *source = (struct zc_source){.file = -1, .direct = -1, .is_read_only = is_read_only};
    int error = look_at(source, path);

    if (!error)
        error = open_alone(source, path);
    if (!error)
        error = measure(source);
    if (error) {
        zc_source_close(source);
        return say(why, path, error);
    }
    if (source->size == 0 || source->size % ZC_SECTOR != 0) {
        zc_text_add(why, "%s: its %" PRIu64 " bytes are no multiple of %u", path, source->size,
                    ZC_SECTOR);
        if (source->size == 0)
            zc_text_add(why, " above 0");
        zc_source_close(source);
        return -EINVAL;
    }
    open_direct(source, path, page_size);
    source->has_discard =
        !source->is_read_only && (!source->is_device || device_has_discard(source->file));
    return 0;
}

void zc_source_close(struct zc_source *source)
{
    if (source->direct >= 0)
        close(source->direct);
    if (source->file >= 0)
        close(source->file);
    source->direct = source->file = -1;
}

/* ---- reading and writing ---- */

int zc_source_read(const struct zc_source *source, uint64_t at, void *bytes, size_t size)
{
    int fd = source->direct >= 0 ? source->direct : source->file;
    size_t there = (size_t)zc_min64(size, source->size - at), done = 0;

    while (done < there) {
        ssize_t len = pread(fd, (char *)bytes + done, size - done, (off_t)(at + done));
        if (len < 0 && errno == EINTR)
            continue;
        if (len <= 0)
            return len < 0 ? -errno : -EIO;
        done += (size_t)len;
    }
    memset((char *)bytes + there, 0, size - there);
    if (source->direct < 0)
        posix_fadvise(fd, (off_t)at, (off_t)size, POSIX_FADV_DONTNEED);
    return 0;
}

static int write_all(int fd, uint64_t at, const void *bytes, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t len = pwrite(fd, (const char *)bytes + done, size - done, (off_t)(at + done));
        if (len < 0 && errno == EINTR)
            continue;
        if (len <= 0)
            return len < 0 ? -errno : -EIO;
        done += (size_t)len;
    }
    return 0;
}

/* What a file system does not write past the page cache, as it is too small a part of a block, goes through it. */
int zc_source_write(const struct zc_source *source, uint64_t at, const void *bytes, size_t size)
{
    int error = source->direct >= 0 ? write_all(source->direct, at, bytes, size) : -EINVAL;

    return error == -EINVAL ? write_all(source->file, at, bytes, size) : error;
}

int zc_source_discard(const struct zc_source *source, uint64_t at, uint64_t size)
{
    const uint64_t range[2] = {at, size};
    int failed = source->is_device
                     ? ioctl(source->file, BLKDISCARD, range)
                     : fallocate(source->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                 (off_t)at, (off_t)size);

    return failed ? -errno : 0;
}

int zc_source_sync(const struct zc_source *source)
{
    int error = fdatasync(source->file) == 0 ? 0 : -errno;

    if (source->direct < 0)
        posix_fadvise(source->file, 0, 0, POSIX_FADV_DONTNEED);
    return error;
}
