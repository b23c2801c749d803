/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/block/device_nodes.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "zcached/shortage.h"

int zc_check_rights(const char *who, struct zc_text *why)
{
    if (geteuid() != 0) {
        zc_text_add(why, "%s needs root, and zcached runs as uid %d", who, (int)geteuid());
        return -EPERM;
    }
    if (zc_dies_with_adbd()) {
        zc_text_add(why, "zcached is in adbd's cgroup and would die with it; start it out of that");
        return -EPERM;
    }
    return 0;
}

static bool has_pages(zc_pool *pool)
{
    struct zc_pool_stats stats;

    zc_pool_get_stats(pool, &stats);
    return stats.zpages || stats.same_filled || stats.raw_pages || stats.cold_pages ||
           stats.written_pages;
}

int zc_find_empty_pool(zc_store *store, const char *name, enum zc_pool_kind kind, const char *who,
                       zc_pool **out, struct zc_text *why)
{
    bool is_ephemeral = kind == ZC_EPHEMERAL;
    int error = zc_pool_find(store, name, out);

    if (error) {
        zc_text_add(why, "there is no pool '%s'", name);
        return error;
    }
    if (zc_pool_get_kind(*out) != kind)
        error = -EINVAL;
    else if (has_pages(*out))
        error = -EEXIST;
    if (!error)
        return 0;
    const char *other = is_ephemeral ? "is persistent" : "is ephemeral";
    zc_text_add(why, "pool '%s' %s; %s needs %s one without pages", name,
                error == -EINVAL ? other : "has pages", who,
                is_ephemeral ? "an ephemeral" : "a persistent");
    zc_pool_release(*out);
    return error;
}

int zc_check_off(void *object, const struct zc_node *node, const char *value, struct zc_text *why)
{
    (void)object;
    if (strcmp(value, "1") == 0)
        return 0;
    zc_text_add(why, "%s: '%s' is not 1", node->name, value);
    return -EINVAL;
}
