/* SPDX-License-Identifier: Apache-2.0 */
/* /proc/swaps: what the kernel swaps to, and how it is told to. */
#ifndef ZC_ZCACHED_SWAPS_H
#define ZC_ZCACHED_SWAPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct zc_swap_area {
    char path[128];
    uint64_t size, used; /* bytes */
    int priority;
};

#define ZC_SWAP_AREAS_MAX 32u
#define ZC_SWAP_PRIORITY_MAX 32767 /* the kernel's */

/* How many are in use, ZC_SWAP_AREAS_MAX at most. */
size_t zc_swaps_read(struct zc_swap_area areas[ZC_SWAP_AREAS_MAX]);
/* From the text of it. */
size_t zc_swaps_parse(const char *text, struct zc_swap_area areas[ZC_SWAP_AREAS_MAX]);
/* What is in use of a block device, itself or its partitions, wherever their nodes are: its path, sizes in sum, the
 * lowest priority. False: nothing is. */
bool zc_swaps_find(const char *device, struct zc_swap_area *area);

/* The first page of an area of `size` bytes, as mkswap writes it, into `page`, which is zeros or another one's. */
void zc_swap_header(char *page, size_t os_page, uint64_t size);
/* Pages that the kernel needs no more are discarded. priority < 0: one below all others. 0 or -errno. */
int zc_swap_on(const char *path, int priority);
/* What a device has in use, the last to be filled first, in a process of its own: that is whom the OOM killer takes if
 * memory has no room. Then what was off by then is on again. 0; -EINVAL: nothing is in use; or what the kernel says. */
int zc_swap_off(const char *device);

#endif
