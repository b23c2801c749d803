/* SPDX-License-Identifier: Apache-2.0 */
/* zcached run: the daemon's life from the lock to the last connection. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include <zcache/proto.h>

#include "base/base.h"
#include "store/store.h"
#include "zcached/apply/apply.h"
#include "zcached/block/blockcache.h"
#include "zcached/block/swap.h"
#include "zcached/commands.h"
#include "zcached/rundir.h"
#include "zcached/server.h"
#include "zcached/shortage.h"

#define STOP_SECONDS 5 /* what connections get to end their requests */

struct daemon {
    const struct zc_options *options;
    struct zc_rundir rundir;
    struct zc_log log;
    zc_store *store;
    struct zc_server server;
    struct zc_swap swap;
    struct zc_blockcache blockcache;
    struct timespec started;
};

/* ---- the daemon's own nodes ---- */

enum {
    NODE_VERSION,
    NODE_ABI,
    NODE_UPTIME,
    NODE_PID,
    NODE_DIR,
    NODE_CONTROLS,
    NODE_DATAS,
    NODE_REQUESTS,
    NODE_ERRORS
};

static uint64_t uptime_ms(const struct daemon *daemon)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)((now.tv_sec - daemon->started.tv_sec) * 1000 +
                      (now.tv_nsec - daemon->started.tv_nsec) / 1000000);
}

static uint64_t data_connections(struct daemon *daemon)
{
    pthread_mutex_lock(&daemon->server.data.lock);
    uint64_t count = daemon->server.data.connection_count;
    pthread_mutex_unlock(&daemon->server.data.lock);
    return count;
}

static uint64_t number_of(struct daemon *daemon, uintptr_t which)
{
    switch (which) {
    case NODE_ABI:
        return ZC_ABI;
    case NODE_UPTIME:
        return uptime_ms(daemon);
    case NODE_PID:
        return (uint64_t)getpid();
    case NODE_CONTROLS:
        return daemon->server.control_count;
    case NODE_DATAS:
        return data_connections(daemon);
    case NODE_REQUESTS:
        return daemon->server.data.requests + daemon->server.control_requests;
    default:
        return daemon->server.data.errors;
    }
}

static int show_number(void *object, const struct zc_node *node, struct zc_text *out)
{
    zc_text_add(out, "%" PRIu64, number_of(object, node->arg));
    return 0;
}

static int show_string(void *object, const struct zc_node *node, struct zc_text *out)
{
    const struct daemon *daemon = object;

    zc_text_add(out, "%s", node->arg == NODE_VERSION ? zc_version_text() : daemon->rundir.path);
    return 0;
}

#define NUMBER(name_, unit_, arg_, meaning_) \
    {.name = name_,                          \
     .type = ZC_NODE_UINT,                   \
     .unit = unit_,                          \
     .range = "",                            \
     .deflt = "",                            \
     .meaning = meaning_,                    \
     .arg = arg_,                            \
     .show = show_number}
#define STRING(name_, arg_, meaning_) \
    {.name = name_,                   \
     .type = ZC_NODE_TEXT,            \
     .unit = "",                      \
     .range = "",                     \
     .deflt = "",                     \
     .meaning = meaning_,             \
     .arg = arg_,                     \
     .show = show_string}

static const struct zc_node daemon_dir_nodes[] = {
    NUMBER("pid", "", NODE_PID, "the daemon's process id"),
    STRING("dir", NODE_DIR, "the run directory"),
    NUMBER("connections_control", "connections", NODE_CONTROLS, "open control connections"),
    NUMBER("connections_data", "connections", NODE_DATAS, "open data connections"),
    NUMBER("requests", "requests", NODE_REQUESTS, "requests on both planes since the start"),
    NUMBER("errors", "requests", NODE_ERRORS, "data requests answered with an error as a whole"),
    {0},
};

static const struct zc_node daemon_nodes[] = {
    STRING("version", NODE_VERSION, "the daemon's version"),
    NUMBER("abi", "", NODE_ABI, "number of the control tree's and data plane's format"),
    NUMBER("uptime_ms", "ms", NODE_UPTIME, "time since the daemon started"),
    {.name = "daemon",
     .type = ZC_NODE_DIR,
     .unit = "",
     .range = "",
     .deflt = "",
     .meaning = "the daemon itself",
     .children = daemon_dir_nodes},
    {0},
};

