/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zcline: the far end of a serial line. The agent pushes it through a board's shell and starts it on the
 * console; from then on commands and sockets travel in frames. It ends when the host says so, when it hears
 * nothing for SILENCE_SECONDS, or by a signal that no key sends, and leaves the terminal as it found it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/base.h"
#include "line/streams.h"

#define VERSION 1
#define HELLO_SIZE 6 /* version, window, session */
#define SILENCE_SECONDS 20
#define LOOK_SECONDS 1 /* at the terminal's settings */
#define READ_BYTES 4096

struct line {
    int fd;             /* both ways, not blocking */
    struct termios raw; /* what its settings are to be */
    uint64_t looked_ns; /* at them */
    bool ended;
    uint64_t heard_ns;
    struct zc_deframer deframer;
    struct zc_streams streams;
    size_t begin, end; /* in out */
    bool hello;        /* to be sent, before all else */
    bool bye;          /* the host has said so */
    uint8_t out[ZC_FRAME_ENCODED];
};

static volatile sig_atomic_t signalled;

static void on_signal(int number)
{
    if (number == SIGHUP || number == SIGTERM)
        signalled = number;
}

/* Init makes the console sane for what it starts there, and from then on bytes of a frame are keys. */
static void keep_raw(struct line *line)
{
    struct termios now;
    uint64_t at = zc_now_ns();

    if (at - line->looked_ns < LOOK_SECONDS * ZC_SECOND_NS)
        return;
    line->looked_ns = at;
    if (tcgetattr(line->fd, &now) == 0 &&
        (now.c_iflag != line->raw.c_iflag || now.c_oflag != line->raw.c_oflag ||
         now.c_lflag != line->raw.c_lflag))
        tcsetattr(line->fd, TCSANOW, &line->raw);
}

static void begin_session(struct line *line, const struct zc_frame *frame)
{
    if (frame->size != HELLO_SIZE || frame->data[0] != VERSION)
        return;
    uint32_t session = zc_line_load32(frame->data + 2);
    if (session && session != line->streams.link.session)
        zc_streams_reset(&line->streams, session, frame->data[1]);
    line->hello = session != 0;
}

static void take(struct line *line, const struct zc_frame *frame)
{
    struct zc_frame due;

    line->heard_ns = zc_now_ns();
    if (frame->kind == ZC_LINE_HELLO) {
        begin_session(line, frame);
        return;
    }
    zc_link_receive(&line->streams.link, frame, line->heard_ns);
    if (frame->kind == ZC_LINE_PING)
        line->streams.link.owes_answer = true;
    else if (frame->kind == ZC_LINE_BYE)
        line->bye = true;
    while (zc_link_next(&line->streams.link, &due))
        zc_streams_receive(&line->streams, &due);
}

static void read_line(struct line *line)
{
    uint8_t bytes[READ_BYTES];
    struct zc_frame frame;
    ssize_t len = read(line->fd, bytes, sizeof(bytes));

    if (len == 0 || (len < 0 && errno != EAGAIN && errno != EINTR))
        line->ended = true;
    for (ssize_t i = 0; i < len; i++) {
        switch (zc_frame_decode(&line->deframer, line->streams.link.session, bytes[i], &frame)) {
        case ZC_DEFRAMED_FRAME:
            take(line, &frame);
            break;
        case ZC_DEFRAMED_CALL:
            line->hello = true;
            break;
        case ZC_DEFRAMED_NONE:
            break;
        }
    }
}

static size_t encode_hello(struct line *line)
{
    struct zc_frame hello = {
        .kind = ZC_LINE_HELLO, .size = HELLO_SIZE, .data = {VERSION, line->streams.link.window}};

    line->hello = false;
    zc_line_store32(hello.data + 2, line->streams.link.session);
    return zc_frame_encode(&hello, 0, line->out);
}

