/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One thread and two, each pinned to a core of its own, in turns on the same pages: two share them, in one
 * pool ("same") or in two ("apart"). Each begins with a half (and a pool) of its own; who has done it helps
 * the other, so that both work until the end, whatever the halves cost and whoever has the store's own
 * thread beside it. Also the codec alone by two, which is what the machine can give. What the store's own
 * thread does for the one is done on the one's core: two cores are measured against one. Nanoseconds a
 * page, of both together.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"
#include "bench.h"

#define WORKERS 2u

struct share {
    struct pages pages;
    zc_pool *pool;
    _Atomic size_t taken; /* pages */
};

struct team;

struct worker {
    struct team *team;
    size_t number;
    pthread_t thread;
    struct alone *alone;
    char *page;
    double start, end; /* nanoseconds */
};

typedef void work(struct worker *worker, const struct pages *pages, zc_pool *pool);

struct team {
    size_t count;
    struct share shares[WORKERS];
    struct worker workers[WORKERS];
    work *work;
    pthread_barrier_t barrier;
};

static void put_alone(struct worker *worker, const struct pages *pages, zc_pool *pool)
{
    (void)pool;
    alone_put(worker->alone, pages);
}

static void get_alone(struct worker *worker, const struct pages *pages, zc_pool *pool)
{
    (void)pool;
    alone_get(worker->alone, pages, worker->page, 1);
}

static void put_in_store(struct worker *worker, const struct pages *pages, zc_pool *pool)
{
    (void)worker;
    store_put(pool, pages);
}

static void get_from_store(struct worker *worker, const struct pages *pages, zc_pool *pool)
{
    store_get(pool, pages, worker->page, 1);
}

static void work_on(struct worker *worker, struct share *share)
{
    for (;;) {
        size_t at = atomic_fetch_add(&share->taken, BATCH);
        if (at >= share->pages.count)
            return;
        struct pages batch = pages_from(&share->pages, at, BATCH);
        worker->team->work(worker, &batch, share->pool);
    }
}

static void *worker_main(void *arg)
{
    struct worker *worker = arg;
    struct team *team = worker->team;

    run_on(worker->number ? OTHER_CPU : THIS_CPU, 0);
    pthread_barrier_wait(&team->barrier);
    worker->start = now_ns();
    for (size_t i = 0; i < team->count; i++)
        work_on(worker, &team->shares[(worker->number + i) % team->count]);
    worker->end = now_ns();
    return NULL;
}

/* All workers at once. Nanoseconds a page, of all. */
static double run(struct team *team, work *work)
{
    double start = 0, end = 0;
    size_t pages = 0;

    team->work = work;
    pthread_barrier_init(&team->barrier, NULL, (unsigned)team->count);
    for (size_t i = 0; i < team->count; i++) {
        atomic_store(&team->shares[i].taken, 0);
        if (pthread_create(&team->workers[i].thread, NULL, worker_main, &team->workers[i]) != 0)
            die("it cannot be started", "thread");
    }
    for (size_t i = 0; i < team->count; i++) {
        const struct worker *worker = &team->workers[i];
        pthread_join(worker->thread, NULL);
        start = i == 0 || worker->start < start ? worker->start : start;
        end = worker->end > end ? worker->end : end;
        pages += team->shares[i].pages.count;
    }
    pthread_barrier_destroy(&team->barrier);
    return (end - start) / (double)pages;
}

/* ---- what is measured ---- */

enum op { PUT, AGAIN, GET, OPS };
enum who { ALONE_ONE, ALONE_TWO, ONE, SAME, APART, WHO };

static const char *const op_names[OPS] = {"_put_ns", "_again_ns", "_get_ns"};
static const char *const who_names[WHO] = {"alone_one", "alone_two", "one", "same", "apart"};

static void team_init(struct team *team, size_t count, const struct pages *pages, const char *codec)
{
    team->count = count;
    for (size_t i = 0; i < count; i++) {
        struct worker *worker = &team->workers[i];
        team->shares[i].pages = pages_part(pages, i, count);
        worker->team = team;
        worker->number = i;
        worker->alone = i ? alone_beside(team->workers[0].alone, codec, pages->page_size)
                          : alone_new(codec, pages, ALONE_APART);
        worker->page = get_memory(pages->page_size);
    }
}

static void team_free(struct team *team)
{
    for (size_t i = team->count; i-- > 0;) {
        alone_free(team->workers[i].alone);
        free(team->workers[i].page);
    }
}

static void turn_alone(struct team *team, double ns[OPS])
{
    ns[PUT] = run(team, put_alone);
    ns[AGAIN] = run(team, put_alone);
    ns[GET] = run(team, get_alone);
}

/* In so many pools. */
static void turn_in_store(struct team *team, zc_store *store, const struct options *options,
                          size_t pools, double ns[OPS])
{
    zc_pool *pool[WORKERS];

    for (size_t i = 0; i < pools; i++)
        pool[i] = open_pool(store, options);
    for (size_t i = 0; i < team->count; i++)
        team->shares[i].pool = pool[i % pools];
    ns[PUT] = run(team, put_in_store);
    ns[AGAIN] = run(team, put_in_store);
    ns[GET] = run(team, get_from_store);
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
