#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# What the emulated board's init runs first: BusyBox, file systems, modules. A getty on the UART follows. The kernel's
# command line says zcache.chatter=1: a kernel message a second, in the middle of whatever is on its way.

bb=/bin/busybox
$bb mkdir -p /proc /sys /dev /tmp /run /var/lib
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs devtmpfs /dev
$bb mount -t tmpfs tmpfs /tmp
$bb --install -s /bin
hostname zcache-board
for module in $(cat /modules/order); do
    insmod "/modules/$module" 2>/dev/null
done
ip link set lo up
if grep -q zcache.chatter=1 /proc/cmdline; then
    while sleep 1; do
        echo "<3>zcache: the kernel has something to say" >/dev/kmsg
    done &
fi
