# SPDX-License-Identifier: Apache-2.0
"""Saved traces: a request a line, its answer on the next after "= ".

How many frames hold the same pages depends on the order that an object's pages are forgotten in, which a secret
decides, as does what compaction finds to do, and metadata on the size of a pointer, so answers are compared without
these numbers.
"""

import re
from pathlib import Path

TRACES = sorted((Path(__file__).parent.parent / "traces").glob("*.trace"))


def page_size(trace: Path) -> int:
    return int(trace.stem.split("-")[0])


def requests(trace: Path) -> str:
    return "".join(line for line in trace.read_text().splitlines(keepends=True) if not line.startswith("= "))


def answers(trace: Path) -> list[str]:
    text = "".join(line for line in trace.read_text().splitlines(keepends=True) if line.startswith("= "))
    return comparable(text.replace("= ", ""))


def comparable(output: str) -> list[str]:
    output = re.sub(r" (frames|metadata_bytes|used_bytes|compacted_\w+|\w+_frames)=\d+", "", output)
    return [_without_order(line) for line in re.sub(r"^frames \d+", "frames", output, flags=re.MULTILINE).splitlines()]


def _without_order(line: str) -> str:
    """Pages that were taken by a reclaim."""
    head, taken, pages = line.partition(" taken ")
    return head + taken + " ".join(sorted(pages.split()))
