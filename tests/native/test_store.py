# SPDX-License-Identifier: Apache-2.0
"""What the model leaves out: limits, memory short by force, thresholds' edges, accounting against the OS."""

import resource
from pathlib import Path

import pytest

from tests.native.driver import CONFIGS, Driver, crc

OS_PAGE_SIZE = resource.getpagesize()
MIB = 1024 * 1024


def fake_proc(directory: Path, available_kb: int) -> Path:
    """A fake /proc, to force a shortage of memory."""
    directory.mkdir(exist_ok=True)
    (directory / "meminfo").write_text(f"MemTotal: 1048576 kB\nMemAvailable: {available_kb} kB\n")
    return directory


@pytest.mark.parametrize("page_size", [0, 1, 1000, 2048, OS_PAGE_SIZE * 3, 2 * MIB])
def test_page_size_is_the_os_page_size_times_a_power_of_two(page_size: int) -> None:
    if page_size == 0:
        Driver("host", page_size).close()
        return
    with pytest.raises(AssertionError):
        Driver("host", page_size)


@pytest.mark.parametrize("page_size", [4096, 65536])
@pytest.mark.parametrize("config", CONFIGS)
def test_puts_over_the_limit_are_refused_and_counted(config: str, page_size: int) -> None:
    limit = 4 * MIB
    with Driver(config, page_size, limit) as driver:
        driver.ask("pool", "p", "persistent")
        stored = int(driver.ask("bulk", "p", 1, 0, 4000, page_size // 2).split()[1])
        stats = driver.stats("p")
        assert 0 < stored < 4000
        assert stats["policy_percent_exceeded"] == 4000 - stored
        assert stats["puts"] == stats["stored_puts"] + stats["policy_percent_exceeded"]
        assert driver.used()[0] <= limit
        assert driver.ask("put", "p", 9, 9, "fill:7") == "stored 0"  # needs no frame
        assert driver.ask("limit", 64 * MIB) == "ok"
        assert driver.ask("put", "p", 9, 10, f"rand:1:{page_size // 2}").startswith("stored ")


def test_a_limit_below_a_frame_is_refused() -> None:
    with Driver("host", 4096) as driver:
        assert driver.ask("limit", 4095) == "err ERANGE"


@pytest.mark.parametrize("config", CONFIGS)
def test_a_refused_put_removes_the_older_page(config: str) -> None:
    with Driver(config, 4096) as driver:
        driver.ask("pool", "p", "persistent")
        driver.ask("put", "p", 1, 1, "rand:1:1000")
        assert driver.ask("put", "p", 1, 1, "rand:1:4096").startswith("compress_poor ")
        assert driver.ask("get", "p", 1, 1) == "err ENOENT"
        assert driver.stats("p")["put_to_flush"] == 1
        assert driver.stats("p")["frames"] == 0


def test_the_pool_keeps_within_its_share_of_ram(tmp_path: Path) -> None:
    proc = fake_proc(tmp_path / "proc", 900_000)  # 1 GiB of RAM
    with Driver("host", 4096, 512 * MIB, proc) as driver:
        driver.ask("pool", "p", "persistent")
        driver.ask("param", "p", "zv_page_count_policy_percent", 1)
        stored = int(driver.ask("bulk", "p", 1, 0, 8000, 2048).split()[1])
        frames = driver.stats("p")["frames"]
        assert stored < 8000
        assert frames == -(-(1024 * MIB // 100) // 4096)
        assert driver.stats("p")["policy_percent_exceeded"] == 8000 - stored


@pytest.mark.parametrize("config", CONFIGS)
def test_short_memory_refuses_new_pages_and_keeps_the_old(config: str, tmp_path: Path) -> None:
    proc = fake_proc(tmp_path / "proc", 900_000)
    with Driver(config, 4096, 0, proc) as driver:
        driver.ask("pool", "p", "persistent")
        assert driver.ask("put", "p", 1, 1, "rand:1:1000").startswith("stored ")
        fake_proc(proc, 51 * 1024)  # 5 % of 1 GiB is 51.2 MiB
        refused = 0
        for i in range(100_000):  # until meminfo is read again, 100 ms later at most
            refused += driver.ask("put", "p", 2, i, "rand:1:1000") == "low_memory 0"
            if refused:
                break
        assert refused
        assert driver.stats("p")["low_memory"] == refused
        assert driver.ask("get", "p", 1, 1).startswith("page ")
        assert driver.ask("put", "p", 1, 2, "fill:1") == "stored 0"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", "ok"), ("4096", "ok"), ("4097", "err ERANGE"), ("7/8", "ok"), ("9/8", "err ERANGE"), ("100%", "ok"),
        ("101%", "err ERANGE"), ("1/0", "err EINVAL"), ("-1", "err EINVAL"), ("x", "err EINVAL"), ("", "err EINVAL"),
        ("99999999999999999999", "err EINVAL"), ("0x10", "err EINVAL"),
    ],
)  # fmt: skip
def test_thresholds_take_bytes_fractions_and_percent(value: str, expected: str) -> None:
    with Driver("host", 4096) as driver:
        driver.ask("pool", "p", "persistent")
        assert driver.ask("param", "p", "zv_max_zsize", value) == expected


def test_the_threshold_itself_is_still_accepted() -> None:
    with Driver("host", 4096) as driver:
        driver.ask("pool", "p", "persistent")
        zsize = int(driver.ask("put", "p", 1, 1, "rand:1:1000").split()[1])
        driver.ask("param", "p", "zv_max_zsize", zsize)
        assert driver.ask("put", "p", 1, 1, "rand:1:1000") == f"stored {zsize}"
        driver.ask("param", "p", "zv_max_zsize", zsize - 1)
        assert driver.ask("put", "p", 1, 1, "rand:1:1000") == f"compress_poor {zsize}"


@pytest.mark.parametrize("page_size", [4096, 16384])
def test_used_bytes_agrees_with_the_os(page_size: int) -> None:
    with Driver("host", page_size) as driver:
        driver.ask("pool", "p", "persistent")
        driver.ask("put", "p", 0, 0, "rand:1:64")
        driver.ask("flush", "p", 0, 0)
        empty_store, empty_os = driver.used()
        count = 96 * MIB // page_size * 2
        driver.ask("bulk", "p", 1, 0, count, page_size * 2 // 5)
        full_store, full_os = driver.used()
        assert full_store - empty_store >= 64 * MIB
        assert full_store - empty_store == pytest.approx(full_os - empty_os, rel=0.02)
        driver.ask("flobj", "p", 1)
        assert driver.used()[1] - empty_os < 4 * MIB
        assert driver.used()[0] - empty_store < 4 * MIB


@pytest.mark.parametrize("page_size", [4096, 65536])
def test_random_indexes_cost_little_metadata(page_size: int) -> None:
    """Of index, its holes, and frames; what a put needs while it runs is there before."""
    with Driver("host", page_size, 8 * 1024 * MIB) as driver:
        driver.ask("pool", "p", "persistent")
        driver.ask("put", "p", 0, 0, "rand:1:64")
        before = driver.totals()["metadata_bytes"]
        driver.ask("bulk", "p", 1, 0, 20000, 64)
        assert (driver.totals()["metadata_bytes"] - before) / 20000 <= 52


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("count", "heads"), [(2000, 4), (20000, 25)])
def test_frames_given_back_out_of_the_middle_of_a_run_come_again(config: str, count: int, heads: int) -> None:
    """With few pages, and with as many as make the OS's huge pages worth while, some runs more or less of them."""
    with Driver(config, 4096, 1024 * MIB) as driver:
        driver.ask("pool", "p", "persistent")
        for first in range(0, count, 1000):
            for turn in (1, 2):
                driver.ask("bulk", "p", turn, first, 1000, 1900)
        full = driver.totals()
        metadata = []
        for _ in range(4):
            assert driver.ask("flobj", "p", 1) == f"pages {count}"
            assert driver.totals()["frames"] == full["frames"] // 2
            driver.ask("bulk", "p", 1, 0, count, 1900)
            again = driver.totals()
            assert again["frames"] == full["frames"]
            metadata.append(again["metadata_bytes"])
        holes = 64 << 10  # of the index
        assert metadata[0] <= full["metadata_bytes"] * 1.05 + holes
        assert metadata[-1] <= metadata[0] + heads * 4096  # new runs, each with its head, would come each time
        for turn in (1, 2):
            for i in range(0, count, 97):
                page = f"page {crc(f'rand:{i}:1900', 4096)}"
                assert driver.ask("peek", "p", turn, i) == page


def test_without_a_reserve_few_frames_are_ready() -> None:
    """In a store large enough for huge pages too."""
    with Driver("host", 4096, 1024 * MIB) as driver:
        driver.ask("reserve", 0)
        driver.ask("pool", "p", "persistent")
        driver.ask("bulk", "p", 1, 0, 60000, 1900)
        totals = driver.totals()
        assert totals["used_bytes"] > 96 * MIB
        assert totals["reserve_frames"] * 4096 <= 128 * 1024


@pytest.mark.parametrize("page_size", [4096, 65536])
def test_a_zpage_as_large_as_a_bucket_counts_in_it(page_size: int) -> None:
    """Bounds are inclusive: at most so many bytes."""
    width = page_size // 64
    with Driver("host", page_size) as driver:
        driver.ask("pool", "p", "persistent")
        for length in range(width, 4 * width):
            zsize = int(driver.ask("put", "p", 1, 1, f"rand:1:{length}").split()[1])
            bound = -(-zsize // width) * width
            assert driver.ask("dist", "p").startswith(f"curr {bound}:1 cumul ")
            if zsize == bound:
                return
    pytest.fail("no page compressed to a bucket's bound")


@pytest.mark.parametrize("config", CONFIGS)
def test_pages_of_a_large_object_come_and_go(config: str) -> None:
    """Leaves split and merge; what is left is right."""
    with Driver(config, 4096) as driver:
        driver.ask("pool", "p", "persistent")
        driver.ask("bulk", "p", 1, 0, 30000, 64)
        for i in range(0, 30000, 3):
            assert driver.ask("flush", "p", 1, i) == "ok"
        for i in range(0, 30000, 7):
            assert driver.ask("peek", "p", 1, i).startswith("page " if i % 3 else "err ENOENT")
        for i in range(30000):
            if i % 3:
                assert driver.ask("flush", "p", 1, i) == "ok"
        stats = driver.stats("p")
        assert stats["zpages"] == stats["frames"] == 0


ALLOCATORS = ["zbud", "zsmalloc"]
KINDS = ["persistent", "ephemeral"]


@pytest.mark.parametrize("codec", ["lz4", "zstd:3", "none"])
@pytest.mark.parametrize("allocator", ALLOCATORS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_combination_keeps_pages(kind: str, allocator: str, codec: str) -> None:
    with Driver("host-asan", 4096) as driver:
        assert driver.ask("pool", "p", kind, allocator, codec) == "ok"
        driver.ask("param", "p", "zv_max_zsize", "100%")
        driver.ask("param", "p", "zv_max_mean_zsize", "100%")
        for i in range(200):
            assert driver.ask("put", "p", 1, i, f"rand:{i}:{i * 20}").startswith("stored ")
        for i in range(200):
            assert driver.ask("get", "p", 1, i) == f"page {crc(f'rand:{i}:{i * 20}', 4096)}"
        assert driver.stats("p")["frames"] == 0 if kind == "ephemeral" else driver.stats("p")["frames"] > 0


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_a_damaged_zpage_is_an_error_of_its_own_page_only(allocator: str) -> None:
    with Driver("host-asan", 4096) as driver:
        driver.ask("pool", "p", "ephemeral", allocator)
        driver.ask("param", "p", "keep_rejected", 1)
        for i, length in enumerate([1000, 2000, 4096]):
            driver.ask("put", "p", 1, i, f"rand:{i}:{length}")
        for i in (0, 2):
            assert driver.ask("damage", "p", 1, i) == "ok"
            assert driver.ask("get", "p", 1, i) == "err EIO"
        assert driver.ask("damage", "p", 1, 9) == "err ENOENT"
        assert "damaged" in driver.ask("check")
        assert driver.ask("peek", "p", 1, 1) == f"page {crc('rand:1:2000', 4096)}"
        stats = driver.stats("p")
        assert (stats["damaged"], stats["gets"], stats["gets_found"]) == (2, 3, 1)
        driver.ask("put", "p", 1, 0, "rand:0:1000")
        assert driver.ask("get", "p", 1, 0) == f"page {crc('rand:0:1000', 4096)}"


def test_without_checksums_damage_is_not_looked_for() -> None:
    with Driver("host-asan", 4096) as driver:
        driver.ask("pool", "p", "persistent")
        driver.ask("param", "p", "keep_rejected", 1)
        driver.ask("param", "p", "checksums", 0)
        driver.ask("put", "p", 1, 1, "rand:1:4096")
        driver.ask("damage", "p", 1, 1)
        assert driver.ask("get", "p", 1, 1).startswith("page ")
        assert driver.ask("get", "p", 1, 1) != f"page {crc('rand:1:4096', 4096)}"


def test_the_entropy_gate_refuses_without_compressing() -> None:
    with Driver("host", 4096) as driver:
        driver.ask("pool", "p", "persistent")
        driver.ask("param", "p", "entropy_gate", 7000)
        assert driver.ask("put", "p", 1, 1, "rand:1:4096") == "entropy_rejected 0"
        assert driver.ask("put", "p", 1, 2, "rand:1:1000").startswith("stored ")
        driver.ask("param", "p", "keep_rejected", 1)
        assert driver.ask("put", "p", 1, 1, "rand:1:4096") == "stored 4096"
        assert driver.ask("param", "p", "entropy_gate", 8001) == "err ERANGE"


@pytest.mark.parametrize("allocator", ALLOCATORS)
@pytest.mark.parametrize("page_size", [4096, 16384])
def test_the_coldest_frame_goes_first_and_a_get_makes_young(allocator: str, page_size: int) -> None:
    """A raw page has a frame of its own, so frames and pages are the same here."""
    with Driver("host", page_size) as driver:
        driver.ask("pool", "e", "ephemeral", allocator)
        driver.ask("param", "e", "keep_rejected", 1)
        driver.ask("param", "e", "exclusive_gets", 0)
        for i in range(40):
            assert driver.ask("put", "e", 1, i, f"rand:{i}:{page_size}") == f"stored {page_size}"
        for i in (5, 0, 3):
            driver.ask("get", "e", 1, i)
        driver.ask("peek", "e", 1, 1)  # which changes nothing
        order = [i for i in range(40) if i not in (5, 0, 3)] + [5, 0, 3]
        for first in order:
            assert driver.ask("reclaim", "e", 1) == "frames 1 zpages 1 taken"
            assert driver.ask("peek", "e", 1, first) == "err ENOENT"
        assert driver.stats("e")["frames"] == 0


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_what_is_not_taken_stays(allocator: str) -> None:
    with Driver("host-asan", 4096) as driver:
        driver.ask("pool", "p", "persistent", allocator)
        driver.ask("bulk", "p", 1, 0, 500, 1500)
        assert driver.ask("reclaim", "p", 10) == "frames 0 zpages 0 taken"
        assert driver.ask("reclaim", "p", 10, 0).endswith(" zpages 0 taken")
        frames = driver.stats("p")["frames"]
        _, freed, _, zpages, _, *taken = driver.ask("reclaim", "p", 10**6, 8).split()
        assert (int(freed), int(zpages), len(taken)) == (frames, 500, 500)
        assert driver.stats("p")["zpages"] == 0


@pytest.mark.parametrize("page_size", [4096, 16384])
def test_after_freeing_most_compaction_leaves_little_air(page_size: int) -> None:
    count = 80 * MIB // page_size * 3
    with Driver("host", page_size, 1024 * MIB) as driver:
        driver.ask("pool", "p", "persistent", "zsmalloc")
        driver.ask("param", "p", "compact_auto", 0)
        for i, length in enumerate(range(page_size // 16, page_size // 8 * 5, page_size // 32)):
            driver.ask("bulk", "p", i, 0, count // 18, length)
        before = driver.stats("p")
        assert before["zbytes"] > 64 * MIB
        for i in range(18):
            for index in range(count // 18):
                if mixed(i * count + index) % 5:
                    driver.ask("flush", "p", i, index)
        sparse = driver.stats("p")
        freed = int(driver.ask("compact", "p").split()[1])
        after = driver.stats("p")
        assert sparse["frames"] - after["frames"] == freed > 0
        assert after["compacted_frames"] == freed
        assert after["frames"] * page_size <= 1.1 * after["zbytes"]
        assert driver.ask("check") == "ok"


def mixed(number: int) -> int:
    """Spread evenly."""
    return number * 0x9E3779B97F4A7C15 % 2**64 >> 32


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_a_sparse_pool_compacts_itself(allocator: str) -> None:
    with Driver("host", 4096) as driver:
        for name, auto in (("by-itself", 1), ("by-hand", 0)):
            driver.ask("pool", name, "persistent", allocator)
            driver.ask("param", name, "compact_auto", auto)
            driver.ask("bulk", name, 1, 0, 8000, 1800)
            for i in range(8000):
                if mixed(i) % 5:
                    driver.ask("flush", name, 1, i)
        assert driver.stats("by-hand")["compacted_zpages"] == 0
        assert driver.stats("by-itself")["compacted_zpages"] > 0
        assert driver.stats("by-itself")["frames"] < driver.stats("by-hand")["frames"] * 0.8


def test_a_codec_goes_with_its_last_page() -> None:
    """Sixteen may be in use at one time."""
    with Driver("host-asan", 4096) as driver:
        driver.ask("pool", "p", "persistent")
        for level in range(1, 17):
            assert driver.ask("codec", "p", f"lz4:{level}") == "ok"
            driver.ask("put", "p", 1, level, "rand:1:1000")
        assert driver.ask("codec", "p", "lz4:17") == "err E2BIG"
        driver.ask("flush", "p", 1, 3)
        assert driver.ask("codec", "p", "lz4:17") == "ok"
        assert driver.ask("codec", "p", "lz4:18") == "err E2BIG"
        for level in (1, 2, 4, 16):
            assert driver.ask("get", "p", 1, level) == f"page {crc('rand:1:1000', 4096)}"


def test_a_dictionary_stays_while_a_page_needs_it() -> None:
    with Driver("host-asan", 4096) as driver:
        assert driver.ask("dictionary", 1, 2000) == "id 1"
        assert driver.ask("dictionary", 2, 2000) == "id 2"
        assert driver.ask("dictionary", 1, 2000) == "id 1"
        driver.ask("pool", "p", "persistent", "zsmalloc", "zstd:3:dict=1")
        driver.ask("put", "p", 1, 1, "rand:1:1000")
        assert driver.ask("codec", "p", "zstd:3:dict=2") == "ok"
        assert driver.ask("forget", 1) == "err EBUSY"
        assert driver.ask("get", "p", 1, 1) == f"page {crc('rand:1:1000', 4096)}"
        driver.ask("flush", "p", 1, 1)
        assert driver.ask("forget", 1) == "ok"
        assert driver.ask("forget", 1) == "err ENOENT"
        assert driver.ask("forget", 2) == "err EBUSY"
        assert driver.ask("codec", "p", "zstd:3:dict=1") == "err ENOENT"
        assert driver.ask("codec", "p", "lz4:1:dict=2") == "err EINVAL"
        assert driver.ask("dictionary", 1, 0) == "err EINVAL"
        assert driver.ask("dictionary", 1, MIB + 1) == "err EINVAL"


def test_a_store_at_its_limit_takes_no_dictionary() -> None:
    with Driver("host", 4096, 2 * MIB) as driver:
        driver.ask("pool", "p", "persistent")
        driver.ask("bulk", "p", 1, 0, 2000, 2048)
        assert driver.ask("dictionary", 1, 2000) == "err ENOMEM"
        driver.ask("flobj", "p", 1)
        assert driver.ask("dictionary", 1, 2000) == "id 1"


@pytest.mark.parametrize("content", ["rand:1:1000", "rand:1:4096"])
def test_a_page_is_as_old_as_its_last_put_or_get(content: str) -> None:
    """Not peek, nor what moves it. A second may pass meanwhile, by itself."""
    with Driver("host-asan", 4096) as driver:
        driver.ask("pool", "p", "persistent", "zsmalloc")
        driver.ask("param", "p", "keep_rejected", 1)

        def idle() -> int:
            return int(driver.ask("idle", "p", 1, 1))

        driver.ask("put", "p", 1, 1, content)
        assert idle() < 100
        driver.ask("skip", 1000)
        for harmless in ("peek p 1 1", "compact p", "check"):
            driver.ask(harmless)
        assert 1000 <= idle() < 1100
        driver.ask("get", "p", 1, 1)
        assert idle() < 100
        driver.ask("skip", 1000)
        driver.ask("put", "p", 1, 1, content)
        assert idle() < 100
        driver.ask("put", "p", 1, 1, "fill:1")
        assert driver.ask("idle", "p", 1, 1) == "none"


@pytest.mark.parametrize("config", CONFIGS)
def test_a_get_that_may_take_no_memory_says_when_it_would(config: str, tmp_path: Path) -> None:
    """What was lent once is ready for the next; a written page never is."""
    with Driver(config, 4096) as driver:
        for name, codec in [("p", "lz4"), ("z", "zstd"), ("c", "lz4")]:
            assert driver.ask("pool", name, "persistent", "zsmalloc", codec) == "ok"
            driver.ask("put", name, 1, 1, "rand:1:1000")
            driver.ask("put", name, 1, 2, "fill:7")
        page = f"page {crc('rand:1:1000', 4096)}"
        assert driver.ask("glance", "p", 1, 1) == page
        assert driver.ask("glance", "p", 1, 3) == "err ENOENT"

        assert driver.ask("glance", "z", 1, 2).startswith("page ")
        assert driver.ask("glance", "z", 1, 1) == "err EAGAIN"
        assert driver.stats("z")["gets"] == 1
        assert driver.ask("get", "z", 1, 1) == page
        assert driver.ask("glance", "z", 1, 1) == page
        assert driver.stats("z")["gets_found"] == driver.stats("z")["gets"] == 3

        driver.ask("put", "c", 1, 0, "half:1:2000")
        assert driver.ask("recompress", "c", 10**6).endswith("ok")
        assert driver.ask("where", "c", 1, 0) == "cold"
        assert driver.ask("glance", "c", 1, 0) == "err EAGAIN"
        cold = driver.ask("get", "c", 1, 0)
        assert driver.ask("glance", "c", 1, 0) == cold

        assert driver.ask("pool", "w", "persistent", "zsmalloc") == "ok"
        assert driver.ask("backing", "w", tmp_path / "store", "packed", 16 * MIB) == "ok"
        driver.ask("put", "w", 1, 1, "rand:1:1000")
        driver.ask("writeback", "w", 100)
        assert driver.ask("where", "w", 1, 1) == "written"
        assert driver.ask("get", "w", 1, 1) == page
        assert driver.ask("glance", "w", 1, 1) == "err EAGAIN"


def test_a_get_that_may_take_no_memory_leaves_an_ephemeral_page() -> None:
    with Driver("host", 4096) as driver:
        driver.ask("pool", "e", "ephemeral")
        driver.ask("put", "e", 1, 1, "rand:1:1000")
        assert driver.ask("glance", "e", 1, 1) == driver.ask("get", "e", 1, 1)
