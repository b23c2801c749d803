/* SPDX-License-Identifier: Apache-2.0 */
#include "control/tree.h"

#include <errno.h>
#include <string.h>

#include "base/base.h"

#define PATH_SIZE 512 /* bytes of a path as it is built; names are short */

static bool is_dir(const struct zc_node *node)
{
    return node->type == ZC_NODE_DIR;
}

static const struct zc_node *table_find(const struct zc_node *table, const char *name)
{
    for (; table && table->name; table++) {
        if (strcmp(table->name, name) == 0)
            return table;
    }
    return NULL;
}

static bool enter_view(struct zc_place *place, void *view, void (*close)(void *view))
{
    if (!view)
        return false;
    place->views[place->view_count].view = view;
    place->views[place->view_count].close = close;
    place->view_count++;
    place->object = view;
    return true;
}

void zc_place_leave(struct zc_place *place)
{
    while (place->view_count) {
        place->view_count--;
        place->views[place->view_count].close(place->views[place->view_count].view);
    }
}

/* From a directory, or the root, to its child. */
static int step(const struct zc_control *control, struct zc_place *place, const char *name)
{
    const struct zc_node *dir = place->node, *child = NULL;

    if (place->view_count == ZC_DEPTH_MAX)
        return -ENOENT;
    if (dir && !is_dir(dir))
        return -ENOENT;
    if (dir)
        child = table_find(dir->children, name);
    for (size_t i = 0; !dir && !child && i < control->mount_count; i++) {
        child = table_find(control->mounts[i].nodes, name);
        place->object = control->mounts[i].object;
    }
    if (child) {
        place->node = child;
        if (child->open && !enter_view(place, child->open(place->object), child->close))
            return -ENOMEM;
        return 0;
    }
    if (!dir || !dir->each ||
        !enter_view(place, dir->lookup(place->object, name), dir->each->close))
        return -ENOENT;
    place->node = dir->each;
    return 0;
}

/* Follows the path; on failure the views opened so far are left to the caller. */
static int follow(const struct zc_control *control, const char *at, struct zc_place *place)
{
    char name[PATH_SIZE];

    at += *at == '/';
    while (*at) {
        size_t len = strcspn(at, "/");
        if (len == 0 || len >= sizeof(name))
            return -ENOENT;
        memcpy(name, at, len);
        name[len] = '\0';

        int error = step(control, place, name);
        if (error)
            return error;
        at += len;
        if (*at == '/' && !at[1])
            return is_dir(place->node) ? 0 : -ENOENT; /* "pools/" is "pools" */
        at += *at == '/';
    }
    return 0;
}

int zc_place_find(const struct zc_control *control, const char *path, struct zc_place *place,
                  struct zc_text *why)
{
    *place = (struct zc_place){0};
    int error = follow(control, path, place);
    if (!error)
        return 0;

    zc_place_leave(place);
    if (error == -ENOMEM)
        zc_text_add(why, "out of memory");
    else
        zc_text_add(why, "no such path: %.200s", path);
    return error;
}

/* ---- list ---- */

static void list_table(const struct zc_node *table, struct zc_text *out)
{
    for (; table && table->name; table++)
        zc_text_add(out, "%s%s\n", table->name, is_dir(table) ? "/" : "");
}

static int emit_name(void *arg, const char *name)
{
    zc_text_add(arg, "%s/\n", name);
    return 0;
}

int zc_tree_list(const struct zc_control *control, const struct zc_place *place,
                 struct zc_text *out)
{
    const struct zc_node *dir = place->node;

    for (size_t i = 0; !dir && i < control->mount_count; i++)
        list_table(control->mounts[i].nodes, out);
    if (!dir)
        return 0;
    if (!is_dir(dir))
        return -ENOTDIR;
    list_table(dir->children, out);
    return dir->each ? dir->list(place->object, emit_name, out) : 0;
}

/* ---- dump ---- */

static int dump_table(const struct zc_node *table, void *object, const char *path,
                      struct zc_text *out);

struct dump {
    const struct zc_node *dir;
    void *object;
    const char *path;
    struct zc_text *out;
};

static int dump_child(void *arg, const char *name)
{
    const struct dump *dump = arg;
    char path[PATH_SIZE];
    void *view = dump->dir->lookup(dump->object, name);
    if (!view)
        return 0; /* gone since it was listed */

    snprintf(path, sizeof(path), "%s%s/", dump->path, name);
    int error = dump_table(dump->dir->each->children, view, path, dump->out);
    dump->dir->each->close(view);
    return error;
}

