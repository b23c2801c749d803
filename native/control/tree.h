/* SPDX-License-Identifier: Apache-2.0 */
/* Ways through the tree. */
#ifndef ZC_CONTROL_TREE_H
#define ZC_CONTROL_TREE_H

#include "control/control.h"

#define ZC_DEPTH_MAX 8 /* parts of a path */

struct zc_control {
    size_t mount_count;
    struct zc_mount mounts[];
};

/* A node that a path leads to, with the views opened on the way; zc_place_leave() ends them. */
struct zc_place {
    const struct zc_node *node; /* NULL: the root */
    void *object;
    size_t view_count;
    struct {
        void (*close)(void *view);
        void *view;
    } views[ZC_DEPTH_MAX];
};

/* Follows `path` (parts between single slashes; "" and "/" are the root). On failure says why and
 * holds nothing. */
int zc_place_find(const struct zc_control *control, const char *path, struct zc_place *place,
                  struct zc_text *why);
void zc_place_leave(struct zc_place *place);

/* Adds the names below a directory, a value a line, or a description a line. */
int zc_tree_list(const struct zc_control *control, const struct zc_place *place,
                 struct zc_text *out);
int zc_tree_dump(const struct zc_control *control, const struct zc_place *place, const char *path,
                 struct zc_text *out);
void zc_tree_describe(const struct zc_control *control, const struct zc_place *place,
                      const char *path, struct zc_text *out);

#endif
