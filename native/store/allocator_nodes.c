/* SPDX-License-Identifier: Apache-2.0 */
/* The control tree's allocators. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "store/nodes.h"
#include "store/pool.h"
#include "store/store.h"

#define CLASSES_MAX 256u

int zc_zsmalloc_get_classes(zc_store *store, struct zc_zsmalloc_class *out, size_t max)
{
    struct zc_class_stats *classes = calloc(CLASSES_MAX, sizeof(*classes));
    void *alloc;
    int error = classes ? zc_zsmalloc_ops.create(store->frames, store->page_size, &alloc) : -ENOMEM;
    size_t count = 0;

    if (!error) {
        count = zc_zsmalloc_ops.class_stats(alloc, classes, CLASSES_MAX);
        zc_zsmalloc_ops.destroy(alloc);
    }
    for (size_t i = 0; i < count && i < max; i++)
        out[i] = (struct zc_zsmalloc_class){classes[i].size, classes[i].frames_per_zspage,
                                            classes[i].slots_per_zspage};
    free(classes);
    return error ? error : (int)count;
}

/* Adds up the classes of all pools that use the allocator. Returns how many classes it has. */
static size_t sum_classes(zc_store *store, const struct zc_alloc_ops *ops,
                          struct zc_class_stats *classes)
{
    size_t count = 0;

    pthread_mutex_lock(&store->pools_lock);
    for (struct zc_link *at = store->pools.next; at != &store->pools; at = at->next) {
        zc_pool *pool = ZC_CONTAINER(at, zc_pool, link);
        for (unsigned i = 0; i < ZC_TIERS; i++) {
            struct zc_tier tier = zc_tier(pool, i);
            if (tier.alloc && tier.ops == ops)
                count = ops->class_stats(tier.alloc, classes, CLASSES_MAX);
        }
    }
    pthread_mutex_unlock(&store->pools_lock);
    return count;
}

static void show_class(const struct zc_class_stats *class, size_t number, struct zc_text *out)
{
    zc_text_add(out, "\n%5zu %6" PRIu32, number, class->size);
    for (size_t i = 0; i < ZC_FULLNESS; i++)
        zc_text_add(out, " %6zu", class->fullness[i]);
    zc_text_add(out, " %13zu %8zu %10zu %16" PRIu32 " %8zu", class->slots, class->zpages,
                class->frames, class->frames_per_zspage, class->freeable);
}

/* The columns are those of the kernel's zsmalloc, Documentation/mm/zsmalloc.rst; fullness is in
 * eighths. Classes without a zspage are left out. */
static int show_classes(void *object, const struct zc_node *node, struct zc_text *out)
{
    struct zc_class_stats *classes = calloc(CLASSES_MAX, sizeof(*classes)), total = {0};
    if (!classes)
        return -ENOMEM;

    (void)node;
    size_t count = sum_classes(object, &zc_zsmalloc_ops, classes);
    zc_text_add(out, "class   size    1/8    2/8    3/8    4/8    5/8    6/8    7/8    8/8   full"
                     " obj_allocated obj_used pages_used pages_per_zspage freeable");
    for (size_t i = 0; i < count; i++) {
        if (classes[i].zspages)
            show_class(&classes[i], i, out);
        for (size_t f = 0; f < ZC_FULLNESS; f++)
            total.fullness[f] += classes[i].fullness[f];
        total.slots += classes[i].slots;
        total.zpages += classes[i].zpages;
        total.frames += classes[i].frames;
        total.freeable += classes[i].freeable;
    }
    zc_text_add(out, "\ntotal       ");
    for (size_t f = 0; f < ZC_FULLNESS; f++)
        zc_text_add(out, " %6zu", total.fullness[f]);
    zc_text_add(out, " %13zu %8zu %10zu %16s %8zu", total.slots, total.zpages, total.frames, "",
                total.freeable);
    free(classes);
    return 0;
}

static const struct zc_node zsmalloc_nodes[] = {
    {.name = "classes",
     .type = ZC_NODE_TABLE,
     .unit = "bytes, zspages, zpages, frames",
     .range = "",
     .deflt = "",
     .meaning = "size classes in use: slot size, zspages by how full they are, slots, frames",
     .show = show_classes},
    {0},
};

const struct zc_node zc_allocators_nodes[] = {
    {.name = "zsmalloc",
     .type = ZC_NODE_DIR,
     .unit = "",
     .range = "",
     .deflt = "",
     .meaning = "size classes",
     .children = zsmalloc_nodes},
    {0},
};
