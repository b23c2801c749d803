# SPDX-License-Identifier: Apache-2.0
"""One run of a program, to its end or until it is given up."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import flash
from bench.errors import BenchError

from . import swaps
from .group import Group, Use, group
from .programs import Workload
from .swaps import READ

STEP_S = 0.02
"""Between two looks at what it uses."""
PATIENCE = 180.0
"""Seconds, for growing and for the work each, if nobody knows better."""


@dataclass
class Peaks:
    """The most that was seen, in bytes."""

    anonymous: int = 0
    files: int = 0
    both: int = 0
    swapped: int = 0
    elsewhere: int = 0
    """In swap of others than the program's."""

    held: int = 0
    """By the zram device, uncompressed, the most; and its memory then."""
    held_in: int = 0

    def see(self, use: Use, elsewhere: int, zram: tuple[int, int]) -> None:
        self.anonymous = max(self.anonymous, use.anonymous)
        self.files = max(self.files, use.files)
        self.both = max(self.both, use.anonymous + use.files)
        self.swapped = max(self.swapped, use.swapped)
        self.elsewhere = max(self.elsewhere, elsewhere)
        self.held, self.held_in = max((self.held, self.held_in), zram)


@dataclass
class Watch:
    """A thread's that looks at a group, and ends all in it when the OOM killer was there or time is up."""

    group: Group
    node: Path | None
    deadline: float
    peaks: Peaks
    ended: str = ""
    """killed or slow; else it was not."""


@contextmanager
def watched(one: Group, node: Path | None, seconds: float) -> Iterator[Watch]:
    watch = Watch(one, node, time.monotonic() + seconds, Peaks())
    stop = threading.Event()
    thread = threading.Thread(target=_look, args=(watch, stop, swaps.elsewhere(node)))
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join()


def _look(watch: Watch, stop: threading.Event, elsewhere: int) -> None:
    while not stop.wait(STEP_S):
        watch.peaks.see(watch.group.use(), swaps.elsewhere(watch.node) - elsewhere, swaps.zram_memory(watch.node))
        if not watch.ended and watch.group.killed():
            watch.ended = "killed"
        if not watch.ended and time.monotonic() > watch.deadline:
            watch.ended = "slow"
        if watch.ended:
            watch.group.end()


def run(
    workload: Workload,
    limit: int | None = None,
    node: Path | None = None,
    patience: tuple[float, float] = (PATIENCE, PATIENCE),
) -> dict[str, Any]:
    """Its work, measured: what `outcome` there was (done, killed, slow or failed), and if it is done, what it took.

    node: where it is swapped to. patience: seconds for growing and for the work, each.
    """
    with group() as one:
        if limit is not None:
            one.limit(limit, swap=node is not None)
        if one.unified and node is not None and node.name.startswith("loop"):
            swaps.limit_swap(one.directories["blkio"], node)
        if workload.in_files:
            one.slow_reads(flash.disk(Path("build/workloads/x")), READ)
        with watched(one, node, sum(patience)) as watch:
            try:
                facts = _timed(workload, one, watch, patience[1])
            except (BenchError, OSError) as error:
                if watch.ended == "" and not one.killed():
                    raise
                facts = {"outcome": watch.ended or "killed", "why": str(error)}
        return facts | {"limit": limit, "peak": asdict(watch.peaks)}


def _timed(workload: Workload, one: Group, watch: Watch, patience: float) -> dict[str, Any]:
    started = time.monotonic()
    with workload.at_work(one.joined) as work:
        grown = time.monotonic()
        watch.deadline = grown + patience
        use, pages = one.use(), _pages(watch.node)
        work()
        seconds = time.monotonic() - grown
        use_after, pages_after = one.use(), _pages(watch.node)
    if watch.ended:
        raise BenchError(f"{workload.name}: {watch.ended}")
    return {
        "outcome": "done",
        "grow_s": round(grown - started, 3),
        "wall_s": round(seconds, 3),
        "cpu_s": round(use_after.cpu - use.cpu, 3),
        "major_faults": use_after.major_faults - use.major_faults,
        "pages_in": pages_after[0] - pages[0],
        "pages_out": pages_after[1] - pages[1],
    }


def _pages(node: Path | None) -> tuple[int, int]:
    return swaps.transferred(node) if node else (0, 0)
