# SPDX-License-Identifier: Apache-2.0
"""zcache analyze on emulated devices: what it predicts of real programs against the pool and the kernel's zram."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.agent.conftest import Zcache, fails
from tests.support import BUILD
from tools import swapload
from tools.emulator import Device
from zcache_agent.transport import open_transport
from zcache_agent.workloads import WORKLOADS, available, running

APP, APP_USER, APP_HOME = "com.example", "u0_a1", "/data/data/com.example"
RUN_AS = f"""#!/bin/sh
# A FAKE of Android's.
app=$1; shift
[ "$app" = {APP} ] || {{ echo "run-as: package not debuggable: $app" >&2; exit 1; }}
exec su -s /bin/sh -c 'cd {APP_HOME} && exec "$@"' -- {APP_USER} sh "$@"
"""
AN_APP = f"""
echo '{APP_USER}::10001:10001::{APP_HOME}:/bin/sh' >>/etc/passwd
mkdir -p {APP_HOME} && cp /tmp/zc_hog {APP_HOME}/{APP} && chown -R 10001:10001 {APP_HOME} && chmod 700 {APP_HOME}
cp /data/local/tmp/run-as /system/xbin/run-as && chmod 755 /system/xbin/run-as
"""
CODECS = {"lz4": "lz4", "zstd:3": "zstd"}
"""As zcache and as zram name them."""
TIMES = {"lz4": (5.0, 1.5), "zstd": (16.0, 5.0)}
"""µs of a put and of a get."""
PAGES_OF = r"""
for range in $(awk '/ rw/ && /heap|anon| 0 *$/ { print $1 }' "/proc/$1/maps"); do
    start=$((0x${range%-*} / $2)) end=$((0x${range#*-} / $2))
    dd if="/proc/$1/mem" bs="$2" skip="$start" count=$((end - start)) 2>/dev/null
done | head -c 4194304 >/tmp/pages
"""
SWAP_OUT = """
cd /sys/block/zram0 && echo 1 >reset && echo 32M >disksize && mkswap /dev/zram0 && swapon /dev/zram0 &&
mkdir -p /tmp/cgroup && mount -t cgroup2 none /tmp/cgroup || exit
for round in $(seq 40); do
    echo 32M swappiness=200 >/tmp/cgroup/memory.reclaim
    [ $round -ge 4 ] && [ "$(awk '/^VmSwap/ { print $2 }' "/proc/$1/status")" -gt 2048 ] && break
done 2>/dev/null
true"""
SWAP_IN = "swapoff /dev/zram0; umount /tmp/cgroup; echo 1 >/sys/block/zram0/reset"
LAST_FRAMES = 32
"""The kernel's codecs are of other versions than ours: a few sizes fall into other classes, whose last frames tell
where there are a thousand pages only."""
READ_AHEAD = 8
"""Pages that the kernel reads from swap at once, at most, unless it is told otherwise."""


def analyzed(zcache: Zcache, *words: object) -> dict[str, Any]:
    told = zcache("--json", "analyze", "--cpu", 100, *words)
    assert told.code == 0, told.err
    facts: dict[str, Any] = told.json
    return facts


def codecs_of(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {codec["spec"]: codec for codec in facts["total"]["codecs"]}


def test_a_program(arm64_root: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In pools, the same process; in zram, a copy of its memory, which this machine predicts."""
    device, zcache = arm64_root, Zcache({**arm64_root.env, "ANDROID_SERIAL": arm64_root.serial})
    for name, value in device.env.items():
        monkeypatch.setenv(name, value)
    transport = open_transport(device.serial, 300)
    workload = next(one for one in WORKLOADS if one.name == "awk" and one in available(transport))
    assert zcache("up").code == 0
    try:
        with running(transport, workload, 4) as pid:
            assert device.shell(f"kill -STOP {pid}").exit_code == 0
            predicted = codecs_of(analyzed(zcache, "--pid", pid))
            pools_take_what_is_predicted(zcache, pid, predicted)
            pages_in_swap(device, zcache, pid)
            assert device.shell(f"set -- {pid} 4096\n{PAGES_OF}\nkill -CONT {pid}").exit_code == 0
        zram_takes_what_is_predicted(device, zcache, device.pull("/tmp/pages"), tmp_path / "pages")
    finally:
        assert zcache("down", "--force").code == 0


def pools_take_what_is_predicted(zcache: Zcache, pid: int, predicted: dict[str, dict[str, Any]]) -> None:
    for codec, allocator in (("lz4", "zbud"), ("zstd:3", "zsmalloc")):
        assert zcache("pool", "create", allocator, "--allocator", allocator, "--codec", codec).code == 0
        stored = zcache("--json", "replay", "--pid", pid, "--pool", allocator, "--keep").json
        assert predicted[codec][allocator]["used_bytes"] == pytest.approx(stored["used_bytes"], rel=0.05)


def pages_in_swap(device: Device, zcache: Zcache, pid: int) -> None:
    """The kernel is made to swap out all it can; no more pages come back than are looked at."""
    assert device.shell(f"set -- {pid}\n{SWAP_OUT}").exit_code == 0
    facts = analyzed(zcache, "--pid", pid, "--swapped", "--pages", 50, "--codec", "lz4")
    (process,) = facts["processes"]
    assert (facts["kind"], facts["total"]["sampled"]) == ("swapped", 50)
    assert process["swapped_bytes"] == pytest.approx(4096 * facts["total"]["pages"], rel=0.02)
    assert process["swapped_bytes"] > 1 << 20
    assert process["resident"] < 0.1
    left = device.shell(f"grep VmSwap: /proc/{pid}/status; {SWAP_IN}").output
    assert process["swapped_bytes"] - 1024 * int(left.split()[1]) <= 4096 * 50 * READ_AHEAD


def zram_takes_what_is_predicted(device: Device, zcache: Zcache, pages: bytes, path: Path) -> None:
    assert len(pages) > 1 << 20
    path.write_bytes(pages)
    predicted = codecs_of(analyzed(zcache, path))
    for codec, algorithm in CODECS.items():
        script = (
            f"cd /sys/block/zram0 && echo 1 >reset && echo {algorithm} >comp_algorithm && echo 16M >disksize"
            " && dd if=/tmp/pages of=/dev/zram0 bs=65536 conv=fsync 2>/dev/null && cat mm_stat; echo 1 >reset"
        )
        stored = device.shell(script)
        used = int(stored.output.split()[2])
        assert abs(predicted[codec]["zram"]["used_bytes"] - used) <= 0.05 * used + 4096 * LAST_FRAMES
    zram_is_tuned(device, zcache, path)
    device.shell("rm /tmp/pages")


def zram_is_tuned(device: Device, zcache: Zcache, pages: Path) -> None:
    """What tune recommends is applied, and beats the defaults as predicted. The times that it weighs are FAKES: the
    copy of the pages is on this machine, not on the device. tools/tuneproof.py has whole programs, and real times."""
    config, saved = pages.with_suffix(".toml"), pages.with_suffix(".json")
    analyzed(zcache, pages, "--save", saved)
    facts = json.loads(saved.read_text())
    for codec in facts["total"]["codecs"]:
        codec["put_us"], codec["get_us"] = TIMES[codec["spec"].partition(":")[0]]
    saved.write_text(json.dumps(facts))
    facts = zcache("--json", "tune", saved, "--for", "zram", "--goal", "density", "--save", config).json
    assert not facts["keeps_defaults"]
    taken = {}
    for point in (facts["defaults"], facts["recommended"]):
        if not point["recommended"]:
            config.with_suffix(".other").write_text(
                f'[kernel.zram]\nalgorithm = "{point["settings"]["algorithm"]}"\ndisksize = "16M"\n'
            )
        file = config if point["recommended"] else config.with_suffix(".other")
        applied = zcache("config", "apply", file)
        assert applied.code == 0, applied.err
        filled = "dd if=/tmp/pages of=/dev/zram0 bs=65536 conv=fsync 2>/dev/null && cat /sys/block/zram0/mm_stat"
        taken[point["recommended"]] = int(device.shell(f"{filled}; echo 1 >/sys/block/zram0/reset").output.split()[2])
        predicted = point["memory_bytes"]["value"]
        assert abs(predicted - taken[point["recommended"]]) <= 0.05 * predicted + 4096 * LAST_FRAMES
    assert 1 - taken[True] / taken[False] >= 0.1, "of what the goal is about"


def test_an_app_of_a_device_without_root(boot_device: Callable[..., Device], tmp_path: Path) -> None:
    """Through a FAKE run-as, which becomes the app's user as Android's does: the app's directory and its memory are
    that user's, and the copy of zcached is gone afterwards. There is no SELinux here, as Android has."""
    device = boot_device("arm64", mem_mb=256, su=True)
    zcache = Zcache({**device.env, "ANDROID_SERIAL": device.serial})
    (tmp_path / "run-as").write_text(RUN_AS)
    device.push(tmp_path / "run-as", "/data/local/tmp/run-as")
    swapload.push_hog(device, BUILD / "arm64-v8a" / "zc_hog")
    start = f"setsid su -s /bin/sh -c 'PATH={APP_HOME}; exec {APP} 8 1000' -- {APP_USER} >/dev/null 2>&1 &"
    for script in (AN_APP, f"{start} until pidof {APP}; do sleep 0.2; done"):
        assert device.shell(f"su -c {shlex.quote(script)}", 120).exit_code == 0
    assert zcache("up").code == 0
    facts = analyzed(zcache, "--app", APP, "--pages", 100, "--codec", "lz4")
    assert [process["name"] for process in facts["processes"]] == [APP]
    assert facts["total"]["sampled"] == 100
    assert device.shell(f"ls {APP_HOME}").exit_code != 0, "it is the app's"
    assert device.shell(f"su -c 'ls {APP_HOME}'").output.split() == [APP]
    tuned = zcache("--json", "tune", "--app", APP, "--pages", 100, "--seconds", 10)
    assert tuned.code == 0, tuned.err


def test_the_device_without_root(arm64: Device) -> None:
    """As adb's shell: it goes on with the processes of that user, says how many others there are, and needs run-as for
    an app, which a device that is not Android does not have."""
    zcache = Zcache({**arm64.env, "ANDROID_SERIAL": arm64.serial})
    assert zcache("up", "--abi", "armeabi-v7a").code == 0
    facts = analyzed(zcache, "--pages", 100, "--seconds", 10, "--codec", "lz4")
    unread = [process for process in facts["processes"] if process["error"]]
    assert {process["error"] for process in unread} == {"EACCES"}
    assert 0 < len(unread) < len(facts["processes"])
    assert 0 < facts["total"]["sampled"] <= 100
    fails(zcache("-q", "analyze", "--app", unread[0]["name"]), 5, unread[0]["name"], "this device has no run-as")
    assert zcache("down").code == 0
