# SPDX-License-Identifier: Apache-2.0
"""stats -w: values again and again, and how fast they change."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..counters import WEAR, Counters, pools_in
from .output import Output, size_text

Values = Mapping[str, int | float | str]


@dataclass(frozen=True)
class Sample:
    seconds: float
    """On a clock of this machine."""
    values: Values
    time: float = 0.0
    """Since 1970."""


def sample(values: Values) -> Sample:
    return Sample(time.monotonic(), values, time.time())


def rates(before: Sample | None, now: Sample) -> dict[str, float]:
    """By how much each number grew a second; of what was not there before, nothing."""
    if before is None or now.seconds <= before.seconds:
        return {}
    passed = now.seconds - before.seconds
    return {
        path: round((value - old) / passed, 1)
        for path, value in now.values.items()
        if not isinstance(value, str) and not isinstance(old := before.values.get(path, ""), str)
    }


def line(now: Sample, grown: Mapping[str, float]) -> dict[str, int | float | str]:
    """For JSON Lines; the rate of a value stands beside it."""
    return {"time": round(now.time, 3), **now.values, **{f"{path}_per_s": rate for path, rate in grown.items()}}


def show_values(output: Output, now: Sample, grown: Mapping[str, float]) -> None:
    rows = [(path, value, grown.get(path, "")) for path, value in now.values.items()]
    output.table(("path", "value>", "per second>"), rows)


def show_pools(output: Output, now: Sample, grown: Mapping[str, float]) -> None:
    """A line a pool: what is warm, cold and written back, and what is going on."""
    pools = [_Pool(now.values, name, grown) for name in pools_in(now.values)]
    columns = [column for column in _COLUMNS if not column.needs or any(column.needs in pool for pool in pools)]
    rows = [(pool.pool, *(column.cell(pool) for column in columns)) for pool in pools]
    output.table(("pool", *(column.name for column in columns)), rows or [("none", *[""] * len(columns))])


@dataclass(frozen=True)
class _Pool(Counters):
    grown: Mapping[str, float]

    def rate(self, *counters: str) -> float | None:
        """None: this is the first sample."""
        paths = [self._path(counter) for counter in counters]
        return sum(self.grown.get(path, 0) for path in paths) if self.grown else None


@dataclass(frozen=True)
class _Column:
    name: str
    cell: Callable[[_Pool], object]
    needs: str = ""
    """Shown where the daemon has this counter."""


def _a_second(*counters: str, text: Callable[[int], str] = str) -> Callable[[_Pool], str]:
    def cell(pool: _Pool) -> str:
        rate = pool.rate(*counters)
        return "" if rate is None else text(round(rate))

    return cell


_COLUMNS = (
    _Column("pages>", lambda pool: pool.held),
    _Column("warm frames>", lambda pool: pool.warm_frames),
    _Column("cold frames>", lambda pool: pool["cold_frames"], "cold_frames"),
    _Column("cold pages>", lambda pool: pool["cold_pages"], "cold_pages"),
    _Column("written pages>", lambda pool: pool["written_pages"]),
    _Column("used>", lambda pool: size_text(pool["used_bytes"])),
    _Column("puts/s>", _a_second("puts")),
    _Column("gets/s>", _a_second("gets")),
    _Column("evicted/s>", _a_second("reclaimed_zpages")),
    _Column("recompressed/s>", _a_second("recompressed_pages"), "recompressed_pages"),
    _Column("written/s>", _a_second(*WEAR, text=size_text)),
    _Column("read back/s>", _a_second("written_gets")),
)
