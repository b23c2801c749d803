# SPDX-License-Identifier: Apache-2.0
"""replay: real pages through a pool and back."""

from pathlib import Path

import click
from rich.console import Group, RenderableType
from rich.text import Text

from ..errors import CheckFailed, Usage
from ..replay import Report, replay_process, replay_source
from ..sources import open_source
from . import charts
from .completion import pools
from .output import size_text
from .session import Session, pass_session
from .signals import clean_up_when_ended


@click.command()
@click.argument("source", metavar="[SOURCE]", required=False, type=click.Path(path_type=Path))
@click.option("--pid", type=click.IntRange(min=1), metavar="N", help="A process on the device.")
@click.option("--pool", required=True, metavar="NAME", shell_complete=pools, help="The pool that takes the pages.")
@click.option("--keep", is_flag=True, help="Leave the pages in the pool.")
@pass_session
def replay(session: Session, source: Path | None, pid: int | None, pool: str, *, keep: bool) -> int:
    """Put real pages into a pool, get every one back, compare every byte.

    SOURCE is a raw page dump or a tar of files. --pid takes a process of the device instead: the daemon's
    program reads its resident anonymous pages there, and their contents never leave the device.
    """
    if (source is None) == (pid is None):
        raise Usage("replay takes either a SOURCE or --pid N", hint="zcache replay --help")
    clean_up_when_ended()
    report = _run(session, source, pid, pool, keep=keep)
    if session.as_json:
        session.output.document(report.as_json())
    else:
        session.output.console.print(render(report, int(session.control.get("page_size"))))
    if not report.passed:
        raise CheckFailed(verdict(report), hint="zcache log may tell more; please report it")
    return 0


def _run(session: Session, source: Path | None, pid: int | None, pool: str, *, keep: bool) -> Report:
    daemon, control = session.daemon, session.control
    with session.output.progress("replaying") as progress:
        if pid is not None:
            return replay_process(daemon, pool, pid, keep=keep, progress=progress)
        assert source is not None
        with open_source(source, int(control.get("page_size"))) as pages:
            return replay_source(daemon, control, pool, pages, keep=keep, progress=progress)


def render(report: Report, page_size: int) -> RenderableType:
    """The report for people."""
    return Group(
        _outcomes(report, page_size),
        Text(),
        _cost(report),
        Text(),
        charts.histogram(report.histogram),
        Text(),
        Text(verdict(report), style="green" if report.passed else "bold red"),
    )


def _outcomes(report: Report, page_size: int) -> RenderableType:
    table = charts.plain_table("<", ">", "<", "<")
    table.add_row("pages", str(report.pages), size_text(report.pages * page_size), "")
    rows = [
        ("stored", report.stored, "cyan", "compressed"),
        ("same-filled", report.same_filled, "green", "kept as one word, in no frame"),
    ]
    rows += [(name, count, "yellow", "refused") for name, count in report.refused.items()]
    if report.dropped:
        rows.append(("dropped", report.dropped, "yellow", "given up meanwhile, as an ephemeral pool may"))
    if report.lost or report.mismatches:
        rows += [("lost", report.lost, "red", ""), ("mismatches", report.mismatches, "red", "")]
    for name, count, style, meaning in rows:
        table.add_row(f"  {name}", str(count), charts.bar(count / max(1, report.pages), style=style), meaning)
    return table


def _cost(report: Report) -> RenderableType:
    lines = [
        f"the pool uses {size_text(report.used_bytes)}: {report.frames} frames and their metadata;"
        f" ratio {f'{report.effective_ratio:.2f}' if report.effective_ratio else '-'}"
    ]
    if report.put_us is not None and report.get_us is not None:
        lines.append(f"put {report.put_us:.1f} µs, get {report.get_us:.1f} µs a page on the daemon's clock")
    if report.transport_us:
        lines[-1] += f"; on the way {report.transport_us:.1f} µs"
    if report.tail_bytes:
        lines.append(f"{report.tail_bytes} bytes after the last whole page were left out")
    return Text("\n".join(lines))


def verdict(report: Report) -> str:
    if report.passed:
        kept = report.stored + report.same_filled - report.dropped
        return f"{kept} of {kept} stored pages came back the same, byte for byte"
    counted = report.stored + report.same_filled + sum(report.refused.values())
    return (
        f"{report.lost} pages lost, {report.mismatches} came back different,"
        f" {report.pages - counted} of {report.pages} unaccounted for"
    )
