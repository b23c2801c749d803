# SPDX-License-Identifier: Apache-2.0
"""The pictures of a report, as SVG to stand in HTML: colours are the page's, equal facts give equal bytes."""

import io
import logging
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # of its font cache nobody wants to know

import matplotlib as mpl  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: E402

from ..frontier import Frontier  # noqa: E402
from .html import plain  # noqa: E402

# What the page has a variable for; matplotlib wants a colour meanwhile.
TEXT, FAINT, WARM, COLD, OTHER, GONE = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_VARIABLES = {
    TEXT: "currentColor",
    FAINT: "var(--faint)",
    WARM: "var(--warm)",
    COLD: "var(--cold)",
    OTHER: "var(--other)",
    GONE: "var(--gone)",
}
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "text.color": TEXT,
    "text.parse_math": False,
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "zcache",
}
_WIDTH = 8.0
_MIB = 1024 * 1024


@dataclass(frozen=True)
class Bar:
    """Parts of a bar, with what stands for each and its colour."""

    label: str
    parts: Sequence[tuple[str, float, str]]


@dataclass(frozen=True)
class Line:
    label: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Chart:
    """Lines over time, with one scale."""

    title: str
    lines: Sequence[Line]


def _draw(name: str, label: str, height: float, paint: Callable[[Figure], None]) -> str:
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that no font of this machine has: the reader's may
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        figure.patch.set_alpha(0)
        paint(figure)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return _inline(text.getvalue(), name, label)


def _inline(svg: str, name: str, label: str) -> str:
    """Without its head, with ids of its own, in the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(?::xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}" class="plot"', 1)


# ---- bars ----


def stacked(name: str, label: str, bars: Sequence[Bar], unit: str) -> str:
    """Lying bars of several parts each."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        seen: set[str] = set()
        for place, bar in enumerate(bars):
            left = 0.0
            for what, value, colour in bar.parts:
                axes.barh(place, value, left=left, height=0.62, color=colour, label=None if what in seen else what)
                seen.add(what)
                left += value
            _say(axes, f"{left:,.1f}", left, place)
        _lie(axes, [bar.label for bar in bars])
        axes.set_xlabel(unit)
        figure.legend(loc="outside upper left", ncols=min(4, max(1, len(seen))))

    return _draw(name, label, 0.9 + 0.32 * len(bars), paint)


