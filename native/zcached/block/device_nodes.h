/* SPDX-License-Identifier: Apache-2.0 */
/* What the swap device and the block cache share: what each asks before it is on, and its table of nodes. */
#ifndef ZC_ZCACHED_DEVICE_NODES_H
#define ZC_ZCACHED_DEVICE_NODES_H

#include <zcache/store.h>

#include "base/node.h"

/* May this daemon show the kernel a device for `who`, such as "swap"? 0 or -EPERM. */
int zc_check_rights(const char *who, struct zc_text *why);
/* A pool of that kind without pages, for `who`. 0; -ENOENT, -EINVAL, -EEXIST: it has some. */
int zc_find_empty_pool(zc_store *store, const char *name, enum zc_pool_kind kind, const char *who,
                       zc_pool **out, struct zc_text *why);
/* Of `off`, which takes 1. */
int zc_check_off(void *object, const struct zc_node *node, const char *value, struct zc_text *why);

#define SHOWN(name_, type_, unit_, arg_, show_, meaning_) \
    {.name = name_,                                       \
     .type = type_,                                       \
     .unit = unit_,                                       \
     .range = "",                                         \
     .deflt = "",                                         \
     .meaning = meaning_,                                 \
     .arg = arg_,                                         \
     .show = show_}
/* By show_text() and show_number() of the file. */
#define TEXT(name, arg, meaning) SHOWN(name, ZC_NODE_TEXT, "", arg, show_text, meaning)
#define NUMBER(name, type, unit, arg, meaning) SHOWN(name, type, unit, arg, show_number, meaning)
#define ACTION(name_, range_, check_, store_, meaning_) \
    {.name = name_,                                     \
     .type = ZC_NODE_ACTION,                            \
     .unit = "",                                        \
     .range = range_,                                   \
     .deflt = "",                                       \
     .meaning = meaning_,                               \
     .check = check_,                                   \
     .store = store_}

#endif
