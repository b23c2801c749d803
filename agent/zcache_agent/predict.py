# SPDX-License-Identifier: Apache-2.0
"""What pages would take in a pool, from the sizes of their zpages: the allocators' own rules, without memory.

A prediction walks the sizes in the order given, as if the pages were put one by one, none ever flushed.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

HEAD_BYTES = 12
"""Beside each zpage, in zbud and in zsmalloc."""
RECORD_BYTES = 24
"""Of metadata for each frame of zbud's and each zspage of zsmalloc's."""


class Allocator(Protocol):
    def add(self, size: int) -> int:
        """Places a zpage. Returns what of its frames it takes, in bytes, about."""

    @property
    def frames(self) -> int: ...

    @property
    def record_bytes(self) -> int:
        """Of metadata."""


class Zbud:
    """At most two zpages a frame, in 64ths of it; the next goes to where it fits best."""

    CHUNKS = 64

    def __init__(self, page_size: int) -> None:
        self._chunk = page_size // self.CHUNKS
        self._waiting = [0] * self.CHUNKS
        """Frames with one zpage, by the chunks that are free."""
        self._listed = 0
        """Of these: bit n, there are some."""
        self.frames = 0

    def add(self, size: int) -> int:
        chunks = min(-(-(size + HEAD_BYTES) // self._chunk), self.CHUNKS)
        fitting = self._listed >> chunks << chunks
        if fitting:
            free = (fitting & -fitting).bit_length() - 1
            self._waiting[free] -= 1
            if not self._waiting[free]:
                self._listed &= ~(1 << free)
        else:
            self.frames += 1
            free = self.CHUNKS - chunks
            if free:
                self._waiting[free] += 1
                self._listed |= 1 << free
        return chunks * self._chunk

    @property
    def record_bytes(self) -> int:
        return self.frames * RECORD_BYTES


@dataclass(frozen=True)
class SizeClass:
    size: int
    """Bytes a slot."""
    frames: int
    slots: int
    """A zspage."""


@dataclass
class _Used:
    """Of a class."""

    shape: SizeClass
    frames: int = 0
    free: int = 0
    taken: int = 0
    """Frames of the zspage that is filled now."""
    zspages: int = 0


class Zsmalloc:
    """zcache's: of a zspage the frames are taken as they are needed, a 16th of the class's at a time."""

    SHARE = 16

    def __init__(self, page_size: int, classes: Sequence[SizeClass]) -> None:
        """The classes from the smallest slots up; the last is that of whole frames."""
        self._page_size = page_size
        self._classes = [_Used(shape) for shape in classes]
        self._sizes = [shape.size for shape in classes[:-1]]

    def add(self, size: int) -> int:
        number = bisect_left(self._sizes, size + HEAD_BYTES)
        of = self._classes[number]
        if number == len(self._sizes):
            of.frames += 1
            of.zspages += 1
            return self._page_size
        if of.free == 0:
            self._fill(of)
        of.free -= 1
        return of.shape.size

    def _fill(self, of: _Used) -> None:
        shape = of.shape
        if of.taken == shape.frames or not of.zspages:
            of.taken = 0
            of.zspages += 1
        before, of.taken = of.taken, min(of.taken + max(of.frames // self.SHARE, 1), shape.frames)
        of.frames += of.taken - before
        of.free += self._slots_in(shape, of.taken) - self._slots_in(shape, before)

    def _slots_in(self, shape: SizeClass, frames: int) -> int:
        return frames * self._page_size // shape.size

    @property
    def frames(self) -> int:
        return sum(of.frames for of in self._classes)

    @property
    def record_bytes(self) -> int:
        return sum(of.zspages for of in self._classes) * RECORD_BYTES


class KernelZsmalloc:
    """The kernel's, as zram uses it: whole zspages, and a page that compresses badly in a page of its own.

    The classes are those that the kernel computes when it is built with chains of up to `chain` pages, its default.
    Linux, Documentation/mm/zsmalloc.rst.
    """

    HANDLE_BYTES = 8
    SMALLEST = 32

    def __init__(self, page_size: int, chain: int = 8) -> None:
        self._page_size = page_size
        self._classes: list[SizeClass] = []
        step = page_size // 256
        for number in reversed(range(-(-(page_size - self.SMALLEST) // step) + 1)):
            self._add_class(min(self.SMALLEST + number * step, page_size), chain)
        self._classes.reverse()
        self._sizes = [shape.size for shape in self._classes]
        self._zpages: Counter[int] = Counter()
        self._largest = max((shape.size for shape in self._classes if shape.slots > 1), default=0) - self.HANDLE_BYTES

    def _add_class(self, size: int, chain: int) -> None:
        pages = min(range(1, chain + 1), key=lambda count: (count * self._page_size % size, count))
        slots = pages * self._page_size // size
        last = self._classes[-1] if self._classes else None
        if last is None or (last.frames, last.slots) != (pages, slots):
            self._classes.append(SizeClass(size, pages, slots))

    def add(self, size: int) -> int:
        if size > self._largest:
            size = self._page_size - self.HANDLE_BYTES
        number = bisect_left(self._sizes, size + self.HANDLE_BYTES)
        self._zpages[number] += 1
        return self._sizes[number]

    @property
    def frames(self) -> int:
        used = ((self._classes[number], count) for number, count in self._zpages.items())
        return sum(-(-count // shape.slots) * shape.frames for shape, count in used)

    @property
    def record_bytes(self) -> int:
        """Not part of zram's mem_used_total."""
        return 0


@dataclass(frozen=True)
class Thresholds:
    """Bytes."""

    max_zsize: int
    max_mean_zsize: int

    @classmethod
    def default(cls, page_size: int) -> "Thresholds":
        return cls(page_size * 7 // 8, page_size * 5 // 8)


@dataclass
class Filled:
    """A pool that was given pages."""

    pages: int = 0
    stored: int = 0
    """Same-filled ones are not among them."""
    same_filled: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    costs: list[int] = field(default_factory=list)
    """By page: bytes of frames, about."""
    frames: int = 0
    record_bytes: int = 0


def fill(allocator: Allocator, sizes: Iterable[int], thresholds: Thresholds | None, page_size: int) -> Filled:
    """Puts pages, by the sizes of their zpages; 0: same-filled. No thresholds: takes all, as zram does."""
    filled = Filled()
    stored_bytes = 0
    for size in sizes:
        filled.pages += 1
        cost = 0
        if size == 0:
            filled.same_filled += 1
        elif thresholds and (size > thresholds.max_zsize or size > page_size):
            filled.refused["compress_poor"] += 1
        elif (
            thresholds and size > thresholds.max_mean_zsize and stored_bytes > thresholds.max_mean_zsize * filled.stored
        ):
            filled.refused["mean_compress_poor"] += 1
        else:
            filled.stored += 1
            stored_bytes += size
            cost = allocator.add(size)
        filled.costs.append(cost)
    filled.frames, filled.record_bytes = allocator.frames, allocator.record_bytes
    return filled
