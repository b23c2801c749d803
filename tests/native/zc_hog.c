/* SPDX-License-Identifier: Apache-2.0 */
/*
 * More memory than there is: fills it, then goes through it time and again, in an order that no reading ahead
 * guesses, holds every byte against what it must be, and changes every other page.
 *
 *   zc_hog MB ROUNDS [POOR]    "ok pages=N visits=V ms=T", or 1 and "page I: …"
 *
 * ROUNDS may be a part of one, as 0.25; told to end (SIGTERM), it goes through all of it once more first. A page
 * compresses to about a third; POOR of 100 do not compress at all.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"

#define SHARE 4u /* of a page, this part is random */

static size_t page_size;
static volatile sig_atomic_t is_told;

static void tell(int signal)
{
    (void)signal;
    is_told = 1;
}

/* Each page of each generation has bytes of its own. */
static void fill(uint64_t *page, size_t number, unsigned generation, unsigned poor)
{
    uint64_t state = zc_mix64(number * 1024 + generation + 1);
    size_t words = page_size / sizeof(*page);
    size_t random = state % 100 < poor ? words : words / SHARE;

    for (size_t i = 0; i < words; i++)
        page[i] = i < random ? (state = zc_mix64(state + i)) : number + i / 64;
}

static size_t common_factor(size_t a, size_t b)
{
    return b == 0 ? a : common_factor(b, a % b);
}

/* Each page once: a step that has no factor in common with their number. */
static size_t step_over(size_t pages)
{
    size_t step = pages / 2 + pages / 8 + 1;

    while (common_factor(step, pages) != 1)
        step++;
    return step;
}

static int check(const char *memory, size_t pages, size_t visits, unsigned poor, uint64_t *expected,
                 unsigned char *generations)
{
    size_t step = step_over(pages);

    for (size_t n = 0, i = 0; n < visits; n++, i = (i + step) % pages) {
        if (is_told) {
            is_told = 0;
            visits = zc_min(visits, n + pages);
        }
        size_t round = n / pages;
        uint64_t *page = (uint64_t *)(memory + i * page_size);
        fill(expected, i, generations[i], poor);
        if (memcmp(page, expected, page_size) != 0) {
            printf("page %zu: not as it was left in round %zu\n", i, round);
            return 1;
        }
        if ((i + round) % 2 == 0)
            fill(page, i, ++generations[i], poor);
    }
    return 0;
}

static void lost(int signal)
{
    static const char text[] = "a page is lost: SIGBUS\n";

    (void)signal;
    _exit(write(STDOUT_FILENO, text, sizeof(text) - 1) > 0 ? 3 : 4);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    page_size = (size_t)sysconf(_SC_PAGESIZE);
    size_t size = strtoul(argv[1], NULL, 10) << 20, pages = size / page_size;
    size_t visits = (size_t)(atof(argv[2]) * (double)pages);
    unsigned poor = argc > 3 ? (unsigned)atoi(argv[3]) : 0;
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    unsigned char *generations = calloc(pages, 1);
    uint64_t *expected = malloc(page_size);

    if (memory == MAP_FAILED || !generations || !expected)
        return 2;
    signal(SIGBUS, lost);
    signal(SIGTERM, tell);
    uint64_t start = zc_now_ns();
    for (size_t i = 0; i < pages; i++)
        fill((uint64_t *)(memory + i * page_size), i, 0, poor);
    printf("filled\n");
    fflush(stdout);
    if (check(memory, pages, visits, poor, expected, generations))
        return 1;
    printf("ok pages=%zu visits=%zu ms=%" PRIu64 "\n", pages, visits,
           (zc_now_ns() - start) / 1000000);
    return 0;
}
