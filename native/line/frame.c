/* SPDX-License-Identifier: Apache-2.0 */
#include "line/frame.h"

#include <string.h>

#define FLAG 0x7e
#define ESCAPE 0x7d
#define FLIP 0x20
#define XON 0x11
#define XOFF 0x13

/* The CRC-32 of Ethernet and zlib, a nibble at a time: a line is slow, a table of 1 KiB is not needed. */
static uint32_t crc32(uint32_t crc, const uint8_t *data, size_t size)
{
    static const uint32_t nibbles[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
        0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
        0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };

    crc = ~crc;
    for (size_t i = 0; i < size; i++) {
        crc ^= data[i];
        crc = crc >> 4 ^ nibbles[crc & 15];
        crc = crc >> 4 ^ nibbles[crc & 15];
    }
    return ~crc;
}

static uint32_t checksum(const uint8_t *body, size_t size, uint32_t session)
{
    uint8_t number[4];

    zc_line_store32(number, body[0] == ZC_LINE_HELLO ? 0 : session);
    return crc32(crc32(0, number, sizeof(number)), body, size);
}

size_t zc_frame_encode(const struct zc_frame *frame, uint32_t session,
                       uint8_t out[ZC_FRAME_ENCODED])
{
    uint8_t body[ZC_FRAME_BODY] = {frame->kind, frame->seq, frame->ack, frame->stream};
    size_t size = ZC_FRAME_HEADER + frame->size, len = 0;

    zc_line_store32(body + 4, frame->mask);
    memcpy(body + ZC_FRAME_HEADER, frame->data, frame->size);
    zc_line_store32(body + size, checksum(body, size, session));
    out[len++] = FLAG;
    for (size_t i = 0; i < size + 4; i++) {
        uint8_t byte = body[i];
        if (byte == FLAG || byte == ESCAPE || byte == XON || byte == XOFF) {
            out[len++] = ESCAPE;
            byte ^= FLIP;
        }
        out[len++] = byte;
    }
    out[len++] = FLAG;
    return len;
}

static bool parse(const struct zc_deframer *deframer, uint32_t session, struct zc_frame *frame)
{
    const uint8_t *body = deframer->body;

    if (deframer->size < ZC_FRAME_HEADER + 4 || deframer->size > ZC_FRAME_BODY)
        return false;
    size_t size = deframer->size - 4;
    if (zc_line_load32(body + size) != checksum(body, size, session))
        return false;
    frame->kind = body[0];
    frame->seq = body[1];
    frame->ack = body[2];
    frame->stream = body[3];
    frame->mask = zc_line_load32(body + 4);
    frame->size = size - ZC_FRAME_HEADER;
    memcpy(frame->data, body + ZC_FRAME_HEADER, frame->size);
    return true;
}

enum zc_deframed zc_frame_decode(struct zc_deframer *deframer, uint32_t session, uint8_t byte,
                                 struct zc_frame *frame)
{
    if (byte == FLAG) {
        bool whole = parse(deframer, session, frame);
        bool empty = deframer->size == 0;
        deframer->size = 0;
        deframer->escaped = false;
        deframer->flags = empty ? deframer->flags + 1 : 1;
        if (whole)
            return ZC_DEFRAMED_FRAME;
        if (deframer->flags < ZC_FRAME_CALL)
            return ZC_DEFRAMED_NONE;
        deframer->flags = 0;
        return ZC_DEFRAMED_CALL;
    }
    if (byte == ESCAPE) {
        deframer->escaped = true;
        return ZC_DEFRAMED_NONE;
    }
    if (deframer->size < ZC_FRAME_BODY)
        deframer->body[deframer->size] = deframer->escaped ? byte ^ FLIP : byte;
    if (deframer->size <= ZC_FRAME_BODY)
        deframer->size++;
    deframer->escaped = false;
    return ZC_DEFRAMED_NONE;
}
