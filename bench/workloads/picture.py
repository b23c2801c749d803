# SPDX-License-Identifier: Apache-2.0
"""docs/which-workloads.png: what each program's memory comes to, and what its work takes with less of it."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.picture import GREY, LZ4, STYLE, ZBUD, ZSMALLOC

from .report import left, slowdown

Facts = dict[str, Any]

COLD = "#009E73"
MEMORY = (("zbud", "zbud", ZBUD), ("zsmalloc", "zsmalloc", ZSMALLOC), ("cold", "cold tier", COLD))
TIMES = (
    ("zram-75", "75 %, zram", LZ4, "o"),
    ("flash-75", "75 %, flash", "white", "s"),
    ("zram-50", "50 %, zram", ZSMALLOC, "o"),
    ("flash-50", "50 %, flash", ZBUD, "s"),
)
MOST = 8
"""Times as long; what was given up or killed is drawn there."""


def draw(facts: Facts, path: Path) -> None:
    known = facts["workloads"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.3, 0.42 * len(known) + 1.3), layout="constrained")
        memory, time = figure.subplots(1, 2, sharey=True, width_ratios=[2, 3])
        bars(memory, known)
        points(time, known)
        memory.set_yticks(range(len(known)), list(known))
        memory.invert_yaxis()
        memory.tick_params(axis="y", length=0)
        figure.savefig(path, dpi=200, metadata={"Software": None})


def bars(axes: Axes, known: Facts) -> None:
    for row, (where, label, colour) in enumerate(MEMORY):
        places = [at + (row - 1) * 0.26 for at in range(len(known))]
        axes.barh(places, [100 * left(f, where) for f in known.values()], 0.24, color=colour, label=label)
    axes.axvline(100, color=GREY, lw=0.7, ls="--")
    axes.set_xlabel("MiB that 100 MiB of its pages take")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False, fontsize=7.5)


def points(axes: Axes, known: Facts) -> None:
    for row, (condition, label, colour, marker) in enumerate(TIMES):
        places = [at + (row - 1.5) * 0.2 for at in range(len(known))]
        values = [slowdown(f, condition) for f in known.values()]
        drawn = [min(value, MOST) if value else MOST for value in values]
        axes.hlines(places, 1, drawn, color=GREY, lw=0.5)
        done = [at for at, value in enumerate(values) if value]
        given_up = [at for at, value in enumerate(values) if not value]
        style: Any = {"color": colour, "edgecolors": ZBUD if colour == "white" else colour, "s": 16, "zorder": 3}
        axes.scatter([drawn[at] for at in done], [places[at] for at in done], marker=marker, label=label, **style)
        axes.scatter([MOST] * len(given_up), [places[at] for at in given_up], marker="x", color="black", s=16, zorder=3)
    axes.axvline(1, color=GREY, lw=0.7, ls="--")
    axes.set_xscale("log")
    axes.set_xlim(0.85, MOST * 1.1)
    ticks = [1, 1.5, 2, 3, 5]
    axes.set_xticks([*ticks, MOST], [*(f"{tick:g}" for tick in ticks), "given up"])
    axes.minorticks_off()
    axes.set_xlabel("time of its work with so much of its memory, of that without a limit")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False, fontsize=7.5)
