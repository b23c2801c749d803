/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control tree: small text nodes that the layers describe in tables (base/node.h), and the
 * requests on it, one line each:
 *
 *   get PATH    set PATH VALUE [PATH VALUE…]    list [PATH]    dump [PATH]    describe [PATH]
 *
 * A value with spaces stands in double quotes (\" and \\ inside); an action's value may also just be
 * the rest of the line. docs/protocol.md explains the wire. Works on buffers; knows no sockets.
 */
#ifndef ZC_CONTROL_CONTROL_H
#define ZC_CONTROL_CONTROL_H

#include <stddef.h>

#include "base/node.h"

struct zc_control;

/* A table whose nodes stand at the root, and the object that they speak of. */
struct zc_mount {
    const struct zc_node *nodes;
    void *object;
};

/* The mounts are copied; what they point to must outlive the tree. 0 or -ENOMEM. */
int zc_control_create(const struct zc_mount *mounts, size_t count, struct zc_control **out);
void zc_control_destroy(struct zc_control *control);

/*
 * Carries out one request, `len` bytes without the newline, and adds the whole answer:
 * "OK <bytes>\n<payload>" or "ERR <NAME> <message>\n". Thread-safe. 0 or -ENOMEM, in which case
 * `answer` is to be thrown away.
 */
int zc_control_handle(struct zc_control *control, const char *line, size_t len,
                      struct zc_text *answer);

/* Adds an ERR answer; the message is made one printable line. */
void zc_control_error(struct zc_text *answer, int error, const char *message);

#endif