static void write_line(struct line *line)
{
    for (;;) {
        if (line->begin == line->end) {
            line->begin = 0;
            line->end = line->hello ? encode_hello(line)
                                    : zc_link_output(&line->streams.link, zc_now_ns(), line->out);
        }
        if (line->begin == line->end)
            return;
        ssize_t len = write(line->fd, line->out + line->begin, line->end - line->begin);
        if (len < 0 && errno != EAGAIN && errno != EINTR)
            line->ended = true;
        if (len <= 0)
            return;
        line->begin += (size_t)len;
    }
}

/* Until there is something to do. */
static void wait(const struct line *line, const sigset_t *open)
{
    struct pollfd fds[1 + ZC_STREAMS_FDS];
    uint64_t now = zc_now_ns(), silence = line->heard_ns + SILENCE_SECONDS * ZC_SECOND_NS;
    uint64_t until = zc_min64(silence, zc_link_alarm_ns(&line->streams.link));
    until = zc_min64(until, line->looked_ns + LOOK_SECONDS * ZC_SECOND_NS);
    uint64_t left = until > now ? until - now : 0;
    struct timespec timeout = {(time_t)(left / ZC_SECOND_NS), (long)(left % ZC_SECOND_NS)};

    fds[0] = (struct pollfd){.fd = line->fd,
                             .events = (short)(POLLIN | (line->begin < line->end ? POLLOUT : 0))};
    ppoll(fds, 1 + zc_streams_poll(&line->streams, fds + 1), &timeout, open);
}

static void serve(struct line *line, const sigset_t *open)
{
    line->heard_ns = zc_now_ns();
    zc_streams_reset(&line->streams, 0, 1);
    while (!line->ended && !line->bye && !signalled &&
           zc_now_ns() - line->heard_ns < SILENCE_SECONDS * ZC_SECOND_NS) {
        wait(line, open);
        keep_raw(line);
        read_line(line);
        zc_streams_turn(&line->streams);
        write_line(line);
    }
    struct zc_frame bye = {.kind = ZC_LINE_BYE};
    size_t size = zc_frame_encode(&bye, line->streams.link.session, line->out);
    if (line->bye && write(line->fd, line->out, size) < 0)
        line->ended = true; /* the prompt says it, too */
    zc_streams_reset(&line->streams, 0, 1);
}

/* A description of its own, since that of standard input is the shell's, which must never be made not to
 * block. -1: there is no terminal. */
static int open_terminal(void)
{
    static const char *const names[] = {"/dev/tty", "/proc/self/fd/0"};

    for (unsigned i = 0; i < 2; i++) {
        int fd = open(names[i], O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0)
            return fd;
    }
    return -1;
}

static void catch_signals(sigset_t *before)
{
    static const int numbers[] = {SIGCHLD, SIGHUP, SIGTERM, SIGINT, SIGQUIT, SIGTSTP};
    struct sigaction action = {.sa_handler = on_signal};
    sigset_t blocked;

    signal(SIGPIPE, SIG_IGN);
    signal(SIGTTOU, SIG_IGN);
    sigemptyset(&blocked);
    for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        sigaction(numbers[i], &action, NULL);
        sigaddset(&blocked, numbers[i]);
    }
    sigprocmask(SIG_BLOCK, &blocked, before);
}

int main(void)
{
    static const char complaint[] =
        "zcline: standard input is no terminal; zcache -s serial: starts it\n";
    static struct line line;
    struct termios found;
    sigset_t open;

    if (tcgetattr(STDIN_FILENO, &found) != 0 || (line.fd = open_terminal()) < 0)
        return write(STDERR_FILENO, complaint, sizeof(complaint) - 1) < 0 ? 2 : 1;
    catch_signals(&open);
    line.raw = found;
    cfmakeraw(&line.raw);
    line.raw.c_iflag |= IGNBRK;
    line.raw.c_cc[VMIN] = 1;
    line.raw.c_cc[VTIME] = 0;
    tcsetattr(line.fd, TCSANOW, &line.raw);
    tcgetattr(line.fd, &line.raw); /* what of it the driver took */
    serve(&line, &open);
    tcdrain(line.fd);
    tcsetattr(line.fd, TCSANOW, &found);
    return 0;
}
