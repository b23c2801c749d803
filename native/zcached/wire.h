/* SPDX-License-Identifier: Apache-2.0 */
/* Whole headers and payloads over a stream socket, each within a deadline. */
#ifndef ZC_ZCACHED_WIRE_H
#define ZC_ZCACHED_WIRE_H

#include <stdbool.h>
#include <stddef.h>

#define ZC_WIRE_END 1 /* the peer ended the connection between requests */

#define ZC_WIRE_AHEAD 2048u /* bytes: some requests for batches in a segment */
#define ZC_WIRE_HELD 512u   /* bytes: an answer to one of them */

/* A stream: what came is taken in one call, header, payload and the next ones; an answer may be held
 * back, to go with the next in one call. */
struct zc_wire {
    int fd;
    size_t next, end; /* in ahead: read, not yet asked for */
    size_t held_size;
    char ahead[ZC_WIRE_AHEAD], held[ZC_WIRE_HELD];
};

void zc_wire_init(struct zc_wire *wire, int fd);

/* Waits for as long as it takes for the first byte, then ZC_REQUEST_SECONDS for the rest. 0,
 * ZC_WIRE_END, -ECONNRESET (ended within), -ETIMEDOUT or another -errno.
 *
 * A descriptor that came with any byte read goes to *passed, and the one that was there (not -1) is
 * closed. It may come before the request that it rides on is asked for, never after. */
int zc_wire_read_header(struct zc_wire *wire, void *header, size_t size, int *passed);

/* The same, within so many seconds, no ZC_WIRE_END; passed NULL: descriptors are not taken. */
int zc_wire_read(struct zc_wire *wire, void *data, size_t size, unsigned seconds, int *passed);

/* Header and payload, within ZC_ANSWER_SECONDS. 0, -ETIMEDOUT or another -errno. */
int zc_wire_write(int fd, const void *header, size_t header_size, const void *payload, size_t size);

/* Was so much read already that its first `size` bytes, a header, are in *header? They stay unread.
 * Returns the bytes read ahead, 0: no whole header. */
size_t zc_wire_peek(const struct zc_wire *wire, void *header, size_t size);

/* As zc_wire_write(), after what is held. `hold`: rather keep it, if nothing is held yet and it has
 * room; whoever holds is to write soon. */
int zc_wire_answer(struct zc_wire *wire, const void *header, size_t header_size,
                   const void *payload, size_t size, bool hold);
/* What is held. */
int zc_wire_flush(struct zc_wire *wire);

#endif
