# SPDX-License-Identifier: Apache-2.0
"""The sections of a report, each out of what there is for it; a section without material is left out."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..control import Description
from ..counters import REFUSALS, WEAR, Counters
from ..frontier import Estimate, Frontier, is_number
from ..gather import Moment
from ..kernelstats import MEMORY_FIELDS, ZRAM_FIELDS, ZSWAP_FIELDS, Kernel, amount
from ..texts import duration_text, size_text
from . import Analysis, Facts, Material, Sampled, Series, plots
from .html import Cell, Raw, details, join, page, paragraph, section, table, tag, text, tiles
from .plots import COLD, GONE, OTHER, WARM, Bar, Chart, Line

_MIB = 1024 * 1024
_ROWS = 12
"""Pools and processes in a picture or table; of more, the largest."""


def render(material: Material) -> str:
    shown = [part for make in _SECTIONS for part in make(material)]
    names = join((Raw(f'<a href="#{name}">{text(title)}</a>') for name, title, _ in shown), "")
    body = join([*_head(material), tag("nav", names), *(section(name, title, *parts) for name, title, parts in shown)])
    return page(_title(material), body)


Section = tuple[str, str, list[Raw]]
"""Its name, its title, what is in it."""


def _title(material: Material) -> str:
    device = (material.now.doctor.get("device") or {}) if material.now else {}
    name = device.get("model") or (material.now.moment.serial if material.now else "")
    return f"zcache report{': ' if name else ''}{name}"


def _head(material: Material) -> Iterator[Raw]:
    yield tag("h1", _title(material))
    now = material.now
    if not now:
        yield paragraph("Made of documents; no device was asked.", "soft")
        return
    version = now.moment.values.get("version")
    daemon = f"zcached {version}, up {duration_text(int(now.moment.number('uptime_ms')))}" if version else "no daemon"
    yield paragraph(f"{_when(now.moment)} · {now.moment.serial} · {daemon} · zcache {now.agent}", "soft")
    if now.problem:
        yield paragraph(now.problem, "alarm")
    if now.moment.is_up:
        yield tiles(_tiles(now.moment))


def _when(moment: Moment) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment.time))


def _tiles(moment: Moment) -> Iterator[tuple[str, Cell]]:
    for name, fact in _SUMMARY.items():
        if name in ("pages held", "uncompressed", "memory used", "ratio", "refused puts"):
            yield name, fact(moment)


# ---- before and now ----


def _counters(moment: Moment) -> list[Counters]:
    return [Counters(moment.values, pool) for pool in moment.pools]


def _sum(moment: Moment, *names: str) -> int:
    return sum(pool[name] for pool in _counters(moment) for name in names)


def _held(moment: Moment) -> int:
    return sum(pool.held for pool in _counters(moment))


def _ratio(moment: Moment) -> str:
    used = moment.number("stats/used_bytes")
    held = _held(moment) * moment.number("page_size")
    return f"{held / used:.2f}" if used and held else "-"


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _size(size: float) -> str:
    return size_text(int(size))


_SUMMARY: dict[str, Callable[[Moment], str]] = {
    "pages held": lambda moment: f"{_held(moment):,}",
    "uncompressed": lambda moment: _size(_held(moment) * moment.number("page_size")),
    "memory used": lambda moment: _size(moment.number("stats/used_bytes")),
    "ratio": _ratio,
    "limit": lambda moment: _size(moment.number("stats/limit_bytes")),
    "puts": lambda moment: f"{_sum(moment, 'puts'):,}",
    "refused puts": lambda moment: _share(_sum(moment, *REFUSALS), _sum(moment, "puts")),
    "gets": lambda moment: f"{_sum(moment, 'gets'):,}",
    "gets that found the page": lambda moment: _share(_sum(moment, "gets_found"), _sum(moment, "gets")),
    "pages written back": lambda moment: f"{_sum(moment, 'written_pages'):,}",
    "written to flash": lambda moment: _size(_sum(moment, *WEAR)),
    "pages evicted": lambda moment: f"{_sum(moment, 'reclaimed_zpages'):,}",
    "memory was short": lambda moment: f"{moment.number('stats/pressures'):,} times",
}


def _compared(material: Material) -> Iterator[Section]:
    before, now = material.before, material.now
    if not before or not now:
        return
    rows = [(name, fact(before.moment), fact(now.moment)) for name, fact in _SUMMARY.items()]
    changed = [row for row in _settings_of(now) if row[1] != before.moment.values.get(str(row[0]))]
    parts = [
        paragraph(f"Before: {_when(before.moment)}, {before.moment.serial}. Now: {_when(now.moment)}."),
        table(("", "before>", "now>"), rows),
    ]
    if changed:
        parts.append(tag("h3", "Settings that differ"))
        parts.append(
            table(
                ("setting", "before>", "now>", "meaning"),
                [
                    (
                        _code(path),
                        _setting(before.moment.values.get(str(path), "-"), unit),
                        _setting(value, unit),
                        more[-1],
                    )
                    for path, value, unit, *more in changed
                ],
            )
        )
    yield "change", "Before and now", parts


# ---- memory ----


def _memory(material: Material) -> Iterator[Section]:
    now = material.now
    if not now or not now.moment.is_up:
        return
    pools = sorted(_counters(now.moment), key=lambda pool: -pool["used_bytes"])
    parts = [_memory_table(now.moment)]
    if pools:
        bars = [bar for pool in pools[:_ROWS] for bar in _pool_bars(now.moment, pool, material.before)]
        parts.append(
            Raw(plots.stacked("memory", "What the pages of each pool take, in MiB, beside their size", bars, "MiB"))
        )
        parts.append(_pool_table(now.moment, pools))
    yield "memory", "Memory", parts


def _memory_table(moment: Moment) -> Raw:
    size = moment.number("page_size")
    rows: list[tuple[str, float, str]] = [
        ("frames that hold pages", moment.number("stats/frames") * size, f"{moment.number('stats/frames'):,} frames"),
        ("frames kept ready", moment.number("stats/reserve_frames") * size, ""),
        ("metadata", moment.number("stats/metadata_bytes"), "index, allocators' records, codecs' states"),
        ("in all", moment.number("stats/used_bytes"), ""),
        ("limit", moment.number("stats/limit_bytes"), ""),
    ]
    limit = moment.number("stats/limit_bytes")
    return table(
        ("", "bytes>", "of the limit>", ""),
        [(name, _size(value), _share(value, limit), more) for name, value, more in rows],
    )


def _pool_bars(moment: Moment, pool: Counters, before: Facts | None) -> Iterator[Bar]:
    size = moment.number("page_size")
    yield Bar(f"{pool.pool}: pages", [("uncompressed", pool.held * size / _MIB, GONE)])
    if before and f"pools/{pool.pool}/stats/frames" in before.moment.values:
        yield Bar(f"{pool.pool}: took before", _taken(before.moment, Counters(before.moment.values, pool.pool)))
    yield Bar(f"{pool.pool}: takes", _taken(moment, pool))


def _taken(moment: Moment, pool: Counters) -> list[tuple[str, float, str]]:
    size = moment.number("page_size")
    return [
        ("warm frames", pool.warm_frames * size / _MIB, WARM),
        ("cold frames", pool["cold_frames"] * size / _MIB, COLD),
        ("metadata", pool["metadata_bytes"] / _MIB, OTHER),
    ]


def _pool_table(moment: Moment, pools: Sequence[Counters]) -> Raw:
    columns = (
        "pool",
        "kind",
        "allocator",
        "codec",
        "pages>",
        "warm frames>",
        "cold frames>",
        "written back>",
        "used>",
        "ratio>",
    )
    rows = []
    for pool in pools:
        texts = (moment.values.get(f"pools/{pool.pool}/{name}", "") for name in ("kind", "allocator", "codec"))
        held, used = pool.held * moment.number("page_size"), pool["used_bytes"]
        ratio = f"{held / used:.2f}" if used and held else "-"
        frames = (f"{pool.warm_frames:,}", f"{pool['cold_frames']:,}", f"{pool['written_pages']:,}")
        rows.append((pool.pool, *texts, f"{pool.held:,}", *frames, _size(used), ratio))
    return table(columns, rows)


# ---- refusals ----


def _refusals(material: Material) -> Iterator[Section]:
    now = material.now
    if not now or not now.moment.is_up:
        return
    sides = {side: facts.moment for side, facts in (("before", material.before), ("now", now)) if facts}
    counts = {side: [float(_sum(moment, reason)) for reason in REFUSALS] for side, moment in sides.items()}
    shown = [number for number in range(len(REFUSALS)) if any(values[number] for values in counts.values())]
    puts = _sum(now.moment, "puts")
    said = paragraph(f"Of {puts:,} puts, {sum(counts['now']):,.0f} were refused ({_share(sum(counts['now']), puts)}).")
    if not shown:
        yield "refusals", "Refused puts", [said]
        return
    reasons = [REFUSALS[number] for number in shown]
    picked = {side: [values[number] for number in shown] for side, values in counts.items()}
    plot = Raw(plots.beside("refusals", "Refused puts by reason", reasons, picked, "puts"))
    about = {node.path: node.meaning.removeprefix("refused: ") for node in now.descriptions}
    rows = [(_code(reason), about.get(f"pools/NAME/stats/{reason}", "")) for reason in reasons]
    yield "refusals", "Refused puts", [said, plot, table(("reason", "meaning"), rows)]


# ---- histograms ----


def _histograms(material: Material) -> Iterator[Section]:
    now = material.now
    shown = {
        pool: (counts, _before_histogram(material, pool))
        for pool, counts in (now.moment.histograms.items() if now else ())
        if any(count for _, count in counts)
    }
    if not now or not shown:
        return
    most = sorted(shown, key=lambda pool: -sum(count for _, count in shown[pool][0]))[:_ROWS]
    plot = plots.histograms(
        "sizes",
        "Zpages of each pool by size",
        {pool: shown[pool] for pool in most},
        int(now.moment.number("page_size")),
    )
    yield "sizes", "Zpages by size", [Raw(plot)]


def _before_histogram(material: Material, pool: str) -> plots.Counts | None:
    counts = material.before.moment.histograms.get(pool, ()) if material.before else ()
    return counts if any(count for _, count in counts) else None


# ---- time ----


def _series(material: Material) -> Iterator[Section]:
    series = material.series
    if not series or len(series.samples) < 2:
        return
    charts = list(_charts(series))
    if not charts:
        return
    unit = "seconds" if series.has_times else "number of the sample"
    seconds = series.seconds
    said = f"{len(seconds)} samples" + (f" in {seconds[-1]:.0f} s." if series.has_times else ", of unknown times.")
    plot = Raw(plots.over_time("time", "Memory and rates over time", charts, seconds, unit))
    yield "time", "Over time", [paragraph(said), plot]


def _charts(series: Series) -> Iterator[Chart]:
    samples = series.samples
    sizes = [(name, f"stats/{name}_bytes") for name in ("used", "metadata")]
    memory = [Line(name, [_scaled(sample, path) for sample in samples]) for name, path in sizes]
    if any(value is not None for line in memory for value in line.values):
        yield Chart("memory, MiB", memory)
    groups: list[tuple[str, list[tuple[str, Sequence[str]]], float]] = [
        ("operations a second", [("puts", ("puts",)), ("gets", ("gets",)), ("flushes", ("flush_total",))], 1),
        ("refused and evicted a second", [("refused", REFUSALS), ("evicted", ("reclaimed_zpages",))], 1),
        ("written back, MiB a second", [("written", WEAR)], _MIB),
    ]
    for title, lines, scale in groups:
        shown = [Line(name, _grown(series, counters, scale)) for name, counters in lines]
        if any(value for line in shown for value in line.values):
            yield Chart(title, shown)
    pressure = [
        Line(f"{resource}, {kind}", [_number(sample, f"pressure/{resource}/{kind}") for sample in samples])
        for resource, kind in (("memory", "some"), ("memory", "full"), ("io", "some"), ("cpu", "some"))
    ]
    if any(value is not None for line in pressure for value in line.values):
        yield Chart("waiting for (PSI), % of 10 s", pressure)


def _number(sample: Sampled, path: str) -> float | None:
    value = sample.get(path)
    return float(value) if is_number(value) else None


def _scaled(sample: Sampled, path: str) -> float | None:
    value = _number(sample, path)
    return None if value is None else value / _MIB


def _grown(series: Series, counters: Sequence[str], scale: float) -> list[float | None]:
    """A second, over all pools; of counters that began anew, nothing. Without times, from one sample to the next."""
    seconds = series.seconds
    totals = [_total(sample, counters) for sample in series.samples]
    grown: list[float | None] = [None]
    for at in range(1, len(totals)):
        passed, more = seconds[at] - seconds[at - 1], totals[at] - totals[at - 1]
        grown.append(more / passed / scale if passed > 0 and more >= 0 else None)
    return grown


def _total(sample: Sampled, counters: Sequence[str]) -> float:
    return sum(
        float(value)
        for path, value in sample.items()
        if path.startswith("pools/") and path.rpartition("/stats/")[2] in counters and is_number(value)
    )


# ---- documents ----


def _analyses(material: Material) -> Iterator[Section]:
    for number, analysis in enumerate(material.analyses):
        several = len(material.analyses) > 1
        when = ("before", "now")[number] if several else ""
        total = analysis["total"]
        said = (
            f"{total['sampled']:,} of {total['pages']:,} pages ({analysis['kind']}) were compressed on the device."
            f" Same-filled: {_estimate(total['same_filled'], total['pages'])};"
            f" duplicates, at least: {_estimate(total['duplicates'], total['pages'])}."
        )
        parts = [paragraph(said), _codec_table(analysis), _predicted(analysis, number), _codec_sizes(analysis, number)]
        parts.append(details("Processes", _process_table(analysis)))
        yield f"pages{number}", "Pages of the device" + (f", {when}" if when else ""), parts


_ALLOCATORS = ("zbud", "zsmalloc", "zram")


def _estimate(estimate: Mapping[str, float] | None, whole: int) -> str:
    if not estimate or not whole:
        return "-"
    return f"{100 * estimate['value'] / whole:.1f} ± {100 * estimate['error'] / whole:.1f} %"


def _codec_table(analysis: Analysis) -> Raw:
    rows = []
    for codec in analysis["total"]["codecs"]:
        used = (f"{_size(codec[name]['used_bytes'])} ± {_size(codec[name]['error'])}" for name in _ALLOCATORS)
        rows.append((codec["spec"], *(_plain(codec[name]) for name in ("ratio", "put_us", "get_us")), *used))
    return table(("codec", "ratio>", "put µs>", "get µs>", *(f"{name}>" for name in _ALLOCATORS)), rows)


def _plain(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, int | float) else "-"


def _predicted(analysis: Analysis, number: int) -> Raw:
    rows = {
        codec["spec"]: {name: (codec[name]["used_bytes"] / _MIB, codec[name]["error"] / _MIB) for name in _ALLOCATORS}
        for codec in analysis["total"]["codecs"]
    }
    return Raw(plots.predicted(f"predicted{number}", "Memory that all pages would take, by codec and allocator", rows))


def _codec_sizes(analysis: Analysis, number: int) -> Raw:
    shown = {codec["spec"]: (codec["histogram"], None) for codec in analysis["total"]["codecs"]}
    return Raw(
        plots.histograms(f"codecs{number}", "Sampled zpages of each codec by size", shown, analysis["page_size"])
    )


def _process_table(analysis: Analysis) -> Raw:
    seen = sorted((each for each in analysis["processes"] if each["sampled"]), key=lambda each: -each["pages"])
    codecs = [f"{codec['spec']}>" for codec in analysis["total"]["codecs"]]
    rows = []
    for each in seen[:_ROWS]:
        sizes = (_size(each["anonymous_bytes"]), _size(each["swapped_bytes"]), each["sampled"])
        ratios = [_plain(codec["ratio"]) for codec in each["codecs"]] + ["-"] * len(codecs)
        rows.append((each["name"], each["pid"], *sizes, *ratios[: len(codecs)]))
    shown = table(("process", "pid>", "resident>", "in swap>", "sampled>", *codecs), rows)
    left = len(seen) - len(rows)
    return join([shown, paragraph(f"and {left} more", "soft")]) if left else shown


def _frontier(material: Material) -> Iterator[Section]:
    frontier = material.frontier
    if not frontier or not frontier.points:
        return
    parts = [paragraph(line) for line in _frontier_says(frontier)]
    parts.append(Raw(plots.frontier("frontier", "Memory against CPU of each setting", frontier)))
    rows = []
    for number, point in enumerate(frontier.points, 1):
        costs = (
            _with_error(point.memory_bytes, _MIB),
            _with_error(point.cpu_us_per_page),
            _with_error(point.flash_bytes, _MIB),
        )
        rows.append((number, _code(point.label), *costs, "recommended" if point.recommended else ""))
    chosen = next((number for number, point in enumerate(frontier.points) if point.recommended), None)
    parts.append(table((">", "settings", "memory, MiB>", "CPU, µs a page>", "flash, MiB>", ""), rows, chosen))
    yield "frontier", "What each setting costs", parts


def _frontier_says(frontier: Frontier) -> Iterator[str]:
    if frontier.goal:
        yield f"Goal: {frontier.goal}."
    if frontier.measured_on:
        yield f"Measured on: {frontier.measured_on}."
    if frontier.why:
        yield frontier.why


def _with_error(estimate: Estimate, scale: float = 1) -> str:
    error = f" ± {estimate.error / scale:,.2f}" if estimate.error else ""
    return f"{estimate.value / scale:,.2f}{error}"


# ---- the device ----


def _kernel(material: Material) -> Iterator[Section]:
    kernel = material.now.moment.kernel if material.now else None
    if kernel is None:
        return
    parts = [_kernel_memory(kernel)]
    meanings = {each.name: each for each in (*ZRAM_FIELDS, *ZSWAP_FIELDS)}
    for name, facts in [*kernel.zram.items(), *([("zswap", kernel.zswap)] if kernel.zswap else [])]:
        rows = []
        for field, value in facts.items():
            about = meanings.get(field)
            shown = _size(float(value)) if about and about.unit == "bytes" and not isinstance(value, str) else value
            rows.append((_code(field), shown, about.meaning if about else ""))
        parts.append(details(name, table(("", "value>", "meaning"), rows)))
    parts += [paragraph(note, "soft") for note in kernel.notes]
    yield "kernel", "The kernel's memory, zram and zswap", parts


def _kernel_memory(kernel: Kernel) -> Raw:
    rows: list[tuple[Cell, Cell]] = [(each.name, _size(amount(kernel.memory, each.name))) for each in MEMORY_FIELDS]
    rows += [
        (f"PSI {resource}", f"some {each.some_avg10:.2f} %, full {each.full_avg10:.2f} % of the last 10 s")
        for resource, each in kernel.pressure.items()
    ]
    return table(("", ">"), rows)


def _device(material: Material) -> Iterator[Section]:
    doctor = material.now.doctor if material.now else {}
    device: Mapping[str, Any] = doctor.get("device") or {}
    if not device:
        return
    rows = [(name.replace("_", " "), _fact(name, value)) for name, value in device.items()]
    uses = [
        (use["name"], "yes" if use["allowed"] else "no", use["why"], use["change"]) for use in doctor.get("uses") or ()
    ]
    shown = table(("use", "works", "why not", "what would change that"), uses)
    yield "device", "The device", [table(("", ""), rows), tag("h3", "What it allows"), shown]


def _fact(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(str(each) for each in value) or "none"
    if value in (None, ""):
        return "-"
    if isinstance(value, int) and name in ("mem_total", "mem_available", "cgroup_limit", "page_size"):
        return _size(value)
    return str(value)


def _settings(material: Material) -> Iterator[Section]:
    now = material.now
    if not now or not now.moment.is_up:
        return
    rows = [(_code(path), _setting(value, unit), unit, *more) for path, value, unit, *more in _settings_of(now)]
    yield "settings", "Settings", [table(("setting", "value>", "unit", "default", "meaning"), rows)]


def _setting(value: Cell, unit: Cell) -> str:
    """Large numbers of bytes for people, too."""
    if not isinstance(value, int) or not str(unit).startswith("bytes") or value < 1024 * 1024:
        return str(value)
    return f"{value} = {size_text(value)}"


def _settings_of(facts: Facts) -> Iterator[tuple[Cell, ...]]:
    about = {node.path: node for node in facts.descriptions}
    for path, value in facts.moment.values.items():
        if "params" not in path.split("/")[:-1]:
            continue
        node = about.get(_template(path), Description(path, "", "", "", "", "", ""))
        yield path, value, node.unit, node.default, node.meaning


def _template(path: str) -> str:
    words = path.split("/")
    return "/".join(("pools", "NAME", *words[2:])) if words[0] == "pools" and len(words) > 2 else path


def _statistics(material: Material) -> Iterator[Section]:
    now = material.now
    if not now or not now.moment.is_up:
        return
    about = {node.path: node.meaning for node in now.descriptions}
    groups: dict[str, list[tuple[Cell, ...]]] = {}
    for path, value in now.moment.values.items():
        words = path.split("/")
        if "stats" in words[:-1]:
            group = f"pool {words[1]}" if words[0] == "pools" else "the store"
            groups.setdefault(group, []).append((_code(words[-1]), _count(value), about.get(_template(path), "")))
    shown = [details(group, table(("counter", "value>", "meaning"), rows)) for group, rows in groups.items()]
    yield "statistics", "Statistics", shown


def _count(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def _code(value: Cell) -> Raw:
    return tag("code", value)


_SECTIONS: Sequence[Callable[[Material], Iterator[Section]]] = (
    _compared,
    _memory,
    _refusals,
    _histograms,
    _series,
    _analyses,
    _frontier,
    _kernel,
    _device,
    _settings,
    _statistics,
)