/* ---- start and stop ---- */

static int complain(const struct daemon *daemon, const char *what, int error)
{
    fprintf(stderr, "zcached: %s: %s: %s\n", daemon->options->dir, what, strerror(-error));
    return error;
}

static int set_limit(struct daemon *daemon)
{
    struct zc_text answer = {0};
    char line[128];
    int error = 0;

    if (!daemon->options->limit)
        return 0;
    int len = snprintf(line, sizeof(line), "set params/limit %.64s", daemon->options->limit);
    if (zc_control_handle(daemon->server.control, line, (size_t)len, &answer) != 0)
        error = -ENOMEM;
    else if (strncmp(answer.data, "OK", 2) != 0) {
        fprintf(stderr, "zcached: --limit: %s", answer.data);
        error = -EINVAL;
    }
    zc_text_free(&answer);
    return error;
}

static int open_store(struct daemon *daemon)
{
    struct zc_store_config config = {.page_size = daemon->options->page_size};
    int error = zc_store_create(&config, &daemon->store);

    if (error == -EINVAL)
        fprintf(stderr,
                "zcached: --page-size %u: needs the OS page size %ld times a power of two, at most "
                "%u\n",
                config.page_size, sysconf(_SC_PAGESIZE), ZC_PAGE_SIZE_MAX);
    else if (error)
        complain(daemon, "cannot create the store", error);
    return error;
}

static int open_sockets(struct daemon *daemon)
{
    struct zc_server *server = &daemon->server;

    for (int plane = 0; plane < 2; plane++) {
        server->listeners[plane] = zc_rundir_listen(&daemon->rundir, plane);
        if (server->listeners[plane] < 0) {
            fprintf(stderr, "zcached: cannot listen on %s: %s; --abstract needs no socket files\n",
                    daemon->rundir.address[plane], strerror(-server->listeners[plane]));
            return server->listeners[plane];
        }
    }
    return 0;
}

static void close_sockets(struct daemon *daemon)
{
    for (int plane = 0; plane < 2; plane++) {
        if (daemon->server.listeners[plane] >= 0)
            close(daemon->server.listeners[plane]);
    }
    if (daemon->server.signals >= 0)
        close(daemon->server.signals);
}

static int catch_signals(struct daemon *daemon)
{
    sigset_t set;

    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL); /* before any thread starts */
    daemon->server.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return daemon->server.signals < 0 ? complain(daemon, "signalfd", -errno) : 0;
}

/* Freed memory is to go back to the OS, and idle threads are not to hold arenas. */
static void tune_malloc(void)
{
#ifdef __GLIBC__
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_TRIM_THRESHOLD, 128 * 1024);
    mallopt(M_MMAP_THRESHOLD, 128 * 1024);
#endif
}

/* What pools with a backing store hold is written there: it comes back. */
static void save(struct daemon *daemon)
{
    struct zc_saved saved;
    int error = zc_store_save(daemon->store, &saved);

    if (error)
        zc_log_line(&daemon->log, "error", "backing stores: %s; %" PRIu64 " pages are lost",
                    strerror(-error), saved.lost);
    else if (saved.pages)
        zc_log_line(&daemon->log, "info", "%" PRIu64 " pages are in backing stores", saved.pages);
}

/* Serves until a signal comes. */
static void serve(struct daemon *daemon)
{
    zc_log_line(&daemon->log, "info", "zcached %s serves %s, pid %d, page size %u", zc_version(),
                daemon->options->dir, (int)getpid(), zc_store_page_size(daemon->store));
    int signal;
    do
        signal = zc_server_run(&daemon->server);
    while (zc_blockcache_end(&daemon->blockcache) != 0 || /* it would fail what is mounted there */
           zc_swap_end(&daemon->swap) != 0); /* and lose other processes' memory */
    size_t left = zc_data_stop(&daemon->server.data, STOP_SECONDS);
    zc_log_line(&daemon->log, "info", "stopped by signal %d, %zu connections cut off", signal,
                left);
    if (left) {
        zc_store_write_back(daemon->store, SIZE_MAX);
        zc_rundir_close(&daemon->rundir);
        _exit(ZC_EXIT_OK); /* their threads still use the store */
    }
    save(daemon);
}

static void log_applied(void *arg, const char *line)
{
    zc_log_line(arg, "warning", "apply: %s", line);
}

