/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel's zram: Linux, Documentation/admin-guide/blockdev/zram.rst. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "store/store.h"
#include "zcached/apply/room.h"
#include "zcached/apply/settings.h"

#define SWAP_PRIORITY 100 /* of a device that was no swap */

static int read_file(const struct zc_system *system, const char *name, const char *file, char *text,
                     size_t size)
{
    char path[128];

    snprintf(path, sizeof(path), "/sys/block/%s/%s", name, file);
    return zc_setting_read(system, path, text, size);
}

static uint64_t read_number(const struct zc_system *system, const char *name, const char *file)
{
    char text[32];

    return read_file(system, name, file, text, sizeof(text)) == 0 ? strtoull(text, NULL, 10) : 0;
}

/* "a [b] c": b. False: nothing is chosen. */
static bool chosen(const char *text, char *out, size_t size)
{
    const char *open = strchr(text, '['), *line_end = text + strcspn(text, "\n");

    if (!open || open > line_end)
        return false;
    return snprintf(out, size, "%.*s", (int)strcspn(open + 1, "]\n"), open + 1) < (int)size;
}

/* Lines "#1: a [b]", of which those without a choice count for nothing. */
static void read_recompression(const struct zc_system *system, const char *name,
                               struct zc_zram *zram)
{
    char text[1024], algorithm[32];
    size_t len = 0;

    snprintf(zram->recompression, sizeof(zram->recompression), "none");
    zram->can_recompress = read_file(system, name, "recomp_algorithm", text, sizeof(text)) == 0;
    for (const char *line = text; zram->can_recompress && *line;) {
        if (*line == '#' && chosen(line, algorithm, sizeof(algorithm)) &&
            len < sizeof(zram->recompression))
            len += (size_t)snprintf(zram->recompression + len, sizeof(zram->recompression) - len,
                                    "%s%d:%s", len ? "," : "", atoi(line + 1), algorithm);
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
}

static void read_swap(const struct zc_system *system, const char *name, struct zc_zram *zram)
{
    struct zc_swap_area areas[ZC_SWAP_AREAS_MAX];
    size_t count = zc_setting_swaps(system, areas);

    for (size_t i = 0; i < count; i++) {
        const char *slash = strrchr(areas[i].path, '/');
        if (!slash || strcmp(slash + 1, name) != 0)
            continue;
        zram->is_swap = true;
        zram->area = areas[i];
        zram->priority = areas[i].priority;
    }
}

int zc_zram_read(const struct zc_system *system, const char *name, struct zc_zram *zram,
                 struct zc_text *why)
{
    char text[ZC_SETTING_MAX];

    *zram = (struct zc_zram){.backing = "none"};
    int error = read_file(system, name, "comp_algorithm", text, sizeof(text));
    if (error) {
        zc_text_add(why, "%s: the kernel shows no such device; load the module zram", name);
        return -ENODEV;
    }
    chosen(text, zram->algorithm, sizeof(zram->algorithm));
    zram->disksize = read_number(system, name, "disksize");
    if (read_file(system, name, "mm_stat", text, sizeof(text)) == 0)
        sscanf(text, "%" SCNu64 " %*s %*s %" SCNu64, &zram->held, &zram->mem_limit);
    read_recompression(system, name, zram);
    zram->can_write_back = read_file(system, name, "backing_dev", text, sizeof(text)) == 0;
    if (zram->can_write_back) {
        snprintf(zram->backing, sizeof(zram->backing), "%.127s", text);
        zram->has_limit = read_number(system, name, "writeback_limit_enable") != 0;
        zram->writeback_limit = read_number(system, name, "writeback_limit");
    }
    read_swap(system, name, zram);
    return 0;
}

/* ---- as words ---- */

void zc_zram_show(const struct zc_zram *zram, char *text, size_t size)
{
    char limit[24] = "off", swap[16] = "off";

    if (zram->has_limit)
        snprintf(limit, sizeof(limit), "%" PRIu64, zram->writeback_limit);
    if (zram->is_swap)
        snprintf(swap, sizeof(swap), "%d", zram->priority);
    snprintf(text, size,
             "disksize=%" PRIu64 " algorithm=%s recompression=%s backing=%s mem_limit=%" PRIu64
             " writeback_limit=%s swap=%s",
             zram->disksize, zram->algorithm, zram->recompression, zram->backing, zram->mem_limit,
             limit, swap);
}

/* Whole pages, which is what the kernel makes of it. */
static bool take_bytes(const char *text, uint64_t *out)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

    if (zc_parse_size(text, 0, out) != 0 || strchr(text, '%') || *out > UINT64_MAX - page)
        return false;
    *out = (*out + page - 1) & ~(page - 1);
    return true;
}

