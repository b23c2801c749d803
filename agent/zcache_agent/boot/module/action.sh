#!/system/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The module's button in its manager: says how zcached is.

module=${0%/*}
# shellcheck source=environment.sh
. "$module/environment.sh"

sh "$service" status
[ ! -r "$ZCACHE_DIR/zcached.settings" ] || sed 's/^/settings: /' "$ZCACHE_DIR/zcached.settings"
[ ! -e "$failed" ] || echo "settings are left out: the phone restarted within 2 minutes of them; remove $failed"
