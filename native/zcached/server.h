/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon's main loop: accepts on both planes, serves the control plane, waits for signals. */
#ifndef ZC_ZCACHED_SERVER_H
#define ZC_ZCACHED_SERVER_H

#include "control/control.h"
#include "zcached/data.h"
#include "zcached/log.h"

struct zc_server {
    struct zc_control *control;
    struct zc_data_server data;
    struct zc_log *log;
    int listeners[2]; /* by plane */
    int signals;      /* signalfd: SIGTERM, SIGINT */
    size_t control_count;
    uint64_t control_requests;
};

/* Runs until SIGTERM or SIGINT; which one. */
int zc_server_run(struct zc_server *server);

#endif
