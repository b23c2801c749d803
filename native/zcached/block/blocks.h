/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a transport shows to the kernel as a block device: the contract of what lies behind one, such as a disk
 * over a pool (disk.h).
 */
#ifndef ZC_ZCACHED_BLOCKS_H
#define ZC_ZCACHED_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Each is called by several threads at once and gets the `object`; `at` and `size` are in bytes, multiples of
 * block_size that lie within the device. 0 or -errno, whatever part was done.
 */
struct zc_blocks_ops {
    int (*read)(void *object, uint64_t at, void *bytes, size_t size);
    int (*write)(void *object, uint64_t at, const void *bytes, size_t size);
    int (*discard)(void *object, uint64_t at, uint64_t size); /* NULL: there is no such request */
    int (*flush)(void *object); /* what was written is to last. NULL: it need not */
};

struct zc_blocks {
    const struct zc_blocks_ops *ops;
    void *object;
    uint64_t size;       /* bytes */
    uint32_t block_size; /* bytes, a power of two: 512 at least, a page of the OS at most */
    uint32_t best_size;  /* bytes, a power of two: what requests are best aligned to */
    uint32_t most_size;  /* bytes of a request at most */
    bool is_read_only;
    /* For swap: requests come when memory is short, and if this process is killed another takes the device over
     * (guard.h). Else the device goes away then. */
    bool is_guarded;
};

#endif
