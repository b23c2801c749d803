/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/block/areas.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/blkpg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/base.h"
#include "zcached/block/swaps.h"

#define EACH_MIN (16u * 1024 * 1024) /* bytes: some clusters */

void zc_areas_plan(struct zc_areas *areas, uint64_t size, uint32_t page_size, int priority)
{
    uint64_t most = zc_min64(ZC_AREAS_MAX, (uint64_t)(ZC_SWAP_PRIORITY_MAX - priority) + 1);
    uint64_t count = zc_max64(1, zc_min64(size / EACH_MIN, most));

    *areas = (struct zc_areas){
        .size = size,
        .each = size / page_size / count * page_size,
        .count = (unsigned)count,
        .priority = priority,
    };
}

static uint64_t size_of(const struct zc_areas *areas, unsigned which)
{
    return which + 1 < areas->count ? areas->each : areas->size - which * areas->each;
}

int zc_areas_write_headers(const struct zc_areas *areas, struct zc_disk *disk)
{
    size_t os_page = (size_t)sysconf(_SC_PAGESIZE);
    char *page = calloc(1, os_page);
    int error = page ? 0 : -ENOMEM;

    for (unsigned i = 0; i < areas->count && !error; i++) {
        zc_swap_header(page, os_page, size_of(areas, i));
        error = zc_disk_write(disk, i * areas->each, page, os_page);
    }
    free(page);
    return error;
}

/* ---- partitions ---- */

static int partition(int device, int request, struct blkpg_partition *which)
{
    struct blkpg_ioctl_arg arg = {.op = request, .datalen = sizeof(*which), .data = which};

    return ioctl(device, BLKPG, &arg) == 0 ? 0 : -errno;
}

/* All or none. They go with the device. */
static int make_partitions(const struct zc_areas *areas, const char *path)
{
    struct blkpg_partition which = {0};
    int device = open(path, O_RDONLY | O_CLOEXEC);
    if (device < 0)
        return -errno;

    int error = 0;
    unsigned made = 0;
    for (; made < areas->count && !error; made += !error) {
        which.pno = (int)made + 1;
        which.start = (long long)(made * areas->each);
        which.length = (long long)size_of(areas, made);
        error = partition(device, BLKPG_ADD_PARTITION, &which);
    }
    for (; error && made > 0; made--) {
        which.pno = (int)made;
        partition(device, BLKPG_DEL_PARTITION, &which);
    }
    close(device);
    return error;
}

/* A device whose name ends with a digit has a p between that and the partition's number. */
static int find_node(const char *name, unsigned which, char path[ZC_NODE_PATH_MAX])
{
    char partition[64];

    snprintf(partition, sizeof(partition), "%sp%u", name, which + 1);
    return zc_block_node(partition, path);
}

static int be_one(struct zc_areas *areas, struct zc_disk *disk)
{
    for (unsigned i = 1; i < areas->count; i++)
        zc_disk_discard(disk, i * areas->each, disk->page_size);
    areas->count = 1;
    return zc_areas_write_headers(areas, disk);
}

int zc_areas_on(struct zc_areas *areas, struct zc_disk *disk, const char *path, const char *name,
                struct zc_text *why)
{
    char node[ZC_NODE_PATH_MAX];
    bool is_split = areas->count > 1 && make_partitions(areas, path) == 0;
    int error = is_split || areas->count == 1 ? 0 : be_one(areas, disk);

    snprintf(node, sizeof(node), "%s", path);
    for (unsigned i = 0; i < areas->count && !error; i++) {
        error = is_split ? find_node(name, i, node) : 0;
        if (!error)
            error = zc_swap_on(node, areas->priority + (int)(areas->count - 1 - i));
    }
    if (!error)
        return 0;
    zc_text_add(why, "swapon %s: %s", node, strerror(-error));
    zc_swap_off(path);
    return error;
}
