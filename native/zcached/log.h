/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon's log: DIR/zcached.log, one line an event, renamed to zcached.log.1 at 1 MiB. */
#ifndef ZC_ZCACHED_LOG_H
#define ZC_ZCACHED_LOG_H

#include <pthread.h>
#include <stdint.h>

struct zc_log {
    pthread_mutex_t lock;
    int dir, fd;
    uint64_t size;
};

/* `dir`: descriptor of the run directory, which must stay open. 0 or -errno. */
int zc_log_open(struct zc_log *log, int dir);
void zc_log_close(struct zc_log *log);

/* level: "info", "warning" or "error". Lines that cannot be written are dropped. */
void zc_log_line(struct zc_log *log, const char *level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
