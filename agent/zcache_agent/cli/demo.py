# SPDX-License-Identifier: Apache-2.0
"""demo: zcache at work on real memory, in a screen or two."""

from contextlib import ExitStack

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..control import ControlClient
from ..daemon import Daemon
from ..demo import Demo, Facts, PoolFacts, Process, Threshold, own_or_running_daemon
from ..errors import CheckFailed
from . import charts
from .session import Session, pass_session
from .signals import clean_up_when_ended


@click.command()
@pass_session
def demo(session: Session) -> int:
    """Show what zcache does with the memory of this device, and leave nothing behind.

    Starts programs of its own, puts their pages and some of the device's libraries through a persistent and
    an ephemeral pool, and lowers zv_max_zsize meanwhile. Uses the daemon that runs, else starts one and stops it.
    """
    clean_up_when_ended()
    facts = _run(session)
    if session.as_json:
        session.output.document(facts.as_json())
    kept = sum(report.stored + report.same_filled for report in facts.reports)
    if not all(report.passed for report in facts.reports):
        raise CheckFailed("not every page came back the same", hint="zcache log may tell more; please report it")
    if not session.as_json:
        session.output.console.print(_ending(facts, kept))
    return 0


def _run(session: Session) -> Facts:
    """The acts of the demo, each shown as it ends. All is cleaned up on return."""
    say = _Speaker(session)
    with ExitStack() as cleanup:
        with session.output.progress("starting") as progress:
            daemon, own = cleanup.enter_context(own_or_running_daemon(session.transport, progress))
        with daemon.control() as control, Demo(daemon, control) as show:
            say(_opening(session, daemon, own, control))
            with session.output.progress("programs") as progress:
                processes = show.run_processes(progress)
            say(_processes(processes, show.page_size))
            with session.output.progress("libraries") as progress, show.libraries(progress) as tar:
                thresholds = list(show.run_thresholds(tar, progress))
                libraries = show.run_libraries(tar, progress)
            say(_thresholds(thresholds))
            pools = show.pools()
            say(_pools(pools))
        return Facts(
            serial=session.transport.serial,
            version=daemon.version,
            page_size=show.page_size,
            own_daemon=own,
            processes=processes,
            thresholds=thresholds,
            libraries=libraries,
            pools=pools,
        )


class _Speaker:
    """Shows an act to people; under --json nobody is told before the end."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, act: RenderableType) -> None:
        if not self._session.as_json:
            self._session.output.console.print(act, Text())


def _heading(number: int, title: str, meaning: str) -> Text:
    return Text.assemble((f"{number}  {title}", "bold"), "\n", (f"   {meaning}", "dim"))


def _opening(session: Session, daemon: Daemon, own: bool, control: ControlClient) -> Text:
    page_size = int(control.get("page_size"))
    limit = charts.size(int(control.get("stats/limit_bytes")))
    whose = "one of its own" if own else "the one that runs"
    return Text.assemble(
        ("zcache demo", "bold"),
        f" on {session.transport.serial}: pages of {charts.size(page_size)};"
        f" daemon {daemon.version} ({whose}) may use {limit} of RAM",
    )


def _processes(processes: list[Process], page_size: int) -> RenderableType:
    table = charts.plain_table(
        "<program", "<holds", ">memory", ">pages", ">same-filled", ">refused", ">now uses", ">ratio", "<"
    )
    best = max((process.ratio(page_size) for process in processes), default=1.0)
    for process in processes:
        report, ratio = process.report, process.ratio(page_size)
        table.add_row(
            process.name,
            process.holds,
            charts.size(report.pages * page_size),
            str(report.pages),
            charts.share(report.same_filled, report.pages),
            charts.share(sum(report.refused.values()), report.pages),
            charts.size(process.used_bytes),
            f"{ratio:.2f}",
            charts.bar(ratio / best, 16),
        )
    meaning = "Their pages are read where they run and stored as swap would store them: none may get lost."
    return Group(_heading(1, "Memory of running programs, in a persistent pool", meaning), table)


def _thresholds(thresholds: list[Threshold]) -> RenderableType:
    table = charts.plain_table("<   zv_max_zsize", ">bytes", ">pages", ">refused", "<", ">ratio of the rest", "<why")
    for threshold in thresholds:
        report = threshold.report
        refused = sum(report.refused.values())
        table.add_row(
            f"   {threshold.share} of a page",
            str(threshold.zv_max_zsize),
            str(report.pages),
            charts.share(refused, report.pages),
            charts.bar(refused / max(1, report.pages), 24, "yellow"),
            charts.ratio(report),
            ", ".join(f"{name} {count}" for name, count in sorted(report.refused.items())) or "none refused",
        )
    meaning = "A page that compresses badly is not worth its frame. Lower the bar, and see it refused:"
    return Group(_heading(2, "Shared libraries, in an ephemeral pool", meaning), table)


def _pools(pools: list[PoolFacts]) -> RenderableType:
    counters = charts.plain_table("<", *(f">{pool.kind}" for pool in pools))
    shown = [name for name in _SHOWN if any(name in pool.stats for pool in pools)]
    for name in shown:
        counters.add_row(f"   {name}", *(str(pool.stats.get(name, "")) for pool in pools))
    bars = Table.grid(padding=(0, 4))
    bars.add_row(*(Text(pool.kind, style="bold") for pool in pools))
    bars.add_row(*(charts.histogram(pool.histogram) for pool in pools))
    meaning = "As debugfs would show them; zcache stats and zcache cat read the same nodes."
    return Group(_heading(3, "What the pools hold now", meaning), counters, Text(), bars)


_SHOWN = (
    "puts", "stored_puts", "compress_poor", "mean_compress_poor", "low_memory", "policy_percent_exceeded",
    "gets", "gets_found", "zpages", "same_filled", "zbytes", "frames", "metadata_bytes", "used_bytes",
)  # fmt: skip


def _ending(facts: Facts, kept: int) -> Text:
    gone = "programs, pools and files are gone" + (", and so is its daemon" if facts.own_daemon else "")
    return Text.assemble(
        (f"{kept} of {kept} stored pages came back the same, byte for byte.", "green"),
        f" The demo's {gone}.",
    )
