/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "backing/inside.h"

#define IOV_MOST 1024 /* the system's limit */
#define ZEROS 65536u  /* bytes written at a time where the system has no call for it */

void *zc_pages_get(size_t size)
{
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return pages == MAP_FAILED ? NULL : pages;
}

void zc_pages_put(void *pages, size_t size)
{
    if (pages)
        munmap(pages, size);
}

static void count(_Atomic uint64_t *counter, uint64_t by)
{
    atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}

/* ---- opening ---- */

static int open_data(struct zc_medium *medium, const char *path)
{
    int flags = O_RDWR | (medium->info.is_device ? O_EXCL : 0);

    medium->data = medium->io.open(medium->io.arg, path, flags | O_DIRECT);
    medium->is_direct = medium->data >= 0;
    if (medium->data == -EINVAL || medium->data == -EOPNOTSUPP)
        medium->data = medium->io.open(medium->io.arg, path, flags);
    return medium->data < 0 ? medium->data : 0;
}

static int say(struct zc_text *why, const char *path, int error)
{
    zc_text_add(why, "backing store %s: %s", path,
                error == -EBUSY ? "in use by another; stop that first" : strerror(-error));
    return error;
}

int zc_medium_open(struct zc_medium *medium, const struct zc_backing_config *config,
                   struct zc_text *why)
{
    /* Not to wait for a pipe's other end. */
    int flags = O_RDWR | O_NONBLOCK | (config->size ? O_CREAT : 0);

    medium->io = config->io ? *config->io : zc_system_io;
    medium->data = -1;
    medium->meta = medium->io.open(medium->io.arg, config->path, flags);
    if (medium->meta == -ENOENT && !config->size) {
        zc_text_add(why, "backing store %s: no such file; a size makes one", config->path);
        return -ENOENT;
    }
    if (medium->meta < 0)
        return say(why, config->path, medium->meta);

    int error = medium->io.info(medium->io.arg, medium->meta, &medium->info);
    if (!error && !medium->info.is_device && !medium->info.is_file) {
        zc_text_add(why, "backing store %s: neither a block device nor a file", config->path);
        return -EINVAL;
    }
    if (!error && medium->info.is_file)
        error = medium->io.lock(medium->io.arg, medium->meta);
    if (!error)
        error = open_data(medium, config->path);
    return error ? say(why, config->path, error == -EAGAIN ? -EBUSY : error) : 0;
}

void zc_medium_close(struct zc_medium *medium)
{
    if (medium->data >= 0)
        medium->io.close(medium->io.arg, medium->data);
    if (medium->meta >= 0)
        medium->io.close(medium->io.arg, medium->meta);
}

bool zc_medium_is_direct(struct zc_medium *medium, uint64_t at)
{
    void *block = zc_pages_get(ZC_BLOCK);
    /* Of a device it is certain, and older systems tell it of files only. */
    bool is_told = medium->info.is_device || medium->info.tells_direct;

    bool is_so =
        block && medium->is_direct && is_told &&
        zc_medium_read(medium, medium->data, block, ZC_BLOCK, at) == 0 &&
        zc_medium_write(medium, medium->data, block, ZC_BLOCK, at, ZC_WEAR_METADATA) == 0 &&
        zc_medium_read(medium, medium->data, block, ZC_BLOCK, at) == 0 &&
        medium->io.is_cached(medium->io.arg, medium->meta, at) == 0;
    zc_pages_put(block, ZC_BLOCK);
    return is_so;
}

/* ---- reading and writing ---- */

int zc_medium_read(struct zc_medium *medium, int fd, void *bytes, size_t size, uint64_t at)
{
    while (size) {
        ssize_t got = medium->io.pread(medium->io.arg, fd, bytes, size, at);
        if (got == -EINTR)
            continue;
        if (got <= 0) {
            count(&medium->read_errors, 1);
            return got ? (int)got : -EIO;
        }
        bytes = (char *)bytes + got;
        size -= (size_t)got;
        at += (uint64_t)got;
    }
    return 0;
}

/* Leaves out the first `done` bytes; returns how many whole parts that were. */
static int advance(struct iovec *iov, size_t done)
{
    int whole = 0;

    for (; done && done >= iov[whole].iov_len; whole++)
        done -= iov[whole].iov_len;
    if (done) {
        iov[whole].iov_base = (char *)iov[whole].iov_base + done;
        iov[whole].iov_len -= done;
    }
    return whole;
}

int zc_medium_writev(struct zc_medium *medium, int fd, struct iovec *iov, int parts, uint64_t at,
                     enum zc_wear wear)
{
    while (parts > 0) {
        int some = (int)zc_min((size_t)parts, IOV_MOST);
        ssize_t put = medium->io.pwritev(medium->io.arg, fd, iov, some, at);
        if (put == -EINTR)
            continue;
        /* The rest of a direct write that ended within a block cannot be written so. */
        bool is_torn = put > 0 && fd == medium->data && (size_t)put % ZC_BLOCK;
        if (put <= 0 || is_torn) {
            count(&medium->write_errors, 1);
            return put < 0 ? (int)put : -EIO;
        }
        count(&medium->written[wear], (uint64_t)put);
        int whole = advance(iov, (size_t)put);
        iov += whole;
        parts -= whole;
        at += (uint64_t)put;
    }
    return 0;
}

int zc_medium_write(struct zc_medium *medium, int fd, const void *bytes, size_t size, uint64_t at,
                    enum zc_wear wear)
{
    struct iovec iov = {(void *)(uintptr_t)bytes, size};

    return zc_medium_writev(medium, fd, &iov, 1, at, wear);
}

static int write_zeros(struct zc_medium *medium, uint64_t at, uint64_t size)
{
    void *zeros = zc_pages_get(ZEROS);
    int error = zeros ? 0 : -ENOMEM;

    for (uint64_t done = 0; done < size && !error; done += ZEROS) {
        size_t some = size - done < ZEROS ? (size_t)(size - done) : ZEROS;
        error = zc_medium_write(medium, medium->meta, zeros, some, at + done, ZC_WEAR_METADATA);
    }
    zc_pages_put(zeros, ZEROS);
    return error;
}

int zc_medium_zero(struct zc_medium *medium, uint64_t at, uint64_t size)
{
    int error = medium->io.zero(medium->io.arg, medium->meta, at, size);

    return error == -EOPNOTSUPP || error == -ENOSYS || error == -EINVAL
               ? write_zeros(medium, at, size)
               : error;
}

void zc_medium_discard(struct zc_medium *medium, uint64_t at, uint64_t size)
{
    if (medium->io.discard(medium->io.arg, medium->data, at, size) == 0)
        count(&medium->discarded, size);
}

int zc_medium_sync(struct zc_medium *medium)
{
    int error = medium->io.sync(medium->io.arg, medium->data);
    int other = medium->io.sync(medium->io.arg, medium->meta);

    return error ? error : other;
}
