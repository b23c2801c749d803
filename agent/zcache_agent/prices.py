# SPDX-License-Identifier: Apache-2.0
"""What operations took on the recorded device, and would by another codec: means, and how sure they are."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from .recording import Kind, Recording


@dataclass(frozen=True)
class Price:
    """ns a page, or a run of pages. None: the record does not tell."""

    compress: float | None
    decompress: float | None
    error_percent: float = 0.0
    """Of compress: twice its standard error."""

    def times(self, pages: int) -> Price:
        return Price(_times(self.compress, pages), _times(self.decompress, pages), self.error_percent)


def _times(ns: float | None, pages: int) -> float | None:
    return None if ns is None else ns * pages


class Prices:
    """Of one recording; each is worked out once."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.of = cache(self._of)
        self.of_extent = cache(self._of_extent)

    @cached_property
    def stored(self) -> float | None:
        """ns of a put that stores a page, compression left out, as in the next."""
        return mean(self._recording.costs.stored)

    @cached_property
    def refused(self) -> float | None:
        return mean(self._recording.costs.refused)

    @cached_property
    def fill(self) -> float | None:
        """ns of a put of a same-filled page."""
        return mean(self._recording.costs.fill)

    @cached_property
    def got_fill(self) -> float | None:
        """ns of a get of a same-filled page."""
        return mean(self._recording.costs.got_fill)

    @property
    def got_fills(self) -> int:
        """Such gets. They are as many with other settings: what takes no memory need not leave."""
        return len(self._recording.costs.got_fill)

    @cached_property
    def missed(self) -> float | None:
        """ns of a get that finds nothing."""
        return mean(self._recording.costs.missed)

    @cached_property
    def flushed(self) -> float | None:
        return mean(self._recording.costs.flushed)

    @cached_property
    def beside_decompression(self) -> float | None:
        """ns of a get that finds a page, without that."""
        got, own = mean(self._recording.costs.got), self._tried(self._recording.codec).decompress
        return None if got is None or own is None else max(0.0, got - own)

    @cached_property
    def fills(self) -> int:
        """Puts of same-filled pages."""
        recording = self._recording
        columns = zip(recording.kinds[recording.held :], recording.sizes[recording.held :], strict=True)
        return sum(kind == Kind.PUT and size == 0 for kind, size in columns)

    def _of(self, codec: str) -> Price:
        """A page, by a codec: by the pool's own as it was done, by others as it was tried."""
        tried = self._tried(codec)
        if codec != self._recording.codec:
            return tried
        done = self._recording.costs.compress
        return Price(mean(done), tried.decompress, mean_error(done))

    def _of_extent(self, codec: str, span: int) -> Price:
        """2^span pages together; where these were not tried, as if each were alone."""
        tried = self._tried(f"{codec}*{1 << span}" if span else codec)
        return tried if tried.compress is not None else self._tried(codec).times(1 << span)

    def _tried(self, spec: str) -> Price:
        recording = self._recording
        if spec not in recording.tries:
            return Price(None, None)
        which = recording.tries.index(spec)
        made = [one.of[which] for one in recording.tried if which in one.of]
        compress = [ns for _, ns, _ in made]
        return Price(mean(compress), mean([ns for _, _, ns in made]), mean_error(compress))


def _kept(values: Sequence[int], least: int) -> list[int]:
    """All but the longest thousandth, in which something else ran: what comes once in a hundred times is a cost."""
    return sorted(values)[: max(least, len(values) * 999 // 1000)]


def mean(values: Sequence[int]) -> float | None:
    """Of those that are kept."""
    if not values:
        return None
    kept = _kept(values, 1)
    return sum(kept) / len(kept)


def total(*parts: tuple[int, float | None]) -> float | None:
    """Of times; None: one that is needed is not known."""
    if any(count and ns is None for count, ns in parts):
        return None
    return sum((count * (ns or 0.0) for count, ns in parts), 0.0)


def mean_error(values: Sequence[int]) -> float:
    """Twice the standard error of the mean, in percent of it."""
    if len(values) < 2 or not (mean := statistics.fmean(values)):
        return 0.0
    kept = _kept(values, 2)
    return float(200 * statistics.stdev(kept) / len(kept) ** 0.5 / mean)


def ratio_error(owns: Sequence[int], made: Sequence[int]) -> float:
    """Twice the standard error of Σ made / Σ owns, in percent of it."""
    if len(owns) < 2 or not sum(made):
        return 0.0
    ratio = sum(made) / sum(owns)
    spread = statistics.pstdev([b - ratio * a for a, b in zip(owns, made, strict=True)])
    return float(200 * spread / len(owns) ** 0.5 / statistics.fmean(made))
