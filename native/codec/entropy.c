/* SPDX-License-Identifier: Apache-2.0 */
#include "base/base.h"
#include "codec/codec.h"

#define SAMPLES 256u
#define SAMPLES_LOG 8u

/* 1000 * log2(n), n >= 1: the fraction by a parabola, within 9 of the truth. */
static unsigned log2_milli(unsigned n)
{
    unsigned whole = 31 - (unsigned)__builtin_clz(n);
    unsigned part = (n << (31 - whole) << 1) >> 22; /* of 1024 */

    return whole * 1000 + part * (1343 * 1024u - 343 * part) / (1u << 20);
}

unsigned zc_entropy(const void *page, size_t page_size)
{
    const uint8_t *bytes = page;
    uint16_t counts[256] = {0};
    size_t step = page_size / SAMPLES;
    unsigned sum = 0;

    for (unsigned i = 0; i < SAMPLES; i++)
        counts[bytes[i * step + i % step]]++;
    for (unsigned i = 0; i < 256; i++) {
        if (counts[i])
            sum += counts[i] * log2_milli(counts[i]);
    }
    return SAMPLES_LOG * 1000 - sum / SAMPLES;
}
