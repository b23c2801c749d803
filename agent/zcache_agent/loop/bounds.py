# SPDX-License-Identifier: Apache-2.0
"""What the closed loop may change, and how far: the [agent] table of a config."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import Usage
from ..kinds import Facts, Kind, Percent, Seconds, Size, Threshold

_HINT = "docs/agent.md explains every key"


@dataclass(frozen=True)
class Range:
    """In the unit of the node, both ends inclusive."""

    low: int
    high: int

    def clamp(self, value: int) -> int:
        return max(self.low, min(self.high, value))


@dataclass(frozen=True)
class PoolBounds:
    zv_max_zsize: Range | None = None
    """Bytes."""
    cold_after: Range | None = None
    """Seconds."""
    writeback_after: Range | None = None
    """Seconds."""
    wear_per_day: int | None = None
    """Bytes that the backing store may be written a day; at a higher pace less goes there."""


@dataclass(frozen=True)
class Bounds:
    interval: float = 5.0
    """Seconds from one look to the next."""
    settle: float = 30.0
    """Seconds that a parameter is left alone after it was changed."""
    short: float = 10.0
    """Memory is short while tasks wait for it more than so many percent of the time (PSI: some, 10 s)."""
    relaxed: float = 1.0
    """It is plentiful while they wait no more than that."""
    limit: Range | None = None
    """Bytes of the store."""
    pools: Mapping[str, PoolBounds] = field(default_factory=dict)


def parse_bounds(table: Mapping[str, Any], memory: int, page_size: int) -> Bounds:
    """The [agent] table. `memory`: of the device, in bytes, which percents of `limit` are of. Usage: what is wrong."""
    read = _Reader(Facts(page_size, memory))
    rest = dict(table)
    numbers = {
        name: read.number(f"agent.{name}", rest.pop(name), kind) for name, kind in _NUMBERS.items() if name in rest
    }
    limit = read.range("agent.limit", rest.pop("limit"), Size(percent=True)) if "limit" in rest else None
    pools = {
        name: read.pool(f"agent.pools.{name}", of_pool)
        for name, of_pool in _table("agent.pools", rest.pop("pools", {})).items()
    }
    _nothing_left("agent", rest)
    bounds = Bounds(**numbers, limit=limit, pools=pools)
    if bounds.relaxed >= bounds.short:
        raise _wrong("agent.relaxed", bounds.relaxed, f"less than agent.short, which is {bounds.short:g}")
    return bounds


_DAY = 86400
_NUMBERS: Mapping[str, Kind] = {
    "interval": Seconds(1, _DAY, whole=False),
    "settle": Seconds(0, _DAY, whole=False),
    "short": Percent(),
    "relaxed": Percent(),
}
_RANGES: Mapping[str, Kind] = {
    "zv_max_zsize": Threshold(),
    "cold_after": Seconds(1, 32767),
    "writeback_after": Seconds(1, 32767),
}
"""Of a pool."""


@dataclass(frozen=True)
class _Reader:
    facts: Facts

    def number(self, where: str, value: Any, kind: Kind) -> float:  # noqa: ANN401 (as TOML has it)
        if not kind.takes(value):
            raise _wrong(where, value, kind.allowed)
        return float(kind.text(value, self.facts))

    def range(self, where: str, value: object, kind: Kind) -> Range:
        ends = _table(where, value)
        if set(ends) != {"min", "max"}:
            raise _wrong(where, value, "{ min = …, max = … }")
        low, high = (int(self.number(f"{where}.{end}", ends[end], kind)) for end in ("min", "max"))
        if low > high:
            raise _wrong(where, value, "min no more than max")
        return Range(low, high)

    def pool(self, where: str, value: object) -> PoolBounds:
        rest = dict(_table(where, value))
        found: dict[str, Any] = {
            name: self.range(f"{where}.{name}", rest.pop(name), kind) for name, kind in _RANGES.items() if name in rest
        }
        threshold = found.get("zv_max_zsize")
        if threshold and not 1 <= threshold.low <= threshold.high <= self.facts.page_size:
            raise _wrong(f"{where}.zv_max_zsize", value, f"1 to {self.facts.page_size} bytes")
        if "wear_per_day" in rest:
            found["wear_per_day"] = int(self.number(f"{where}.wear_per_day", rest.pop("wear_per_day"), Size()))
        _nothing_left(where, rest)
        return PoolBounds(**found)


def _nothing_left(where: str, rest: Mapping[str, object]) -> None:
    for key in rest:
        raise Usage(f"{where}.{key}: there is no such key", hint=_HINT)


def _wrong(where: str, value: object, wanted: str) -> Usage:
    return Usage(f"{where} = {value!r}: must be {wanted}", hint=_HINT)


def _table(where: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(where, value, "a table")
    return value