def beside(name: str, label: str, rows: Sequence[str], sides: Mapping[str, Sequence[float]], unit: str) -> str:
    """Lying bars, those of each side (before, now) beside each other."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        height = 0.7 / len(sides)
        for number, (side, values) in enumerate(sides.items()):
            places = [row + (number - (len(sides) - 1) / 2) * height for row in range(len(rows))]
            colour = WARM if number == len(sides) - 1 else GONE
            axes.barh(places, values, height=height * 0.92, color=colour, label=side)
            for place, value in zip(places, values, strict=True):
                _say(axes, f"{value:,.0f}", value, place)
        _lie(axes, rows)
        axes.set_xlabel(unit)
        if len(sides) > 1:
            figure.legend(loc="outside upper left", ncols=len(sides))

    return _draw(name, label, 0.7 + 0.26 * len(rows) * len(sides) + 0.3 * (len(sides) > 1), paint)


def _say(axes: Axes, what: str, x: float, y: float) -> None:
    """After the end of a bar."""
    axes.annotate(what, (x, y), xytext=(4, 0), textcoords="offset points", va="center")


def _lie(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), [plain(label) for label in labels])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.grid(axis="x")
    axes.margins(x=0.12)
    axes.set_xlim(left=0)


# ---- sizes ----

Counts = Sequence[Sequence[int]]


def histograms(name: str, label: str, shown: Mapping[str, tuple[Counts, Counts | None]], page_size: int) -> str:
    """Of each pool or codec: zpages by size now, and perhaps those before as a line."""
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)

    def paint(figure: Figure) -> None:
        places = figure.subplots(rows, columns, squeeze=False)
        for axes, (title, (counts, before)) in zip(places.flat, shown.items(), strict=False):
            _histogram(axes, title, counts, before, page_size)
        for axes in list(places.flat)[len(shown) :]:
            axes.set_axis_off()
        if any(before for _, before in shown.values()):
            handles, labels = places.flat[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper left", ncols=2)

    return _draw(name, label, 0.3 + 1.7 * rows, paint)


def _histogram(axes: Axes, title: str, counts: Counts, before: Counts | None, page_size: int) -> None:
    axes.set_title(plain(title))
    uppers = [upper for upper, _ in counts]
    width = page_size / max(1, len(uppers))
    axes.bar(
        [upper - width for upper in uppers],
        [count for _, count in counts],
        width,
        align="edge",
        color=WARM,
        label="now",
    )
    if before:
        edges = [0, *(upper for upper, _ in before)]
        axes.stairs([count for _, count in before], edges, color=TEXT, linewidth=1, label="before")
    axes.set_xlim(0, page_size)
    axes.set_xticks([page_size * part // 4 for part in range(5)])
    axes.set_xlabel("bytes of a zpage")
    axes.set_ylabel("zpages")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.grid(axis="y")


# ---- time ----


def over_time(name: str, label: str, charts: Sequence[Chart], seconds: Sequence[float], unit: str) -> str:
    styles = ((WARM, "-"), (OTHER, "--"), (COLD, "-."), (TEXT, ":"))
    columns = min(2, len(charts))
    rows = -(-len(charts) // columns)

    def paint(figure: Figure) -> None:
        places = figure.subplots(rows, columns, squeeze=False, sharex=True)
        for axes, chart in zip(places.flat, charts, strict=False):
            axes.set_title(chart.title)
            for line, (colour, style) in zip(chart.lines, styles, strict=False):
                values = [float("nan") if value is None else value for value in line.values]
                axes.plot(seconds, values, color=colour, linestyle=style, linewidth=1.3, label=line.label)
            axes.set_ylim(bottom=0)
            if len(chart.lines) > 1:
                axes.set_ylim(top=axes.get_ylim()[1] * 1.45)  # room for the legend
                axes.legend(loc="upper right", fontsize=8, ncols=2)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
            axes.tick_params(axis="x", labelbottom=True)
            axes.grid(axis="y")
        for axes in list(places.flat)[len(charts) :]:
            axes.set_axis_off()
        figure.supxlabel(unit, fontsize=9)

    return _draw(name, label, 0.4 + 1.6 * rows, paint)


# ---- frontier ----


def frontier(name: str, label: str, shown: Frontier) -> str:
    """Memory against CPU; points have the numbers of the table's rows, and their errors as crosses."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for number, point in enumerate(shown.points, 1):
            x, y = point.cpu_us_per_page, point.memory_bytes
            axes.errorbar(
                x.value, y.value / _MIB, xerr=x.error, yerr=y.error / _MIB,
                fmt="D" if point.recommended else "o", markersize=8 if point.recommended else 5,
                color=OTHER if point.recommended else WARM, elinewidth=1, capsize=2,
            )  # fmt: skip
            axes.annotate(str(number), (x.value, y.value / _MIB), xytext=(6, 5), textcoords="offset points",
                          weight="bold" if point.recommended else "normal")  # fmt: skip
        axes.set_xlabel("CPU, µs a page")
        axes.set_ylabel("memory, MiB")
        axes.grid()
        axes.margins(0.1)

    return _draw(name, label, 3.4, paint)


def predicted(name: str, label: str, rows: Mapping[str, Mapping[str, tuple[float, float]]]) -> str:
    """By codec: what each allocator would use in MiB, with its standard error."""
    allocators = list(dict.fromkeys(allocator for by in rows.values() for allocator in by))
    colours = (WARM, COLD, GONE)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        height = 0.75 / max(1, len(allocators))
        for number, allocator in enumerate(allocators):
            places = [row + (number - (len(allocators) - 1) / 2) * height for row in range(len(rows))]
            values = [by[allocator] for by in rows.values()]
            axes.barh(places, [value for value, _ in values], height=height * 0.9, color=colours[number % 3],
                      xerr=[error for _, error in values], ecolor=TEXT, label=allocator)  # fmt: skip
        _lie(axes, list(rows))
        axes.set_xlabel("MiB")
        figure.legend(loc="outside upper left", ncols=max(1, len(allocators)))

    return _draw(name, label, 0.9 + 0.6 * len(rows), paint)
