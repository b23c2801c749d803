/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/wire.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <zcache/proto.h>

#include "base/base.h"

#define FDS_MAX 4 /* descriptors looked at in one message; all but one are closed */

static int64_t now_ms(void)
{
    return (int64_t)(zc_now_ns() / 1000000);
}

/* Until `fd` is ready or the deadline (ms; -1: none) is over. */
static int wait_for(int fd, short events, int64_t deadline)
{
    struct pollfd ready = {.fd = fd, .events = events};

    for (;;) {
        int64_t left = deadline < 0 ? -1 : deadline - now_ms();
        if (deadline >= 0 && left <= 0)
            return -ETIMEDOUT;
        int count = poll(&ready, 1, (int)left);
        if (count > 0)
            return 0;
        if (count < 0 && errno != EINTR)
            return -errno;
    }
}

/* The kernel delivers all descriptors of a message in one control message. */
static void keep_descriptor(struct msghdr *message, int *passed)
{
    const struct cmsghdr *c = CMSG_FIRSTHDR(message);

    if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
        return;
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
        if (*passed >= 0)
            close(*passed);
        memcpy(passed, CMSG_DATA(c) + i * sizeof(*passed), sizeof(*passed));
    }
}

static ssize_t receive(int fd, void *data, size_t size, int *passed)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(FDS_MAX * sizeof(int))];
    struct iovec iov = {.iov_base = data, .iov_len = size};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

    if (!passed)
        return recv(fd, data, size, MSG_DONTWAIT);
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    ssize_t len = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (len >= 0)
        keep_descriptor(&message, passed);
    return len;
}

/* What was read ahead, or else what has come: straight into `data` if that has more room. */
static ssize_t receive_some(struct zc_wire *wire, char *data, size_t size, int *passed)
{
    if (wire->next == wire->end) {
        if (size >= sizeof(wire->ahead))
            return receive(wire->fd, data, size, passed);
        ssize_t len = receive(wire->fd, wire->ahead, sizeof(wire->ahead), passed);
        if (len <= 0)
            return len;
        wire->next = 0;
        wire->end = (size_t)len;
    }
    size_t part = zc_min(wire->end - wire->next, size);
    memcpy(data, wire->ahead + wire->next, part);
    wire->next += part;
    return (ssize_t)part;
}

/* Reads all of it; *done counts, so that an end before the first byte can be told. */
static int read_all(struct zc_wire *wire, char *data, size_t size, int64_t deadline, int *passed,
                    size_t *done)
{
    while (*done < size) {
        ssize_t len = receive_some(wire, data + *done, size - *done, passed);
        if (len > 0) {
            if (deadline < 0)
                deadline = now_ms() + ZC_REQUEST_SECONDS * 1000;
            *done += (size_t)len;
            continue;
        }
        if (len == 0)
            return -ECONNRESET;
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
        int error = wait_for(wire->fd, POLLIN, deadline);
        if (error)
            return error;
    }
    return 0;
}

void zc_wire_init(struct zc_wire *wire, int fd)
{
    wire->fd = fd;
    wire->next = wire->end = wire->held_size = 0;
}

int zc_wire_read_header(struct zc_wire *wire, void *header, size_t size, int *passed)
{
    size_t done = 0;
    int error = read_all(wire, header, size, -1, passed, &done);

    return error == -ECONNRESET && done == 0 ? ZC_WIRE_END : error;
}

int zc_wire_read(struct zc_wire *wire, void *data, size_t size, unsigned seconds, int *passed)
{
    size_t done = 0;

    if (size == 0)
        return 0;
    return read_all(wire, data, size, now_ms() + (int64_t)seconds * 1000, passed, &done);
}

/* All of the parts, in order, within the time. */
static int write_parts(int fd, struct iovec *parts, size_t count)
{
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    int64_t deadline = now_ms() + ZC_ANSWER_SECONDS * 1000;
    size_t left = 0;

    for (size_t i = 0; i < count; i++)
        left += parts[i].iov_len;
    while (left) {
        ssize_t len = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (len < 0) {
            if (errno != EAGAIN && errno != EINTR)
                return -errno;
            int error = wait_for(fd, POLLOUT, deadline);
            if (error)
                return error;
            continue;
        }
        left -= (size_t)len;
        for (size_t i = 0; i < count; i++) {
            size_t part = zc_min((size_t)len, parts[i].iov_len);
            parts[i].iov_base = (char *)parts[i].iov_base + part;
            parts[i].iov_len -= part;
            len -= (ssize_t)part;
        }
    }
    return 0;
}

int zc_wire_write(int fd, const void *header, size_t header_size, const void *payload, size_t size)
{
    struct iovec parts[] = {{(void *)header, header_size}, {(void *)payload, size}};

    return write_parts(fd, parts, 2);
}

size_t zc_wire_peek(const struct zc_wire *wire, void *header, size_t size)
{
    size_t ahead = wire->end - wire->next;
    if (ahead < size)
        return 0;

    memcpy(header, wire->ahead + wire->next, size);
    return ahead;
}

int zc_wire_answer(struct zc_wire *wire, const void *header, size_t header_size,
                   const void *payload, size_t size, bool hold)
{
    struct iovec parts[] = {
        {wire->held, wire->held_size}, {(void *)header, header_size}, {(void *)payload, size}};

    if (hold && !wire->held_size && header_size + size <= sizeof(wire->held)) {
        memcpy(wire->held, header, header_size);
        if (size)
            memcpy(wire->held + header_size, payload, size);
        wire->held_size = header_size + size;
        return 0;
    }
    wire->held_size = 0;
    return write_parts(wire->fd, parts, 3);
}

int zc_wire_flush(struct zc_wire *wire)
{
    struct iovec part = {wire->held, wire->held_size};

    wire->held_size = 0;
    return write_parts(wire->fd, &part, 1);
}
