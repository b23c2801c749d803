# SPDX-License-Identifier: Apache-2.0
"""What the model leaves out of writeback: its order, kills at every write, dictionaries, boots, cleaning."""

from pathlib import Path

import pytest

from tests.native.driver import CONFIGS, Driver, crc

MIB = 1024 * 1024
DIED = 42
"""The status of a driver that died where it was told to."""
LAYOUTS = ["packed", "in_place"]
ALLOCATORS = ["zbud", "zsmalloc"]


def open_pool(driver: Driver, path: Path, layout: str = "packed", size: int = 16 * MIB, *more: object) -> str:
    """Of zsmalloc; the answer of the backing store."""
    assert driver.ask("pool", "p", "persistent", "zsmalloc") == "ok"
    return driver.ask("backing", "p", path, layout, size, *more)


def content(index: int, version: int = 0) -> str:
    return f"rand:{index + 1000 * version}:{200 + index * 60 % 2500}"


def got(driver: Driver, index: int) -> str:
    return driver.ask("peek", "p", 1, index)


def is_page(answer: str, index: int, version: int = 0) -> bool:
    return answer == f"page {crc(content(index, version), 4096)}"


@pytest.mark.parametrize("allocator", ALLOCATORS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_coldest_goes_first_and_whole_frames_are_freed(allocator: str, layout: str, tmp_path: Path) -> None:
    with Driver("host-asan", 4096) as driver:
        driver.ask("pool", "p", "persistent", allocator)
        assert driver.ask("backing", "p", tmp_path / "store", layout, 16 * MIB) == "ok"
        for index in range(60):
            driver.ask("put", "p", 1, index, "rand:1:2000")
        assert driver.ask("get", "p", 1, 0).startswith("page ")
        frames = driver.stats("p")["frames"]
        _, freed, *_, said = driver.ask("writeback", "p", 4).split()
        assert said == "ok"
        assert 4 <= int(freed) == frames - driver.stats("p")["frames"] < 12
        where = [driver.ask("where", "p", 1, index) for index in range(60)]
        assert where[0] == "zpage"  # with whom it shares its frame or zspage too
        assert "written" in where[1:20]
        assert "written" not in where[40:]


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_pages_that_have_no_place_in_the_store_are_not_in_the_way(allocator: str, tmp_path: Path) -> None:
    """In place there is one object."""
    with Driver("host", 4096) as driver:
        driver.ask("pool", "p", "persistent", allocator)
        assert driver.ask("backing", "p", tmp_path / "store", "in_place", 16 * MIB) == "ok"
        driver.ask("bulk", "p", 1, 0, 2, 2000)
        assert driver.ask("writeback", "p", 1).endswith(" ok")
        driver.ask("bulk", "p", 2, 0, 800, 2000)
        driver.ask("bulk", "p", 1, 10, 40, 2000)
        assert driver.ask("writeback", "p", 10**6).endswith(" pages 40 ok")
        assert driver.stats("p")["written_pages"] == 42
        assert driver.ask("restart", "save") == "saved 42 lost 800 ok"


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_a_page_that_compresses_badly_goes_before_all_others(allocator: str, tmp_path: Path) -> None:
    with Driver("host-asan", 4096) as driver:
        driver.ask("pool", "p", "persistent", allocator)
        assert driver.ask("put", "p", 1, 1, "rand:1:4096").startswith("compress_poor ")
        assert driver.ask("backing", "p", tmp_path / "store", "packed", 16 * MIB) == "ok"
        for index in range(20):
            driver.ask("put", "p", 1, index, "rand:1:1000")
        for index in (20, 21):
            assert driver.ask("put", "p", 1, index, f"rand:{index}:4096") == "stored 4096"
        assert driver.stats("p")["kept_rejected"] == 2
        assert driver.ask("writeback", "p", 2) == "frames 2 pages 2 ok"
        assert [driver.ask("where", "p", 1, index) for index in (19, 20, 21)] == ["zpage", "written", "written"]
        assert driver.ask("get", "p", 1, 20) == f"page {crc('rand:20:4096', 4096)}"


def run_until_killed(path: Path, layout: str, after: int, half: bool) -> tuple[bool, dict[int, set[int | None]]]:
    """Puts, writes back, puts over, flushes, and dies somewhere. Of each page: the versions that may be found then.

    What was acknowledged is the least: a page put or flushed over a written one may not come back."""
    may: dict[int, set[int | None]] = {}
    driver = Driver("host", 4096)
    try:
        assert open_pool(driver, path, layout) == "ok"
        driver.ask("die", after, *(["half"] if half else []))
        for turn in range(4):
            for index in range(turn * 7, turn * 7 + 20):
                may[index] = {*may.get(index, set()), turn, None}
                driver.ask("put", "p", 1, index, content(index, turn))
                may[index] = {turn, None}  # None: it was in memory
            driver.ask("writeback", "p", 1000)
            for index in range(turn * 7):
                if driver.ask("where", "p", 1, index) == "written":
                    may[index] -= {None}
            may[turn * 7] = {*may[turn * 7], None}
            driver.ask("flush", "p", 1, turn * 7)
            may[turn * 7] = {None}
            driver.ask("writeback", "p", 1000)
        driver.close()
    except (AssertionError, BrokenPipeError):
        assert driver.ended() == DIED
        return True, may
    return False, may


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_killed_at_every_write_it_comes_back_right(layout: str, half: bool, tmp_path: Path) -> None:
    died, after = True, 0
    while died:
        path = tmp_path / str(after)
        died, may = run_until_killed(path, layout, after, half)
        with Driver("host", 4096) as driver:
            assert open_pool(driver, path, layout) == "ok"
            for index, versions in may.items():
                answer = got(driver, index)
                found: set[int | None] = {version for version in range(4) if is_page(answer, index, version)}
                found = found or {None}
                assert found <= versions, f"killed at write {after}: page {index} is {found}, not of {versions}"
                assert found != {None} or answer == "err ENOENT"
            assert driver.ask("check") == "ok"
        path.unlink()
        after += 1
    assert after > 20


BATCHES = {"packed": 2500, "in_place": 700}
"""Pages, by layout: of 1000 bytes they make three batches, so that one is written while another is filled."""


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_killed_at_every_write_of_several_batches(layout: str, half: bool, tmp_path: Path) -> None:
    pages, written, after = BATCHES[layout], -1, 0
    while written < pages:
        path = tmp_path / str(after)
        driver = Driver("host", 4096)
        assert open_pool(driver, path, layout) == "ok"
        driver.ask("bulk", "p", 1, 0, pages, 1000)
        driver.ask("die", after, *(["half"] if half else []))
        try:
            assert driver.ask("writeback", "p", 10**6).endswith(f" pages {pages} ok")
            driver.kill()
        except (AssertionError, BrokenPipeError):
            assert driver.ended() == DIED
        with Driver("host", 4096) as driver:
            assert open_pool(driver, path, layout) == "ok"
            before, written = written, driver.stats("p")["written_pages"]
            assert written >= before
            found = [index for index in range(pages) if got(driver, index) == f"page {crc(f'rand:{index}:1000', 4096)}"]
            assert len(found) == written
            assert driver.ask("check") == "ok"
        path.unlink()
        after += 1
    assert after > 6


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", ["host-asan", "host-tsan"])
def test_one_of_several_batches_cannot_be_written(config: str, layout: str, after: int, tmp_path: Path) -> None:
    pages = BATCHES[layout]
    with Driver(config, 4096) as driver:
        assert open_pool(driver, tmp_path / "store", layout) == "ok"
        driver.ask("bulk", "p", 1, 0, pages, 1000)
        driver.ask("fault", "data", "EIO", after, 1)
        assert driver.ask("writeback", "p", 10**6).endswith(" EIO")
        stats = driver.stats("p")
        assert stats["written_pages"] + stats["zpages"] == pages
        assert stats["zpages"] > 0
        assert driver.ask("writeback", "p", 10**6).endswith(" ok")
        assert driver.stats("p")["frames"] == 0
        for index in range(0, pages, 7):
            assert got(driver, index) == f"page {crc(f'rand:{index}:1000', 4096)}"
        assert driver.ask("check") == "ok"


MEANWHILE = [
    ("put p 1 3 rand:77:300", "page", "zpage"),
    ("flush p 1 3", "err", "none"),
    ("flush p 1 3 ; put p 1 3 rand:77:300", "page", "zpage"),
    ("flobj p 1", "err", "none"),
    ("get p 1 3", "old", "written"),
    ("compact p", "old", "written"),
]


@pytest.mark.parametrize(("request_", "expected", "where"), MEANWHILE)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", ["host", "host-asan"])
def test_what_others_do_while_a_page_is_written(
    config: str, layout: str, request_: str, expected: str, where: str, tmp_path: Path
) -> None:
    """And what is there after a restart. That the request is carried out at all shows that no lock is held."""
    answer = {"page": f"page {crc('rand:77:300', 4096)}", "err": "err ENOENT"}
    answer["old"] = f"page {crc(content(3), 4096)}"
    with Driver(config, 4096) as driver:
        assert open_pool(driver, tmp_path / "store", layout) == "ok"
        for index in range(6):
            driver.ask("put", "p", 1, index, content(index))
        driver.ask("meanwhile", "write", request_)
        assert driver.ask("writeback", "p", 100).endswith(" ok")
        assert driver.ask("where", "p", 1, 3) == where
        assert got(driver, 3) == answer[expected]
        assert driver.ask("check") == "ok"
        left = 6 if expected in ("page", "old") else 0 if request_.startswith("flobj") else 5
        assert driver.ask("restart", "drop") == "saved 0 lost 0 ok"
        assert open_pool(driver, tmp_path / "store", layout) == "ok"
        assert driver.stats("p")["written_pages"] == (left - 1 if expected == "page" else left)
        assert got(driver, 3) == (answer["old"] if expected == "old" else "err ENOENT")


@pytest.mark.parametrize("peek", [False, True])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("request_", ["put p 1 3 rand:77:300", "put p 1 3 rand:77:300 ; writeback p 100"])
def test_what_others_do_while_a_page_is_read(
    request_: str, layout: str, exclusive: int, peek: bool, tmp_path: Path
) -> None:
    page = f"page {crc('rand:77:300', 4096)}"
    with Driver("host-asan", 4096) as driver:
        assert open_pool(driver, tmp_path / "store", layout) == "ok"
        driver.ask("param", "p", "exclusive_gets", exclusive)
        for index in range(6):
            driver.ask("put", "p", 1, index, content(index))
        assert driver.ask("writeback", "p", 100).endswith(" ok")
        driver.ask("meanwhile", "read", request_)
        assert driver.ask("peek" if peek else "get", "p", 1, 3).split(", ")[-1] == page
        assert got(driver, 3) == (page if peek or not exclusive else "err ENOENT")
        driver.ask("meanwhile", "read", "flush p 1 4")
        assert driver.ask("get", "p", 1, 4) == "ok, err ENOENT"
        assert driver.ask("check") == "ok"


def test_a_page_that_is_there_again_is_newer_than_the_one_in_the_store(tmp_path: Path) -> None:
    with Driver("host-asan", 4096) as driver:
        open_pool(driver, tmp_path / "store")
        for index in range(8):
            driver.ask("put", "p", 1, index, content(index))
        assert driver.ask("restart", "save") == "saved 8 lost 0 ok"
        driver.ask("pool", "p", "persistent", "zsmalloc")
        driver.ask("put", "p", 1, 3, content(3, 1))
        assert driver.ask("backing", "p", tmp_path / "store", "packed", 16 * MIB) == "ok"
        assert all(is_page(got(driver, index), index, int(index == 3)) for index in range(8))
        assert driver.ask("flush", "p", 1, 3) == "ok"
        assert driver.ask("restart", "save") == "saved 7 lost 0 ok"
        assert open_pool(driver, tmp_path / "store") == "ok"
        assert got(driver, 3) == "err ENOENT"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("how", ["flobj p 1", "destroy p", "flush p 1 1", "get p 1 1", "put p 1 1 rand:1:4096"])
def test_what_is_forgotten_does_not_come_back(how: str, layout: str, tmp_path: Path) -> None:
    """Nor is any of its bytes counted on."""
    with Driver("host-asan", 4096) as driver:
        assert open_pool(driver, tmp_path / "store", layout) == "ok"
        driver.ask("param", "p", "exclusive_gets", 1)
        driver.ask("put", "p", 1, 1, content(1))
        assert driver.ask("writeback", "p", 1).endswith(" pages 1 ok")
        assert driver.stats("p")["written_bytes"] > 0
        driver.ask(how)
        assert driver.totals()["written_bytes"] == 0
        assert driver.ask("restart", "drop") == "saved 0 lost 0 ok"
        assert open_pool(driver, tmp_path / "store", layout) == "ok"
        assert got(driver, 1) == "err ENOENT"
        assert driver.stats("p")["written_bytes"] == 0


def test_pages_keep_their_codecs_through_a_restart(tmp_path: Path) -> None:
    """Of which the pool has sixteen at a time; records name slots, which are used again."""
    with Driver("host-asan", 4096) as driver:
        assert open_pool(driver, tmp_path / "store") == "ok"
        for turn in range(3):
            for level in range(1, 15):
                assert driver.ask("codec", "p", f"lz4:{level + 14 * turn}") == "ok"
                driver.ask("put", "p", 1, level, content(level, turn))
            assert driver.ask("writeback", "p", 1000).endswith(" ok")
            assert driver.ask("restart", "save" if turn else "drop").startswith("saved ")
            assert open_pool(driver, tmp_path / "store") == "ok"
            assert all(is_page(got(driver, level), level, turn) for level in range(1, 15))
            assert driver.ask("check") == "ok"


def test_a_dictionary_is_known_by_its_bytes(tmp_path: Path) -> None:
    with Driver("host-asan", 4096) as driver:
        assert driver.ask("dictionary", 1, 2000) == "id 1"
        assert driver.ask("dictionary", 2, 2000) == "id 2"
        assert open_pool(driver, tmp_path / "store") == "ok"
        driver.ask("put", "p", 1, 0, content(0))
        driver.ask("codec", "p", "zstd:3:dict=1")
        driver.ask("put", "p", 1, 1, content(1))
        assert driver.ask("restart", "save") == "saved 2 lost 0 ok"
        assert driver.ask("dictionary", 2, 2000) == "id 1"
        answer = open_pool(driver, tmp_path / "store")
        assert answer.startswith("err ENOENT ")
        assert "dictionary with the hash" in answer
        assert driver.stats("p")["written_pages"] == 0
        assert driver.ask("dictionary", 1, 2000) == "id 2"
        assert driver.ask("backing", "p", tmp_path / "store", "packed", 16 * MIB) == "ok"
        assert all(is_page(got(driver, index), index) for index in range(2))
        assert driver.ask("forget", 2) == "err EBUSY"
        driver.ask("flush", "p", 1, 1)
        assert driver.ask("forget", 2) == "ok"


def test_on_another_boot_what_was_not_stopped_is_stale(tmp_path: Path) -> None:
    """The boot's id comes from a fake /proc."""
    proc = tmp_path / "proc"
    boot = proc / "sys/kernel/random/boot_id"
    boot.parent.mkdir(parents=True)
    (proc / "meminfo").write_bytes(Path("/proc/meminfo").read_bytes())
    for name, stop, expected in (("clean", True, "ok"), ("killed", False, "err ESTALE")):
        boot.write_text("11111111-1111-1111-1111-111111111111\n")
        driver = Driver("host", 4096, 0, proc)
        assert open_pool(driver, tmp_path / name) == "ok"
        driver.ask("put", "p", 1, 1, content(1))
        assert driver.ask("writeback", "p", 1).endswith(" ok")
        if stop:
            driver.close()
        else:
            driver.kill()
        boot.write_text("22222222-2222-2222-2222-222222222222\n")
        with Driver("host", 4096, 0, proc) as driver:
            answer = open_pool(driver, tmp_path / name)
            assert answer.startswith(expected)
            assert stop or "reset" in answer
            assert is_page(got(driver, 1), 1) == stop


@pytest.mark.parametrize("config", CONFIGS)
def test_a_store_that_is_rewritten_again_and_again_is_cleaned(config: str, tmp_path: Path) -> None:
    with Driver(config, 4096) as driver:
        assert open_pool(driver, tmp_path / "store", "packed", 10 * MIB) == "ok"
        lengths = [1000] * 5000
        assert driver.ask("bulk", "p", 1, 0, len(lengths), 1000) == f"stored {len(lengths)}"
        for turn in range(12):
            assert driver.ask("writeback", "p", 10**6).endswith(" ok")
            for index in range(turn % 9, len(lengths), 9):
                lengths[index] = 1000 + turn
                assert driver.ask("bulk", "p", 1, index, 1, lengths[index]) == "stored 1"
        stats = driver.stats("p")
        assert stats["wear_cleaned"] > 0
        assert stats["written_pages"] + stats["zpages"] == len(lengths)
        for index in range(0, len(lengths), 7):
            assert got(driver, index) == f"page {crc(f'rand:{index}:{lengths[index]}', 4096)}"
        assert driver.ask("check") == "ok"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_damaged_in_memory_is_not_made_good_by_writing_it(layout: str, tmp_path: Path) -> None:
    with Driver("host-asan", 4096) as driver:
        assert open_pool(driver, tmp_path / "store", layout) == "ok"
        for index in range(4):
            driver.ask("put", "p", 1, index, content(index))
        driver.ask("damage", "p", 1, 2)
        assert driver.ask("writeback", "p", 100).endswith(" pages 3 ok")
        assert got(driver, 2) == "err EIO"
        assert all(is_page(got(driver, index), index) for index in (0, 1, 3))
        assert driver.stats("p")["damaged"] == 1


def test_what_was_written_is_little_more_than_what_went(tmp_path: Path) -> None:
    with Driver("host", 4096) as driver:
        assert open_pool(driver, tmp_path / "store", "packed", 64 * MIB) == "ok"
        driver.ask("bulk", "p", 1, 0, 20000, 1200)
        zbytes = driver.stats("p")["zbytes"]
        assert driver.ask("writeback", "p", 10**6).endswith(" pages 20000 ok")
        stats = driver.stats("p")
        assert stats["frames"] == 0
        assert stats["written_bytes"] == zbytes
        assert stats["wear_evicted"] + stats["wear_metadata"] <= 1.05 * zbytes
