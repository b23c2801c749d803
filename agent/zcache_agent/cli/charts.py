# SPDX-License-Identifier: Apache-2.0
"""Bars and figures of replays, as text."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_WIDTH = 36
_ROWS = 16


def bar(part: float, width: int = _WIDTH, style: str = "cyan") -> Text:
    """A bar of `part`, 0..1, of the width, to an eighth of a character."""
    eighths = round(max(0.0, min(1.0, part)) * width * 8)
    full, rest = divmod(eighths, 8)
    return Text("█" * full + (_EIGHTHS[rest] if rest else ""), style=style)


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def ratio(data: int, held: int) -> str:
    return f"{data / held:.2f}" if held else "-"


def plain_table(*columns: str) -> Table:
    """A table without lines; of each column `<` or `>`, followed by its title if it has one."""
    table = Table(
        box=None, pad_edge=False, show_edge=False, header_style="bold", show_header=any(c[1:] for c in columns)
    )
    for column in columns:
        table.add_column(column[1:], justify="right" if column[0] == ">" else "left")
    return table


def histogram(counts: Sequence[Sequence[int]], width: int = _WIDTH) -> Table:
    """Zpages by size, upper bounds and counts, as bars up to the largest size that occurs."""
    table = plain_table(">zpage", ">pages", "<")
    step = max(1, len(counts) // _ROWS)
    groups = [counts[start : start + step] for start in range(0, len(counts), step)]
    rows = [(group[-1][0], sum(count for _, count in group)) for group in groups]
    while rows and not rows[-1][1]:
        rows.pop()
    largest = max((count for _, count in rows), default=1)
    for upper, count in rows:
        table.add_row(f"   ≤ {upper}", str(count), bar(count / largest, width))
    return table
