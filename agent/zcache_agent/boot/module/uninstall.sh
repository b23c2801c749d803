#!/system/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Run by the manager when the module is removed: what it keeps elsewhere goes, too.

module=${0%/*}
# shellcheck source=environment.sh
. "$module/environment.sh"

cd "$ZCACHE_DIR" 2>/dev/null && rm -f settings.plan settings.toml settings.trial settings.failed
sh "$service" forget
