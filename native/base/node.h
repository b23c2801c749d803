/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables of nodes: how a layer describes what it wants to show and to have set. The control tree
 * (control/) walks such tables and knows nothing else of the layers.
 *
 * A node is a value (show and/or store) or a directory (children, or `each` for children that come
 * and go). Tables are const; the object they speak of is handed along.
 */
#ifndef ZC_BASE_NODE_H
#define ZC_BASE_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A growing text; on lack of memory it remembers -ENOMEM and ignores what follows. */
struct zc_text {
    char *data; /* NUL-terminated once anything was added; owned, see zc_text_free() */
    size_t len, size;
    int error;
};

void zc_text_add(struct zc_text *text, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void zc_text_append(struct zc_text *text, const char *data, size_t len);
void zc_text_free(struct zc_text *text);

enum zc_node_type {
    ZC_NODE_DIR,
    ZC_NODE_UINT,
    ZC_NODE_BYTES, /* shown in bytes; a threshold also takes "7/8" and "87%" of a page */
    ZC_NODE_PERCENT,
    ZC_NODE_BOOL, /* 0 or 1 */
    ZC_NODE_TEXT,
    ZC_NODE_TABLE,  /* several lines; left out of dump */
    ZC_NODE_ACTION, /* write-only; stands alone in a set request */
};

struct zc_node {
    const char *name; /* NULL ends a table */
    enum zc_node_type type;
    const char *unit;    /* "bytes", "pages", "frames", "ms", "" … */
    const char *range;   /* for people: "0..page_size"; "" for read-only nodes */
    const char *deflt;   /* for people; "" for read-only nodes */
    const char *meaning; /* one line */
    uintptr_t arg;       /* the table's own: an offset, an enum value … */

    /* Adds the value without a final newline. 0 or -errno. */
    int (*show)(void *object, const struct zc_node *node, struct zc_text *out);
    /* Validates only; what is wrong goes into `why`, naming the value and what is allowed. */
    int (*check)(void *object, const struct zc_node *node, const char *value, struct zc_text *why);
    /* Sets; called only after check succeeded in the same request. */
    int (*store)(void *object, const struct zc_node *node, const char *value, struct zc_text *why);

    const struct zc_node *children; /* static children of a directory */

    /* A directory may show its children a view instead of the object, e.g. a snapshot of counters
     * that agree. NULL from open: out of memory. */
    void *(*open)(void *object);
    void (*close)(void *view);

    /* Children that come and go: `each` is the template of one of them. list emits their names in
     * order; lookup returns the child's object (a reference or view) or NULL, ended by each->close. */
    const struct zc_node *each;
    int (*list)(void *object, int (*emit)(void *arg, const char *name), void *arg);
    void *(*lookup)(void *object, const char *name);
};

#endif
