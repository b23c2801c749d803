/* SPDX-License-Identifier: Apache-2.0 */
/* What the OS says that this process uses, for tests and benchmarks to hold used_bytes against. */
#ifndef TESTS_OS_BYTES_H
#define TESTS_OS_BYTES_H

#include <inttypes.h>
#include <stdio.h>

/* Pss + SwapPss, bytes; 0: the OS does not say. */
static inline uint64_t os_bytes(void)
{
    FILE *file = fopen("/proc/self/smaps_rollup", "re");
    uint64_t kb = 0, value;
    char line[256];

    while (file && fgets(line, sizeof(line), file)) {
        if (sscanf(line, "Pss: %" SCNu64, &value) == 1 ||
            sscanf(line, "SwapPss: %" SCNu64, &value) == 1)
            kb += value;
    }
    if (file)
        fclose(file);
    return kb * 1024;
}

#endif
