# SPDX-License-Identifier: Apache-2.0
"""tune: from a device, or what was sampled of one, to settings for it."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.text import Text

from .. import deploy, device
from ..analyze import Options
from ..daemon import Daemon
from ..errors import DaemonAbsent, Usage
from ..files import write_whole
from ..kinds import Size
from ..tune import kernel
from ..tune.advice import Advice, advise, unmeasured_defaults
from ..tune.config import write_config
from ..tune.goals import GOALS
from ..tune.measured import Measured, load_saved, measure_device, measure_file, measure_flash
from ..tune.models import Candidate, Conditions, Setting, pool_candidates, zram_candidates, zswap_candidates
from ..tune.search import Point, Result, Spread, as_json, explain, search
from .fleet import View, each_device
from .output import Step, make_table, size_text
from .session import Session

_PAGES = 4000
_LIMIT = Size(unit="bytes, not 0", low=1)


def _summary(facts: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    best, base, gain = facts["recommended"], facts["defaults"], facts["gain"]
    yield (
        size_text(facts["pages"] * facts["page_size"]),
        "the defaults" if facts["keeps_defaults"] else " ".join(f"{k}={v}" for k, v in best["settings"].items()),
        size_text(best["memory_bytes"]["value"]),
        size_text(base["memory_bytes"]["value"]),
        f"{best['time_us_per_page']['value']:.1f}",
        f"{base['time_us_per_page']['value']:.1f}",
        f"{100 * gain['value']:.0f} % ±{100 * gain['error']:.0f}",
    )


_SUMMARY = View(("of>", "settings", "takes>", "by default>", "µs a page>", "by default>", "better by>"), _summary)


@click.command("tune")
@click.argument("source", metavar="[SOURCE]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--goal", type=click.Choice(list(GOALS)), default="balanced", show_default=True, help="What is to be least."
)
@click.option(
    "--for",
    "target",
    type=click.Choice(["pool", "zram", "zswap"]),
    default="pool",
    show_default=True,
    help="zcache's pools, or the kernel's own.",
)
@click.option(
    "--pid", "pids", type=click.IntRange(min=1), metavar="N", multiple=True, help="A process; again for each."
)
@click.option("--app", metavar="NAME", help="An app's processes, e.g. com.example; without root through run-as.")
@click.option("--files", is_flag=True, help="Mapped pages of files instead of anonymous ones.")
@click.option("--swapped", is_flag=True, help="Pages in swap instead: at most 1000, brought back into memory.")
@click.option("--limit", metavar="SIZE", help="Memory that they may take, e.g. 64M; else the store's limit.")
@click.option(
    "--flash-mb-s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="There is flash for pages, as fast as this.",
)
@click.option("--scratch", metavar="DIR", help="There is flash for pages: measure it in this directory of the device.")
@click.option(
    "--cold",
    type=click.IntRange(0, 100),
    default=0,
    metavar="P",
    help="P % of the pages idle: weigh compressing them again, too.",
)
@click.option("--codec", "codecs", multiple=True, metavar="SPEC", help="Weigh these beside lz4; again for each.")
@click.option("--pages", type=click.IntRange(1, 262144), default=_PAGES, metavar="N", help="Sample so many (4000).")
@click.option("--seconds", type=click.IntRange(4, 3600), default=20, metavar="S", help="Sample for so long (20).")
@click.option("--cpu", type=click.IntRange(1, 100), default=50, metavar="P", help="By P % of one processor (50).")
@click.option("--page-size", type=click.IntRange(min=1), metavar="N", help="In bytes, of a SOURCE; else 4096.")
@click.option("--seed", type=int, default=0, metavar="N", help="Of the samples that stand for chance (0).")
@click.option("--pool", default="swap", show_default=True, metavar="NAME", help="What --save calls the pool.")
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write a config there.")
@click.option(
    "--save-facts",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the frontier there, for zcache report.",
)
@each_device(_SUMMARY, alone=("source",), writes=("save", "save_facts"))
def tune(
    session: Session,
    /,
    source: Path | None,
    goal: str,
    target: str,
    pids: tuple[int, ...],
    app: str | None,
    limit: str | None,
    flash_mb_s: float | None,
    scratch: str | None,
    cold: int,
    page_size: int | None,
    pool: str,
    seed: int,
    save: Path | None,
    save_facts: Path | None,
    **settings: Any,  # noqa: ANN401 (those of Options)
) -> None:
    """Measure real pages, try settings on them, and recommend some.

    Starts zcached on the device if none runs, samples the memory of its processes there, predicts for each choice of
    settings what it would take in memory, processor time and flash, and says which fits the goal and what it is better
    by than the defaults. SOURCE is a page dump, a tar, or what zcache analyze --save wrote instead.

    \b
    density   least memory
    speed     least time a page, waits for flash included
    flash     least written to flash
    balanced  least mean of memory and time
    """
    if limit and target != "pool":
        raise Usage(
            f"--limit {limit}: it is of zcache's pools; what {target} may take is searched", hint="leave it out"
        )
    if page_size and not source:
        raise Usage(f"--page-size {page_size}: a device has its own", hint="it is for a SOURCE; else leave it out")
    _check(source, goal, pids, app, flash_mb_s, scratch, settings)
    started = time.monotonic()
    options = Options(page_size=page_size or 4096, pids=tuple(dict.fromkeys(pids)), app=app, **settings)
    conditions = Conditions(
        flash_mb_s, _LIMIT.of_option("--limit", limit) if limit else None, limit is not None, cold / 100
    )
    there = kernel.Kernel(recompresses=True)
    with session.output.progress("tuning") as step:
        if source:
            measured = _of_file(source, options, cold=cold > 0, step=step)
        else:
            there = kernel.look(session.transport)
            kernel.require(there, target, session.transport.serial)
            measured, conditions = _of_device(session, options, conditions, scratch, step)
        if target == "pool" and cold and not measured.extents:
            session.output.note("no runs of adjacent pages could be measured: the cold tier is left out")
        if target != "pool":
            conditions = replace(conditions, limit=None)
        step(0.9, "searching")
        result = search(_candidates(target, measured, conditions, there), measured, conditions, GOALS[goal], seed)
    advice = advise(result, target, there)
    remark = unmeasured_defaults(result, target, there)
    facts = as_json(
        result,
        {
            "for": target,
            "config": advice.settings,
            "reasons": [*advice.reasons, *([remark] if remark else [])],
            "seconds": round(time.monotonic() - started, 1),
        },
    )
    if save:
        write_config(save, advice.settings, pool, _said(facts))
    if save_facts:
        write_whole(save_facts, json.dumps(facts) + "\n", "--save-facts")
    if session.as_json:
        session.output.document(facts)
    else:
        session.output.console.print(render(result, advice, facts))


def _check(
    source: Path | None,
    goal: str,
    pids: tuple[int, ...],
    app: str | None,
    flash_mb_s: float | None,
    scratch: str | None,
    settings: dict[str, Any],
) -> None:
    if (source is not None) + bool(pids) + (app is not None) > 1:
        raise Usage("tune takes --pid N, --app NAME or a SOURCE, not two of them", hint="zcache tune --help")
    if settings["files"] + settings["swapped"] + (source is not None) > 1:
        raise Usage("tune takes --files, --swapped or a SOURCE, not two of them", hint="zcache tune --help")
    if flash_mb_s and scratch:
        raise Usage("--flash-mb-s and --scratch both say how fast flash is", hint="give one of them")
    if scratch and source:
        raise Usage(f"--scratch {scratch}: there is no device to measure it on", hint="say --flash-mb-s N instead")
    if goal == "flash" and not flash_mb_s and not scratch:
        raise Usage(
            "--goal flash: nothing is written to flash where there is no backing store",
            hint="say how fast it is, --flash-mb-s N, or where to measure it, --scratch DIR",
        )


def _of_file(source: Path, options: Options, *, cold: bool, step: Step) -> Measured:
    if saved := load_saved(source):
        return saved
    return replace(measure_file(source, options, cold=cold, progress=step), on=f"{source}, on this machine")


def _of_device(
    session: Session, options: Options, conditions: Conditions, scratch: str | None, step: Step
) -> tuple[Measured, Conditions]:
    daemon = _daemon(session, step)
    page_size = int(daemon.state["page_size"])
    measured = measure_device(daemon, replace(options, page_size=page_size), cold=conditions.cold > 0, progress=step)
    facts = device.look(session.transport)
    with daemon.control() as control:
        limit = int(control.get("params/limit"))
    rate = conditions.flash_mb_s
    if scratch:
        step(0.85, "measuring flash")
        rate = measure_flash(daemon, scratch)
    model = facts.model or facts.machine
    measured = replace(measured, on=f"{facts.serial}: {model}, Linux {facts.kernel}")
    return measured, replace(conditions, flash_mb_s=rate, limit=conditions.limit or limit, mem_total=facts.mem_total)


def _daemon(session: Session, step: Step) -> Daemon:
    """The one that runs, or a new one, which stays."""
    with suppress(DaemonAbsent):
        return session.daemon
    daemon = deploy.up(session.transport, deploy.Options(), step).daemon
    session.output.note(f"started zcached on {session.transport.serial}; zcache down ends and removes it")
    return daemon


def _candidates(target: str, measured: Measured, conditions: Conditions, there: kernel.Kernel) -> Iterator[Candidate]:
    if target == "pool":
        return pool_candidates(measured, conditions)
    if target == "zram":
        return zram_candidates(measured, conditions, there)
    return zswap_candidates(measured, conditions, there)


def _said(facts: dict[str, Any]) -> dict[str, Setting]:
    """Of the facts, what a config tells its reader."""
    names = ("goal", "why", "measured_on", "sampled", "pages")
    return {name: facts[name] for name in names} | {"gain_percent": round(100 * facts["gain"]["value"])}


# ---- for people ----


def render(result: Result, advice: Advice, facts: dict[str, Any]) -> RenderableType:
    head = (
        f"measured on {facts['measured_on']}: {facts['sampled']} of {facts['pages']} pages,"
        f" {size_text(round(result.scene.all_bytes))} in all; {facts['candidates']} settings, {facts['seconds']:.0f} s"
    )
    flash = f"flash {facts['flash_mb_s']:g} MB/s, " if facts["flash_mb_s"] else ""
    limit = f"limit {size_text(facts['limit'])}, " if facts["limit"] and facts["limit"] < result.scene.all_bytes else ""
    goal = f"{flash}{limit}goal {result.goal.name}: {result.goal.says}; {result.goal.bounds}"
    settings = [
        f"  {section}: " + " ".join(f"{name}={value}" for name, value in values.items())
        for section, values in advice.settings.items()
    ]
    lines = [explain(result), *settings, "", *facts["reasons"], *(f"note: {note}" for note in facts["notes"])]
    return Group(Text(head), Text(goal), Text(), _table(result), Text(), Text("\n".join(lines).rstrip()))


def _table(result: Result) -> RenderableType:
    """From the least memory on; what each MiB saved costs, against the defaults."""
    points = list(result.frontier)
    if not any(point is result.defaults for point in points):
        points.append(result.defaults)
    names = _differing(points)

    def rows() -> Iterator[tuple[str, ...]]:
        for point in points:
            mark = {id(result.defaults): "defaults"} | {id(result.recommended): "→"}
            yield (
                mark.get(id(point), ""),
                *(str(point.settings.get(name, "-")) for name in names),
                _bytes(point.spread(lambda cost: cost.memory)),
                _number(point.spread(lambda cost: cost.cpu)),
                _bytes(point.spread(lambda cost: cost.flash)),
                _price(point, result),
            )

    return make_table(("", *names, "memory>", "µs a page>", "to flash>", "a MiB saved costs>"), rows())


def _differing(points: list[Point]) -> list[str]:
    names = dict.fromkeys(name for point in points for name in point.settings)
    return [name for name in names if len({str(point.settings.get(name)) for point in points}) > 1]


def _bytes(of: Spread) -> str:
    return f"{size_text(round(of.value))} ±{size_text(round(of.error))}" if of.value else "-"


def _number(of: Spread) -> str:
    return f"{of.value:.1f} ±{of.error:.1f}"


def _price(point: Point, result: Result) -> str:
    """Milliseconds of a processor, and flash, by which a MiB less than the defaults take is paid."""
    base = result.defaults
    saved = (base.cost.memory - point.cost.memory) / (1 << 20)
    if point is base or saved < 0.05:
        return "-"
    pages = result.scene.all_bytes / result.scene.page_size
    cpu = (point.cost.cpu - base.cost.cpu) * pages / 1000 / saved
    flash = (point.cost.flash - base.cost.flash) / saved
    return f"{cpu:+.2f} ms" + (f", {'+' if flash > 0 else '-'}{size_text(abs(round(flash)))}" if round(flash) else "")
