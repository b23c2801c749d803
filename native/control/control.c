/* SPDX-License-Identifier: Apache-2.0 */
#include "control/control.h"

#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "control/tree.h"

#define CHANGES_MAX 256u /* pairs in one set request */

int zc_control_create(const struct zc_mount *mounts, size_t count, struct zc_control **out)
{
    struct zc_control *control = malloc(sizeof(*control) + count * sizeof(*mounts));
    if (!control)
        return -ENOMEM;

    control->mount_count = count;
    memcpy(control->mounts, mounts, count * sizeof(*mounts));
    *out = control;
    return 0;
}

void zc_control_destroy(struct zc_control *control)
{
    free(control);
}

void zc_control_error(struct zc_text *answer, int error, const char *message)
{
    char buf[16];

    zc_text_add(answer, "ERR %s ", zc_errno_name(error, buf));
    for (; *message; message++) {
        char c = *message >= ' ' && *message <= '~' ? *message : '?';
        zc_text_append(answer, &c, 1);
    }
    zc_text_append(answer, "\n", 1);
}

/* ---- words ---- */

/* Takes the next word off `*at`, in place, ended by NUL. NULL at the end, or with *bad at an
 * unfinished quote. */
static char *next_word(char **at, bool *bad)
{
    char *from = *at + strspn(*at, " "), *to = from;

    if (!*from)
        return NULL;
    if (*from != '"') {
        char *end = from + strcspn(from, " ");
        *at = *end ? end + 1 : end;
        *end = '\0';
        return from;
    }

    char *word = to;
    for (from++; *from && *from != '"'; from++) {
        if (*from == '\\' && (from[1] == '"' || from[1] == '\\'))
            from++;
        *to++ = *from;
    }
    *bad = *from != '"' || (from[1] && from[1] != ' ');
    *at = *from ? from + 1 : from;
    *to = '\0';
    return *bad ? NULL : word;
}

/* The place of the one word that may follow get, list, dump, describe; to be left, unless there is an error. */
static int enter(struct zc_control *control, char *rest, bool optional, const char **path,
                 struct zc_place *place, struct zc_text *why)
{
    bool bad = false;

    *path = next_word(&rest, &bad);
    if (!bad && !*path && optional)
        *path = "";
    if (bad || !*path || next_word(&rest, &bad)) {
        zc_text_add(why, "one PATH is needed; a path has no spaces");
        return -EINVAL;
    }
    return zc_place_find(control, *path, place, why);
}

/* ---- reading ---- */

static int do_get(struct zc_control *control, char *rest, struct zc_text *out, struct zc_text *why)
{
    struct zc_place place;
    const char *path;

    int error = enter(control, rest, false, &path, &place, why);
    if (error)
        return error;

    if (!place.node || place.node->type == ZC_NODE_DIR) {
        zc_text_add(why, "%.200s is a directory; list shows what is in it", *path ? path : "/");
        error = -EISDIR;
    } else if (!place.node->show) {
        zc_text_add(why, "%.200s is write-only", path);
        error = -EACCES;
    } else {
        error = place.node->show(place.object, place.node, out);
        zc_text_add(out, "\n");
    }
    zc_place_leave(&place);
    return error;
}

static int do_list(struct zc_control *control, char *rest, struct zc_text *out, struct zc_text *why)
{
    struct zc_place place;
    const char *path;

    int error = enter(control, rest, true, &path, &place, why);
    if (error)
        return error;
    error = zc_tree_list(control, &place, out);
    if (error == -ENOTDIR)
        zc_text_add(why, "%.200s is no directory; get shows its value", path);
    zc_place_leave(&place);
    return error;
}

static int do_dump(struct zc_control *control, char *rest, struct zc_text *out, struct zc_text *why)
{
    struct zc_place place;
    const char *path;

    int error = enter(control, rest, true, &path, &place, why);
    if (error)
        return error;
    error = zc_tree_dump(control, &place, path, out);
    zc_place_leave(&place);
    return error;
}

static int do_describe(struct zc_control *control, char *rest, struct zc_text *out,
                       struct zc_text *why)
{
    struct zc_place place;
    const char *path;

    int error = enter(control, rest, true, &path, &place, why);
    if (error)
        return error;
    zc_tree_describe(control, &place, path, out);
    zc_place_leave(&place);
    return 0;
}

/* ---- set ---- */

struct change {
    struct zc_place place;
    const char *value;
    struct zc_text before; /* the value until now */
};

static int prepare(struct zc_control *control, char **rest, struct change *change,
                   struct zc_text *why)
{
    bool bad = false;
    const char *path = next_word(rest, &bad);

    *change = (struct change){0};
    if (bad || !path) {
        zc_text_add(why, "PATH VALUE pairs are needed");
        return -EINVAL;
    }
    int error = zc_place_find(control, path, &change->place, why);
    if (error)
        return error;

