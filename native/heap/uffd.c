/* SPDX-License-Identifier: Apache-2.0 */
#include "heap/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What the headers we build with may be too old for; numbers as the kernel's ABI has them. */
#define FEATURE_POISON (UINT64_C(1) << 14)
#define FEATURE_MOVE (UINT64_C(1) << 16)
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

struct move {
    uint64_t to, from, size, mode;
    int64_t moved;
};
struct poison {
    struct uffdio_range range;
    uint64_t mode;
    int64_t updated;
};
#define IO_MOVE _IOWR(UFFDIO, 0x05, struct move)
#define IO_POISON _IOWR(UFFDIO, 0x08, struct poison)
#define MOVE_ALLOW_HOLES (UINT64_C(1) << 1)

static int call(const struct zc_uffd *uffd, unsigned long what, void *arg)
{
    int before = errno, error;

    /* EAGAIN: the address space is being changed. */
    do
        error = ioctl(uffd->fd, what, arg) == 0 ? 0 : -errno;
    while (error == -EAGAIN);
    errno = before;
    return error;
}

static int new_descriptor(int flags)
{
    return (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | flags);
}

static int open_with(struct zc_uffd *uffd, uint64_t features, uint64_t *offered)
{
    struct uffdio_api api = {.api = UFFD_API, .features = features};

    uffd->fd = new_descriptor(UFFD_USER_MODE_ONLY);
    if (uffd->fd < 0 && errno == EINVAL) /* before Linux 5.11 */
        uffd->fd = new_descriptor(0);
    if (uffd->fd < 0)
        return -errno;
    if (ioctl(uffd->fd, UFFDIO_API, &api) == 0) {
        *offered = api.features;
        return 0;
    }
    int error = -errno;
    close(uffd->fd);
    return error;
}

int zc_uffd_open(struct zc_uffd *uffd, bool sigbus, unsigned without)
{
    uint64_t offered, wanted = sigbus ? UFFD_FEATURE_SIGBUS : 0;
    int error = open_with(uffd, 0, &offered); /* says what there is, once */

    if (error)
        return error;
    close(uffd->fd);
    if ((offered & wanted) != wanted)
        return -ENOSYS;
    if (without & ZC_HEAP_WITHOUT_MOVE)
        offered &= ~FEATURE_MOVE;
    if (without & ZC_HEAP_WITHOUT_POISON)
        offered &= ~FEATURE_POISON;
    wanted |= offered & (FEATURE_MOVE | FEATURE_POISON);
    uffd->can_move = wanted & FEATURE_MOVE;
    uffd->can_poison = wanted & FEATURE_POISON;
    return open_with(uffd, wanted, &offered);
}

void zc_uffd_close(struct zc_uffd *uffd)
{
    close(uffd->fd);
}

int zc_uffd_watch(const struct zc_uffd *uffd, void *at, size_t size)
{
    struct uffdio_register on = {
        .range = {.start = (uintptr_t)at, .len = size},
        .mode = UFFDIO_REGISTER_MODE_MISSING,
    };

    return call(uffd, UFFDIO_REGISTER, &on);
}

int64_t zc_uffd_copy_run(const struct zc_uffd *uffd, void *at, const void *from, size_t size)
{
    int before = errno, error = 0;
    size_t done = 0;

    while (done < size && !error) {
        struct uffdio_copy copy = {
            .dst = (uintptr_t)at + done,
            .src = (uintptr_t)from + done,
            .len = size - done,
        };
        int failed = ioctl(uffd->fd, UFFDIO_COPY, &copy);
        if (copy.copy > 0)
            done += (size_t)copy.copy;
        else if (failed && errno != EAGAIN)
            error = -errno;
    }
    errno = before;
    return done ? (int64_t)done : error;
}

int zc_uffd_copy(const struct zc_uffd *uffd, void *at, const void *from, size_t page_size)
{
    int64_t done = zc_uffd_copy_run(uffd, at, from, page_size);

    return done < 0 ? (int)done : 0;
}

int zc_uffd_poison(const struct zc_uffd *uffd, void *at, size_t page_size)
{
    struct poison poison = {.range = {.start = (uintptr_t)at, .len = page_size}};

    return uffd->can_poison ? call(uffd, IO_POISON, &poison) : -ENOSYS;
}

void zc_uffd_wake(const struct zc_uffd *uffd, void *at, size_t page_size)
{
    struct uffdio_range range = {.start = (uintptr_t)at, .len = page_size};

    call(uffd, UFFDIO_WAKE, &range);
}

size_t zc_uffd_move(const struct zc_uffd *uffd, void *to, void *from, size_t size)
{
    size_t done = 0;
    int before = errno;

    while (uffd->can_move && done < size) {
        struct move move = {
            .to = (uintptr_t)to + done,
            .from = (uintptr_t)from + done,
            .size = size - done,
            .mode = MOVE_ALLOW_HOLES,
        };
        int failed = ioctl(uffd->fd, IO_MOVE, &move);
        if (move.moved > 0)
            done += (size_t)move.moved;
        else if (failed && errno != EAGAIN)
            break;
    }
    errno = before;
    return done;
}

bool zc_uffd_next(const struct zc_uffd *uffd, uintptr_t *address)
{
    struct uffd_msg message;

    while (read(uffd->fd, &message, sizeof(message)) == sizeof(message)) {
        if (message.event != UFFD_EVENT_PAGEFAULT)
            continue;
        *address = (uintptr_t)message.arg.pagefault.address;
        return true;
    }
    return false;
}
