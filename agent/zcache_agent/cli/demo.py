# SPDX-License-Identifier: Apache-2.0
"""demo: zcache at work on real memory, in a screen or two."""

from contextlib import ExitStack

import click
from rich.console import Group, RenderableType
from rich.text import Text

from ..control import ControlClient
from ..daemon import Daemon
from ..demo import Demo, Facts, PoolFacts, Process, Threshold, own_or_running_daemon
from ..errors import CheckFailed
from ..pages import Refusal
from . import charts
from .output import size_text
from .session import Session, pass_session
from .signals import clean_up_when_ended


@click.command()
@pass_session
def demo(session: Session) -> int:
    """Show what zcache does with the memory of this device, and leave nothing behind.

    Starts programs of its own, puts their pages into a pool in zbud and one in zsmalloc, puts some of the device's
    libraries through an ephemeral pool, and lowers zv_max_zsize meanwhile. Uses the daemon that runs, else starts
    one and stops it.
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
            self._session.output.console.print(Group(act, Text()))


def _heading(number: int, title: str, *meaning: str) -> Text:
    lines = [(f"\n   {line}", "dim") for line in meaning]
    return Text.assemble((f"{number}  {title}", "bold"), *lines)


def _opening(session: Session, daemon: Daemon, own: bool, control: ControlClient) -> Text:
    page_size = int(control.get("page_size"))
    limit = size_text(int(control.get("stats/limit_bytes")))
    whose = "started for it" if own else "which runs already"
    return Text.assemble(
        ("zcache demo", "bold"),
        f" on {session.transport.serial}: zcached {daemon.version}, {whose}\n",
        (f"pages of {page_size} bytes; at most {limit} of RAM", "dim"),
    )


def _processes(processes: list[Process], page_size: int) -> RenderableType:
    table = charts.plain_table(
        "<   program", "<holds", ">memory", ">same-filled", ">refused", ">LZ4", ">zbud", ">zsmalloc"
    )
    for process in processes:
        report, dense = process.report, process.zsmalloc.report
        table.add_row(
            f"   {process.name}",
            process.holds,
            size_text(report.pages * page_size),
            charts.share(report.same_filled, report.pages),
            charts.share(sum(report.refused.values()), report.pages),
            charts.ratio(report.stored * page_size, process.zbytes),
            charts.ratio((report.stored + report.same_filled) * page_size, process.used_bytes),
            charts.ratio((dense.stored + dense.same_filled) * page_size, process.zsmalloc.used_bytes),
        )
    heading = _heading(
        1,
        "Memory of running programs, in persistent pools",
        "Read where they run, stored as swap would store them: none may get lost.",
        "How much smaller by LZ4 alone, in zbud's frames, at most two in each, and in",
        "zsmalloc's, where pages of one size class share a run of frames:",
    )
    return Group(heading, table)


def _thresholds(thresholds: list[Threshold]) -> RenderableType:
    table = charts.plain_table("<   zv_max_zsize", ">refused", "<", ">zbud", "<counted in")
    for threshold in thresholds:
        report = threshold.report
        refused = sum(report.refused.values())
        counters = ", ".join(f"{name} {count}" for name, count in sorted(report.refused.items()))
        table.add_row(
            f"   {threshold.share} = {threshold.zv_max_zsize}",
            charts.share(refused, report.pages),
            charts.bar(refused / max(1, report.pages), 22, "yellow"),
            f"{report.effective_ratio:.2f}" if report.effective_ratio else "-",
            counters,
        )
    heading = _heading(
        2,
        "Libraries and programs, in an ephemeral pool",
        "A page that compresses badly is not worth its frame. Lower the bar meanwhile:",
        "more pages are refused, and those that are kept take less.",
    )
    return Group(heading, table)


def _pools(pools: list[PoolFacts]) -> RenderableType:
    counters = charts.plain_table("<", *(f">{pool.kind}" for pool in pools))
    counters.add_row("   allocator", *(pool.allocator for pool in pools))
    refusals = [refusal.name for refusal in Refusal]
    shown = ["puts", "stored_puts", *(name for name in refusals if any(pool.stats[name] for pool in pools))]
    shown += ["gets", "gets_found", "zpages", "same_filled", "zbytes", "frames", "metadata_bytes", "used_bytes"]
    for name in shown:
        counters.add_row(f"   {name}", *(str(pool.stats[name]) for pool in pools))
    # A page is as large in one allocator as in the other: one histogram of a kind.
    one_a_kind = list({pool.kind: pool for pool in pools}.values())
    bars = charts.plain_table(*(f"<   {pool.kind}" for pool in one_a_kind))
    bars.add_row(*(charts.histogram(pool.histogram, 16) for pool in one_a_kind))
    heading = _heading(
        3,
        "What the pools hold now",
        "Counters, and zpages by size; zcache stats and zcache cat show them too.",
    )
    return Group(heading, counters, Text(), bars)


def _ending(facts: Facts, kept: int) -> Text:
    gone = "programs, pools and files are gone" + (", and so is its daemon" if facts.own_daemon else "")
    return Text.assemble(
        (f"{kept} of {kept} stored pages came back the same, byte for byte.\n", "green"),
        f"On the daemon's clock a put took {_mean(facts, 'put_us')} µs, a get {_mean(facts, 'get_us')} µs.\n",
        f"The demo's {gone}.",
    )


def _mean(facts: Facts, name: str) -> str:
    costs = [(getattr(report, name), report.pages) for report in facts.reports if getattr(report, name)]
    pages = sum(pages for _, pages in costs)
    return f"{sum(cost * pages for cost, pages in costs) / max(1, pages):.1f}"
