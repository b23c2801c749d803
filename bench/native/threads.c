/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One thread and two, each pinned to a core of its own, in turns on the same pages: two share them, each
 * takes a half, in one pool ("same") or each in a pool of its own ("apart"). Also the codec alone by
 * two, which is what the machine can give. What the store's own thread does for the one is done on the
 * one's core: two cores are measured against one. Nanoseconds a page, of both together.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"
#include "bench.h"

#define WORKERS 2u

struct worker;
typedef void work(struct worker *worker);

struct worker {
    pthread_t thread;
    pthread_barrier_t *barrier;
    unsigned cpu;
    work *work;
    struct pages pages;
    struct alone *alone;
    zc_pool *pool;
    char *page;
    double start, end; /* nanoseconds */
};

static void put_alone(struct worker *worker)
{
    alone_put(worker->alone, &worker->pages);
}

static void get_alone(struct worker *worker)
{
    alone_get(worker->alone, &worker->pages, worker->page, 1);
}

static void put_in_store(struct worker *worker)
{
    store_put(worker->pool, &worker->pages);
}

static void get_from_store(struct worker *worker)
{
    store_get(worker->pool, &worker->pages, worker->page, 1);
}

static void *worker_main(void *arg)
{
    struct worker *worker = arg;

    run_on(worker->cpu, 0);
    pthread_barrier_wait(worker->barrier);
    worker->start = now_ns();
    worker->work(worker);
    worker->end = now_ns();
    return NULL;
}

/* All workers at once. Nanoseconds a page, of all. */
static double run(struct worker *workers, size_t count, work *work)
{
    pthread_barrier_t barrier;
    double start, end = 0;
    size_t pages = 0;

    pthread_barrier_init(&barrier, NULL, (unsigned)count);
    for (size_t i = 0; i < count; i++) {
        workers[i].barrier = &barrier;
        workers[i].work = work;
        if (pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]) != 0)
            die("it cannot be started", "thread");
    }
    for (size_t i = 0; i < count; i++) {
        pthread_join(workers[i].thread, NULL);
        start = i == 0 || workers[i].start < start ? workers[i].start : start;
        end = workers[i].end > end ? workers[i].end : end;
        pages += workers[i].pages.count;
    }
    pthread_barrier_destroy(&barrier);
    return (end - start) / (double)pages;
}

/* ---- what is measured ---- */

enum op { PUT, AGAIN, GET, OPS };
enum who { ALONE_ONE, ALONE_TWO, ONE, SAME, APART, WHO };

static const char *const op_names[OPS] = {"_put_ns", "_again_ns", "_get_ns"};
static const char *const who_names[WHO] = {"alone_one", "alone_two", "one", "same", "apart"};

struct team {
    size_t count;
    struct worker workers[WORKERS];
};

static void team_init(struct team *team, size_t count, const struct pages *pages, const char *codec)
{
    team->count = count;
    for (size_t i = 0; i < count; i++) {
        struct worker *worker = &team->workers[i];
        *worker = (struct worker){.cpu = i ? OTHER_CPU : THIS_CPU};
        worker->pages = pages_part(pages, i, count);
        worker->alone = alone_new(codec, &worker->pages, ALONE_APART);
        worker->page = get_memory(pages->page_size);
    }
}

static void team_free(struct team *team)
{
    for (size_t i = 0; i < team->count; i++) {
        alone_free(team->workers[i].alone);
        free(team->workers[i].page);
    }
}

static void turn_alone(struct team *team, double ns[OPS])
{
    ns[PUT] = run(team->workers, team->count, put_alone);
    ns[AGAIN] = run(team->workers, team->count, put_alone);
    ns[GET] = run(team->workers, team->count, get_alone);
}

/* In so many pools. */
static void turn_in_store(struct team *team, zc_store *store, const struct options *options,
                          size_t pools, double ns[OPS])
{
    zc_pool *pool[WORKERS];

    for (size_t i = 0; i < pools; i++)
        pool[i] = open_pool(store, options);
    for (size_t i = 0; i < team->count; i++)
        team->workers[i].pool = pool[i % pools];
    ns[PUT] = run(team->workers, team->count, put_in_store);
    ns[AGAIN] = run(team->workers, team->count, put_in_store);
    ns[GET] = run(team->workers, team->count, get_from_store);
    for (size_t i = 0; i < pools; i++)
        close_pool(pool[i]);
}

void threads(const struct options *options)
{
    struct pages pages;
    struct team one, two;
    size_t rounds = options->rounds;
    double *series = calloc(WHO * OPS * rounds, sizeof(*series));

    pages_load(&pages, options, PAGES_STORED);
    team_init(&one, 1, &pages, options->codec);
    team_init(&two, WORKERS, &pages, options->codec);
    zc_store *store = open_store(pages.page_size);
    zc_store *on_one_core = open_store_on(THIS_CPU, pages.page_size);
    for (size_t r = 0; r < rounds; r++) {
        double ns[WHO][OPS];
        turn_alone(&one, ns[ALONE_ONE]);
        turn_alone(&two, ns[ALONE_TWO]);
        turn_in_store(&one, on_one_core, options, 1, ns[ONE]);
        turn_in_store(&two, store, options, 1, ns[SAME]);
        turn_in_store(&two, store, options, WORKERS, ns[APART]);
        for (size_t i = 0; i < WHO * OPS; i++)
            series[i * rounds + r] = ns[i / OPS][i % OPS];
    }
    printf("{");
    for (size_t i = 0; i < WHO * OPS; i++)
        print_series_of(who_names[i / OPS], op_names[i % OPS], series + i * rounds, rounds);
    printf("\"pages\": %zu}\n", pages.count);
    zc_store_destroy(store);
    zc_store_destroy(on_one_core);
    team_free(&one);
    team_free(&two);
    pages_free(&pages);
    free(series);
}
