/* SPDX-License-Identifier: Apache-2.0 */
#include "line/streams.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"

#define COMMAND 'c'
#define SOCKET 's'
#define NOT_FOUND 127 /* as a shell says it */
#define NOT_EXECUTABLE 126
#define GRANT_AT_LEAST (ZC_STREAM_INPUT / 4)
#define GRANTED_MAX (1u << 20)

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static struct zc_stream *find(struct zc_streams *streams, uint8_t id)
{
    for (unsigned i = 0; i < ZC_STREAMS; i++) {
        struct zc_stream *stream = &streams->streams[i];
        if (stream->state != ZC_STREAM_FREE && stream->id == id)
            return stream;
    }
    return NULL;
}

/* NULL: there are too many. */
static struct zc_stream *create(struct zc_streams *streams, uint8_t id)
{
    for (unsigned i = 0; i < ZC_STREAMS; i++) {
        struct zc_stream *stream = &streams->streams[i];
        if (stream->state != ZC_STREAM_FREE)
            continue;
        memset(stream, 0, offsetof(struct zc_stream, waiting));
        stream->state = ZC_STREAM_OPENING;
        stream->id = id;
        stream->input = stream->output = stream->error = -1;
        stream->granted = ZC_STREAM_OUTPUT;
        return stream;
    }
    return NULL;
}

static void close_fds(struct zc_stream *stream)
{
    if (stream->input == stream->output)
        stream->input = -1;
    close_fd(&stream->input);
    close_fd(&stream->output);
    close_fd(&stream->error);
}

/* Its process, if there is one, is told. */
static void drop(struct zc_stream *stream)
{
    close_fds(stream);
    if (stream->pid && !stream->reaped)
        kill(-stream->pid, SIGHUP);
    free(stream->request);
    stream->request = NULL;
    stream->state = ZC_STREAM_FREE;
}

/* It ends before it has run. */
static void refuse(struct zc_stream *stream, int reason)
{
    stream->reason = reason;
    stream->state = ZC_STREAM_ENDED;
}

/* In the child: never returns. */
static void become(char **argv, const int in[2], const int out[2], const int err[2])
{
    sigset_t none;

    setsid();
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    dup2(in[0], STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    dup2(err[1], STDERR_FILENO);
    execvp(argv[0], argv);
    int code = errno == ENOENT || errno == ENOTDIR ? NOT_FOUND : NOT_EXECUTABLE;
    const char *why = strerror(errno);
    if (write(STDERR_FILENO, argv[0], strlen(argv[0])) < 0 || write(STDERR_FILENO, ": ", 2) < 0 ||
        write(STDERR_FILENO, why, strlen(why)) < 0)
        _exit(code);
    _exit(code);
}

static int nonblocking(int fd)
{
    return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static int start_command(struct zc_stream *stream, char **argv)
{
    int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1}, error = 0;

    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) {
        error = -errno;
        goto close_all;
    }
    stream->pid = fork();
    if (stream->pid == 0)
        become(argv, in, out, err);
    if (stream->pid < 0) {
        error = -errno;
        stream->pid = 0;
        goto close_all;
    }
    stream->input = in[1];
    stream->output = out[0];
    stream->error = err[0];
    in[1] = out[0] = err[0] = -1;
    nonblocking(stream->input);
    nonblocking(stream->output);
    nonblocking(stream->error);
close_all:
    for (unsigned i = 0; i < 2; i++) {
        close_fd(&in[i]);
        close_fd(&out[i]);
        close_fd(&err[i]);
    }
    return error;
}

/* The words of the request, each of which ends with NUL; frees nothing. */
static int run(struct zc_stream *stream)
{
    size_t count = 0;

    for (size_t i = 1; i < stream->request_size; i++)
        count += stream->request[i] == '\0';
    if (!count || stream->request[stream->request_size - 1] != '\0')
        return -EINVAL;
    char **argv = calloc(count + 1, sizeof(*argv));
    if (!argv)
        return -ENOMEM;
    char *at = stream->request + 1;
    for (size_t i = 0; i < count; i++) {
        argv[i] = at;
        at += strlen(at) + 1;
    }
    int error = start_command(stream, argv);
    free(argv);
    return error;
}

