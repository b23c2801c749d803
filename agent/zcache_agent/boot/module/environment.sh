# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2034,SC2154 # shared with the scripts that source this
# Where things are on a phone. $module is this directory.

ZCACHE_PROGRAM=$module/zcached
ZCACHE_DIR=/data/adb/zcache
ZCACHE_SETTINGS=${ZCACHE_SETTINGS:-$ZCACHE_DIR/settings.plan}
service=$module/zcached-service
trial=$ZCACHE_DIR/settings.trial
failed=$ZCACHE_DIR/settings.failed
