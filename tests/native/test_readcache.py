# SPDX-License-Identifier: Apache-2.0
"""The read cache of a file next to a model, and threads that read, write and shrink it at once."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native.driver import CONFIGS, ENVIRONMENT, Child, numbers, program

SECTOR = 512
PAGES = 40
"""Of the source: more than is done at one time."""
TAIL = 3
"""Sectors of its last page: a source does not end with a page."""
EXAMPLES = {"host": 100, "host-asan": 40, "host-tsan": 20}
OPS = {"host": 20000, "host-asan": 8000, "host-tsan": 3000}
"""Writes of each of the stress's writers."""
MEMORY = Path("/dev/shm")
"""A file system that takes O_DIRECT and has nothing but its page cache."""


@dataclass
class Cache:
    """The program, and what it must answer."""

    child: Child
    path: Path
    page_size: int
    buffered: bool
    sectors: list[int] = field(default_factory=list)
    kept: set[int] = field(default_factory=set)
    """Pages that the pool must have, unless it may have dropped some."""
    calm: bool = True
    """It has dropped none, and every page compresses."""
    hits: int = 0
    saved: int = 0
    next_number: int = 2

    def __post_init__(self) -> None:
        self.sectors = [0] * ((PAGES - 1) * self.each + TAIL)
        self.path.touch()
        os.truncate(self.path, len(self.sectors) * SECTOR)
        opened = self.child.ask("open", self.path, self.page_size, 0)
        assert opened.startswith(f"ok size={len(self.sectors) * SECTOR} ")
        assert opened.endswith(" read_only=0 discard=1")
        if self.buffered:
            assert self.child.ask("buffered") == "ok"

    @property
    def each(self) -> int:
        """Sectors of a page."""
        return self.page_size // SECTOR

    def pages(self, first: int, count: int) -> set[int]:
        return set(range(first // self.each, (first + count - 1) // self.each + 1)) if count else set()

    def overlap(self, page: int, first: int, count: int) -> int:
        """Bytes of the page in that span."""
        return (min(first + count, (page + 1) * self.each) - max(first, page * self.each)) * SECTOR

    def read(self, first: int, count: int) -> None:
        error, *got = map(int, self.child.ask("read", first * SECTOR, count * SECTOR).split())
        assert (error, got) == (0, self.sectors[first : first + count])
        pages = self.pages(first, count)
        stats = numbers(self.child.ask("stats"))
        hits, saved = stats["hits"] - self.hits, stats["saved"] - self.saved
        self.hits, self.saved = stats["hits"], stats["saved"]
        there = pages & self.kept
        if self.calm:
            assert (hits, saved) == (len(there), sum(self.overlap(page, first, count) for page in there))
        else:
            assert hits <= len(there)
        self.kept |= pages

    def write(self, first: int, count: int, poor: bool) -> None:
        number = self.next_number + poor
        self.next_number += 2 * count + 2
        assert self.child.ask("write", first * SECTOR, count * SECTOR, number) == "0"
        self.change(first, [number + 2 * i for i in range(count)])
        self.calm = self.calm and not poor

    def discard(self, first: int, count: int) -> None:
        assert self.child.ask("discard", first * SECTOR, count * SECTOR) == "0"
        self.change(first, [0] * count)

    def change(self, first: int, to: list[int]) -> None:
        """It is in the source at once, and a page that it touches is kept no longer."""
        self.sectors[first : first + len(to)] = to
        self.kept -= self.pages(first, len(to))
        with self.path.open("rb") as file:
            file.seek(first * SECTOR)
            found = file.read(len(to) * SECTOR)
        assert [int.from_bytes(found[i : i + 8], "little") for i in range(0, len(found), SECTOR)] == to

    def shrink(self, frames: int) -> None:
        assert self.child.ask("shrink", frames) == "ok"
        self.calm = False

    def check(self) -> None:
        self.read(0, len(self.sectors))
        stats = numbers(self.child.ask("stats"))
        assert (stats["read_errors"], stats["write_errors"], stats["raced"]) == (0, 0, 0)
        assert self.child.ended() == 0


def spans(page_size: int) -> st.SearchStrategy[tuple[int, int]]:
    """Sectors of the source: first, count."""
    total = (PAGES - 1) * page_size // SECTOR + TAIL
    return st.tuples(st.integers(0, total - 1), st.integers(0, total) | st.integers(0, 20)).map(
        lambda span: (span[0], min(span[1], total - span[0]))
    )


def ops(page_size: int) -> st.SearchStrategy[tuple[object, ...]]:
    span = spans(page_size)
    return st.one_of(
        st.tuples(st.just("read"), span),
        st.tuples(st.just("write"), span, st.sampled_from([False, False, False, True])),
        st.tuples(st.just("discard"), span),
        st.tuples(st.just("flush")),
        st.tuples(st.just("shrink"), st.integers(1, 8)),
    )


@pytest.mark.minutes(0.5)
@pytest.mark.parametrize("page_size", [4096, 16384])
@pytest.mark.parametrize("config", CONFIGS)
def test_a_cache_does_what_its_model_does(config: str, page_size: int) -> None:
    @settings(max_examples=EXAMPLES[config])
    @given(st.lists(ops(page_size), max_size=30), st.booleans())
    def run(steps: list[tuple[object, ...]], buffered: bool) -> None:
        with TemporaryDirectory() as directory:
            cache = Cache(Child(config, "zc_readcache"), Path(directory) / "source", page_size, buffered)
            for what, *words in steps:
                match what, words:
                    case "read", [(int(first), int(count))]:
                        cache.read(first, count)
                    case "write", [(int(first), int(count)), bool(poor)]:
                        cache.write(first, count, poor)
                    case "discard", [(int(first), int(count))]:
                        cache.discard(first, count)
                    case "shrink", [int(frames)]:
                        cache.shrink(frames)
                    case _:
                        assert cache.child.ask("flush") == "0"
            cache.check()

    run()


@pytest.mark.parametrize("buffered", [False, True])
def test_nothing_is_cached_twice(tmp_path: Path, buffered: bool) -> None:
    cache = Cache(Child("host", "zc_readcache"), tmp_path / "source", 4096, buffered)
    for request in (("write", 0, 100 * SECTOR, 2), ("flush",)):
        assert cache.child.ask(*request) == "0"
    for _ in range(2):
        assert cache.child.ask("read", 0, len(cache.sectors) * SECTOR).startswith("0 ")
    assert cache.child.ask("cached") == "0"


def test_a_file_system_that_only_says_that_it_is_direct(tmp_path: Path) -> None:
    """Where O_DIRECT goes through the page cache, it is not used."""
    child = Child("host", "zc_readcache")
    with TemporaryDirectory(dir=MEMORY) as directory:
        path = Path(directory) / "source"
        path.write_bytes(bytes(8192))
        assert child.ask("open", path, 4096, 0) == "ok size=8192 direct=0 read_only=0 discard=1"
        assert child.ask("read", 0, 8192) == "0" + " 0" * 16
        assert child.ended() == 0


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (None, f"err -{errno.ENOENT}: {{path}}: No such file or directory"),
        (0, f"err -{errno.EINVAL}: {{path}}: its 0 bytes are no multiple of 512 above 0"),
        (1000, f"err -{errno.EINVAL}: {{path}}: its 1000 bytes are no multiple of 512"),
    ],
)
def test_what_is_no_source(tmp_path: Path, size: int | None, said: str) -> None:
    path = tmp_path / "source"
    if size is not None:
        path.write_bytes(bytes(size))
    child = Child("host-asan", "zc_readcache")
    assert child.ask("open", path, 4096, 0) == said.format(path=path)
    assert child.ask("open", tmp_path, 4096, 0).startswith(f"err -{errno.EISDIR}: {tmp_path}: a directory;")
    assert child.ask("open", "/dev/null", 4096, 0).startswith(f"err -{errno.EINVAL}: /dev/null: neither")
    assert child.ended() == 0


def test_a_file_that_another_has_locked(tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(bytes(4096))
    child = Child("host-asan", "zc_readcache")
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert child.ask("open", path, 4096, 0).startswith(f"err -{errno.EBUSY}: {path}: mounted, or in use")
    assert child.ask("open", path, 4096, 1).startswith("ok size=4096 direct=1 read_only=1 discard=0")
    assert child.ended() == 0


@pytest.mark.minutes(0.3)
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("page_size", [4096, 16384])
@pytest.mark.parametrize("in_memory", [False, True])
def test_no_read_finds_less_than_was_written(config: str, page_size: int, in_memory: bool) -> None:
    """Above all, what was read before a write must not be kept after it."""
    with TemporaryDirectory(dir=MEMORY if in_memory else None) as directory:
        path = Path(directory) / "source"
        path.touch()
        os.truncate(path, 16 * page_size)
        command = [str(program(config, "zc_readcache")), "stress", str(path), str(page_size), str(OPS[config]), "1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    stats = numbers(done.stdout)
    assert min(stats[name] for name in ("hits", "misses", "writes", "raced")) > 0, stats
