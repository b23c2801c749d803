# SPDX-License-Identifier: Apache-2.0
"""Markdown's tables, and numbers as they stand in them."""

from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """The first `left` columns hold text, the others numbers."""
    rules = ["---" if column < left else "--:" for column in range(len(heads))]
    return "".join("| " + " | ".join(map(str, row)) + " |\n" for row in (heads, rules, *rows))


def us(nanoseconds: float) -> str:
    return f"{nanoseconds / 1000:.2f}"


def ms(nanoseconds: float) -> str:
    return f"{nanoseconds / 1e6:.1f}"


def mib(size: float) -> str:
    return f"{size / (1 << 20):.1f}"


def times(ratio: float) -> str:
    return f"{ratio:.2f}"


def percent(part: float, of: float) -> str:
    return f"{100 * part / of:.2f} %" if of else ""
