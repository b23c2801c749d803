/* SPDX-License-Identifier: Apache-2.0 */
/* What an apply is to do, as steps and as text; see apply.h for the format. */
#ifndef ZC_ZCACHED_PLAN_H
#define ZC_ZCACHED_PLAN_H

#include "zcached/apply/settings.h"

enum zc_step_kind { ZC_STEP_FILE, ZC_STEP_TREE, ZC_STEP_MAKE, ZC_STEP_ZRAM, ZC_STEP_KINDS };

struct zc_step {
    enum zc_step_kind kind;
    unsigned group; /* of the steps that are one request, or one alone */
    char what[160], undo[160];
    char value[ZC_SETTING_MAX], old[ZC_SETTING_MAX];
};

struct zc_plan {
    struct zc_step *steps; /* owned: free() */
    size_t count;
    char boot[40], daemon[16]; /* of a journal: ids of the boot, and of the daemon's process */
};

/* NULL, or the line that is wrong. Changes the text. What is after the line `end` is none of the plan's. */
const char *zc_plan_parse(struct zc_plan *plan, char *text, bool is_journal);
/* As a journal. */
void zc_plan_show(const struct zc_plan *plan, struct zc_text *out);

/* Says which steps are one group, once all old values are known. */
void zc_plan_group(struct zc_plan *plan);
/* How many steps from `first` on are one group. */
size_t zc_plan_group_size(const struct zc_plan *plan, size_t first);
/* Is there a step for the kernel, or for the daemon? */
bool zc_plan_is_for(const struct zc_plan *plan, bool kernel);

#endif
