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

struct zc_options {
    const char *dir;   /* run directory */
    const char *limit; /* as params/limit takes it; NULL: default */
    const char *pool;
    unsigned page_size; /* bytes; 0: the OS page size */
    int pid;
    bool abstract, detach, keep;
    /* bench */
    const char *file;
    unsigned pages, seconds; /* 0: default */
    const char *codecs[ZC_BENCH_CODECS + 1];
    unsigned codec_count;
};

int zc_run(const struct zc_options *options);
int zc_bridge(const struct zc_options *options, const char *plane);
int zc_replay(const struct zc_options *options);
int zc_bench(const struct zc_options *options);
int zc_probe(void);

#endif
