/* SPDX-License-Identifier: Apache-2.0 */
#include "base/table.h"

#include <string.h>

#include "base/base.h"
#include "base/large.h"

_Static_assert(ZC_TABLE_FIRST == 1u << 5, "zc_table_at() knows the first chunk's size");

void zc_table_init(struct zc_table *table, size_t record)
{
    *table = (struct zc_table){.record = record};
}

static size_t chunk_size(const struct zc_table *table, unsigned chunk)
{
    return ((size_t)ZC_TABLE_FIRST << chunk) * table->record;
}

uint32_t zc_table_add(struct zc_table *table)
{
    uint32_t number = table->unused;

    if (number) {
        char *record = zc_table_at(table, number);
        memcpy(&table->unused, record, sizeof(table->unused));
        memset(record, 0, table->record);
        table->used++;
        return number;
    }

    uint32_t at = table->top + ZC_TABLE_FIRST;
    unsigned chunk = 31u - (unsigned)__builtin_clz(at) - 5;
    if (chunk >= ZC_TABLE_CHUNKS - 1)
        return 0;
    if (!table->chunks[chunk]) {
        table->chunks[chunk] = zc_large_get(chunk_size(table, chunk));
        if (!table->chunks[chunk])
            return 0;
    }
    table->used++;
    table->bytes += table->record;
    return ++table->top;
}

void zc_table_remove(struct zc_table *table, uint32_t number)
{
    ZC_ASSERT(table->used > 0 && number > 0 && number <= table->top);
    if (--table->used == 0) {
        for (unsigned i = 0; i < ZC_TABLE_CHUNKS; i++)
            zc_large_put(table->chunks[i], chunk_size(table, i));
        zc_table_init(table, table->record);
        return;
    }
    memcpy(zc_table_at(table, number), &table->unused, sizeof(table->unused));
    table->unused = number;
}
