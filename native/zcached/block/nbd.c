/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nbd: the kernel sends block requests over sockets, here one end of a pair each, and takes answers in any order
 * (linux/nbd.h; the protocol is doc/proto.md of the NetworkBlockDevice project). A connection is a pair, a thread
 * and a buffer, which serves one request at a time.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <linux/nbd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "base/large.h"
#include "base/thread.h"
#include "zcached/block/export.h"
#include "zcached/block/nbd_link.h"

#define CONNECTIONS_MAX 2u
#define DEPTH 16u                 /* requests that the kernel sends before the first is answered */
#define TIMEOUT_SECONDS 30u       /* that the last of them may take */
#define UNSET_BYTES (128u * 1024) /* of a request, as long as the kernel was told no other limit */
#define STACK_BYTES (128u * 1024)

enum { KERNELS, OURS, ENDS };

struct connection {
    struct zc_export *export;
    int ends[ENDS];
    char *buffer;
    pthread_t thread;
    bool has_thread;
};

struct zc_export {
    struct zc_blocks blocks;
    uint32_t index; /* of the device */
    bool is_connected;
    int device; /* descriptor: with the last one the kernel takes the device away, also if we are killed */
    char name[16];
    unsigned connection_count;
    struct connection connections[CONNECTIONS_MAX];
};

static bool nbd_is_there(void)
{
    return access("/sys/module/nbd", F_OK) == 0;
}

/* ---- requests ---- */

static bool receive(int fd, void *bytes, size_t size)
{
    for (char *to = bytes; size > 0;) {
        ssize_t len = recv(fd, to, size, 0);
        if (len == 0 || (len < 0 && errno != EINTR))
            return false;
        to += len > 0 ? len : 0;
        size -= len > 0 ? (size_t)len : 0;
    }
    return true;
}

static bool send_all(int fd, const void *bytes, size_t size, int flags)
{
    for (const char *from = bytes; size > 0;) {
        ssize_t len = send(fd, from, size, MSG_NOSIGNAL | flags);
        if (len < 0 && errno != EINTR)
            return false;
        from += len > 0 ? len : 0;
        size -= len > 0 ? (size_t)len : 0;
    }
    return true;
}

static int carry_out(const struct connection *connection, uint32_t command, uint64_t at,
                     uint32_t size)
{
    const struct zc_blocks *blocks = &connection->export->blocks;
    const struct zc_blocks_ops *ops = blocks->ops;

    switch (command) {
    case NBD_CMD_READ:
        return ops->read(blocks->object, at, connection->buffer, size);
    case NBD_CMD_WRITE:
        return ops->write(blocks->object, at, connection->buffer, size);
    case NBD_CMD_TRIM:
        return ops->discard ? ops->discard(blocks->object, at, size) : -EOPNOTSUPP;
    case NBD_CMD_FLUSH:
        return ops->flush ? ops->flush(blocks->object) : 0;
    default:
        return -EINVAL;
    }
}

static size_t buffer_bytes(const struct zc_export *export)
{
    return zc_max(UNSET_BYTES, export->blocks.most_size);
}

/* False: the connection is over. */
static bool serve_one(const struct connection *connection)
{
    struct nbd_request request;
    struct nbd_reply reply = {.magic = htobe32(NBD_REPLY_MAGIC)};
    int fd = connection->ends[OURS];

    if (!receive(fd, &request, sizeof(request)) || be32toh(request.magic) != NBD_REQUEST_MAGIC)
        return false;
    uint32_t command = be32toh(request.type) & 0xffff, size = be32toh(request.len);
    bool has_data = command == NBD_CMD_READ || command == NBD_CMD_WRITE;
    if (command == NBD_CMD_DISC || (has_data && size > buffer_bytes(connection->export)))
        return false;
    if (command == NBD_CMD_WRITE && !receive(fd, connection->buffer, size))
        return false;

    int error = carry_out(connection, command, be64toh(request.from), size);
    reply.error = htobe32((uint32_t)-error);
    memcpy(&reply.handle, &request.handle, sizeof(reply.handle));
    bool is_data = command == NBD_CMD_READ && !error;
    return send_all(fd, &reply, sizeof(reply), is_data ? MSG_MORE : 0) &&
           (!is_data || send_all(fd, connection->buffer, size, 0));
}

static void *connection_main(void *arg)
{
    const struct connection *connection = arg;

    prctl(PR_SET_NAME, "zc-nbd");
    while (serve_one(connection))
        ;
    shutdown(connection->ends[OURS], SHUT_RDWR);
    return NULL;
}

/* ---- connections ---- */

