# SPDX-License-Identifier: Apache-2.0
"""Again and again: look, decide, set, tell."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import ZcacheError
from ..gather import Gatherer, Moment, is_same_daemon
from .bounds import Bounds
from .moment import Span, memory_of, value
from .rules import Decision, Situation, decide

_KEPT_SECONDS = 3600.0
_KEPT_EVERY = 60.0


class Teller(Protocol):
    """Told what the loop does."""

    def decided(self, decision: Decision, refusal: str) -> None:
        """`refusal`: what the daemon said against it, or nothing."""

    def lost(self, error: ZcacheError) -> None:
        """The device or the daemon is gone; the loop tries again."""

    def found(self) -> None:
        """It is there again."""


@dataclass
class History:
    """What the loop has seen, and what it has done lately."""

    last: Moment | None = None
    kept: deque[Moment] = field(default_factory=deque)
    """Of the last hour, one a minute."""
    changed: dict[str, float] = field(default_factory=dict)
    """When a parameter was changed."""

    def situation(self, now: Moment) -> Situation | None:
        """None: there is nothing to compare with. A daemon that was started anew begins a new story."""
        before = self.last
        self.last = now
        if before is None or not is_same_daemon(before, now):
            self.kept = deque([now])
            return None
        while len(self.kept) > 1 and now.seconds - self.kept[0].seconds > _KEPT_SECONDS:
            self.kept.popleft()
        situation = Situation(Span(before, now), Span(self.kept[0], now))
        if now.seconds - self.kept[-1].seconds >= _KEPT_EVERY:
            self.kept.append(now)
        return situation

    def rested(self, decision: Decision, now: Moment, settle: float) -> bool:
        return now.seconds - self.changed.get(decision.path, -settle) >= settle


class Loop:
    """`bounds_of`: the bounds on a device of so many bytes of memory and pages of that size."""

    def __init__(self, gatherer: Gatherer, bounds_of: Callable[[int, int], Bounds], tell: Teller, *,
                 dry_run: bool = False, unattended: bool = False) -> None:  # fmt: skip
        """`unattended`: also what is missing at the beginning, or is of another version, is awaited, not raised."""
        self._gatherer = gatherer
        self._bounds_of = bounds_of
        self._tell = tell
        self._dry_run = dry_run
        self._unattended = unattended
        self._history = History()
        self._bounds: Bounds | None = None
        self._page_size = 0
        self._is_lost = False

    def run(self, interval: float | None, seconds: float | None, goes_on: Callable[[], bool] = lambda: True) -> None:
        """For so long, or until it is interrupted. What is missing at the beginning is raised, later it is awaited.

        `goes_on` is asked before each look.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while goes_on():
            now = self._gatherer.take(self._with_thresholds)
            try:
                if now.problem:
                    raise now.problem
                self._seen(now)
            except ZcacheError as problem:
                self._missing(problem)
            if not _wait(interval or (self._bounds or Bounds).interval, end):
                return

    def _with_thresholds(self, pools: Sequence[str]) -> list[str]:
        """Pools whose histograms are looked at."""
        bounded = self._bounds.pools if self._bounds else {}
        return [pool for pool in pools if pool in bounded and bounded[pool].zv_max_zsize]

    def _missing(self, problem: ZcacheError) -> None:
        if not self._unattended and (self._bounds is None or problem.name == "abi_mismatch"):
            raise problem
        if not self._is_lost:
            self._tell.lost(problem)
        self._is_lost = True

    def _seen(self, now: Moment) -> None:
        bounds = self._bounds_for(now)
        if self._is_lost:
            self._tell.found()
        self._is_lost = False
        situation = self._history.situation(now)
        for decision in decide(bounds, situation) if situation else ():
            if self._history.rested(decision, now, bounds.settle):
                self._history.changed[decision.path] = now.seconds
                self._tell.decided(decision, self._set(decision))

    def _bounds_for(self, now: Moment) -> Bounds:
        """Anew where a daemon with other pages has taken the first one's place. Usage: they do not fit it."""
        page_size = value(now, "page_size")
        if self._bounds is None or page_size != self._page_size:
            self._bounds = None
            self._bounds = self._bounds_of(memory_of(now).total, page_size)
            self._page_size = page_size
        return self._bounds

    def _set(self, decision: Decision) -> str:
        """What the daemon says against it, or nothing."""
        if self._dry_run:
            return ""
        try:
            self._gatherer.set(decision.path, str(decision.new))
        except ZcacheError as error:  # where it is gone, the next look says so
            return error.message
        return ""


def _wait(seconds: float, end: float | None) -> bool:
    """False: it is over before that."""
    if end is not None and time.monotonic() + seconds > end:
        return False
    time.sleep(seconds)
    return True
