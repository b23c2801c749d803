/* SPDX-License-Identifier: Apache-2.0 */
/* The data plane's server: requests of <zcache/proto.h> against a store. */
#ifndef ZC_ZCACHED_DATA_H
#define ZC_ZCACHED_DATA_H

#include <pthread.h>
#include <stdatomic.h>

#include <zcache/store.h>

#include "base/list.h"
#include "zcached/log.h"

struct zc_data_server {
    zc_store *store;
    struct zc_log *log;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* connections or outstanding */
    struct zc_link connections;
    size_t connection_count;
    size_t outstanding;      /* bytes, see ZC_MAX_OUTSTANDING */
    unsigned record_wait_ms; /* for events, before an answer without any */
    atomic_uint_fast64_t requests, errors;
};

void zc_data_init(struct zc_data_server *server, zc_store *store, struct zc_log *log);

/* Serves the connection in a thread of its own and takes over the descriptor. -EMFILE: too many;
 * -EAGAIN: no thread; the descriptor is closed then too. */
int zc_data_accept(struct zc_data_server *server, int fd);

/* Serves the connection here, until it ends. */
void zc_data_serve(struct zc_data_server *server, int fd);

/* Lets every connection finish its request, waits for their ends up to `seconds`. How many are left. */
size_t zc_data_stop(struct zc_data_server *server, unsigned seconds);

#endif
