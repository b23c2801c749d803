/* SPDX-License-Identifier: Apache-2.0 */
/* How much memory this machine has, and whether it is short of it. */
#ifndef ZC_STORE_MEMORY_H
#define ZC_STORE_MEMORY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct zc_memory {
    uint64_t total; /* bytes: min(MemTotal, cgroup limit) */
    uint64_t low;   /* bytes: MemAvailable below this is short: max(5 % of MemTotal, 16 MiB) */
    int meminfo;    /* descriptor */
    int pressure;   /* likewise, of PSI; -1: the OS has none */
    pthread_mutex_t lock;  /* held while meminfo is read */
    _Atomic uint64_t next; /* CLOCK_MONOTONIC_COARSE, ns: when to read again */
    _Atomic uint64_t mark; /* bytes in use when it was read */
    _Atomic bool short_now;
};

/* NULL directories: /proc, /sys/fs/cgroup. -errno where meminfo cannot be read. */
int zc_memory_init(struct zc_memory *memory, const char *proc_dir, const char *cgroup_dir);
void zc_memory_fini(struct zc_memory *memory);

/* Short of memory? Reads meminfo at most every 100 ms, and when a quarter of `low` more is in use, of
 * which the caller now has `used` bytes. */
bool zc_memory_low(struct zc_memory *memory, uint64_t used);

/* Asks the OS to say when tasks wait for memory: from then on poll() reports POLLPRI on `pressure`.
 * False: it does not do so. */
bool zc_memory_watch(struct zc_memory *memory);

#endif