static int start_connection(struct zc_export *export, struct connection *connection)
{
    connection->export = export;
    connection->buffer = zc_large_get(buffer_bytes(export));
    if (!connection->buffer)
        return -ENOMEM;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, connection->ends) != 0)
        return -errno;
    int error = zc_thread_start(&connection->thread, STACK_BYTES, connection_main, connection);
    connection->has_thread = !error;
    return error;
}

static int start_connections(struct zc_export *export)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    int error = 0;

    export->connection_count = (unsigned)zc_min(cpus < 1 ? 1 : (size_t)cpus, CONNECTIONS_MAX);
    for (unsigned i = 0; i < export->connection_count && !error; i++)
        error = start_connection(export, &export->connections[i]);
    return error;
}

static void end_connection(struct connection *connection)
{
    if (connection->ends[OURS] >= 0)
        shutdown(connection->ends[OURS], SHUT_RDWR);
    if (connection->has_thread)
        pthread_join(connection->thread, NULL);
    for (int i = 0; i < ENDS; i++) {
        if (connection->ends[i] >= 0)
            close(connection->ends[i]);
    }
    if (connection->export)
        zc_large_put(connection->buffer, buffer_bytes(connection->export));
}

/* ---- the device ---- */

/* The kernel makes of a write that is to last at once one with a flush after it. */
static uint64_t flags_of(const struct zc_blocks *blocks)
{
    return NBD_FLAG_HAS_FLAGS | NBD_FLAG_CAN_MULTI_CONN |
           (blocks->is_read_only ? NBD_FLAG_READ_ONLY : 0) |
           (blocks->ops->flush ? NBD_FLAG_SEND_FLUSH : 0) |
           (blocks->ops->discard ? NBD_FLAG_SEND_TRIM : 0);
}

static int connect_device(struct zc_export *export)
{
    int sockets[CONNECTIONS_MAX];
    const struct zc_nbd_wish wish = {
        .size = export->blocks.size,
        .block_size = export->blocks.block_size,
        .server_flags = flags_of(&export->blocks),
        .client_flags = NBD_CFLAG_DISCONNECT_ON_CLOSE,
        .timeout = TIMEOUT_SECONDS,
        .sockets = sockets,
        .socket_count = export->connection_count,
    };

    for (unsigned i = 0; i < export->connection_count; i++)
        sockets[i] = export->connections[i].ends[KERNELS];
    int error = zc_nbd_connect(&wish, &export->index);
    export->is_connected = !error;
    if (!error)
        snprintf(export->name, sizeof(export->name), "nbd%" PRIu32, export->index);
    return error;
}

static int open_device(struct zc_export *export)
{
    char path[ZC_NODE_PATH_MAX];
    uint64_t size = 0;
    int error = zc_block_node(export->name, path);

    if (error)
        return error;
    export->device = open(path, O_RDONLY | O_CLOEXEC);
    if (export->device < 0 || ioctl(export->device, BLKGETSIZE64, &size) != 0)
        return -errno;
    /* Somebody may have looked at it before us, and closed it. */
    return size == export->blocks.size ? 0 : -ENODEV;
}

static void nbd_close(struct zc_export *export)
{
    if (export->is_connected)
        zc_nbd_disconnect(export->index);
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
        end_connection(&export->connections[i]);
    if (export->device >= 0)
        close(export->device);
    free(export);
}

static int start(struct zc_export *export)
{
    int error = start_connections(export);

    if (!error)
        error = connect_device(export);
    if (!error)
        error = open_device(export);
    if (!error)
        error = zc_queue_set(export->name, "max_sectors_kb", export->blocks.most_size / 1024);
    if (!error)
        error = zc_queue_set(export->name, "nr_requests", DEPTH);
    return error;
}

static int nbd_open(const struct zc_blocks *blocks, struct zc_export **out, struct zc_text *why)
{
    struct zc_export *export = calloc(1, sizeof(*export));
    if (!export)
        return -ENOMEM;

    *export = (struct zc_export){.blocks = *blocks, .device = -1};
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
        export->connections[i] = (struct connection){.ends = {-1, -1}};
    int error = start(export);
    if (!error) {
        *out = export;
        return 0;
    }
    zc_text_add(why, "nbd: cannot set up %s: %s", *export->name ? export->name : "a device",
                error == -ENOENT ? "this kernel's has no netlink; Linux 4.12 is needed"
                                 : strerror(-error));
    nbd_close(export);
    return error;
}

static const char *nbd_name_of(const struct zc_export *export)
{
    return export->name;
}

const struct zc_transport zc_nbd = {
    .name = "nbd",
    .is_there = nbd_is_there,
    .open = nbd_open,
    .name_of = nbd_name_of,
    .close = nbd_close,
};
