/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes the data plane: input is what a client sends on a real socket, with a sealed segment passed
 * before. Whatever it is, the connection ends in good order and the store can be emptied. */
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <zcache/proto.h>

#include "fuzz.h"
#include "zcached/data.h"

#define SEGMENT_PAGES 64

static void pass_segment(int fd, size_t page_size)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
    struct zc_request request = {.magic = ZC_MAGIC,
                                 .version = ZC_ABI,
                                 .op = ZC_OP_SEGMENT,
                                 .object = SEGMENT_PAGES * page_size};
    struct iovec iov = {&request, sizeof(request)};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    int segment = (int)syscall(SYS_memfd_create, "fuzz", 0x3);

    if (ftruncate(segment, (off_t)request.object) != 0 ||
        fcntl(segment, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0)
        abort();
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(segment));
    memcpy(CMSG_DATA(c), &segment, sizeof(segment));
    if (sendmsg(fd, &message, 0) != sizeof(request))
        abort();
    close(segment);
}

/* Takes answers until the end, so that no answer blocks. */
static void *drain(void *arg)
{
    char answers[4096];

    while (read(*(int *)arg, answers, sizeof(answers)) > 0)
        ;
    return NULL;
}

struct input {
    int fd;
    const uint8_t *data;
    size_t size;
};

static void *feed(void *arg)
{
    const struct input *input = arg;

    for (size_t done = 0; done < input->size;) {
        ssize_t len = send(input->fd, input->data + done, input->size - done, MSG_NOSIGNAL);
        if (len <= 0)
            break;
        done += (size_t)len;
    }
    shutdown(input->fd, SHUT_WR);
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"p", "e"};
    struct zc_data_server server;
    struct zc_log log = {.lock = PTHREAD_MUTEX_INITIALIZER, .dir = -1, .fd = -1};
    pthread_t feeder, drainer;
    zc_store *store = fuzz_store();
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0)
        abort();
    for (int i = 0; i < 2; i++) {
        struct zc_pool_config config = {.name = names[i], .kind = i ? ZC_EPHEMERAL : ZC_PERSISTENT};
        zc_pool *pool;
        if (zc_pool_create(store, &config, &pool) != 0)
            abort();
        zc_pool_release(pool);
    }
    zc_data_init(&server, store, &log);
    server.record_wait_ms = 0;
    pass_segment(ends[0], zc_store_page_size(store));

    struct input input = {ends[0], data, size};
    pthread_create(&drainer, NULL, drain, &ends[0]);
    pthread_create(&feeder, NULL, feed, &input);
    zc_data_serve(&server, ends[1]);
    close(ends[1]);
    pthread_join(feeder, NULL);
    pthread_join(drainer, NULL);
    close(ends[0]);
    if (server.outstanding != 0)
        abort();
    zc_store_destroy(store);
    return 0;
}
