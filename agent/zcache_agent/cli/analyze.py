# SPDX-License-Identifier: Apache-2.0
"""analyze: what compression would make of the memory of processes, an app, a device or a file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.text import Text

from ..analyze import UNREADABLE, Options, Sample, analyze, parse_threshold, raw, sample_device, sample_file
from ..errors import Usage
from ..files import write_whole
from ..predict import Thresholds
from . import charts
from .fleet import View, each_device
from .output import make_table, size_text
from .session import Session

_BAR = 24
_KINDS = {
    "anonymous": "resident anonymous pages",
    "swapped": "pages in swap",
    "file": "mapped pages of files",
    "dump": "pages",
}


def _summary(facts: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    total = facts["total"]
    ratios = ", ".join(f"{codec['spec']} {_number(codec['ratio'], 2)}" for codec in total["codecs"])
    codec, name = _best(facts)
    yield (
        size_text(total["pages"] * facts["page_size"]),
        f"{total['sampled']} of {total['pages']}",
        charts.share(total["same_filled"]["value"], total["pages"]),
        charts.share(total["duplicates"]["value"], total["pages"]),
        ratios,
        f"{name} {codec['spec']}",
        size_text(max(0, codec[name]["saved_bytes"])),
    )


_SUMMARY = View(("memory>", "sampled>", "same-filled>", "duplicates>", "ratio", "best", "saves>"), _summary)


@click.command("analyze")
@click.argument("source", metavar="[SOURCE]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--pid", "pids", type=click.IntRange(min=1), metavar="N", multiple=True, help="A process; again for each."
)
@click.option("--app", metavar="NAME", help="An app's processes, e.g. com.example; without root through run-as.")
@click.option("--files", is_flag=True, help="Mapped pages of files, which cannot be written to, instead.")
@click.option("--swapped", is_flag=True, help="Pages in swap instead: at most 1000, brought back into memory.")
@click.option("--pages", type=click.IntRange(1, 262144), metavar="N", help="Sample at most so many (20000).")
@click.option("--seconds", type=click.IntRange(1, 3600), default=20, help="For so long at most (20).")
@click.option("--cpu", type=click.IntRange(1, 100), default=50, metavar="P", help="By P % of one processor (50).")
@click.option("--codec", "codecs", multiple=True, metavar="SPEC", help="E.g. lz4:4; again for each (lz4 and zstd:3).")
@click.option("--zv-max-zsize", "max_zsize", metavar="SIZE", default="7/8", help="As of a pool (7/8).")
@click.option("--zv-max-mean-zsize", "max_mean_zsize", metavar="SIZE", default="5/8", help="As of a pool (5/8).")
@click.option(
    "--page-size", type=click.IntRange(min=1), metavar="N", help="In bytes; else the daemon's, of a file 4096."
)
@click.option("--top", type=click.IntRange(min=0), default=10, metavar="N", help="Show so many processes (10).")
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the facts there.")
@each_device(_SUMMARY, alone=("source",), writes=("save",))
def analyze_(
    session: Session,
    /,
    source: Path | None,
    pids: tuple[int, ...],
    app: str | None,
    max_zsize: str,
    max_mean_zsize: str,
    page_size: int | None,
    top: int,
    save: Path | None,
    **settings: Any,  # noqa: ANN401 (those of Options)
) -> None:
    """Sample memory on the device, and say what each codec and allocator would make of it.

    A fair sample of the pages of all processes that may be read is compressed there by each codec; only sizes and
    times leave the device. From them: same-filled, duplicate and incompressible pages, and what zcache's allocators and
    the kernel's zram would take for all of them. SOURCE is a raw page dump or a tar of files on this machine instead.
    """
    if (source is not None) + bool(pids) + (app is not None) > 1:
        raise Usage("analyze takes --pid N, --app NAME or a SOURCE, not two of them", hint="zcache analyze --help")
    if settings["files"] + settings["swapped"] + (source is not None) > 1:
        raise Usage("analyze takes --files, --swapped or a SOURCE, not two of them", hint="zcache analyze --help")
    page_size = page_size or (4096 if source else int(session.daemon.state["page_size"]))
    thresholds = Thresholds(parse_threshold(max_zsize, page_size), parse_threshold(max_mean_zsize, page_size))
    options = Options(page_size=page_size, pids=tuple(dict.fromkeys(pids)), app=app, **settings)
    if source:
        sample = Sample(sample_file(source, options))
    else:
        session.output.note(f"sampling on {session.transport.serial}, for at most {options.seconds} s")
        sample = Sample(sample_device(session.daemon, options))
    facts = analyze(sample, thresholds)
    if save:
        write_whole(save, json.dumps(facts | {"sample": raw(sample)}) + "\n", "--save")
    if session.as_json:
        session.output.document(facts)
    else:
        session.output.console.print(render(facts, top))


# ---- for people ----


def render(facts: dict[str, Any], top: int) -> RenderableType:
    parts: list[RenderableType] = [Text("\n".join(_head(facts))), Text(), _kinds(facts), Text(), _codecs(facts), Text()]
    parts.append(Text("\n".join(_notes(facts))))
    shown = [process for process in facts["processes"] if process["sampled"]]
    if facts["kind"] != "dump" and shown and top:
        parts += [Text(), _processes(shown, top)]
        if len(shown) > top:
            parts.append(Text(f"and {len(shown) - top} more: --top {len(shown)} shows them"))
    return Group(*parts, Text(), _histograms(facts))


def _head(facts: dict[str, Any]) -> Iterator[str]:
    total = facts["total"]
    size = size_text(total["pages"] * facts["page_size"])
    whose = ""
    if facts["kind"] != "dump":
        read = sum(1 for process in facts["processes"] if process["sampled"])
        whose = f" of {read} process{'es' * (read != 1)}"
    yield f"{total['sampled']} of {total['pages']} {_KINDS[facts['kind']]}{whose}, {size} in all"
    yield (
        f"sampled by chance in {facts['seconds']:.1f} s, {facts['cpu_seconds']:.1f} s of a processor;"
        f" the sampler took {size_text(facts['peak_bytes'])} of memory"
    )
    if total["swapped_bytes"] and facts["kind"] == "anonymous":
        held = total["anonymous_bytes"] + total["swapped_bytes"]
        yield (
            f"{size_text(total['swapped_bytes'])} of these processes, {charts.share(total['swapped_bytes'], held)},"
            " are in swap and were not seen: --swapped"
        )
    unread = [process for process in facts["processes"] if process["error"] in UNREADABLE]
    if unread:
        resident = size_text(sum(process["anonymous_bytes"] for process in unread))
        yield f"{len(unread)} of {len(facts['processes'])} processes may not be read, {resident} resident: root may"
    late = sum(process["error"] == "ETIME" for process in facts["processes"])
    if late or facts["left_out"]:
        yield "not all of the processes were reached: --seconds and --cpu allow more"
    if facts["short_of_memory"]:
        yield "it ended early, for the device is short of memory"


def _estimate(estimate: dict[str, float], whole: int) -> str:
    """In percent, with the standard error."""
    value, error = (100 * estimate[key] / max(1, whole) for key in ("value", "error"))
    return f"{value:.1f} % ±{error:.1f}"


def _kinds(facts: dict[str, Any]) -> RenderableType:
    total = facts["total"]
    all_seen = total["sampled"] == total["pages"]
    table = charts.plain_table("<", ">", "<", "<")
    rows = [
        ("same-filled", total["same_filled"], "green", "kept as one word, in no frame"),
        (
            "duplicates",
            total["duplicates"],
            "magenta",
            "of another page" if all_seen else "of another sampled page, so at least",
        ),
    ]
    for name, estimate, style, meaning in rows:
        part = estimate["value"] / max(1, total["pages"])
        table.add_row(name, _estimate(estimate, total["pages"]), charts.bar(part, _BAR, style), meaning)
    return table


def _codecs(facts: dict[str, Any]) -> RenderableType:
    total = facts["total"]

    def rows() -> Iterator[tuple[str, ...]]:
        for codec in total["codecs"]:
            refused = sum(codec["zsmalloc"]["refused"].values())
            yield (
                codec["spec"],
                _number(codec["ratio"], 2),
                _number(codec["put_us"], 1),
                _number(codec["get_us"], 1),
                charts.share(codec["incompressible"], total["sampled"]),
                charts.share(refused, total["pages"]),
                *(_used(codec[name]) for name in ("zbud", "zsmalloc", "zram")),
            )

    return make_table(
        ("codec", "ratio>", "put µs>", "get µs>", "over 7/8>", "refused>", "zbud>", "zsmalloc>", "zram>"), rows()
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _used(prediction: dict[str, Any]) -> str:
    used, error = prediction["used_bytes"], prediction["error"]
    return f"{size_text(used)} ±{100 * error / used:.1f} %" if used else "0 bytes"


def _notes(facts: dict[str, Any]) -> Iterator[str]:
    limits = facts["thresholds"]
    yield (
        f"refused by zv_max_zsize {limits['zv_max_zsize']} and zv_max_mean_zsize {limits['zv_max_mean_zsize']}:"
        " they stay where they are; zram refuses none"
    )
    codec, name = _best(facts)
    saved = size_text(max(0, codec[name]["saved_bytes"]))
    yield f"most is saved by {name} with {codec['spec']}: {saved} if all of them were stored"


def _best(facts: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The codec and the allocator by which most is saved."""
    return max(
        ((codec, name) for codec in facts["total"]["codecs"] for name in ("zbud", "zsmalloc", "zram")),
        key=lambda one: int(one[0][one[1]]["saved_bytes"]),
    )


