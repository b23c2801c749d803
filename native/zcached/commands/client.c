/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/commands/client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"
#include "zcached/rundir.h"
#include "zcached/wire.h"

#define ANSWER_SECONDS 60 /* a whole batch on a slow device under load */
#define SPIN_NS 50000u
#define SPIN_RELAX 64u /* times between two looks */

#ifndef F_ADD_SEALS
#define F_ADD_SEALS 1033
#define F_SEAL_SHRINK 2
#define F_SEAL_GROW 4
#endif

static int send_header(const struct zc_client *client, const struct zc_request *request, int fd)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {.iov_base = (void *)request, .iov_len = sizeof(*request)};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(fd));
    memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    return sendmsg(client->fd, &message, MSG_NOSIGNAL) == sizeof(*request) ? 0 : -errno;
}

/* Looks for an answer for a while before it sleeps: to be woken costs as much as some pages. */
static void spin(const struct zc_client *client)
{
    struct pollfd ready = {.fd = client->fd, .events = POLLIN};
    uint64_t end = zc_now_ns() + SPIN_NS;

    while (client->wire.next == client->wire.end && poll(&ready, 1, 0) == 0 && zc_now_ns() < end) {
        for (unsigned i = 0; i < SPIN_RELAX; i++)
            zc_relax();
        sched_yield();
    }
}

static int read_answer(struct zc_client *client, struct zc_answer *answer, void *payload,
                       size_t size)
{
    spin(client);
    int error = zc_wire_read(&client->wire, answer, sizeof(*answer), ANSWER_SECONDS, NULL);
    if (error)
        return error;
    if (answer->magic != ZC_MAGIC || answer->payload > ZC_MAX_PAYLOAD)
        return -EPROTO;
    if (answer->status == 0 && answer->payload <= size)
        return zc_wire_read(&client->wire, payload, answer->payload, ANSWER_SECONDS, NULL);

    /* A message, which callers have no use for: its errno says it. */
    char rest[512];
    for (uint32_t left = answer->payload; !error && left;) {
        uint32_t part = left < sizeof(rest) ? left : (uint32_t)sizeof(rest);
        error = zc_wire_read(&client->wire, rest, part, ANSWER_SECONDS, NULL);
        left -= part;
    }
    if (error)
        return error;
    return answer->status ? answer->status : -EPROTO;
}

static int hello(struct zc_client *client)
{
    struct zc_request request = {.magic = ZC_MAGIC, .version = ZC_ABI, .op = ZC_OP_HELLO};
    struct zc_answer answer;
    struct zc_hello hello;
    int error = zc_wire_write(client->fd, &request, sizeof(request), NULL, 0);

    if (!error)
        error = read_answer(client, &answer, &hello, sizeof(hello));
    if (!error && (answer.payload != sizeof(hello) || hello.abi != ZC_ABI))
        error = -EPROTO;
    client->page_size = error ? 0 : hello.page_size;
    return error;
}

static int pass_segment(struct zc_client *client, size_t slots)
{
    size_t size = slots * client->page_size;
    struct zc_request request = {
        .magic = ZC_MAGIC, .version = ZC_ABI, .op = ZC_OP_SEGMENT, .object = size};
    struct zc_answer answer;
    int fd = (int)syscall(SYS_memfd_create, "zcache", 0x3 /* CLOEXEC, ALLOW_SEALING */);
    if (fd < 0)
        return -errno;

    int error = 0;
    if (ftruncate(fd, (off_t)size) != 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
        error = -errno;
        goto close_fd;
    }
    char *segment = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (segment == MAP_FAILED) {
        error = -errno;
        goto close_fd;
    }
    client->segment = segment;
    client->slots = slots;
    error = send_header(client, &request, fd);
    if (!error)
        error = read_answer(client, &answer, NULL, 0);
close_fd:
    close(fd);
    return error;
}

int zc_client_open(struct zc_client *client, const char *dir, size_t slots)
{
    *client = (struct zc_client){0};
    client->fd = zc_rundir_connect(dir, ZC_DATA_PLANE);
    if (client->fd < 0)
        return client->fd;

    zc_wire_init(&client->wire, client->fd);
    int error = hello(client);
    if (!error)
        error = pass_segment(client, slots);
    if (error)
        zc_client_close(client);
    return error;
}

void zc_client_close(struct zc_client *client)
{
    if (client->segment)
        munmap(client->segment, client->slots * client->page_size);
    close(client->fd);
}

int zc_client_pool(struct zc_client *client, const char *name, uint32_t *pool)
{
    struct zc_request request = {
        .magic = ZC_MAGIC, .version = ZC_ABI, .op = ZC_OP_POOL, .payload = (uint32_t)strlen(name)};
    struct zc_answer answer;
    struct zc_wire_pool found;
    int error = zc_wire_write(client->fd, &request, sizeof(request), name, request.payload);

    if (!error)
        error = read_answer(client, &answer, &found, sizeof(found));
    if (!error)
        *pool = found.pool;
    return error;
}

int zc_client_send(struct zc_client *client, enum zc_op op, uint32_t flags,
                   const struct zc_wire_key *first, size_t slot, size_t count)
{
    bool paged = op == ZC_OP_PUT || op == ZC_OP_GET;
    uint64_t offsets[ZC_MAX_BATCH];
    struct zc_request request = {
        .magic = ZC_MAGIC,
        .version = ZC_ABI,
        .op = (uint16_t)op,
        .pool = first->pool,
        .index = first->index,
        .object = first->object,
        .count = (uint32_t)count,
        .flags = flags | (paged ? ZC_F_SEGMENT : 0),
        .payload = paged ? (uint32_t)(count * sizeof(uint64_t)) : 0,
    };

    for (size_t i = 0; paged && i < count; i++)
        offsets[i] = (slot + i) * client->page_size;
    return zc_wire_write(client->fd, &request, sizeof(request), offsets, request.payload);
}

int zc_client_receive(struct zc_client *client, struct zc_result *results, size_t count,
                      uint64_t *time_ns)
{
    struct zc_answer answer;
    int error = read_answer(client, &answer, results, count * sizeof(*results));

    if (!error && answer.count != count)
        error = -EPROTO;
    if (!error && time_ns)
        *time_ns = answer.time_ns;
    return error;
}

int zc_client_ask(const char *dir, const char *line, struct zc_text *out)
{
    char head[32] = "", part[4096];
    struct zc_wire wire;
    size_t len = 0, left;
    int fd = zc_rundir_connect(dir, ZC_CONTROL_PLANE);
    if (fd < 0)
        return fd;

    zc_wire_init(&wire, fd);
    int error = zc_wire_write(fd, line, strlen(line), "\n", 1);
    while (!error && len < sizeof(head) - 1 && (len == 0 || head[len - 1] != '\n'))
        error = zc_wire_read(&wire, head + len++, 1, ANSWER_SECONDS, NULL);
    if (!error && sscanf(head, "OK %zu", &left) != 1)
        error = -EPROTO;
    while (!error && left) {
        size_t size = zc_min(left, sizeof(part));
        error = zc_wire_read(&wire, part, size, ANSWER_SECONDS, NULL);
        if (!error)
            zc_text_append(out, part, size);
        left -= size;
    }
    close(fd);
    return error ? error : out->error;
}
