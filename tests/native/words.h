/* SPDX-License-Identifier: Apache-2.0 */
/* A line of a test program's input as words. */
#ifndef TESTS_WORDS_H
#define TESTS_WORDS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define WORDS_MAX 16

struct words {
    size_t count;
    char *word[WORDS_MAX]; /* into the line; "" from `count` on */
};

static inline void words_split(char *line, struct words *words)
{
    words->count = 0;
    for (char *at = strtok(line, " \n"); at && words->count < WORDS_MAX; at = strtok(NULL, " \n"))
        words->word[words->count++] = at;
    for (size_t i = words->count; i < WORDS_MAX; i++)
        words->word[i] = "";
}

static inline uint64_t number(const char *word)
{
    return strtoull(word, NULL, 10);
}

#endif
