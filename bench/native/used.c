/* SPDX-License-Identifier: Apache-2.0 */
/* used_bytes against the OS's count, with >= 64 MiB stored. */
#include <inttypes.h>
#include <stdio.h>

#include "bench.h"
#include "os_bytes.h"

#define USED_BYTES (UINT64_C(96) << 20)
#define STEP 1000u /* pages */

void used(const struct options *options)
{
    struct pages pages;
    struct zc_store_stats before, full, after;

    pages_load(&pages, options, PAGES_STORED);
    zc_store *store = open_store(pages.page_size);
    zc_pool *pool = open_pool(store, options);
    put_distinct(pool, &pages, 0, 1);
    zc_flush_object(pool, 0);
    uint64_t os_before = os_bytes();
    zc_store_get_stats(store, &before);
    uint64_t i = 0;
    do {
        put_distinct(pool, &pages, i, i + STEP);
        i += STEP;
        zc_store_get_stats(store, &full);
    } while (full.used_bytes < USED_BYTES);
    uint64_t os_full = os_bytes();
    for (uint64_t object = 0; object < 4; object++)
        zc_flush_object(pool, object);
    uint64_t os_after = os_bytes();
    zc_store_get_stats(store, &after);
    printf("{\"used_bytes\": %" PRIu64 ", \"os_bytes\": %" PRId64 ", \"left_used_bytes\": %" PRIu64
           ", \"left_os_bytes\": %" PRId64 "}\n",
           full.used_bytes - before.used_bytes, (int64_t)(os_full - os_before), after.used_bytes,
           (int64_t)(os_after - os_before));
    close_pool(pool);
    zc_store_destroy(store);
    pages_free(&pages);
}
