# SPDX-License-Identifier: Apache-2.0
"""Figures as people read them."""


def size_text(size: int) -> str:
    """A number of bytes for people, e.g. 1.5 MiB."""
    value, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{size} bytes" if unit == "bytes" else f"{value:.1f} {unit}"


def duration_text(milliseconds: int) -> str:
    """E.g. 3 d 4 h, 5 min 2 s."""
    seconds = milliseconds // 1000
    parts = ((seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s"))
    shown = [f"{count} {unit}" for count, unit in parts if count]
    return " ".join(shown[:2]) or "0 s"
