/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zc_pieces SEED OPS THREADS: threads get pieces, fill them and put them back, each its own; for a while
 * most get, then most put. Prints "used=BYTES os=BYTES" (os: Pss + SwapPss of this process) of the beginning,
 * when all threads hold most, when they hold little, and when nothing is left.
 */
#include <inttypes.h>
#include <pthread.h>

#include "check.h"
#include "frame/frame.h"
#include "os_bytes.h"

#define PIECES 20000u /* a thread's, at most */
#define KINDS 11u

struct piece {
    char *addr; /* NULL: none */
    unsigned kind;
};

struct worker {
    struct zc_frames *frames;
    struct random random;
    pthread_t thread;
    size_t ops;
    unsigned percent; /* of the pieces that it is to hold */
    size_t bytes;     /* of those it holds */
    struct piece *pieces;
};

static size_t size_of(unsigned kind)
{
    return kind < 4 ? (size_t)80 << kind : (kind - 2) * 512 + 16;
}

static uint64_t seed_of(const struct piece *piece)
{
    return (uint64_t)(uintptr_t)piece;
}

static void get(struct worker *worker, struct piece *piece)
{
    static const char zeros[ZC_PIECE_MAX];

    piece->kind = (unsigned)random_below(&worker->random, KINDS);
    size_t size = size_of(piece->kind);
    piece->addr = zc_piece_get(worker->frames, piece->kind, size);
    CHECK(piece->addr && (uintptr_t)piece->addr % 16 == 0);
    CHECK(memcmp(piece->addr, zeros, size) == 0);
    pattern_fill(piece->addr, size, seed_of(piece));
    zc_frames_charge(worker->frames, (ptrdiff_t)size);
    worker->bytes += size;
}

static void put(struct worker *worker, struct piece *piece)
{
    size_t size = size_of(piece->kind);

    CHECK(pattern_is(piece->addr, size, seed_of(piece)));
    zc_piece_put(worker->frames, piece->addr);
    zc_frames_charge(worker->frames, -(ptrdiff_t)size);
    piece->addr = NULL;
    worker->bytes -= size;
}

static void *work(void *arg)
{
    struct worker *worker = arg;

    for (size_t i = 0; i < worker->ops; i++) {
        struct piece *piece = &worker->pieces[random_below(&worker->random, PIECES)];
        bool is_to_be = random_percent(&worker->random, worker->percent);
        if (piece->addr && !is_to_be)
            put(worker, piece);
        else if (!piece->addr && is_to_be)
            get(worker, piece);
    }
    return NULL;
}

static void run(struct worker *workers, size_t count, unsigned percent)
{
    for (size_t i = 0; i < count; i++) {
        workers[i].percent = percent;
        CHECK(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
    }
    for (size_t i = 0; i < count; i++)
        pthread_join(workers[i].thread, NULL);
}

static void print_used(const struct worker *workers, size_t count)
{
    struct zc_frames_stats stats;
    size_t held = 0;

    for (size_t i = 0; i < count; i++)
        held += workers[i].bytes;
    zc_frames_get_stats(workers->frames, &stats);
    CHECK(stats.used_bytes >= held);
    printf("used=%zu os=%" PRIu64 "\n", stats.used_bytes, os_bytes());
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fputs("zc_pieces SEED OPS THREADS\n", stderr);
        return 2;
    }
    size_t count = strtoull(argv[3], NULL, 10);
    struct worker *workers = calloc(count, sizeof(*workers));
    struct zc_frames *frames;

    CHECK(workers && zc_frames_create(4096 << 4, &frames) == 0);
    for (size_t i = 0; i < count; i++) {
        workers[i] = (struct worker){.frames = frames, .ops = strtoull(argv[2], NULL, 10)};
        workers[i].random.state = zc_mix64(strtoull(argv[1], NULL, 10) + i);
        workers[i].pieces = malloc(PIECES * sizeof(struct piece));
        CHECK(workers[i].pieces);
        memset(workers[i].pieces, 1, PIECES * sizeof(struct piece)); /* resident from now on: */
        explicit_bzero(workers[i].pieces, PIECES * sizeof(struct piece)); /* not to be a calloc */
    }
    run(workers, count, 0);
    print_used(workers, count);
    run(workers, count, 90);
    print_used(workers, count);
    run(workers, count, 10);
    print_used(workers, count);
    for (size_t i = 0; i < count; i++) {
        for (size_t p = 0; p < PIECES; p++) {
            if (workers[i].pieces[p].addr)
                put(&workers[i], &workers[i].pieces[p]);
        }
        free(workers[i].pieces);
    }
    print_used(workers, count);
    zc_frames_destroy(frames);
    free(workers);
    return 0;
}
