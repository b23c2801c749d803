/* SPDX-License-Identifier: Apache-2.0 */
/* The subcommands of zcached. Each returns the exit code and has printed what is wrong. */
#ifndef ZC_ZCACHED_COMMANDS_H
#define ZC_ZCACHED_COMMANDS_H

#include <stdbool.h>

enum zc_exit {
    ZC_EXIT_OK = 0,
    ZC_EXIT_FAILED = 1,
    ZC_EXIT_USAGE = 2,
    ZC_EXIT_NO_PROCESS = 3,
    ZC_EXIT_NO_DAEMON = 4,
    ZC_EXIT_REFUSED = 5,
};

#define ZC_BENCH_CODECS 32 /* in one run, at most */
#define ZC_SAMPLE_PIDS 64u

struct zc_options {
    const char *dir;   /* run directory */
    const char *limit; /* as params/limit takes it; NULL: default */
    const char *pool;
    unsigned page_size; /* bytes; 0: the OS page size */
    int pid;
    bool abstract, detach, keep;
    /* bench, sample */
    const char *file;
    unsigned pages, seconds; /* 0: default */
    const char *codecs[ZC_BENCH_CODECS + 1];
    unsigned codec_count;
    /* sample */
    int pids[ZC_SAMPLE_PIDS]; /* pid is the last */
    unsigned pid_count;
    unsigned cpu;    /* percent of one processor; 0: default */
    const char *app; /* NULL: all */
    bool files, swapped;
    /* apply */
    bool recover;
};

int zc_run(const struct zc_options *options);
int zc_bridge(const struct zc_options *options, const char *plane);
int zc_replay(const struct zc_options *options);
int zc_bench(const struct zc_options *options);
int zc_sample(const struct zc_options *options);
int zc_apply(const struct zc_options *options);
int zc_probe(void);
int zc_swapoff(const char *path);
/* reserve: as zc_guard_start() says; lost: pages, or NULL as long as nobody knows of any. */
int zc_guard(const char *path, const char *reserve, const char *lost);

/* Of bench and sample: a store could not be created. */
int zc_complain_of_store(int error, const struct zc_options *options);

#endif
