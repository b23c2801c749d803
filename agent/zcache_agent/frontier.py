# SPDX-License-Identifier: Apache-2.0
"""The document of a frontier: what each of several settings costs. docs/report.md has its fields."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self, TypeGuard

from .errors import Usage

FORMAT = "zcache-frontier-1"


@dataclass(frozen=True)
class Estimate:
    value: float
    error: float = 0.0
    """Standard error."""

    @classmethod
    def from_json(cls, facts: object) -> Self:
        """A number, or value and error."""
        pair: Mapping[str, Any] = facts if isinstance(facts, Mapping) else {"value": facts}
        value, error = pair.get("value"), pair.get("error", 0.0)
        if not is_number(value) or not is_number(error) or error < 0:
            raise ValueError(f"{facts!r} is no number and no value with its error")
        return cls(float(value), float(error))


def is_number(value: object) -> TypeGuard[int | float]:
    """Finite, and of a size that anything can be done with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


@dataclass(frozen=True)
class Point:
    settings: Mapping[str, str | int | float]
    memory_bytes: Estimate
    cpu_us_per_page: Estimate
    flash_bytes: Estimate
    recommended: bool = False

    @property
    def label(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.settings.items())

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        costs = {name: Estimate.from_json(facts.get(name)) for name in ("memory_bytes", "cpu_us_per_page")}
        flash = Estimate.from_json(facts.get("flash_bytes", 0))
        settings = facts.get("settings")
        if not isinstance(settings, Mapping):
            raise ValueError("settings is no object")
        return cls(dict(settings), **costs, flash_bytes=flash, recommended=facts.get("recommended") is True)


@dataclass(frozen=True)
class Frontier:
    points: tuple[Point, ...]
    goal: str = ""
    measured_on: str = ""
    why: str = ""
    """Of the recommended point, in plain words."""

    def as_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self), "points": [asdict(point) for point in self.points]}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Usage: it is not as the format says."""
        try:
            points = tuple(Point.from_json(point) for point in facts["points"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise Usage(f"no frontier: {error}", hint="docs/report.md has its fields") from error
        return cls(points, *(str(facts.get(name, "")) for name in ("goal", "measured_on", "why")))
