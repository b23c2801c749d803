# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2034,SC2154 # sourced by the installer, which sets and reads these
# Keeps of the programs in the zip the one that runs here.

SKIPMOUNT=true # of managers before skip_mount; nothing is put over /system

case $ARCH in
arm64) abi=arm64-v8a ;;
arm) abi=armeabi-v7a ;;
x64) abi=x86_64 ;;
*) abort "! zcache has no zcached for $ARCH" ;;
esac
ui_print "- zcached for $abi"
mv "$MODPATH/bin/$abi/zcached" "$MODPATH/zcached" || abort "! the zip has no zcached for $abi"
rm -rf "${MODPATH:?}/bin"
set_perm_recursive "$MODPATH" 0 0 0755 0644
set_perm "$MODPATH/zcached" 0 0 0700
set_perm "$MODPATH/zcached-service" 0 0 0700
"$MODPATH/zcached" version >/dev/null || abort "! zcached does not run on this kernel"
ui_print "- it starts when the phone has restarted"
