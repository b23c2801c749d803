# SPDX-License-Identifier: Apache-2.0
"""Writeback by itself: at the limit, of idle pages, when memory is short; what fails; and that nobody wakes in vain."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.native.driver import CONFIGS, Driver, crc
from tests.native.test_limits import MEMINFO, PATIENCE, PSI, fake_proc, wait_for

MIB = 1024 * 1024
LAYOUTS = ["packed", "in_place"]
CAUSES = ["user", "limit", "pressure", "idle"]


@contextmanager
def driver_with_a_pool(
    path: Path, limit: int = 0, config: str = "host", layout: str = "packed", size: int = 256 * MIB, *store: object
) -> Iterator[Driver]:
    """Pool p of zsmalloc, which has a backing store. In the end all holds together, and every cause is counted."""
    with Driver(config, 4096, limit, *store) as driver:
        assert driver.ask("pool", "p", "persistent", "zsmalloc") == "ok"
        assert driver.ask("backing", "p", path / "store", layout, size) == "ok"
        yield driver
        assert driver.ask("settle") == "ok"
        assert driver.ask("check") == "ok"
        stats = driver.stats("p")
        assert stats["writeback_pages"] == sum(stats[f"writeback_{cause}"] for cause in CAUSES)
        assert stats["writeback_frames"] == sum(stats[f"writeback_{cause}_frames"] for cause in CAUSES)


def put(driver: Driver, first: int, count: int, length: int = 2000) -> int:
    """Pages of object 1; how many were taken."""
    return int(driver.ask("bulk", "p", 1, first, count, length).split()[1])


def is_there(driver: Driver, index: int, length: int = 2000) -> bool:
    return driver.ask("peek", "p", 1, index) == f"page {crc(f'rand:{index}:{length}', 4096)}"


def where(driver: Driver, *indexes: int) -> list[str]:
    return [driver.ask("where", "p", 1, index) for index in indexes]


def used(driver: Driver) -> int:
    """Bytes that the limit is held against."""
    totals = driver.totals()
    return totals["used_bytes"] - totals["reserve_frames"] * 4096


def wakeups(driver: Driver) -> int:
    """Times that the keeper went to sleep."""
    for task in Path(f"/proc/{driver.pid}/task").iterdir():
        if (task / "comm").read_text() == "zc-keeper\n":
            status = (task / "status").read_text()
            return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])
    pytest.fail("there is no keeper")


# ---- the limit ----


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", CONFIGS)
def test_what_is_put_beyond_the_limit_is_taken(config: str, layout: str, tmp_path: Path) -> None:
    """Not one put is refused, as the store takes what is colder."""
    count = 3000 if config == "host" else 1500
    with driver_with_a_pool(tmp_path, 2 * MIB, config, layout) as driver:
        assert put(driver, 0, count) == count
        driver.ask("settle")
        stats = driver.stats("p")
        assert stats["policy_percent_exceeded"] == stats["failed_getfreepages"] == 0
        assert stats["writeback_limit"] == stats["written_pages"] > count / 3
        assert stats["writeback_limit_frames"] == stats["writeback_frames"] > 0
        assert driver.totals()["used_bytes"] <= 2 * MIB
        assert all(is_there(driver, index) for index in range(0, count, 7))
        assert where(driver, 0, count - 1) == ["written", "zpage"]  # the coldest went


def test_the_keeper_writes_down_to_the_low_watermark(tmp_path: Path) -> None:
    with driver_with_a_pool(tmp_path, 32 * MIB) as driver:
        driver.ask("set", "high_watermark_percent", 20)
        driver.ask("set", "low_watermark_percent", 10)
        assert put(driver, 0, 4000) == 4000
        driver.ask("settle")
        assert used(driver) <= 32 * MIB * 0.2
        assert (before := driver.stats("p")["writeback_limit"]) > 0
        driver.ask("limit", 8 * MIB)
        driver.ask("set", "high_watermark_percent", 25)
        driver.ask("settle")
        assert used(driver) <= 8 * MIB * 0.25
        assert driver.stats("p")["writeback_limit"] > before
        assert driver.stats("p")["zpages"] > 0


def test_ephemeral_pages_give_way_first(tmp_path: Path) -> None:
    with driver_with_a_pool(tmp_path, 4 * MIB) as driver:
        driver.ask("pool", "e", "ephemeral")
        driver.ask("bulk", "e", 1, 0, 600, 2000)
        assert put(driver, 0, 1400) == 1400
        driver.ask("settle")
        assert driver.stats("e")["pers_ate_eph"] > 0
        assert driver.stats("p")["writeback_limit"] == 0
        assert put(driver, 1400, 1400) == 1400
        driver.ask("settle")
        assert driver.stats("e")["frames"] == 0
        assert driver.stats("p")["writeback_limit"] > 0


def test_an_ephemeral_put_does_not_wait_for_a_write(tmp_path: Path) -> None:
    """Nor do persistent pages leave while it is ephemeral ones that fill the store."""
    with driver_with_a_pool(tmp_path, 4 * MIB) as driver:
        driver.ask("pool", "e", "ephemeral")
        assert put(driver, 0, 200) == 200
        driver.ask("bulk", "e", 1, 0, 5000, 2000)
        driver.ask("settle")
        assert driver.stats("e")["evicted_limit"] > 0
        assert driver.stats("p")["written_pages"] == 0


def test_writeback_auto_says_whether(tmp_path: Path) -> None:
    with driver_with_a_pool(tmp_path, 2 * MIB) as driver:
        driver.ask("param", "p", "writeback_auto", 0)
        stored = put(driver, 0, 3000)
        driver.ask("pressure")
        driver.ask("settle")
        assert stored < 3000
        assert driver.stats("p")["written_pages"] == 0
        assert driver.ask("writeback", "p", 1).endswith(" ok")
        driver.ask("param", "p", "writeback_auto", 1)
        driver.ask("settle")
        assert used(driver) <= 2 * MIB * 0.9
        assert put(driver, 3000, 3000) == 3000


def test_another_pools_pages_make_room(tmp_path: Path) -> None:
    """Of a pool without a backing store the puts are taken as long as others have something to write."""
    with driver_with_a_pool(tmp_path, 4 * MIB) as driver:
        driver.ask("pool", "q", "persistent")
        assert put(driver, 0, 1000) == 1000
        assert driver.ask("bulk", "q", 1, 0, 1000, 2000) == "stored 1000"
        driver.ask("bulk", "q", 1, 1000, 3000, 2000)
        assert driver.stats("q")["policy_percent_exceeded"] > 0
        assert driver.stats("p")["frames"] == 0
        assert driver.stats("q")["written_pages"] == 0


@pytest.mark.parametrize("allocator", ["zbud", "zsmalloc"])
def test_what_compresses_badly_goes_first_at_the_limit(allocator: str, tmp_path: Path) -> None:
    with Driver("host-asan", 4096, 4 * MIB) as driver:
        driver.ask("pool", "p", "persistent", allocator)
        assert driver.ask("backing", "p", tmp_path / "store", "packed", 64 * MIB) == "ok"
        put(driver, 0, 600)
        for index in range(1000, 1040):
            assert driver.ask("put", "p", 1, index, f"rand:{index}:4096") == "stored 4096"
        driver.ask("limit", used(driver) * 100 // 96)
        driver.ask("settle")
        stats = driver.stats("p")
        assert stats["raw_pages"] == 0
        assert stats["writeback_limit"] >= 40
        assert where(driver, 599) == ["zpage"]
        assert all(is_there(driver, index, 4096) for index in range(1000, 1040))


# ---- faults ----


@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "short"])
def test_a_store_that_fails_is_left_alone_and_then_tried_again(error: str, tmp_path: Path) -> None:
    with driver_with_a_pool(tmp_path, 2 * MIB, "host-asan") as driver:
        driver.ask("fault", "data", error, 0, 10**6)
        stored = put(driver, 0, 1200)
        driver.ask("settle")
        stats = driver.stats("p")
        assert 0 < stored < 1200
        assert stats["zpages"] == stored
        assert stats["written_pages"] == 0
        assert 0 < (errors := stats["writeback_errors"]) < 10
        before = wakeups(driver)
        for index in range(2000, 3000):
            assert driver.ask("put", "p", 1, index, "rand:1:2000") == "policy_percent_exceeded 0"
        assert wakeups(driver) - before < 20  # not by each put
        assert driver.stats("p")["writeback_errors"] - errors < 10
        assert all(is_there(driver, index) for index in range(0, stored, 7))
        driver.ask("fault", "data", error, 0, 0)
        driver.ask("skip", 100)  # longer than it is left alone
        driver.ask("settle")
        stats = driver.stats("p")
        assert stats["writeback_limit"] > 0
        assert used(driver) <= 2 * MIB * 0.9
        assert put(driver, 1200, 300) == 300
        assert all(is_there(driver, index) for index in range(0, stored, 7))


def test_the_keeper_does_not_wait_for_puts_to_try_again(tmp_path: Path) -> None:
    """After a second, by the real clock."""
    with driver_with_a_pool(tmp_path, 2 * MIB) as driver:
        driver.ask("fault", "data", "EIO", 0, 1)
        driver.ask("set", "high_watermark_percent", 50)
        driver.ask("set", "low_watermark_percent", 40)
        put(driver, 0, 700)
        assert wait_for(driver, "p", "writeback_limit")
        assert driver.stats("p")["writeback_errors"] == 1


def test_a_full_store_and_a_full_backing_store_refuse(tmp_path: Path) -> None:
    """And cost the keeper next to nothing. What is flushed opens both."""
    with driver_with_a_pool(tmp_path, 2 * MIB, "host", "packed", 10 * MIB) as driver:
        stored = put(driver, 0, 12000)
        assert 0 < stored < 12000
        assert all(is_there(driver, index) for index in range(0, stored, 7))
        before = wakeups(driver)
        for index in range(1000):
            assert driver.ask("put", "p", 2, index, "rand:1:2000") == "policy_percent_exceeded 0"
        assert wakeups(driver) - before < 20
        for index in range(0, stored, 2):
            driver.ask("flush", "p", 1, index)
        driver.ask("skip", 100)
        driver.ask("settle")
        assert driver.ask("put", "p", 2, 0, "rand:1:2000").startswith("stored ")
        assert put(driver, 20000, 500) == 500
        assert all(is_there(driver, index) for index in range(1, stored, 14))


def test_a_budget_is_kept_by_the_limit_and_lasts(tmp_path: Path) -> None:
    """What a batch takes more is missing later: in half a day there is half a day's budget, not a batch each time."""
    with driver_with_a_pool(tmp_path, 8 * MIB) as driver:
        driver.ask("set", "low_watermark_percent", 20)
        driver.ask("param", "p", "writeback_budget", 4 * MIB)
        assert 0 < put(driver, 0, 9000) < 9000
        driver.ask("settle")

        def wear() -> int:
            stats = driver.stats("p")
            return stats["wear_evicted"] + stats["wear_cleaned"] + stats["wear_metadata"]

        assert 4 * MIB <= wear() < 6 * MIB
        assert driver.stats("p")["writeback_errors"] == 0
        for hour in range(12):
            before = wakeups(driver)
            driver.ask("skip", 3600)
            put(driver, 10000 + 1000 * hour, 1000)
            driver.ask("settle")
            assert wakeups(driver) - before < 100
        assert 5 * MIB <= wear() < 8 * MIB
        before = wear()
        driver.ask("param", "p", "writeback_budget", 0)
        assert put(driver, 50000, 4000) == 4000
        assert wear() > before + 2 * MIB


