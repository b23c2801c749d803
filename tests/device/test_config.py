# SPDX-License-Identifier: Apache-2.0
"""Settings of a real kernel, zram, zswap and vm, changed as a whole or not at all: cut off, killed, refused.

tests/native/test_apply.py has every step, on a fake.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agent.conftest import Zcache, fails
from tests.support import BUILD
from tools import swapload
from tools.emulator import Device
from tools.swapload import ask, swaps

SECONDS = 600.0
"""A swapoff(2) that was killed ends once it has brought back all of a process."""
DIR = "/var/lib/zcache"
GROUP = "/tmp/memory/hog"
SWAPPINESS, DEVICES_SWAPPINESS = 120, 90
"""Of the second file, and of that with zcache's devices: once it is set, zram is next."""
HOG_MB, KEPT_MB = 128, 32
"""What the hog holds, and how much of it stays in memory."""
SWAPPED_MB = HOG_MB - KEPT_MB - 8
ENOUGH_MB = 80
"""Available to a device that goes on well, and less than what is swapped out."""
FILE = """
[store]
reserve = 64
[pools.cfg]
kind = "persistent"
cold_after = 60
[kernel.vm]
swappiness = {swappiness}
page_cluster = 0
[kernel.zram]
algorithm = "{algorithm}"
disksize = "{size}M"
mem_limit = "96M"
writeback_device = "/dev/vda"
writeback_limit = "8M"
swap = true
priority = 7
[kernel.zswap]
compressor = "zstd"
max_pool_percent = 25
"""
DEVICES = """
[pools.sw]
kind = "persistent"
[pools.bc]
kind = "ephemeral"
[swap]
size = "64M"
pool = "sw"
[blockcache]
source = "/dev/vdb"
pool = "bc"
"""
"""What zcached makes of the kernel's, before the other settings."""


@pytest.fixture
def rooted(boot_device: Callable[..., Device]) -> Device:
    device = boot_device("arm64-16k", mem_mb=320, root=True, disks=[32, 8])
    swapload.push_hog(device, BUILD / "arm64-v8a" / "zc_hog")
    ask(device, "mkdir -p /tmp/memory && mount -t cgroup2 none /tmp/memory")
    ask(
        device,
        f"echo +memory > /tmp/memory/cgroup.subtree_control; mkdir {GROUP}; echo {KEPT_MB}M > {GROUP}/memory.max",
    )
    return device


@pytest.fixture
def zcache(rooted: Device) -> Iterator[Zcache]:
    command = Zcache({**rooted.env, "ANDROID_SERIAL": rooted.serial})
    assert command("up").code == 0
    yield command
    assert command("down", "--force").code == 0


def facts(device: Device) -> str:
    """What a change may change, as the kernel shows it."""
    files = "/proc/sys/vm/swappiness /proc/sys/vm/page-cluster /sys/module/zswap/parameters/compressor"
    zram = " ".join(f"/sys/block/zram0/{name}" for name in ("comp_algorithm", "disksize", "backing_dev"))
    limits = "cut -d' ' -f1-30 /sys/block/zram0/mm_stat | awk '{print $4}'; awk 'NR > 1 {print $1, $5}' /proc/swaps"
    return ask(device, f"cat {files} /sys/module/zswap/parameters/max_pool_percent {zram}; {limits}")


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.2)


def start_hog(device: Device) -> None:
    """Most of it is in zram then."""
    hog = f"echo 0 > {GROUP}/cgroup.procs; exec {swapload.HOG} {HOG_MB} 1000"
    ask(device, f"setsid sh -c '{hog}' >/dev/null 2>&1 & sleep 2; killall -0 zc_hog")
    fill_zram(device)


def fill_zram(device: Device) -> None:
    """Its group may have so much; then, so that all can come back, whatever there is."""
    ask(device, f"echo {KEPT_MB}M > {GROUP}/memory.max; killall -CONT zc_hog")
    until(lambda: sum(swaps(device).values()) >= SWAPPED_MB * 1024)
    ask(device, f"killall -STOP zc_hog; echo max > {GROUP}/memory.max")


def end_hog(device: Device) -> None:
    """It has found all of its bytes as they were."""
    ask(device, "killall -CONT zc_hog; sleep 2; killall zc_hog")


def once_it_is_at_work(device: Device, then: str, swappiness: int = SWAPPINESS) -> None:
    """Zram is last, and waits for what is swapped out. $@ are the processes of zcached apply, oldest first."""
    ask(
        device,
        f"until grep -qx {swappiness} /proc/sys/vm/swappiness; do sleep 0.1; done;"
        " set -- $(for p in $(pidof zcached); do grep -q apply /proc/$p/cmdline && echo $p; done | sort -n);"
        f" {then}",
        SECONDS,
    )


