# SPDX-License-Identifier: Apache-2.0
"""All candidates, those that no other beats, and the one to recommend.

Deterministic: the same measurements, conditions and seed give the same answer, bit for bit.
"""

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..analyze import Estimate
from ..frontier import FORMAT
from .goals import Cost, Goal
from .measured import Measured, Time
from .models import Candidate, Conditions, Outcome, Setting

DRAWS = 200
LIKELY = 0.9
"""Of the draws lie between low and high."""
_FINE, _FINE_CPU = 0.005, 0.02
"""Of all pages' bytes, and of the defaults' CPU: less is no reason to prefer anything."""
_PLAIN = 0.005
"""Of what the goal makes least, by the defaults: less is no reason to change more settings."""
_OFF, _OFF_AT_LIMIT = 0.01, 0.03
"""Of memory: so far a prediction may be off, and what is closer to a bound be over it. The second where pages of the
defaults leave: then they take something between two watermarks."""


@dataclass(frozen=True)
class Spread:
    value: float
    error: float
    """Standard error."""
    low: float
    high: float

    def as_json(self, digits: int = 0) -> dict[str, float]:
        return {
            name: round(getattr(self, name), digits) if digits else round(getattr(self, name))
            for name in ("value", "error", "low", "high")
        }


@dataclass(frozen=True)
class Point:
    candidate: Candidate
    outcome: Outcome
    cost: Cost
    draws: Sequence[Cost] = ()
    """What it would cost by other samples that might have been taken as well."""

    def spread(self, of: Callable[[Cost], float]) -> Spread:
        return spread(of(self.cost), [of(draw) for draw in self.draws])

    @property
    def settings(self) -> dict[str, Setting]:
        return self.candidate.flat

    def as_json(self, recommended: "Point | None" = None) -> dict[str, Any]:
        return {
            "settings": self.settings,
            "memory_bytes": self.spread(lambda cost: cost.memory).as_json(),
            "cpu_us_per_page": self.spread(lambda cost: cost.cpu).as_json(3),
            "time_us_per_page": self.spread(lambda cost: cost.time).as_json(3),
            "flash_bytes": self.spread(lambda cost: cost.flash).as_json(),
            "put_us": round(self.outcome.put_us, 3),
            "get_us": round(self.outcome.get_us, 3),
            "refused": round(self.outcome.refused, 4),
            "recommended": self is recommended,
        }


def spread(value: float, draws: Sequence[float]) -> Spread:
    if not draws:
        return Spread(value, 0.0, value, value)
    ordered = sorted(draws)
    mean = sum(ordered) / len(ordered)
    error = math.sqrt(sum((draw - mean) ** 2 for draw in ordered) / len(ordered))
    cut = int(len(ordered) * (1 - LIKELY) / 2)
    return Spread(value, error, min(value, ordered[cut]), max(value, ordered[-1 - cut]))


# ---- costs ----


@dataclass(frozen=True)
class Scene:
    """What candidates are judged in."""

    all_bytes: float
    page_size: int
    flash_mb_s: float | None

    def cost(self, outcome: Outcome) -> Cost:
        time = outcome.time(self.all_bytes, self.page_size, self.flash_mb_s)
        return Cost(outcome.memory_bytes, outcome.cpu_us_per_page, outcome.flash_bytes, time)

    def rounded(self, cost: Cost, defaults: Cost) -> Cost:
        """Without differences that are none."""
        size, cpu = max(self.all_bytes * _FINE, 1.0), max(defaults.cpu * _FINE_CPU, 1e-9)
        memory, work, flash = round(cost.memory / size), round(cost.cpu / cpu), round(cost.flash / size)
        time = work * cpu
        if self.flash_mb_s:
            time += 2 * flash * size / self.flash_mb_s / (self.all_bytes / self.page_size)
        return Cost(memory * size, work * cpu, flash * size, time)


def frontier(points: Sequence[Point], defaults: Point, scene: Scene) -> list[Point]:
    """Those that no other beats, from the least memory on; of equals the one that changes least."""
    best: dict[Cost, Point] = {}
    for point in points:
        key = scene.rounded(point.cost, defaults.cost)
        other = best.get(key)
        if other is None or _plainness(point, defaults) < _plainness(other, defaults):
            best[key] = point
    kept = [key for key in best if not any(_beats(other, key) for other in best if other is not key)]
    return [best[key] for key in sorted(kept)]


