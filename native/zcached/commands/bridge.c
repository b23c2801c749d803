/* SPDX-License-Identifier: Apache-2.0 */
/* zcached bridge: standard input and output joined to one of the daemon's sockets. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "zcached/commands.h"
#include "zcached/rundir.h"

#define BUFFER_BYTES (64u * 1024)

/* Bytes on their way from one descriptor to another. */
struct pipe {
    int from, to;
    bool ended; /* `from` gave its last byte */
    size_t start, end;
    char buffer[BUFFER_BYTES];
};

static bool has_bytes(const struct pipe *pipe)
{
    return pipe->start < pipe->end;
}

/* False: nobody takes the bytes any more. */
static bool pipe_turn(struct pipe *pipe, short readable, short writable)
{
    if (!has_bytes(pipe) && readable) {
        ssize_t len = read(pipe->from, pipe->buffer, sizeof(pipe->buffer));
        if (len == 0 || (len < 0 && errno != EINTR && errno != EAGAIN))
            pipe->ended = true;
        pipe->start = 0;
        pipe->end = len > 0 ? (size_t)len : 0;
        return true;
    }
    if (has_bytes(pipe) && writable) {
        ssize_t len = write(pipe->to, pipe->buffer + pipe->start, pipe->end - pipe->start);
        if (len < 0)
            return errno == EINTR || errno == EAGAIN;
        pipe->start += (size_t)len;
    }
    return true;
}

/* Until the daemon ends its side and its last byte is out. */
static void join(int fd)
{
    static struct pipe up, down;
    bool told = false;

    up.from = STDIN_FILENO;
    up.to = down.from = fd;
    down.to = STDOUT_FILENO;
    while (!down.ended || has_bytes(&down)) {
        struct pollfd fds[4] = {
            {.fd = !up.ended && !has_bytes(&up) ? up.from : -1, .events = POLLIN},
            {.fd = has_bytes(&up) ? up.to : -1, .events = POLLOUT},
            {.fd = !down.ended && !has_bytes(&down) ? down.from : -1, .events = POLLIN},
            {.fd = down.to, .events = has_bytes(&down) ? POLLOUT : 0}, /* errors in any case */
        };
        if (poll(fds, 4, -1) < 0 && errno != EINTR)
            return;
        if (fds[3].revents & (POLLERR | POLLNVAL))
            return; /* whoever started us is gone */
        if (!pipe_turn(&up, fds[0].revents, fds[1].revents) ||
            !pipe_turn(&down, fds[2].revents, fds[3].revents))
            return;
        if (up.ended && !has_bytes(&up) && !told) {
            shutdown(fd, SHUT_WR);
            told = true;
        }
    }
}

int zc_bridge(const struct zc_options *options, const char *plane)
{
    signal(SIGPIPE, SIG_IGN);
    int fd = zc_rundir_connect(options->dir,
                               strcmp(plane, "data") == 0 ? ZC_DATA_PLANE : ZC_CONTROL_PLANE);
    if (fd < 0) {
        fprintf(stderr, "zcached: no daemon runs in %s: %s; start one with zcached run\n",
                options->dir, strerror(-fd));
        return ZC_EXIT_NO_DAEMON;
    }
    join(fd);
    close(fd);
    return ZC_EXIT_OK;
}
