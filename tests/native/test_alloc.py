# SPDX-License-Identifier: Apache-2.0
"""Allocators and frames, driven directly: by one thread next to a model, by several, and measured by the OS."""

import resource
import subprocess
from pathlib import Path

import pytest

from tests.native.driver import CONFIGS, program

MIB = 1024 * 1024
OS_PAGE_SIZE = resource.getpagesize()
PAGE_SIZES = [size for size in (4096, 16384, 65536) if size >= OS_PAGE_SIZE]
ALLOCATORS = ["zbud", "zsmalloc"]
OPS = {"host": 8000, "host-asan": 4000, "host-tsan": 2000}


def run(config: str, name: str, *words: object) -> list[dict[str, int]]:
    """The numbers of each line that the program prints."""
    command = [str(program(config, name)), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    pairs = ([pair.split("=") for pair in line.split()] for line in done.stdout.splitlines())
    return [{name: int(value) for name, value in line} for line in pairs]


@pytest.mark.parametrize("frames", [0, 50])
@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("allocator", ALLOCATORS)
@pytest.mark.parametrize("config", CONFIGS)
def test_an_allocator_does_what_its_model_does(config: str, allocator: str, page_size: int, frames: int) -> None:
    """Up to 300 zpages, in as many frames as they need or in far fewer."""
    for seed in range(2):
        (counts,) = run(config, "zc_alloc", "model", allocator, page_size, frames * page_size, seed, OPS[config])
        assert min(counts[name] for name in ("mallocs", "moved", "isolated", "freed", "sparse")) > 0
        assert (counts["refused"] > 0) == (frames > 0)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_many_frames_are_emptied_coldest_first(allocator: str, page_size: int) -> None:
    """More than one scan finds, and more than are scanned at one time."""
    count = 6000
    (counts,) = run("host", "zc_alloc", "lru", allocator, page_size, 0, 1, count)
    assert counts["freed"] == count // 2
    assert counts["isolated"] > 100


@pytest.mark.parametrize("frames", [0, 250])
@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("allocator", ALLOCATORS)
@pytest.mark.parametrize("config", CONFIGS)
def test_threads_empty_each_others_frames(config: str, allocator: str, page_size: int, frames: int) -> None:
    (counts,) = run(config, "zc_alloc", "threads", allocator, page_size, frames * page_size, 1, OPS[config], 4)
    assert min(counts[name] for name in ("mallocs", "moved", "isolated", "freed")) > 0
    assert (counts["refused"] > 0) == (frames > 0)


@pytest.mark.parametrize("frames", [0, 150])
@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("config", CONFIGS)
def test_extents_are_what_was_asked_for(config: str, page_size: int, frames: int) -> None:
    for seed in range(2):
        (counts,) = run(config, "zc_frames", "random", page_size, frames * page_size, seed, OPS[config], 1)
        assert counts["got"] > 0
        assert (counts["refused"] > 0) == (frames > 0)


@pytest.mark.parametrize("frames", [0, 500])
@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("config", CONFIGS)
def test_threads_take_extents(config: str, page_size: int, frames: int) -> None:
    (counts,) = run(config, "zc_frames", "random", page_size, frames * page_size, 1, OPS[config] // 4, 4)
    assert counts["got"] > 0
    assert (counts["refused"] > 0) == (frames > 0)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_used_bytes_of_extents_agrees_with_the_os(page_size: int) -> None:
    """Full, with parts given back and others grown, with every second extent gone, and empty."""
    empty, *steps, end = run("host", "zc_frames", "memory", page_size, 256 * MIB)
    assert empty["used"] == end["used"] == 0
    assert end["os"] - empty["os"] < MIB
    for step in steps:
        assert step["used"] > 64 * MIB
        assert step["used"] == pytest.approx(step["os"] - empty["os"], rel=0.005)


@pytest.mark.parametrize("config", CONFIGS)
def test_pieces(config: str) -> None:
    """Many, few and none of them, of all sizes; holes that they leave are counted, but hardly stay."""
    ops = OPS[config] * 20
    for threads in (1, 4):
        empty, many, few, end = run(config, "zc_pieces", 1, ops, threads)
        assert empty["used"] == 0
        assert end["used"] <= MIB // 8, "one chunk is kept"
        if config != "host":
            continue
        for step in (many, few):
            assert step["used"] == pytest.approx(step["os"] - empty["os"], rel=0.05, abs=MIB // 2)


def huge_pages_split() -> int | None:
    """How many the system has split so far. None: it gives no huge pages of a run's size."""
    directory = Path("/sys/kernel/mm/transparent_hugepage")
    if not directory.exists() or "[never]" in (directory / "enabled").read_text():
        return None
    if int((directory / "hpage_pmd_size").read_text()) != 2 * MIB:
        return None
    counters = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(counters["thp_split_page"])


def test_a_huge_page_is_split_before_a_part_of_it_goes_back() -> None:
    """Else the OS keeps it whole, which nothing says that counts mapped pages."""
    before = huge_pages_split()
    run("host", "zc_frames", "memory", OS_PAGE_SIZE, 256 * MIB)
    after = huge_pages_split()
    assert before is None or after is None or after > before
