/* SPDX-License-Identifier: Apache-2.0 */
#include "alloc/alloc.h"

#include <string.h>

static const struct zc_alloc_ops *const allocators[] = {&zc_zbud_ops, &zc_zsmalloc_ops};

const struct zc_alloc_ops *zc_alloc_find(const char *name)
{
    for (size_t i = 0; i < sizeof(allocators) / sizeof(allocators[0]); i++) {
        if (strcmp(allocators[i]->name, name) == 0)
            return allocators[i];
    }
    return NULL;
}
