# SPDX-License-Identifier: Apache-2.0
"""The block device over a pool, against a model: any sectors, pages that are refused, a limit, discards."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native.driver import CONFIGS, Child, numbers

SECTOR = 512
PAGES = 24
"""Of the disk: more than it works on at one time."""
EXAMPLES = {"host": 100, "host-asan": 40, "host-tsan": 20}
IO = -errno.EIO


@dataclass
class Disk:
    """The program, and what it must answer. A page that it could not write is lost until it is written as a whole."""

    child: Child
    page_size: int
    sectors: list[int] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    held: set[int] = field(default_factory=set)
    next_number: int = 2

    def __post_init__(self) -> None:
        assert self.child.ask("disk", self.page_size, PAGES) == "ok"
        self.sectors = [0] * (PAGES * self.each)

    @property
    def each(self) -> int:
        """Sectors of a page."""
        return self.page_size // SECTOR

    def pages(self, first: int, count: int) -> range:
        return range(first // self.each, -(-(first + count) // self.each) if count else first // self.each)

    def read(self, first: int, count: int) -> None:
        error, *got = map(int, self.child.ask("read", first * SECTOR, count * SECTOR).split())
        if self.lost & set(self.pages(first, count)):
            assert (error, got) == (IO, [])
        else:
            assert (error, got) == (0, self.sectors[first : first + count])

    def write(self, first: int, count: int, poor: bool) -> None:
        number = self.next_number + poor
        self.next_number += 2 * count + 2
        error = int(self.child.ask("write", first * SECTOR, count * SECTOR, number))
        assert error in (0, IO)
        pages = set(self.pages(first, count))
        barred = {page for page in pages & self.lost if not self.is_whole(page, first, count)}
        pages -= barred
        for page in pages:
            self.write_page(page, first, count, number)
        refused = self.find_refused(pages) if error else set()
        assert bool(error) == bool(refused | barred)
        self.lost |= refused
        self.held |= pages

    def is_whole(self, page: int, first: int, count: int) -> bool:
        return first <= page * self.each and (page + 1) * self.each <= first + count

    def write_page(self, page: int, first: int, count: int, number: int) -> None:
        start, end = max(first, page * self.each), min(first + count, (page + 1) * self.each)
        self.sectors[start:end] = [number + 2 * (at - first) for at in range(start, end)]
        self.lost.discard(page)

    def find_refused(self, pages: set[int]) -> set[int]:
        """Which of these a write lost, as reading each tells."""
        refused = set()
        for page in pages:
            error, *got = map(int, self.child.ask("read", page * self.page_size, self.page_size).split())
            assert error in (0, IO)
            if error:
                refused.add(page)
            else:
                assert got == self.sectors[page * self.each : (page + 1) * self.each]
        return refused

    def discard(self, first: int, count: int) -> None:
        assert self.child.ask("discard", first * SECTOR, count * SECTOR) == "0"
        for page in self.pages(first, count):
            if self.is_whole(page, first, count):
                self.sectors[page * self.each : (page + 1) * self.each] = [0] * self.each
                self.lost.discard(page)
                self.held.discard(page)

    def check(self) -> None:
        for page in range(PAGES):
            self.read(page * self.each, self.each)
        stats = numbers(self.child.ask("stats"))
        assert stats["held"] == len(self.held)
        assert stats["reads"] >= stats["read_errors"]
        assert stats["writes"] >= stats["write_errors"]


def spans(page_size: int) -> st.SearchStrategy[tuple[int, int]]:
    """Sectors of the disk: first, count."""
    total = PAGES * page_size // SECTOR
    whole = st.tuples(st.integers(0, PAGES - 1), st.integers(1, PAGES)).map(
        lambda span: (span[0] * page_size // SECTOR, min(span[1], PAGES - span[0]) * page_size // SECTOR)
    )
    any_ = st.tuples(st.integers(0, total - 1), st.integers(0, total)).map(
        lambda span: (span[0], min(span[1], total - span[0]))
    )
    return whole | any_


def ops(page_size: int) -> st.SearchStrategy[tuple[object, ...]]:
    span = spans(page_size)
    return st.one_of(
        st.tuples(st.just("write"), span, st.booleans()),
        st.tuples(st.just("read"), span),
        st.tuples(st.just("discard"), span),
        st.tuples(st.just("keep_rejected"), st.booleans()),
        st.tuples(st.just("limit"), st.sampled_from([2, 6, 1024])),
    )


@pytest.mark.minutes(0.5)
@pytest.mark.parametrize("page_size", [4096, 16384])
@pytest.mark.parametrize("config", CONFIGS)
def test_a_disk_does_what_its_model_does(config: str, page_size: int) -> None:
    @settings(max_examples=EXAMPLES[config])
    @given(st.lists(ops(page_size), max_size=30))
    def run(steps: list[tuple[object, ...]]) -> None:
        disk = Disk(Child(config, "zc_disk"), page_size)
        for what, *words in steps:
            match what, words:
                case "write", [(int(first), int(count)), bool(poor)]:
                    disk.write(first, count, poor)
                case "read", [(int(first), int(count))]:
                    disk.read(first, count)
                case "discard", [(int(first), int(count))]:
                    disk.discard(first, count)
                case "keep_rejected", [bool(keeps)]:
                    assert disk.child.ask("set", "keep_rejected", int(keeps)) == "ok"
                case "limit", [int(pages)]:
                    assert disk.child.ask("limit", pages * 65536) == "ok"
        disk.check()
        assert disk.child.ended() == 0

    run()


@pytest.mark.parametrize("words", [("read", 1, 512), ("write", 512, 513, 2), ("discard", 100, 4096)])
def test_what_is_not_on_sectors_is_refused(words: tuple[object, ...]) -> None:
    child = Child("host-asan", "zc_disk")
    assert child.ask("disk", 4096, PAGES) == "ok"
    assert child.ask(*words) == str(-errno.EINVAL)
    assert child.ended() == 0


@pytest.mark.parametrize("op", ["read", "write", "discard"])
@pytest.mark.parametrize(("at", "size"), [(PAGES * 4096, 512), (PAGES * 4096 - 512, 1024), (2**63, 512)])
def test_what_is_beyond_the_end_is_refused(op: str, at: int, size: int) -> None:
    child = Child("host-asan", "zc_disk")
    assert child.ask("disk", 4096, PAGES) == "ok"
    assert child.ask(op, at, size, *([2] if op == "write" else [])) == str(-errno.EINVAL)
    assert child.ended() == 0


def test_a_swap_device_is_split_into_areas_that_the_kernel_takes() -> None:
    child = Child("host-asan", "zc_disk")

    @given(st.integers(10, 1 << 24), st.sampled_from([4096, 16384, 65536]), st.integers(0, 32767))
    def run(pages: int, page_size: int, priority: int) -> None:
        size = pages * page_size
        count, each = map(int, child.ask("areas", size, page_size, priority).split())
        assert 1 <= count <= 16
        assert priority + count - 1 <= 32767, "each is above the next"
        assert each % page_size == 0
        assert each <= size - (count - 1) * each < each + count * page_size, "the last is as large as the others"
        assert count == 1 or each >= 16 << 20
        assert count == min(16, max(1, size >> 24), 32768 - priority)

    run()
    assert child.ended() == 0
