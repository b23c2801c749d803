# SPDX-License-Identifier: Apache-2.0
"""report: one HTML file of all that a bug or a review needs to show."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from ..doctor import examine
from ..errors import Usage
from ..files import write_whole
from ..frontier import Frontier
from ..gather import Gatherer, Moment
from ..report import Document, Facts, Material, Series, load
from ..transport import open_transport
from .output import Step
from .session import Session, pass_session

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_MOST_SAMPLES = 100_000


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|min|h)?", str(value))
        seconds = float(match[1]) * _SECONDS[match[2] or "s"] if match else 0.0
        if seconds <= 0:
            self.fail(f"{value}: no duration, e.g. 30s, 5m, 1h", param, ctx)
        return seconds


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--before", metavar="SAVED", type=click.Path(path_type=Path),
              help="Facts saved earlier, by --save or zcache analyze --save, to compare with.")  # fmt: skip
@click.option("--after", metavar="SAVED", type=click.Path(path_type=Path), help="Saved facts instead of the device's.")
@click.option("--with", "more", metavar="DOCUMENT", multiple=True, type=click.Path(path_type=Path),
              help="What analyze --save or stats -w --json wrote, or a frontier; again for each.")  # fmt: skip
@click.option("--for", "seconds", metavar="TIME", type=_Duration(), help="Sample for so long first, e.g. 30s or 5m.")
@click.option("--interval", metavar="S", type=click.FloatRange(min=0.1), default=1.0, help="Between two samples (1).")
@click.option("--save", metavar="SAVED", type=click.Path(path_type=Path, dir_okay=False),
              help="Write the facts of now there, for --before later.")  # fmt: skip
@pass_session
def report(
    session: Session,
    file: Path | None,
    before: Path | None,
    after: Path | None,
    more: tuple[Path, ...],
    seconds: float | None,
    interval: float,
    save: Path | None,
) -> None:
    """Write FILE, one HTML page that needs nothing else: facts, settings, statistics and pictures.

    It asks the device, or takes what was saved with --after. No page's contents are in it, and no path of this machine.
    """
    if after and (seconds or save):
        raise Usage("--after: no device is asked, so nothing is sampled or saved", hint="zcache report --help")
    if seconds and seconds / interval > _MOST_SAMPLES:
        raise Usage(f"--for: {seconds / interval:.0f} samples are too many", hint="a larger --interval")
    target = file or Path(f"zcache-report-{time.strftime('%Y%m%d-%H%M%S')}.html")
    material = Material()
    for path in more:
        _put(material, path, load(path))
    if before:
        _put_before(material, before, load(before))
    if after:
        material.now = _saved_facts(after)
    elif not _needs_no_device(session, material):
        with session.output.progress("asking the device") as step:
            _ask(session, material, seconds, interval, step)
    if save and material.now:
        write_whole(save, json.dumps(material.now.as_json()) + "\n")

    from ..report.sections import render  # matplotlib is slow to import

    write_whole(target, render(material))
    if session.as_json:
        session.output.document({"file": str(target), "saved": str(save) if save else None})
        return
    session.output.text(f"wrote {target}" + (f", saved {save}" if save else ""))


def _put(material: Material, path: Path, document: Document) -> None:
    if isinstance(document, Facts):
        raise Usage(f"--with {path}: saved facts of a moment", hint="--before or --after takes them")
    if isinstance(document, Series):
        _only_one(material.series, path)
        material.series = document
    elif isinstance(document, Frontier):
        _only_one(material.frontier, path)
        material.frontier = document
    else:
        if material.analyses:
            raise Usage(f"--with {path}: a second analysis", hint="--before takes an earlier one")
        material.analyses.append(document)


def _only_one(there: object, path: Path) -> None:
    if there:
        raise Usage(f"--with {path}: a second one of its kind", hint="a report shows one")


def _put_before(material: Material, path: Path, document: Document) -> None:
    if isinstance(document, Facts):
        material.before = document
    elif isinstance(document, Mapping):
        material.analyses.insert(0, document)
    else:
        raise Usage(f"--before {path}: no facts of a moment", hint="a file of report --save or analyze --save")


def _saved_facts(path: Path) -> Facts:
    document = load(path)
    if not isinstance(document, Facts):
        raise Usage(f"--after {path}: no facts of a moment", hint="a file of report --save")
    return document


def _needs_no_device(session: Session, material: Material) -> bool:
    """Documents alone make a report, too, where no device was named."""
    return session.wanted_serial is None and bool(material.frontier or material.analyses or material.series)


def _ask(session: Session, material: Material, seconds: float | None, interval: float, step: Step) -> None:
    examined = examine(session.transport, lambda part, what: step(part * (0.1 if seconds else 0.8), what))
    serial = session.let_go()
    with Gatherer(lambda known: open_transport(known or serial, session.timeout), kernel=True) as gatherer:
        if seconds:
            material.series = Series(list(_samples(gatherer, seconds, interval, step)))
        moment = gatherer.take()
        if moment.kernel is None and moment.problem:
            raise moment.problem
        problem = moment.problem.message if moment.problem else ""
        doctor = json.loads(json.dumps(examined.as_json()))
        material.now = Facts(moment, doctor, list(gatherer.descriptions), problem=problem)


def _samples(gatherer: Gatherer, seconds: float, interval: float, step: Step) -> Iterator[dict[str, int | float | str]]:
    """Those that the device gave; what it did not answer meanwhile is not there."""
    start = time.monotonic()
    for number in range(int(seconds / interval) + 1):
        pause = start + number * interval - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        step(0.1 + 0.9 * min(1.0, number * interval / seconds), "sampling")
        moment = gatherer.take(lambda _: ())
        if moment.kernel:
            yield _sample(moment)
        if number and time.monotonic() - start > seconds:
            return


def _sample(moment: Moment) -> dict[str, int | float | str]:
    sample: dict[str, int | float | str] = {"time": round(moment.time, 3), **moment.values}
    for resource, pressure in moment.kernel.pressure.items() if moment.kernel else ():
        sample[f"pressure/{resource}/some"] = pressure.some_avg10
        sample[f"pressure/{resource}/full"] = pressure.full_avg10
    return sample
