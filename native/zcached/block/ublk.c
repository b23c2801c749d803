/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ublk: the kernel hands block requests out as completions of io_uring commands, one command a tag. A queue is
 * a ring, a thread, and a buffer a tag, all made before the first request: serving one allocates nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <liburing.h>
#include <linux/ublk_cmd.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "base/large.h"
#include "base/thread.h"
#include "zcached/block/ublk.h"

#define CONTROL "/sys/class/misc/ublk-control"
#define DEPTH 16u
#define QUEUES_MAX 2u
#define STACK_BYTES (128u * 1024)
#define SECTOR_SHIFT 9u
#define DISCARD_SECTORS (1u << 21) /* 1 GiB */
#define NAME "ublkb"
#define DEL_DEV_ASYNC 0x14u /* Linux 6.9; older headers do not have it */
#define ADOPT_TRIES 1000u   /* every 10 ms */
#define ADOPT_NS 10000000

struct queue {
    struct zc_export *export;
    unsigned number;
    struct io_uring ring;
    const struct ublksrv_io_desc *requests; /* the kernel's, by tag */
    char *buffers;                          /* max_io_buf_bytes each, by tag */
    cpu_set_t near;                         /* processors whose requests come here */
    pthread_t thread;
    unsigned pending; /* commands that are with the kernel */
    bool has_ring, has_thread;
};

struct zc_export {
    struct zc_blocks blocks; /* without ops, all requests fail */
    int control, device;     /* descriptors */
    struct io_uring ring;    /* of control commands */
    bool has_ring, is_added;
    bool is_encoded; /* commands are numbered as ioctls are, from Linux 6.4 on */
    struct ublksrv_ctrl_dev_info info;
    char name[24];
    unsigned queue_count;
    struct queue queues[QUEUES_MAX];
};

static bool ublk_is_there(void)
{
    return access(CONTROL, F_OK) == 0;
}

/* ---- control commands ---- */

static uint32_t encode(const struct zc_export *export, uint32_t command)
{
    if (!export->is_encoded)
        return command;
    if (command == UBLK_CMD_GET_DEV_INFO || command == UBLK_CMD_GET_QUEUE_AFFINITY ||
        command == DEL_DEV_ASYNC)
        return _IOR('u', command, struct ublksrv_ctrl_cmd);
    return _IOWR('u', command, struct ublksrv_ctrl_cmd);
}

static int control(struct zc_export *export, uint32_t command, void *argument, size_t size,
                   uint64_t data)
{
    struct ublksrv_ctrl_cmd cmd = {
        .dev_id = export->info.dev_id,
        .queue_id = UINT16_MAX,
        .addr = (uintptr_t)argument,
        .len = (uint16_t)size,
        .data = {data},
    };
    struct io_uring_sqe *sqe = io_uring_get_sqe(&export->ring);
    struct io_uring_cqe *cqe;

    memset(sqe, 0, 2 * sizeof(*sqe));
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->fd = export->control;
    sqe->cmd_op = encode(export, command);
    memcpy(sqe->cmd, &cmd, sizeof(cmd));
    int error = io_uring_submit(&export->ring);
    if (error < 0)
        return error;
    do
        error = io_uring_wait_cqe(&export->ring, &cqe);
    while (error == -EINTR);
    if (error)
        return error;
    error = cqe->res;
    io_uring_cqe_seen(&export->ring, cqe);
    return error < 0 ? error : 0;
}

/* The first command: in the numbers of today, or else in those of before Linux 6.4. */
static int control_either(struct zc_export *export, uint32_t command)
{
    int error = 0;

    for (int is_old = 0; is_old < 2; is_old++) {
        export->is_encoded = !is_old;
        error = control(export, command, &export->info, sizeof(export->info), 0);
        if (error != -EOPNOTSUPP && error != -EINVAL)
            break;
    }
    return error;
}

static int open_control(struct zc_export *export, struct zc_text *why)
{
    char path[ZC_NODE_PATH_MAX];
    int error = zc_device_node(CONTROL, false, path);

    if (!error) {
        export->control = open(path, O_RDWR | O_CLOEXEC);
        error = export->control < 0 ? -errno : 0;
    }
    if (!error) {
        error = io_uring_queue_init(2, &export->ring, IORING_SETUP_SQE128);
        export->has_ring = !error;
    }
    if (error)
        zc_text_add(why, "ublk: cannot use %s: %s", CONTROL, strerror(-error));
    return error;
}

