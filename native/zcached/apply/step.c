/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/apply/step.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"

#define SWAP_DEVICE "swap/device"

/* ---- what the daemon says ---- */

static int ask(const struct zc_apply *apply, struct zc_text *answer, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int ask(const struct zc_apply *apply, struct zc_text *answer, const char *format, ...)
{
    char request[ZC_SETTING_MAX + 256];
    va_list args;

    va_start(args, format);
    int len = vsnprintf(request, sizeof(request), format, args);
    va_end(args);
    if (len >= (int)sizeof(request))
        return -E2BIG;
    return apply->system.calls->ask(apply->path, request, answer);
}

void zc_step_find_daemon(const struct zc_apply *apply, char daemon[16])
{
    struct zc_text answer = {0};

    *daemon = '\0';
    if (ask(apply, &answer, "get daemon/pid") == 0 && answer.data)
        snprintf(daemon, 16, "%s", answer.data);
    zc_text_free(&answer);
}

bool zc_step_is_same_daemon(const struct zc_apply *apply, const struct zc_plan *plan)
{
    char daemon[16];

    zc_step_find_daemon(apply, daemon);
    return *daemon && strcmp(daemon, plan->daemon) == 0;
}

/* The value of a node; "-": there is none, yet. */
static int read_node(const struct zc_apply *apply, const char *path, char *value, size_t size,
                     struct zc_text *why)
{
    struct zc_text answer = {0};
    int error = ask(apply, &answer, "get %s", path);

    snprintf(value, size, "%s", error ? "-" : answer.data ? answer.data : "");
    if (error && error != -ENOENT)
        zc_text_add(why, "%s: %s", path, answer.data ? answer.data : strerror(-error));
    zc_text_free(&answer);
    return error == -ENOENT ? 0 : error;
}

static bool is_made(const struct zc_apply *apply, const struct zc_step *step)
{
    char value[ZC_SETTING_MAX];
    struct zc_text why = {0};
    int error = read_node(apply, step->what, value, sizeof(value), &why);

    zc_text_free(&why);
    return !error && strcmp(value, "-") != 0 && strcmp(value, "none") != 0;
}

/* ---- one step, or group ---- */

/* In quotes: a value may have spaces. */
static int set_nodes(const struct zc_apply *apply, const struct zc_step *steps, size_t count,
                     bool is_undo, struct zc_text *why)
{
    struct zc_text request = {0};

    zc_text_add(&request, "set");
    for (size_t i = 0; i < count; i++) {
        const char *value = is_undo ? steps[i].old : steps[i].value;
        if (strcmp(value, "-") != 0) /* else it goes with its pool */
            zc_text_add(&request, " %s \"%s\"", steps[i].what, value);
    }
    int error = request.error;
    if (!error && request.len > 3)
        error = apply->system.calls->ask(apply->path, request.data, why);
    if (error && !why->len)
        zc_text_add(why, "the daemon: %s", strerror(-error));
    zc_text_free(&request);
    return error;
}

static int make(const struct zc_apply *apply, const struct zc_step *step, struct zc_text *why)
{
    int error = ask(apply, why, "set %s", step->value);

    if (error && !why->len)
        zc_text_add(why, "%s: %s", step->what, strerror(-error));
    return error;
}

/* Once the kernel has taken back what is in it. */
static int end_swap(const struct zc_apply *apply, struct zc_text *why)
{
    char device[ZC_SETTING_MAX];
    int error = read_node(apply, SWAP_DEVICE, device, sizeof(device), why);

    if (!error)
        error = apply->system.calls->swap_off(device);
    if (error && !why->len)
        zc_text_add(why, "%s: swapoff: %s", device, strerror(-error));
    return error;
}

static int unmake(const struct zc_apply *apply, const struct zc_step *step, struct zc_text *why)
{
    if (!is_made(apply, step))
        return 0;
    int error = strcmp(step->what, SWAP_DEVICE) == 0 ? end_swap(apply, why) : 0;
    if (!error)
        error = ask(apply, why, "set %s", step->undo);
    return error;
}

static int become(const struct zc_apply *apply, const struct zc_step *step, const char *words,
                  struct zc_text *why)
{
    struct zc_zram wanted = {0};
    int error = zc_zram_parse(step->old, &wanted, why);

    if (!error)
        error = zc_zram_parse(words, &wanted, why);
    return error ? error : zc_zram_become(&apply->system, step->what, &wanted, why);
}

int zc_steps_do(const struct zc_apply *apply, const struct zc_step *steps, size_t count,
                struct zc_text *why)
{
    switch (steps->kind) {
    case ZC_STEP_FILE:
        return zc_setting_write(&apply->system, steps->what, steps->value, why);
    case ZC_STEP_TREE:
        return set_nodes(apply, steps, count, false, why);
    case ZC_STEP_MAKE:
        return make(apply, steps, why);
    default:
        return become(apply, steps, steps->value, why);
    }
}

int zc_steps_undo(const struct zc_apply *apply, const struct zc_step *steps, size_t count,
                  bool is_same, struct zc_text *why)
{
    char now[ZC_SETTING_MAX];

    switch (steps->kind) {
    case ZC_STEP_FILE:
        if (zc_setting_read(&apply->system, steps->what, now, sizeof(now)) == 0 &&
            strcmp(now, steps->old) == 0)
            return 0;
        return zc_setting_write(&apply->system, steps->what, steps->old, why);
    case ZC_STEP_TREE:
        return is_same ? set_nodes(apply, steps, count, true, why) : 0;
    case ZC_STEP_MAKE:
        return is_same ? unmake(apply, steps, why) : 0;
    default:
        return become(apply, steps, "", why);
    }
}

bool zc_step_is_done(const struct zc_apply *apply, const struct zc_step *step)
{
    struct zc_zram now, wanted = {0};
    char value[ZC_SETTING_MAX];
    struct zc_text why = {0};
    bool is_so = false;

    switch (step->kind) {
    case ZC_STEP_FILE:
        is_so = zc_setting_read(&apply->system, step->what, value, sizeof(value)) == 0 &&
                strcmp(value, step->value) == 0;
        break;
    case ZC_STEP_TREE:
        is_so = read_node(apply, step->what, value, sizeof(value), &why) == 0 &&
                strcmp(value, step->value) == 0;
        break;
    case ZC_STEP_MAKE:
        is_so = is_made(apply, step);
        break;
    default:
        is_so = zc_zram_parse(step->old, &wanted, &why) == 0 &&
                zc_zram_parse(step->value, &wanted, &why) == 0 &&
                zc_zram_read(&apply->system, step->what, &now, &why) == 0 &&
                zc_zram_is(&now, &wanted);
    }
    zc_text_free(&why);
    return is_so;
}

/* ---- before the first step ---- */

static int prepare_zram(const struct zc_apply *apply, struct zc_step *step, struct zc_text *why)
{
    struct zc_zram zram;
    int error = zc_zram_read(&apply->system, step->what, &zram, why);

    if (error)
        return error;
    zc_zram_show(&zram, step->old, sizeof(step->old));
    error = zc_zram_parse(step->value, &zram, why);
    return error ? error : zc_zram_check(&apply->system, step->what, &zram, why);
}

/* Its old value. Nothing is changed yet. */
int zc_step_prepare(const struct zc_apply *apply, struct zc_step *step, struct zc_text *why)
{
    int error;

    switch (step->kind) {
    case ZC_STEP_FILE:
        error = zc_setting_read(&apply->system, step->what, step->old, sizeof(step->old));
        if (error)
            zc_text_add(why, "%s: %s", step->what,
                        error == -ENOENT ? "this kernel has no such setting" : strerror(-error));
        return error;
    case ZC_STEP_TREE:
        return read_node(apply, step->what, step->old, sizeof(step->old), why);
    case ZC_STEP_MAKE:
        snprintf(step->old, sizeof(step->old), "-");
        if (!is_made(apply, step))
            return 0;
        zc_text_add(why, "%s: it is there already", step->what);
        return -EEXIST;
    default:
        return prepare_zram(apply, step, why);
    }
}
