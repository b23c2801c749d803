/* SPDX-License-Identifier: Apache-2.0 */
/* What the random tests share: numbers from a seed, and a check that ends the program. */
#ifndef TESTS_CHECK_H
#define TESTS_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define CHECK(cond)                                                                   \
    do {                                                                              \
        if (!(cond)) {                                                                \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #cond); \
            abort();                                                                  \
        }                                                                             \
    } while (0)

struct random {
    uint64_t state;
};

static inline uint64_t random_u64(struct random *random)
{
    return zc_mix64(random->state += 0x9e3779b97f4a7c15u);
}

/* 0..below - 1. */
static inline size_t random_below(struct random *random, size_t below)
{
    return (size_t)(random_u64(random) % below);
}

/* True in so many of 100 cases. */
static inline bool random_percent(struct random *random, unsigned percent)
{
    return random_below(random, 100) < percent;
}

/* Bytes that all depend on `seed`. */
static inline void pattern_fill(void *memory, size_t size, uint64_t seed)
{
    for (size_t i = 0; i < size; i += sizeof(uint64_t)) {
        uint64_t word = zc_mix64(seed + i);
        memcpy((char *)memory + i, &word, zc_min(size - i, sizeof(word)));
    }
}

static inline bool pattern_is(const void *memory, size_t size, uint64_t seed)
{
    for (size_t i = 0; i < size; i += sizeof(uint64_t)) {
        uint64_t word = zc_mix64(seed + i);
        if (memcmp((const char *)memory + i, &word, zc_min(size - i, sizeof(word))) != 0)
            return false;
    }
    return true;
}

#endif
