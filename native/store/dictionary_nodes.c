/* SPDX-License-Identifier: Apache-2.0 */
/* The control tree's dictionaries. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "store/nodes.h"
#include "store/pool.h"

static int show_dictionary_size(void *dictionary, const struct zc_node *node, struct zc_text *out)
{
    (void)node;
    zc_show_u64(out, zc_dictionary_size(dictionary));
    return 0;
}

static int show_dictionary_hash(void *dictionary, const struct zc_node *node, struct zc_text *out)
{
    (void)node;
    zc_text_add(out, "%016" PRIx64, zc_dictionary_hash(dictionary));
    return 0;
}

static const struct zc_node dictionary_nodes[] = {
    {.name = "size",
     .type = ZC_NODE_BYTES,
     .unit = "bytes",
     .range = "",
     .deflt = "",
     .meaning = "of the dictionary",
     .show = show_dictionary_size},
    {.name = "hash",
     .type = ZC_NODE_TEXT,
     .unit = "",
     .range = "",
     .deflt = "",
     .meaning = "XXH3 of its bytes, 64 bits in hexadecimal",
     .show = show_dictionary_hash},
    {0},
};

static void close_dictionary(void *dictionary)
{
    zc_dictionary_unref(dictionary);
}

const struct zc_node zc_each_dictionary = {
    .name = "ID",
    .type = ZC_NODE_DIR,
    .unit = "",
    .range = "",
    .deflt = "",
    .meaning = "one dictionary",
    .children = dictionary_nodes,
    .close = close_dictionary,
};

static bool parse_id(const char *name, uint32_t *id)
{
    uint64_t number;
    const char *end;

    if (!zc_parse_number(name, &number, &end) || *end || number > UINT32_MAX)
        return false;
    *id = (uint32_t)number;
    return true;
}

void *zc_lookup_dictionary(void *object, const char *name)
{
    uint32_t id;

    return parse_id(name, &id) ? zc_dictionaries_find(object, id) : NULL;
}

struct emitter {
    int (*emit)(void *arg, const char *name);
    void *arg;
};

static int emit_id(void *arg, uint32_t id)
{
    const struct emitter *emitter = arg;
    char name[16];

    snprintf(name, sizeof(name), "%" PRIu32, id);
    return emitter->emit(emitter->arg, name);
}

int zc_list_dictionaries(void *object, int (*emit)(void *arg, const char *name), void *arg)
{
    struct emitter emitter = {emit, arg};

    return zc_dictionaries_list(object, emit_id, &emitter);
}

static int check_remove(void *object, const struct zc_node *node, const char *value,
                        struct zc_text *why)
{
    uint32_t id;

    (void)object;
    return parse_id(value, &id) ? 0 : zc_node_complain(why, -EINVAL, value, node, node->range);
}

static int store_remove(void *object, const struct zc_node *node, const char *value,
                        struct zc_text *why)
{
    uint32_t id;
    int error = parse_id(value, &id) ? zc_dictionary_remove(object, id) : -EINVAL;

    (void)node;
    if (error == -ENOENT)
        zc_text_add(why, "remove: there is no dictionary %s", value);
    if (error == -EBUSY)
        zc_text_add(why, "remove: dictionary %s is a pool's, or stored pages need it", value);
    return error;
}

const struct zc_node zc_dictionaries_nodes[] = {
    {.name = "remove",
     .type = ZC_NODE_ACTION,
     .unit = "",
     .range = "the number of a dictionary that no pool and no page uses",
     .deflt = "",
     .meaning = "write a number: forget that dictionary",
     .check = check_remove,
     .store = store_remove},
    {0},
};
