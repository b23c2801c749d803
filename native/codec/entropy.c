/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Collision entropy, -log2 of the chance that two bytes of a page are equal. Unlike Shannon's, which it
 * never exceeds, it comes without bias from few bytes and with one logarithm; and what LZ4 cannot compress
 * (compressed, encrypted, base64) it tells better from code, which has many zeros.
 */
#include "base/base.h"
#include "codec/codec.h"

#define SAMPLES 128u
#define LANES 4u /* counters of their own: equal bytes in a row must not wait for each other */

/* 1000 * log2(n), n >= 1: between powers of two by a parabola, off by 9 at most. */
static unsigned log2_milli(uint32_t n)
{
    unsigned whole = 31 - (unsigned)__builtin_clz(n);
    unsigned part = (unsigned)(((uint64_t)n << 10 >> whole) & 1023);

    return whole * 1000 + (part * (1343 * 1024 - 343 * part) >> 20);
}

unsigned zc_entropy(const void *page, size_t page_size)
{
    const uint8_t *bytes = page;
    uint8_t counts[LANES][256] = {{0}};
    size_t step = page_size / SAMPLES;
    int32_t pairs = -(int32_t)SAMPLES; /* a sample is no pair with itself */

    for (size_t i = 0; i < SAMPLES; i += LANES) {
        const uint8_t *at = bytes + i * step + (i & 12); /* not always the same byte of a word */
        for (size_t lane = 0; lane < LANES; lane++)
            counts[lane][at[lane * (step + 1)]]++;
    }
    for (size_t value = 0; value < 256; value++) {
        int16_t count = 0;
        for (size_t lane = 0; lane < LANES; lane++)
            count = (int16_t)(count + counts[lane][value]);
        pairs += count * count;
    }
    if (pairs == 0)
        return ZC_ENTROPY_MAX;
    unsigned all = log2_milli(SAMPLES * (SAMPLES - 1)), equal = log2_milli((uint32_t)pairs);
    return (unsigned)zc_min(all - zc_min(equal, all), ZC_ENTROPY_MAX);
}
