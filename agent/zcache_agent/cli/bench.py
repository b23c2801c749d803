# SPDX-License-Identifier: Apache-2.0
"""bench: every codec on the device's own pages."""

from collections.abc import Iterator
from typing import Any

import click

from ..bench import Options, run_bench
from ..errors import Usage
from .session import Session, pass_session


@click.command()
@click.option("--pid", type=click.IntRange(min=1), metavar="N", help="On the pages of a process on the device.")
@click.option("--file", metavar="FILE", help="On the pages of a file on the device.")
@click.option("--pages", type=click.IntRange(1, 262144), default=2000, help="On so many pages at most (2000).")
@click.option("--page-size", type=click.IntRange(min=1), metavar="N", help="In bytes; else the daemon's.")
@click.option("--codec", "codecs", multiple=True, metavar="SPEC", help="E.g. lz4:4, zstd:3; again for each.")
@click.option("--seconds", type=click.IntRange(1, 3600), default=10, help="For all codecs, about (10).")
@pass_session
def bench(
    session: Session,
    pid: int | None,
    file: str | None,
    pages: int,
    page_size: int | None,
    codecs: tuple[str, ...],
    seconds: int,
) -> None:
    """Measure every codec on the device: how small pages become, how long a put and a get take.

    On real pages: of the memory that processes of the daemon's user hold, and of the largest shared libraries. They
    never leave the device, and the daemon's pools are left alone.
    """
    if pid is not None and file is not None:
        raise Usage("bench takes --pid N or --file FILE, not both", hint="zcache bench --help")
    daemon = session.daemon
    options = Options(page_size or int(daemon.state["page_size"]), pages, seconds, codecs, pid, file)
    session.output.note(f"measuring on {daemon.transport.serial}, for about {seconds} s")
    facts = run_bench(daemon, options)
    if session.as_json:
        session.output.document(facts)
        return
    session.output.text(_source(facts))
    session.output.table(("codec", "ratio>", "put µs>", "get µs>", "refused>", "pages>"), _rows(facts))


def _source(facts: dict[str, Any]) -> str:
    source = facts["source"]
    if source == "device":
        source = f"{facts['processes']} processes and {facts['files']} files"
    left_out = f"{facts['same_filled']} same-filled ones left out"
    return f"{facts['pages']} pages of {facts['page_size']} bytes, from {source}; {left_out}"


def _rows(facts: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for codec in facts["codecs"]:
        yield (
            codec["spec"],
            f"{codec['ratio']:.2f}",
            _time(codec["put_us"]),
            _time(codec["get_us"]),
            f"{100 * codec['refused'] / codec['pages']:.1f} %",
            str(codec["pages"]),
        )


def _time(microseconds: float | None) -> str:
    return "-" if microseconds is None else f"{microseconds:.1f}"
