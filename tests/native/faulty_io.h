/* SPDX-License-Identifier: Apache-2.0 */
/* The system calls below a backing store, which fail, or end the process, when they are told to. */
#ifndef TESTS_FAULTY_IO_H
#define TESTS_FAULTY_IO_H

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "backing/inside.h"

#define FAULTY_EXIT 42 /* status of a process that died on demand */
#define FAULTY_SHORT (-1000)
#define FAULTY_PARTS 512

enum faulty_call {
    FAULTY_OPEN,
    FAULTY_PREAD,
    FAULTY_PWRITEV,
    FAULTY_META, /* a pwritev of no whole blocks: words */
    FAULTY_DATA, /* a pwritev of whole blocks: records; superblocks */
    FAULTY_SYNC,
    FAULTY_EXTEND,
    FAULTY_ZERO,
    FAULTY_DISCARD,
    FAULTY_CACHED,
    FAULTY_CALLS,
};

static const char *const faulty_names[FAULTY_CALLS] = {
    "open", "pread", "pwritev", "meta", "data", "sync", "extend", "zero", "discard", "cached"};

static struct {
    struct {
        atomic_int error, after, count;
    } faults[FAULTY_CALLS];
    atomic_uint calls;
    atomic_uint die_at; /* 0: never */
    atomic_bool dies_half_way;
} faulty;

static int faulty_number(const char *name)
{
    static const int errors[] = {EIO, ENOSPC, ENXIO, ENODEV, EINVAL, ENOTSUP, EINTR, EROFS};
    char buf[16];

    for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++) {
        if (strcmp(name, zc_errno_name(errors[i], buf)) == 0)
            return -errors[i];
    }
    return strcmp(name, "short") == 0 ? FAULTY_SHORT : strcmp(name, "one") == 0 ? 1 : 0;
}

/* Of the calls of that name, `count` fail, after the next `after`. -EINVAL: no such call or error. */
static int faulty_fail(const char *call, const char *error, unsigned after, unsigned count)
{
    for (size_t i = 0; i < FAULTY_CALLS; i++) {
        if (strcmp(call, faulty_names[i]) != 0)
            continue;
        faulty.faults[i].error = faulty_number(error);
        faulty.faults[i].after = (int)after;
        faulty.faults[i].count = (int)count;
        return faulty.faults[i].error || count == 0 ? 0 : -EINVAL;
    }
    return -EINVAL;
}

static int faulty_die(unsigned after, bool half_way)
{
    faulty.die_at = faulty.calls + after + 1;
    faulty.dies_half_way = half_way;
    return 0;
}

static inline unsigned faulty_calls(void)
{
    return faulty.calls;
}

/* The fault that is due, or 0. */
static int faulty_next(enum faulty_call call)
{
    if (faulty.faults[call].count <= 0)
        return 0;
    if (faulty.faults[call].after > 0) {
        faulty.faults[call].after--;
        return 0;
    }
    faulty.faults[call].count--;
    return faulty.faults[call].error;
}

/* Is this the one of those that write before or in which the process ends? */
static bool faulty_is_last(void)
{
    unsigned call = ++faulty.calls;

    if (!faulty.die_at || call < faulty.die_at)
        return false;
    if (!faulty.dies_half_way)
        _exit(FAULTY_EXIT);
    return true;
}

static int faulty_open(void *arg, const char *path, int flags)
{
    int fault = faulty_next(FAULTY_OPEN);

    return fault ? fault : zc_system_io.open(arg, path, flags);
}

static ssize_t faulty_pread(void *arg, int fd, void *bytes, size_t size, uint64_t at)
{
    int fault = faulty_next(FAULTY_PREAD);

    if (fault == FAULTY_SHORT)
        return zc_system_io.pread(arg, fd, bytes, size > ZC_BLOCK ? ZC_BLOCK : size, at);
    return fault ? fault : zc_system_io.pread(arg, fd, bytes, size, at);
}

