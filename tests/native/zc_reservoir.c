/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zc_reservoir MOST PAGES SAMPLES: as many samples, each of MOST of PAGES pages, which come in runs of 1 to 64
 * from three sources. Checks each; prints a line for each page: how often it was in a sample, and how often
 * among the first quarter of one.
 */
#include <stdbool.h>

#include "check.h"
#include "zcached/commands/reservoir.h"

#define PAGE 4096u
#define SOURCES 3u

static size_t pages;

static void add_all(struct zc_reservoir *reservoir, struct random *random)
{
    for (size_t at = 0; at < pages;) {
        size_t end = zc_min(at + 1 + random_below(random, 64), pages);
        zc_reservoir_add(reservoir, (uint32_t)(at % SOURCES), at * PAGE, end * PAGE + PAGE / 2,
                         PAGE);
        at = end;
    }
}

/* Adds one to counts[page][…]. */
static void check(const struct zc_reservoir *reservoir, size_t (*counts)[2])
{
    bool *is_there = calloc(pages, sizeof(*is_there));

    CHECK(is_there && reservoir->seen == pages);
    CHECK(reservoir->count == zc_min(pages, reservoir->most));
    for (size_t i = 0; i < reservoir->count; i++) {
        const struct zc_pick *pick = &reservoir->picks[i];
        size_t page = pick->address / PAGE;
        CHECK(pick->address % PAGE == 0 && page < pages && pick->source < SOURCES);
        CHECK(!is_there[page]);
        is_there[page] = true;
        counts[page][0]++;
        counts[page][1] += i < reservoir->count / 4;
    }
    free(is_there);
}

int main(int argc, char **argv)
{
    CHECK(argc == 4);
    size_t most = strtoul(argv[1], NULL, 10), samples = strtoul(argv[3], NULL, 10);
    pages = strtoul(argv[2], NULL, 10);
    struct random random = {.state = 1};
    size_t (*counts)[2] = calloc(pages, sizeof(*counts));

    CHECK(counts);
    for (size_t i = 0; i < samples; i++) {
        struct zc_reservoir reservoir;
        CHECK(zc_reservoir_init(&reservoir, most, i) == 0);
        add_all(&reservoir, &random);
        zc_reservoir_shuffle(&reservoir);
        check(&reservoir, counts);
        zc_reservoir_fini(&reservoir);
    }
    for (size_t i = 0; i < pages; i++)
        printf("in=%zu early=%zu\n", counts[i][0], counts[i][1]);
    free(counts);
    return 0;
}