# ---- idle pages ----


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", CONFIGS)
def test_idle_pages_are_written_back_page_by_page(config: str, layout: str, tmp_path: Path) -> None:
    with driver_with_a_pool(tmp_path, 0, config, layout) as driver:
        driver.ask("param", "p", "writeback_after", 1000)
        assert put(driver, 0, 600, 1000) == 600
        driver.ask("skip", 600)
        driver.ask("settle")
        assert driver.stats("p")["written_pages"] == 0
        for index in range(0, 600, 3):
            assert driver.ask("get", "p", 1, index).startswith("page ")
        driver.ask("peek", "p", 1, 1)  # does not count
        frames = driver.stats("p")["frames"]
        driver.ask("skip", 600)
        driver.ask("settle")
        stats = driver.stats("p")
        assert stats["writeback_idle"] == stats["written_pages"] == 400
        assert where(driver, 0, 1, 2, 3) == ["zpage", "written", "written", "zpage"]
        assert stats["frames"] < frames / 2  # compacted
        driver.ask("skip", 600)
        driver.ask("settle")
        assert driver.stats("p")["writeback_idle"] == 600
        assert driver.stats("p")["frames"] == 0
        assert all(is_there(driver, index, 1000) for index in range(600))


def test_a_page_that_was_idle_for_days_does_not_look_young(tmp_path: Path) -> None:
    """As long as it is looked at: ages are of 16 bits."""
    with driver_with_a_pool(tmp_path) as driver:
        put(driver, 0, 10)
        driver.ask("fault", "data", "EIO", 0, 10**6)
        driver.ask("param", "p", "writeback_after", 30000)
        for _ in range(9):
            driver.ask("skip", 20000)
            driver.ask("settle")
            assert driver.stats("p")["written_pages"] == 0
        errors = driver.stats("p")["writeback_errors"]
        assert errors >= 7
        assert driver.ask("idle", "p", 1, 3) == "32767"
        driver.ask("fault", "data", "EIO", 0, 0)
        driver.ask("skip", 100)
        driver.ask("settle")
        assert driver.stats("p")["writeback_idle"] == 10


