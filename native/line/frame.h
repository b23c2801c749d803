/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames on a line that loses, changes and adds bytes: ~ BODY ~, as HDLC has them. In the body the flag,
 * the escape and XON/XOFF are escaped; behind it is a CRC-32 of the session's number and the body, so that
 * what an earlier session left on its way is noise, as is whatever the kernel prints in between.
 */
#ifndef ZC_LINE_FRAME_H
#define ZC_LINE_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ZC_FRAME_PAYLOAD 256u /* bytes, at most */
#define ZC_FRAME_HEADER 8u
#define ZC_FRAME_BODY (ZC_FRAME_HEADER + ZC_FRAME_PAYLOAD + 4)
#define ZC_FRAME_ENCODED (2 * ZC_FRAME_BODY + 2) /* bytes on the line, at most */
#define ZC_FRAME_CALL 4u /* so many flags in a row ask whether anybody is there */

/* docs/protocol.md says what each carries. From ZC_LINE_OPEN on they have a sequence number. */
enum zc_line_kind {
    ZC_LINE_HELLO = 1, /* of session 0 */
    ZC_LINE_ACK,
    ZC_LINE_PING,
    ZC_LINE_BYE,
    ZC_LINE_OPEN = 16,
    ZC_LINE_START,
    ZC_LINE_STARTED,
    ZC_LINE_DATA,
    ZC_LINE_ERROR,
    ZC_LINE_END,
    ZC_LINE_CREDIT,
    ZC_LINE_CLOSE,
    ZC_LINE_EXIT,
};

struct zc_frame {
    uint8_t kind;
    uint8_t seq;
    uint8_t ack;    /* the next one expected */
    uint8_t stream; /* 0: none */
    uint32_t mask;  /* bit i: ack + 1 + i has come */
    size_t size;
    uint8_t data[ZC_FRAME_PAYLOAD];
};

/* What has come of a frame. Zero-initialized is ready. */
struct zc_deframer {
    size_t size; /* over ZC_FRAME_BODY: too long to be one */
    bool escaped;
    unsigned flags; /* in a row */
    uint8_t body[ZC_FRAME_BODY];
};

enum zc_deframed { ZC_DEFRAMED_NONE, ZC_DEFRAMED_FRAME, ZC_DEFRAMED_CALL };

/* Returns the bytes put into `out`. */
size_t zc_frame_encode(const struct zc_frame *frame, uint32_t session,
                       uint8_t out[ZC_FRAME_ENCODED]);

/* One more byte of the line. */
enum zc_deframed zc_frame_decode(struct zc_deframer *deframer, uint32_t session, uint8_t byte,
                                 struct zc_frame *frame);

static inline uint32_t zc_line_load32(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static inline void zc_line_store32(uint8_t *at, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

#endif
