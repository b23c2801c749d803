/* SPDX-License-Identifier: Apache-2.0 */
/* Real pages to measure on, in memory. Same-filled ones are counted and left out: no codec sees them. */
#ifndef ZC_ZCACHED_SAMPLES_H
#define ZC_ZCACHED_SAMPLES_H

#include <stddef.h>
#include <stdint.h>

struct zc_samples {
    size_t page_size; /* bytes, the OS page size times a power of two */
    size_t count, most;
    uint64_t same_filled;
    unsigned processes, files; /* where they are from */
    char *pages;
};

/* Room for `most` pages. -ENOMEM. */
int zc_samples_init(struct zc_samples *samples, size_t page_size, size_t most);
void zc_samples_fini(struct zc_samples *samples);

/* Each adds pages, evenly spaced where there are more than wanted. -ENODATA: it has none. */

/* As zc_process_open(). */
int zc_samples_add_process(struct zc_samples *samples, int pid);
/* Of a file's content; its last page only if it is whole. */
int zc_samples_add_file(struct zc_samples *samples, const char *path);
/* Half of what processes of the same user hold, as far as they may be read, half of the largest
 * shared libraries. */
int zc_samples_add_device(struct zc_samples *samples);

/* Puts them into an order in which the first so many are like all; always the same one. */
void zc_samples_shuffle(struct zc_samples *samples);

#endif
