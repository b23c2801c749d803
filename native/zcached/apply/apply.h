/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes settings of the kernel and of the daemon, all or none.
 *
 * A plan is text: a line `zcache-apply 1`, a line a step, a line `end`; fields are separated by tabs.
 *
 *     file  PATH   VALUE                 a file of the kernel's: /proc/sys/vm/… or zswap's parameters
 *     tree  PATH   VALUE                 a node of the daemon's; steps that follow each other are one request
 *     make  CHECK  PATH VALUE  UNDO 1    an action of the daemon's; CHECK is a node that it makes, or whose `none` it ends
 *     zram  NAME   KEY=VALUE …           a zram device, see zc_zram_parse()
 *
 * The journal, DIR/zcached.apply, is the plan with the old value of each step, the boot's id and the daemon's
 * process id, and a checksum. It is on the disk before the first step and goes when the last is done: that is the
 * moment from which the new settings hold. Who finds one rolls back, or forward if all is done.
 */
#ifndef ZC_ZCACHED_APPLY_H
#define ZC_ZCACHED_APPLY_H

#include "zcached/apply/settings.h"

#define ZC_JOURNAL "zcached.apply" /* in the run directory */

/* Called with each line that says what becomes of it: the last begins with what it came to. */
typedef void zc_apply_say(void *arg, const char *line);

struct zc_apply {
    struct zc_system system;
    const char *path; /* of the run directory */
    int dir;          /* its descriptor */
    zc_apply_say *say;
    void *arg;
};

enum zc_applied {
    ZC_APPLIED, /* all of it */
    ZC_UNDONE,  /* something was refused: all is as it was */
    ZC_REFUSED, /* nothing was touched */
    ZC_STUCK,   /* neither could be had: the journal stays, and says what was */
};

enum zc_applied zc_apply_plan(struct zc_apply *apply, const char *plan);

/* Is one at work, or was cut off? */
bool zc_apply_has_journal(const struct zc_apply *apply);
/* What a killed one has left. ZC_REFUSED: nothing, or one is at work. */
enum zc_applied zc_apply_recover(struct zc_apply *apply);

#endif
