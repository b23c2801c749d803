/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How well the entropy estimate tells pages that the codec compresses to at most 7/8, the default
 * zv_max_zsize, from those that it does not, the poor ones. What a gate gets wrong: `refused` would have
 * been kept, `passed` are poor and compressed for nothing.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"
#include "codec/codec.h"

#define GATES 15u
#define FIRST_GATE 5000u /* millibits a byte */
#define GATE_STEP 200u

static double estimate(const struct pages *pages, unsigned *entropies)
{
    double start = now_ns();

    for (size_t i = 0; i < pages->count; i++)
        entropies[i] = zc_entropy(page_at(pages, i), pages->page_size);
    return (now_ns() - start) / (double)pages->count;
}

static void print_gate(unsigned gate, const struct pages *pages, const unsigned *entropies,
                       const struct alone *alone)
{
    uint64_t refused = 0, passed = 0;

    for (size_t i = 0; i < pages->count; i++) {
        bool poor = alone_size(alone, i) > pages->page_size / 8 * 7;
        refused += entropies[i] > gate && !poor;
        passed += entropies[i] <= gate && poor;
    }
    printf("\"%u\": {\"refused\": %" PRIu64 ", \"passed\": %" PRIu64 "}", gate, refused, passed);
}

void entropy(const struct options *options)
{
    struct pages pages;
    uint64_t poor = 0;

    pages_load(&pages, options, PAGES_NOT_SAME_FILLED);
    struct alone *alone = alone_new(options->codec, &pages, ALONE_APART);
    unsigned *entropies = get_memory(pages.count * sizeof(*entropies));
    double compress_ns = alone_put(alone, &pages);
    double estimate_ns = estimate(&pages, entropies);
    for (size_t i = 0; i < pages.count; i++)
        poor += alone_size(alone, i) > pages.page_size / 8 * 7;
    printf("{\"pages\": %zu, \"poor\": %" PRIu64
           ", \"compress_ns\": %.1f, \"estimate_ns\": %.1f, \"recommended\": %u, \"gates\": {",
           pages.count, poor, compress_ns, estimate_ns, ZC_ENTROPY_GATE);
    for (unsigned i = 0; i < GATES; i++) {
        printf("%s", i ? ", " : "");
        print_gate(FIRST_GATE + i * GATE_STEP, &pages, entropies, alone);
    }
    printf("}}\n");
    free(entropies);
    alone_free(alone);
    pages_free(&pages);
}
