/* SPDX-License-Identifier: Apache-2.0 */
/* A client of the daemon's sockets: pages in a segment of its own, several requests in flight. */
#ifndef ZC_ZCACHED_CLIENT_H
#define ZC_ZCACHED_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#include <zcache/proto.h>

#include "base/node.h"
#include "zcached/wire.h"

struct zc_client {
    int fd;
    struct zc_wire wire; /* its reading end */
    size_t page_size;
    char *segment; /* room for `slots` pages */
    size_t slots;
};

/* Connects to the daemon of a run directory and passes it a segment. -errno. */
int zc_client_open(struct zc_client *client, const char *dir, size_t slots);
void zc_client_close(struct zc_client *client);

/* The pool's id. -ENOENT: no such pool. */
int zc_client_pool(struct zc_client *client, const char *name, uint32_t *pool);

/*
 * Sends one request for the pages object/index.. in the slots slot..slot+count-1 (put, get), or
 * without slots for the other operations. Its answer is to be received in its turn.
 */
int zc_client_send(struct zc_client *client, enum zc_op op, uint32_t flags,
                   const struct zc_wire_key *first, size_t slot, size_t count);

/* Receives the next answer; results has room for `count`. *time_ns may be NULL. */
int zc_client_receive(struct zc_client *client, struct zc_result *results, size_t count,
                      uint64_t *time_ns);

/* Asks the control plane; the payload of an OK answer goes to `out`. -EPROTO: it answered ERR. */
int zc_client_ask(const char *dir, const char *line, struct zc_text *out);

#endif
