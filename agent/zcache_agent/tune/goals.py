# SPDX-License-Identifier: Apache-2.0
"""What a search aims at, and what it may not make worse for that. docs/tune.md is for who chooses."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Cost(NamedTuple):
    """Of settings; the less of each the better."""

    memory: float
    """Bytes."""
    cpu: float
    """µs a page."""
    flash: float
    """Bytes written."""
    time: float
    """µs a page, with what is waited for flash."""


@dataclass(frozen=True)
class Goal:
    name: str
    least: Callable[[Cost, Cost], float]
    """What is to be least, of settings and of the defaults."""
    memory: float
    """Memory and CPU may be so many times the defaults'. Infinite: that is what the goal is about."""
    cpu: float
    flash: float
    """As a part of all pages' bytes: what may be written more than by the defaults."""
    says: str

    def allows(self, cost: Cost, defaults: Cost, all_bytes: float) -> bool:
        return (
            (self.memory == ANY or cost.memory <= defaults.memory * self.memory)
            and (self.cpu == ANY or cost.cpu <= defaults.cpu * self.cpu)
            and cost.flash <= defaults.flash + self.flash * all_bytes
        )

    def gain(self, cost: Cost, defaults: Cost) -> float:
        """By what part of the defaults' it is less."""
        before = self.least(defaults, defaults)
        return 1 - self.least(cost, defaults) / before if before else 0.0

    @property
    def bounds(self) -> str:
        parts = [
            f"{name} at most {'the' if times == 1 else f'{times:g} times the'} defaults'"
            for name, times in (("memory", self.memory), ("CPU", self.cpu))
            if times != ANY
        ]
        if self.flash != ANY:
            more = f" and {self.flash:.0%} of all pages' bytes more" if self.flash else ""
            parts.append(f"flash writes at most the defaults'{more}")
        return ", ".join(parts)


ANY = float("inf")


def _balance(cost: Cost, defaults: Cost) -> float:
    return (cost.memory / max(defaults.memory, 1) + cost.time / max(defaults.cpu, 1e-9)) / 2


GOALS = {
    goal.name: goal
    for goal in (
        Goal("density", lambda cost, _: cost.memory, ANY, 4.0, 0.0, "least memory"),
        Goal("speed", lambda cost, _: cost.time, 1.1, ANY, 0.25, "least time a page, waits for flash included"),
        Goal("flash", lambda cost, _: cost.flash, 1.0, 4.0, ANY, "least written to flash"),
        Goal("balanced", _balance, 1.0, 1.5, 0.1, "least mean of memory and time, each against the defaults'"),
    )
}