def test_idle_pages_wait_for_a_backing_store_and_are_found_when_there_is_one(tmp_path: Path) -> None:
    with Driver("host", 4096) as driver:
        driver.ask("pool", "p", "persistent")
        driver.ask("param", "p", "writeback_after", 100)
        put(driver, 0, 10)
        driver.ask("skip", 1000)
        driver.ask("settle")
        assert driver.ask("backing", "p", tmp_path / "store", "packed", 16 * MIB) == "ok"
        driver.ask("settle")
        assert driver.stats("p")["writeback_idle"] == 10
        driver.ask("put", "p", 1, 3, "rand:3:100")
        driver.ask("skip", 101)
        driver.ask("settle")
        assert driver.stats("p")["writeback_idle"] == 11
        assert driver.ask("param", "p", "writeback_after", 32768) == "err ERANGE"


def test_idle_pages_keep_to_the_budget(tmp_path: Path) -> None:
    with driver_with_a_pool(tmp_path) as driver:
        driver.ask("param", "p", "writeback_budget", 2 * MIB)
        driver.ask("param", "p", "writeback_after", 100)
        put(driver, 0, 4000)
        driver.ask("skip", 200)
        driver.ask("settle")
        written = driver.stats("p")["written_pages"]
        assert 900 < written < 2000
        before = wakeups(driver)
        driver.ask("skip", 5)
        driver.ask("settle")
        assert wakeups(driver) - before < 5
        driver.ask("skip", 12 * 3600)
        driver.ask("settle")
        assert written < driver.stats("p")["written_pages"] < 4000


