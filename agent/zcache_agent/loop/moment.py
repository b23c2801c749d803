# SPDX-License-Identifier: Apache-2.0
"""What the closed loop makes of a moment of the device, and of two."""

from dataclasses import dataclass

from ..errors import ProtocolError
from ..gather import Moment


@dataclass(frozen=True)
class Memory:
    """Of the device."""

    total: int
    available: int
    """Bytes, both."""
    stalled: float | None
    """Percent of the last 10 s in which some task waited for memory; None: this kernel does not tell."""


def memory_of(moment: Moment) -> Memory:
    facts = moment.kernel.memory if moment.kernel else {}
    pressure = moment.kernel.pressure.get("memory") if moment.kernel else None
    total, available = (int(facts.get(name, 0)) for name in ("MemTotal", "MemAvailable"))
    if not total:
        raise ProtocolError(f"{moment.serial}: /proc/meminfo tells no MemTotal", hint="zcache doctor")
    return Memory(total, available, pressure.some_avg10 if pressure else None)


def value(moment: Moment, path: str) -> int:
    """Of a node of the tree; what the daemon does not have is 0."""
    return int(moment.number(path))


@dataclass(frozen=True)
class Span:
    """From one moment to a later one of the same daemon."""

    before: Moment
    now: Moment

    @property
    def seconds(self) -> float:
        return self.now.seconds - self.before.seconds

    def grown(self, path: str) -> int:
        """By how much; nothing, where a pool was made anew meanwhile."""
        return max(0, value(self.now, path) - value(self.before, path))
