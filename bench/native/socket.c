/* SPDX-License-Identifier: Apache-2.0 */
/* The codec alone and a daemon's pool through its data socket, in turns. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "bench.h"
#include "zcached/commands/client.h"

#define IN_FLIGHT 4u
#define GET_SLOTS (BATCH * IN_FLIGHT)

enum { ALONE_PUT, SOCKET_PUT, ALONE_GET, SOCKET_GET, SERIES };

static const char *const names[SERIES] = {"alone_put_ns", "socket_put_ns", "alone_get_ns",
                                          "socket_get_ns"};

/* All pages by batches, up to IN_FLIGHT under way; puts come from their own slots. */
static double walk(struct zc_client *client, enum zc_op op, uint32_t pool, size_t pages)
{
    struct zc_result results[BATCH];
    size_t batches = zc_div_up(pages, BATCH);
    double start = now_ns();

    for (size_t sent = 0, received = 0; received < batches;) {
        while (sent < batches && sent - received < IN_FLIGHT) {
            struct zc_wire_key key = {.object = 1, .index = (uint32_t)(sent * BATCH), .pool = pool};
            size_t slot = op == ZC_OP_PUT ? GET_SLOTS + sent * BATCH : sent % IN_FLIGHT * BATCH;
            if (zc_client_send(client, op, 0, &key, slot, zc_min(BATCH, pages - sent * BATCH)) != 0)
                die("it does not take a request", "socket");
            sent++;
        }
        size_t count = zc_min(BATCH, pages - received * BATCH);
        if (zc_client_receive(client, results, count, NULL) != 0)
            die("it does not answer", "socket");
        for (size_t i = 0; i < count; i++) {
            if (results[i].status != 0)
                die("a page was refused or lost", "socket");
        }
        received++;
    }
    return (now_ns() - start) / (double)pages;
}

/* The daemon's threads; the one of this connection is the only one of its name. */
static void pin_daemon(const struct zc_client *client)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    char path[64], name[16];

    if (getsockopt(client->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0)
        die(strerror(errno), "daemon");
    snprintf(path, sizeof(path), "/proc/%d/task", (int)peer.pid);
    DIR *tasks = opendir(path);
    for (struct dirent *task; tasks && (task = readdir(tasks));) {
        snprintf(path, sizeof(path), "/proc/%d/task/%.20s/comm", (int)peer.pid, task->d_name);
        FILE *comm = fopen(path, "re");
        if (!comm)
            continue;
        if (fgets(name, sizeof(name), comm))
            run_on(strncmp(name, "zc-data", 7) == 0 ? THIS_CPU : OTHER_CPU, atoi(task->d_name));
        fclose(comm);
    }
    if (tasks)
        closedir(tasks);
}

void over_socket(const struct options *options)
{
    struct pages pages;
    struct zc_client client;
    struct zc_result result;
    size_t rounds = options->rounds;
    double *series = calloc(SERIES * rounds, sizeof(*series));
    uint32_t pool;

    pages_load(&pages, options, PAGES_STORED);
    struct alone *alone = alone_new(options->codec, &pages, ALONE_APART);
    char *room = get_memory(GET_SLOTS * pages.page_size);
    if (zc_client_open(&client, options->dir, GET_SLOTS + pages.count) != 0 ||
        zc_client_pool(&client, options->pool, &pool) != 0)
        die("no daemon, or no such pool", options->dir);
    pin_daemon(&client);
    memcpy(client.segment + GET_SLOTS * client.page_size, pages.bytes,
           pages.count * pages.page_size);

    struct zc_wire_key key = {.object = 1, .pool = pool};
    for (size_t r = 0; r < rounds; r++) {
        run_on(THIS_CPU, 0);
        series[ALONE_PUT * rounds + r] = alone_put(alone, &pages);
        run_on(OTHER_CPU, 0);
        series[SOCKET_PUT * rounds + r] = walk(&client, ZC_OP_PUT, pool, pages.count);
        run_on(THIS_CPU, 0);
        series[ALONE_GET * rounds + r] = alone_get(alone, &pages, room, GET_SLOTS);
        run_on(OTHER_CPU, 0);
        series[SOCKET_GET * rounds + r] = walk(&client, ZC_OP_GET, pool, pages.count);
        zc_client_send(&client, ZC_OP_FLUSH_OBJECT, 0, &key, 0, 1);
        zc_client_receive(&client, &result, 1, NULL);
    }
    printf("{");
    for (size_t s = 0; s < SERIES; s++)
        print_series(names[s], series + s * rounds, rounds);
    printf("\"pages\": %zu}\n", pages.count);
    zc_client_close(&client);
    alone_free(alone);
    pages_free(&pages);
    free(room);
    free(series);
}
