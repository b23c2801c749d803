#!/system/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Early in each boot. If the one before did not last, its settings may be why: they are left out until
# settings.failed is removed, or `zcache install` brings others.

module=${0%/*}
# shellcheck source=environment.sh
. "$module/environment.sh"

mkdir -p "$ZCACHE_DIR"
chown 0:0 "$ZCACHE_DIR"
chmod 700 "$ZCACHE_DIR"
[ ! -e "$trial" ] || mv "$trial" "$failed"
