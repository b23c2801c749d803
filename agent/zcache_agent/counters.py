# SPDX-License-Identifier: Apache-2.0
"""The counters of a pool, out of a dump of the tree."""

from collections.abc import Mapping
from dataclasses import dataclass

from .control import number
from .pages import Refusal

Values = Mapping[str, int | float | str] | Mapping[str, str]

_HELD = ("zpages", "same_filled", "raw_pages", "cold_pages")

REFUSALS = tuple(refusal.name for refusal in Refusal)
"""Counters of a pool whose sum, with stored_puts, is its puts."""
WEAR = ("wear_evicted", "wear_cleaned", "wear_metadata")
"""Bytes written to a backing store."""


@dataclass(frozen=True)
class Counters:
    values: Values
    pool: str

    def __contains__(self, counter: str) -> bool:
        return self._path(counter) in self.values

    def __getitem__(self, counter: str) -> int:
        """What the daemon does not count, as a number, is none."""
        value = self.values.get(self._path(counter), 0)
        counted = number(value) if isinstance(value, str) else value
        return 0 if isinstance(counted, str) else int(counted)

    def _path(self, counter: str) -> str:
        return f"pools/{self.pool}/stats/{counter}"

    @property
    def held(self) -> int:
        """Pages in memory."""
        return sum(self[counter] for counter in _HELD)

    @property
    def refused(self) -> int:
        return sum(self[reason] for reason in REFUSALS)

    @property
    def warm_frames(self) -> int:
        return self["frames"] - self["cold_frames"]


def pools_in(values: Values) -> list[str]:
    """The names of the pools that a dump tells of."""
    return list(dict.fromkeys(path.split("/")[1] for path in values if path.startswith("pools/") and "/stats/" in path))


def parse_histogram(table: str) -> list[list[int]]:
    """Pairs of an upper bound in bytes and a count of zpages."""
    return [[int(word) for word in line.split()] for line in table.splitlines()]
