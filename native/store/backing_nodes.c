/* SPDX-License-Identifier: Apache-2.0 */
/* The control tree's nodes of a pool's backing store. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "store/nodes.h"
#include "store/pool.h"
#include "store/store.h"

static int take_text(const char *value, size_t len, char *out, size_t size)
{
    if (len == 0 || len >= size)
        return -EINVAL;
    memcpy(out, value, len);
    out[len] = '\0';
    return 0;
}

static int take_switch(const char *value, size_t len, int *out)
{
    *out = *value == '1';
    return len == 1 && (*value == '0' || *value == '1') ? 0 : -EINVAL;
}

static int take_size(const char *value, size_t len, uint64_t *out)
{
    char text[32];
    int error = take_text(value, len, text, sizeof(text));

    if (error || strchr(text, '%'))
        return -EINVAL;
    return zc_parse_size(text, 0, out);
}

static int take_reset(const char *value, size_t len, enum zc_backing_reset *out)
{
    static const char *const names[] = {"0", "1", "stale"}; /* as numbered */

    for (unsigned i = 0; i < 3; i++) {
        if (strlen(names[i]) == len && memcmp(value, names[i], len) == 0) {
            *out = (enum zc_backing_reset)i;
            return 0;
        }
    }
    return -EINVAL;
}

/* One KEY=VALUE. */
static int take_word(struct zc_backing_request *request, const char *word, size_t len)
{
    static const char *const keys[] = {"path=", "layout=", "size=", "reset=", "direct="};
    struct zc_pool_backing *backing = &request->backing;
    unsigned k = 0;

    while (k < 5 && strncmp(word, keys[k], strlen(keys[k])) != 0)
        k++;
    if (k == 5)
        return -EINVAL;
    const char *value = word + strlen(keys[k]);
    len -= strlen(keys[k]);
    switch (k) {
    case 0:
        backing->path = request->path;
        return take_text(value, len, request->path, sizeof(request->path));
    case 1:
        backing->layout = request->layout;
        return take_text(value, len, request->layout, sizeof(request->layout));
    case 2:
        return take_size(value, len, &backing->size);
    case 3:
        return take_reset(value, len, &backing->reset);
    default:
        return take_switch(value, len, &backing->must_be_direct);
    }
}

int zc_parse_backing(const char *value, struct zc_backing_request *request, struct zc_text *why)
{
    *request = (struct zc_backing_request){0};
    if (strcmp(value, "none") == 0)
        return 0;
    while (*(value += strspn(value, " "))) {
        size_t len = strcspn(value, " ");
        if (take_word(request, value, len) != 0) {
            zc_text_add(why,
                        "backing: '%.*s' is not path=PATH, layout=packed, layout=in_place, "
                        "size=SIZE, reset=1, reset=stale or direct=1",
                        (int)len, value);
            return -EINVAL;
        }
        value += len;
    }
    if (request->path[0] == '/')
        return 0;
    zc_text_add(why, "backing: '%s' is no path from / on, nor none", request->path);
    return -EINVAL;
}

int zc_show_backing(void *view, const struct zc_node *node, struct zc_text *out)
{
    (void)node;
    zc_writeback_show(zc_pool_of_view(view), out);
    return 0;
}

int zc_check_backing(void *view, const struct zc_node *node, const char *value, struct zc_text *why)
{
    struct zc_backing_request request;

    (void)view;
    (void)node;
    return zc_parse_backing(value, &request, why);
}

int zc_store_backing(void *view, const struct zc_node *node, const char *value, struct zc_text *why)
{
    zc_pool *pool = zc_pool_of_view(view);
    struct zc_backing_request request;
    int error = zc_parse_backing(value, &request, why);

    (void)node;
    if (error)
        return error;
    if (!request.backing.path)
        return zc_writeback_detach(pool, why);
    return zc_writeback_attach(pool, &request.backing, NULL, why);
}

static int parse_frames(const char *value, uint64_t *frames)
{
    const char *end;

    *frames = SIZE_MAX;
    if (strcmp(value, "all") == 0)
        return 0;
    if (!zc_parse_number(value, frames, &end) || *end)
        return -EINVAL;
    return *frames == 0 ? -ERANGE : 0;
}

int zc_check_writeback(void *view, const struct zc_node *node, const char *value,
                       struct zc_text *why)
{
    uint64_t frames;
    int error = parse_frames(value, &frames);

    (void)view;
    return error ? zc_node_complain(why, error, value, node, node->range) : 0;
}

int zc_store_writeback(void *view, const struct zc_node *node, const char *value,
                       struct zc_text *why)
{
    zc_pool *pool = zc_pool_of_view(view);
    struct zc_written_back done;
    uint64_t frames;
    char buf[16];
    int error = parse_frames(value, &frames);

    (void)node;
    if (!error)
        error = zc_pool_writeback(pool, (size_t)frames, &done);
    if (error == -ENXIO && !zc_writeback_is_open(pool))
        zc_text_add(why, "writeback: pool '%s' has no backing store; set pools/%s/backing first",
                    pool->name, pool->name);
    else if (error == -EDQUOT)
        zc_text_add(why, "writeback: pool '%s' has used up its writeback_budget; wait, or raise it",
                    pool->name);
    else if (error)
        zc_text_add(why,
                    "writeback: the backing store of pool '%s': %s; what could not be written "
                    "stays in memory",
                    pool->name, zc_errno_name(error, buf));
    return error;
}