static size_t faulty_total(const struct iovec *iov, int count)
{
    size_t total = 0;

    for (int i = 0; i < count; i++)
        total += iov[i].iov_len;
    return total;
}

/* Writes a part of it only, whole blocks of what has some. */
static ssize_t faulty_part(void *arg, int fd, const struct iovec *iov, int count, uint64_t at)
{
    struct iovec parts[FAULTY_PARTS];
    size_t total = faulty_total(iov, count), left = total / 2;
    int used = 0;

    if (total % ZC_BLOCK == 0 && total > ZC_BLOCK)
        left = total / 2 / ZC_BLOCK * ZC_BLOCK;
    if (total == ZC_BLOCK || left == 0)
        return 0;
    for (; left && used < FAULTY_PARTS; used++) {
        parts[used] = iov[used];
        if (parts[used].iov_len > left)
            parts[used].iov_len = left;
        left -= parts[used].iov_len;
    }
    return zc_system_io.pwritev(arg, fd, parts, used, at);
}

static ssize_t faulty_pwritev(void *arg, int fd, const struct iovec *iov, int count, uint64_t at)
{
    bool is_meta = faulty_total(iov, count) % ZC_BLOCK != 0;

    if (faulty_is_last()) {
        faulty_part(arg, fd, iov, count, at);
        _exit(FAULTY_EXIT);
    }
    int fault = faulty_next(FAULTY_PWRITEV);
    if (!fault)
        fault = faulty_next(is_meta ? FAULTY_META : FAULTY_DATA);
    if (fault == FAULTY_SHORT)
        return faulty_part(arg, fd, iov, count, at);
    return fault ? fault : zc_system_io.pwritev(arg, fd, iov, count, at);
}

static int faulty_sync(void *arg, int fd)
{
    if (faulty_is_last())
        _exit(FAULTY_EXIT);
    int fault = faulty_next(FAULTY_SYNC);
    return fault ? fault : zc_system_io.sync(arg, fd);
}

static int faulty_extend(void *arg, int fd, uint64_t size)
{
    if (faulty_is_last()) {
        zc_system_io.extend(arg, fd, size / 2);
        _exit(FAULTY_EXIT);
    }
    int fault = faulty_next(FAULTY_EXTEND);
    return fault ? fault : zc_system_io.extend(arg, fd, size);
}

static int faulty_zero(void *arg, int fd, uint64_t at, uint64_t size)
{
    if (faulty_is_last()) {
        zc_system_io.zero(arg, fd, at, size / 2 / ZC_BLOCK * ZC_BLOCK);
        _exit(FAULTY_EXIT);
    }
    int fault = faulty_next(FAULTY_ZERO);
    return fault ? fault : zc_system_io.zero(arg, fd, at, size);
}

static int faulty_discard(void *arg, int fd, uint64_t at, uint64_t size)
{
    if (faulty_is_last())
        _exit(FAULTY_EXIT);
    int fault = faulty_next(FAULTY_DISCARD);
    return fault ? fault : zc_system_io.discard(arg, fd, at, size);
}

static int faulty_is_cached(void *arg, int fd, uint64_t at)
{
    int fault = faulty_next(FAULTY_CACHED);

    return fault ? fault : zc_system_io.is_cached(arg, fd, at);
}

static void faulty_close(void *arg, int fd)
{
    zc_system_io.close(arg, fd);
}

static int faulty_lock(void *arg, int fd)
{
    return zc_system_io.lock(arg, fd);
}

static int faulty_info(void *arg, int fd, struct zc_medium_info *out)
{
    return zc_system_io.info(arg, fd, out);
}

static const struct zc_io faulty_io = {
    .open = faulty_open,
    .close = faulty_close,
    .lock = faulty_lock,
    .info = faulty_info,
    .pread = faulty_pread,
    .is_cached = faulty_is_cached,
    .pwritev = faulty_pwritev,
    .sync = faulty_sync,
    .extend = faulty_extend,
    .zero = faulty_zero,
    .discard = faulty_discard,
};

#endif
