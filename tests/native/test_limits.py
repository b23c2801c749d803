# SPDX-License-Identifier: Apache-2.0
"""One limit over both kinds, pressure, hints, poor runs: who gives way, and in which order."""

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.native.driver import CONFIGS, Driver
from tests.support import require_or_skip

MIB = 1024 * 1024
ALLOCATORS = ["zbud", "zsmalloc"]
PSI, MEMINFO = 1, 2
"""pressure_source"""
PATIENCE = 60
"""Seconds, until what has to happen counts as missing."""


def fake_proc(directory: Path, available_kb: int = 900_000) -> Path:
    """A fake /proc, to force a shortage of memory, and without PSI."""
    directory.mkdir(exist_ok=True)
    (directory / "meminfo").write_text(f"MemTotal: 1048576 kB\nMemAvailable: {available_kb} kB\n")
    return directory


def wait_for(driver: Driver, pool: str, counter: str) -> int:
    for _ in range(PATIENCE * 20):
        if value := driver.stats(pool)[counter]:
            return value
        time.sleep(0.05)
    pytest.fail(f"{counter} stayed 0")


@pytest.mark.parametrize("allocator", ALLOCATORS)
@pytest.mark.parametrize("config", CONFIGS)
def test_a_persistent_put_takes_room_from_ephemeral_pools(config: str, allocator: str) -> None:
    with Driver(config, 4096, 4 * MIB) as driver:
        driver.ask("pool", "e", "ephemeral", allocator)
        driver.ask("pool", "p", "persistent", allocator)
        driver.ask("bulk", "e", 1, 0, 800, 2000)
        driver.ask("settle")
        held = driver.stats("e")["zpages"]
        before = driver.stats("e")["reclaimed_zpages"]
        stored = int(driver.ask("bulk", "p", 1, 0, 1200, 2000).split()[1])
        driver.ask("settle")
        eph, pers = driver.stats("e"), driver.stats("p")
        assert eph["pers_ate_eph"] > 0
        assert eph["pers_ate_eph_frames"] > 0
        assert pers["zpages"] == stored
        assert eph["zpages"] + eph["reclaimed_zpages"] - before == held
        driver.ask("bulk", "p", 2, 0, 2000, 2000)  # more than fits: not one ephemeral page is left then
        assert driver.stats("p")["policy_percent_exceeded"] > 0
        assert driver.stats("e")["frames"] == 0
        assert driver.stats("p")["reclaimed_zpages"] == 0
        driver.ask("settle")
        assert driver.used()[0] <= 4 * MIB
        assert driver.ask("check") == "ok"


@pytest.mark.parametrize("config", CONFIGS)
def test_the_keeper_shrinks_the_largest_ephemeral_pool_to_the_low_watermark(config: str) -> None:
    with Driver(config, 4096, 8 * MIB) as driver:
        driver.ask("set", "high_watermark_percent", 60)
        driver.ask("set", "low_watermark_percent", "50%")
        for name in ("small", "large"):
            driver.ask("pool", name, "ephemeral")
        driver.ask("bulk", "small", 1, 0, 200, 2000)
        driver.ask("bulk", "large", 1, 0, 4000, 2000)
        driver.ask("settle")
        totals = driver.totals()
        used = totals["used_bytes"] - totals["reserve_frames"] * 4096
        assert used <= 8 * MIB * 0.6
        assert driver.stats("large")["evicted_limit"] > 0
        assert driver.stats("small")["reclaimed_zpages"] == 0
        assert driver.ask("get", "large", 1, 3999).startswith("page ")  # the coldest went
        assert driver.ask("get", "large", 1, 0) == "err ENOENT"


def test_the_keeper_runs_when_the_limit_is_lowered() -> None:
    with Driver("host", 4096, 64 * MIB) as driver:
        driver.ask("pool", "e", "ephemeral")
        driver.ask("bulk", "e", 1, 0, 4000, 2000)
        driver.ask("limit", 4 * MIB)
        driver.ask("settle")
        totals = driver.totals()
        assert totals["used_bytes"] - totals["reserve_frames"] * 4096 <= 4 * MIB * 0.9


