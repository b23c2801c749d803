/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A page that swapoff brings back is charged to the memory cgroup that swapped it out. Over that one's limit the kernel
 * would throttle swapoff, or kill what is in the group.
 * Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
 */
#include "zcached/apply/room.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "store/store.h"

#define SPARE_PERCENT 5u /* of RAM, that is to stay available when contents come back; or more: */
#define SPARE_BYTES (UINT64_C(16) << 20)
#define TEXT_MAX 8192 /* bytes */
#define DEPTH_MAX 32u /* of cgroups in cgroups */

/* What a hierarchy calls the numbers of a group and all below it, in bytes. */
struct words {
    const char *limits[2], *usage;
    const char *swapped; /* a file; NULL: it is in memory.stat, as */
    const char *stat_swapped;
    const char *stat_files[2]; /* pages of files, which can be dropped */
};

static const struct words version_2 = {
    .limits = {"memory.max", "memory.high"},
    .usage = "memory.current",
    .swapped = "memory.swap.current",
    .stat_files = {"inactive_file ", "active_file "},
};
static const struct words version_1 = {
    .limits = {"memory.limit_in_bytes", NULL},
    .usage = "memory.usage_in_bytes",
    .stat_swapped = "total_swap ",
    .stat_files = {"total_inactive_file ", "total_active_file "},
};

/* A group that has more swapped out than it has room for. */
struct tight {
    uint64_t swapped, room, limit; /* bytes */
    char path[PATH_MAX];
};

struct walk {
    const struct words *words;
    uint64_t held; /* bytes, of the area that is swapped off */
    struct tight worst;
    char path[PATH_MAX]; /* of the group at hand */
};

/* ---- numbers ---- */

