# SPDX-License-Identifier: Apache-2.0
"""The little HTML that a report needs. Whatever is not Raw is text, and escaped."""

import html
import re
from collections.abc import Iterable, Sequence

_PATH = re.compile(r"(?<![\w.…/])/(?!(?:dev|proc|sys)/)(?:[^\s/=,;:\"'()]+/)+(?=[^\s/]?)")
"""The directories of an absolute path; those that every Linux has may stay."""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ground: #fff; --ink: #1b1f24; --soft: #57606a; --faint: #d8dee4; --tint: #f6f8fa;
  --warm: #0b6bb3; --cold: #3aa0d8; --other: #b35900; --gone: #8c959f; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ground: #14181d; --ink: #e4e8ec; --soft: #9aa4af; --faint: #343b44;
  --tint: #1c2229; --warm: #5fb0ee; --cold: #2b7fb8; --other: #f0a04b; --gone: #6d7681; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 60rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.6rem; margin: 0; }}
h2 {{ font-size: 1.15rem; margin: 2.4rem 0 0.6rem; padding-bottom: 0.2rem; border-bottom: 1px solid var(--faint); }}
h3 {{ font-size: 1rem; margin: 1.4rem 0 0.4rem; }}
p {{ margin: 0.4rem 0; }}
.soft {{ color: var(--soft); }}
.alarm {{ border-left: 4px solid var(--other); padding: 0.3rem 0.8rem; background: var(--tint); }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: 0.7rem;
  margin: 1.2rem 0; }}
.tile {{ background: var(--tint); border: 1px solid var(--faint); border-radius: 6px; padding: 0.6rem 0.8rem; }}
.tile b {{ display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: 0.9rem; }}
th, td {{ text-align: left; vertical-align: top; padding: 0.25rem 0.8rem 0.25rem 0;
  border-bottom: 1px solid var(--faint); }}
td {{ overflow-wrap: normal; }}
th {{ font-weight: 600; color: var(--soft); }}
.n {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
tr.chosen {{ font-weight: 600; background: var(--tint); }}
code {{ font: 0.88em ui-monospace, "DejaVu Sans Mono", monospace; }}
svg.plot {{ display: block; width: 100%; height: auto; color: var(--ink); margin: 0.6rem 0; }}
details {{ margin: 0.6rem 0; }}
summary {{ cursor: pointer; font-weight: 600; }}
nav {{ margin: 0.8rem 0 0; }}
nav a {{ color: inherit; margin-right: 0.9rem; display: inline-block; }}
@media print {{ body {{ max-width: none; }} h2 {{ break-after: avoid; }} svg.plot, tr {{ break-inside: avoid; }} }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


class Raw(str):
    """HTML, made here."""


Cell = object
"""A text, a number, or Raw."""


def plain(value: object) -> str:
    """What the device or a document says, without what cannot be printed and a machine's directories."""
    return _PATH.sub("…/", "".join(char if char.isprintable() or char == "\n" else "�" for char in str(value)))


def text(value: object) -> Raw:
    """The same as HTML: no markup."""
    return value if isinstance(value, Raw) else Raw(html.escape(plain(value)))


def join(parts: Iterable[Cell], between: str = "\n") -> Raw:
    return Raw(between.join(text(part) for part in parts))


def tag(name: str, content: Cell, css: str = "") -> Raw:
    return Raw(f"<{name}{f' class={chr(34)}{css}{chr(34)}' if css else ''}>{text(content)}</{name}>")


def paragraph(content: Cell, css: str = "") -> Raw:
    return tag("p", content, css)


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], chosen: int | None = None) -> Raw:
    """Columns whose name ends with > are numbers. `chosen`: the number of a row that stands out."""
    css = ["n" if column.endswith(">") else "" for column in columns]
    head = join((tag("th", column.removesuffix(">"), each) for column, each in zip(columns, css, strict=True)), "")
    lines = []
    for number, row in enumerate(rows):
        cells = join((tag("td", cell, each) for cell, each in zip(row, css, strict=True)), "")
        lines.append(tag("tr", cells, "chosen" if number == chosen else ""))
    if not any(columns):
        head = Raw("")
    return Raw(f'<div class="scroll"><table>{tag("tr", head) if head else ""}{join(lines)}</table></div>')


def tiles(facts: Iterable[tuple[str, Cell]]) -> Raw:
    shown = (tag("div", join((tag("b", value), tag("span", name, "soft")), ""), "tile") for name, value in facts)
    return tag("div", join(shown), "tiles")


def details(summary: str, content: Raw) -> Raw:
    return Raw(f"<details>{tag('summary', summary)}{content}</details>")


def section(name: str, title: str, *parts: Raw) -> Raw:
    return Raw(f'<section id="{name}">\n{tag("h2", title)}\n{join(parts)}\n</section>')


def page(title: str, body: Raw) -> str:
    return _PAGE.format(title=text(title), body=body)
