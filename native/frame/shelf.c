/* SPDX-License-Identifier: Apache-2.0 */
#include "frame/shelf.h"

#include "base/base.h"

static void flip(uint64_t *bits, size_t first, size_t count)
{
    while (count > 0) {
        size_t at = first % 64, n = zc_min(count, 64 - at);
        bits[first / 64] ^= ~UINT64_C(0) >> (64 - n) << at;
        first += n;
        count -= n;
    }
}

/* Bits at..at + 63. */
static uint64_t window(const uint64_t *bits, size_t at)
{
    const uint64_t *word = bits + at / 64;

    at %= 64;
    return at ? word[0] >> at | word[1] << (64 - at) : word[0];
}

/* How many bits are set right before `at`, which is not 0; up to 64. */
static size_t adjacent_before(const uint64_t *bits, size_t at)
{
    uint64_t clear = ~(at < 64 ? bits[0] << (64 - at) : window(bits, at - 64));

    return clear ? (size_t)__builtin_clzll(clear) : 64;
}

size_t zc_stock_adjacent(const struct zc_stock *stock, size_t first)
{
    uint64_t clear = ~window(stock->bits, first);

    return clear ? (size_t)__builtin_ctzll(clear) : 64;
}

void zc_shelf_init(struct zc_shelf *shelf)
{
    shelf->stocked = 0;
    shelf->count = 0;
    for (size_t i = 0; i < ZC_EXTENT_MAX; i++)
        zc_list_init(&shelf->stocks[i]);
}

void zc_stock_init(struct zc_stock *stock, uint64_t *bits, size_t words)
{
    *stock = (struct zc_stock){.bits = bits, .words = (uint32_t)words};
}

static void shelve(struct zc_shelf *shelf, struct zc_stock *stock, size_t longest)
{
    if (stock->longest == longest)
        return;
    if (stock->longest) {
        zc_list_del(&stock->link);
        if (zc_list_empty(&shelf->stocks[stock->longest - 1]))
            shelf->stocked &= ~(1u << (stock->longest - 1));
    }
    stock->longest = (uint32_t)longest;
    if (longest) {
        zc_list_add(&shelf->stocks[longest - 1], &stock->link);
        shelf->stocked |= 1u << (longest - 1);
    }
}

void zc_stock_put(struct zc_shelf *shelf, struct zc_stock *stock, size_t first, size_t count)
{
    flip(stock->bits, first, count);
    stock->count += (uint32_t)count;
    shelf->count += count;

    size_t adjacent = adjacent_before(stock->bits, first) + zc_stock_adjacent(stock, first);
    shelve(shelf, stock, zc_max(stock->longest, zc_min(adjacent, ZC_EXTENT_MAX)));
    zc_stock_check(stock);
}

void zc_stock_take(struct zc_shelf *shelf, struct zc_stock *stock, size_t first, size_t count)
{
    flip(stock->bits, first, count);
    stock->count -= (uint32_t)count;
    shelf->count -= count;
    if (stock->count == 0)
        shelve(shelf, stock, 0);
    zc_stock_check(stock);
}

void zc_stock_clear(struct zc_shelf *shelf, struct zc_stock *stock)
{
    for (size_t i = 0; i < stock->words; i++)
        stock->bits[i] = 0;
    shelf->count -= stock->count;
    stock->count = 0;
    shelve(shelf, stock, 0);
}

size_t zc_stock_find(const struct zc_stock *stock, size_t count)
{
    /* Windows overlap, so that every extent lies in one whole. */
    for (size_t at = 0; at < 64 * stock->words; at += 64 - (ZC_EXTENT_MAX - 1)) {
        uint64_t starts = window(stock->bits, at);
        for (size_t n = 1; n < count && starts;) { /* where n adjacent ones start */
            size_t more = zc_min(n, count - n);
            starts &= starts >> more;
            n += more;
        }
        if (starts)
            return at + (size_t)__builtin_ctzll(starts);
    }
    return 0;
}

struct zc_stock *zc_shelf_next(const struct zc_shelf *shelf, size_t count)
{
    uint32_t fitting = shelf->stocked & ~0u << (count - 1);

    if (!fitting)
        return NULL;
    return ZC_CONTAINER(shelf->stocks[__builtin_ctz(fitting)].next, struct zc_stock, link);
}

struct zc_stock *zc_shelf_find(struct zc_shelf *shelf, size_t count, size_t *first)
{
    struct zc_stock *stock;

    for (unsigned look = 0; look < ZC_SHELF_LOOKS; look++) {
        stock = zc_shelf_next(shelf, count);
        if (!stock)
            return NULL;
        *first = zc_stock_find(stock, count);
        if (*first)
            return stock;
        shelve(shelf, stock, count - 1); /* not 0: a single frame is always found */
    }
    return NULL;
}

void zc_stock_check(const struct zc_stock *stock)
{
    size_t count = 0;

    for (size_t i = 0; i < stock->words; i++)
        count += (size_t)__builtin_popcountll(stock->bits[i]);
    ZC_ASSERT(count == stock->count && stock->bits[stock->words] == 0);
    ZC_ASSERT((stock->longest > 0) == (count > 0) && stock->longest <= ZC_EXTENT_MAX);
    ZC_ASSERT((stock->bits[0] & 1) == 0);
    ZC_ASSERT(stock->longest == ZC_EXTENT_MAX || !zc_stock_find(stock, stock->longest + 1));
}
