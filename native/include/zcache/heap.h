/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A compressed heap: memory of this process whose cold pages are kept in a pool. It is used like any
 * other memory; a page that was put away comes back when it is touched. That takes userfaultfd for faults of
 * user mode (Linux 5.11: no root, no sysctl) and MREMAP_DONTUNMAP (5.7) or UFFDIO_MOVE (6.8).
 *
 * Sizes are bytes, and pages are the OS's. A range that is handed in means every page that it touches.
 * Every function may be called from any thread, but none from a signal handler except zc_heap_fault().
 * Unless said otherwise it returns 0 or a negative errno value, and has changed nothing then.
 *
 * What differs from other memory:
 *
 * - System calls. Given memory which was put away, or never touched, they fail with EFAULT, or do less than they were
 *   asked: zc_heap_pin() it first. What is pinned stays in memory until it is unpinned as often, by
 *   whichever thread; pins are not a thread's, and outlive it.
 * - Children. A child of fork() has neither this memory nor the heap's threads: touching it is SIGSEGV.
 *   It may call zc_heap_destroy() and nothing else of a heap; of the store, nothing.
 * - Unmapping. By zc_heap_unmap() alone: munmap(), mremap() and MAP_FIXED would leave its pages in the pool,
 *   or put others there. MADV_DONTNEED is fine, and gives zeros; MADV_FREE, mlock() and huge pages
 *   are not for it.
 * - Signals. A handler may touch this memory, but not while it interrupts a call that the program itself
 *   makes of the pool or its store: block signals around these. With faults by SIGBUS, a thread that
 *   blocks SIGBUS and touches what was put away ends the process.
 * - Threads may end at any time, and must not be cancelled asynchronously.
 * - A debugger, /proc/PID/mem and process_vm_readv() see what is in memory, and fail for the rest.
 */
#ifndef ZCACHE_HEAP_H
#define ZCACHE_HEAP_H

#include <zcache/store.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct zc_heap zc_heap;

/* Who brings a page back that is touched. */
enum zc_heap_faults {
    /* A thread of the heap's, while the one that touched it waits. */
    ZC_HEAP_BY_THREAD,
    /* That thread itself, in a handler of SIGBUS, which no other thread has to wake up for. The library has one for the
     * process, from the first such heap to the last; what is no heap's it hands on to the handler
     * that was there before, as if it were not there. Whoever installs one later hands on, too. */
    ZC_HEAP_BY_SIGBUS,
    /* The same, but the handler is the program's, and calls zc_heap_fault(). */
    ZC_HEAP_BY_CALLER,
};

/* What the kernel offers is not to be used, as if it were an older one. */
#define ZC_HEAP_WITHOUT_MOVE 1u   /* UFFDIO_MOVE, Linux 6.8 */
#define ZC_HEAP_WITHOUT_POISON 2u /* UFFDIO_POISON, Linux 6.6: a lost page is SIGSEGV then */

struct zc_heap_config {
    uint64_t budget; /* bytes in memory, uncompressed; what is more is put away. 0: no bound */
    enum zc_heap_faults faults;
    unsigned without; /* ZC_HEAP_WITHOUT_… */
    /* Pages that a fault brings back at most, up to 8, when pages of a region are touched in order: one
     * first, then twice as many each time. 0: 8; 1: none but the one that is touched. */
    unsigned ahead;
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
    uint64_t
        faults_delegated; /* of these: left by a signal handler to a thread of the heap's, because
                             memory had to be taken, or a backing store to be read */
    uint64_t read_ahead;  /* pages of the pool that came with one that was touched */
    uint64_t evicted;     /* pages put away */
    uint64_t refused;     /* pages that the pool did not take, which stay in memory */
    uint64_t lost;        /* pages that the pool could not give back */
};

/*
 * *config may be NULL for all defaults. The pool is this heap's alone, and has to outlive it. `why` (NULL: not wanted),
 * of `size` bytes, gets what was wrong and the way out, on one line.
 *
 * -ENOSYS, -EPERM: this kernel has no userfaultfd as it is needed, or somebody does not allow it; zc_put() and
 * zc_get() of blocks work all the same. -EINVAL: an ephemeral pool, pages of another size than the OS's, or no such
 * enum zc_heap_faults; -EBUSY: 64 heaps share SIGBUS already; -ENOMEM.
 */
ZC_API int zc_heap_create(zc_pool *pool, const struct zc_heap_config *config, zc_heap **out,
                          char *why, size_t size);
/* Unmaps all its memory. No other call may be running or come after. NULL: nothing. */
ZC_API void zc_heap_destroy(zc_heap *heap);

/* New memory, all zeros, of `size` bytes, rounded up to whole pages. It is the heap's; *out is where.
 * -EINVAL: no byte, or 2^32 pages; -ENOMEM. */
ZC_API int zc_heap_map(zc_heap *heap, size_t size, void **out);
/* `at` is what zc_heap_map() gave; nobody uses the memory any more, and it need not be unpinned.
 * -ENOENT: it gave no such. */
ZC_API int zc_heap_unmap(zc_heap *heap, void *at);

/* Brings the pages of a range into memory, and keeps them there until unpinned as often. -EFAULT: not
 * all of the range is this heap's; -EIO: a page is lost; -ENOMEM; -EOVERFLOW: pinned 65535 times. None is
 * pinned then. */
ZC_API int zc_heap_pin(zc_heap *heap, const void *at, size_t size);
/* -EFAULT as zc_heap_pin(). A page that is not pinned is left alone. */
ZC_API int zc_heap_unpin(zc_heap *heap, const void *at, size_t size);

/* Puts the pages of a range away, pinned ones left out. Returns how many, with those of elsewhere that waited
 * to be put away, or -EFAULT. */
ZC_API int64_t zc_heap_evict(zc_heap *heap, const void *at, size_t size);
/* Brings the pages of a range back that are in the pool. Returns how many, or -EFAULT, -EIO, -ENOMEM. */
ZC_API int64_t zc_heap_prefetch(zc_heap *heap, const void *at, size_t size);

/* Bytes; 0: no bound. What is over it is put away in the background; who brings in more meanwhile is slowed
 * down. What is pinned, and what the pool refuses, stays. */
ZC_API void zc_heap_set_budget(zc_heap *heap, uint64_t bytes);
/* Puts away what was not touched since the last two calls, or nearly so. Returns the number of pages. */
ZC_API int64_t zc_heap_age(zc_heap *heap);

ZC_API void zc_heap_get_stats(zc_heap *heap, struct zc_heap_stats *out);

/*
 * Of ZC_HEAP_BY_CALLER, for a handler of SIGBUS, with its siginfo_t's si_addr: 0: return from the handler, the access is
 * tried again; -ENOENT: the address is not this heap's, hand it on; -EIO: the page is lost, likewise. The
 * handler is installed with SA_SIGINFO and a sa_mask of all signals. Leaves errno alone.
 *
 * It takes no memory, reads no file, and takes no lock that a thread may hold while it touches memory of the
 * heap, but those of a program that gives such memory to a function of zcache's: pin that.
 */
ZC_API int zc_heap_fault(zc_heap *heap, const void *address);

#ifdef __cplusplus
}
#endif
#endif
