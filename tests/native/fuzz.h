/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program for a fuzz target: with libFuzzer its own main is used (-DZC_LIBFUZZER), else this one:
 * PROGRAM RUNS SEED FILE… runs each file, then RUNS deterministic mutations of them.
 */
#ifndef ZC_TESTS_FUZZ_H
#define ZC_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zcache/store.h>

#include "base/base.h"

#define FUZZ_INPUT_MAX (64u * 1024)
#define FUZZ_FILES_MAX 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A store that sees memory as $ZC_PROC tells it: Linux takes milliseconds to forget a PSI trigger. */
static inline zc_store *fuzz_store(void)
{
    struct zc_store_config config = {.proc_dir = getenv("ZC_PROC")};
    zc_store *store;

    if (zc_store_create(&config, &store) != 0)
        abort();
    return store;
}

#ifndef ZC_LIBFUZZER

struct fuzz_input {
    size_t size;
    uint8_t data[FUZZ_INPUT_MAX];
};

static uint64_t fuzz_next(uint64_t *state)
{
    return zc_mix64(*state += 0x9e3779b97f4a7c15u);
}

static void fuzz_read(const char *path, struct fuzz_input *input)
{
    FILE *file = fopen(path, "rbe");

    if (!file) {
        perror(path);
        exit(1);
    }
    input->size = fread(input->data, 1, sizeof(input->data), file);
    fclose(file);
}

/* One change: a bit, a byte, a word of an edge value, a piece cut out, doubled or taken elsewhere. */
static void fuzz_mutate(struct fuzz_input *input, const struct fuzz_input *other, uint64_t *state)
{
    static const uint32_t edges[] = {0,    1,    0x7fffffff, 0x80000000, 0xffffffff,
                                     1024, 1025, 4096,       65536};
    size_t size = input->size, at = size ? fuzz_next(state) % size : 0, len;

    switch (fuzz_next(state) % 6) {
    case 0:
        if (size)
            input->data[at] ^= (uint8_t)(1u << fuzz_next(state) % 8);
        break;
    case 1:
        if (size)
            input->data[at] = (uint8_t)fuzz_next(state);
        break;
    case 2:
        if (size >= 4)
            memcpy(input->data + zc_min(at & ~(size_t)3, size - 4), &edges[fuzz_next(state) % 9],
                   4);
        break;
    case 3:
        len = zc_min(fuzz_next(state) % 64, size - at);
        memmove(input->data + at, input->data + at + len, size - at - len);
        input->size -= len;
        break;
    case 4:
        len = zc_min(zc_min(fuzz_next(state) % 256, size - at), FUZZ_INPUT_MAX - size);
        memmove(input->data + at + len, input->data + at, size - at);
        input->size += len;
        break;
    default:
        len = zc_min(other->size, FUZZ_INPUT_MAX - at);
        memcpy(input->data + at, other->data, len);
        input->size = zc_max(size, at + len);
    }
}

int main(int argc, char **argv)
{
    static struct fuzz_input seeds[FUZZ_FILES_MAX], input;
    size_t files = 0;

    if (argc < 4) {
        fprintf(stderr, "usage: %s RUNS SEED FILE...\n", argv[0]);
        return 2;
    }
    unsigned long runs = strtoul(argv[1], NULL, 10);
    uint64_t state = strtoull(argv[2], NULL, 10);
    for (int i = 3; i < argc && files < FUZZ_FILES_MAX; i++) {
        fuzz_read(argv[i], &seeds[files]);
        LLVMFuzzerTestOneInput(seeds[files].data, seeds[files].size);
        files++;
    }
    for (unsigned long run = 0; run < runs; run++) {
        input = seeds[fuzz_next(&state) % files];
        for (uint64_t changes = 1 + fuzz_next(&state) % 6; changes; changes--)
            fuzz_mutate(&input, &seeds[fuzz_next(&state) % files], &state);
        LLVMFuzzerTestOneInput(input.data, input.size);
    }
    printf("%lu runs on %zu seeds\n", runs, files);
    return 0;
}

#endif
#endif
