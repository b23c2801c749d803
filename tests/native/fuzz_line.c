/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes the far end of a serial line twice: as bytes of the line, and as frames that came through it whole, which
 * are a header and a payload each. */
#include <signal.h>

#include "fuzz.h"
#include "line/streams.h"

static struct zc_streams streams;

static void take(const struct zc_frame *frame, uint64_t now_ns)
{
    uint8_t out[ZC_FRAME_ENCODED];
    struct zc_frame due;

    zc_link_receive(&streams.link, frame, now_ns);
    while (zc_link_next(&streams.link, &due))
        zc_streams_receive(&streams, &due);
    zc_streams_turn(&streams);
    for (unsigned i = 0; i < 4 && zc_link_output(&streams.link, now_ns, out); i++)
        ;
}

static void take_bytes(const uint8_t *data, size_t size)
{
    struct zc_deframer deframer = {0};
    struct zc_frame frame;

    for (size_t i = 0; i < size; i++) {
        if (zc_frame_decode(&deframer, 1, data[i], &frame) == ZC_DEFRAMED_FRAME)
            take(&frame, i);
    }
}

static void take_frames(const uint8_t *data, size_t size)
{
    for (uint64_t now_ns = 1; size >= ZC_FRAME_HEADER + 1; now_ns += ZC_SECOND_NS / 10) {
        struct zc_frame frame = {
            .kind = data[0], .seq = data[1], .ack = data[2], .stream = data[3]};
        frame.mask = zc_line_load32(data + 4);
        frame.size = zc_min(data[8], size - ZC_FRAME_HEADER - 1);
        memcpy(frame.data, data + ZC_FRAME_HEADER + 1, frame.size);
        take(&frame, now_ns);
        data += ZC_FRAME_HEADER + 1 + frame.size;
        size -= ZC_FRAME_HEADER + 1 + frame.size;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    signal(SIGPIPE, SIG_IGN);      /* as zcline does */
    setenv("PATH", "/nowhere", 1); /* what mutations make of a command is not to be there */
    zc_streams_reset(&streams, 1, ZC_LINK_WINDOW);
    take_bytes(data, size);
    zc_streams_reset(&streams, 1, ZC_LINK_WINDOW);
    take_frames(data, size);
    zc_streams_reset(&streams, 0, 1);
    return 0;
}
