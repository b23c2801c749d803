/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Settings of the kernel and of the daemon, and what changes them. Each call that changes anything goes through
 * struct zc_system_calls: tests make every one fail in its turn, or be the last thing that the process does.
 */
#ifndef ZC_ZCACHED_SETTINGS_H
#define ZC_ZCACHED_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/node.h"
#include "zcached/block/swaps.h"

#define ZC_SETTING_MAX 512u /* bytes of a value, with its end */

/* 0 or -errno, all of them. */
struct zc_system_calls {
    /* A value into a file of the kernel's. */
    int (*write)(const char *path, const char *value);
    /* A header, as mkswap writes it, over all of a device. */
    int (*make_swap)(const char *device);
    /* As swaps.h has them. */
    int (*swap_on)(const char *device, int priority);
    int (*swap_off)(const char *device);
    /* One request to the daemon of a run directory; its answer, without OK and size, or what is wrong. */
    int (*ask)(const char *dir, const char *request, struct zc_text *answer);
    /* A file that is new, and on the disk. */
    int (*put)(int dir, const char *name, const char *text);
    int (*move)(int dir, const char *from, const char *to);
    int (*drop)(int dir, const char *name);
};
extern const struct zc_system_calls zc_system_calls;

struct zc_system {
    const struct zc_system_calls *calls;
    const char *root; /* in front of every path: "", except in tests */
};

/* The text of a file of the system's, without its last newline. 0 or -errno. */
int zc_setting_read(const struct zc_system *system, const char *path, char *text, size_t size);
/* Likewise, of a path below a directory that is open. */
int zc_setting_read_at(int dir, const char *path, char *text, size_t size);
/* The swap areas in use, and how many; 0 also where they are not told. */
size_t zc_setting_swaps(const struct zc_system *system,
                        struct zc_swap_area areas[ZC_SWAP_AREAS_MAX]);
/* Writes it, and looks whether the kernel took it. -EINVAL: it kept another; `why` says which. */
int zc_setting_write(const struct zc_system *system, const char *path, const char *value,
                     struct zc_text *why);

/* What a zram device is. */
struct zc_zram {
    uint64_t disksize, mem_limit;          /* bytes; 0: not set up; no limit */
    uint64_t writeback_limit;              /* units of 4096 bytes, if has_limit */
    char algorithm[32], recompression[96]; /* that: "1:zstd,2:deflate", or "none" */
    char backing[128];                     /* path, or "none" */
    int priority;                          /* if is_swap */
    bool is_swap, has_limit;               /* of writeback */
    bool can_recompress, can_write_back;   /* this kernel's; no settings */
    uint64_t held;                         /* bytes of pages in it; no setting */
    struct zc_swap_area area;              /* if is_swap; no setting */
};

/* -ENODEV: there is none; `why` says so. */
int zc_zram_read(const struct zc_system *system, const char *name, struct zc_zram *zram,
                 struct zc_text *why);
/* As words, KEY=VALUE, of which parse takes any part, over what is in `zram`. */
void zc_zram_show(const struct zc_zram *zram, char *text, size_t size);
int zc_zram_parse(const char *text, struct zc_zram *zram, struct zc_text *why);
bool zc_zram_is(const struct zc_zram *zram, const struct zc_zram *wanted);
/* Could it become that without a loss? Changes nothing. -ENOSPC: what it holds fits nowhere else; -EBUSY: it
 * holds what is no swap. */
int zc_zram_check(const struct zc_system *system, const char *name, const struct zc_zram *wanted,
                  struct zc_text *why);
/* Makes it so, whatever it is now, also after a part of this was done: what it holds is brought elsewhere if it is
 * swap, else lost. */
int zc_zram_become(const struct zc_system *system, const char *name, const struct zc_zram *wanted,
                   struct zc_text *why);

#endif
