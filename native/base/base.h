/* SPDX-License-Identifier: Apache-2.0 */
/* What every layer uses: asserts of a debug build, small arithmetic, names of errors. */
#ifndef ZC_BASE_BASE_H
#define ZC_BASE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define ZC_CONTAINER(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define ZC_LIKELY(x) __builtin_expect(!!(x), 1)
#define ZC_UNLIKELY(x) __builtin_expect(!!(x), 0)

/* Checks an internal invariant in debug builds (ZC_DEBUG); never input from outside. */
#ifdef ZC_DEBUG
#define ZC_ASSERT(cond)                                                                  \
    do {                                                                                 \
        if (ZC_UNLIKELY(!(cond))) {                                                      \
            fprintf(stderr, "%s:%d: invariant broken: %s\n", __FILE__, __LINE__, #cond); \
            abort();                                                                     \
        }                                                                                \
    } while (0)
#else
#define ZC_ASSERT(cond) ((void)sizeof(!(cond)))
#endif

static inline size_t zc_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t zc_max(size_t a, size_t b)
{
    return a > b ? a : b;
}

static inline uint64_t zc_min64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t zc_max64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static inline size_t zc_div_up(size_t n, size_t by)
{
    return (n + by - 1) / by;
}

static inline bool zc_is_pow2(uint64_t n)
{
    return n != 0 && (n & (n - 1)) == 0;
}

/* In a loop that waits for another processor. */
static inline void zc_relax(void)
{
#if defined(__x86_64__)
    __asm__ volatile("pause");
#elif defined(__aarch64__) || defined(__arm__)
    __asm__ volatile("yield");
#endif
}

/* n / by for a power of two: 32-bit ARM has no instruction to divide 64 bits. */
static inline uint64_t zc_div_pow2(uint64_t n, uint64_t by)
{
    return n >> __builtin_ctzll(by);
}

#define ZC_SECOND_NS UINT64_C(1000000000)

static inline uint64_t zc_clock_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * ZC_SECOND_NS + (uint64_t)t.tv_nsec;
}

static inline uint64_t zc_now_ns(void)
{
    return zc_clock_ns(CLOCK_MONOTONIC);
}

/* Of a processor, for this thread: what others do on it meanwhile is no cost of ours. */
static inline uint64_t zc_thread_ns(void)
{
    return zc_clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

/* A bijection that spreads every input bit over all output bits (SplitMix64's finalizer,
 * Steele, Lea, Flood 2014). */
static inline uint64_t zc_mix64(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* "ENOENT" for 2 or -2; "E<number>" where there is no name. The text of an unknown number lives in
 * `buf` (16 bytes). */
const char *zc_errno_name(int error, char buf[16]);

#endif
