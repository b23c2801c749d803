/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zcached replay: a process's resident anonymous pages through a pool and back.
 *
 * Each page is read once from /proc/PID/mem, put, and compared byte for byte with what a get gives
 * right after its batch. After all puts every page is got once more and held against a 64-bit hash,
 * so that memory stays constant and a page that is lost or changed later is seen. Contents never
 * leave this process and the daemon.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include <zcache/store.h>

#include "base/base.h"
#include "zcached/commands.h"
#include "zcached/commands/client.h"
#include "zcached/process.h"

#define BATCH 32u
#define PROGRESS_NS UINT64_C(250000000)

struct replay {
    const struct zc_options *options;
    struct zc_client client;   /* slots 0..BATCH-1: puts, BATCH..2*BATCH-1: gets */
    struct zc_wire_key key;    /* of the first page */
    struct zc_process process; /* its pages: addresses, then hashes; 0: not stored */
    size_t put_pages;          /* how many were put */
    uint64_t done_steps, next_progress_ns;

    uint64_t given_up; /* by the pool, before the first put */
    uint64_t stored, same_filled, refused[ZC_REFUSALS], dropped, lost, mismatches;
    uint64_t put_ns, get_ns, put_wall_ns, get_wall_ns;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};

    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

static int complain(int error, const char *what, int code)
{
    char buf[16];

    fprintf(stderr, "zcached: %s: %s\n", zc_errno_name(error, buf), what);
    return code;
}

static int complain_of_pid(const struct replay *replay, int error)
{
    char what[96];

    snprintf(what, sizeof(what), "process %d: %s", replay->options->pid,
             error == -ESRCH ? "it does not exist, or has ended" : strerror(-error));
    return complain(error, what, ZC_EXIT_NO_PROCESS);
}

static int complain_of_daemon(const struct replay *replay, int error)
{
    char what[300];

    snprintf(what, sizeof(what), "the daemon of %.200s: %s", replay->options->dir,
             strerror(-error));
    return complain(error, what, ZC_EXIT_NO_DAEMON);
}

/* A hash that sees every bit and place; never 0. */
static uint64_t hash_page(const char *page, size_t size)
{
    uint64_t hash = size, word;

    for (size_t i = 0; i < size; i += sizeof(word)) {
        memcpy(&word, page + i, sizeof(word));
        hash = zc_mix64(hash ^ word) + i;
    }
    return hash ? hash : 1;
}

/* ---- putting and getting ---- */

/* -EPIPE: nobody reads what we print; -EINTR: a signal asks us to end. */
static int show_progress(struct replay *replay, size_t steps)
{
    uint64_t now = zc_now_ns();

    if (interrupted)
        return -EINTR;
    replay->done_steps += steps;
    if (now < replay->next_progress_ns)
        return 0;
    replay->next_progress_ns = now + PROGRESS_NS;
    printf("{\"progress\": {\"done\": %" PRIu64 ", \"total\": %zu}}\n", replay->done_steps / 2,
           replay->process.count);
    return fflush(stdout) == 0 ? 0 : -EPIPE;
}

/* The next pages of the process, into the put slots. Those unmapped meanwhile are left out. How
 * many; -ESRCH: it ended. */
static int read_batch(struct replay *replay, size_t *next)
{
    size_t count = 0, size = replay->client.page_size;

    while (count < BATCH && *next < replay->process.count) {
        char *slot = replay->client.segment + count * size;
        int got = zc_process_read(&replay->process, replay->process.pages[*next], slot);
        if (got < 0)
            return got;
        count += (size_t)got;
        (*next)++;
    }
    return (int)count;
}

static int call(struct replay *replay, enum zc_op op, uint32_t flags, size_t slot, size_t first,
                size_t count, struct zc_result *results)
{
    struct zc_wire_key key = replay->key;
    uint64_t spent, start = zc_now_ns();

    key.index = (uint32_t)first;
    int error = zc_client_send(&replay->client, op, flags, &key, slot, count);
    if (!error)
        error = zc_client_receive(&replay->client, results, count, &spent);
    if (error)
        return error;
    *(op == ZC_OP_PUT ? &replay->put_ns : &replay->get_ns) += spent;
    *(op == ZC_OP_PUT ? &replay->put_wall_ns : &replay->get_wall_ns) += zc_now_ns() - start;
    return 0;
}

static void count_put(struct replay *replay, struct zc_result result, uint64_t *hash)
{
    if (result.status == ZC_STORED && result.detail == 0)
        replay->same_filled++;
    else if (result.status == ZC_STORED)
        replay->stored++;
    else if (result.status > 0 && result.status < ZC_REFUSALS)
        replay->refused[result.status]++;
    if (result.status != ZC_STORED)
        *hash = 0;
}

