/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/apply/plan.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/hash.h"

#define HEADING "zcache-apply 1"
#define STEPS_MAX 256u
#define REQUEST_MAX 4000u /* bytes of a request to the daemon, which takes 4096 */

static const char *const kind_names[ZC_STEP_KINDS] = {"file", "tree", "make", "zram"};

static bool is_under(const char *path, const char *directory)
{
    size_t len = strlen(directory);

    if (strncmp(path, directory, len) != 0 || !path[len])
        return false;
    for (path += len; *path; path++) {
        if (!islower((unsigned char)*path) && !isdigit((unsigned char)*path) && *path != '_' &&
            *path != '-')
            return false;
    }
    return true;
}

/* Only what this is for: its caller may be root. */
static bool is_allowed(const struct zc_step *step)
{
    switch (step->kind) {
    case ZC_STEP_FILE:
        return is_under(step->what, "/proc/sys/vm/") ||
               is_under(step->what, "/sys/module/zswap/parameters/");
    case ZC_STEP_ZRAM:
        return strncmp(step->what, "zram", 4) == 0 && isdigit((unsigned char)step->what[4]) &&
               is_under(step->what, "zram");
    default:
        return true;
    }
}

/* The field before the next tab or the line's end; it is ended there. */
static char *next_field(char **line)
{
    char *field = *line;

    if (!field)
        return NULL;
    *line = strchr(field, '\t');
    if (*line)
        *(*line)++ = '\0';
    return field;
}

static bool keep(const char *field, char *to, size_t size)
{
    return field && snprintf(to, size, "%s", field) < (int)size;
}

static bool parse_step(struct zc_step *step, char *line, bool is_journal)
{
    const char *kind = next_field(&line);

    for (step->kind = 0; step->kind < ZC_STEP_KINDS; step->kind++) {
        if (strcmp(kind, kind_names[step->kind]) == 0)
            break;
    }
    if (step->kind == ZC_STEP_KINDS || !keep(next_field(&line), step->what, sizeof(step->what)) ||
        !keep(next_field(&line), step->value, sizeof(step->value)))
        return false;
    if (step->kind == ZC_STEP_MAKE && !keep(next_field(&line), step->undo, sizeof(step->undo)))
        return false;
    if (is_journal && !keep(next_field(&line), step->old, sizeof(step->old)))
        return false;
    return !line && is_allowed(step);
}

static bool parse_line(struct zc_plan *plan, char *line, bool is_journal)
{
    if (is_journal && strncmp(line, "boot\t", 5) == 0)
        return keep(line + 5, plan->boot, sizeof(plan->boot));
    if (is_journal && strncmp(line, "daemon\t", 7) == 0)
        return keep(line + 7, plan->daemon, sizeof(plan->daemon));
    if (plan->count == STEPS_MAX)
        return false;
    if (!plan->steps)
        plan->steps = calloc(STEPS_MAX, sizeof(*plan->steps));
    return plan->steps && parse_step(&plan->steps[plan->count++], line, is_journal);
}

/* NULL, or the line that is wrong. What is after the line `end` is none of the plan's. */
const char *zc_plan_parse(struct zc_plan *plan, char *text, bool is_journal)
{
    char *line = text, *next = strchr(text, '\n');

    for (; next; line = next, next = strchr(line, '\n')) {
        *next++ = '\0';
        if (line == text ? strcmp(line, HEADING) != 0 : !parse_line(plan, line, is_journal))
            return line;
        if (strcmp(next, "end\n") == 0 || strncmp(next, "end\t", 4) == 0)
            return NULL;
    }
    return line;
}

void zc_plan_show(const struct zc_plan *plan, struct zc_text *out)
{
    zc_text_add(out, HEADING "\nboot\t%s\ndaemon\t%s\n", plan->boot, plan->daemon);
    for (size_t i = 0; i < plan->count; i++) {
        const struct zc_step *step = &plan->steps[i];
        zc_text_add(out, "%s\t%s\t%s\t", kind_names[step->kind], step->what, step->value);
        if (step->kind == ZC_STEP_MAKE)
            zc_text_add(out, "%s\t", step->undo);
        zc_text_add(out, "%s\n", step->old);
    }
    if (!out->error)
        zc_text_add(out, "end\t%016" PRIx64 "\n", zc_hash(out->data, out->len));
}

/* Nodes that are set by one request, so that limits that hold between them do not matter. */
void zc_plan_group(struct zc_plan *plan)
{
    size_t length = 0;

    for (size_t i = 0; i < plan->count; i++) {
        struct zc_step *step = &plan->steps[i];
        size_t most = strlen(step->what) + zc_max(strlen(step->value), strlen(step->old)) + 4;
        bool joins = i > 0 && step->kind == ZC_STEP_TREE && step[-1].kind == ZC_STEP_TREE &&
                     length + most < REQUEST_MAX;
        length = joins ? length + most : most;
        step->group = i == 0 ? 0 : step[-1].group + !joins;
    }
}

/* How many steps from here on are one group. */
size_t zc_plan_group_size(const struct zc_plan *plan, size_t first)
{
    size_t count = 1;

    while (first + count < plan->count &&
           plan->steps[first + count].group == plan->steps[first].group)
        count++;
    return count;
}

bool zc_plan_is_for(const struct zc_plan *plan, bool kernel)
{
    for (size_t i = 0; i < plan->count; i++) {
        bool is_kernels =
            plan->steps[i].kind == ZC_STEP_FILE || plan->steps[i].kind == ZC_STEP_ZRAM;
        if (is_kernels == kernel)
            return true;
    }
    return false;
}
