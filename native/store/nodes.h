/* SPDX-License-Identifier: Apache-2.0 */
/* What the tables of nodes share. */
#ifndef ZC_STORE_NODES_H
#define ZC_STORE_NODES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <zcache/store.h>

#include "base/node.h"

extern const struct zc_node zc_pools_nodes[], zc_each_pool;
extern const struct zc_node zc_dictionaries_nodes[], zc_each_dictionary;
extern const struct zc_node zc_allocators_nodes[];

int zc_list_pools(void *store, int (*emit)(void *arg, const char *name), void *arg);
void *zc_lookup_pool(void *store, const char *name);
int zc_list_dictionaries(void *store, int (*emit)(void *arg, const char *name), void *arg);
void *zc_lookup_dictionary(void *store, const char *name);

/* Whose view it is, of those that zc_lookup_pool() returns. */
zc_pool *zc_pool_of_view(void *view);

/* A backing store, as it is asked for. */
struct zc_backing_request {
    struct zc_pool_backing backing; /* path NULL: none */
    char path[1024];                /* as it is told, to be pointed to */
    char layout[16];
};
/* "path=PATH …" or "none". */
int zc_parse_backing(const char *value, struct zc_backing_request *request, struct zc_text *why);

/* Of pools/NAME/backing and pools/NAME/writeback. */
int zc_show_backing(void *view, const struct zc_node *node, struct zc_text *out);
int zc_check_backing(void *view, const struct zc_node *node, const char *value,
                     struct zc_text *why);
int zc_store_backing(void *view, const struct zc_node *node, const char *value,
                     struct zc_text *why);
int zc_check_writeback(void *view, const struct zc_node *node, const char *value,
                       struct zc_text *why);
int zc_store_writeback(void *view, const struct zc_node *node, const char *value,
                       struct zc_text *why);

/* A decimal number at the beginning of `value`; what follows is at *end. */
bool zc_parse_number(const char *value, uint64_t *out, const char **end);
/* "NODE: 'VALUE' is not a value; allowed: …". Returns `error`. */
int zc_node_complain(struct zc_text *why, int error, const char *value, const struct zc_node *node,
                     const char *allowed);
void zc_show_u64(struct zc_text *out, uint64_t value);

/* Shows the uint64_t at offset node->arg of a structure. */
int zc_show_field(void *view, const struct zc_node *node, struct zc_text *out);

/* A field of a structure under a name of its own, or under the field's. */
#define NAMED_COUNTER(name_, struct_, field_, type_, unit_, meaning_, show_) \
    {.name = name_,                                                          \
     .type = type_,                                                          \
     .unit = unit_,                                                          \
     .range = "",                                                            \
     .deflt = "",                                                            \
     .meaning = meaning_,                                                    \
     .arg = offsetof(struct struct_, field_),                                \
     .show = show_}
#define COUNTER(struct_, field_, type_, unit_, meaning_) \
    NAMED_COUNTER(#field_, struct_, field_, type_, unit_, meaning_, zc_show_field)

#endif
