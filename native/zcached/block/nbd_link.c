/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/block/nbd_link.h"

#include <errno.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <linux/netlink.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define MESSAGE_BYTES 1024u
#define ANSWER_SECONDS 30

/* Heads, then attributes; each at a multiple of four. */
struct message {
    _Alignas(struct nlmsghdr) char bytes[MESSAGE_BYTES];
};

static struct nlmsghdr *head_of(struct message *message)
{
    return (struct nlmsghdr *)message->bytes;
}

static void begin(struct message *message, uint16_t family, uint16_t flags, uint8_t command)
{
    struct genlmsghdr *kind = (struct genlmsghdr *)(message->bytes + NLMSG_HDRLEN);

    memset(message, 0, sizeof(*message));
    *head_of(message) = (struct nlmsghdr){
        .nlmsg_len = NLMSG_HDRLEN + GENL_HDRLEN,
        .nlmsg_type = family,
        .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags),
    };
    *kind = (struct genlmsghdr){.cmd = command, .version = NBD_GENL_VERSION};
}

/* An attribute, at the end; of one without content yet, see end_nest(). */
static struct nlattr *add(struct message *message, uint16_t type, const void *bytes, size_t size)
{
    struct nlmsghdr *head = head_of(message);
    struct nlattr *attribute = (struct nlattr *)(message->bytes + head->nlmsg_len);

    *attribute = (struct nlattr){.nla_type = type, .nla_len = (uint16_t)(NLA_HDRLEN + size)};
    if (size > 0)
        memcpy((char *)attribute + NLA_HDRLEN, bytes, size);
    head->nlmsg_len += NLA_ALIGN((uint32_t)attribute->nla_len);
    return attribute;
}

static void add_number(struct message *message, uint16_t type, uint64_t number)
{
    add(message, type, &number, sizeof(number));
}

/* What was added since is in it. */
static void end_nest(struct message *message, struct nlattr *nest)
{
    nest->nla_type |= NLA_F_NESTED;
    nest->nla_len = (uint16_t)(message->bytes + head_of(message)->nlmsg_len - (char *)nest);
}

/* Sends it; what comes back is in its place. */
static int ask(int fd, struct message *message)
{
    struct nlmsghdr *head = head_of(message);

    if (send(fd, message->bytes, head->nlmsg_len, 0) < 0)
        return -errno;
    ssize_t len = recv(fd, message->bytes, sizeof(message->bytes), 0);
    if (len < 0)
        return -errno;
    if (len < (ssize_t)NLMSG_HDRLEN || head->nlmsg_len > (size_t)len)
        return -EBADMSG;
    if (head->nlmsg_type == NLMSG_ERROR)
        return ((struct nlmsgerr *)NLMSG_DATA(head))->error;
    return 0;
}

/* Of an answer, the content of an attribute of at least `size` bytes; NULL: it has none. */
static const void *find(struct message *message, uint16_t type, size_t size)
{
    size_t end = head_of(message)->nlmsg_len;

    for (size_t at = NLMSG_HDRLEN + GENL_HDRLEN; at + NLA_HDRLEN <= end;) {
        const struct nlattr *attribute = (const struct nlattr *)(message->bytes + at);
        if (attribute->nla_len < NLA_HDRLEN || attribute->nla_len > end - at)
            return NULL;
        if ((attribute->nla_type & NLA_TYPE_MASK) == type &&
            attribute->nla_len >= NLA_HDRLEN + size)
            return (const char *)attribute + NLA_HDRLEN;
        at += NLA_ALIGN((size_t)attribute->nla_len);
    }
    return NULL;
}

/* A netlink socket, and the number that nbd has there. */
static int open_link(int *fd, uint16_t *family)
{
    const struct timeval patience = {.tv_sec = ANSWER_SECONDS};
    struct message message;

    *fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
    if (*fd < 0)
        return -errno;
    setsockopt(*fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    begin(&message, GENL_ID_CTRL, 0, CTRL_CMD_GETFAMILY);
    add(&message, CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME, sizeof(NBD_GENL_FAMILY_NAME));
    int error = ask(*fd, &message);
    const void *number = error ? NULL : find(&message, CTRL_ATTR_FAMILY_ID, sizeof(*family));
    if (number)
        memcpy(family, number, sizeof(*family));
    else
        close(*fd);
    return error ? error : number ? 0 : -EBADMSG;
}

static void add_sockets(struct message *message, const int *sockets, size_t count)
{
    struct nlattr *all = add(message, NBD_ATTR_SOCKETS, NULL, 0);

    for (size_t i = 0; i < count; i++) {
        struct nlattr *one = add(message, NBD_SOCK_ITEM, NULL, 0);
        uint32_t fd = (uint32_t)sockets[i];
        add(message, NBD_SOCK_FD, &fd, sizeof(fd));
        end_nest(message, one);
    }
    end_nest(message, all);
}

int zc_nbd_connect(const struct zc_nbd_wish *wish, uint32_t *index)
{
    struct message message;
    uint16_t family;
    int fd, error = open_link(&fd, &family);

    if (error)
        return error;
    begin(&message, family, 0, NBD_CMD_CONNECT);
    add_number(&message, NBD_ATTR_SIZE_BYTES, wish->size);
    add_number(&message, NBD_ATTR_BLOCK_SIZE_BYTES, wish->block_size);
    add_number(&message, NBD_ATTR_TIMEOUT, wish->timeout);
    add_number(&message, NBD_ATTR_SERVER_FLAGS, wish->server_flags);
    add_number(&message, NBD_ATTR_CLIENT_FLAGS, wish->client_flags);
    add_sockets(&message, wish->sockets, wish->socket_count);
    error = ask(fd, &message);
    const void *number = error ? NULL : find(&message, NBD_ATTR_INDEX, sizeof(*index));
    if (number)
        memcpy(index, number, sizeof(*index));
    close(fd);
    return error ? error : number ? 0 : -EBADMSG;
}

int zc_nbd_disconnect(uint32_t index)
{
    struct message message;
    uint16_t family;
    int fd, error = open_link(&fd, &family);

    if (error)
        return error;
    begin(&message, family, NLM_F_ACK, NBD_CMD_DISCONNECT);
    add(&message, NBD_ATTR_INDEX, &index, sizeof(index));
    error = ask(fd, &message);
    close(fd);
    return error;
}
