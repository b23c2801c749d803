/* SPDX-License-Identifier: Apache-2.0 */
/* The pages of a process, as a rule the resident anonymous ones: those that it could have swapped out. */
#ifndef ZC_ZCACHED_PROCESS_H
#define ZC_ZCACHED_PROCESS_H

#include <stddef.h>
#include <stdint.h>

enum zc_process_pages {
    ZC_PAGES_ANONYMOUS, /* resident */
    ZC_PAGES_SWAPPED,   /* anonymous, in swap: to read one brings it back into memory */
    ZC_PAGES_FILE,      /* resident, of files that are mapped so that they cannot be written to */
};

/* What to look for, and who is told. */
struct zc_process_walk {
    size_t page_size; /* bytes, the OS page size times a power of two */
    enum zc_process_pages pages;
    uint64_t until_ns; /* by zc_now_ns(): -ETIME from then on; 0: no end */
    /* Adjacent pages, aligned: other than 0 ends the walk, which returns it. */
    int (*visit)(void *arg, uint64_t start, uint64_t end);
    /* May a file's mapping be visited? NULL: yes. The line of /proc/PID/maps behind its addresses. */
    int (*wants)(void *arg, const char *mapping);
    void *arg;
};

/* Finds pages, upwards. Errors as zc_process_open(). */
int zc_process_walk(int pid, const struct zc_process_walk *walk);

struct zc_process {
    int mem;          /* /proc/PID/mem */
    size_t page_size; /* bytes, the OS page size times a power of two */
    uint64_t *pages;  /* addresses, upwards; owned */
    size_t count, room;
};

/* Lists the resident anonymous pages that are there now. -ESRCH: no such process; -EACCES, -EPERM: not for
 * us; -ENOMEM. Then there is nothing to close. */
int zc_process_open(struct zc_process *process, int pid, size_t page_size);
/* The same without a list, only to read. */
int zc_process_attach(struct zc_process *process, int pid, size_t page_size);
void zc_process_close(struct zc_process *process);

/* 1: the page at that address was read; 0: it is not there any more; -ESRCH: the process has ended. */
int zc_process_read(const struct zc_process *process, uint64_t address, void *page);

#endif
