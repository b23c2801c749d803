# SPDX-License-Identifier: Apache-2.0
"""Moments of emulated devices: what their kernels say of zram, zswap and pressure, with and without root."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.agent.conftest import Zcache
from tools.emulator import Device
from zcache_agent.device import look, run_script
from zcache_agent.errors import DaemonAbsent
from zcache_agent.gather import Gatherer
from zcache_agent.kernelstats import ZSWAP_FIELDS
from zcache_agent.transport import Transport, open_transport


@pytest.fixture
def transport(device: Device, monkeypatch: pytest.MonkeyPatch) -> Transport:
    for name, value in device.env.items():
        monkeypatch.setenv(name, value)
    return open_transport(device.serial, 60)


@pytest.fixture
def zcache(device: Device, transport: Transport) -> Iterator[Zcache]:
    """The command, and a daemon there."""
    command = Zcache({**device.env, "ANDROID_SERIAL": device.serial})
    started = command("up")
    assert started.code == 0, started.err
    yield command
    assert command("down", "--force").code == 0


def test_the_kernel_of_a_device(zcache: Zcache, transport: Transport, device: Device) -> None:
    root = look(transport).is_root
    if root:
        set_up = "mount -t debugfs none /sys/kernel/debug; d=/sys/block/zram0; echo 1 >$d/reset && echo 8M >$d/disksize"
        assert run_script(transport, f"{set_up} && dd if=/proc/cpuinfo of=/dev/zram0 bs=4096 conv=sync,fsync").code == 0
    try:
        with Gatherer(lambda _: open_transport(device.serial, 60), kernel=True) as gatherer:
            gatherer.take()
            moment = gatherer.take()
    finally:
        if root:
            run_script(transport, "echo 1 >/sys/block/zram0/reset; umount /sys/kernel/debug")
    assert moment.is_up
    kernel = moment.kernel
    assert kernel
    assert kernel.memory["MemTotal"] == look(transport).mem_total
    assert kernel.uid == (0 if root else 2000)
    assert bool(kernel.pressure) == look(transport).psi
    zram = kernel.zram["zram0"]
    if root:
        assert zram["disksize"] == 8 << 20
        assert int(zram["orig_data_size"]) + int(zram["same_pages"]) > 0
        assert int(zram["writes"]) > 0
    assert bool(kernel.zswap) == look(transport).zswap
    if kernel.zswap:
        assert "max_pool_percent" in kernel.zswap
        assert ("stored_pages" in kernel.zswap) == root
        assert bool([note for note in kernel.notes if note.startswith("zswap")]) == (
            not root and kernel.zswap["enabled"] == "Y"
        )


def test_zswap_as_root(boot_device: Callable[..., Device], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its counters are in debugfs. No daemon runs there: the kernel is told of all the same."""
    device = boot_device("arm64-16k", root=True, mem_mb=256)
    for name, value in device.env.items():
        monkeypatch.setenv(name, value)
    transport = open_transport(device.serial, 60)
    switched_on = "echo Y >/sys/module/zswap/parameters/enabled"
    assert run_script(transport, switched_on).code == 0
    with Gatherer(lambda _: open_transport(device.serial, 60), kernel=True) as gatherer:
        without = gatherer.take().kernel
        assert run_script(transport, "mount -t debugfs none /sys/kernel/debug").code == 0
        moment = gatherer.take()
    assert isinstance(moment.problem, DaemonAbsent)
    assert without
    assert moment.kernel
    if "stored_pages" not in without.zswap:
        assert any("debugfs" in note for note in without.notes)
    assert moment.kernel.notes == []
    assert moment.kernel.zswap["enabled"] == "Y"
    known = {each.name for each in ZSWAP_FIELDS}
    counters = run_script(transport, "ls /sys/kernel/debug/zswap").text.split()
    assert {"pool_limit_hit", "reject_compress_poor", "stored_pages", "written_back_pages"} <= set(counters)
    assert set(counters) <= known, "what it counts is exported"


@pytest.mark.parametrize("device", ["arm64"], indirect=True)
def test_metrics_and_a_report_of_a_device(zcache: Zcache, device: Device, tmp_path: Path) -> None:
    assert zcache("pool", "create", "swap").code == 0
    exported = zcache("export", "--once", "--kernel")
    assert exported.code == 0, exported.err
    found = {family.name: family for family in text_string_to_metric_families(exported.out)}
    assert [sample.value for sample in found["zcache_up"].samples] == [1]
    assert found["zcache_info"].samples[0].labels["serial"] == device.serial
    made = zcache("report", tmp_path / "r.html")
    assert made.code == 0, made.err
    assert "swap device" in (tmp_path / "r.html").read_text()