def _processes(processes: list[dict[str, Any]], top: int) -> RenderableType:
    """Those of which most is saved, in zsmalloc by the codec that saves most."""

    def saved(process: dict[str, Any]) -> int:
        return max(int(codec["zsmalloc"]["saved_bytes"]) for codec in process["codecs"])

    specs = [codec["spec"] for codec in processes[0]["codecs"]]
    columns = ("process", "pid>", "resident>", "in swap>", "sampled>", "same-filled>", "duplicates>")

    def rows() -> Iterator[tuple[str, ...]]:
        for process in sorted(processes, key=saved, reverse=True)[:top]:
            pages = process["pages"]
            yield (
                process["name"].rpartition("/")[2] or process["name"],
                str(process["pid"]),
                size_text(process["anonymous_bytes"]),
                size_text(process["swapped_bytes"]) if process["swapped_bytes"] else "-",
                str(process["sampled"]),
                charts.share(process["same_filled"]["value"], pages),
                charts.share(process["duplicates"]["value"], pages),
                *(_number(codec["ratio"], 2) for codec in process["codecs"]),
                size_text(max(0, saved(process))),
            )

    return make_table((*columns, *(f"{spec}>" for spec in specs), "saved>"), rows())


def _histograms(facts: dict[str, Any]) -> RenderableType:
    """Zpages of the sample by size, one column of bars a codec."""
    tables = charts.plain_table(*["<"] * len(facts["total"]["codecs"]))
    codecs = facts["total"]["codecs"]
    tables.add_row(*(Text(codec["spec"], style="bold") for codec in codecs))
    tables.add_row(*(charts.histogram(codec["histogram"], _BAR) for codec in codecs))
    return tables
