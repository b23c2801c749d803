# SPDX-License-Identifier: Apache-2.0
"""agent: the closed loop, from here (run) or on the device itself (start, stop, status, log)."""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from .. import config
from ..errors import Usage
from ..gather import Gatherer
from ..loop.bounds import Bounds, parse_bounds
from ..loop.events import Event, Events, text_of
from ..loop.run import Loop
from ..ondevice.process import Agent, find_agent, read_log
from ..transport import open_transport
from .fleet import each_device
from .logs import follow_option, lines_option, show_log
from .session import Session, pass_session
from .signals import clean_up_when_ended

_MAY_DIE = (
    "it runs as adb's user shell and can die when adbd restarts; beside a root daemon (zcache up --root) it cannot"
)

config_option = click.option("--config", "file", type=click.Path(path_type=Path, dir_okay=False), required=True,
                             help="Its [agent] table holds the bounds.")  # fmt: skip


@click.group()
def agent() -> None:
    """Have zcache's parameters follow what a device needs, within bounds.

    run does it from here; start brings it onto the device, where it goes on by itself.
    """


@agent.command()
@config_option
@click.option(
    "--interval", type=click.FloatRange(min=0.1), metavar="S", help="Seconds between looks; else the config's."
)
@click.option("--for", "seconds", type=click.FloatRange(min=0), metavar="S", help="End after so long; else at Ctrl-C.")
@click.option("--dry-run", is_flag=True, help="Say what would be set, and set nothing.")
@pass_session
def run(session: Session, file: Path, interval: float | None, seconds: float | None, dry_run: bool) -> None:
    """Watch pressure and statistics, move parameters within the config's bounds, and log each move with its reason."""
    table = _agent_table(file)
    clean_up_when_ended()

    def bounds_of(memory: int, page_size: int) -> Bounds:
        return parse_bounds(table, memory, page_size)

    def put(event: Event) -> None:
        if session.as_json:
            session.output.line(event)
            return
        session.output.text(text_of(event))
        session.output.console.file.flush()

    events = Events(put, dry_run=dry_run)
    serial = session.let_go()  # no device, or which? is no thing to wait for
    with Gatherer(lambda known: open_transport(known or serial, session.timeout)) as gatherer:
        try:
            Loop(gatherer, bounds_of, events, dry_run=dry_run).run(interval, seconds)
        except KeyboardInterrupt:
            if seconds is not None:  # it was to last longer
                raise


def _agent_table(file: Path) -> dict[str, Any]:
    """What is wrong on any device is said before one is looked for."""
    table = config.load(file).agent
    if not table:
        raise Usage(f"{file}: it has no [agent] table, so nothing may be changed", hint="docs/agent.md has an example")
    parse_bounds(table, memory=1 << 40, page_size=1 << 16)
    return table


@agent.command()
@config_option
@click.option("--python", metavar="FILE", help="Python on the device; else python3, as its shell finds it.")
@each_device()
def start(session: Session, file: Path, python: str | None) -> None:
    """Bring the loop onto the device, where it goes on by itself, without this machine.

    It takes Python 3.11 or later there and a daemon that runs, with whose rights it runs. One that runs with the same
    config already is left alone, one with another is replaced.
    """
    from ..ondevice import deploy

    table = _agent_table(file)
    clean_up_when_ended()
    with session.output.progress("starting"):
        started = deploy.start(session.transport, deploy.Options(file.read_bytes(), table, python))
    facts = _facts(started.agent)
    if session.as_json:
        session.output.document({**facts, "changed": started.changed})
        return
    verb = "runs" if started.changed else "runs already"
    session.output.text(
        f"the agent {verb} on {facts['serial']}: pid {facts['pid']}, {facts['user']}, config {_short(started.agent)}"
    )
    session.output.text(f"after a boot of the device: {facts['start_command']}")
    if facts["dies_with_adbd"]:
        session.output.note(f"note: {_MAY_DIE}")


@agent.command()
@each_device()
def stop(session: Session) -> None:
    """End the loop on the device and remove it from there; its log stays until zcache down."""
    from ..ondevice import deploy

    places = deploy.stop(session.transport)
    if session.as_json:
        removed = [{"directory": place.directory, "ran": place.agent_alive} for place in places]
        session.output.document({"serial": session.transport.serial, "removed": removed})
        return
    for place in places:
        ended = "ended, " if place.agent_alive else ""
        session.output.text(f"{ended}removed the agent of {place.directory} from {session.transport.serial}")
    if not places:
        session.output.text(f"no agent is on {session.transport.serial}")


@agent.command()
@each_device()
def status(session: Session) -> None:
    """Say whether the loop runs on the device, since when, and what it did last. Exit code 4: it does not run."""
    there = find_agent(session.transport)
    facts = _facts(there)
    if session.as_json:
        session.output.document(facts)
        return
    refused = f", {there.refused} of them refused by the daemon" if there.refused else ""
    rows = [
        ("device", facts["serial"]),
        ("agent", f"zcache {there.version}, pid {there.pid}"),
        ("user", facts["user"]),
        ("directory", facts["directory"]),
        ("since", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(there.since))),
        ("config", _short(there)),
        ("decisions", f"{there.decisions}{refused}"),
        ("last", text_of(there.last) if there.last else "none"),
        ("after a boot", facts["start_command"]),
    ]
    if there.waits_for:
        rows.append(("waits", there.waits_for))
    if facts["dies_with_adbd"]:
        rows.append(("note", _MAY_DIE))
    session.output.table(("fact", "value"), rows)


def _short(there: Agent) -> str:
    return there.config_sha256[:12]


def _facts(there: Agent) -> dict[str, Any]:
    return {
        "serial": there.place.transport.serial,
        "version": there.version,
        "pid": there.pid,
        "user": there.place.user,
        "directory": there.place.directory,
        "since": there.since,
        "config_sha256": there.config_sha256,
        "decisions": there.decisions,
        "refused": there.refused,
        "last": there.last,
        "waits_for": there.waits_for or None,
        "start_command": there.start_command,
        "dies_with_adbd": there.place.dies_with_adbd,
    }


@agent.command()
@lines_option
@follow_option
@each_device(alone=("follow",))
def log(session: Session, lines: int, follow: bool) -> None:
    """Show what the loop on the device did, also one that was ended or has died."""

    def again() -> str:
        return read_log(session.transport)

    show_log(session, again(), again, lines, follow, _entries)


def _entries(text: str) -> Sequence[tuple[Event, str]]:
    """A line that was cut is none."""
    events = []
    for line in text.splitlines():
        with suppress(ValueError, KeyError):
            event = json.loads(line)
            events.append((event, text_of(event)))
    return events