static int add_device(struct zc_export *export, struct zc_text *why)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    int error;

    export->queue_count = (unsigned)zc_min(cpus < 1 ? 1 : (size_t)cpus, QUEUES_MAX);
    export->info = (struct ublksrv_ctrl_dev_info){
        .nr_hw_queues = (uint16_t)export->queue_count,
        .queue_depth = DEPTH,
        .max_io_buf_bytes = export->blocks.most_size,
        .dev_id = UINT32_MAX, /* any */
        .ublksrv_pid = getpid(),
        /* A kernel that does not know it takes it out. */
        .flags = export->blocks.is_guarded ? UBLK_F_USER_RECOVERY : 0,
    };
    error = control_either(export, UBLK_CMD_ADD_DEV);
    if (error) {
        zc_text_add(why, "ublk: cannot add a device: %s", strerror(-error));
        return error;
    }
    export->is_added = true;
    export->queue_count = export->info.nr_hw_queues; /* as many as it granted */
    snprintf(export->name, sizeof(export->name), NAME "%u", export->info.dev_id);
    return 0;
}

/* What the device can do beside reading and writing. The kernel makes of a write that is to last at once one with a
 * flush after it. */
static uint32_t attributes(const struct zc_blocks *blocks)
{
    return (blocks->is_read_only ? UBLK_ATTR_READ_ONLY : 0) |
           (blocks->ops->flush ? UBLK_ATTR_VOLATILE_CACHE : 0);
}

static int set_parameters(struct zc_export *export, struct zc_text *why)
{
    const struct zc_blocks *blocks = &export->blocks;
    struct ublk_params params = {
        .len = sizeof(params),
        .types = UBLK_PARAM_TYPE_BASIC | (blocks->ops->discard ? UBLK_PARAM_TYPE_DISCARD : 0),
        .basic =
            {
                .attrs = attributes(blocks),
                .logical_bs_shift = (uint8_t)__builtin_ctz(blocks->block_size),
                .physical_bs_shift = (uint8_t)__builtin_ctz(blocks->block_size),
                .io_opt_shift = (uint8_t)__builtin_ctz(blocks->best_size),
                .io_min_shift = (uint8_t)__builtin_ctz(blocks->block_size),
                .max_sectors = export->info.max_io_buf_bytes >> SECTOR_SHIFT,
                .dev_sectors = blocks->size >> SECTOR_SHIFT,
            },
        .discard =
            {
                .discard_granularity = blocks->best_size,
                .max_discard_sectors = DISCARD_SECTORS,
                .max_discard_segments = 1,
            },
    };
    int error = control(export, UBLK_CMD_SET_PARAMS, &params, sizeof(params), 0);

    if (error)
        zc_text_add(why, "ublk: parameters of %s: %s", export->name, strerror(-error));
    return error;
}

/* ---- a queue ---- */

static char *buffer_of(const struct queue *queue, unsigned tag)
{
    return queue->buffers + tag * queue->export->info.max_io_buf_bytes;
}

/* Hands a tag to the kernel, with what became of its last request. */
static void give(struct queue *queue, unsigned tag, uint32_t command, int result)
{
    struct ublksrv_io_cmd cmd = {
        .q_id = (uint16_t)queue->number,
        .tag = (uint16_t)tag,
        .result = result,
        .addr = (uintptr_t)buffer_of(queue, tag),
    };
    struct io_uring_sqe *sqe = io_uring_get_sqe(&queue->ring); /* there is one a tag */

    memset(sqe, 0, sizeof(*sqe));
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->fd = queue->export->device;
    sqe->cmd_op = queue->export->is_encoded ? _IOWR('u', command, struct ublksrv_io_cmd) : command;
    sqe->user_data = tag;
    memcpy(sqe->cmd, &cmd, sizeof(cmd));
    queue->pending++;
}

/* Bytes done, or -errno. */
static int serve(struct queue *queue, unsigned tag)
{
    const struct ublksrv_io_desc *request = &queue->requests[tag];
    const struct zc_blocks *blocks = &queue->export->blocks;
    uint64_t at = (uint64_t)request->start_sector << SECTOR_SHIFT;
    uint64_t size = (uint64_t)request->nr_sectors << SECTOR_SHIFT;
    int error;

    if (!blocks->ops)
        return -EIO;
    switch (ublksrv_get_op(request)) {
    case UBLK_IO_OP_READ:
        error = blocks->ops->read(blocks->object, at, buffer_of(queue, tag), (size_t)size);
        break;
    case UBLK_IO_OP_WRITE:
        error = blocks->ops->write(blocks->object, at, buffer_of(queue, tag), (size_t)size);
        break;
    case UBLK_IO_OP_DISCARD:
        error = blocks->ops->discard ? blocks->ops->discard(blocks->object, at, size) : -EOPNOTSUPP;
        break;
    case UBLK_IO_OP_FLUSH:
        error = blocks->ops->flush ? blocks->ops->flush(blocks->object) : 0;
        size = 0;
        break;
    default:
        return -EOPNOTSUPP;
    }
    return error ? error : (int)size;
}