/* A path, or @name of an abstract socket. */
static int reach(struct zc_stream *stream)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t size = stream->request_size - 1;

    if (!size || size >= sizeof(address.sun_path))
        return -EINVAL;
    memcpy(address.sun_path, stream->request + 1, size);
    if (address.sun_path[0] == '@')
        address.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&address,
                (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size)) != 0) {
        int error = -errno;
        close(fd);
        return error;
    }
    nonblocking(fd);
    stream->input = stream->output = fd;
    stream->reaped = true;
    return 0;
}

static void start(struct zc_stream *stream)
{
    int error = -EINVAL;

    if (stream->request_size && stream->request[0] == COMMAND)
        error = run(stream);
    else if (stream->request_size && stream->request[0] == SOCKET)
        error = reach(stream);
    free(stream->request);
    stream->request = NULL;
    if (error) {
        refuse(stream, -error);
        return;
    }
    stream->state = ZC_STREAM_RUNNING;
    stream->started = true;
}

static void take_request(struct zc_stream *stream, const struct zc_frame *frame)
{
    char *more = realloc(stream->request, stream->request_size + frame->size);

    if (!more || stream->request_size + frame->size > ZC_STREAM_REQUEST) {
        refuse(stream, more ? E2BIG : ENOMEM);
        stream->request = more ? more : stream->request;
        return;
    }
    memcpy(more + stream->request_size, frame->data, frame->size);
    stream->request = more;
    stream->request_size += frame->size;
}

static void take_input(struct zc_stream *stream, const struct zc_frame *frame)
{
    if (stream->begin) {
        memmove(stream->waiting, stream->waiting + stream->begin, stream->end - stream->begin);
        stream->end -= stream->begin;
        stream->begin = 0;
    }
    if (stream->end + frame->size > sizeof(stream->waiting)) {
        close_fds(stream); /* more than was granted: the host is not ours */
        return;
    }
    memcpy(stream->waiting + stream->end, frame->data, frame->size);
    stream->end += frame->size;
}

void zc_streams_receive(struct zc_streams *streams, const struct zc_frame *frame)
{
    struct zc_stream *stream = find(streams, frame->stream);

    if (frame->kind == ZC_LINE_OPEN && !stream && frame->stream)
        stream = create(streams, frame->stream);
    if (!stream)
        return; /* it has ended meanwhile; the host waits in vain for one too many, within its deadline */
    if (frame->kind == ZC_LINE_CLOSE) {
        drop(stream);
        return;
    }
    if (stream->state == ZC_STREAM_OPENING && frame->kind == ZC_LINE_OPEN)
        take_request(stream, frame);
    else if (stream->state == ZC_STREAM_OPENING && frame->kind == ZC_LINE_START)
        start(stream);
    if (stream->state != ZC_STREAM_RUNNING)
        return;
    if (frame->kind == ZC_LINE_DATA)
        take_input(stream, frame);
    else if (frame->kind == ZC_LINE_END)
        stream->input_ends = true;
    else if (frame->kind == ZC_LINE_CREDIT && frame->size == 4)
        stream->granted =
            (uint32_t)zc_min(stream->granted + (size_t)zc_line_load32(frame->data), GRANTED_MAX);
}

void zc_streams_reset(struct zc_streams *streams, uint32_t session, uint8_t window)
{
    for (unsigned i = 0; i < ZC_STREAMS; i++) {
        struct zc_stream *stream = &streams->streams[i];
        if (stream->state == ZC_STREAM_FREE)
            continue;
        pid_t pid = stream->pid && !stream->reaped ? stream->pid : 0;
        if (pid && kill(-pid, SIGKILL) == 0) /* else it is another user's, by su */
            stream->reaped =
                waitpid(pid, NULL, 0) == pid; /* what it wrote is written, and no more will be */
        drop(stream);
    }
    zc_link_init(&streams->link, session, window);
}

static bool has_input(const struct zc_stream *stream)
{
    return stream->begin < stream->end;
}

