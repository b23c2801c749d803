/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of an apply, one by one, there and back. 0 or -errno; `why` says what is wrong. */
#ifndef ZC_ZCACHED_STEP_H
#define ZC_ZCACHED_STEP_H

#include "zcached/apply/apply.h"
#include "zcached/apply/plan.h"

/* Reads its old value, and whether it can be. Changes nothing. */
int zc_step_prepare(const struct zc_apply *apply, struct zc_step *step, struct zc_text *why);

/* Of `count` steps that are one group. */
int zc_steps_do(const struct zc_apply *apply, const struct zc_step *steps, size_t count,
                struct zc_text *why);
/* From whatever it is now. is_same: the daemon is the one whose settings they are. */
int zc_steps_undo(const struct zc_apply *apply, const struct zc_step *steps, size_t count,
                  bool is_same, struct zc_text *why);

/* Is it as the step makes it? */
bool zc_step_is_done(const struct zc_apply *apply, const struct zc_step *step);

/* The daemon's process id, or "": none answers. */
void zc_step_find_daemon(const struct zc_apply *apply, char daemon[16]);
/* A daemon that has ended has taken its settings along. */
bool zc_step_is_same_daemon(const struct zc_apply *apply, const struct zc_plan *plan);

#endif