/* Puts one batch out of the put slots, and compares what comes back at once. */
static int put_batch(struct replay *replay, size_t count)
{
    struct zc_result puts[BATCH], gets[BATCH];
    size_t size = replay->client.page_size, first = replay->put_pages;
    char *put = replay->client.segment, *got = put + BATCH * size;

    int error = call(replay, ZC_OP_PUT, 0, 0, first, count, puts);
    if (!error)
        error = call(replay, ZC_OP_GET, ZC_F_PEEK, BATCH, first, count, gets);
    if (error)
        return error;

    replay->put_pages += count;
    for (size_t i = 0; i < count; i++) {
        uint64_t *hash = &replay->process.pages[first + i];
        *hash = hash_page(put + i * size, size);
        count_put(replay, puts[i], hash);
        if (puts[i].status < 0)
            return puts[i].status;
        if (*hash && gets[i].status == 0 && memcmp(put + i * size, got + i * size, size) != 0)
            replay->mismatches++;
    }
    return 0;
}

static int put_all(struct replay *replay)
{
    for (size_t next = 0; next < replay->process.count;) {
        size_t from = next;
        int count = read_batch(replay, &next);
        if (count < 0)
            return count;
        /* Hashes take the places of addresses, and never overtake them. */
        int error = count ? put_batch(replay, (size_t)count) : 0;
        if (!error)
            error = show_progress(replay, next - from);
        if (error)
            return error;
    }
    return 0;
}

static int get_all(struct replay *replay)
{
    struct zc_result results[BATCH];
    size_t size = replay->client.page_size;

    replay->get_ns = replay->get_wall_ns = 0; /* of this walk alone */
    for (size_t first = 0; first < replay->put_pages; first += BATCH) {
        size_t count = zc_min(replay->put_pages - first, BATCH);
        int error = call(replay, ZC_OP_GET, ZC_F_PEEK, BATCH, first, count, results);
        if (error)
            return error;
        for (size_t i = 0; i < count; i++) {
            uint64_t hash = replay->process.pages[first + i];
            const char *got = replay->client.segment + (BATCH + i) * size;
            if (!hash)
                continue;
            if (results[i].status == -ENOENT)
                replay->lost++;
            else if (results[i].status != 0 || hash_page(got, size) != hash)
                replay->mismatches++;
        }
        error = show_progress(replay, count);
        if (error)
            return error;
    }
    return 0;
}

static int flush(struct replay *replay)
{
    struct zc_result result;
    int error = zc_client_send(&replay->client, ZC_OP_FLUSH_OBJECT, 0, &replay->key, 0, 1);

    return error ? error : zc_client_receive(&replay->client, &result, 1, NULL);
}

/* ---- the report ---- */

static int ask(const struct replay *replay, const char *what, struct zc_text *out)
{
    char line[160];

    snprintf(line, sizeof(line), "get pools/%s/%s", replay->options->pool, what);
    return zc_client_ask(replay->options->dir, line, out);
}

static int ask_number(const struct replay *replay, const char *what, uint64_t *number)
{
    struct zc_text text = {0};
    int error = ask(replay, what, &text);

    *number = error || !text.data ? 0 : strtoull(text.data, NULL, 10);
    zc_text_free(&text);
    return error;
}

/* Of the pages that are missing, as many as an ephemeral pool gave up meanwhile are not lost. */
static int tell_dropped(struct replay *replay)
{
    struct zc_text kind = {0};
    uint64_t given_up = 0;
    int error = replay->lost ? ask(replay, "kind", &kind) : 0;
    bool is_ephemeral = kind.data && strcmp(kind.data, "ephemeral\n") == 0;

    zc_text_free(&kind);
    if (error || !is_ephemeral)
        return error;
    error = ask_number(replay, "stats/reclaimed_zpages", &given_up);
    given_up -= given_up < replay->given_up ? given_up : replay->given_up;
    replay->dropped = replay->lost < given_up ? replay->lost : given_up;
    replay->lost -= replay->dropped;
    return error;
}

/* "64 3\n128 9\n" as [[64, 3], [128, 9]]. */
static int print_histogram(const struct replay *replay)
{
    struct zc_text text = {0};
    const char *comma = "";
    int error = ask(replay, "zv_curr_dist_counts", &text);

    printf("\"histogram\": [");
    for (char *line = error ? NULL : text.data; line && *line;) {
        unsigned long long bound = strtoull(line, &line, 10), count = strtoull(line, &line, 10);
        printf("%s[%llu, %llu]", comma, bound, count);
        comma = ", ";
        line += strspn(line, "\n");
    }
    printf("]");
    zc_text_free(&text);
    return error;
}

