# SPDX-License-Identifier: Apache-2.0
"""Moments of a device, and of one that comes and goes. Cables are forced; daemons are real."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agent.conftest import Result, Zcache
from tests.agent.flaky import Cable, FlakyTransport
from zcache_agent import gather
from zcache_agent.errors import DaemonAbsent, NoDevice
from zcache_agent.gather import Gatherer, Moment, rates
from zcache_agent.kernelstats import Kernel, Pressure, Reader, parse
from zcache_agent.transport.local import LocalTransport

Local = Callable[..., Result]


@pytest.fixture
def cable() -> Cable:
    return Cable()


@pytest.fixture
def gatherer(zcache: Zcache, cable: Cable, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gatherer]:
    monkeypatch.setattr(gather, "_FIND_SECONDS", 0.0)
    directory = zcache.environment["ZCACHE_DIR"]
    with Gatherer(lambda _: FlakyTransport(directory, cable)) as made:
        yield made


def test_a_moment(local_daemon: Local, gatherer: Gatherer) -> None:
    local_daemon("pool", "create", "a")
    local_daemon("pool", "create", "b")
    moment = gatherer.take(lambda pools: pools[1:])
    assert moment.is_up
    assert moment.problem is None
    assert (moment.serial, moment.pools) == ("flaky", ["a", "b"])
    assert moment.number("page_size") == 4096
    assert moment.values["pools/a/kind"] == "persistent"
    assert moment.histograms.keys() == {"b"}
    assert len(moment.histograms["b"]) == 64
    assert moment.kernel
    assert moment.kernel.memory["MemTotal"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert moment.number("nope") == 0
    assert any(node.path == "pools/NAME/stats/puts" for node in gatherer.descriptions)
    again = Moment.from_json(json.loads(json.dumps(moment.as_json())))
    assert (again.values, again.kernel, again.histograms) == (moment.values, moment.kernel, moment.histograms)


def test_a_tick_costs_one_dump_and_starts_nothing(local_daemon: Local, gatherer: Gatherer, cable: Cable) -> None:
    local_daemon("pool", "create", "a")
    gatherer.take()
    started = len(cable.commands)
    first, second, third = (gatherer.take(chosen) for chosen in (lambda _: (), lambda _: (), lambda pools: pools))
    assert len(cable.commands) == started
    assert second.number("daemon/requests") - first.number("daemon/requests") == 1
    assert third.number("daemon/requests") - second.number("daemon/requests") == 1, "its histogram comes after the dump"
    assert gatherer.take().number("daemon/requests") - third.number("daemon/requests") == 2


def test_a_pool_that_goes_away_in_between(local_daemon: Local, gatherer: Gatherer) -> None:
    """Forced: it is never there."""
    moment = gatherer.take(lambda _: ["nope"])
    assert moment.is_up
    assert moment.histograms == {"nope": []}


def test_a_daemon_that_dies_and_comes_back(local_daemon: Local, gatherer: Gatherer, zcache: Zcache) -> None:
    before = gatherer.take()
    os.kill(local_daemon("status", "--json").json["pid"], signal.SIGKILL)
    for _ in range(2):
        moment = gatherer.take()
        assert not moment.is_up
        assert moment.kernel, "the device is there"
        if isinstance(moment.problem, DaemonAbsent):
            break
    assert isinstance(gatherer.take().problem, DaemonAbsent)
    assert zcache("-s", "local", "up", "--page-size", 4096).code == 0
    after = gatherer.take()
    assert after.is_up
    assert rates(before, after) == {}, "its counters began anew"


def test_a_device_that_is_unplugged_and_plugged_in(local_daemon: Local, gatherer: Gatherer, cable: Cable) -> None:
    assert gatherer.take().is_up
    cable.in_place.clear()
    for _ in range(2):
        moment = gatherer.take()
        assert isinstance(moment.problem, NoDevice)
        assert (moment.is_up, moment.kernel) == (False, None)
    cable.in_place.set()
    assert gatherer.take().is_up


def test_no_other_device_takes_its_place(local_daemon: Local, cable: Cable, tmp_path: Path) -> None:
    asked: list[str | None] = []

    def open_device(serial: str | None) -> FlakyTransport:
        asked.append(serial)
        return FlakyTransport(str(tmp_path / "zcache"), cable)

    with Gatherer(open_device) as gatherer:
        gatherer.take()
        cable.in_place.clear()
        gatherer.take()
        cable.in_place.set()
        gatherer.take()
    assert asked == [None, "flaky"]


def test_where_no_daemon_runs_it_is_not_looked_for_at_each_tick(zcache: Zcache, cable: Cable) -> None:
    """That takes processes on the device."""
    directory = zcache.environment["ZCACHE_DIR"]
    with Gatherer(lambda _: FlakyTransport(directory, cable)) as gatherer:
        assert gatherer.take().problem
        started = len(cable.commands)
        assert isinstance(gatherer.take().problem, DaemonAbsent)
        assert len(cable.commands) == started


def test_rates() -> None:
    before = Moment(1.0, 0, values={"a": 10, "b": "text", "gone": 1, "uptime_ms": 5})
    now = Moment(3.0, 0, values={"a": 5, "b": "text", "new": 2, "uptime_ms": 7})
    assert rates(before, now) == {"a": -2.5, "uptime_ms": 1.0}
    assert rates(None, now) == rates(now, now) == {}


# ---- the kernel ----

PHONE = """uid 0
file /proc/meminfo
line MemTotal:        5742184 kB
line MemAvailable:    2010212 kB
line SwapTotal:       4194300 kB
line SwapFree:        1194300 kB
line Zswap:               120 kB
line Zswapped:            480 kB
file /proc/pressure/memory
line some avg10=1.25 avg60=0.50 avg300=0.10 total=123456
line full avg10=0.25 avg60=0.10 avg300=0.00 total=23456
file /proc/pressure/cpu
line some avg10=10.00 avg60=5.00 avg300=1.00 total=99
file /sys/block/zram10/disksize
line 0
file /sys/block/zram0/disksize
line 4294967296
file /sys/block/zram0/mm_stat
line  1503657984 487452672 512823296        0 530579456    18234      112    40123    55555
file /sys/block/zram0/io_stat
line        1        2        3     4000
file /sys/block/zram0/bd_stat
line        7        8        9
file /sys/block/zram0/stat
line 100 0 800 5 200 0 1600 9 0 14 14
file /sys/block/zram0/comp_algorithm
line lzo lzo-rle [lz4] zstd
file /sys/block/zram0/recomp_algorithm
line #1: lzo lzo-rle lz4 [zstd]
file /sys/block/zram0/backing_dev
line /dev/block/loop7
file /sys/module/zswap/parameters/enabled
line Y
file /sys/module/zswap/parameters/compressor
line zstd
file /sys/module/zswap/parameters/max_pool_percent
line 20
file /sys/kernel/debug/zswap/stored_pages
line 120
file /sys/kernel/debug/zswap/pool_total_size
line 122880
file /proc/vmstat
line zswpin 5
line zswpout 6
"""


def test_what_a_kernel_says() -> None:
    kernel = parse(iter(PHONE.splitlines()))
    assert kernel.memory["MemTotal"] == 5742184 * 1024
    assert kernel.pressure == {"memory": Pressure(1.25, 123456, 0.25, 23456), "cpu": Pressure(10.0, 99)}
    assert list(kernel.zram) == ["zram0", "zram10"]
    zram = kernel.zram["zram0"]
    assert (zram["orig_data_size"], zram["huge_pages_since"], zram["notify_free"]) == (1503657984, 55555, 4000)
    assert (zram["bd_writes"], zram["reads"], zram["writes"]) == (9, 100, 200)
    assert (zram["algorithm"], zram["recomp_algorithm"], zram["backing_dev"]) == ("lz4", "#1: zstd", "/dev/block/loop7")
    assert kernel.zswap == {
        "enabled": "Y",
        "compressor": "zstd",
        "max_pool_percent": 20,
        "stored_pages": 120,
        "pool_total_size": 122880,
        "zswpin": 5,
        "zswpout": 6,
    }
    assert kernel.notes == []
    assert Kernel.from_json(json.loads(json.dumps(kernel.as_json()))) == kernel


def test_an_older_kernel_tells_less() -> None:
    kernel = parse(
        iter(["uid 0", "file /sys/block/zram0/mm_stat", "line 1 2 3", "file /sys/block/zram0/stat", "line 1"])
    )
    assert kernel.zram == {"zram0": {"orig_data_size": 1, "compr_data_size": 2, "mem_used_total": 3}}
    assert (kernel.zswap, kernel.pressure, kernel.notes) == ({}, {}, [])


def test_what_needs_root_is_said() -> None:
    lines = [line for line in PHONE.splitlines() if "debug" not in line and line != "uid 0"]
    closed = ["uid 2000", "closed /sys/kernel/debug", "closed /proc/pressure/io", "closed /sys/block/zram1/mm_stat"]
    kernel = parse(iter([*lines, *closed]))
    assert kernel.user == "shell"
    assert len(kernel.notes) == 3
    for note, what in zip(kernel.notes, ("PSI", "zram", "zswap"), strict=True):
        assert note.startswith(what)
        assert "shell" in note
        assert "root" in note
    assert kernel.zswap["pool_total_size"] == 120 * 1024, "meminfo tells everybody that"


def test_this_machine_is_read() -> None:
    """Whatever it has."""
    transport = LocalTransport()
    for with_kernel in (False, True):
        reader = Reader(transport, kernel=with_kernel)
        first, second = reader.read(), reader.read()
        reader.close()
        assert first.uid == second.uid == os.getuid()
        assert first.memory["MemTotal"] == second.memory["MemTotal"]
        assert bool(first.pressure) == Path("/proc/pressure/memory").exists()
        zrams = {path.name for path in Path("/sys/block").glob("zram*")}
        assert set(first.zram) == (zrams if with_kernel else set())
        assert bool(first.zswap) == (with_kernel and Path("/sys/module/zswap/parameters/enabled").exists())
