#!/system/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Late in each boot, in the background: once Android is up, zcached starts.

module=${0%/*}
# shellcheck source=environment.sh
. "$module/environment.sh"

until [ "$(getprop sys.boot_completed)" = 1 ]; do
    sleep 5
done
if [ -e "$failed" ]; then
    export ZCACHE_SETTINGS=/dev/null/none
    sh "$service" start
    exit
fi
touch "$trial"
sh "$service" start
sleep 120 # a boot that lasts so long with these settings can live with them
rm -f "$trial"
