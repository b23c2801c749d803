/* SPDX-License-Identifier: Apache-2.0 */
/* zcached probe: what only a system call tells of a device, key=value lines. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <zcache/store.h>

#include "base/base.h"
#include "zcached/commands.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1 /* Linux 5.11 */
#endif

static void say(const char *key, int error)
{
    char buf[16];

    printf("%s=%s\n", key, error ? zc_errno_name(error, buf) : "ok");
}

static void probe_userfaultfd(void)
{
    struct uffdio_api api = {.api = UFFD_API};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

    say("userfaultfd", fd < 0 ? errno : 0);
    if (fd < 0)
        return;
    if (ioctl(fd, UFFDIO_API, &api) == 0)
        printf("userfaultfd_features=0x%" PRIx64 "\n", (uint64_t)api.features);
    close(fd);
}

static void probe_memfd(void)
{
    int fd = (int)syscall(SYS_memfd_create, "zcache-probe", 0x3 /* CLOEXEC, ALLOW_SEALING */);

    say("memfd", fd < 0 ? errno : 0);
    if (fd >= 0)
        close(fd);
}

static void probe_io_uring(void)
{
    /* Faults on the NULL parameters where io_uring is allowed. */
    long fd = syscall(SYS_io_uring_setup, 1, NULL);

    say("io_uring", fd < 0 && errno != EFAULT ? errno : 0);
}

static void probe_pagemap(void)
{
    uint64_t entry;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    int error = fd < 0 ? errno : 0;
    off_t at = (off_t)((uintptr_t)&entry / (uintptr_t)sysconf(_SC_PAGESIZE) * sizeof(entry));

    if (!error && pread(fd, &entry, sizeof(entry), at) != sizeof(entry))
        error = errno;
    say("pagemap_self", error);
    if (fd >= 0)
        close(fd);
}

static void probe_memory(void)
{
    struct zc_store_stats stats;
    zc_store *store;
    int error = zc_store_create(NULL, &store);

    if (error) {
        say("default_limit", error);
        return;
    }
    zc_store_get_stats(store, &stats);
    printf("default_limit=%" PRIu64 "\n", stats.limit_bytes);
    zc_store_destroy(store);
}

static uint64_t meminfo(const char *name)
{
    char buf[4096];
    int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
    ssize_t len = fd < 0 ? 0 : read(fd, buf, sizeof(buf) - 1);

    if (fd >= 0)
        close(fd);
    buf[len > 0 ? len : 0] = '\0';
    char *at = strstr(buf, name);
    return at ? strtoull(at + strlen(name), NULL, 10) * 1024 : 0;
}

int zc_probe(void)
{
    printf("page_size=%ld\n", sysconf(_SC_PAGESIZE));
    printf("cpus=%ld\n", sysconf(_SC_NPROCESSORS_ONLN));
    printf("mem_total=%" PRIu64 "\n", meminfo("MemTotal:"));
    printf("mem_available=%" PRIu64 "\n", meminfo("MemAvailable:"));
    probe_memory();
    probe_userfaultfd();
    probe_memfd();
    probe_io_uring();
    probe_pagemap();
    return ZC_EXIT_OK;
}
