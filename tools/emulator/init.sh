#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# The emulated device's init: file systems, modules, network, adbd. The kernel's command line says
# zcache.root=1 (adbd stays root), zcache.su=1 (the shell user finds a su), zcache.board=1 (see below). Disks are the
# shell user's.

bb=/bin/busybox
$bb mkdir -p /proc /sys /dev /tmp /run /mnt /system/xbin /data/local/tmp /data/misc/adb
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs devtmpfs /dev
$bb mkdir -p /dev/pts
$bb mount -t devpts devpts /dev/pts
$bb --install -s /bin
$bb rm -f /bin/su
$bb ln -sf /system/bin/sh /bin/sh # Android's shell: mksh
export PATH=/system/xbin:/system/bin:/bin
chmod 755 /
chmod 1777 /tmp
hostname zcache-emulator

for module in $(cat /modules/order); do
    insmod "/modules/$module" || echo "init: $module does not load"
done
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2

# As on a phone, the shell may run programs from /data/local/tmp but not make sockets there: FAT has
# no socket files. The image is sparse and takes memory only as it fills.
truncate -s 64M /data/tmp.img
losetup /dev/loop0 /data/tmp.img
mkfs.fat /dev/loop0 >/dev/null
mount -t vfat -o uid=2000,gid=2000,fmask=0022,dmask=0022,quiet /dev/loop0 /data/local/tmp

if grep -q zcache.su=1 /proc/cmdline; then # a rooted phone
    cp $bb /system/xbin/su
    chmod 4755 /system/xbin/su
    mkdir -m 700 /data/adb
fi
if grep -q zcache.board=1 /proc/cmdline; then # one with BusyBox's init, and a root file system that stays
    mount -t ext4 /dev/vda /mnt 2>/dev/null || { /bin/mke2fs -Fqt ext4 /dev/vda && mount -t ext4 /dev/vda /mnt; }
    mkdir -p /sbin /var
    ln -s /bin/busybox /sbin/init
    for directory in etc usr var; do
        [ -d /mnt/$directory ] || cp -a /$directory /mnt/
        mount --bind /mnt/$directory /$directory
    done
fi
export LD_LIBRARY_PATH=/usr/lib/aarch64-linux-gnu:/usr/lib/aarch64-linux-gnu/android
export HOME=/data/local/tmp
if grep -q zcache.root=1 /proc/cmdline; then
    adbd &
else
    chown shell /dev/vd? 2>/dev/null
    cp $bb /run/su
    /run/su -p -s /bin/sh -c "exec adbd" shell &
fi
echo "init: adbd started"
if grep -q zcache.board=1 /proc/cmdline; then
    unset LD_LIBRARY_PATH
    exec $bb init
fi
while true; do
    wait
    sleep 1
done