static bool take_text(const char *text, char *to, size_t size)
{
    return *text && snprintf(to, size, "%s", text) < (int)size;
}

static bool take_limit(const char *text, struct zc_zram *zram)
{
    zram->has_limit = strcmp(text, "off") != 0;
    return !zram->has_limit || zc_parse_size(text, 0, &zram->writeback_limit) == 0;
}

/* "on": as it is, else with a priority of our own. */
static bool take_swap(const char *text, struct zc_zram *zram)
{
    bool was_swap = zram->is_swap;

    zram->is_swap = strcmp(text, "off") != 0;
    if (strcmp(text, "on") == 0)
        zram->priority = was_swap ? zram->priority : SWAP_PRIORITY;
    else if (zram->is_swap)
        return sscanf(text, "%d", &zram->priority) == 1;
    return true;
}

static bool take_word(const char *word, struct zc_zram *zram)
{
    const char *value = strchr(word, '=');
    size_t len = value ? (size_t)(value++ - word) : 0;

#define IS(key) (len == strlen(key) && memcmp(word, key, len) == 0)
    if (IS("disksize"))
        return take_bytes(value, &zram->disksize);
    if (IS("mem_limit"))
        return take_bytes(value, &zram->mem_limit);
    if (IS("algorithm"))
        return take_text(value, zram->algorithm, sizeof(zram->algorithm));
    if (IS("recompression"))
        return take_text(value, zram->recompression, sizeof(zram->recompression));
    if (IS("backing"))
        return take_text(value, zram->backing, sizeof(zram->backing));
    if (IS("writeback_limit"))
        return take_limit(value, zram);
    if (IS("swap"))
        return take_swap(value, zram);
#undef IS
    return false;
}

int zc_zram_parse(const char *text, struct zc_zram *zram, struct zc_text *why)
{
    char word[192];
    int used;

    for (; sscanf(text, "%191s%n", word, &used) == 1; text += used) {
        if (take_word(word, zram))
            continue;
        zc_text_add(why, "zram: '%s' is no setting of it", word);
        return -EINVAL;
    }
    return 0;
}

/* ---- what it takes ---- */

/* What only a device that is not set up takes. */
static bool needs_reset(const struct zc_zram *now, const struct zc_zram *wanted)
{
    return now->disksize != wanted->disksize || strcmp(now->algorithm, wanted->algorithm) != 0 ||
           strcmp(now->recompression, wanted->recompression) != 0 ||
           strcmp(now->backing, wanted->backing) != 0;
}

/* The kernel chooses negative ones, other ones each time. */
static bool is_priority(int now, int wanted)
{
    return now == wanted || (now < 0 && wanted < 0);
}

static bool must_swap_off(const struct zc_zram *now, const struct zc_zram *wanted)
{
    return now->is_swap && (!wanted->is_swap || needs_reset(now, wanted) ||
                            !is_priority(now->priority, wanted->priority));
}

bool zc_zram_is(const struct zc_zram *now, const struct zc_zram *wanted)
{
    return !needs_reset(now, wanted) && now->mem_limit == wanted->mem_limit &&
           now->has_limit == wanted->has_limit &&
           (!now->has_limit || now->writeback_limit == wanted->writeback_limit) &&
           now->is_swap == wanted->is_swap &&
           (!now->is_swap || is_priority(now->priority, wanted->priority));
}

int zc_zram_check(const struct zc_system *system, const char *name, const struct zc_zram *wanted,
                  struct zc_text *why)
{
    struct zc_zram now;
    int error = zc_zram_read(system, name, &now, why);

    if (error)
        return error;
    const char *lacks = NULL;
    if (strcmp(wanted->recompression, "none") != 0 && !now.can_recompress)
        lacks = "recompress (CONFIG_ZRAM_MULTI_COMP)";
    else if ((strcmp(wanted->backing, "none") != 0 || wanted->has_limit) && !now.can_write_back)
        lacks = "write back (CONFIG_ZRAM_WRITEBACK)";
    if (lacks) {
        zc_text_add(why, "%s: this kernel's zram cannot %s", name, lacks);
        return -ENOTSUP;
    }
    if (wanted->is_swap && !wanted->disksize) {
        zc_text_add(why, "%s: swap needs a disksize", name);
        return -EINVAL;
    }
    bool is_overwritten = needs_reset(&now, wanted) || (wanted->is_swap && !now.is_swap);
    if (!now.is_swap && is_overwritten && now.held) {
        zc_text_add(why,
                    "%s: it holds %" PRIu64
                    " bytes and is no swap, so they would be lost; if nobody "
                    "needs them: echo 1 > /sys/block/%s/reset",
                    name, now.held, name);
        return -EBUSY;
    }
    return must_swap_off(&now, wanted) ? zc_room_check(system, name, &now.area, why) : 0;
}

/* ---- the way there ---- */

