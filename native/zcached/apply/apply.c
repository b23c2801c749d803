/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/apply/apply.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/base.h"
#include "base/hash.h"
#include "zcached/apply/plan.h"
#include "zcached/apply/step.h"

#define JOURNAL_NEW ZC_JOURNAL ".new"
#define LOCK ZC_JOURNAL ".lock"
#define OUTCOME "zcached.outcome"
/* Root alone may open it for writing, and that does nothing: one apply on a machine, in whatever directory. */
#define KERNEL_LOCK "/proc/sys/vm/drop_caches"
#define BOOT_ID "/proc/sys/kernel/random/boot_id"

static const char *const outcomes[] = {[ZC_APPLIED] = "applied",
                                       [ZC_UNDONE] = "undone",
                                       [ZC_REFUSED] = "refused",
                                       [ZC_STUCK] = "stuck"};

static void say(struct zc_apply *apply, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void say(struct zc_apply *apply, const char *format, ...)
{
    char line[1536];
    va_list args;

    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    apply->say(apply->arg, line);
}

/* The last line, which is kept for who was cut off. */
static enum zc_applied conclude(struct zc_apply *apply, enum zc_applied outcome, const char *why)
{
    char line[1280];

    snprintf(line, sizeof(line), "%s: %s\n", outcomes[outcome], why);
    if (outcome != ZC_REFUSED && apply->system.calls->put(apply->dir, OUTCOME, line) != 0)
        apply->system.calls->drop(apply->dir, OUTCOME);
    line[strlen(line) - 1] = '\0';
    apply->say(apply->arg, line);
    return outcome;
}

/* ---- locks ---- */

/* A descriptor that keeps others away; -EWOULDBLOCK: there is one at work. */
static int lock_file(int fd)
{
    if (fd < 0)
        return -errno;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    int error = -errno;
    close(fd);
    return error;
}

static int lock_directory(const struct zc_apply *apply)
{
    return lock_file(openat(apply->dir, LOCK, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
}

static int lock_kernel(const struct zc_apply *apply)
{
    char path[256];

    snprintf(path, sizeof(path), "%s" KERNEL_LOCK, apply->system.root);
    return lock_file(open(path, O_WRONLY | O_CLOEXEC));
}

static void complain_of_lock(int error, struct zc_text *why)
{
    if (error == -EWOULDBLOCK)
        zc_text_add(why, "another apply is at work; wait until it is done: zcache status");
    else if (error == -EACCES || error == -EPERM)
        zc_text_add(why, "settings of the kernel need root, and this is uid %u; zcache up --root",
                    (unsigned)geteuid());
    else
        zc_text_add(why, "cannot lock: %s", strerror(-error));
}

/* ---- the journal ---- */

static int write_journal(const struct zc_apply *apply, const struct zc_plan *plan)
{
    const struct zc_system_calls *calls = apply->system.calls;
    struct zc_text text = {0};

    zc_plan_show(plan, &text);
    int error = text.error;
    if (!error)
        error = calls->put(apply->dir, JOURNAL_NEW, text.data);
    if (!error)
        error = calls->move(apply->dir, JOURNAL_NEW, ZC_JOURNAL);
    if (error) { /* what stays of it undoes nothing: all is as it was */
        unlinkat(apply->dir, JOURNAL_NEW, 0);
        unlinkat(apply->dir, ZC_JOURNAL, 0);
    }
    zc_text_free(&text);
    return error;
}

bool zc_apply_has_journal(const struct zc_apply *apply)
{
    return faccessat(apply->dir, ZC_JOURNAL, F_OK, 0) == 0;
}

/* 0, or -EUCLEAN: it is damaged. */
static int read_journal(const struct zc_apply *apply, struct zc_plan *plan)
{
    struct zc_text text = {0};
    char part[4096];
    ssize_t len = -1;
    uint64_t hash;
    int fd = openat(apply->dir, ZC_JOURNAL, O_RDONLY | O_CLOEXEC);

    while (fd >= 0 && (len = read(fd, part, sizeof(part))) > 0)
        zc_text_append(&text, part, (size_t)len);
    if (fd >= 0)
        close(fd);
    int error = len < 0 || !text.data || strlen(text.data) != text.len ? -EUCLEAN : text.error;
    char *end = error ? NULL : strstr(text.data, "\nend\t");
    if (!end || sscanf(end, "\nend\t%16" SCNx64, &hash) != 1 ||
        hash != zc_hash(text.data, (size_t)(end + 1 - text.data)) ||
        zc_plan_parse(plan, text.data, true))
        error = error ? error : -EUCLEAN;
    zc_text_free(&text);
    if (!error)
        zc_plan_group(plan);
    return error;
}

/* ---- there and back ---- */

/* The last first. What cannot be undone does not keep the others from it. */
static int undo_all(struct zc_apply *apply, const struct zc_plan *plan, struct zc_text *why)
{
    bool is_same = zc_plan_is_for(plan, false) && zc_step_is_same_daemon(apply, plan);
    int result = 0;

    for (size_t end = plan->count, first; end > 0; end = first) {
        struct zc_text said = {0};
        for (first = end - 1;
             first > 0 && plan->steps[first - 1].group == plan->steps[first].group;)
            first--;
        int error = zc_steps_undo(apply, &plan->steps[first], end - first, is_same, &said);
        if (error) {
            zc_text_add(why, "%s%s", why->len ? "; " : "",
                        said.data ? said.data : strerror(-error));
            result = error;
        }
        zc_text_free(&said);
    }
    return result;
}

static const char *text_of(const struct zc_text *text)
{
    return text->data ? text->data : "no memory";
}

/* All is to be as it was, and the journal to go. */
static enum zc_applied roll_back(struct zc_apply *apply, const struct zc_plan *plan,
                                 const char *because)
{
    struct zc_text why = {0}, line = {0};
    int error = undo_all(apply, plan, &why);

    if (!error) {
        error = apply->system.calls->drop(apply->dir, ZC_JOURNAL);
        if (error)
            zc_text_add(&why, "%s/" ZC_JOURNAL " cannot be removed: %s", apply->path,
                        strerror(-error));
    }
    zc_text_add(&line, "%s", because);
    if (error)
        zc_text_add(&line, "; and rolling back failed, which the next start tries again: %s",
                    text_of(&why));
    enum zc_applied outcome = conclude(apply, error ? ZC_STUCK : ZC_UNDONE, text_of(&line));
    zc_text_free(&why);
    zc_text_free(&line);
    return outcome;
}

/* A later step may undo an earlier one: zswap takes any compressor while it is off, and its default one for one that it has
 * not, once it is on. */
static int check_files(const struct zc_apply *apply, const struct zc_plan *plan,
                       struct zc_text *why)
{
    for (size_t i = 0; i < plan->count; i++) {
        const struct zc_step *step = &plan->steps[i];
        if (step->kind != ZC_STEP_FILE || zc_step_is_done(apply, step))
            continue;
        zc_text_add(
            why,
            "%s: the kernel took '%s', and made another thing of it in the end; it has none such",
            step->what, step->value);
        return -EINVAL;
    }
    return 0;
}

static enum zc_applied run_steps(struct zc_apply *apply, const struct zc_plan *plan)
{
    struct zc_text why = {0};
    char line[96];
    int error = 0;

    for (size_t i = 0, size; !error && i < plan->count; i += size) {
        const struct zc_step *step = &plan->steps[i];
        size = zc_plan_group_size(plan, i);
        say(apply, "step %zu of %zu: %s %s", i + size, plan->count, step->what, step->value);
        error = zc_steps_do(apply, step, size, &why);
    }
    if (!error)
        error = check_files(apply, plan, &why);
    if (!error) {
        error = apply->system.calls->drop(apply->dir, ZC_JOURNAL);
        if (error)
            zc_text_add(&why, "%s/" ZC_JOURNAL ": %s", apply->path, strerror(-error));
    }
    if (error) {
        enum zc_applied outcome = roll_back(apply, plan, text_of(&why));
        zc_text_free(&why);
        return outcome;
    }
    zc_text_free(&why);
    snprintf(line, sizeof(line), "%zu settings", plan->count);
    return conclude(apply, ZC_APPLIED, line);
}

/* With the locks held. */
static enum zc_applied start(struct zc_apply *apply, struct zc_plan *plan)
{
    struct zc_text why = {0};
    int error = 0;

    for (size_t i = 0; !error && i < plan->count; i++)
        error = zc_step_prepare(apply, &plan->steps[i], &why);
    if (!error) {
        zc_plan_group(plan);
        zc_setting_read(&apply->system, BOOT_ID, plan->boot, sizeof(plan->boot));
        zc_step_find_daemon(apply, plan->daemon);
        unlinkat(apply->dir, OUTCOME, 0);
        error = write_journal(apply, plan);
        if (error)
            zc_text_add(&why, "%s/" ZC_JOURNAL ": the journal cannot be written: %s", apply->path,
                        strerror(-error));
    }
    enum zc_applied outcome =
        error ? conclude(apply, ZC_REFUSED, text_of(&why)) : run_steps(apply, plan);
    zc_text_free(&why);
    return outcome;
}

/* ---- recovery ---- */

static enum zc_applied recover_journal(struct zc_apply *apply, const struct zc_plan *plan)
{
    char boot[40];
    bool is_same = zc_plan_is_for(plan, false) && zc_step_is_same_daemon(apply, plan),
         is_all = true;

    zc_setting_read(&apply->system, BOOT_ID, boot, sizeof(boot));
    if (strcmp(boot, plan->boot) != 0) {
        if (apply->system.calls->drop(apply->dir, ZC_JOURNAL) != 0)
            return conclude(apply, ZC_STUCK, "the journal cannot be removed");
        return conclude(apply, ZC_UNDONE,
                        "an apply was cut off, and the device restarted since: that rolled back");
    }
    for (size_t i = 0; is_all && i < plan->count; i++) {
        bool is_daemons =
            plan->steps[i].kind == ZC_STEP_TREE || plan->steps[i].kind == ZC_STEP_MAKE;
        is_all = (!is_daemons || is_same) && zc_step_is_done(apply, &plan->steps[i]);
    }
    if (!is_all)
        return roll_back(apply, plan, "an apply was cut off: rolled back");
    if (apply->system.calls->drop(apply->dir, ZC_JOURNAL) != 0)
        return conclude(apply, ZC_STUCK, "the journal cannot be removed");
    return conclude(apply, ZC_APPLIED, "an apply was cut off when all was done: rolled forward");
}

/* With the directory's lock held. */
static enum zc_applied recover(struct zc_apply *apply)
{
    struct zc_plan plan = {0};
    struct zc_text why = {0};
    enum zc_applied outcome = ZC_STUCK;

    int error = read_journal(apply, &plan);
    int lock = error || !zc_plan_is_for(&plan, true) ? 0 : lock_kernel(apply);
    if (error)
        zc_text_add(&why,
                    "%s/" ZC_JOURNAL
                    " is damaged, so what was is not known; remove that file, then "
                    "look with zcache config show",
                    apply->path);
    else if (lock < 0)
        complain_of_lock(lock, &why);
    else
        outcome = recover_journal(apply, &plan);
    if (why.len)
        say(apply, "%s: %s", outcomes[ZC_STUCK], why.data);
    if (lock > 0)
        close(lock);
    zc_text_free(&why);
    free(plan.steps);
    return outcome;
}

enum zc_applied zc_apply_recover(struct zc_apply *apply)
{
    if (!zc_apply_has_journal(apply))
        return ZC_REFUSED;
    int lock = lock_directory(apply);
    if (lock < 0)
        return ZC_REFUSED;
    enum zc_applied outcome = zc_apply_has_journal(apply) ? recover(apply) : ZC_REFUSED;
    close(lock);
    return outcome;
}

/* ---- a plan ---- */

static enum zc_applied apply_alone(struct zc_apply *apply, char *text)
{
    struct zc_plan plan = {0};
    struct zc_text why = {0};
    enum zc_applied outcome = ZC_REFUSED;
    const char *wrong = zc_plan_parse(&plan, text, false);
    int lock = 0;

    if (wrong)
        zc_text_add(&why, "the plan is none: %.80s", wrong);
    else if (zc_apply_has_journal(apply) && recover(apply) == ZC_STUCK)
        zc_text_add(&why, "the one before must be rolled back first: %s/" ZC_JOURNAL, apply->path);
    else if (zc_plan_is_for(&plan, true) && (lock = lock_kernel(apply)) < 0)
        complain_of_lock(lock, &why);
    else
        outcome = start(apply, &plan);
    if (why.len)
        conclude(apply, ZC_REFUSED, why.data);
    if (lock > 0)
        close(lock);
    zc_text_free(&why);
    free(plan.steps);
    return outcome;
}

enum zc_applied zc_apply_plan(struct zc_apply *apply, const char *plan)
{
    struct zc_text why = {0};
    int lock = lock_directory(apply);
    char *text = lock < 0 ? NULL : strdup(plan);
    enum zc_applied outcome = ZC_REFUSED;

    if (lock < 0)
        complain_of_lock(lock, &why);
    else if (!text)
        zc_text_add(&why, "no memory");
    if (why.len)
        conclude(apply, ZC_REFUSED, why.data);
    else
        outcome = apply_alone(apply, text);
    if (lock >= 0)
        close(lock);
    zc_text_free(&why);
    free(text);
    return outcome;
}
