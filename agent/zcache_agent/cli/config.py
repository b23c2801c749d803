# SPDX-License-Identifier: Apache-2.0
"""config show, diff, apply, save: a device's settings as one file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from .. import apply as applying
from ..config import Config, check_described, load, write
from ..control import ControlClient
from ..daemon import find_all
from ..device import Rights, look
from ..errors import DaemonAbsent, Usage
from ..files import write_whole
from ..settings import Change, State, changes, plan, read_files, shown
from .fleet import View, each_device
from .session import Session

_FILE = click.Path(path_type=Path)


def _change_rows(facts: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    for change in facts["changes"]:
        yield change["key"], change["now"], change["wanted"]
    if not facts["changes"]:
        yield f"as {facts['file']} says", "", ""


def _applied_rows(facts: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    did = "" if not facts["changes"] else "applied" if facts["applied"] else "not changed"
    for row in _change_rows(facts):
        yield *row, did


_CHANGES = View(("key", "now", "wanted"), _change_rows)
_APPLIED = View(("key", "before", "wanted", ""), _applied_rows)
_SAVED = View(("file",), lambda facts: [(facts["file"],)])


@click.group()
def config() -> None:
    """A device's settings as one TOML file: zcache's, and the kernel's zram, zswap and vm.

    What a file leaves out stays as it is. docs/config.md has every key.
    """


@config.command()
@each_device()
def show(session: Session) -> None:
    """Show what the device has now, as such a file."""
    now = shown(_state(session))
    if session.as_json:
        session.output.document(_as_json(now))
        return
    session.output.text(write(now).rstrip("\n"))


@config.command()
@click.argument("file", type=_FILE)
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@each_device(_SAVED, writes=("file",))
def save(session: Session, file: Path, force: bool) -> None:
    """Write what the device has now into FILE, which apply takes."""
    if file.exists() and not force:
        raise Usage(f"{file}: it is there already", hint="another name, or --force")
    write_whole(file, write(shown(_state(session))))
    if session.as_json:
        session.output.document({"file": str(file)})
        return
    session.output.text(f"wrote {file}")


@config.command()
@click.argument("file", type=_FILE)
@each_device(_CHANGES, reads=("file",))
def diff(session: Session, file: Path) -> None:
    """Show which of FILE's settings are others on the device. Exit code 0 in any case."""
    wanted = load(file)
    _, state = _look(session, wanted, str(file))
    found = changes(wanted, state)
    if session.as_json:
        session.output.document({"file": str(file), "changes": [_change_json(change) for change in found]})
        return
    if not found:
        session.output.text(f"{session.transport.serial} is as {file} says")
        return
    _print_changes(session, found)


@config.command()
@click.argument("file", type=_FILE)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@each_device(_APPLIED, reads=("file",))
def apply(session: Session, file: Path, dry_run: bool) -> None:
    """Make the device as FILE says: all of it, or nothing.

    zcached does it on the device, and goes on if the connection breaks. If it is killed, what was there before comes
    back with the next zcache config, kernel, up or down. The kernel's settings last until the device restarts.
    """
    wanted = load(file)
    control, state = _look(session, wanted, str(file))
    found = changes(wanted, state)
    steps = plan(wanted, state)
    if found and wanted.needs_daemon and control is None:
        raise DaemonAbsent(
            f"{session.transport.serial}: no daemon runs, and {file} has settings of it", hint="zcache up"
        )
    said = "nothing to do"
    if steps and not dry_run:
        daemon = applying.choose(session.transport, any(step.startswith(("file", "zram")) for step in steps))
        said = applying.run(daemon, steps, session.output.note if session.verbose else applying.silent)
    if session.as_json:
        facts = {"file": str(file), "applied": bool(steps) and not dry_run, "changes": list(map(_change_json, found))}
        session.output.document(facts)
        return
    if found:
        _print_changes(session, found)
    if dry_run:
        session.output.text(f"{session.transport.serial}: nothing was changed")
    else:
        session.output.text(f"{session.transport.serial}: {f'applied {said}' if steps else said}")


def _as_json(config: Config) -> dict[str, object]:
    import tomllib

    return tomllib.loads(write(config))


def _change_json(change: Change) -> dict[str, object]:
    return {"key": change.key, "now": change.now, "wanted": change.wanted, "in_use": change.restart}


def _print_changes(session: Session, found: list[Change]) -> None:
    session.output.table(("key", "now", "wanted"), [(each.key, each.now, each.wanted) for each in found])


def settled_rights(session: Session) -> Rights:
    """What was cut off is rolled back or forward first. The rights by which the device tells most."""
    there = find_all(session.transport)
    applying.settle(there, lambda line: session.output.note(f"note: {line}"))
    return next((daemon.rights for daemon in there if daemon.rights is not Rights.OWN), Rights.OWN)


def _control(session: Session) -> ControlClient | None:
    """Of the daemon, where one runs."""
    try:
        return session.control
    except DaemonAbsent as error:
        if error.name not in ("no_daemon", "daemon_died"):
            raise
        return None


def _state(session: Session) -> State:
    rights = settled_rights(session)
    control = _control(session)
    return State(read_files(session.transport, rights), control.dump() if control else {})


def _look(session: Session, wanted: Config, where: str) -> tuple[ControlClient | None, State]:
    """The device, and a file's settings held against what a daemon says of them."""
    rights = settled_rights(session)
    control = _control(session)
    if control:
        check_described(wanted, {node.path: node for node in control.describe()}, where)
    device = look(session.transport)
    memory = min(device.mem_total, device.cgroup_limit or device.mem_total)
    tree = control.dump() if control else {}
    files = read_files(session.transport, rights)
    return control, State(files, tree, memory, device.page_size or State.page_size)