/* Serves what has come, and hands the tags back. */
static void serve_all(struct queue *queue)
{
    struct io_uring_cqe *cqe;

    while (io_uring_peek_cqe(&queue->ring, &cqe) == 0) {
        unsigned tag = (unsigned)cqe->user_data;
        int result = cqe->res;
        io_uring_cqe_seen(&queue->ring, cqe);
        queue->pending--;
        if (result == UBLK_IO_RES_OK)
            give(queue, tag, UBLK_IO_COMMIT_AND_FETCH_REQ, serve(queue, tag));
    }
}

/* Until the device is stopped, which ends every command. */
static void *queue_main(void *arg)
{
    struct queue *queue = arg;

    prctl(PR_SET_NAME, "zc-ublk");
    /* Who waits for a page wakes no other processor for it. */
    sched_setaffinity(0, sizeof(queue->near), &queue->near);
    for (unsigned tag = 0; tag < DEPTH; tag++)
        give(queue, tag, UBLK_IO_FETCH_REQ, 0);
    while (queue->pending > 0) {
        int error = io_uring_submit_and_wait(&queue->ring, 1);
        if (error < 0 && error != -EINTR && error != -EAGAIN && error != -EBUSY)
            break;
        serve_all(queue);
    }
    return NULL;
}

static size_t requests_bytes(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    return zc_div_up(DEPTH * sizeof(struct ublksrv_io_desc), page) * page;
}

static off_t requests_at(unsigned queue)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t each = zc_div_up(UBLK_MAX_QUEUE_DEPTH * sizeof(struct ublksrv_io_desc), page) * page;

    return (off_t)(UBLKSRV_CMD_BUF_OFFSET + queue * each);
}

static size_t buffers_bytes(const struct zc_export *export)
{
    return (size_t)DEPTH * export->info.max_io_buf_bytes;
}

/* Its thread is not to be interrupted for what it will look for anyway. */
static int init_ring(struct io_uring *ring)
{
    int error = io_uring_queue_init(DEPTH, ring, IORING_SETUP_COOP_TASKRUN); /* Linux 5.19 */

    return error == -EINVAL ? io_uring_queue_init(DEPTH, ring, 0) : error;
}

static int start_queue(struct zc_export *export, unsigned number)
{
    struct queue *queue = &export->queues[number];

    queue->export = export;
    queue->number = number;
    queue->buffers = zc_large_get(buffers_bytes(export));
    if (!queue->buffers)
        return -ENOMEM;
    void *requests = mmap(NULL, requests_bytes(), PROT_READ, MAP_SHARED | MAP_POPULATE,
                          export->device, requests_at(number));
    if (requests == MAP_FAILED)
        return -errno;
    queue->requests = requests;
    int error = init_ring(&queue->ring);
    if (error)
        return error;
    queue->has_ring = true;
    control(export, UBLK_CMD_GET_QUEUE_AFFINITY, &queue->near, sizeof(queue->near), number);
    error = zc_thread_start(&queue->thread, STACK_BYTES, queue_main, queue);
    queue->has_thread = !error;
    return error;
}

static void end_queue(struct queue *queue)
{
    if (queue->has_thread)
        pthread_join(queue->thread, NULL);
    if (queue->has_ring)
        io_uring_queue_exit(&queue->ring);
    if (queue->requests)
        munmap((void *)queue->requests, requests_bytes());
    if (queue->export)
        zc_large_put(queue->buffers, buffers_bytes(queue->export));
}

static int open_device(struct zc_export *export)
{
    char sys[64], path[ZC_NODE_PATH_MAX];

    snprintf(sys, sizeof(sys), "/sys/class/ublk-char/ublkc%u", export->info.dev_id);
    int error = zc_device_node(sys, false, path);
    if (error)
        return error;
    export->device = open(path, O_RDWR | O_CLOEXEC);
    return export->device < 0 ? -errno : 0;
}

