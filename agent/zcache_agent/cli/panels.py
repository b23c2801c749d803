# SPDX-License-Identifier: Apache-2.0
"""What the panels of zcache top say: text of a given width, out of moments."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rich.text import Text

from ..counters import REFUSALS, WEAR, Counters
from ..gather import Histogram, Moment, rates
from ..kernelstats import Facts, Kernel, amount
from .charts import bar
from .output import size_text

_BLOCKS = " ▁▂▃▄▅▆▇█"
_KEPT = 240
"""Rates that a sparkline can show."""
_STRONG, _FAINT = "bold", "dim"


@dataclass(frozen=True)
class Rate:
    """Something that goes on: the sum of counters, over all pools."""

    name: str
    counters: Sequence[str]
    text: Callable[[float], str]


def _count_text(rate: float) -> str:
    return f"{rate:,.0f}".replace(",", " ")


def _bytes_text(rate: float) -> str:
    return size_text(round(rate))


RATES = (
    Rate("puts", ("puts",), _count_text),
    Rate("gets", ("gets",), _count_text),
    Rate("flushes", ("flush_total", "flobj_total"), _count_text),
    Rate("refused", REFUSALS, _count_text),
    Rate("evicted", ("reclaimed_zpages",), _count_text),
    Rate("made cold", ("recompressed_pages",), _count_text),
    Rate("written", WEAR, _bytes_text),
    Rate("read back", ("written_gets",), _count_text),
)


@dataclass
class View:
    """The moments that are shown: the last one that told something, and what went on until then."""

    now: Moment | None = None
    grown: Mapping[str, float] = field(default_factory=dict)
    history: Mapping[str, deque[float]] = field(
        default_factory=lambda: {each.name: deque(maxlen=_KEPT) for each in RATES}
    )

    def add(self, moment: Moment) -> None:
        """Of a moment without a daemon, what the kernel says is news, and no rate is known."""
        if not moment.is_up:
            self.grown = {}
            if self.now is None or moment.kernel:
                old = self.now or moment
                self.now = Moment(
                    old.seconds, old.time, moment.serial, old.values, old.histograms, moment.kernel, moment.problem
                )
            return
        self.grown = rates(self.now, moment) if self.now and self.now.is_up else {}
        self.now = moment
        for each in RATES if self.grown else ():
            self.history[each.name].append(self.rate(*each.counters))

    def rate(self, *counters: str, pool: str | None = None) -> float:
        """A second; a counter that began anew tells nothing."""
        pools = [pool] if pool else self.pools
        paths = [f"pools/{name}/stats/{counter}" for name in pools for counter in counters]
        return sum(max(0.0, self.grown.get(path, 0)) for path in paths)

    @property
    def pools(self) -> list[str]:
        return self.now.pools if self.now else []

    def number(self, path: str) -> int | float:
        return self.now.number(path) if self.now else 0

    def sum(self, counter: str) -> int:
        return sum(self.pool(name)[counter] for name in self.pools)

    def pool(self, name: str) -> Counters:
        return Counters(self.now.values if self.now else {}, name)

    @property
    def page_size(self) -> int:
        return int(self.number("page_size"))


# ---- memory ----


def memory(view: View, width: int) -> Text:
    size = view.page_size
    used, limit = view.number("stats/used_bytes"), view.number("stats/limit_bytes")
    held = int(view.number("stats/pers_zpages") + view.number("stats/eph_zpages")) * size
    frames, cold = (int(count) * size for count in (view.number("stats/frames"), view.sum("cold_frames")))
    reserve = int(view.number("stats/reserve_frames")) * size
    ratio = f"{held / used:.2f}" if used and held else "-"
    lines = [
        _spread(f"used     {size_text(int(used))} of {size_text(int(limit))}", _percent(used, limit), width, _STRONG),
        _gauge(used / limit if limit else 0.0, width),
        _columns(width, "frames", _bytes(frames), "warm", _bytes(frames - cold)),
        _columns(width, "metadata", _bytes(view.number("stats/metadata_bytes")), "cold", _bytes(cold)),
        _columns(width, "reserve", _bytes(reserve), "written", _bytes(view.number("stats/written_bytes"))),
        _columns(width, "holds", _bytes(held), "ratio", ratio),
        *_device(view.now.kernel if view.now else None, width),
    ]
    return Text("\n").join(lines)


def _device(kernel: Kernel | None, width: int) -> list[Text]:
    if kernel is None:
        return []
    total, free = amount(kernel.memory, "MemTotal"), amount(kernel.memory, "MemAvailable")
    line = _spread(f"free     {size_text(int(free))} of {size_text(int(total))}", _percent(free, total), width)
    if not kernel.pressure:
        why = "not told: needs root" if kernel.is_closed("/proc/pressure") else "the kernel has none"
        return [line, Text(f"PSI      {why}")]
    shares = {name: f"{name} {each.some_avg10:.1f}" for name, each in kernel.pressure.items()}
    for name in shares.keys() - {"cpu"}:
        shares[name] += f"/{kernel.pressure[name].full_avg10:.1f}"
    return [line, Text("PSI % " + " ".join(shares.values()).replace("memory", "mem"))]


def _bytes(size: float) -> str:
    return size_text(int(size))


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def _spread(left: str, right: str, width: int, style: str = "") -> Text:
    gap = max(1, width - len(left) - len(right))
    return Text(left + " " * gap + right, style=style)


def _columns(width: int, name: str, value: str, other: str, second: str) -> Text:
    return Text(f"{name:<8} {value:<10} {other:<7} {second:>{max(1, width - 28)}}")


def _gauge(part: float, width: int) -> Text:
    filled = bar(part, width)
    return filled + Text("░" * (width - len(filled)), style=_FAINT)


# ---- rates ----


def rates_panel(view: View, width: int) -> Text:
    known = bool(view.grown)
    room = max(0, width - 22)
    lines = []
    for each in RATES:
        text = each.text(view.rate(*each.counters)) if known else "-"
        lines.append(Text(f"{each.name:<10}{text:>10}  ") + sparkline(view.history[each.name], room))
    return Text("\n").join(lines)


def sparkline(values: Sequence[float] | deque[float], width: int) -> Text:
    """The last ones, against the largest of them."""
    shown = list(values)[-width:] if width else []
    largest = max(shown, default=0.0)
    marks = "".join(_BLOCKS[math.ceil(8 * value / largest)] if largest else " " for value in shown)
    return Text(marks.rjust(width), style="cyan")


# ---- refusals ----


def refusals(view: View, width: int, height: int) -> Text:
    counts = {reason: view.sum(reason) for reason in REFUSALS}
    shown = sorted(((count, reason) for reason, count in counts.items() if count), reverse=True)
    puts = view.sum("puts")
    if not shown:
        return Text(f"none of {_count_text(puts)} puts")
    room = width - 19
    lines = [
        Text(f"{reason:<{room}.{room}} {_count_text(count):>9} {_rate_text(view, reason):>8}")
        for count, reason in shown
    ]
    if len(lines) >= height:
        lines[height - 2 :] = [Text(f"and {len(lines) - height + 2} other reasons", style=_FAINT)]
    total = sum(counts.values())
    lines.insert(0, _spread(f"{_count_text(total)} of {_count_text(puts)} puts", _percent(total, puts), width, _STRONG))
    return Text("\n").join(lines)


def _rate_text(view: View, counter: str, pool: str | None = None) -> str:
    return f"{_count_text(view.rate(counter, pool=pool))}/s" if view.grown else "-"


# ---- histogram ----


def histogram(counts: Histogram, page_size: int, width: int, height: int) -> Text:
    """Upright bars over the sizes that they stand for. Where there is no room for all, each is a mean of some."""
    total = sum(count for _, count in counts)
    if not total:
        return Text("no zpages")
    number = max(1, min(width, len(counts)))
    edges = [at * len(counts) // number for at in range(number + 1)]
    columns = [sum(count for _, count in counts[a:b]) / (b - a) for a, b in pairwise(edges)]
    scale = max(1, width // number)
    rows = max(1, height - 1)
    largest = max(columns)
    eighths = [math.ceil(count * rows * 8 / largest) for count in columns]
    lines = []
    for row in range(rows - 1, -1, -1):
        marks = (_BLOCKS[max(0, min(8, each - 8 * row))] * scale for each in eighths)
        lines.append(Text("".join(marks), style="cyan"))
    wide = len(columns) * scale
    axis = [" "] * wide
    for part in range(4 if wide >= 40 else 3):
        label = str(page_size * part // 4)
        axis[wide * part // 4 : wide * part // 4 + len(label)] = label
    end = str(page_size)
    axis[wide - len(end) :] = end
    return Text("\n").join([*lines, Text("".join(axis), style=_FAINT)])


# ---- the kernel's ----


def kernel_panel(kernel: Kernel | None, page_size: int) -> Text:
    if kernel is None:
        return Text("")
    lines = [zram_line(name, facts, page_size) for name, facts in kernel.zram.items()]
    if not kernel.zram and not kernel.is_closed("/sys/block/zram"):
        lines.append("zram   the kernel shows none")
    lines += zswap_lines(kernel, page_size)
    lines += [_swap_line(kernel)]
    return Text("\n".join([*lines, *kernel.notes]))


def zram_line(name: str, facts: Facts, page_size: int) -> str:
    if not amount(facts, "disksize"):
        return f"{name:<6} not set up ({facts.get('algorithm', '')})"
    data, used = amount(facts, "orig_data_size"), amount(facts, "mem_used_total")
    parts = [
        f"{name:<6} {facts.get('algorithm', '')}",
        _held(data + amount(facts, "same_pages") * page_size, used),
        f"of {_bytes(amount(facts, 'disksize'))}",
        f"huge {amount(facts, 'huge_pages'):g}",
    ]
    if amount(facts, "mem_limit"):
        parts.append(f"limit {_bytes(amount(facts, 'mem_limit'))}")
    if "bd_count" in facts:
        parts.append(f"written back {_bytes(amount(facts, 'bd_count') * 4096)}")
    return "  ".join(parts)


def zswap_lines(kernel: Kernel, page_size: int) -> list[str]:
    facts = kernel.zswap
    if not facts:
        return ["zswap  the kernel has none"]
    if facts.get("enabled") != "Y":
        return [f"zswap  off ({facts.get('compressor', '')})"]
    used = amount(facts, "pool_total_size")
    parts = [f"zswap  {facts.get('compressor', '')}"]
    if "stored_pages" in facts:
        parts.append(_held(amount(facts, "stored_pages") * page_size, used))
    else:
        parts.append(f"takes {_bytes(used)}")
    parts.append(f"of {amount(facts, 'max_pool_percent'):g} % of RAM")
    refused = sum(amount(facts, name) for name in facts if name.startswith("reject_"))
    if "stored_pages" in facts:
        parts += [f"refused {refused:g}", f"written back {amount(facts, 'written_back_pages'):g}"]
    return ["  ".join(parts)]


def _swap_line(kernel: Kernel) -> str:
    total = amount(kernel.memory, "SwapTotal")
    if not total:
        return "swap   no area in use"
    return f"swap   {_bytes(total - amount(kernel.memory, 'SwapFree'))} of {_bytes(total)}"


def _held(data: float, used: float) -> str:
    ratio = f" ({data / used:.2f})" if used and data else ""
    return f"{_bytes(data)} in {_bytes(used)}{ratio}"


# ---- pools ----


@dataclass(frozen=True)
class Column:
    title: str
    width: int
    cell: Callable[[View, str], str]
    right: bool = True
    wide: bool = False
    """Shown where there is room."""


def _node(name: str) -> Callable[[View, str], str]:
    return lambda view, pool: str(view.now.values.get(f"pools/{pool}/{name}", "")) if view.now else ""


def _a_second(*counters: str, text: Callable[[float], str] = _count_text) -> Callable[[View, str], str]:
    return lambda view, pool: text(view.rate(*counters, pool=pool)) if view.grown else "-"


def _ratio(view: View, pool: str) -> str:
    counters = view.pool(pool)
    used, held = counters["used_bytes"], counters.held * view.page_size
    return f"{held / used:.2f}" if used and held else "-"


_SHORT = {"persistent": "pers", "ephemeral": "eph"}

COLUMNS = (
    Column("pool", 11, lambda _, pool: pool, right=False),
    Column("kind", 4, lambda view, pool: _SHORT.get(_node("kind")(view, pool), ""), right=False),
    Column("allocator", 9, _node("allocator"), right=False, wide=True),
    Column("codec", 6, _node("codec"), right=False),
    Column("pages", 7, lambda view, pool: str(view.pool(pool).held)),
    Column("warm", 6, lambda view, pool: str(view.pool(pool).warm_frames)),
    Column("cold", 5, lambda view, pool: str(view.pool(pool)["cold_frames"])),
    Column("out", 6, lambda view, pool: str(view.pool(pool)["written_pages"])),
    Column("used", 9, lambda view, pool: size_text(view.pool(pool)["used_bytes"])),
    Column("ratio", 5, _ratio, wide=True),
    Column("puts/s", 6, _a_second("puts")),
    Column("gets/s", 6, _a_second("gets")),
    Column("refused/s", 9, _a_second(*REFUSALS), wide=True),
    Column("written/s", 10, _a_second(*WEAR, text=_bytes_text), wide=True),
)
