/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/data.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <zcache/proto.h>

#include "base/base.h"
#include "zcached/session.h"
#include "zcached/wire.h"

#ifdef ZC_DEBUG
#define STACK_BYTES (1024u * 1024) /* sanitizers want room */
#else
#define STACK_BYTES (128u * 1024)
#endif
#define RECORD_WAIT_MS 200u
#define BUFFER_KEPT (64u * 1024) /* bytes a connection keeps between requests */

struct connection {
    struct zc_link link;
    struct zc_data_server *server;
    int fd;
};

void zc_data_init(struct zc_data_server *server, zc_store *store, struct zc_log *log)
{
    *server = (struct zc_data_server){.store = store, .log = log, .record_wait_ms = RECORD_WAIT_MS};
    pthread_mutex_init(&server->lock, NULL);
    pthread_cond_init(&server->changed, NULL);
    zc_list_init(&server->connections);
}

/* Waits until the bytes fit under ZC_MAX_OUTSTANDING; what one request needs always does. */
static void reserve(struct zc_data_server *server, size_t bytes)
{
    pthread_mutex_lock(&server->lock);
    while (server->outstanding + bytes > ZC_MAX_OUTSTANDING)
        pthread_cond_wait(&server->changed, &server->lock);
    server->outstanding += bytes;
    pthread_mutex_unlock(&server->lock);
}

static void unreserve(struct zc_data_server *server, size_t bytes)
{
    pthread_mutex_lock(&server->lock);
    server->outstanding -= bytes;
    pthread_cond_broadcast(&server->changed);
    pthread_mutex_unlock(&server->lock);
}

/* An answer with a message instead of results. */
static int answer_error(struct zc_session *session, const struct zc_request *request, int error)
{
    struct zc_answer answer = {
        .magic = ZC_MAGIC,
        .version = ZC_ABI,
        .op = request->op,
        .id = request->id,
        .status = error,
        .payload = (uint32_t)strlen(session->why),
    };

    session->server->errors++;
    return zc_wire_answer(&session->wire, &answer, sizeof(answer), session->why, answer.payload,
                          false);
}

/* Is the next request here as a whole? Then its answer follows at once, and both go together: a
 * call each costs as much as some pages. */
static bool next_is_here(const struct zc_session *session)
{
    struct zc_request next;
    size_t ahead = zc_wire_peek(&session->wire, &next, sizeof(next));

    return ahead && next.payload <= ahead - sizeof(next);
}

/* Reads what the header announced, carries it out, answers. < 0: the connection is to end. */
static int serve_request(struct zc_session *session, const struct zc_request *request)
{
    struct zc_answer answer = {
        .magic = ZC_MAGIC, .version = ZC_ABI, .op = request->op, .id = request->id};
    size_t needed = request->payload + zc_session_answer_bytes(session, request);

    reserve(session->server, needed);
    int error = zc_session_buffers(session, request->payload, needed - request->payload);
    if (!error)
        error = zc_wire_read(&session->wire, session->in, request->payload,
                             ZC_REQUEST_SECONDS + request->payload / ZC_REQUEST_RATE,
                             &session->passed_fd);
    if (error)
        goto unreserve;

    error = zc_session_run(session, request, &answer);
    error = error ? answer_error(session, request, error)
                  : zc_wire_answer(&session->wire, &answer, sizeof(answer), session->out,
                                   answer.payload, next_is_here(session));
unreserve:
    if (needed > BUFFER_KEPT)
        zc_session_free_buffers(session);
    unreserve(session->server, needed);
    return error;
}

/* A header that cannot be what a client meant: after it the stream is out of step. */
static int check_header(struct zc_session *session, const struct zc_request *request)
{
    if (request->magic != ZC_MAGIC)
        return zc_session_fail(session, -EPROTO, "magic 0x%08x is not 0x%08x", request->magic,
                               ZC_MAGIC);
    if (request->version != ZC_ABI)
        return zc_session_fail(session, -EPROTO, "ABI %u is not %u", request->version, ZC_ABI);
    if (request->payload > ZC_MAX_PAYLOAD)
        return zc_session_fail(session, -E2BIG, "payload %u: at most %u bytes", request->payload,
                               ZC_MAX_PAYLOAD);
    return 0;
}

void zc_data_serve(struct zc_data_server *server, int fd)
{
    struct zc_session session;
    struct zc_request request;
    int error = 0;

    zc_session_init(&session, server, fd);
    while (!error) {
        error = zc_wire_read_header(&session.wire, &request, sizeof(request), &session.passed_fd);
        if (error)
            break;
        server->requests++;
        error = check_header(&session, &request);
        if (error) {
            answer_error(&session, &request, error);
            break;
        }
        error = serve_request(&session, &request);
        if (request.op == ZC_OP_SEGMENT)
            zc_session_drop_passed(&session);
    }
    zc_wire_flush(&session.wire);
    if (error != ZC_WIRE_END)
        zc_log_line(server->log, "warning", "data connection ended: %s",
                    session.why[0] ? session.why : strerror(-error));
    zc_session_fini(&session);
}

static void *connection_thread(void *arg)
{
    struct connection *connection = arg;
    struct zc_data_server *server = connection->server;

    prctl(PR_SET_NAME, "zc-data");
    zc_data_serve(server, connection->fd);

    pthread_mutex_lock(&server->lock);
    zc_list_del(&connection->link);
    server->connection_count--;
    close(connection->fd);
    pthread_cond_broadcast(&server->changed);
    pthread_mutex_unlock(&server->lock);
    free(connection);
    return NULL;
}

static int start_thread(struct connection *connection)
{
    pthread_attr_t attr;
    pthread_t thread;

    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    int error = pthread_create(&thread, &attr, connection_thread, connection);
    pthread_attr_destroy(&attr);
    return -error;
}

int zc_data_accept(struct zc_data_server *server, int fd)
{
    struct connection *connection = malloc(sizeof(*connection));
    int error = -ENOMEM;

    if (connection) {
        *connection = (struct connection){.server = server, .fd = fd};
        pthread_mutex_lock(&server->lock);
        error = server->connection_count < ZC_MAX_CONNECTIONS ? start_thread(connection) : -EMFILE;
        if (!error) {
            zc_list_add(&server->connections, &connection->link);
            server->connection_count++;
        }
        pthread_mutex_unlock(&server->lock);
    }
    if (error) {
        free(connection);
        close(fd);
    }
    return error;
}

size_t zc_data_stop(struct zc_data_server *server, unsigned seconds)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += seconds;
    pthread_mutex_lock(&server->lock);
    for (struct zc_link *at = server->connections.next; at != &server->connections; at = at->next)
        shutdown(ZC_CONTAINER(at, struct connection, link)->fd, SHUT_RD);
    while (server->connection_count &&
           pthread_cond_timedwait(&server->changed, &server->lock, &until) == 0)
        ;
    size_t left = server->connection_count;
    pthread_mutex_unlock(&server->lock);
    return left;
}
