/* SPDX-License-Identifier: Apache-2.0 */
/* What ublk has beyond what all transports do: a device that outlives the process that served it. */
#ifndef ZC_ZCACHED_UBLK_H
#define ZC_ZCACHED_UBLK_H

#include <stdbool.h>

#include "base/node.h"
#include "zcached/block/export.h"

/* Is that the name of such a block device? */
bool zc_ublk_is_name(const char *name);
/* May another process take the device over? Linux 6.1. */
bool zc_ublk_can_be_adopted(const struct zc_export *export);
/* Takes a device over whose process ended, and fails all that is asked of it; to be closed as one that was opened.
 * 0 or -errno: `why` got one line. */
int zc_ublk_adopt(const char *name, struct zc_export **out, struct zc_text *why);

#endif