static int dump_dir(const struct zc_node *dir, void *object, const char *path, struct zc_text *out)
{
    struct dump dump = {dir, object, path, out};
    int error = dump_table(dir->children, object, path, out);

    return !error && dir->each ? dir->list(object, dump_child, &dump) : error;
}

static int dump_node(const struct zc_node *node, void *object, const char *prefix,
                     struct zc_text *out)
{
    char path[PATH_SIZE];

    if (is_dir(node)) {
        void *view = node->open ? node->open(object) : object;
        if (!view)
            return -ENOMEM;
        snprintf(path, sizeof(path), "%s%s/", prefix, node->name);
        int error = dump_dir(node, view, path, out);
        if (node->open)
            node->close(view);
        return error;
    }
    if (!node->show || node->type == ZC_NODE_TABLE)
        return 0;
    zc_text_add(out, "%s%s=", prefix, node->name);
    int error = node->show(object, node, out);
    zc_text_add(out, "\n");
    return error;
}

static int dump_table(const struct zc_node *table, void *object, const char *path,
                      struct zc_text *out)
{
    int error = 0;

    for (; !error && table && table->name; table++)
        error = dump_node(table, object, path, out);
    return error;
}

/* Of a path "a/b": what stands before its last name, and for a directory "a/b/". */
static void prefix_of(char prefix[PATH_SIZE], const char *path, bool of_dir)
{
    path += *path == '/';
    size_t len = strlen(path);
    if (len && path[len - 1] == '/')
        len--;
    while (!of_dir && len && path[len - 1] != '/')
        len--;
    snprintf(prefix, PATH_SIZE, "%.*s%s", (int)len, path, of_dir && len ? "/" : "");
}

int zc_tree_dump(const struct zc_control *control, const struct zc_place *place, const char *path,
                 struct zc_text *out)
{
    const struct zc_node *node = place->node;
    char prefix[PATH_SIZE];
    int error = 0;

    prefix_of(prefix, path, !node || is_dir(node));
    for (size_t i = 0; !node && !error && i < control->mount_count; i++)
        error = dump_table(control->mounts[i].nodes, control->mounts[i].object, prefix, out);
    if (!node)
        return error;
    /* The way here opened the directory's view already. */
    return is_dir(node) ? dump_dir(node, place->object, prefix, out)
                        : dump_node(node, place->object, prefix, out);
}

/* ---- describe ---- */

static const char *type_name(enum zc_node_type type)
{
    static const char *const names[] = {
        [ZC_NODE_DIR] = "dir",         [ZC_NODE_UINT] = "uint",     [ZC_NODE_BYTES] = "bytes",
        [ZC_NODE_PERCENT] = "percent", [ZC_NODE_BOOL] = "bool",     [ZC_NODE_TEXT] = "text",
        [ZC_NODE_TABLE] = "table",     [ZC_NODE_ACTION] = "action",
    };

    return names[type];
}

static void describe_node(const struct zc_node *node, const char *path, struct zc_text *out)
{
    const char *access = node->show && node->store ? "rw" : node->store ? "w" : "r";

    zc_text_add(out, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", path, type_name(node->type), access,
                node->unit, node->range, node->deflt, node->meaning);
}

static void describe_table(const struct zc_node *table, const char *prefix, struct zc_text *out)
{
    char path[PATH_SIZE];

    for (; table && table->name; table++) {
        snprintf(path, sizeof(path), "%s%s", prefix, table->name);
        if (!is_dir(table)) {
            describe_node(table, path, out);
            continue;
        }
        snprintf(path, sizeof(path), "%s%s/", prefix, table->name);
        describe_table(table->children, path, out);
        if (table->each) {
            snprintf(path, sizeof(path), "%s%s/%s/", prefix, table->name, table->each->name);
            describe_table(table->each->children, path, out);
        }
    }
}

void zc_tree_describe(const struct zc_control *control, const struct zc_place *place,
                      const char *path, struct zc_text *out)
{
    const struct zc_node *node = place->node;
    char prefix[PATH_SIZE], below[PATH_SIZE];

    prefix_of(prefix, path, !node || is_dir(node));
    for (size_t i = 0; !node && i < control->mount_count; i++)
        describe_table(control->mounts[i].nodes, prefix, out);
    if (!node)
        return;
    if (!is_dir(node)) {
        snprintf(below, sizeof(below), "%.255s%.255s", prefix, node->name);
        describe_node(node, below, out);
        return;
    }
    describe_table(node->children, prefix, out);
    if (node->each) {
        snprintf(below, sizeof(below), "%.255s%.255s/", prefix, node->each->name);
        describe_table(node->each->children, below, out);
    }
}