nfds_t zc_streams_poll(const struct zc_streams *streams, struct pollfd *fds)
{
    bool room = zc_link_has_room(&streams->link);
    nfds_t count = 0;

    for (unsigned i = 0; i < ZC_STREAMS; i++) {
        const struct zc_stream *stream = &streams->streams[i];
        if (stream->state != ZC_STREAM_RUNNING)
            continue;
        if (stream->input >= 0 && has_input(stream))
            fds[count++] = (struct pollfd){.fd = stream->input, .events = POLLOUT};
        if (stream->output >= 0 && room && stream->granted)
            fds[count++] = (struct pollfd){.fd = stream->output, .events = POLLIN};
        if (stream->error >= 0 && room && stream->granted)
            fds[count++] = (struct pollfd){.fd = stream->error, .events = POLLIN};
    }
    return count;
}

static void close_input(struct zc_stream *stream)
{
    if (stream->pid) {
        close_fd(&stream->input);
        return;
    }
    shutdown(stream->input, SHUT_WR);
    stream->input = -1; /* its output is the same */
}

/* To its process or socket. What nobody takes is dropped, and granted again all the same. */
static void move_input(struct zc_stream *stream)
{
    while (has_input(stream)) {
        size_t size = stream->end - stream->begin;
        ssize_t len = (ssize_t)size;
        if (stream->input >= 0)
            len = write(stream->input, stream->waiting + stream->begin, size);
        if (len < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (len < 0)
            close_input(stream);
        len = len < 0 ? (ssize_t)size : len;
        stream->begin += (size_t)len;
        stream->grant += (uint32_t)len;
    }
    if (stream->input_ends && stream->input >= 0)
        close_input(stream);
}

/* A frame of what came from a process or socket; false: nothing now. */
static bool move_output(struct zc_link *link, struct zc_stream *stream, int *fd,
                        enum zc_line_kind kind)
{
    uint8_t data[ZC_FRAME_PAYLOAD];

    if (*fd < 0 || !stream->granted || !zc_link_has_room(link))
        return false;
    ssize_t len = read(*fd, data, zc_min(sizeof(data), stream->granted));
    if (len > 0) {
        zc_link_send(link, kind, stream->id, data, (size_t)len);
        stream->granted -= (uint32_t)len;
        return true;
    }
    if (len < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (stream->input == *fd)
        stream->input = -1;
    close_fd(fd);
    return false;
}

static void tell(struct zc_link *link, struct zc_stream *stream)
{
    uint8_t data[8];

    if (stream->started && zc_link_has_room(link)) {
        zc_link_send(link, ZC_LINE_STARTED, stream->id, NULL, 0);
        stream->started = false;
    }
    if (stream->state == ZC_STREAM_RUNNING && !stream->started && stream->grant >= GRANT_AT_LEAST &&
        zc_link_has_room(link)) {
        zc_line_store32(data, stream->grant);
        zc_link_send(link, ZC_LINE_CREDIT, stream->id, data, 4);
        stream->grant = 0;
    }
    if (stream->state == ZC_STREAM_ENDED && zc_link_has_room(link)) {
        zc_line_store32(data, (uint32_t)stream->code);
        zc_line_store32(data + 4, (uint32_t)stream->reason);
        zc_link_send(link, ZC_LINE_EXIT, stream->id, data, sizeof(data));
        drop(stream);
    }
}

static void reap(struct zc_streams *streams)
{
    int status;

    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        for (unsigned i = 0; i < ZC_STREAMS; i++) {
            struct zc_stream *stream = &streams->streams[i];
            if (stream->state != ZC_STREAM_RUNNING || stream->pid != pid)
                continue;
            stream->reaped = true;
            stream->code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
    }
}

void zc_streams_turn(struct zc_streams *streams)
{
    struct zc_link *link = &streams->link;

    reap(streams);
    streams->turn++;
    for (unsigned i = 0; i < ZC_STREAMS; i++) {
        struct zc_stream *stream = &streams->streams[(streams->turn + i) % ZC_STREAMS];
        if (stream->state == ZC_STREAM_RUNNING && !stream->started) {
            move_input(stream);
            move_output(link, stream, &stream->output, ZC_LINE_DATA);
            move_output(link, stream, &stream->error, ZC_LINE_ERROR);
            if (stream->reaped && stream->output < 0 && stream->error < 0)
                stream->state = ZC_STREAM_ENDED;
        }
        if (stream->state != ZC_STREAM_FREE)
            tell(link, stream);
    }
}
