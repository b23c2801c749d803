/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames that are alike, as bitmaps. A stock has the bitmap of one run; stocks stand on a shelf by
 * how many of their frames are adjacent. So a long extent is found, and a short one in the smallest
 * hole, without a search through all runs.
 *
 * How many are adjacent is raised as frames come, but lowered only by a search in vain: what is asked
 * for often stays cheap, and a search looks at no more than a few stocks.
 *
 * Not thread-safe.
 */
#ifndef ZC_FRAME_SHELF_H
#define ZC_FRAME_SHELF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "frame/frame.h"

#define ZC_SHELF_LOOKS 8u /* stocks, at most, that one search looks at */

struct zc_stock {
    struct zc_link link; /* on the shelf, while count > 0 */
    uint64_t *bits;      /* one a frame; frame 0's is never set */
    uint32_t words;      /* of bits; behind them is another one, empty */
    uint32_t count;      /* frames */
    uint32_t
        longest; /* no more than these are adjacent, up to ZC_EXTENT_MAX; 0: not on the shelf */
};

struct zc_shelf {
    struct zc_link stocks[ZC_EXTENT_MAX]; /* [n - 1]: those whose longest is n */
    uint32_t stocked;                     /* bit n - 1: there are some */
    size_t count;                         /* frames, of all stocks */
};

void zc_shelf_init(struct zc_shelf *shelf);
/* `bits`: words + 1, all zero. */
void zc_stock_init(struct zc_stock *stock, uint64_t *bits, size_t words);

void zc_stock_put(struct zc_shelf *shelf, struct zc_stock *stock, size_t first, size_t count);
void zc_stock_take(struct zc_shelf *shelf, struct zc_stock *stock, size_t first, size_t count);
/* Takes all, at once. */
void zc_stock_clear(struct zc_shelf *shelf, struct zc_stock *stock);
/* The first of `count` adjacent frames, up to ZC_EXTENT_MAX; 0: there are none. */
size_t zc_stock_find(const struct zc_stock *stock, size_t count);
/* How many frames are adjacent from `first` on, that one included; up to 64. */
size_t zc_stock_adjacent(const struct zc_stock *stock, size_t first);

/* Is there a stock that may have so many adjacent frames? */
static inline bool zc_shelf_may_have(const struct zc_shelf *shelf, size_t count)
{
    return shelf->stocked >> (count - 1) != 0;
}
/* The one that may have the fewest more; NULL: none. */
struct zc_stock *zc_shelf_next(const struct zc_shelf *shelf, size_t count);
/* The one that has them, with `first` of them; NULL: none, or it was not found in time. */
struct zc_stock *zc_shelf_find(struct zc_shelf *shelf, size_t count, size_t *first);

/* Asserts, in debug builds, that a stock is as it should be. */
void zc_stock_check(const struct zc_stock *stock);

#endif
