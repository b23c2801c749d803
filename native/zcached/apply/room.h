/* SPDX-License-Identifier: Apache-2.0 */
/* Is there room for what a swap area holds, once it is swapped off? */
#ifndef ZC_ZCACHED_ROOM_H
#define ZC_ZCACHED_ROOM_H

#include "zcached/apply/settings.h"

/* In memory, within the limits of the memory cgroups whose pages they are, and in other swap areas. 0; -ENOSPC, and
 * `why` has the numbers, after `name`; or another -errno. Changes nothing. */
int zc_room_check(const struct zc_system *system, const char *name, const struct zc_swap_area *area,
                  struct zc_text *why);

#endif
