# SPDX-License-Identifier: Apache-2.0
"""The swap device on emulated devices of 256 MB: a program that needs twice what fits, beside the kernel's zram; a
program killed; the daemon killed. `make soak` does the first for longer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.agent.conftest import Zcache, fails
from tests.support import BUILD
from tools import swapload
from tools.emulator import Device, Done
from tools.swapload import ask, run_hog, swaps

MEM_MB = 256
HOG_MB = {"arm64": 340, "arm64-16k": 280}
"""Twice what fits beside the kernel and adbd; the 16k kernel keeps 64 MB for itself."""
ROUNDS = {"arm64": 0.85, "arm64-16k": 1}
"""Through all of it, so that more pages than RAM has are swapped in, and out. `make soak` takes many."""
ZRAM_ROUNDS = 0.3
"""What is printed of it is a rate."""
SIZE_MB = {"arm64": 384, "arm64-16k": 304}
"""Of the device: it fills up with stale pages."""
HOG_SECONDS = 600.0
ROOT_GROUP = "/tmp/memory"
DISK_MB = 160
GROUP = f"{ROOT_GROUP}/hog"
"""A memory cgroup: only what is in there is swapped while the rest has enough."""
SAID = "/tmp/said"
BY_SIGBUS = ("exit 3", "exit 135", "exit 139")
"""3: its handler ran. 128 + SIGBUS, + SIGSEGV: what the handler needs, or the stack it is to run on, was lost, too."""


@pytest.fixture(params=["arm64", "arm64-16k"])
def small(request: pytest.FixtureRequest, boot_device: Callable[..., Device]) -> Device:
    device = boot_device(request.param, mem_mb=MEM_MB, root=True, disks=[DISK_MB])
    swapload.push_hog(device, BUILD / "arm64-v8a" / "zc_hog")
    ask(device, "echo 0 > /proc/sys/vm/page-cluster")
    return device


@pytest.fixture
def zcache(small: Device) -> Iterator[Zcache]:
    command = Zcache({**small.env, "ANDROID_SERIAL": small.serial})
    up(command)
    yield command
    down = command("down", "--force")
    assert down.code == 0, down.err


def up(zcache: Zcache) -> int:
    started = zcache("up")
    assert started.code == 0, started.err
    return int(zcache("--json", "status").json["pid"])


@pytest.mark.timeout(1800)
def test_more_than_fits(small: Device, zcache: Zcache) -> None:
    """One device for all of it: what takes longest is to fill it."""
    pid = int(zcache("--json", "status").json["pid"])
    on(zcache, small)
    ours = run_hog(small, swapload.memory_of(pid), HOG_MB[small.target], ROUNDS[small.target], HOG_SECONDS)
    facts = zcache("--json", "swap", "status").json
    assert ours.killed == 0
    assert min(ours.pages_in, ours.pages_out) > swapload.ram_pages(small)
    assert (facts["read_errors"], facts["write_errors"]) == (0, 0)
    assert facts["writes"] > ours.pages_out // 2, "a page may be written as one of several"
    a_program_is_killed(small, zcache)
    off = zcache("swap", "off")
    assert off.code == 0, off.err
    assert swaps(small) == {}
    with swapload.zram(small, SIZE_MB[small.target]):
        kernels = run_hog(small, swapload.MEMORY_OF_ZRAM, HOG_MB[small.target], ZRAM_ROUNDS, HOG_SECONDS)
    print(swapload.compare(ours, kernels, swapload.page_size(small)))
    make_group(small)
    a_full_store(small, zcache)
    a_backing_store(small, zcache)
    the_daemon_is_killed(small, zcache)


def on(zcache: Zcache, device: Device) -> str:
    told = zcache("--json", "swap", "on", "--size", f"{SIZE_MB[device.target]}M")
    assert told.code == 0, told.err
    facts = told.json
    assert (facts["transport"], facts["refused"], facts["priority"]) == ("ublk", "none", 100)
    areas = {f"{facts['device']}p{number + 1}" for number in range(16)}
    assert set(swaps(device)) == areas, "it is alone"
    return str(facts["device"])


def in_background(device: Device, command: str) -> tuple[threading.Thread, list[Done]]:
    done: list[Done] = []
    thread = threading.Thread(target=lambda: done.append(device.shell(command, HOG_SECONDS)))
    thread.start()
    return thread, done


def wait_until(device: Device, is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + HOG_SECONDS
    while not is_so():
        assert time.monotonic() < end, swaps(device)
        time.sleep(0.5)


def a_program_is_killed(device: Device, zcache: Zcache) -> None:
    """What it had swapped out is given up; others are as they were."""
    left = zcache("--json", "swap", "status").json["used"]
    thread, done = in_background(device, swapload.hog(250, 9))
    wait_until(device, lambda: sum(swaps(device).values()) * 1024 > left + (50 << 20))
    ask(device, "killall -9 zc_hog")
    thread.join()
    assert done[0].exit_code == 128 + 9
    facts = zcache("--json", "swap", "status").json
    assert facts["used"] < left + (16 << 20)
    assert facts["read_errors"] == 0


def make_group(device: Device) -> None:
    ask(device, f"mkdir -p {ROOT_GROUP} && mount -t cgroup2 none {ROOT_GROUP}")
    ask(device, f"echo +memory > {ROOT_GROUP}/cgroup.subtree_control")
    ask(device, f"mkdir {GROUP} && echo 40M > {GROUP}/memory.max")


def start_hog(device: Device, words: str) -> threading.Thread:
    """In the group, and what it says in a file; it has filled its memory."""
    ask(device, f": > {SAID}")
    thread, _ = in_background(
        device, f"{{ (echo 0 > {GROUP}/cgroup.procs; exec {swapload.HOG} {words}); echo exit $?; }} | cat > {SAID}"
    )
    wait_until(device, lambda: "filled" in ask(device, f"cat {SAID}"))
    return thread


def said(device: Device) -> list[str]:
    return ask(device, f"cat {SAID}").splitlines()


def a_full_store(device: Device, zcache: Zcache) -> None:
    """A page that is refused is one that the kernel keeps, and nobody is killed for it."""
    on(zcache, device)
    assert zcache("set", "params/limit", "4M").code == 0
    killed = swapload.counters(device)["oom_kill"]
    thread = start_hog(device, "30 1000000")
    ask(device, f"killall -STOP zc_hog; echo 25M > {GROUP}/memory.reclaim || true")
    full = zcache("--json", "swap", "status").json
    assert full["write_errors"] > 0
    assert full["used"] > 0
    ask(device, "killall -CONT zc_hog; killall -TERM zc_hog")
    thread.join()
    assert said(device)[-1] == "exit 0", said(device)
    assert swapload.counters(device)["oom_kill"] == killed
    assert zcache("--json", "swap", "status").json["read_errors"] == 0
    off = zcache("swap", "off")
    assert off.code == 0, off.err
    assert "lost" not in off.out


def a_backing_store(device: Device, zcache: Zcache) -> None:
    """What is over the limit, or does not compress, goes there, and comes back; if it is pulled out, it is lost."""
    on = zcache("swap", "on", "--size", "128M", "--pool", "backed", "--backing", "/dev/vda", "--reset")
    assert on.code == 0, on.err
    assert zcache("set", "params/limit", "4M").code == 0
    start_hog(device, "70 0.2 30").join()
    assert said(device)[-1] == "exit 0", said(device)
    stats = zcache("--json", "stats", "pools/backed/stats/*").json
    assert stats["pools/backed/stats/kept_rejected"] > 0
    assert stats["pools/backed/stats/written_gets"] > 0
    facts = zcache("--json", "swap", "status").json
    assert (facts["read_errors"], facts["write_errors"]) == (0, 0)
    it_is_pulled_out(device, zcache)
    off = zcache("swap", "off")
    assert off.code == 0, off.err
    assert "are lost" in off.out
    assert zcache("pool", "destroy", "backed").code == 0


def it_is_pulled_out(device: Device, zcache: Zcache) -> None:
    """Who needs a page of it gets SIGBUS; adb answers, and the daemon goes on."""
    thread = start_hog(device, "70 1000 30")
    ask(device, "echo $(basename $(readlink -f /sys/block/vda/device)) > /sys/bus/virtio/drivers/virtio_blk/unbind")
    thread.join()
    assert said(device)[-1] in BY_SIGBUS, said(device)
    assert zcache("--json", "swap", "status").json["read_errors"] > 0
    assert list(swaps(device)), "it is on still"


def the_daemon_is_killed(device: Device, zcache: Zcache) -> None:
    """Who touches a page that is lost gets SIGBUS, at once; the device goes on, and can be swapped off."""
    pid = int(zcache("--json", "status").json["pid"])
    area = on(zcache, device)
    thread = start_hog(device, "100 1000")
    ask(device, f"kill -9 {pid}")
    thread.join()
    assert said(device)[-1] in BY_SIGBUS, said(device)
    up(zcache)
    facts = zcache("--json", "swap", "status").json
    assert (facts["on"], facts["orphan"]) == (False, area)
    assert facts["lost"] * swapload.page_size(device) >= 30 << 20
    fails(zcache("swap", "on"), 5, area, "zcache swap off")
    off = zcache("swap", "off")
    assert off.code == 0, off.err
    assert f"up to {facts['lost']} pages are lost" in off.out
    assert swaps(device) == {}
    area = on(zcache, device)
    thread, _ = in_background(device, f"sleep 1000 < {area}")
    off = zcache("swap", "off")
    assert off.code == 0, f"somebody has it open: {off.err}"
    ask(device, "killall sleep")
    thread.join()
    fails(zcache("swap", "off"), 5, "swap is not on")