@pytest.mark.parametrize("request_", ["get p 1 3", "put p 1 3 rand:77:300", "flush p 1 3", "flobj p 1", "compact p"])
def test_what_others_do_while_idle_pages_are_written(request_: str, tmp_path: Path) -> None:
    """By the thread that writes, as it writes: no lock is held. A page that was got or moved is looked at again."""
    with driver_with_a_pool(tmp_path) as driver:
        put(driver, 0, 20)
        driver.ask("param", "p", "writeback_after", 100)
        driver.ask("meanwhile", "write", request_)
        driver.ask("skip", 200)
        driver.ask("settle")
        if request_.startswith("put"):
            assert where(driver, 3) == ["zpage"]
        driver.ask("skip", 200)
        driver.ask("settle")
        assert where(driver, 3) == ["none" if request_.startswith("fl") else "written"]


# ---- pressure ----


def test_when_memory_is_short_backed_pools_give_frames_after_ephemeral_ones(tmp_path: Path) -> None:
    with driver_with_a_pool(tmp_path) as driver:
        driver.ask("pool", "q", "persistent")
        driver.ask("pool", "e", "ephemeral")
        for pool in ("e", "q", "p"):
            driver.ask("bulk", pool, 1, 0, 1000, 2000)
        frames = driver.stats("p")["frames"]
        driver.ask("set", "pressure_shrink_percent", 0)
        driver.ask("pressure")
        assert driver.stats("p")["written_pages"] == driver.stats("e")["reclaimed_zpages"] == 0
        driver.ask("set", "pressure_shrink_percent", 20)
        driver.ask("pressure")
        stats = driver.stats("p")
        assert frames * 0.2 <= stats["writeback_pressure_frames"] < frames * 0.4
        assert stats["writeback_pressure"] == stats["written_pages"]
        assert driver.stats("e")["evicted_pressure"] > 0
        assert driver.stats("q")["zpages"] == 1000


