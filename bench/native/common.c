/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "bench.h"

void die(const char *what, const char *value)
{
    fprintf(stderr, "zc_bench: %s: %s\n", value, what);
    exit(1);
}

double now_ns(void)
{
    return (double)zc_now_ns();
}

void run_on(unsigned cpu, pid_t thread)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(thread, sizeof(set), &set);
}

void run_on_both(void)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(THIS_CPU, &set);
    CPU_SET(OTHER_CPU, &set);
    sched_setaffinity(0, sizeof(set), &set);
}

void *get_memory(size_t bytes)
{
    size_t page_size = (size_t)sysconf(_SC_PAGESIZE);
    void *memory = aligned_alloc(page_size, zc_div_up(zc_max(bytes, 1), page_size) * page_size);

    if (!memory)
        die(strerror(errno), "memory");
    return memory;
}

void touch_memory(size_t bytes)
{
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        die(strerror(errno), "memory");

    madvise(memory, bytes, MADV_HUGEPAGE);
    for (size_t at = 0; at < bytes; at += (size_t)sysconf(_SC_PAGESIZE))
        ((volatile char *)memory)[at] = 1;
    munmap(memory, bytes);
}

void print_series(const char *name, const double *series, size_t count)
{
    print_series_of("", name, series, count);
}

void print_series_of(const char *side, const char *what, const double *series, size_t count)
{
    printf("\"%s%s\": [", side, what);
    for (size_t i = 0; i < count; i++)
        printf("%s%.3f", i ? ", " : "", series[i]);
    printf("], ");
}
