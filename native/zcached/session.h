/* SPDX-License-Identifier: Apache-2.0 */
/* One data connection: its segment and buffers, and the operations. */
#ifndef ZC_ZCACHED_SESSION_H
#define ZC_ZCACHED_SESSION_H

#include <stddef.h>
#include <stdint.h>

#include <zcache/proto.h>

#include "zcached/data.h"
#include "zcached/wire.h"

struct zc_session {
    struct zc_data_server *server;
    struct zc_wire wire;
    int passed_fd; /* for the present request or one that is read ahead; -1: none */
    size_t page_size;
    char *segment;
    size_t segment_size;
    zc_pool *recorded; /* by this connection; a reference; NULL: none */
    zc_pool *pool;     /* the one of the present request's last key; a reference */
    char *scratch;     /* pages out of the segment */
    char *in, *out;
    size_t in_size, out_size;
    char why[160]; /* what is wrong, for the answer and the log */
};

void zc_session_init(struct zc_session *session, struct zc_data_server *server, int fd);
void zc_session_fini(struct zc_session *session);

/* Remembers what is wrong; returns `error`. */
int zc_session_fail(struct zc_session *session, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The most bytes that the answer's payload can have. */
size_t zc_session_answer_bytes(const struct zc_session *session, const struct zc_request *request);

/* Room in `in` and `out`. 0 or -ENOMEM. */
int zc_session_buffers(struct zc_session *session, size_t in, size_t out);
void zc_session_free_buffers(struct zc_session *session);

/* The request that it was passed for is over. */
void zc_session_drop_passed(struct zc_session *session);

/* Checks and carries out the request whose payload is in `in`; results go to `out`, and count,
 * payload and time_ns to *answer. Negative: refused, nothing was done, `why` says why. */
int zc_session_run(struct zc_session *session, const struct zc_request *request,
                   struct zc_answer *answer);

#endif
