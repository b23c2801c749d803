# SPDX-License-Identifier: Apache-2.0
"""up, down, status, log: the daemon on the device."""

import time
from pathlib import Path

import click

from .. import deploy
from ..control import number
from ..daemon import Daemon, find_all
from ..errors import DaemonAbsent, Usage
from .output import duration_text, size_text
from .session import Session, pass_session
from .signals import clean_up_when_ended

_LOG_LINES = 100
_FOLLOW_SECONDS = 1.0
_MARK = 1024
"""Characters by which the place in a log is found again."""
_MAY_DIE = "it runs as adb's user shell and can die when adbd restarts; --root would outlive that"


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
@pass_session
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
@pass_session
def down(session: Session, force: bool) -> None:
    """End the daemon and remove all that `up` brought to the device."""
    with session.output.progress("ending"):
        there = deploy.down(session.transport, force=force)
    if session.as_json:
        removed = [{"directory": daemon.directory, "ran": daemon.alive} for daemon in there]
        session.output.document({"serial": session.transport.serial, "removed": removed})
        return
    for daemon in there:
        session.output.text(
            f"{'ended, ' if daemon.alive else ''}removed {daemon.directory} from {session.transport.serial}"
        )
    if not there:
        session.output.text(f"nothing of zcache is on {session.transport.serial}")


@click.command()
@pass_session
def status(session: Session) -> None:
    """Say whether the daemon runs, where, since when, and what it holds. Exit code 4: it does not run."""
    facts = _facts(session.daemon)
    values = session.control.dump()
    facts["uptime_ms"] = number(values["uptime_ms"])
    facts["used_bytes"] = number(values["stats/used_bytes"])
    facts["limit_bytes"] = number(values["stats/limit_bytes"])
    kinds = {path.split("/")[1]: value for path, value in values.items() if _is_pool_kind(path)}
    facts["pools"] = kinds
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
    if facts["dies_with_adbd"]:
        rows.append(("note", _MAY_DIE))
    session.output.table(("fact", "value"), rows)


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
@click.option(
    "-n", "--lines", metavar="N", type=click.IntRange(min=0), default=_LOG_LINES, help="At most so many (100)."
)
@click.option("-f", "--follow", is_flag=True, help="Go on showing what is added, until interrupted.")
@pass_session
def log(session: Session, lines: int, follow: bool) -> None:
    """Show the daemon's log, also that of one that has died."""
    there = find_all(session.transport)
    chosen = next((daemon for daemon in there if daemon.alive), there[0] if there else None)
    shown = chosen.read_log() if chosen else ""
    if not chosen or not (shown or chosen.alive):
        raise DaemonAbsent(f"{session.transport.serial}: no daemon ran, so there is no log", hint="zcache up starts it")
    last = shown.splitlines()[-lines:] if lines else []
    _print_log(session, last, follow)
    while follow:
        time.sleep(_FOLLOW_SECONDS)
        now = chosen.read_log()
        _print_log(session, _added(shown, now).splitlines(), follow)
        shown = now


def _added(shown: str, now: str) -> str:
    """What came since; of a long log only the newest part is looked at, so its beginning may have gone."""
    mark = shown[-_MARK:]
    at = now.rfind(mark)
    return now[at + len(mark) :] if at >= 0 else now


def _print_log(session: Session, lines: list[str], follow: bool) -> None:
    if session.as_json and not follow:
        session.output.document(lines)
        return
    for line in lines:
        if session.as_json:
            session.output.line(line)
        else:
            session.output.text(line)