def kill_it_at_work(device: Device, host: subprocess.Popen[str], swappiness: int = SWAPPINESS) -> None:
    """Stopped first, so that it gets no further; what it was in may outlast it, as swapoff(2) does."""
    once_it_is_at_work(device, "kill -STOP $1 $2; echo $@ >/tmp/pids", swappiness)
    ask(device, "kill -9 $(cat /tmp/pids) 2>/dev/null || true")
    ask(device, "for p in $(cat /tmp/pids); do while [ -d /proc/$p ]; do sleep 0.1; done; done", SECONDS)
    _, said = host.communicate(timeout=SECONDS)
    assert (host.returncode, "ended before all was done" in said) == (4, True), said


def write(path: Path, algorithm: str, size: int, swappiness: int, more: str = "") -> Path:
    path.write_text(FILE.format(algorithm=algorithm, size=size, swappiness=swappiness) + more)
    return path


@pytest.mark.timeout(2400)
def test_settings_of_a_kernel(rooted: Device, zcache: Zcache, tmp_path: Path) -> None:
    """One device for all of it."""
    boot = facts(rooted)
    first = write(tmp_path / "first.toml", "zstd", 128, 150)
    second = write(tmp_path / "second.toml", "lz4", 160, SWAPPINESS)
    saved = tmp_path / "saved.toml"
    assert zcache("config", "save", saved).code == 0

    applied = zcache("--json", "config", "apply", first)
    assert applied.code == 0, applied.err
    assert zcache("--json", "config", "diff", first).json["changes"] == []
    now = facts(rooted)
    assert "[zstd]" in now
    assert str(128 << 20) in now
    assert "zram0 7" in now
    assert zcache("--json", "status").json["applied"].startswith("applied: ")

    start_hog(rooted)
    what_does_not_fit_elsewhere(rooted, zcache, second)
    what_does_not_fit_into_its_group(rooted, zcache, second)
    killed_in_the_middle(rooted, zcache, second)
    the_host_is_lost(rooted, zcache, first, second)
    it_maintains(rooted, zcache)
    devices_of_zcaches(rooted, zcache, write(tmp_path / "devices.toml", "lz4", 160, DEVICES_SWAPPINESS, DEVICES))
    end_hog(rooted)
    a_damaged_journal(rooted, zcache, first)

    assert zcache("pool", "destroy", "cfg").code == 0
    back = zcache("config", "apply", saved)
    assert back.code == 0, back.err
    assert facts(rooted) == boot


def what_does_not_fit_elsewhere(device: Device, zcache: Zcache, file: Path) -> None:
    """Nothing is touched, and the numbers are said."""
    before = facts(device)
    free = int(ask(device, "awk '/MemAvailable/ {print $2}' /proc/meminfo"))
    ask(device, "mkdir /tmp/fill && mount -t ramfs none /tmp/fill")
    ask(device, f"dd if=/dev/zero of=/tmp/fill/x bs=1M count={max(free // 1024 - ENOUGH_MB, 1)} 2>/dev/null", SECONDS)
    refused = zcache("config", "apply", file)
    ask(device, "umount /tmp/fill")
    fails(refused, 5, "bytes of swapped-out memory", "would fit elsewhere", "nothing was changed")
    assert facts(device) == before


def what_does_not_fit_into_its_group(device: Device, zcache: Zcache, file: Path) -> None:
    """The device has room for it, but the control group that it belongs to has not: its processes would be killed."""
    before = facts(device)
    for limit in ("memory.max", "memory.high"):
        ask(device, f"echo {KEPT_MB}M > {GROUP}/{limit}")
        numbers = (f"{GROUP}, which may have {KEPT_MB << 20},", "swapped out and room for", "raise its limit")
        fails(zcache("config", "apply", file), 5, *numbers, "nothing was changed")
        ask(device, f"echo max > {GROUP}/{limit}")
        assert facts(device) == before


def killed_in_the_middle(device: Device, zcache: Zcache, file: Path) -> None:
    """Until something rolls it back, the status says so."""
    before = facts(device)
    for way in ("config", "up"):
        host = zcache.start("config", "apply", file)
        if way == "config":
            once_it_is_at_work(device, "kill -STOP $1 $2")
            fails(zcache("config", "diff", file), 5, "another change of settings is at work")
        kill_it_at_work(device, host)
        assert facts(device) != before, "it was in the middle"
        assert zcache("--json", "status").json["applying"]
        assert "cut off" in zcache("status").out
        if way == "config":
            rolled = zcache("config", "diff", file)
            assert "undone: an apply was cut off: rolled back" in rolled.err, rolled
        else:
            assert zcache("up", "--replace", "--force").code == 0
            assert "apply: undone: an apply was cut off: rolled back" in zcache("log").out
        assert facts(device) == before
        assert not zcache("--json", "status").json["applying"]
        fill_zram(device)


def the_host_is_lost(device: Device, zcache: Zcache, first: Path, second: Path) -> None:
    """It is killed; the device is unplugged."""
    host = zcache.start("config", "apply", second)
    once_it_is_at_work(device, "true")
    host.kill()
    host.communicate()
    it_goes_on(zcache, second)
    assert "[lz4]" in facts(device)
    fill_zram(device)

    host = zcache.start("config", "apply", first)
    once_it_is_at_work(device, "true", 150)
    device.server.client().disconnect(device.serial)
    says_that_it_goes_on(device, host)
    it_goes_on(zcache, first)
    assert "[zstd]" in facts(device)
    fill_zram(device)


