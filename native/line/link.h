/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames that arrive once and in order, whatever the line does. A line does not overtake: if a frame has
 * arrived, each one sent before it that has not is lost, and is sent again at once. Only for the last ones
 * does it take a timer. It does no input or output of its own.
 */
#ifndef ZC_LINE_LINK_H
#define ZC_LINE_LINK_H

#include "line/frame.h"

#define ZC_LINK_WINDOW 32u /* frames under way, at most; a power of two */

struct zc_link_sent {
    struct zc_frame frame;
    uint64_t order;   /* of its last sending; 0: not sent yet */
    uint64_t sent_ns; /* when that was */
    bool arrived, again;
    bool repeated; /* its time to the answer says nothing */
};

struct zc_link {
    uint32_t session;
    uint8_t window;      /* frames under way, as the host wants it */
    uint8_t first, next; /* of those under way; the next to be queued */
    uint64_t order;
    uint64_t round_ns,
        patience_ns; /* a frame's way there and back; until the oldest is sent again */
    struct zc_link_sent sent[ZC_LINK_WINDOW];

    uint8_t expected;
    uint32_t came; /* bit i: expected + i is in early[] */
    bool owes_answer;
    struct zc_frame early[ZC_LINK_WINDOW];
};

void zc_link_init(struct zc_link *link, uint32_t session, uint8_t window);

/* Room for a frame that has to arrive? */
bool zc_link_has_room(const struct zc_link *link);
/* Queues it; there must be room. */
void zc_link_send(struct zc_link *link, enum zc_line_kind kind, uint8_t stream, const void *data,
                  size_t size);

/* A frame has come. zc_link_next() then gives what is due in order, until it returns false. */
void zc_link_receive(struct zc_link *link, const struct zc_frame *frame, uint64_t now_ns);
bool zc_link_next(struct zc_link *link, struct zc_frame *frame);

/* The next frame to be written to the line, ready encoded; returns its size, 0: none. */
size_t zc_link_output(struct zc_link *link, uint64_t now_ns, uint8_t out[ZC_FRAME_ENCODED]);

/* When zc_link_output() has to be asked again though nothing came; UINT64_MAX: never. */
uint64_t zc_link_alarm_ns(const struct zc_link *link);

#endif