def _plainness(point: Point, defaults: Point) -> tuple[object, ...]:
    return (point.candidate.changes(defaults.candidate), *map(str, point.settings.values()))


def _beats(one: Cost, other: Cost) -> bool:
    """In memory, CPU and flash: nowhere worse. Equal ones are one."""
    return all(mine <= its for mine, its in zip(one[:3], other[:3], strict=True))


# ---- chance ----


class Draws:
    """Samples that might have been taken as well: groups of pages drawn again, times off by their error."""

    def __init__(self, measured: Measured, seed: int, count: int) -> None:
        self._seed, self._count = seed, count
        sample = measured.sample
        self._unseen = math.sqrt(max(0.0, 1 - sample.count / max(sample.pages, 1)))

    def costs(self, candidate: Candidate, scene: Scene) -> list[Cost]:
        warm = self._weights("warm", len(candidate.parts.groups))
        again = candidate.again
        cold = self._weights("cold", len(again.parts.groups)) if again else [None] * self._count
        timing = [*candidate.timing, *(again.timing if again else ())]
        times = {name: self._times(name, time) for name, time in timing}
        return [
            scene.cost(candidate.outcome(warm[n], cold[n], {name: drawn[n] for name, drawn in times.items()}))
            for n in range(self._count)
        ]

    def _weights(self, what: str, groups: int) -> list[list[float]]:
        chance = random.Random(f"{self._seed} {what} {groups}")  # noqa: S311 (nothing to guess here)
        return [self._draw(chance, groups) for _ in range(self._count)]

    def _draw(self, chance: random.Random, groups: int) -> list[float]:
        """With what was seen of the whole, less is left to chance."""
        weights = [1 - self._unseen] * groups
        for group in chance.choices(range(groups), k=groups):
            weights[group] += self._unseen
        return weights

    def _times(self, name: str, time: Time) -> list[Time]:
        chance = random.Random(f"{self._seed} time {name}")  # noqa: S311

        def off(by: Estimate) -> Estimate:
            return Estimate(chance.gauss(by.value, by.error), by.error)

        return [Time(off(time.put), off(time.get)) for _ in range(self._count)]


# ---- the search ----


@dataclass(frozen=True)
class Result:
    goal: Goal
    scene: Scene
    candidates: int
    defaults: Point
    frontier: Sequence[Point]
    recommended: Point
    """The defaults, where nothing surely beats them."""
    best: Point
    """What is least by its goal, surely or not."""
    measured: Measured
    conditions: Conditions

    @property
    def keeps_defaults(self) -> bool:
        return self.recommended is self.defaults

    @cached_property
    def gain(self) -> Spread:
        return gain(self.goal, self.recommended, self.defaults)


def gain(goal: Goal, point: Point, defaults: Point) -> Spread:
    """By what part it beats the defaults on the goal: in the same draws."""
    pairs = zip(point.draws, defaults.draws, strict=True)
    return spread(goal.gain(point.cost, defaults.cost), [goal.gain(mine, its) for mine, its in pairs])


def search(
    candidates: Iterable[Candidate],
    measured: Measured,
    conditions: Conditions,
    goal: Goal,
    seed: int = 0,
    count: int = DRAWS,
) -> Result:
    sample = measured.sample
    scene = Scene(float(sample.pages * sample.page_size), sample.page_size, conditions.flash_mb_s)
    points = [_point(candidate, scene) for candidate in candidates]
    draws = Draws(measured, seed, count)
    defaults = _with_draws(next(point for point in points if point.candidate.defaults), draws, scene)
    shown = [_with_draws(point, draws, scene) for point in frontier(points, defaults, scene)]
    shown = [defaults if point.candidate is defaults.candidate else point for point in shown]
    allowed = [point for point in shown if _surely_allowed(goal, point, defaults, scene)]
    best = _plainest(goal, allowed, defaults) if allowed else defaults
    recommended = best if gain(goal, best, defaults).low > 0 else defaults
    return Result(goal, scene, len(points), defaults, shown, recommended, best, measured, conditions)


def _point(candidate: Candidate, scene: Scene) -> Point:
    outcome = candidate.outcome()
    return Point(candidate, outcome, scene.cost(outcome))


def _with_draws(point: Point, draws: Draws, scene: Scene) -> Point:
    return replace(point, draws=draws.costs(point.candidate, scene))