static int set(const struct zc_system *system, const char *name, const char *file,
               const char *value, struct zc_text *why)
{
    char path[384];

    snprintf(path, sizeof(path), "%s/sys/block/%s/%s", system->root, name, file);
    int error = system->calls->write(path, value);
    if (error)
        zc_text_add(why, "%s: the kernel refuses '%s' for %s: %s", name, value, file,
                    strerror(-error));
    return error;
}

static int set_number(const struct zc_system *system, const char *name, const char *file,
                      uint64_t value, struct zc_text *why)
{
    char text[24];

    snprintf(text, sizeof(text), "%" PRIu64, value);
    return set(system, name, file, text, why);
}

static int set_recompression(const struct zc_system *system, const char *name, const char *list,
                             struct zc_text *why)
{
    char algorithm[32], text[64];
    int priority, used, error = 0;

    if (strcmp(list, "none") == 0)
        return 0;
    for (; !error && sscanf(list, "%d:%31[^,]%n", &priority, algorithm, &used) == 2;
         list += list[0] == ',') {
        list += used;
        snprintf(text, sizeof(text), "algo=%s priority=%d", algorithm, priority);
        error = set(system, name, "recomp_algorithm", text, why);
    }
    return error;
}

static int set_up(const struct zc_system *system, const char *name, const struct zc_zram *wanted,
                  struct zc_text *why)
{
    int error = set(system, name, "reset", "1", why);

    if (!error)
        error = set(system, name, "comp_algorithm", wanted->algorithm, why);
    if (!error)
        error = set_recompression(system, name, wanted->recompression, why);
    if (!error && strcmp(wanted->backing, "none") != 0)
        error = set(system, name, "backing_dev", wanted->backing, why);
    if (!error && wanted->disksize)
        error = set_number(system, name, "disksize", wanted->disksize, why);
    return error;
}

/* What a device in use takes. */
static int set_limits(const struct zc_system *system, const char *name,
                      const struct zc_zram *wanted, struct zc_text *why)
{
    struct zc_zram now;
    int error = zc_zram_read(system, name, &now, why);

    if (!error && now.mem_limit != wanted->mem_limit)
        error = set_number(system, name, "mem_limit", wanted->mem_limit, why);
    if (!error && wanted->has_limit && now.writeback_limit != wanted->writeback_limit)
        error = set_number(system, name, "writeback_limit", wanted->writeback_limit, why);
    if (!error && now.has_limit != wanted->has_limit)
        error = set(system, name, "writeback_limit_enable", wanted->has_limit ? "1" : "0", why);
    return error;
}

static int find_device(const struct zc_system *system, const char *name, char path[384])
{
    static const char *const places[] = {"/dev", "/dev/block"};

    for (size_t i = 0; i < 2; i++) {
        snprintf(path, 384, "%s%s/%s", system->root, places[i], name);
        if (access(path, F_OK) == 0)
            return 0;
    }
    return -ENOENT;
}

static int be_swap(const struct zc_system *system, const char *name, int priority,
                   struct zc_text *why)
{
    char device[384];
    int error = find_device(system, name, device);

    if (!error)
        error = system->calls->make_swap(device);
    if (!error)
        error = system->calls->swap_on(device, priority);
    if (error)
        zc_text_add(why, "%s: cannot become swap: %s", name, strerror(-error));
    return error;
}

static int be_no_swap(const struct zc_system *system, const char *name, const struct zc_zram *now,
                      struct zc_text *why)
{
    int error = zc_room_check(system, name, &now->area, why);

    if (error)
        return error;
    error = system->calls->swap_off(now->area.path);
    if (error)
        zc_text_add(why, "%s: swapoff: %s", name, strerror(-error));
    return error;
}

int zc_zram_become(const struct zc_system *system, const char *name, const struct zc_zram *wanted,
                   struct zc_text *why)
{
    struct zc_zram now;
    int error = zc_zram_read(system, name, &now, why);

    if (error || zc_zram_is(&now, wanted))
        return error;
    if (must_swap_off(&now, wanted)) {
        error = be_no_swap(system, name, &now, why);
        now.is_swap = false;
    }
    if (!error && needs_reset(&now, wanted))
        error = set_up(system, name, wanted, why);
    if (!error)
        error = set_limits(system, name, wanted, why);
    if (!error && wanted->is_swap && !now.is_swap)
        error = be_swap(system, name, wanted->priority, why);
    if (!error)
        error = zc_zram_read(system, name, &now, why);
    if (!error && !zc_zram_is(&now, wanted)) {
        char text[ZC_SETTING_MAX];
        zc_zram_show(&now, text, sizeof(text));
        zc_text_add(why, "%s: the kernel made another thing of it: %s", name, text);
        error = -EINVAL;
    }
    return error;
}
