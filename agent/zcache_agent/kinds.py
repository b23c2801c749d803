# SPDX-License-Identifier: Apache-2.0
"""What the keys of a config take, as people write it: sizes, parts of a page, times, words. Options take the same."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from .errors import Usage

Value = int | float | str | bool | list[str]
"""As TOML has it."""

_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")
_PART = re.compile(r"(\d+)/([1-9]\d*)")
_BYTES = {"": 1, **{unit: 1 << shift for units, shift in (("kK", 10), ("mM", 20), ("gG", 30)) for unit in units}}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


def _amount(value: object, units: Mapping[str, int]) -> Fraction | None:
    """A number, or text of a number and a unit. None: neither."""
    match = None if isinstance(value, bool) else _AMOUNT.fullmatch(str(value))
    return Fraction(match[1]) * units[match[2]] if match and match[2] in units else None


def _share(value: object) -> Fraction | None:
    """Of text such as 87% or 7/8; no more than 1. None: it is none."""
    text = str(value)
    if match := _PERCENT.fullmatch(text):
        share = Fraction(match[1]) / 100
    elif match := _PART.fullmatch(text):
        share = Fraction(int(match[1]), int(match[2]))
    else:
        return None
    return share if share <= 1 else None


def bytes_of(value: object) -> int:
    """Of a size that Size takes, no percentage."""
    size = _amount(value, _BYTES)
    assert size is not None
    return int(size)


@dataclass(frozen=True)
class Facts:
    """Of a device, by which percentages and fractions are numbers."""

    page_size: int = 4096
    """Of the store."""
    memory: int = 0
    """Bytes of RAM that a limit in percent is of."""
    os_page_size: int = 4096


class Kind(Protocol):
    """What a key takes."""

    @property
    def allowed(self) -> str: ...

    def takes(self, value: object) -> bool: ...

    def text(self, value: Value, facts: Facts) -> str:
        """As the device shows it."""

    def value(self, text: str) -> Value:
        """What the device shows, as TOML has it."""


@dataclass(frozen=True)
class Number:
    low: int
    high: int
    unit: str = ""

    @property
    def allowed(self) -> str:
        return f"a number from {self.low} to {self.high} {self.unit}".rstrip()

    def takes(self, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def text(self, value: Value, facts: Facts) -> str:  # noqa: ARG002
        return str(value)

    def value(self, text: str) -> Value:
        return int(text)


@dataclass(frozen=True)
class Percent:
    """Of which a fraction counts."""

    allowed: str = 'a percentage from 0 to 100, as 5 or "5%"'

    def takes(self, value: object) -> bool:
        return _share(f"{str(value).removesuffix('%')}%") is not None

    def text(self, value: Value, facts: Facts) -> str:  # noqa: ARG002
        return str(value).removesuffix("%")

    def value(self, text: str) -> Value:
        return float(text)


@dataclass(frozen=True)
class Seconds:
    low: int
    high: int
    whole: bool = True

    @property
    def allowed(self) -> str:
        return f'{self.low} to {self.high} seconds, as 30, "30s", "5m" or "1h"'

    def takes(self, value: object) -> bool:
        seconds = _amount(value, _SECONDS)
        if seconds is None or (self.whole and seconds.denominator != 1):
            return False
        return self.low <= seconds <= self.high

    def text(self, value: Value, facts: Facts) -> str:  # noqa: ARG002
        seconds = _amount(value, _SECONDS)
        assert seconds is not None
        return str(int(seconds) if self.whole else float(seconds))

    def value(self, text: str) -> Value:
        return int(text) if self.whole else float(text)


@dataclass(frozen=True)
class Size:
    """Bytes."""

    percent: bool = False
    """Of RAM."""
    whole_pages: bool = False
    """The kernel takes those."""
    more: tuple[str, ...] = ()
    """Words that it may be instead."""
    unit: str = "bytes"
    low: int = 0

    @property
    def allowed(self) -> str:
        also = [*(['"25%" of RAM'] if self.percent else []), *(f'"{word}"' for word in self.more)]
        return ", or ".join([f'{self.unit}, as a number or "64M" (K, M, G)', *also])

    def takes(self, value: object) -> bool:
        if value in self.more or (self.percent and str(value).endswith("%") and _share(value) is not None):
            return True
        size = _amount(value, _BYTES)
        return size is not None and self.low <= size < 1 << 63

    def text(self, value: Value, facts: Facts) -> str:
        if value in self.more:
            return str(value)
        if (share := _share(value)) is not None:
            return str(int(facts.memory * share))
        size = bytes_of(value)
        page = facts.os_page_size
        return str(-(-size // page) * page if self.whole_pages else size)

    def value(self, text: str) -> Value:
        return int(text) if text.isdecimal() else text

    def of_option(self, option: str, text: str) -> int:
        """Bytes, of what somebody has written on a command line. Usage: it is none."""
        if not self.takes(text):
            raise Usage(f"{option} {text}: it is not {self.allowed}", hint=f"e.g. {option} 64M")
        return bytes_of(text)


@dataclass(frozen=True)
class Threshold:
    """Part of a page."""

    @property
    def allowed(self) -> str:
        return 'bytes, at most the page size, or "7/8" or "87%" of a page'

    def takes(self, value: object) -> bool:
        if isinstance(value, bool):
            return False
        return _share(value) is not None or (str(value).isdecimal() and int(str(value)) <= 65536)

    def text(self, value: Value, facts: Facts) -> str:
        share = _share(value)
        return str(value) if share is None else str(int(facts.page_size * share))

    def value(self, text: str) -> Value:
        return int(text)


@dataclass(frozen=True)
class Flag:
    on: str = "1"
    off: str = "0"

    @property
    def allowed(self) -> str:
        return "true or false"

    def takes(self, value: object) -> bool:
        return isinstance(value, bool)

    def text(self, value: Value, facts: Facts) -> str:  # noqa: ARG002
        return self.on if value else self.off

    def value(self, text: str) -> Value:
        return text == self.on


@dataclass(frozen=True)
class Words:
    """A text without spaces."""

    pattern: str
    allowed: str

    def takes(self, value: object) -> bool:
        return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None

    def text(self, value: Value, facts: Facts) -> str:  # noqa: ARG002
        return str(value)

    def value(self, text: str) -> Value:
        return text


@dataclass(frozen=True)
class Algorithms:
    """A list, by priority."""

    most: int

    @property
    def allowed(self) -> str:
        return f'a list of at most {self.most} algorithms, such as ["zstd"]; []: none'

    def takes(self, value: object) -> bool:
        return (
            isinstance(value, list)
            and len(value) <= self.most
            and all(isinstance(each, str) and re.fullmatch(r"[a-z0-9-]{1,24}", each) for each in value)
        )

    def text(self, value: Value, facts: Facts) -> str:  # noqa: ARG002
        assert isinstance(value, list)
        return ",".join(f"{place}:{each}" for place, each in enumerate(value, 1)) or "none"

    def value(self, text: str) -> Value:
        return [] if text == "none" else [each.partition(":")[2] for each in text.split(",")]
