/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/server.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <zcache/proto.h>

#include "base/base.h"
#include "zcached/rundir.h"

/* A control connection: a request as it comes in, an answer as it goes out, one at a time. */
struct client {
    int fd;
    bool skipping; /* the rest of a line that was too long */
    char *line;    /* ZC_CONTROL_LINE_MAX bytes, while a request is under way */
    size_t len;
    struct zc_text answer;
    size_t sent;
    int64_t deadline; /* ms; 0: none, the connection is idle */
};

enum { POLL_SIGNALS, POLL_CONTROL, POLL_DATA, POLL_CLIENTS };

struct loop {
    struct zc_server *server;
    struct client clients[ZC_MAX_CONNECTIONS];
    size_t count;
};

static int64_t now_ms(void)
{
    return (int64_t)(zc_now_ns() / 1000000);
}

static void client_free(struct client *client)
{
    close(client->fd);
    free(client->line);
    zc_text_free(&client->answer);
}

/* Sends what the socket takes. False: the connection is over. */
static bool client_send(struct client *client)
{
    while (client->sent < client->answer.len) {
        ssize_t len = send(client->fd, client->answer.data + client->sent,
                           client->answer.len - client->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (len < 0)
            return errno == EAGAIN || errno == EINTR;
        client->sent += (size_t)len;
    }
    zc_text_free(&client->answer);
    client->sent = 0;
    client->deadline = client->len || client->skipping ? now_ms() + ZC_REQUEST_SECONDS * 1000 : 0;
    return true;
}

/* Drops the rest of a line that was too long. */
static void client_skip(struct client *client)
{
    char *end = memchr(client->line, '\n', client->len);

    client->skipping = !end;
    client->len = end ? client->len - (size_t)(end + 1 - client->line) : 0;
    if (end)
        memmove(client->line, end + 1, client->len);
}

/* Carries out the whole lines that are there, until an answer has to wait. */
static bool client_work(struct loop *loop, struct client *client)
{
    while (!client->answer.len) {
        char *end = client->len ? memchr(client->line, '\n', client->len) : NULL;
        if (!end && client->len < ZC_CONTROL_LINE_MAX)
            break;
        client->deadline = now_ms() + ZC_ANSWER_SECONDS * 1000;
        if (!end) {
            zc_control_error(&client->answer, -E2BIG, "a request has at most 4096 bytes");
            client->skipping = true;
            client->len = 0;
        } else {
            size_t used = (size_t)(end - client->line) + 1;
            loop->server->control_requests++;
            if (zc_control_handle(loop->server->control, client->line, used - 1, &client->answer))
                return false; /* out of memory: the peer sees its connection end */
            client->len -= used;
            memmove(client->line, end + 1, client->len);
        }
        if (!client_send(client))
            return false;
    }
    if (client->len == 0) {
        free(client->line);
        client->line = NULL;
    }
    return true;
}

static bool client_receive(struct loop *loop, struct client *client)
{
    if (!client->line && !(client->line = malloc(ZC_CONTROL_LINE_MAX)))
        return false;

    ssize_t len = recv(client->fd, client->line + client->len, ZC_CONTROL_LINE_MAX - client->len,
                       MSG_DONTWAIT);
    if (len < 0)
        return errno == EAGAIN || errno == EINTR;
    if (len == 0)
        return false;
    if (client->len == 0)
        client->deadline = now_ms() + ZC_REQUEST_SECONDS * 1000;
    client->len += (size_t)len;
    if (client->skipping)
        client_skip(client);
    return client_work(loop, client);
}

/* False: the connection is over. */
static bool client_turn(struct loop *loop, struct client *client, short events, int64_t now)
{
    if (client->deadline && now >= client->deadline) {
        zc_log_line(loop->server->log, "warning", "control connection ended: %s",
                    client->answer.len ? "answer not taken in time" : "request not ended in time");
        return false;
    }
    if (client->answer.len) {
        if (events & POLLOUT)
            return client_send(client) && client_work(loop, client);
        return !(events & (POLLERR | POLLNVAL));
    }
    return events ? client_receive(loop, client) : true;
}

/* -1, or a connection whose peer may talk to us. */
static int accept_peer(struct zc_server *server, int listener)
{
    uid_t uid = (uid_t)-1;
    pid_t pid = 0;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return -1;
    if (zc_peer_is_allowed(fd, &uid, &pid))
        return fd;
    zc_log_line(server->log, "warning", "refused a peer of uid %d, pid %d", (int)uid, (int)pid);
    close(fd);
    return -1;
}

static void accept_control(struct loop *loop)
{
    int fd = accept_peer(loop->server, loop->server->listeners[ZC_CONTROL_PLANE]);
    if (fd < 0)
        return;
    if (loop->count == ZC_MAX_CONNECTIONS) {
        zc_log_line(loop->server->log, "warning", "refused a control connection: %u are open",
                    ZC_MAX_CONNECTIONS);
        close(fd);
        return;
    }
    loop->clients[loop->count++] = (struct client){.fd = fd};
    loop->server->control_count = loop->count;
}

static void accept_data(struct loop *loop)
{
    int fd = accept_peer(loop->server, loop->server->listeners[ZC_DATA_PLANE]);
    if (fd < 0)
        return;
    int error = zc_data_accept(&loop->server->data, fd);
    if (error)
        zc_log_line(loop->server->log, "warning", "refused a data connection: %s",
                    error == -EMFILE ? "too many are open" : strerror(-error));
}

static void turn_clients(struct loop *loop, const struct pollfd *fds, size_t polled)
{
    int64_t now = now_ms();

    for (size_t i = polled; i-- > 0;) { /* backwards: a closed one is replaced by the last */
        if (client_turn(loop, &loop->clients[i], fds[i].revents, now))
            continue;
        client_free(&loop->clients[i]);
        loop->clients[i] = loop->clients[--loop->count];
        loop->server->control_count = loop->count;
    }
}

/* Milliseconds until the next deadline; -1: none. */
static int next_deadline(const struct loop *loop)
{
    int64_t now = now_ms(), least = -1;

    for (size_t i = 0; i < loop->count; i++) {
        int64_t deadline = loop->clients[i].deadline;
        if (!deadline)
            continue;
        int64_t left = deadline > now ? deadline - now : 0;
        least = least < 0 || left < least ? left : least;
    }
    return (int)least;
}

static int wait_and_serve(struct loop *loop)
{
    struct zc_server *server = loop->server;
    struct pollfd fds[POLL_CLIENTS + ZC_MAX_CONNECTIONS] = {
        [POLL_SIGNALS] = {.fd = server->signals, .events = POLLIN},
        [POLL_CONTROL] = {.fd = server->listeners[ZC_CONTROL_PLANE], .events = POLLIN},
        [POLL_DATA] = {.fd = server->listeners[ZC_DATA_PLANE], .events = POLLIN},
    };
    struct signalfd_siginfo info;
    size_t polled = loop->count;

    for (size_t i = 0; i < polled; i++) {
        const struct client *client = &loop->clients[i];
        fds[POLL_CLIENTS + i] = (struct pollfd){
            .fd = client->fd,
            .events = client->answer.len ? POLLOUT : POLLIN,
        };
    }
    if (poll(fds, POLL_CLIENTS + polled, next_deadline(loop)) < 0)
        return 0;
    if (fds[POLL_SIGNALS].revents && read(server->signals, &info, sizeof(info)) == sizeof(info))
        return (int)info.ssi_signo;

    turn_clients(loop, &fds[POLL_CLIENTS], polled);
    if (fds[POLL_CONTROL].revents)
        accept_control(loop);
    if (fds[POLL_DATA].revents)
        accept_data(loop);
    return 0;
}

int zc_server_run(struct zc_server *server)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    int signal = 0;

    if (!loop)
        return SIGTERM;
    loop->server = server;
    while (!signal)
        signal = wait_and_serve(loop);
    for (size_t i = 0; i < loop->count; i++)
        client_free(&loop->clients[i]);
    free(loop);
    return signal;
}