def _memory_off(point: Point, defaults: Point) -> float:
    if point is defaults or point.cost.flash > 0:  # its pages leave, too: by the same limit
        return 0.0
    return _OFF_AT_LIMIT if defaults.cost.flash > 0 else _OFF


def _surely_allowed(goal: Goal, point: Point, defaults: Point, scene: Scene) -> bool:
    """As measured, though memory were somewhat more, and by most of the samples that might have been taken."""
    dearer = point.cost._replace(memory=point.cost.memory * (1 + _memory_off(point, defaults)))
    if not goal.allows(dearer, defaults.cost, scene.all_bytes):
        return False
    pairs = zip(point.draws, defaults.draws, strict=True)
    within = sum(goal.allows(mine, its, scene.all_bytes) for mine, its in pairs)
    return within >= LIKELY * len(point.draws)


def _plainest(goal: Goal, points: Sequence[Point], defaults: Point) -> Point:
    """Of those that are as good as the best the one that changes least; of such the fastest."""
    aims = [goal.least(point.cost, defaults.cost) for point in points]
    enough = min(aims) + _PLAIN * goal.least(defaults.cost, defaults.cost)
    good = [point for point, aim in zip(points, aims, strict=True) if aim <= enough]
    return min(
        good, key=lambda point: (point.candidate.changes(defaults.candidate), point.cost.time, point.cost.memory)
    )


# ---- in words ----


def explain(result: Result) -> str:
    """Why, in plain words."""
    goal, best = result.goal, result.recommended
    if result.keeps_defaults:
        sure = gain(goal, result.best, result.defaults)
        if result.best is result.defaults or sure.value <= 0:
            return (
                f"Keep the defaults: of {result.candidates} settings none within the bounds is better on {goal.name}."
            )
        return (
            f"Keep the defaults: the best of {result.candidates} settings would be better on {goal.name} by"
            f" {_percent(sure)}, which may be chance."
        )
    changes = ", ".join(
        f"{name} {value} instead of {result.defaults.settings.get(name, 'the default')}"
        for name, value in best.settings.items()
        if result.defaults.settings.get(name) != value
    )
    return (
        f"{changes}: better than the defaults on {goal.name} ({goal.says}) by {_percent(result.gain)}."
        f" {_trade(best.cost, result.defaults.cost, result.scene)}"
    )


def _percent(part: Spread) -> str:
    return f"{100 * part.value:.0f} % ({100 * part.low:.0f} to {100 * part.high:.0f} %)"


def _trade(cost: Cost, defaults: Cost, scene: Scene) -> str:
    saved = (defaults.memory - cost.memory) / (1 << 20)
    pages = scene.all_bytes / scene.page_size
    seconds = (cost.cpu - defaults.cpu) * pages / 1e6
    written = (cost.flash - defaults.flash) / (1 << 20)
    memory = f"It takes {abs(saved):.1f} MiB {'less' if saved >= 0 else 'more'} memory"
    work = f"{abs(cost.cpu - defaults.cpu):.1f} µs a page {'more' if seconds >= 0 else 'less'} of a processor"
    flash = f", and writes {abs(written):.1f} MiB {'more' if written > 0 else 'less'} to flash" if written else ""
    rate = (
        f"; each MiB saved costs {seconds / saved * 1000:.1f} ms of a processor" if saved > 0.05 and seconds > 0 else ""
    )
    return f"{memory}, {work}{flash}{rate}."


def as_json(result: Result, more: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a frontier, as `zcache report` draws it; lists and keys are added, never taken away."""
    recommended = result.recommended
    points = list(result.frontier)
    if not any(point is result.defaults for point in points):
        points.append(result.defaults)
    return {
        "format": FORMAT,
        "goal": result.goal.name,
        "bounds": result.goal.bounds,
        "points": [point.as_json(recommended) for point in points],
        "recommended": recommended.as_json(recommended),
        "defaults": result.defaults.as_json(recommended),
        "keeps_defaults": result.keeps_defaults,
        "gain": result.gain.as_json(4),
        "why": explain(result),
        "measured_on": result.measured.on,
        "notes": result.measured.notes,
        "candidates": result.candidates,
        "pages": result.measured.sample.pages,
        "sampled": result.measured.sample.count,
        "page_size": result.scene.page_size,
        "flash_mb_s": result.conditions.flash_mb_s,
        "limit": result.conditions.limit,
        "cold": result.conditions.cold,
        **more,
    }
