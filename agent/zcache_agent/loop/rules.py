# SPDX-License-Identifier: Apache-2.0
"""
What follows from what was seen. Each rule is a function of the bounds and the situation, and yields decisions.

All move in steps and rest between them (Bounds.settle), and none moves unless memory is short, or it is plentiful and
there is something to gain: between the two nothing happens, so that the loop comes to rest when the device does.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..counters import WEAR
from ..gather import Moment
from .bounds import Bounds, PoolBounds, Range
from .moment import Memory, Span, memory_of, value

_DAY = 86400
_LIMIT_STEPS = 8
"""From one end of the limit's bounds to the other."""
_THRESHOLD_STEPS = 16
"""A page has so many."""
_WORTH = 0.1
"""Of a pool's compressed bytes: what the next lower threshold would have to refuse to be worth it."""
_MANY_REFUSED = 0.05
"""Of the puts of a tick."""
_NO_PSI_SHORT, _NO_PSI_RELAXED = 0.1, 0.2
"""Available memory, of all, where the kernel does not tell who waits for it."""


@dataclass(frozen=True)
class Decision:
    path: str
    old: int
    new: int
    reason: str


@dataclass(frozen=True)
class Situation:
    tick: Span
    """Since the last look."""
    lately: Span
    """Since the earliest look of the last hour."""

    @property
    def now(self) -> Moment:
        return self.tick.now


Rule = Callable[[Bounds, Situation], Iterator[Decision]]


def decide(bounds: Bounds, situation: Situation) -> list[Decision]:
    """At most one for a parameter: that of the first rule which has one."""
    first: dict[str, Decision] = {}
    for rule in RULES:
        for decision in rule(bounds, situation):
            first.setdefault(decision.path, decision)
    return list(first.values())


def is_short(bounds: Bounds, memory: Memory) -> bool:
    if memory.stalled is None:
        return memory.available < _NO_PSI_SHORT * memory.total
    return memory.stalled >= bounds.short


def is_relaxed(bounds: Bounds, memory: Memory) -> bool:
    has_room = memory.available > _NO_PSI_RELAXED * memory.total
    return has_room and (memory.stalled is None or memory.stalled <= bounds.relaxed)


def _state(memory: Memory) -> str:
    if memory.stalled is None:
        return f"{100 * memory.available / memory.total:.0f} % of memory are available"
    return f"tasks waited for memory {memory.stalled:.1f} % of the time"


# ---- the rules, the most pressing first ----


def _into_bounds(bounds: Bounds, situation: Situation) -> Iterator[Decision]:
    """What somebody has set beyond the bounds is brought back to them."""
    for path, allowed in _bounded(bounds, situation.now):
        old = value(situation.now, path)
        # 0 of cold_after and writeback_after is "never"
        wanted = allowed.high if old == 0 else allowed.clamp(old)
        if old != wanted:
            yield Decision(path, old, wanted, f"the config allows {allowed.low} to {allowed.high}")


def _bounded(bounds: Bounds, now: Moment) -> Iterator[tuple[str, Range]]:
    if bounds.limit:
        yield "params/limit", bounds.limit
    for pool, mine in _pools(bounds, now):
        for name in ("zv_max_zsize", "cold_after", "writeback_after"):
            allowed: Range | None = getattr(mine, name)
            if allowed:
                yield f"pools/{pool}/params/{name}", allowed


def _wear(bounds: Bounds, situation: Situation) -> Iterator[Decision]:
    """At this pace the flash gets more than its bytes a day: less goes there."""
    for pool, mine in _pools(bounds, situation.now):
        reason = _too_much_wear(bounds, situation, pool, mine)
        if reason:
            yield from _longer(situation.now, pool, "writeback_after", mine.writeback_after, reason)
            yield from _threshold(situation.now, pool, mine, +1, reason)


def _too_much_wear(bounds: Bounds, situation: Situation, pool: str, mine: PoolBounds) -> str:
    """How much, or nothing where it is not."""
    span = situation.lately
    if mine.wear_per_day is None or span.seconds < bounds.settle:
        return ""
    written = sum(span.grown(f"pools/{pool}/stats/{kind}") for kind in WEAR)
    pace = int(written * _DAY / span.seconds)
    if pace <= mine.wear_per_day:
        return ""
    return f"{written} bytes went to flash in {span.seconds:.0f} s: {pace} a day, {mine.wear_per_day} are allowed"