static void print_refused(const struct replay *replay)
{
    const char *comma = "";

    printf("\"refused\": {");
    for (int i = 1; i < ZC_REFUSALS; i++) {
        if (!replay->refused[i])
            continue;
        printf("%s\"%s\": %" PRIu64, comma, zc_refusal_name(i), replay->refused[i]);
        comma = ", ";
    }
    printf("}, ");
}

static void print_mean(const char *name, uint64_t ns, uint64_t count)
{
    if (count)
        printf("\"%s\": %.3f, ", name, (double)ns / (double)count / 1000);
    else
        printf("\"%s\": null, ", name);
}

static int report(const struct replay *replay)
{
    uint64_t frames, used, held = replay->stored + replay->same_filled;
    uint64_t transport =
        replay->put_wall_ns + replay->get_wall_ns - replay->put_ns - replay->get_ns;
    int error = ask_number(replay, "stats/frames", &frames);

    if (!error)
        error = ask_number(replay, "stats/used_bytes", &used);
    if (error)
        return error;
    printf("{\"report\": {\"pages\": %zu, \"stored\": %" PRIu64 ", \"same_filled\": %" PRIu64 ", ",
           replay->put_pages, replay->stored, replay->same_filled);
    print_refused(replay);
    printf("\"dropped\": %" PRIu64 ", \"lost\": %" PRIu64 ", \"mismatches\": %" PRIu64 ", ",
           replay->dropped, replay->lost, replay->mismatches);
    printf("\"frames\": %" PRIu64 ", \"used_bytes\": %" PRIu64 ", ", frames, used);
    if (used)
        printf("\"effective_ratio\": %.3f, ",
               (double)(held * replay->client.page_size) / (double)used);
    else
        printf("\"effective_ratio\": null, ");
    print_mean("put_us", replay->put_ns, replay->put_pages);
    print_mean("get_us", replay->get_ns, replay->put_pages);
    print_mean("transport_us", transport, 2 * replay->put_pages);
    error = print_histogram(replay);
    printf(", \"tail_bytes\": 0}}\n");
    fflush(stdout);
    return error;
}

static bool passed(const struct replay *replay)
{
    uint64_t counted = replay->stored + replay->same_filled;

    for (int i = 1; i < ZC_REFUSALS; i++)
        counted += replay->refused[i];
    return counted == replay->put_pages && !replay->lost && !replay->mismatches;
}

/* ---- the whole ---- */

/* Puts, gets, reports; what was put is flushed on every way out but a kept success. */
static int walk(struct replay *replay)
{
    int error = ask_number(replay, "stats/reclaimed_zpages", &replay->given_up);
    if (!error)
        error = put_all(replay);
    if (error == -ESRCH) {
        flush(replay);
        return complain_of_pid(replay, error);
    }
    if (!error)
        error = get_all(replay);
    if (!error)
        error = tell_dropped(replay);
    if (!error)
        error = report(replay);
    bool keep = replay->options->keep && !error;
    int flushed = keep ? 0 : flush(replay);
    error = error ? error : flushed;
    if (error == -EINTR || error == -EPIPE)
        return complain(error, "interrupted; what was put is flushed", ZC_EXIT_FAILED);
    if (error == -ENOENT)
        return complain(error, "the pool was destroyed meanwhile", ZC_EXIT_REFUSED);
    if (error)
        return complain_of_daemon(replay, error);
    return passed(replay) ? ZC_EXIT_OK : ZC_EXIT_FAILED;
}

static int with_client(struct replay *replay)
{
    char what[160];
    int error = zc_client_pool(&replay->client, replay->options->pool, &replay->key.pool);
    if (error == -ENOENT || error == -EINVAL) {
        snprintf(what, sizeof(what), "no such pool: %.64s", replay->options->pool);
        return complain(-ENOENT, what, ZC_EXIT_REFUSED);
    }
    if (error)
        return complain_of_daemon(replay, error);

    error = zc_process_open(&replay->process, replay->options->pid, replay->client.page_size);
    if (error)
        return complain_of_pid(replay, error);
    int code;
    if (replay->process.count == 0) {
        snprintf(what, sizeof(what), "process %d has no resident anonymous page",
                 replay->options->pid);
        code = complain(-ENODATA, what, ZC_EXIT_NO_PROCESS);
    } else {
        code = walk(replay);
    }
    zc_process_close(&replay->process);
    return code;
}

int zc_replay(const struct zc_options *options)
{
    struct replay replay = {.options = options};

    catch_signals();
    if (getrandom(&replay.key.object, sizeof(replay.key.object), 0) != sizeof(replay.key.object))
        return complain(errno, "no random object id", ZC_EXIT_FAILED);
    int error = zc_client_open(&replay.client, options->dir, 2 * BATCH);
    if (error)
        return complain_of_daemon(&replay, error);

    int code = with_client(&replay);
    zc_client_close(&replay.client);
    return code;
}
