/* SPDX-License-Identifier: Apache-2.0 */
/* userfaultfd (Documentation/admin-guide/mm/userfaultfd.rst), as far as a heap uses it. Functions leave errno alone, and return 0 or
 * -errno where nothing else is said. */
#ifndef ZC_HEAP_UFFD_H
#define ZC_HEAP_UFFD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <zcache/heap.h>

struct zc_uffd {
    int fd;
    bool can_move;   /* pages within the process, Linux 6.8 */
    bool can_poison; /* pages that are lost, Linux 6.6 */
};

/* `without`: ZC_HEAP_WITHOUT_… . */
int zc_uffd_open(struct zc_uffd *uffd, bool sigbus, unsigned without);
void zc_uffd_close(struct zc_uffd *uffd);

/* Faults of pages that are not there are told from now on. */
int zc_uffd_watch(const struct zc_uffd *uffd, void *at, size_t size);

/* Gives a page to a place that has none, and lets its threads go on. -EEXIST: it has one. */
int zc_uffd_copy(const struct zc_uffd *uffd, void *at, const void *from, size_t page_size);
/* The same for several pages. Returns the bytes that it got through, or -errno if there are none. */
int64_t zc_uffd_copy_run(const struct zc_uffd *uffd, void *at, const void *from, size_t size);
int zc_uffd_poison(const struct zc_uffd *uffd, void *at, size_t page_size);
/* Lets threads go on that wait for a page. */
void zc_uffd_wake(const struct zc_uffd *uffd, void *at, size_t page_size);

/* Moves the pages of a range, with holes where there is none, to one that has none and is watched. Returns
 * the bytes that it got through: a page that somebody else has, too, stays. */
size_t zc_uffd_move(const struct zc_uffd *uffd, void *to, void *from, size_t size);

/* The address of the next fault; false: there is none now. */
bool zc_uffd_next(const struct zc_uffd *uffd, uintptr_t *address);

#endif
