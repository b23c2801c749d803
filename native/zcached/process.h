/* SPDX-License-Identifier: Apache-2.0 */
/* The resident anonymous pages of a process: those that it could have swapped out. */
#ifndef ZC_ZCACHED_PROCESS_H
#define ZC_ZCACHED_PROCESS_H

#include <stddef.h>
#include <stdint.h>

struct zc_process {
    int mem;          /* /proc/PID/mem */
    size_t page_size; /* bytes, the OS page size times a power of two */
    uint64_t *pages;  /* addresses, upwards; owned */
    size_t count, room;
};

/* Lists the pages that are there now. -ESRCH: no such process; -EACCES, -EPERM: not for us; -ENOMEM.
 * Then there is nothing to close. */
int zc_process_open(struct zc_process *process, int pid, size_t page_size);
void zc_process_close(struct zc_process *process);

/* 1: the page at that address was read; 0: it is not there any more; -ESRCH: the process has ended. */
int zc_process_read(const struct zc_process *process, uint64_t address, void *page);

#endif