/* What an apply that was cut off has left of the kernel's settings. */
static void recover_settings(struct daemon *daemon)
{
    struct zc_apply apply = {
        .system = {.calls = &zc_system_calls, .root = ""},
        .path = daemon->rundir.path,
        .dir = daemon->rundir.dir,
        .say = log_applied,
        .arg = &daemon->log,
    };

    zc_apply_recover(&apply);
}

/* From here on the one who started us may go: nothing of it is kept open. False: it has gone already,
 * and nobody would know of this daemon. */
static bool tell_ready(int ready)
{
    char line[96];
    int len =
        snprintf(line, sizeof(line), "ready pid=%d version=%s\n", (int)getpid(), zc_version());

    if (ready < 0)
        return true;
    dup2(STDOUT_FILENO, STDERR_FILENO);
    bool is_told = write(ready, line, (size_t)len) == len;
    close(ready);
    return is_told;
}

/* `ready`: where to say that the daemon answers; -1: nowhere. */
static int live(const struct zc_options *options, int ready)
{
    struct daemon daemon = {.options = options, .server = {.listeners = {-1, -1}, .signals = -1}};
    struct zc_server *server = &daemon.server;
    int code = ZC_EXIT_FAILED;

    tune_malloc();
    zc_shortage_be_flusher(); /* before any thread starts */
    clock_gettime(CLOCK_MONOTONIC, &daemon.started);
    if (zc_rundir_open(&daemon.rundir, options->dir, options->abstract) != 0)
        return code;
    int error = zc_log_open(&daemon.log, daemon.rundir.dir);
    if (error) {
        complain(&daemon, "cannot write zcached.log", error);
        goto close_rundir;
    }
    recover_settings(&daemon);
    if (open_store(&daemon) != 0)
        goto close_log;

    struct zc_mount mounts[] = {
        {daemon_nodes, &daemon},
        {zc_store_nodes, daemon.store},
        {zc_swap_nodes, &daemon.swap},
        {zc_blockcache_nodes, &daemon.blockcache},
    };
    server->log = &daemon.log;
    daemon.swap = (struct zc_swap){.store = daemon.store, .log = &daemon.log};
    daemon.blockcache = (struct zc_blockcache){.store = daemon.store, .log = &daemon.log};
    zc_data_init(&server->data, daemon.store, &daemon.log);
    if (zc_control_create(mounts, sizeof(mounts) / sizeof(mounts[0]), &server->control) != 0)
        goto destroy_store;
    if (set_limit(&daemon) != 0 || catch_signals(&daemon) != 0 || open_sockets(&daemon) != 0)
        goto destroy_control;
    error = zc_rundir_publish(&daemon.rundir, zc_store_page_size(daemon.store));
    if (error) {
        complain(&daemon, "cannot write zcached.state", error);
        goto destroy_control;
    }
    if (!tell_ready(ready))
        goto destroy_control;
    serve(&daemon);
    code = ZC_EXIT_OK;

destroy_control:
    close_sockets(&daemon);
    zc_control_destroy(server->control);
destroy_store:
    zc_store_destroy(daemon.store);
close_log:
    zc_log_close(&daemon.log);
close_rundir:
    zc_rundir_close(&daemon.rundir);
    return code;
}

/* The child's part of --detach: a session of its own, standard input and output to nowhere. Errors
 * still go to the parent's standard error until the daemon is ready. */
static int live_detached(const struct zc_options *options, int ready)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    setsid();
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
    }
    return live(options, ready);
}

static int detach(const struct zc_options *options)
{
    char line[128];
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) != 0) {
        fprintf(stderr, "zcached: pipe: %s\n", strerror(errno));
        return ZC_EXIT_FAILED;
    }
    pid_t pid = fork();
    if (pid < 0) {
        fprintf(stderr, "zcached: fork: %s\n", strerror(errno));
        return ZC_EXIT_FAILED;
    }
    if (pid == 0) {
        close(ends[0]);
        return live_detached(options, ends[1]);
    }
    close(ends[1]);
    ssize_t len = read(ends[0], line, sizeof(line) - 1);
    if (len <= 0)
        return ZC_EXIT_FAILED; /* it said why */
    line[len] = '\0';
    fputs(line, stdout);
    return ZC_EXIT_OK;
}

int zc_run(const struct zc_options *options)
{
    return options->detach ? detach(options) : live(options, -1);
}
