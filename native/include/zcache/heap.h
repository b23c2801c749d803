/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A compressed heap: memory of this process whose cold pages are kept in a pool. It is used like any
 * other memory; a page that was put away comes back when it is touched (userfaultfd, faults of user mode
 * only: no root is needed, and no sysctl).
 *
 * What differs from other memory:
 * - A system call that is given memory which was put away fails with EFAULT, or does less than it was
 *   asked: zc_heap_pin() it first.
 * - A child of fork() does not have it.
 * - It is unmapped by zc_heap_unmap() alone.
 *
 * Every function may be called from any thread. Unless said otherwise it returns 0 or a negative errno value.
 */
#ifndef ZCACHE_HEAP_H
#define ZCACHE_HEAP_H

#include <zcache/store.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct zc_heap zc_heap;

/* What the kernel offers is not to be used, as if it were an older one. */
#define ZC_HEAP_WITHOUT_MOVE 1u /* UFFDIO_MOVE, Linux 6.8 */

struct zc_heap_config {
    uint64_t budget; /* bytes in memory, uncompressed; what is more is put away. 0: no bound */
    int sigbus;      /* faults raise SIGBUS, and whoever handles that calls zc_heap_fault() */
    unsigned without;
};

struct zc_heap_stats {
    uint64_t mapped_bytes;
    uint64_t budget_bytes;
    uint64_t resident_pages; /* in memory as they are, waiting ones included */
    uint64_t waiting_pages;  /* of these: about to be put away, and back at once when touched */
    uint64_t stored_pages;   /* in the pool */
    uint64_t pinned_pages;
    uint64_t faults_new;     /* first touches */
    uint64_t faults_waiting; /* of pages about to be put away */
    uint64_t faults_stored;  /* of pages in the pool */
    uint64_t evicted;        /* pages put away */
    uint64_t refused;        /* pages that the pool did not take, which stay in memory */
    uint64_t lost;           /* pages that the pool could not give back */
};

/*
 * *config may be NULL for all defaults. Pages of the pool are this heap's alone; it has to outlive the
 * heap. `why` (NULL: not wanted), of `size` bytes, gets what was wrong.
 *
 * -ENOSYS, -EPERM: this system, or its policy, allows no userfaultfd; zc_put() and zc_get() work all the
 * same. -EINVAL: an ephemeral pool, or pages of another size than the OS's; -ENOMEM.
 */
ZC_API int zc_heap_create(zc_pool *pool, const struct zc_heap_config *config, zc_heap **out,
                          char *why, size_t size);
/* Unmaps all its memory. No other call may be running or come after. */
ZC_API void zc_heap_destroy(zc_heap *heap);

/* New memory, all zeros, of `size` bytes, rounded up to whole pages. */
ZC_API int zc_heap_map(zc_heap *heap, size_t size, void **out);
/* `at` is what zc_heap_map() gave; nobody uses the memory any more. -ENOENT: it gave no such. */
ZC_API int zc_heap_unmap(zc_heap *heap, void *at);

/* Brings the pages of a range into memory, and keeps them there until unpinned as often. -EFAULT: not
 * all of the range is this heap's; -EIO: a page could not be given back, and none is pinned. */
ZC_API int zc_heap_pin(zc_heap *heap, const void *at, size_t size);
ZC_API int zc_heap_unpin(zc_heap *heap, const void *at, size_t size);

/* Puts the pages of a range away. Returns how many, or -EFAULT. */
ZC_API int64_t zc_heap_evict(zc_heap *heap, const void *at, size_t size);
/* Brings the pages of a range back that are in the pool. Returns how many, -EFAULT or -EIO. */
ZC_API int64_t zc_heap_prefetch(zc_heap *heap, const void *at, size_t size);

/* Bytes; 0: no bound. */
ZC_API void zc_heap_set_budget(zc_heap *heap, uint64_t bytes);
/* Puts away what was not touched since the last two calls. Returns the number of pages. */
ZC_API int64_t zc_heap_age(zc_heap *heap);

ZC_API void zc_heap_get_stats(zc_heap *heap, struct zc_heap_stats *out);

/*
 * For a handler of SIGBUS, with its siginfo_t's si_addr: 0: the access may be tried again; -ENOENT: the address is
 * not this heap's; -EIO: the page is lost. It takes no lock that a thread may hold while it touches
 * memory of the heap, but those of a caller that gives such memory to a function of zcache's: pin that.
 */
ZC_API int zc_heap_fault(zc_heap *heap, const void *address);

#ifdef __cplusplus
}
#endif
#endif