def says_that_it_goes_on(device: Device, host: subprocess.Popen[str]) -> None:
    _, said = host.communicate(timeout=SECONDS)
    assert (host.returncode, "what was begun goes on on the device" in said) == (3, True), said
    device.wait(SECONDS)


def it_goes_on(zcache: Zcache, file: Path) -> None:
    until(lambda: not zcache("--json", "status").json["applying"])
    assert zcache("--json", "status").json["applied"].startswith("applied: ")
    assert zcache("--json", "config", "diff", file).json["changes"] == []


def it_maintains(device: Device, zcache: Zcache) -> None:
    """Idle pages are written back, as many as the budget allows; the kernel's own limit is what it was, less these."""
    limit = int(ask(device, "cat /sys/block/zram0/writeback_limit"))
    time.sleep(2)
    done = zcache("--json", "kernel", "maintain", "--idle", 1, "--writeback", "idle", "--budget", "2M")
    assert done.code == 0, done.err
    actions = {action["what"]: action for action in done.json}
    written = actions["writeback"]["written"]
    assert 0 < written <= 2 << 20
    assert int(ask(device, "cat /sys/block/zram0/writeback_limit")) == limit - written // 4096
    kernel = zcache("--json", "kernel", "status").json
    assert kernel["zram"]["zram0"]["bd_writes"] * 4096 == written
    assert kernel["zswap"]["max_pool_percent"] == 25
    assert kernel["vm"]["swappiness"] == 150


def devices_of_zcaches(device: Device, zcache: Zcache, file: Path) -> None:
    """A real swap device and block cache: unmade where it was cut off; made, though adb's server is killed."""

    def made() -> tuple[list[str], list[str]]:
        """Block devices of zcached's, and swap areas."""
        return ask(device, "ls /sys/block | grep ublk || true").split(), list(swaps(device))

    before, nothing = facts(device), made()
    host = zcache.start("config", "apply", file)
    once_it_is_at_work(device, "kill -STOP $1 $2", DEVICES_SWAPPINESS)
    assert len(made()[0]) == 2
    kill_it_at_work(device, host, DEVICES_SWAPPINESS)
    assert len(made()[0]) == 2, "it was behind them"
    rolled = zcache("config", "diff", file)
    assert "undone: an apply was cut off: rolled back" in rolled.err, rolled
    assert facts(device) == before
    assert made() == nothing
    assert zcache("--json", "status").json["applied"].startswith("undone: ")
    assert [pool["name"] for pool in zcache("--json", "pool", "list").json] == ["cfg"]

    fill_zram(device)
    host = zcache.start("config", "apply", file)
    once_it_is_at_work(device, "true", DEVICES_SWAPPINESS)
    device.server.restart()
    says_that_it_goes_on(device, host)
    it_goes_on(zcache, file)
    assert len(made()[0]) == 2
    assert any("ublk" in area for area in made()[1])
    cached = zcache("--json", "blockcache", "status").json["device"]
    ask(device, f"dd if={cached} of=/dev/null bs=64k count=16")
    assert int(zcache("cat", "pools/bc/stats/puts").out.split()[-1]) > 0
    for words in (("swap", "off"), ("blockcache", "off"), ("pool", "destroy", "sw"), ("pool", "destroy", "bc")):
        assert zcache(*words).code == 0, words
    assert made() == nothing


def a_damaged_journal(device: Device, zcache: Zcache, file: Path) -> None:
    before = facts(device)
    ask(device, f"echo nonsense > {DIR}/zcached.apply")
    fails(zcache("config", "apply", file), 5, "zcached.apply is damaged", "remove that file")
    fails(zcache("kernel", "status"), 5, "zcached.apply is damaged")
    assert "cut off" in zcache("status").out
    ask(device, f"rm {DIR}/zcached.apply")
    assert facts(device) == before


def test_without_root(arm64: Device, tmp_path: Path) -> None:
    """zcache's own settings need none."""
    zcache = Zcache({**arm64.env, "ANDROID_SERIAL": arm64.serial})
    file = tmp_path / "device.toml"
    file.write_text('[store]\nreserve = 64\n[pools.cfg]\nkind = "ephemeral"\n')
    fails(zcache("config", "apply", file), 4, "no daemon runs")
    assert zcache("up").code == 0
    try:
        assert zcache("config", "apply", file).code == 0
        assert zcache("--json", "pool", "list").json[0]["name"] == "cfg"
        file.write_text("[kernel.vm]\nswappiness = 100\n")
        fails(zcache("config", "apply", file), 5, "need root", "zcache up --root")
        fails(zcache("kernel", "maintain"), 5, "needs root", "uid 2000")
    finally:
        assert zcache("down", "--force").code == 0
