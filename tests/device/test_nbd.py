# SPDX-License-Identifier: Apache-2.0
"""Swap over nbd: a program that may have a third of the memory it wants, on a device that has enough."""

from __future__ import annotations

import pytest

from tests.agent.conftest import Zcache
from tests.native.driver import program
from tools.emulator import Device

MB = 24
HOG = "/tmp/zc_hog"
RUN = f"""
mkdir -p /run/group
mount -t cgroup2 none /run/group && echo +memory >/run/group/cgroup.subtree_control && mkdir /run/group/few &&
    echo 8M >/run/group/few/memory.max || exit
sh -c 'echo $$ >/run/group/few/cgroup.procs; exec {HOG} {MB} 1'
code=$?
rmdir /run/group/few && umount /run/group
exit $code
"""


def shell(device: Device, command: str) -> str:
    done = device.shell(f"({command.strip()}\n)", timeout=300)
    assert done.exit_code == 0, (command, done.output)
    return done.output.strip()


def swapped(device: Device) -> dict[str, int]:
    lines = shell(device, "grep ^pswp /proc/vmstat").splitlines()
    return {name: int(pages) for name, pages in (line.split() for line in lines)}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("device", ["arm64-root"], indirect=True)
def test_swap_over_nbd(device: Device) -> None:
    zcache = Zcache({**device.env, "ANDROID_SERIAL": device.serial})
    device.push(program("arm64-v8a", "zc_hog"), HOG)
    reserve = shell(device, "cat /proc/sys/vm/min_free_kbytes")
    assert zcache("up").code == 0
    on = zcache("--json", "swap", "on", "--size", f"{2 * MB}M", "--transport", "nbd")
    assert on.code == 0, on.err
    assert (on.json["transport"], on.json["device"].rpartition("/")[2][:3]) == ("nbd", "nbd")
    assert int(shell(device, "cat /proc/sys/vm/min_free_kbytes")) >= 8192
    before = swapped(device)
    assert "ok pages=" in shell(device, RUN)
    after = swapped(device)
    pages = (MB - 8) * 1024 * 1024 // int(zcache("cat", "page_size").out)
    assert all(after[name] - before[name] > pages for name in ("pswpin", "pswpout"))
    status = zcache("--json", "swap", "status").json
    assert (status["read_errors"], status["write_errors"]) == (0, 0)
    assert zcache("swap", "off").code == 0
    assert shell(device, "cat /proc/sys/vm/min_free_kbytes; cat /sys/block/nbd0/size") == f"{reserve}\n0"
    the_daemon_is_killed(zcache, device, reserve)
    assert zcache("down").code == 0
    shell(device, f"rm {HOG}")


def the_daemon_is_killed(zcache: Zcache, device: Device, reserve: str) -> None:
    """The kernel's reserve is put back by its guard, once the device is swapped off."""
    assert zcache("swap", "on", "--size", f"{2 * MB}M", "--transport", "nbd").code == 0
    pid = zcache("--json", "status").json["pid"]
    shell(device, f"kill -9 {pid}; while [ -e /proc/{pid} ]; do sleep 0.1; done")
    assert int(shell(device, "cat /proc/sys/vm/min_free_kbytes")) >= 8192
    assert zcache("up").code == 0
    assert zcache("swap", "off").code == 0
    shell(device, f"until [ $(cat /proc/sys/vm/min_free_kbytes) = {reserve} ]; do sleep 0.1; done")
