/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/commands/reservoir.h"

#include <errno.h>
#include <stdlib.h>

#include "base/base.h"

#define STEP UINT64_C(0x9e3779b97f4a7c15)

int zc_reservoir_init(struct zc_reservoir *reservoir, size_t most, uint64_t seed)
{
    *reservoir = (struct zc_reservoir){.most = most, .random = seed};
    reservoir->picks = calloc(most, sizeof(*reservoir->picks));
    return reservoir->picks ? 0 : -ENOMEM;
}

void zc_reservoir_fini(struct zc_reservoir *reservoir)
{
    free(reservoir->picks);
}

/* 0..below - 1; below 2^32 pages no number is likelier than another by more than 2^-32 of all. */
static uint64_t draw(struct zc_reservoir *reservoir, uint64_t below)
{
    reservoir->random += STEP;
    return (zc_mix64(reservoir->random) >> 32) * below >> 32;
}

/* The n-th page takes the place of one of the sample by chance, most / n. */
static void add_page(struct zc_reservoir *reservoir, struct zc_pick pick)
{
    uint64_t place = reservoir->count;

    reservoir->seen++;
    if (reservoir->count < reservoir->most)
        reservoir->count++;
    else
        place = draw(reservoir, reservoir->seen);
    if (place < reservoir->most)
        reservoir->picks[place] = pick;
}

void zc_reservoir_add(struct zc_reservoir *reservoir, uint32_t source, uint64_t start, uint64_t end,
                      size_t page_size)
{
    for (; end - start >= page_size; start += page_size)
        add_page(reservoir, (struct zc_pick){.address = start, .source = source});
}

void zc_reservoir_shuffle(struct zc_reservoir *reservoir)
{
    for (size_t i = reservoir->count; i > 1; i--) {
        size_t other = (size_t)draw(reservoir, i);
        struct zc_pick pick = reservoir->picks[i - 1];
        reservoir->picks[i - 1] = reservoir->picks[other];
        reservoir->picks[other] = pick;
    }
}
