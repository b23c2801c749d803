# SPDX-License-Identifier: Apache-2.0
"""Which way fits a device."""

from ..errors import Refused
from .kinds import ANDROID, KINDS, Kind
from .root import Root

_FIND = r"""
r=$1
[ -d "$r/data/adb/modules" ] && echo magisk
[ -x "$r/sbin/procd" ] && [ -e "$r/etc/rc.common" ] && echo openwrt
if [ -n "$r" ]; then
    [ -e "$r/lib/systemd/systemd" ] || [ -e "$r/usr/lib/systemd/systemd" ] && echo systemd
else
    [ -d /run/systemd/system ] && echo systemd
fi
[ -d "$r/etc/init.d" ] && [ -d "$r/etc/rc2.d" ] && echo sysvinit
grep -q 'init\.d/S' "$r/etc/init.d/rcS" 2>/dev/null && echo busybox
[ -e "$r/etc/inittab" ] && case $(readlink "$r/sbin/init") in *busybox) echo inittab;; esac
[ -e "$r/system/build.prop" ] && echo android
exit 0
"""


def choose(root: Root, wanted: str | None = None) -> Kind:
    """The way that fits the device, or the one that is asked for. Refused: none does, and what else can be done."""
    if wanted:
        return KINDS[wanted]
    found = root.script(_FIND, root.prefix).split()
    fitting = [KINDS[name] for name in found if name in KINDS]
    if fitting:
        return fitting[0]
    where = root.prefix or root.transport.serial
    if ANDROID in found:
        raise Refused(
            f"{where}: no Magisk, KernelSU or APatch (/data/adb/modules), so nothing starts zcached when it restarts",
            name="no_init",
            hint="zcache up --root runs it until then; docs/install.md says how to build it into Android",
        )
    raise Refused(
        f"{where}: neither systemd, OpenWrt, sysvinit, nor BusyBox with /etc/init.d/rcS or /etc/inittab is there",
        name="no_init",
        hint=f"--as {'|'.join(KINDS)}, or a boot script of yours: docs/install.md",
    )
