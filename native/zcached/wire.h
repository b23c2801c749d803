/* SPDX-License-Identifier: Apache-2.0 */
/* Whole headers and payloads over a stream socket, each within a deadline. */
#ifndef ZC_ZCACHED_WIRE_H
#define ZC_ZCACHED_WIRE_H

#include <stddef.h>

#define ZC_WIRE_END 1 /* the peer ended the connection between requests */

/* Waits for as long as it takes for the first byte, then ZC_REQUEST_SECONDS for the rest. A
 * descriptor that rides on it goes to *passed, which was -1 or is closed before. 0, ZC_WIRE_END,
 * -ECONNRESET (ended within), -ETIMEDOUT or another -errno. */
int zc_wire_read_header(int fd, void *header, size_t size, int *passed);

/* 0, -ECONNRESET, -ETIMEDOUT or another -errno. */
int zc_wire_read(int fd, void *data, size_t size, unsigned seconds);

/* Header and payload, within ZC_ANSWER_SECONDS. 0, -ETIMEDOUT or another -errno. */
int zc_wire_write(int fd, const void *header, size_t header_size, const void *payload, size_t size);

#endif
