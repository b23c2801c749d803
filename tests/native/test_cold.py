# SPDX-License-Identifier: Apache-2.0
"""Extents: what is left of one when a member goes, what a damaged one costs, and where they go."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.native.driver import CONFIGS, Driver, crc
from tests.native.test_auto import wakeups

PAGES = 16


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[4096, 16384, 65536])
def driver(config: str, request: pytest.FixtureRequest) -> Iterator[Driver]:
    with Driver(config, request.param) as driver:
        yield driver


def content(driver: Driver, index: int) -> str:
    """A quarter of it random half bytes: LZ4 keeps them as they are, zstd halves them."""
    return f"half:{index}:{driver.page_size // 4}"


def put(driver: Driver, pool: str, indexes: Iterator[int] | range, object_id: int = 1) -> None:
    for index in indexes:
        assert driver.ask("put", pool, object_id, index, content(driver, index)).startswith("stored")


def make_cold(driver: Driver, *, extent: int = 4, pool: str = "p", kind: str = "persistent") -> None:
    assert driver.ask("pool", pool, kind, "zsmalloc") == "ok"
    assert driver.ask("param", pool, "cold_extent", extent) == "ok"
    put(driver, pool, range(PAGES))
    answer = driver.ask("recompress", pool, 10**6).split()
    assert answer[2:] == ["pages", str(PAGES), "extents", str(PAGES // extent), "ok"]


def store_size(driver: Driver) -> int:
    return max(8 << 20, 400 * driver.page_size)


def is_there(driver: Driver, pool: str, index: int) -> bool:
    return driver.ask("peek", pool, 1, index) == f"page {crc(content(driver, index), driver.page_size)}"


def where(driver: Driver, pool: str) -> list[str]:
    return [driver.ask("where", pool, 1, index) for index in range(PAGES)]


@pytest.mark.parametrize("extent", [1, 2, 4, 8, 16])
def test_members_come_back_alone_and_together(driver: Driver, extent: int) -> None:
    make_cold(driver, extent=extent)
    assert where(driver, "p") == ["cold"] * PAGES
    stats = driver.stats("p")
    assert (stats["cold_pages"], stats["cold_extents"], stats["zpages"]) == (PAGES, PAGES // extent, 0)
    assert stats["frames"] == stats["cold_frames"] > 0
    assert all(is_there(driver, "p", index) for index in range(PAGES))
    answers = driver.batch("gets", "p", [f"1 {index}" for index in range(PAGES)])
    assert answers == [f"page {crc(content(driver, index), driver.page_size)}" for index in range(PAGES)]
    assert driver.ask("check") == "ok"


def test_the_rest_stays_right_whoever_goes(driver: Driver) -> None:
    make_cold(driver, extent=4)
    extents = driver.stats("p")["cold_extents"]
    for gone, index in enumerate([0, 3, 1, 2]):  # the first, whose the parts are, among them
        change = ["flush", "p", 1, index] if gone % 2 else ["put", "p", 1, index, content(driver, index)]
        assert driver.ask(*change).split()[0] in ("ok", "stored")
        assert driver.ask("check") == "ok"
        assert driver.stats("p")["cold_extents"] == extents - (gone == 3)
        assert all(is_there(driver, "p", other) for other in range(4, PAGES))
    assert driver.ask("flobj", "p", 1) == f"pages {PAGES - 2}"
    stats = driver.stats("p")
    assert not any(stats[what] for what in ("frames", "cold_pages", "cold_extents", "cold_bytes", "cold_frames"))


def test_a_run_with_holes_is_as_long_as_it_has_pages(driver: Driver) -> None:
    assert driver.ask("pool", "p", "persistent", "zsmalloc") == "ok"
    assert driver.ask("param", "p", "cold_extent", 16) == "ok"
    put(driver, "p", iter([5, 7, 40, 2**32 - 1]))
    assert driver.ask("put", "p", 1, 6, "fill:3") == "stored 0"
    assert driver.ask("recompress", "p", 10**6).split()[2:] == ["pages", "4", "extents", "3", "ok"]
    assert driver.ask("where", "p", 1, 6) == "fill"
    assert all(is_there(driver, "p", index) for index in (5, 7, 40, 2**32 - 1))
    assert driver.ask("check") == "ok"


def test_what_does_not_get_smaller_stays(driver: Driver) -> None:
    assert driver.ask("pool", "p", "persistent", "zsmalloc", "zstd:3") == "ok"
    assert driver.ask("param", "p", "cold_codec", "none") == "ok"
    put(driver, "p", range(PAGES))
    before = driver.stats("p")
    assert driver.ask("recompress", "p", 10**6) == "frames 0 pages 0 extents 0 ok"
    assert where(driver, "p") == ["zpage"] * PAGES
    assert driver.stats("p")["frames"] == before["frames"]


def test_damage_is_told_and_costs_one_extent(driver: Driver) -> None:
    make_cold(driver, extent=4)
    assert driver.ask("damage", "p", 1, 5) == "ok"
    for index in range(4, 8):
        assert driver.ask("get", "p", 1, index) == "err EIO"
    assert all(is_there(driver, "p", index) for index in range(PAGES) if not 4 <= index < 8)
    assert driver.stats("p")["damaged"] == 4
    assert "damaged" in driver.ask("check")
    put(driver, "p", range(4, 8))
    assert driver.ask("check") == "ok"


def test_compaction_moves_parts(driver: Driver) -> None:
    assert driver.ask("pool", "p", "persistent", "zsmalloc") == "ok"
    assert driver.ask("param", "p", "compact_auto", 0) == "ok"
    assert driver.ask("param", "p", "cold_extent", 2) == "ok"
    put(driver, "p", range(64))
    assert driver.ask("recompress", "p", 10**6).split()[-1] == "ok"
    for first in range(0, 64, 16):  # three of four extents, each of half a page
        for index in range(first, first + 12):
            assert driver.ask("flush", "p", 1, index) == "ok"
    assert int(driver.ask("compact", "p").split()[1]) > 0
    assert driver.stats("p")["compacted_zpages"] > 0
    assert driver.ask("check") == "ok"
    assert all(is_there(driver, "p", first + 12) for first in range(0, 64, 16))


def test_reclaim_takes_whole_extents_and_the_cold_first(driver: Driver) -> None:
    make_cold(driver, extent=4, pool="e", kind="ephemeral")
    put(driver, "e", range(100, 100 + PAGES))
    assert driver.ask("reclaim", "e", 1).startswith("frames ")
    left = [is_there(driver, "e", index) for index in range(PAGES)]
    assert not all(left)
    for first in range(0, PAGES, 4):
        assert len(set(left[first : first + 4])) == 1
    assert all(is_there(driver, "e", index) for index in range(100, 100 + PAGES))
    assert driver.ask("check") == "ok"


@pytest.mark.parametrize("layout", ["packed", "in_place"])
def test_extents_go_to_the_backing_store(driver: Driver, layout: str, tmp_path: Path) -> None:
    """Packed as they are, in place page by page; what is flushed from them there stays away."""
    make_cold(driver, extent=4)
    size = store_size(driver)
    assert driver.ask("backing", "p", tmp_path / "store", layout, size) == "ok"
    assert driver.ask("flush", "p", 1, 1) == "ok"
    assert driver.ask("writeback", "p", 10**6).split()[2:] == ["pages", str(PAGES - 1), "ok"]
    assert driver.stats("p")["frames"] == 0
    assert driver.ask("flush", "p", 1, 6) == "ok"
    there = [index for index in range(PAGES) if index not in (1, 6)]
    assert [index for index in range(PAGES) if is_there(driver, "p", index)] == there
    assert driver.ask("check") == "ok"
    assert driver.ask("restart", "save") == f"saved {len(there)} lost 0 ok"
    assert driver.ask("pool", "p", "persistent", "zsmalloc") == "ok"
    assert driver.ask("backing", "p", tmp_path / "store", layout, size) == "ok"
    assert [index for index in range(PAGES) if is_there(driver, "p", index)] == there


@pytest.mark.parametrize("layout", ["packed", "in_place"])
def test_a_clean_stop_saves_extents(driver: Driver, layout: str, tmp_path: Path) -> None:
    make_cold(driver, extent=8)
    size = store_size(driver)
    assert driver.ask("backing", "p", tmp_path / "store", layout, size) == "ok"
    assert driver.ask("restart", "save") == f"saved {PAGES} lost 0 ok"
    assert driver.ask("pool", "p", "persistent", "zsmalloc") == "ok"
    assert driver.ask("backing", "p", tmp_path / "store", layout, size) == "ok"
    assert where(driver, "p") == ["written"] * PAGES
    assert all(is_there(driver, "p", index) for index in range(PAGES))


def recompressed_idle(driver: Driver, seconds: int) -> int:
    """Pages made cold."""
    answer = driver.ask("recompress-idle", "p", seconds).split()
    assert answer[-1] == "ok"
    assert driver.ask("check") == "ok"
    return int(answer[3])


def test_a_page_in_use_stays_warm_among_idle_ones(driver: Driver) -> None:
    """It is as if it were not there, until it is idle too: then it joins the others."""
    assert driver.ask("pool", "p", "persistent", "zsmalloc") == "ok"
    put(driver, "p", range(PAGES))
    assert recompressed_idle(driver, 500) == 0
    assert driver.ask("skip", 1000) == "ok"
    assert driver.ask("get", "p", 1, 2).startswith("page ")
    assert driver.ask("peek", "p", 1, 9).startswith("page ")
    assert recompressed_idle(driver, 500) == PAGES - 1
    assert where(driver, "p") == ["cold"] * 2 + ["zpage"] + ["cold"] * (PAGES - 3)
    assert all(is_there(driver, "p", index) for index in range(PAGES))
    assert driver.ask("skip", 1000) == "ok"
    assert driver.ask("get", "p", 1, 5).startswith("page ")
    assert int(driver.ask("idle", "p", 1, 5)) < 500 < int(driver.ask("idle", "p", 1, 4))
    assert recompressed_idle(driver, 500) == 1
    assert where(driver, "p") == ["cold"] * PAGES
    assert all(is_there(driver, "p", index) for index in range(PAGES))


def test_pages_that_went_cold_one_by_one_are_one_extent_at_last(config: str) -> None:
    with Driver(config, 4096) as driver:
        assert driver.ask("pool", "p", "persistent", "zsmalloc") == "ok"
        for index in (0, 1):
            put(driver, "p", iter([index]))
            assert driver.ask("skip", 1000) == "ok"
            assert recompressed_idle(driver, 500) == 1
        assert driver.stats("p")["cold_extents"] == 1
        put(driver, "p", iter([2, 3]))
        assert driver.ask("skip", 1000) == "ok"
        assert recompressed_idle(driver, 500) == 2
        assert driver.stats("p")["cold_extents"] == 1
        assert all(is_there(driver, "p", index) for index in range(4))


@pytest.mark.parametrize("recompress", [("recompress-idle", 500), ("recompress", 10**6)])
def test_an_extent_with_few_pages_left_is_made_anew(driver: Driver, recompress: tuple[str, int]) -> None:
    make_cold(driver, extent=4)
    before = driver.stats("p")["cold_bytes"]
    for index in (0, 1, 3, 4, 5, 8):  # one of four left, two, three, all
        assert driver.ask("flush", "p", 1, index) == "ok"
    assert driver.stats("p")["cold_bytes"] == before
    assert driver.ask(recompress[0], "p", recompress[1]).split()[-1] == "ok"
    after = driver.stats("p")
    assert after["cold_bytes"] < before
    assert (after["cold_extents"], after["cold_pages"], after["recompressed_pages"]) == (4, PAGES - 6, PAGES)
    assert driver.ask("check") == "ok"
    assert [index for index in range(PAGES) if is_there(driver, "p", index)] == [2, 6, 7, *range(9, PAGES)]


def settled(driver: Driver) -> dict[str, int]:
    assert driver.ask("settle") == "ok"
    assert driver.ask("check") == "ok"
    return driver.stats("p")


def test_what_saves_nothing_is_tried_once(config: str) -> None:
    """Until it is put again, or a parameter is set."""
    with Driver(config, 4096) as driver:
        assert driver.ask("pool", "p", "persistent", "zsmalloc", "zstd:6") == "ok"
        driver.ask("param", "p", "cold_codec", "lz4")
        driver.ask("param", "p", "cold_extent", 1)
        put(driver, "p", range(PAGES))
        assert driver.ask("skip", 1000) == "ok"
        assert recompressed_idle(driver, 500) == 0
        driver.ask("codec", "p", "none")
        driver.ask("param", "p", "zv_max_zsize", "100%")
        driver.ask("param", "p", "zv_max_mean_zsize", "100%")
        put(driver, "p", iter([3]))
        assert driver.ask("skip", 1000) == "ok"
        assert recompressed_idle(driver, 500) == 1
        assert recompressed_idle(driver, 500) == 0
        driver.ask("param", "p", "cold_extent", 16)
        driver.ask("param", "p", "cold_codec", "zstd:19")
        assert recompressed_idle(driver, 500) == PAGES - 1


def test_what_is_idle_goes_cold_by_itself(config: str) -> None:
    """In many slices. What is in use stays, and is thought of when its time has come."""
    pages = 1000
    with Driver(config, 4096) as driver:
        assert driver.ask("pool", "p", "persistent", "zsmalloc") == "ok"
        driver.ask("param", "p", "cold_codec", "zstd:12")
        driver.ask("param", "p", "cold_cpu_percent", 100)
        driver.ask("param", "p", "cold_after", 1000)
        for first in range(0, pages, 40):
            driver.batch("puts", "p", [f"1 {index} {content(driver, index)}" for index in range(first, first + 40)])
        assert driver.ask("skip", 600) == "ok"
        assert settled(driver)["cold_pages"] == 0
        assert driver.ask("get", "p", 1, 7).startswith("page ")
        assert driver.ask("skip", 600) == "ok"
        stats = settled(driver)
        assert (stats["cold_pages"], stats["recompressed_pages"]) == (pages - 1, pages - 1)
        assert driver.ask("where", "p", 1, 7) == "zpage"
        assert driver.ask("skip", 600) == "ok"
        assert settled(driver)["cold_pages"] == pages
        woken = wakeups(driver)
        for index in range(PAGES):
            assert driver.ask("flush", "p", 1, index) == "ok"
        assert driver.ask("skip", 600) == "ok"
        settled(driver)
        assert wakeups(driver) - woken <= 2


def test_it_takes_no_more_of_a_cpu_than_it_may(config: str) -> None:
    """Of many pages that are due it has done but some, and sleeps."""
    with Driver(config, 4096) as driver:
        assert driver.ask("pool", "p", "persistent", "zsmalloc") == "ok"
        driver.ask("param", "p", "cold_codec", "zstd:19")
        driver.ask("param", "p", "cold_cpu_percent", 1)
        driver.ask("param", "p", "cold_after", 100)
        assert driver.ask("bulk", "p", 1, 0, 2000, 500) == "stored 2000"
        assert driver.ask("skip", 200) == "ok"
        cold = settled(driver)["cold_pages"]
        assert 0 < cold < 500
        driver.ask("param", "p", "cold_after", 0)
        assert settled(driver)["cold_pages"] < 500


@pytest.mark.parametrize("exclusive", [0, 1])
def test_a_get_may_bring_the_others_of_its_extent_back(driver: Driver, exclusive: int) -> None:
    make_cold(driver, extent=4)
    driver.ask("param", "p", "cold_readahead", 1)
    driver.ask("param", "p", "exclusive_gets", exclusive)
    assert is_there(driver, "p", 5)  # a peek changes nothing
    assert where(driver, "p") == ["cold"] * PAGES
    assert driver.ask("get", "p", 1, 5) == f"page {crc(content(driver, 5), driver.page_size)}"
    back = ["zpage", "none" if exclusive else "zpage", "zpage", "zpage"]
    assert where(driver, "p") == ["cold"] * 4 + back + ["cold"] * (PAGES - 8)
    assert driver.stats("p")["warmed_pages"] == 4 - exclusive
    assert all(is_there(driver, "p", index) for index in range(PAGES) if index != 5 or not exclusive)
    assert driver.ask("check") == "ok"


def test_what_does_not_fit_stays_cold(config: str) -> None:
    with Driver(config, 4096) as driver:
        make_cold(driver, extent=4)
        driver.ask("param", "p", "cold_readahead", 1)
        driver.ask("param", "p", "zv_max_zsize", 100)
        assert driver.ask("get", "p", 1, 5).startswith("page ")
        assert where(driver, "p") == ["cold"] * PAGES
        assert driver.ask("check") == "ok"


@pytest.mark.parametrize(
    ("name", "value", "answer"),
    [
        ("cold_extent", "16", "ok"),
        ("cold_extent", "0", "err ERANGE"),
        ("cold_extent", "3", "err EINVAL"),
        ("cold_extent", "32", "err ERANGE"),
        ("cold_after", "32767", "ok"),
        ("cold_after", "32768", "err ERANGE"),
        ("cold_cpu_percent", "100", "ok"),
        ("cold_cpu_percent", "0", "err ERANGE"),
        ("cold_cpu_percent", "101", "err ERANGE"),
        ("cold_readahead", "2", "err ERANGE"),
        ("cold_codec", "zstd:19", "ok"),
        ("cold_codec", "zstd:20", "err EINVAL"),
        ("cold_codec", "zstd:3:dict=9", "err ENOENT"),
    ],
)
def test_parameters(config: str, name: str, value: str, answer: str) -> None:
    with Driver(config, 4096) as driver:
        assert driver.ask("pool", "p", "persistent") == "ok"
        assert driver.ask("param", "p", name, value) == answer


def test_no_more_is_recompressed_than_is_asked_for() -> None:
    """The holes that its pages leave are made frames of at once."""
    with Driver("host", 4096) as driver:
        assert driver.ask("pool", "p", "persistent", "zsmalloc") == "ok"
        for first in range(0, 2000, 40):
            driver.batch("puts", "p", [f"1 {index} rand:1:1024" for index in range(first, first + 40)])
        before = driver.stats("p")
        answer = driver.ask("recompress", "p", 20).split()
        after = driver.stats("p")
        assert 20 <= int(answer[1]) == before["frames"] - after["frames"]
        assert 100 < after["cold_pages"] < 400
        assert driver.ask("check") == "ok"


@pytest.mark.parametrize("layout", ["packed", "in_place"])
def test_extents_leave_in_several_batches(config: str, layout: str, tmp_path: Path) -> None:
    """Also those of which a batch that is being written has one part, and what is isolated for the next another."""
    pages = 2400
    with Driver(config, 4096) as driver:
        assert driver.ask("pool", "p", "persistent", "zsmalloc") == "ok"
        assert driver.ask("backing", "p", tmp_path / "store", layout, 32 << 20) == "ok"
        for first in range(0, pages, 40):
            driver.batch("puts", "p", [f"1 {index} {content(driver, index)}" for index in range(first, first + 40)])
        assert driver.ask("recompress", "p", 10**6).split()[3] == str(pages)
        assert driver.ask("writeback", "p", 10**6).split()[2:] == ["pages", str(pages), "ok"]
        assert driver.stats("p")["frames"] == 0
        assert driver.stats("p")["written_pages"] == pages
        assert all(is_there(driver, "p", index) for index in range(0, pages, 11))
        assert driver.ask("check") == "ok"


@pytest.mark.parametrize("extent", [4, 16])
def test_what_is_left_of_an_extent_may_not_compress(driver: Driver, extent: int, tmp_path: Path) -> None:
    """By itself it would be larger than the page, and there is no room for that, here or in a store."""
    assert driver.ask("pool", "p", "persistent", "zsmalloc") == "ok"
    assert driver.ask("param", "p", "keep_rejected", 1) == "ok"
    assert driver.ask("param", "p", "cold_extent", extent) == "ok"
    noise = f"rand:5:{driver.page_size}"
    assert driver.ask("put", "p", 1, 0, noise) == f"stored {driver.page_size}"
    put(driver, "p", range(1, extent))
    assert driver.ask("recompress", "p", 10**6).split()[2:4] == ["pages", str(extent)]
    for index in range(1, extent):
        assert driver.ask("flush", "p", 1, index) == "ok"
    assert driver.ask("recompress", "p", 10**6).split()[-1] == "ok"
    page = driver.ask("peek", "p", 1, 0)
    assert page == f"page {crc(noise, driver.page_size)}"
    assert driver.ask("backing", "p", tmp_path / "store", "packed", store_size(driver)) == "ok"
    assert driver.ask("restart", "save") == "saved 1 lost 0 ok"
    assert driver.ask("pool", "p", "persistent", "zsmalloc") == "ok"
    assert driver.ask("backing", "p", tmp_path / "store", "packed", store_size(driver)) == "ok"
    assert driver.ask("peek", "p", 1, 0) == page


@pytest.mark.parametrize("layout", ["packed", "in_place"])
def test_extents_are_saved_in_several_batches(config: str, layout: str, tmp_path: Path) -> None:
    """A batch ends anywhere in an extent whose pages go one by one."""
    pages = 3001
    with Driver(config, 4096) as driver:
        assert driver.ask("pool", "p", "persistent", "zsmalloc") == "ok"
        assert driver.ask("param", "p", "cold_extent", 8) == "ok"
        assert driver.ask("backing", "p", tmp_path / "store", layout, 32 << 20) == "ok"
        assert driver.ask("bulk", "p", 1, 0, pages, 1000) == f"stored {pages}"
        assert driver.ask("recompress", "p", 10**6).split()[2] == "pages"
        assert driver.ask("restart", "save") == f"saved {pages} lost 0 ok"
