/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records of one size under numbers from 1 on. A record never moves, so zc_table_at() needs no lock
 * as long as the number is in use; adding and removing are for one thread at a time. Memory comes in
 * chunks, each twice as large as the one before, and goes when the last record does.
 */
#ifndef ZC_BASE_TABLE_H
#define ZC_BASE_TABLE_H

#include <stddef.h>
#include <stdint.h>

#define ZC_TABLE_FIRST 32u  /* records of the first chunk */
#define ZC_TABLE_CHUNKS 27u /* so that 32-bit numbers end before they do */

struct zc_table {
    size_t record; /* bytes, at least 4 */
    char *chunks[ZC_TABLE_CHUNKS];
    /* What changes often is not beside what zc_table_at() reads. */
    uint32_t used;   /* records in use */
    uint32_t top;    /* the largest number ever used since the table was empty */
    uint32_t unused; /* numbers given back, chained through their records' first bytes; 0: none */
    size_t bytes;    /* of the records up to top: what the table costs */
};

void zc_table_init(struct zc_table *table, size_t record);
/* A zeroed record. 0: out of memory, or of numbers. */
uint32_t zc_table_add(struct zc_table *table);
void zc_table_remove(struct zc_table *table, uint32_t number);

static inline void *zc_table_at(const struct zc_table *table, uint32_t number)
{
    uint32_t at = number - 1 + ZC_TABLE_FIRST;
    unsigned chunk = 31u - (unsigned)__builtin_clz(at);

    return table->chunks[chunk - 5] + (size_t)(at - (1u << chunk)) * table->record;
}

#endif