def test_without_psi_meminfo_is_looked_at_for_a_backed_pool_alone(tmp_path: Path) -> None:
    proc = fake_proc(tmp_path / "proc")
    with driver_with_a_pool(tmp_path, 64 * MIB, "host", "packed", 64 * MIB, proc) as driver:
        assert driver.totals()["pressure_source"] == MEMINFO
        put(driver, 0, 1000)
        fake_proc(proc, 10_000)
        assert wait_for(driver, "p", "writeback_pressure")
        assert is_there(driver, 0)


def test_where_the_os_does_not_tell_any_more_meminfo_is_looked_at(tmp_path: Path) -> None:
    """A terminal stands for pressure/memory: when its other end is closed, it says so, as PSI would."""
    proc = fake_proc(tmp_path / "proc")
    (proc / "pressure").mkdir()
    ours, its = os.openpty()
    (proc / "pressure" / "memory").symlink_to(os.ttyname(its))
    with Driver("host", 4096, 64 * MIB, proc) as driver:
        os.close(its)
        driver.ask("pool", "e", "ephemeral")
        assert driver.totals()["pressure_source"] == PSI
        assert os.read(ours, 100).startswith(b"some 150000 2000000")
        os.close(ours)
        for _ in range(PATIENCE * 20):
            if driver.totals()["pressure_source"] == MEMINFO:
                break
            time.sleep(0.05)
        assert driver.totals()["pressure_source"] == MEMINFO
        driver.ask("bulk", "e", 1, 0, 1000, 2000)
        fake_proc(proc, 10_000)
        assert wait_for(driver, "e", "evicted_pressure") >= 50


# ---- threads ----


def test_an_idle_store_never_wakes(tmp_path: Path) -> None:
    """With pages in it, chores on, and no PSI; nor after what was ephemeral has gone."""
    proc = fake_proc(tmp_path / "proc")
    with Driver("host", 4096, 64 * MIB, proc) as driver:
        driver.ask("pool", "p", "persistent")
        driver.ask("pool", "e", "ephemeral")
        driver.ask("param", "p", "writeback_after", 1000)
        for pool in ("p", "e"):
            driver.ask("bulk", pool, 1, 0, 100, 2000)
        driver.ask("flobj", "e", 1)
        time.sleep(1.2)  # a last look at meminfo
        driver.ask("settle")
        before = wakeups(driver)
        time.sleep(3)
        assert wakeups(driver) == before
        driver.ask("bulk", "e", 1, 0, 100, 2000)
        time.sleep(3)
        assert wakeups(driver) > before  # the count counts


def test_the_reserve_is_filled_by_another_thread_than_the_one_that_puts() -> None:
    """Which does nothing at all meanwhile: it waits for a request."""
    with Driver("host", 4096, 64 * MIB) as driver:
        driver.ask("reserve", 256)
        driver.ask("pool", "p", "persistent")
        driver.ask("bulk", "p", 1, 0, 500, 2000)
        driver.ask("reserve", 4096)
        driver.ask("put", "p", 2, 1, "rand:1:2000")
        assert driver.totals()["reserve_frames"] < 4096
        for _ in range(PATIENCE * 20):
            if (ready := driver.totals()["reserve_frames"]) >= 4096:
                break
            time.sleep(0.05)
        assert ready >= 4096