    const struct zc_node *node = change->place.node;
    if (!node || !node->store) {
        zc_text_add(why, "%.200s cannot be set", path);
        return -EACCES;
    }
    *rest += strspn(*rest, " ");
    if (node->type == ZC_NODE_ACTION && **rest && **rest != '"') {
        change->value = *rest;
        *rest += strlen(*rest);
    } else {
        change->value = next_word(rest, &bad);
    }
    if (bad || !change->value) {
        zc_text_add(why, "%.200s: a VALUE is needed%s", path, bad ? ", its quotes closed" : "");
        return -EINVAL;
    }
    return node->check(change->place.object, node, change->value, why);
}

/* Sets all; where one fails, those before it get their old values back. */
static int apply(struct change *changes, size_t count, struct zc_text *why)
{
    struct zc_text unused = {0};
    int error = 0;
    size_t done = 0;

    for (; !error && done < count; done++) {
        struct change *change = &changes[done];
        const struct zc_node *node = change->place.node;
        if (node->show)
            node->show(change->place.object, node, &change->before);
        error = node->store(change->place.object, node, change->value, why);
    }
    for (size_t i = done; error && i-- > 0;) {
        struct change *change = &changes[i];
        if (change->before.data && i + 1 < done)
            change->place.node->store(change->place.object, change->place.node, change->before.data,
                                      &unused);
    }
    zc_text_free(&unused);
    return error;
}

static int do_set(struct zc_control *control, char *rest, struct zc_text *out, struct zc_text *why)
{
    struct change *changes = NULL;
    size_t count = 0, actions = 0;
    int error;

    (void)out;
    do {
        struct change *more = realloc(changes, (count + 1) * sizeof(*changes));
        if (!more) {
            error = -ENOMEM;
            break;
        }
        changes = more;
        error = prepare(control, &rest, &changes[count++], why);
        if (!error)
            actions += changes[count - 1].place.node->type == ZC_NODE_ACTION;
        rest += strspn(rest, " ");
    } while (!error && *rest && count < CHANGES_MAX);

    if (!error && *rest) {
        zc_text_add(why, "at most %u pairs", CHANGES_MAX);
        error = -E2BIG;
    }
    if (!error && actions && count > 1) {
        zc_text_add(why, "an action stands alone in its request");
        error = -EINVAL;
    }
    if (!error)
        error = apply(changes, count, why);

    for (size_t i = 0; i < count; i++) {
        zc_place_leave(&changes[i].place);
        zc_text_free(&changes[i].before);
    }
    free(changes);
    return error;
}

/* ---- requests ---- */

static const struct {
    const char *name;
    int (*run)(struct zc_control *control, char *rest, struct zc_text *out, struct zc_text *why);
} requests[] = {
    {"get", do_get},   {"set", do_set},           {"list", do_list},
    {"dump", do_dump}, {"describe", do_describe},
};

/* The first byte that a request may not have; NULL: none. */
static const char *bad_byte(const char *line, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (line[i] < ' ' || line[i] > '~')
            return line + i;
    }
    return NULL;
}

static int run(struct zc_control *control, char *line, struct zc_text *out, struct zc_text *why)
{
    bool bad = false;
    const char *name = next_word(&line, &bad);

    for (size_t i = 0; name && i < sizeof(requests) / sizeof(requests[0]); i++) {
        if (strcmp(requests[i].name, name) == 0)
            return requests[i].run(control, line, out, why);
    }
    zc_text_add(why, "'%.60s' is no request; there are get, set, list, dump, describe",
                name ? name : "");
    return -EINVAL;
}

int zc_control_handle(struct zc_control *control, const char *line, size_t len,
                      struct zc_text *answer)
{
    struct zc_text out = {0}, why = {0};
    int error = -ENOMEM;

    if (len && line[len - 1] == '\r') /* as telnet and some consoles end lines */
        len--;
    const char *bad = bad_byte(line, len);
    char *copy = strndup(line, bad ? 0 : len);
    if (bad) {
        zc_text_add(&why, "byte 0x%02x at %zu: a request is printable ASCII", (unsigned char)*bad,
                    (size_t)(bad - line));
        error = -EINVAL;
    } else if (copy) {
        error = run(control, copy, &out, &why);
    }

    if (!error && !out.error) {
        zc_text_add(answer, "OK %zu\n", out.len);
        zc_text_append(answer, out.data, out.len);
    } else {
        char buf[16];
        error = error ? error : out.error;
        zc_control_error(answer, error, why.data ? why.data : zc_errno_name(error, buf));
    }
    free(copy);
    zc_text_free(&out);
    zc_text_free(&why);
    return answer->error;
}
