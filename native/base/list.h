/* SPDX-License-Identifier: Apache-2.0 */
/* A doubly linked ring with a head, linked through a member of its items. */
#ifndef ZC_BASE_LIST_H
#define ZC_BASE_LIST_H

#include <stdbool.h>

struct zc_link {
    struct zc_link *next, *prev;
};

static inline void zc_list_init(struct zc_link *head)
{
    head->next = head->prev = head;
}

static inline bool zc_list_empty(const struct zc_link *head)
{
    return head->next == head;
}

static inline void zc_list_add(struct zc_link *head, struct zc_link *item)
{
    item->next = head->next;
    item->prev = head;
    head->next->prev = item;
    head->next = item;
}

static inline void zc_list_del(struct zc_link *item)
{
    item->prev->next = item->next;
    item->next->prev = item->prev;
}

#endif