@pytest.mark.parametrize("page_size", [4096, 65536])
def test_an_ephemeral_pool_alone_never_stays_shut(page_size: int) -> None:
    """Also where the limit leaves only a few frames: what is new comes in place of what is cold."""
    for frames in (8, 40, 400):
        with Driver("host", page_size, 256 * 1024 + frames * page_size) as driver:
            driver.ask("reserve", 0)
            driver.ask("pool", "e", "ephemeral")
            for first in range(0, 20 * frames, frames):
                driver.ask("bulk", "e", 1, first, frames, page_size * 3 // 8)
                driver.ask("settle")
                answer = driver.ask("put", "e", 2, first, f"rand:1:{page_size * 3 // 8}")
                assert answer.startswith("stored ")
            assert driver.stats("e")["evicted_limit"] > 0


def test_once_full_puts_are_refused_until_usage_has_fallen() -> None:
    with Driver("host", 4096, 4 * MIB) as driver:
        driver.ask("set", "accept_threshold_percent", 50)
        driver.ask("pool", "p", "persistent")
        driver.ask("param", "p", "zv_max_mean_zsize", "100%")
        stored = int(driver.ask("bulk", "p", 1, 0, 4000, 3000).split()[1])
        for i in range(0, stored, 4):
            driver.ask("flush", "p", 1, i)
        assert driver.ask("put", "p", 2, 1, "rand:1:3000") == "policy_percent_exceeded 0"
        assert driver.ask("put", "p", 2, 2, "fill:1") == "stored 0"
        for i in range(1, stored, 2):
            driver.ask("flush", "p", 1, i)
        assert driver.ask("put", "p", 2, 1, "rand:1:3000").startswith("stored ")


def test_a_full_store_opens_where_there_is_ephemeral_room() -> None:
    """Though more is used than accept_threshold_percent."""
    with Driver("host", 4096, 4 * MIB) as driver:
        driver.ask("set", "accept_threshold_percent", 10)
        driver.ask("set", "high_watermark_percent", 100)
        driver.ask("pool", "p", "persistent")
        driver.ask("param", "p", "zv_max_mean_zsize", "100%")
        driver.ask("pool", "e", "ephemeral")
        driver.ask("bulk", "e", 1, 0, 100, 2000)
        stored = int(driver.ask("bulk", "p", 1, 0, 4000, 3000).split()[1])
        assert driver.stats("e")["frames"] == 0
        driver.ask("flobj", "p", 1)
        assert stored > 0
        assert driver.ask("put", "p", 2, 1, "rand:1:3000").startswith("stored ")


@pytest.mark.parametrize("config", CONFIGS)
def test_without_psi_meminfo_is_looked_at(config: str, tmp_path: Path) -> None:
    """The shortage is a fake: a proc_dir without pressure/, in which MemAvailable falls."""
    proc = fake_proc(tmp_path / "proc")
    with Driver(config, 4096, 64 * MIB, proc) as driver:
        assert driver.totals()["pressure_source"] == 0
        driver.ask("pool", "e", "ephemeral")
        driver.ask("pool", "p", "persistent")
        assert driver.totals()["pressure_source"] == MEMINFO
        for pool in ("e", "p"):
            driver.ask("bulk", pool, 1, 0, 1000, 2000)
        fake_proc(proc, 10_000)
        assert wait_for(driver, "e", "evicted_pressure") >= 50
        assert driver.totals()["pressures"] > 0
        assert driver.stats("p")["zpages"] == 1000


def test_the_trigger_is_as_linux_wants_it_and_its_end_is_noticed(tmp_path: Path) -> None:
    """A fake: a pipe stands for pressure/memory. Its reader goes away, as no PSI file ever does on a sound system."""
    proc = fake_proc(tmp_path / "proc")
    (proc / "pressure").mkdir()
    os.mkfifo(proc / "pressure" / "memory")
    with Driver("host", 4096, 64 * MIB, proc) as driver:
        reader = os.open(proc / "pressure" / "memory", os.O_RDONLY | os.O_NONBLOCK)
        driver.ask("pool", "e", "ephemeral")
        assert driver.totals()["pressure_source"] == PSI
        assert select.select([reader], [], [], PATIENCE)[0]
        assert os.read(reader, 100) == b"some 150000 2000000\0"
        os.close(reader)


def test_the_os_says_that_tasks_wait(tmp_path: Path) -> None:
    """A real trigger, on the pressure of processors, which is easily had: only the file's name is a fake."""
    if not Path("/proc/pressure/cpu").exists():
        require_or_skip("psi", "this kernel has no PSI")
    proc = fake_proc(tmp_path / "proc")
    (proc / "pressure").mkdir()
    (proc / "pressure" / "memory").symlink_to("/proc/pressure/cpu")
    with Driver("host", 4096, 64 * MIB, proc) as driver:
        driver.ask("pool", "e", "ephemeral")
        assert driver.totals()["pressure_source"] == PSI
        driver.ask("bulk", "e", 1, 0, 1000, 2000)
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
        try:
            assert wait_for(driver, "e", "evicted_pressure") >= 50
        finally:
            for process in busy:
                process.kill()
                process.wait()


@pytest.mark.parametrize("kind", ["persistent", "ephemeral"])
def test_inactive_pages_may_be_ignored(kind: str) -> None:
    name = f"{kind[:4] if kind[0] == 'p' else 'eph'}_nonactive_puts_ignored"
    with Driver("host", 4096) as driver:
        driver.ask("pool", "p", kind)
        assert driver.ask("put-inactive", "p", 1, 1, "rand:1:1000").startswith("stored ")
        driver.ask("param", "p", "nonactive_puts_ignored", 1)
        assert driver.ask("put-inactive", "p", 1, 1, "rand:1:1000") == f"{name} 0"
        assert driver.ask("put-inactive", "p", 1, 2, "fill:1") == f"{name} 0"
        assert driver.ask("get", "p", 1, 1) == "err ENOENT"  # not a stale page
        assert driver.ask("put", "p", 1, 1, "rand:1:1000").startswith("stored ")
        assert driver.stats("p")[name] == 2


def test_a_long_poor_run_is_not_tried_page_by_page_and_ends() -> None:
    with Driver("host", 4096) as driver:
        driver.ask("pool", "p", "persistent")
        driver.ask("param", "p", "poor_run_limit", 64)
        driver.ask("bulk", "p", 1, 0, 64 + 160, 4096)
        stats = driver.stats("p")
        assert (stats["compress_poor"], stats["poor_run_refused"]) == (64 + 10, 150)
        assert driver.ask("put", "p", 1, 0, "fill:1") == "stored 0"
        answers = [driver.ask("put", "p", 2, i, f"rand:{i}:1000").split()[0] for i in range(20)]
        assert answers == ["poor_run_refused"] * 15 + ["stored"] * 5
        driver.ask("bulk", "p", 1, 0, 70, 4096)
        driver.ask("param", "p", "keep_rejected", 1)
        assert driver.ask("put", "p", 3, 1, "rand:1:1000") == "stored 4096"  # untried, so kept as it is
        assert driver.ask("param", "p", "poor_run_limit", 65536) == "err ERANGE"


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_overwriting_makes_sparse_too_and_compacts(allocator: str) -> None:
    """Pages by which others are overwritten, of one word each, take no frame."""
    with Driver("host", 4096) as driver:
        driver.ask("pool", "p", "persistent", allocator)
        driver.ask("bulk", "p", 1, 0, 8000, 1800)
        for i in range(8000):
            if i * 0x9E3779B97F4A7C15 % 2**64 >> 32 & 3:
                driver.ask("put", "p", 1, i, "fill:1")
        assert driver.stats("p")["compacted_zpages"] > 0


def test_a_shortage_for_which_nothing_is_given_up_changes_nothing() -> None:
    """Ephemeral pages are there still for who comes to the limit."""
    with Driver("host", 4096, 4 * MIB) as driver:
        driver.ask("pool", "e", "ephemeral")
        driver.ask("pool", "p", "persistent")
        driver.ask("bulk", "e", 1, 0, 1000, 2000)
        driver.ask("set", "pressure_shrink_percent", 0)
        driver.ask("pressure")
        assert driver.stats("e")["zpages"] == 1000
        assert driver.ask("bulk", "p", 1, 0, 1300, 2000) == "stored 1300"
        assert driver.stats("e")["pers_ate_eph"] > 0
