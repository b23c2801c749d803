# SPDX-License-Identifier: Apache-2.0
"""up, down, status, log: the daemon on the device."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from .. import deploy
from ..control import number
from ..daemon import CUT_OFF, Daemon, find_all
from ..errors import DaemonAbsent, Usage
from ..ondevice.process import Agent
from .fleet import View, each_device
from .logs import follow_option, lines_option, show_log
from .output import duration_text, size_text
from .session import Session
from .signals import clean_up_when_ended

_MAY_DIE = "it runs as adb's user shell and can die when adbd restarts; --root would outlive that"


def _up_row(facts: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    did = "started" if facts["changed"] else "ran already"
    yield (facts["version"], facts["pid"], facts["user"], facts["directory"], facts["page_size"], did)


def _down_rows(facts: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    for removed in facts["removed"]:
        yield removed["directory"], "ended and removed" if removed["ran"] else "removed"
    if not facts["removed"]:
        yield "-", "nothing of it was there"


def _status_row(facts: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    sizes = (size_text(facts["used_bytes"]), size_text(facts["limit_bytes"]))
    pools = ", ".join(facts["pools"]) or "none"
    yield (facts["version"], facts["pid"], facts["user"], duration_text(facts["uptime_ms"]), *sizes, pools)


_UP = View(("version", "pid>", "user", "directory", "page size>", "zcached"), _up_row)
_DOWN = View(("directory", "zcached"), _down_rows)
_STATUS = View(("version", "pid>", "user", "up for>", "used>", "limit>", "pools"), _status_row)


@click.command()
@click.option("--abi", metavar="A", help="Take the bundled binary of this ABI, e.g. armeabi-v7a.")
@click.option(
    "--page-size", metavar="N", type=click.IntRange(min=1), help="Bytes in a page of the store; else the OS's."
)
@click.option(
    "--binary", metavar="F", type=click.Path(path_type=Path), help="Take this zcached instead of a bundled one."
)
@click.option("--replace", is_flag=True, help="Replace a daemon that runs, also one of another version.")
@click.option("--force", is_flag=True, help="With --replace: even if persistent pages are lost.")
@click.option("--root", is_flag=True, help="Run it as root, which su gives. Without, it runs as adb's user.")
@click.option(
    "--adb-root", is_flag=True, help="First restart adbd as root, as adb root does: ends all its connections."
)
@each_device(_UP)
def up(
    session: Session,
    abi: str | None,
    page_size: int | None,
    binary: Path | None,
    replace: bool,
    force: bool,
    root: bool,
    adb_root: bool,
) -> None:
    """Bring the daemon to run on the device.

    Copies the program for the device's ABI there, checks the copy, starts it and waits until it answers. It runs
    as the user that adb gives: shell on a phone, root where adbd is root; --root asks su. Nothing happens if the
    same version runs already.
    """
    clean_up_when_ended()
    options = deploy.Options(abi, binary, page_size, replace, force, root)
    if adb_root:
        _restart_adbd(session)
    with session.output.progress("starting") as step:
        started = deploy.up(session.transport, options, step)
    facts = _facts(started.daemon)
    if session.as_json:
        session.output.document({**facts, "changed": started.changed})
        return
    verb = "runs" if started.changed else "runs already"
    session.output.text(
        f"zcached {facts['version']} {verb} on {facts['serial']}: pid {facts['pid']}, {facts['user']},"
        f" {facts['directory']}, pages of {facts['page_size']} bytes"
    )
    if facts["dies_with_adbd"]:
        session.output.note(f"note: {_MAY_DIE}")


def _restart_adbd(session: Session) -> None:
    from ..transport.adb import AdbTransport  # adbutils is slow to import

    if not isinstance(session.transport, AdbTransport):
        raise Usage("--adb-root: this device is not reached by adb", hint="leave it out")
    session.transport.restart_as_root()


@click.command()
@click.option("--force", is_flag=True, help="Even if persistent pages are lost, or it does not answer.")
@each_device(_DOWN)
def down(session: Session, force: bool) -> None:
    """End the daemon, and the agent beside it, and remove all that zcache brought to the device."""
    with session.output.progress("ending"):
        there = deploy.down(session.transport, force=force)
    if session.as_json:
        removed = [
            {"directory": daemon.directory, "ran": daemon.alive, "agent_ran": daemon.agent_alive} for daemon in there
        ]
        session.output.document({"serial": session.transport.serial, "removed": removed})
        return
    for daemon in there:
        ended = "ended, " if daemon.alive else ""
        with_agent = "the agent too, " if daemon.agent_alive else ""
        session.output.text(f"{ended}{with_agent}removed {daemon.directory} from {session.transport.serial}")
    if not there:
        session.output.text(f"nothing of zcache is on {session.transport.serial}")


@click.command()
@each_device(_STATUS)
def status(session: Session) -> None:
    """Say whether the daemon runs, where, since when, and what it holds. Exit code 4: it does not run."""
    daemon = session.daemon
    facts = _facts(daemon)
    facts["applying"], facts["applied"] = daemon.applying, daemon.applied
    values = session.control.dump()
    facts["uptime_ms"] = number(values["uptime_ms"])
    facts["used_bytes"] = number(values["stats/used_bytes"])
    facts["limit_bytes"] = number(values["stats/limit_bytes"])
    kinds = {path.split("/")[1]: value for path, value in values.items() if _is_pool_kind(path)}
    facts["pools"] = kinds
    facts["agent"] = {"pid": Agent(daemon).pid, "running": daemon.agent_alive} if daemon.agent else None
    if session.as_json:
        session.output.document(facts)
        return
    pools = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    rows = [
        ("device", facts["serial"]),
        ("daemon", f"zcached {facts['version']}, ABI {facts['abi']}, pid {facts['pid']}"),
        ("user", facts["user"]),
        ("directory", facts["directory"]),
        ("up for", duration_text(int(values["uptime_ms"]))),
        ("page size", f"{facts['page_size']} bytes"),
        (
            "memory used",
            f"{size_text(int(values['stats/used_bytes']))} of {size_text(int(values['stats/limit_bytes']))}",
        ),
        ("pools", pools or "none"),
    ]
    if daemon.agent:
        rows.append(("agent", _agent_text(Agent(daemon))))
    if daemon.applied:
        rows.append(("settings", daemon.applied))
    if daemon.applying:
        rows.append(("note", CUT_OFF))
    if facts["dies_with_adbd"]:
        rows.append(("note", _MAY_DIE))
    session.output.table(("fact", "value"), rows)


def _agent_text(agent: Agent) -> str:
    if not agent.alive:
        return f"pid {agent.pid}, has died: zcache agent log"
    return f"pid {agent.pid}, {agent.decisions} decisions: zcache agent status"


def _is_pool_kind(path: str) -> bool:
    words = path.split("/")
    return len(words) == 3 and words[0] == "pools" and words[2] == "kind"


def _facts(daemon: Daemon) -> dict[str, object]:
    return {
        "serial": daemon.transport.serial,
        "version": daemon.version,
        "abi": number(daemon.state["abi"]),
        "pid": daemon.pid,
        "user": daemon.user,
        "directory": daemon.directory,
        "page_size": number(daemon.state["page_size"]),
        "dies_with_adbd": daemon.dies_with_adbd,
    }


@click.command()
@lines_option
@follow_option
@each_device(alone=("follow",))
def log(session: Session, lines: int, follow: bool) -> None:
    """Show the daemon's log, also that of one that has died."""
    there = find_all(session.transport)
    chosen = next((daemon for daemon in there if daemon.alive), there[0] if there else None)
    shown = chosen.read_log() if chosen else ""
    if not chosen or not (shown or chosen.alive):
        raise DaemonAbsent(f"{session.transport.serial}: no daemon ran, so there is no log", hint="zcache up starts it")
    show_log(session, shown, chosen.read_log, lines, follow, lambda text: [(line, line) for line in text.splitlines()])