/* 0: no file, or no such line of it. */
static uint64_t line_of(const char *text, const char *key)
{
    const char *at = text;

    while ((at = strstr(at, key)) && at != text && at[-1] != '\n')
        at++;
    return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

/* `otherwise`: no file, or no number ("max"). */
static uint64_t number_in(int group, const char *file, uint64_t otherwise)
{
    char text[32];

    if (zc_setting_read_at(group, file, text, sizeof(text)) != 0 || *text < '0' || *text > '9')
        return otherwise;
    return strtoull(text, NULL, 10);
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

/* ---- memory cgroups ---- */

/* Bytes that this group has swapped out and has no room for. */
static uint64_t lacking(struct walk *walk, int group)
{
    const struct words *words = walk->words;
    char stat[TEXT_MAX];
    uint64_t limit = UINT64_MAX;

    for (size_t i = 0; i < 2 && words->limits[i]; i++)
        limit = zc_min64(limit, number_in(group, words->limits[i], UINT64_MAX));
    if (limit == UINT64_MAX)
        return 0;
    zc_setting_read_at(group, "memory.stat", stat, sizeof(stat));
    uint64_t swapped =
        words->swapped ? number_in(group, words->swapped, 0) : line_of(stat, words->stat_swapped);
    uint64_t files = line_of(stat, words->stat_files[0]) + line_of(stat, words->stat_files[1]);
    uint64_t room = less(limit, less(number_in(group, words->usage, 0), files));
    uint64_t lacks = less(zc_min64(swapped, walk->held), room);

    if (lacks > less(walk->worst.swapped, walk->worst.room)) {
        walk->worst = (struct tight){.swapped = swapped, .room = room, .limit = limit};
        memcpy(walk->worst.path, walk->path, sizeof(walk->path));
    }
    return lacks;
}

/* Bytes that limits keep out of a group and those below it: what stays out of one below does not come into this. */
static uint64_t lacking_below(struct walk *walk, int group, unsigned depth)
{
    uint64_t lacks = lacking(walk, group), below = 0;
    size_t len = strlen(walk->path);
    int copy = depth < DEPTH_MAX ? dup(group) : -1;
    DIR *directory = copy < 0 ? NULL : fdopendir(copy);

    for (const struct dirent *entry; directory && (entry = readdir(directory));) {
        int child = entry->d_type == DT_DIR && entry->d_name[0] != '.'
                        ? openat(group, entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
                        : -1;
        if (child < 0)
            continue;
        snprintf(walk->path + len, sizeof(walk->path) - len, "/%s", entry->d_name);
        below += lacking_below(walk, child, depth + 1);
        walk->path[len] = '\0';
        close(child);
    }
    if (directory)
        closedir(directory);
    else if (copy >= 0)
        close(copy);
    return zc_max64(lacks, below);
}

/* NULL: it is no hierarchy of cgroups that counts memory. */
static const struct words *words_of(const char *type, const char *options)
{
    char all[520];

    if (strcmp(type, "cgroup2") == 0)
        return &version_2;
    snprintf(all, sizeof(all), ",%s,", options);
    return strcmp(type, "cgroup") == 0 && strstr(all, ",memory,") ? &version_1 : NULL;
}

/* Bytes that the limits of all memory cgroups keep out; `worst`: of the group that keeps out most. */
static uint64_t kept_out(const struct zc_system *system, uint64_t held, struct tight *worst)
{
    char path[PATH_MAX], at[256], type[32], options[512], *line = NULL;
    size_t size = 0;
    uint64_t most = 0;

    *worst = (struct tight){0};
    snprintf(path, sizeof(path), "%s/proc/self/mounts", system->root);
    FILE *mounts = fopen(path, "re");
    while (mounts && getline(&line, &size, mounts) > 0) {
        const struct words *words = sscanf(line, "%*s %255s %31s %511s", at, type, options) == 3
                                        ? words_of(type, options)
                                        : NULL;
        snprintf(path, sizeof(path), "%s%s", system->root, at);
        int group = words ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
        if (group < 0)
            continue;
        struct walk walk = {.words = words, .held = held};
        snprintf(walk.path, sizeof(walk.path), "%s", at);
        uint64_t lacks = lacking_below(&walk, group, 0);
        if (lacks > most) {
            most = lacks;
            *worst = walk.worst;
        }
        close(group);
    }
    free(line);
    if (mounts)
        fclose(mounts);
    return most;
}

/* ---- all of it ---- */

static uint64_t other_swap(const struct zc_system *system, const struct zc_swap_area *area)
{
    struct zc_swap_area areas[ZC_SWAP_AREAS_MAX];
    size_t count = zc_setting_swaps(system, areas);
    uint64_t room = 0;

    for (size_t i = 0; i < count; i++) {
        if (strcmp(areas[i].path, area->path) != 0)
            room += areas[i].size - areas[i].used;
    }
    return room;
}

int zc_room_check(const struct zc_system *system, const char *name, const struct zc_swap_area *area,
                  struct zc_text *why)
{
    uint64_t elsewhere = other_swap(system, area);
    struct tight tight;
    char text[TEXT_MAX];

    int error = zc_setting_read(system, "/proc/meminfo", text, sizeof(text));
    if (error) {
        zc_text_add(why, "/proc/meminfo: %s", strerror(-error));
        return error;
    }
    uint64_t spare = zc_max64(line_of(text, "MemTotal:") * 1024 / 100 * SPARE_PERCENT, SPARE_BYTES);
    uint64_t available = line_of(text, "MemAvailable:") * 1024;
    uint64_t room = less(available, spare) + elsewhere;
    if (area->used > room) {
        zc_text_add(why,
                    "%s: it holds %" PRIu64 " bytes of swapped-out memory, and only %" PRIu64
                    " would fit elsewhere: %" PRIu64 " available, of which %" PRIu64
                    " are to stay so, and %" PRIu64 " in other swap; end what uses memory",
                    name, area->used, room, available, spare, elsewhere);
        return -ENOSPC;
    }
    uint64_t out = kept_out(system, area->used, &tight);
    if (out <= elsewhere)
        return 0;
    zc_text_add(why,
                "%s: %" PRIu64 " bytes of swapped-out memory are over the limits of their memory "
                "cgroups, and only %" PRIu64
                " would fit into other swap: %s, which may have %" PRIu64 ", has %" PRIu64
                " swapped out and room for %" PRIu64 "; raise its limit, or end what is in it",
                name, out, elsewhere, tight.path, tight.limit, tight.swapped, tight.room);
    return -ENOSPC;
}
