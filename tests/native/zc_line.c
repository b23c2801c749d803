/* SPDX-License-Identifier: Apache-2.0 */
/* Frames of a serial line as C makes them, "NAME HEX" a line, each of which must come out as it went in. */
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "line/frame.h"

#define SESSION 0x12345678u

static void print(const char *name, const struct zc_frame *frame)
{
    struct zc_deframer deframer = {0};
    struct zc_frame back = {0};
    uint8_t line[ZC_FRAME_ENCODED];
    size_t size = zc_frame_encode(frame, SESSION, line), frames = 0;

    printf("%s ", name);
    for (size_t i = 0; i < size; i++) {
        printf("%02x", line[i]);
        frames += zc_frame_decode(&deframer, SESSION, line[i], &back) == ZC_DEFRAMED_FRAME;
    }
    printf("\n");
    CHECK(frames == 1);
    CHECK(back.kind == frame->kind && back.seq == frame->seq && back.ack == frame->ack &&
          back.stream == frame->stream && back.mask == frame->mask && back.size == frame->size &&
          memcmp(back.data, frame->data, frame->size) == 0);
}

int main(void)
{
    struct zc_frame every = {
        .kind = ZC_LINE_DATA, .seq = 17, .ack = 19, .stream = 3, .mask = 0x7e7d1113, .size = 256};

    for (unsigned i = 0; i < every.size; i++)
        every.data[i] = (uint8_t)i;
    print("hello", &(struct zc_frame){
                       .kind = ZC_LINE_HELLO, .size = 6, .data = {1, 21, 0x78, 0x56, 0x34, 0x12}});
    print("ack", &(struct zc_frame){.kind = ZC_LINE_ACK, .ack = 200, .mask = 5});
    print("ping", &(struct zc_frame){.kind = ZC_LINE_PING, .ack = 1});
    print("bye", &(struct zc_frame){.kind = ZC_LINE_BYE, .ack = 1});
    print("open",
          &(struct zc_frame){.kind = ZC_LINE_OPEN, .stream = 1, .size = 8, .data = "cid\0-u\0"});
    print("start", &(struct zc_frame){.kind = ZC_LINE_START, .seq = 1, .stream = 1});
    print("started", &(struct zc_frame){.kind = ZC_LINE_STARTED, .stream = 1});
    print("data", &every);
    print("error", &(struct zc_frame){
                       .kind = ZC_LINE_ERROR, .seq = 1, .stream = 1, .size = 2, .data = "no"});
    print("end", &(struct zc_frame){.kind = ZC_LINE_END, .seq = 2, .stream = 1});
    print("credit", &(struct zc_frame){
                        .kind = ZC_LINE_CREDIT, .seq = 3, .stream = 1, .size = 4, .data = {0, 32}});
    print("close", &(struct zc_frame){.kind = ZC_LINE_CLOSE, .seq = 4, .stream = 1});
    print("exit", &(struct zc_frame){
                      .kind = ZC_LINE_EXIT, .seq = 255, .stream = 1, .size = 8, .data = {3}});
    return 0;
}
