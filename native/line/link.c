/* SPDX-License-Identifier: Apache-2.0 */
#include "line/link.h"

#include <string.h>

#include "base/base.h"

#define FIRST_PATIENCE_NS ZC_SECOND_NS
#define LEAST_PATIENCE_NS (ZC_SECOND_NS / 5)
#define MOST_PATIENCE_NS (4 * ZC_SECOND_NS)

static struct zc_link_sent *slot(struct zc_link *link, uint8_t seq)
{
    return &link->sent[seq % ZC_LINK_WINDOW];
}

static uint8_t under_way(const struct zc_link *link)
{
    return (uint8_t)(link->next - link->first);
}

void zc_link_init(struct zc_link *link, uint32_t session, uint8_t window)
{
    memset(link, 0, sizeof(*link));
    link->session = session;
    link->window = (uint8_t)zc_max(1, zc_min(window, ZC_LINK_WINDOW));
    link->patience_ns = FIRST_PATIENCE_NS;
}

bool zc_link_has_room(const struct zc_link *link)
{
    return under_way(link) < link->window;
}

void zc_link_send(struct zc_link *link, enum zc_line_kind kind, uint8_t stream, const void *data,
                  size_t size)
{
    struct zc_link_sent *sent = slot(link, link->next);

    ZC_ASSERT(zc_link_has_room(link) && size <= ZC_FRAME_PAYLOAD);
    *sent = (struct zc_link_sent){
        .frame = {.kind = (uint8_t)kind, .seq = link->next, .stream = stream, .size = size}};
    if (size)
        memcpy(sent->frame.data, data, size);
    link->next++;
}

/* Returns when in the order of all sendings this one was sent, if that is news. */
static uint64_t arrive(struct zc_link *link, uint8_t seq, uint64_t now_ns)
{
    struct zc_link_sent *sent = slot(link, seq);

    if (sent->arrived || !sent->order)
        return 0;
    sent->arrived = true;
    if (!sent->repeated) {
        uint64_t round = now_ns - sent->sent_ns;
        link->round_ns = link->round_ns ? (7 * link->round_ns + round) / 8 : round;
        link->patience_ns =
            zc_min64(zc_max64(2 * link->round_ns + LEAST_PATIENCE_NS / 2, LEAST_PATIENCE_NS),
                     MOST_PATIENCE_NS);
    }
    return sent->order;
}

/* What the other side says that it has. */
static void take_answer(struct zc_link *link, const struct zc_frame *frame, uint64_t now_ns)
{
    uint8_t before = (uint8_t)(frame->ack - link->first);
    uint64_t newest = 0;

    if (before > under_way(link))
        return; /* an old one */
    for (uint8_t i = 0; i < before; i++)
        newest = zc_max64(newest, arrive(link, (uint8_t)(link->first + i), now_ns));
    for (unsigned i = 0; i < ZC_LINK_WINDOW && before + 1u + i < under_way(link); i++) {
        if (frame->mask >> i & 1)
            newest = zc_max64(newest, arrive(link, (uint8_t)(frame->ack + 1 + i), now_ns));
    }
    link->first = frame->ack;
    for (uint8_t seq = link->first; seq != link->next; seq++) {
        struct zc_link_sent *sent = slot(link, seq);
        if (!sent->arrived && sent->order && sent->order < newest)
            sent->again = true;
    }
}

void zc_link_receive(struct zc_link *link, const struct zc_frame *frame, uint64_t now_ns)
{
    take_answer(link, frame, now_ns);
    if (frame->kind < ZC_LINE_OPEN)
        return;
    uint8_t ahead = (uint8_t)(frame->seq - link->expected);
    link->owes_answer = true;
    if (ahead >= ZC_LINK_WINDOW)
        return; /* it has come before */
    link->early[frame->seq % ZC_LINK_WINDOW] = *frame;
    link->came |= UINT32_C(1) << ahead;
}

bool zc_link_next(struct zc_link *link, struct zc_frame *frame)
{
    if (!(link->came & 1))
        return false;
    *frame = link->early[link->expected % ZC_LINK_WINDOW];
    link->came >>= 1;
    link->expected++;
    return true;
}

/* What is to be sent now, what was lost first; NULL: nothing that has to arrive. */
static struct zc_link_sent *due(struct zc_link *link, uint64_t now_ns)
{
    struct zc_link_sent *fresh = NULL;

    for (uint8_t seq = link->first; seq != link->next; seq++) {
        struct zc_link_sent *sent = slot(link, seq);
        if (sent->again)
            return sent;
        if (!sent->order && !fresh)
            fresh = sent;
    }
    if (now_ns < zc_link_alarm_ns(link))
        return fresh;
    link->patience_ns = zc_min64(2 * link->patience_ns, MOST_PATIENCE_NS);
    return slot(link, link->first);
}

size_t zc_link_output(struct zc_link *link, uint64_t now_ns, uint8_t out[ZC_FRAME_ENCODED])
{
    struct zc_link_sent *sent = due(link, now_ns);
    struct zc_frame answer = {.kind = ZC_LINE_ACK};
    struct zc_frame *frame = sent ? &sent->frame : &answer;

    if (!sent && !link->owes_answer)
        return 0;
    if (sent) {
        sent->repeated = sent->order != 0;
        sent->again = false;
        sent->order = ++link->order;
        sent->sent_ns = now_ns;
    }
    link->owes_answer = false;
    frame->ack = link->expected;
    frame->mask = link->came >> 1;
    return zc_frame_encode(frame, link->session, out);
}

uint64_t zc_link_alarm_ns(const struct zc_link *link)
{
    const struct zc_link_sent *oldest = &link->sent[link->first % ZC_LINK_WINDOW];

    return under_way(link) && oldest->order ? oldest->sent_ns + link->patience_ns : UINT64_MAX;
}
