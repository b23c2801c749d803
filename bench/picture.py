# SPDX-License-Identifier: Apache-2.0
"""python -m bench.picture: docs/zpage-sizes.png out of build/bench.json, which `make bench` writes."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Facts = dict[str, Any]

# Okabe and Ito's colours, told apart by the colour-blind too.
LZ4, ZSTD, ZBUD, ZSMALLOC, GREY = "#56B4E9", "#000000", "#E69F00", "#0072B2", "#888888"
NO_LABEL = "_nolegend_"
PAGE_SIZE = 4096
COLUMNS = 4
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "hatch.linewidth": 0.5,
    "svg.hashsalt": "",
}


def draw(sizes: dict[str, dict[str, Facts]], path: Path) -> None:
    """codec → corpus → what `zc_bench sizes` says."""
    lz4, zstd = sizes["lz4"], sizes["zstd"]
    rows = -(-len(lz4) // COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.3, 1.55 * rows + 0.5 + 0.27 * len(lz4) + 0.7), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=[1.55 * rows + 0.5, 0.27 * len(lz4) + 0.7])
        upper, lower = parts
        axes = upper.subplots(rows, COLUMNS, sharex=True, squeeze=False)
        for place, name in zip(axes.flat, lz4, strict=False):
            histogram(place, name, lz4[name], zstd[name])
        for place in axes.flat[len(lz4) :]:
            place.set_axis_off()
        upper.suptitle("How large the zpages are", fontsize=10, x=0.01, ha="left", weight="bold")
        upper.supxlabel("size of a zpage, bytes (a page has 4096)", fontsize=8)
        upper.supylabel("share of the pages, %", fontsize=8)
        upper.legend(*legend_of(axes.flat[0]), loc="upper right", ncols=4, frameon=False, fontsize=8)
        bars(lower.subplots(), lz4, zstd)
        lower.suptitle("How many frames 100 pages fill", fontsize=10, x=0.01, ha="left", weight="bold")
        figure.savefig(path, dpi=200, metadata={"Software": None})


def histogram(axes: Axes, name: str, lz4: Facts, zstd: Facts) -> None:
    """Bins of the same width; the last holds what is no smaller than its page."""
    width = PAGE_SIZE / (len(lz4["sizes"]) - 1)
    starts = [at * width for at in range(len(lz4["sizes"]))]
    axes.bar(starts, shares(lz4), width, align="edge", color=LZ4, label="LZ4")
    axes.step([*starts, starts[-1] + width], [*shares(zstd), 0], where="post", color=ZSTD, lw=0.7, label="zstd")
    axes.axvline(PAGE_SIZE / 2, color=GREY, lw=0.7, ls="--", label="half a page")
    axes.axvline(PAGE_SIZE * 7 / 8, color=GREY, lw=0.7, ls=":", label="zv_max_zsize")
    axes.set_title(name, fontsize=8.5, pad=2)
    axes.set_xlim(0, PAGE_SIZE + width)
    axes.set_xticks([0, 1024, 2048, 3072, 4096])
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))


def shares(facts: Facts) -> list[float]:
    return [100 * count / facts["pages"] for count in facts["sizes"]]


def legend_of(axes: Axes) -> tuple[list[Any], list[str]]:
    """Bars before lines."""
    handles, labels = axes.get_legend_handles_labels()
    return [handles[-1], *handles[:-1]], [labels[-1], *labels[:-1]]


def bars(axes: Axes, lz4: dict[str, Facts], zstd: dict[str, Facts]) -> None:
    """A refused page is a frame of its own: it stays as it is, somewhere."""
    for place, name in enumerate(lz4):
        for y, allocator, colour in ((place - 0.19, "zbud", ZBUD), (place + 0.19, "zsmalloc", ZSMALLOC)):
            frames, refused = frames_of(lz4[name], allocator)
            axes.barh(y, frames, 0.36, color=colour, label=f"{allocator}, LZ4" if place == 0 else NO_LABEL)
            axes.barh(y, refused, 0.36, left=frames, color="white", edgecolor=colour, hatch="////", lw=0.6)
            axes.text(frames + refused + 0.6, y, f"{frames + refused:.0f}", va="center", fontsize=7.5)
            label = "the same with zstd" if (place, allocator) == (0, "zsmalloc") else NO_LABEL
            axes.vlines(sum(frames_of(zstd[name], allocator)), y - 0.18, y + 0.18, color=ZSTD, lw=1.6, label=label)
    axes.barh(0, 0, color="white", edgecolor=GREY, hatch="////", lw=0.6, label="refused pages, a frame each")
    axes.set_yticks(range(len(lz4)), list(lz4))
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("frames for 100 pages (same-filled pages left out)")
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower right", frameon=False, fontsize=8)


def frames_of(facts: Facts, allocator: str) -> tuple[float, float]:
    """A 100 pages: those that the allocator holds; refused pages."""
    per_100 = 100 / facts["pages"]
    return facts[allocator]["frames"] * per_100, facts[allocator]["refused"] * per_100


def main() -> int:
    facts = json.loads(Path("build/bench.json").read_text())
    draw(facts["sizes"], Path("docs/zpage-sizes.png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