/* `command` is the one that has the kernel send requests, once the queues wait for them. */
static int start(struct zc_export *export, uint32_t command, struct zc_text *why)
{
    int error = open_device(export);

    for (unsigned i = 0; i < export->queue_count && !error; i++)
        error = start_queue(export, i);
    if (!error)
        error = control(export, command, NULL, 0, (uint64_t)getpid());
    if (error)
        zc_text_add(why, "ublk: cannot start %s: %s", export->name, strerror(-error));
    return error;
}

/* Where the kernel can, without waiting for whoever has the device open still. */
static void delete_device(struct zc_export *export)
{
    int error = export->is_encoded ? control(export, DEL_DEV_ASYNC, NULL, 0, 0) : -EOPNOTSUPP;

    if (error == -EOPNOTSUPP)
        control(export, UBLK_CMD_DEL_DEV, NULL, 0, 0);
}

static void ublk_close(struct zc_export *export)
{
    if (export->is_added)
        control(export, UBLK_CMD_STOP_DEV, NULL, 0, 0);
    for (unsigned i = 0; i < QUEUES_MAX; i++)
        end_queue(&export->queues[i]);
    if (export->device >= 0)
        close(export->device);
    if (export->is_added)
        delete_device(export);
    if (export->has_ring)
        io_uring_queue_exit(&export->ring);
    if (export->control >= 0)
        close(export->control);
    free(export);
}

static struct zc_export *make(const struct zc_blocks *blocks)
{
    struct zc_export *export = calloc(1, sizeof(*export));

    if (export) {
        export->blocks = *blocks;
        export->control = export->device = -1;
    }
    return export;
}

static int ublk_open(const struct zc_blocks *blocks, struct zc_export **out, struct zc_text *why)
{
    struct zc_export *export = make(blocks);
    if (!export)
        return -ENOMEM;

    int error = open_control(export, why);
    if (!error)
        error = add_device(export, why);
    if (!error)
        error = set_parameters(export, why);
    if (!error)
        error = start(export, UBLK_CMD_START_DEV, why);
    if (error)
        ublk_close(export);
    else
        *out = export;
    return error;
}

/* ---- a device that was left behind ---- */

bool zc_ublk_is_name(const char *name)
{
    return strncmp(name, NAME, strlen(NAME)) == 0;
}

bool zc_ublk_can_be_adopted(const struct zc_export *export)
{
    return (export->info.flags & UBLK_F_USER_RECOVERY) != 0;
}

/* Its process may be about to end still: the kernel is busy with it until then. */
static int begin_recovery(struct zc_export *export)
{
    const struct timespec nap = {.tv_nsec = ADOPT_NS};
    int error = -EBUSY;

    for (unsigned i = 0; i < ADOPT_TRIES && error == -EBUSY; i++) {
        error = control(export, UBLK_CMD_START_USER_RECOVERY, NULL, 0, 0);
        if (error == -EBUSY)
            nanosleep(&nap, NULL);
    }
    return error;
}

static int find_device(struct zc_export *export, const char *name, struct zc_text *why)
{
    unsigned number = 0;
    int error = sscanf(name, NAME "%u", &number) == 1 ? 0 : -ENODEV;

    export->info.dev_id = number;
    if (!error)
        error = control_either(export, UBLK_CMD_GET_DEV_INFO);
    if (!error)
        error = begin_recovery(export);
    export->is_added = !error; /* before, it is not ours to take away */
    if (error) {
        zc_text_add(why, "ublk: cannot take %s over: %s", name, strerror(-error));
        return error;
    }
    export->queue_count = (unsigned)zc_min(export->info.nr_hw_queues, QUEUES_MAX);
    snprintf(export->name, sizeof(export->name), "%s", name);
    return 0;
}

int zc_ublk_adopt(const char *name, struct zc_export **out, struct zc_text *why)
{
    const struct zc_blocks none = {0};
    struct zc_export *export = make(&none);
    if (!export)
        return -ENOMEM;

    int error = open_control(export, why);
    if (!error)
        error = find_device(export, name, why);
    if (!error)
        error = start(export, UBLK_CMD_END_USER_RECOVERY, why);
    if (error)
        ublk_close(export);
    else
        *out = export;
    return error;
}

static const char *ublk_name_of(const struct zc_export *export)
{
    return export->name;
}

const struct zc_transport zc_ublk = {
    .name = "ublk",
    .is_there = ublk_is_there,
    .open = ublk_open,
    .name_of = ublk_name_of,
    .close = ublk_close,
};
