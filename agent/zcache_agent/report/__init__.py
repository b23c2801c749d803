# SPDX-License-Identifier: Apache-2.0
"""What a report is made of: facts of one moment, perhaps of one before, and what was given to go with them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from .. import __version__
from ..analyze import SAVED_FORMAT as ANALYSIS_FORMAT
from ..control import Description
from ..errors import Usage
from ..frontier import FORMAT as FRONTIER_FORMAT
from ..frontier import Frontier, is_number
from ..gather import Moment
from .shape import ANALYSIS, MOMENT, fits

FORMAT = "zcache-moment-1"

Sampled = Mapping[str, int | float | str]
"""Values by path, and `time`, since 1970."""
Analysis = Mapping[str, Any]
"""What `zcache analyze` says."""


@dataclass(frozen=True)
class Facts:
    """Of a device at one time."""

    moment: Moment
    doctor: Mapping[str, Any]
    """What `zcache doctor --json` says."""
    descriptions: Sequence[Description] = ()
    agent: str = __version__
    problem: str = ""
    """Why something is missing."""

    def as_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "agent": self.agent,
            "moment": self.moment.as_json(),
            "doctor": self.doctor,
            "descriptions": [asdict(node) for node in self.descriptions],
            "problem": self.problem,
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """ValueError: it is not as as_json() makes it."""
        if not fits(facts, MOMENT):
            raise ValueError("no facts of a moment")
        return cls(
            Moment.from_json(facts["moment"]),
            facts["doctor"],
            [Description(**node) for node in facts["descriptions"]],
            facts["agent"],
            facts["problem"],
        )


@dataclass(frozen=True)
class Series:
    """Samples, one after the other."""

    samples: Sequence[Sampled]

    @property
    def seconds(self) -> list[float]:
        """Of each sample, since the first. Without times, its number."""
        if not self.has_times:
            return [float(number) for number in range(len(self.samples))]
        times = [float(sample["time"]) for sample in self.samples]
        return [time - times[0] for time in times]

    @property
    def has_times(self) -> bool:
        return all(is_number(sample.get("time")) for sample in self.samples)


@dataclass
class Material:
    now: Facts | None = None
    before: Facts | None = None
    series: Series | None = None
    analyses: list[Analysis] = field(default_factory=list)
    """The one before first, if there are two."""
    frontier: Frontier | None = None


Document = Facts | Series | Frontier | dict[str, Any]
"""The last: an analysis."""


def load(path: Path) -> Document:
    """Whatever of these a file is. Usage: it cannot be read, or is none of them."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "no text"
        raise Usage(f"{path}: {said}", hint="name a file that was saved by zcache") from error
    try:
        return _recognize(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Usage(
            f"{path}: nothing that a report can show",
            hint="a file of report --save, analyze --save, a frontier, or lines of stats -w --json",
        ) from error


def _recognize(text: str) -> Document:
    lines = [line for line in text.splitlines() if line.strip()]
    first = json.loads(lines[0] if lines and lines[0].rstrip().endswith("}") else text)
    kind = first.get("format")
    if kind == FORMAT:
        return Facts.from_json(json.loads(text))
    if kind == FRONTIER_FORMAT:
        return Frontier.from_json(json.loads(text))
    if kind == ANALYSIS_FORMAT and "total" in first:
        analysis: dict[str, Any] = json.loads(text)
        if not fits(analysis, ANALYSIS) or not analysis["total"]["codecs"]:
            raise ValueError("no analysis")
        return analysis
    samples = [json.loads(line) for line in lines]
    if kind is not None or not all(isinstance(sample, dict) for sample in samples):
        raise ValueError("of no known format")
    return Series(samples)
