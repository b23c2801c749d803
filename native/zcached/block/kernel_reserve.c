/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/block/kernel_reserve.h"

#include <stdbool.h>
#include <stdio.h>

#define PATH "/proc/sys/vm/min_free_kbytes"
#define LEAST_KIB 8192ul

static bool set(unsigned long kib)
{
    FILE *file = fopen(PATH, "we");

    if (!file)
        return false;
    bool is_written = fprintf(file, "%lu", kib) > 0;
    return fclose(file) == 0 && is_written;
}

unsigned long zc_kernel_reserve_raise(void)
{
    FILE *file = fopen(PATH, "re");
    unsigned long kib = 0;

    if (!file)
        return 0;
    bool is_low = fscanf(file, "%lu", &kib) == 1 && kib > 0 && kib < LEAST_KIB;
    fclose(file);
    return is_low && set(LEAST_KIB) ? kib : 0;
}

void zc_kernel_reserve_restore(unsigned long kib)
{
    if (kib > 0)
        set(kib);
}
