/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The run directory: zcached.lock, held by the daemon while it runs; zcached.state, key=value lines
 * that say where it is reached; the sockets; the log.
 */
#ifndef ZC_ZCACHED_RUNDIR_H
#define ZC_ZCACHED_RUNDIR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#define ZC_ADDRESS_MAX sizeof(((struct sockaddr_un *)0)->sun_path)

enum zc_plane { ZC_CONTROL_PLANE, ZC_DATA_PLANE };

struct zc_rundir {
    const char *path;
    int dir, lock;                   /* descriptors */
    char address[2][ZC_ADDRESS_MAX]; /* of each plane: a path, or @name (abstract) */
};

/* Makes the directory where it is missing, takes the lock, removes what a killed daemon left.
 * On failure prints one line on standard error. */
int zc_rundir_open(struct zc_rundir *rundir, const char *path, bool abstract);

/* Removes state and sockets and gives up the lock. */
void zc_rundir_close(struct zc_rundir *rundir);

/* Writes zcached.state, all at once. 0 or -errno. */
int zc_rundir_publish(const struct zc_rundir *rundir, size_t page_size);

/* A listening socket of the plane. Descriptor or -errno. */
int zc_rundir_listen(const struct zc_rundir *rundir, enum zc_plane plane);

/* From another process: a connection to the daemon of the directory. Descriptor or -errno; -ENOENT or
 * -ECONNREFUSED: none runs. */
int zc_rundir_connect(const char *path, enum zc_plane plane);

/* The other end is the daemon's own user or root. */
bool zc_peer_is_allowed(int fd, uid_t *uid, pid_t *pid);

#endif
