/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"

#define LOG_MAX (UINT64_C(1) << 20)
#define LINE_SIZE 512

static int open_file(struct zc_log *log)
{
    struct stat st;

    log->fd = openat(log->dir, "zcached.log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log->fd < 0)
        return -errno;
    log->size = fstat(log->fd, &st) == 0 ? (uint64_t)st.st_size : 0;
    return 0;
}

int zc_log_open(struct zc_log *log, int dir)
{
    *log = (struct zc_log){.dir = dir};
    pthread_mutex_init(&log->lock, NULL);
    return open_file(log);
}

void zc_log_close(struct zc_log *log)
{
    if (log->fd >= 0)
        close(log->fd);
    pthread_mutex_destroy(&log->lock);
}

static void rotate(struct zc_log *log)
{
    if (renameat(log->dir, "zcached.log", log->dir, "zcached.log.1") != 0)
        return;
    close(log->fd);
    open_file(log);
}

void zc_log_line(struct zc_log *log, const char *level, const char *format, ...)
{
    char line[LINE_SIZE];
    struct tm utc;
    va_list args;
    time_t now = time(NULL);

    size_t len = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    len += (size_t)snprintf(line + len, sizeof(line) - len, " %s ", level);
    va_start(args, format);
    vsnprintf(line + len, sizeof(line) - len - 1, format, args);
    va_end(args);
    for (; line[len]; len++)
        line[len] = line[len] >= ' ' && line[len] <= '~' ? line[len] : '?';
    line[len++] = '\n';

    pthread_mutex_lock(&log->lock);
    if (log->size + len > LOG_MAX)
        rotate(log);
    if (log->fd >= 0 && write(log->fd, line, len) == (ssize_t)len)
        log->size += len;
    pthread_mutex_unlock(&log->lock);
}
