/* SPDX-License-Identifier: Apache-2.0 */
/* The pages that a sample stands for, of processes or of a file, and the sample of them. */
#ifndef ZC_ZCACHED_POPULATION_H
#define ZC_ZCACHED_POPULATION_H

#include <stdbool.h>

#include "zcached/commands/reservoir.h"
#include "zcached/process.h"

#define ZC_SOURCES_MAX 4096u /* processes; more are counted and left out */
#define ZC_MAPPINGS_MAX \
    8192u /* of files, each looked at in the first process that has it; likewise */

/* A process, or the file. */
struct zc_source {
    int pid;                           /* 0: the file */
    int error;                         /* why it could not be read, or not any more; 0: it was */
    uint64_t anonymous, file, swapped; /* bytes, by the OS */
    uint64_t pages;                    /* that the sample is of */
    uint64_t sampled;                  /* of these: read by the caller */
    char name[80];
};

struct zc_population {
    size_t page_size; /* bytes */
    enum zc_process_pages pages;
    int fd; /* the file; -1: processes */
    struct zc_source *sources;
    size_t count;
    uint64_t left_out; /* processes and mappings there was no room for */
    struct zc_reservoir sample;
    uint64_t *mappings; /* hashes of those that were looked at */
    size_t mapping_count;
};

/* At most `most` pages of those that are to be added. -ENOMEM. */
int zc_population_init(struct zc_population *population, size_t page_size, size_t most,
                       enum zc_process_pages pages);
void zc_population_fini(struct zc_population *population);

/* -ETIME: `until_ns` has come; what is there by then is not whole. */

/* A process that cannot be read is noted as a source with an error. -ESRCH, -ENOMEM, -ENOSPC. */
int zc_population_add_process(struct zc_population *population, int pid, uint64_t until_ns);
/* All processes but zcached's; `app` (NULL: all) picks those with that name, or that name and a colon. Between
 * them `pause` is called. */
int zc_population_add_processes(struct zc_population *population, const char *app,
                                uint64_t until_ns, void (*pause)(void *arg), void *arg);
/* Its whole pages. */
int zc_population_add_file(struct zc_population *population, const char *path);

/* Reads a page of the sample. False: it is gone. */
bool zc_population_read(struct zc_population *population, const struct zc_pick *pick, void *page);

/* The most memory that this process ever had resident: bytes. */
uint64_t zc_population_own_peak(void);

#endif
