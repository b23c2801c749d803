# SPDX-License-Identifier: Apache-2.0
"""What a program's memory is made of, half way through its work, and how much of it is cold."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from bench.corpora import PAGE_SIZE, memory_of, stopped
from bench.errors import BenchError
from bench.measure import Facts, measure, medians
from bench.sections import STORE, ZCACHED
from zcache_agent.analyze import Options, Sample, analyze
from zcache_agent.predict import Thresholds

from .group import Group, group
from .programs import Work, Workload

CODECS = ("lz4", "zstd:3")
COLD_S = (1, 2)
"""Seconds of work after which is looked what was not touched."""
IDLE_S = 5
SAMPLE_S = 60
COLD_EXTENT, COLD_LEVEL = 4, 9
"""The cold tier's defaults."""


def look(workload: Workload, seconds: float, pages: Path) -> Facts:
    """seconds: what its work takes without a limit. Some of its pages are written to `pages`."""
    with group() as one, workload.at_work(one.joined) as work:
        idle = share_cold(one, [IDLE_S])[0] if workload.serves else None
        with at_work(work, again=workload.serves):
            try:
                time.sleep(seconds * 0.3)
                cold = share_cold(one, [after for after in COLD_S if workload.serves or after <= seconds * 0.5])
                with stopped(one.pids()):
                    facts = sampled(one.pids())
                    with pages.open("wb") as out:
                        out.writelines(memory_of(lambda: nullcontext(holding(one.pids()))))
            finally:
                one.end()
    return facts | {"touched": {"work": cold, "idle": idle}}


@contextmanager
def at_work(work: Work, *, again: bool) -> Iterator[None]:
    """Meanwhile, and when it is done, again. It may well fail: it ends with its program."""

    def going() -> None:
        with suppress(BenchError, OSError):
            work()
            while again:
                work()

    thread = threading.Thread(target=going)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def share_cold(one: Group, moments: Sequence[float]) -> list[float]:
    """Of the anonymous pages that are there now: not touched so many seconds later."""
    pids = one.pids()
    before = sum(anonymous(pid)[0] for pid in pids)
    for pid in pids:
        with suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("1")
    started = time.monotonic()
    shares = []
    for moment in moments:
        time.sleep(max(0.0, started + moment - time.monotonic()))
        shares.append(round(min(1, sum(anonymous(pid)[1] for pid in pids) / before), 3))  # new ones may be cold, too
    return shares


def anonymous(pid: int) -> tuple[int, int]:
    """KiB of the process, and of these not touched since clear_refs. In an area with file pages, too, all touched ones
    count as anonymous."""
    total = cold = 0
    area: dict[str, int] = {}
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("Anonymous", "Referenced"):
                area[name] = int(rest.split()[0])
            elif name == "VmFlags":
                total += area["Anonymous"]
                cold += max(0, area["Anonymous"] - area["Referenced"])
    return total, cold


def holding(pids: Sequence[int]) -> list[int]:
    """Those that have memory still."""
    return [pid for pid in pids if anonymous(pid)[0] > 0]


def sampled(pids: Sequence[int]) -> Facts:
    """As `zcache analyze` says it; and what of files is mapped, each page shared among those that map it."""
    options = Options(PAGE_SIZE, tuple(holding(pids)), seconds=SAMPLE_S, cpu=100, codecs=CODECS)
    done = subprocess.run([ZCACHED, "sample", *options.words()], stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise BenchError(f"zcached sample: ended with {done.returncode}; what it says is above")
    total = analyze(Sample(json.loads(done.stdout)), Thresholds.default(PAGE_SIZE))["total"]
    return {"total": total, "mapped_files": sum(map(_mapped, pids))}


def _mapped(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_File:"):
                return int(line.split()[1]) * 1024
    return 0


def stored(pages: Path, rounds: int) -> dict[str, Any]:
    """What the store makes of them, in process."""
    cold = measure("cold", pages)
    point = next(p for p in cold["curve"] if (p["pages"], p["level"]) == (COLD_EXTENT, COLD_LEVEL))
    backing = measure("backing", pages, device=STORE, rounds=1)
    size = pages.stat().st_size
    return {
        "store": medians(measure("inproc", pages, allocator="zsmalloc", rounds=rounds)),
        "cold": {**point, "pages": cold["pages"], "warm_bytes": cold["warm_bytes"]},
        "written": {name: backing[f"{name}_written"] for name in ("filling", "again")},
        "dumped_bytes": size,
    }
