/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What travels on a link: commands with their standard input, output and error, and connections to Unix
 * sockets, several at a time. Either side may send as much as the other has granted, so that a stream that
 * nobody reads holds up no other.
 */
#ifndef ZC_LINE_STREAMS_H
#define ZC_LINE_STREAMS_H

#include <poll.h>
#include <sys/types.h>

#include "line/link.h"

#define ZC_STREAMS 16u
#define ZC_STREAM_INPUT 8192u    /* bytes to a stream that wait here; granted at its begin */
#define ZC_STREAM_OUTPUT 65536u  /* bytes that may be on their way to the host at its begin */
#define ZC_STREAM_REQUEST 65536u /* bytes: a command with its arguments, or an address */
#define ZC_STREAMS_FDS (3 * ZC_STREAMS)

enum zc_stream_state {
    ZC_STREAM_FREE,
    ZC_STREAM_OPENING, /* its request comes in */
    ZC_STREAM_RUNNING,
    ZC_STREAM_ENDED, /* the host is to be told */
};

struct zc_stream {
    enum zc_stream_state state;
    uint8_t id;      /* as the host numbers it */
    bool started;    /* to be told */
    bool input_ends; /* after what waits here */
    bool reaped;
    pid_t pid;                /* of a command, and its process group; 0: a socket */
    int input, output, error; /* -1: closed; a socket's input is its output */
    int32_t code, reason;     /* exit code or 128 + signal; errno if it never started */
    uint32_t granted;         /* bytes that may go to the host */
    uint32_t grant;           /* bytes to grant the host */
    char *request;
    size_t request_size;
    size_t begin, end; /* in waiting */
    uint8_t waiting[ZC_STREAM_INPUT];
};

struct zc_streams {
    struct zc_link link;
    struct zc_stream streams[ZC_STREAMS];
    unsigned turn; /* whose output goes first */
};

/* A new session: what the last one left running is killed. */
void zc_streams_reset(struct zc_streams *streams, uint32_t session, uint8_t window);

/* A frame that is due: from zc_link_next(). */
void zc_streams_receive(struct zc_streams *streams, const struct zc_frame *frame);

/* What to wait for; returns the number of descriptors, at most ZC_STREAMS_FDS. */
nfds_t zc_streams_poll(const struct zc_streams *streams, struct pollfd *fds);

/* Moves bytes between the streams and the link without blocking, and reaps what has ended. */
void zc_streams_turn(struct zc_streams *streams);

#endif
