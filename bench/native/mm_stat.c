/* SPDX-License-Identifier: Apache-2.0 */
/* What a zram device says of its memory: Linux, Documentation/admin-guide/blockdev/zram.rst. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "bench.h"

struct zram_use zram_use(const char *device)
{
    struct zram_use use;
    struct stat st;
    char path[64];

    if (stat(device, &st) != 0)
        die(strerror(errno), device);
    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/mm_stat", major(st.st_rdev),
             minor(st.st_rdev));
    FILE *file = fopen(path, "re");
    if (!file || fscanf(file, "%*u %" SCNu64 " %" SCNu64 " %*u %*u %" SCNu64 " %*u %" SCNu64,
                        &use.compressed, &use.total, &use.same_filled, &use.huge) != 4)
        die("it does not say what it uses", path);
    fclose(file);
    return use;
}