def _limit(bounds: Bounds, situation: Situation) -> Iterator[Decision]:
    """Less where memory is short and pages can leave; more where pages had to leave or stay out for nothing."""
    if not bounds.limit:
        return
    now, memory = situation.now, memory_of(situation.now)
    limit = value(now, "params/limit")
    step = max(1, (bounds.limit.high - bounds.limit.low) // _LIMIT_STEPS)
    if is_short(bounds, memory) and _can_leave(now):
        target = bounds.limit.clamp(min(limit, value(now, "stats/used_bytes")) - step)
        yield from _moved("params/limit", limit, target, f"{_state(memory)}, and pages can leave")
    turned_away = _turned_away(situation.tick)
    if turned_away and is_relaxed(bounds, memory):
        target = bounds.limit.clamp(limit + step)
        yield from _moved("params/limit", limit, target, f"{turned_away} pages had no room, while {_state(memory)}")


def _can_leave(now: Moment) -> bool:
    has_backing = any(now.values.get(f"pools/{pool}/backing", "none") != "none" for pool in now.pools)
    return has_backing or value(now, "stats/eph_pageframes") > 0


def _turned_away(tick: Span) -> int:
    refused = sum(tick.grown(f"pools/{pool}/stats/policy_percent_exceeded") for pool in tick.now.pools)
    return refused + sum(tick.grown(f"stats/{cause}") for cause in ("evicted_limit", "writeback_limit", "pers_ate_eph"))


def _colder(bounds: Bounds, situation: Situation) -> Iterator[Decision]:
    """Short: pages go sooner, to the cold tier and the backing store; plentiful: later, which spares CPU and flash."""
    memory = memory_of(situation.now)
    for pool, mine in _pools(bounds, situation.now):
        for name in ("cold_after", "writeback_after"):
            allowed: Range | None = getattr(mine, name)
            if is_short(bounds, memory):
                if name == "cold_after" or not _too_much_wear(bounds, situation, pool, mine):
                    yield from _sooner(situation.now, pool, name, allowed, _state(memory))
            elif is_relaxed(bounds, memory) and _came_back(situation.tick, pool):
                reason = f"cold pages were asked for again, while {_state(memory)}"
                yield from _longer(situation.now, pool, name, allowed, reason)


def _came_back(tick: Span, pool: str) -> int:
    return tick.grown(f"pools/{pool}/stats/written_gets") + tick.grown(f"pools/{pool}/stats/warmed_pages")


def _thresholds(bounds: Bounds, situation: Situation) -> Iterator[Decision]:
    """Short: badly compressing pages, which save least, are refused; plentiful: refused pages are taken again."""
    memory = memory_of(situation.now)
    for pool, mine in _pools(bounds, situation.now):
        if is_short(bounds, memory):
            share = _share_above_next(situation.now, pool)
            if share >= _WORTH and not _too_much_wear(bounds, situation, pool, mine):
                reason = f"{_state(memory)}, and {100 * share:.0f} % of the compressed bytes compress worse than that"
                yield from _threshold(situation.now, pool, mine, -1, reason)
        elif is_relaxed(bounds, memory):
            puts, poor = (situation.tick.grown(f"pools/{pool}/stats/{name}") for name in ("puts", "compress_poor"))
            if poor > _MANY_REFUSED * puts:
                reason = f"{poor} of {puts} pages were refused, while {_state(memory)}"
                yield from _threshold(situation.now, pool, mine, +1, reason)


def _share_above_next(now: Moment, pool: str) -> float:
    """Of the pool's compressed bytes, those of zpages that the next lower threshold refuses."""
    histogram = now.histograms.get(pool, [])
    next_lower = value(now, f"pools/{pool}/params/zv_max_zsize") - _threshold_step(now)
    total = sum(bound * count for bound, count in histogram)
    above = sum(bound * count for bound, count in histogram if bound > next_lower)
    return above / total if total else 0


RULES: tuple[Rule, ...] = (_into_bounds, _wear, _limit, _colder, _thresholds)


# ---- steps ----


def _pools(bounds: Bounds, now: Moment) -> Iterator[tuple[str, PoolBounds]]:
    """Those that are there."""
    there = set(now.pools)
    yield from ((name, mine) for name, mine in bounds.pools.items() if name in there)


def _moved(path: str, old: int, new: int, reason: str) -> Iterator[Decision]:
    if new != old:
        yield Decision(path, old, new, reason)


def _sooner(now: Moment, pool: str, name: str, allowed: Range | None, reason: str) -> Iterator[Decision]:
    path = f"pools/{pool}/params/{name}"
    if allowed:
        yield from _moved(path, value(now, path), allowed.clamp(value(now, path) // 2), reason)


def _longer(now: Moment, pool: str, name: str, allowed: Range | None, reason: str) -> Iterator[Decision]:
    path = f"pools/{pool}/params/{name}"
    if allowed:
        yield from _moved(path, value(now, path), allowed.clamp(value(now, path) * 2), reason)


def _threshold(now: Moment, pool: str, mine: PoolBounds, way: int, reason: str) -> Iterator[Decision]:
    path = f"pools/{pool}/params/zv_max_zsize"
    if mine.zv_max_zsize:
        old = value(now, path)
        yield from _moved(path, old, mine.zv_max_zsize.clamp(old + way * _threshold_step(now)), reason)


def _threshold_step(now: Moment) -> int:
    return value(now, "page_size") // _THRESHOLD_STEPS
