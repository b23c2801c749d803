# SPDX-License-Identifier: Apache-2.0
"""Brings zcached to a device, whole, and starts it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from .. import __version__
from ..binary import DeployFailed
from ..daemon import Daemon, find_all, look_into
from ..deploy import check_nothing_held, mark
from ..errors import Refused
from .ending import STOP_SECONDS, Done, end_swap
from .kinds import File, Kind, Link
from .note import Installed, find, show
from .root import EXCHANGE, NEW, Root, look, push, put

_START_SECONDS = 180.0
"""What a slow board may need from the start to the last setting."""
_POLL_SECONDS = 0.5

Step = Callable[[float, str], None]


@dataclass(frozen=True)
class Plan:
    """What an install would do: by path, `written`, `same` or `kept`."""

    root: Root
    kind: Kind
    files: tuple[File, ...]
    old: Installed | None
    paths: dict[str, str]

    @property
    def daemon(self) -> Daemon | None:
        """The one that runs there."""
        if self.root.is_image:
            return None
        there, _ = look_into(self.root.transport, [self.kind.directory], self.root.rights)
        return next((daemon for daemon in there if daemon.alive), None)


def prepare(root: Root, kind: Kind, program: bytes, settings: tuple[bytes, bytes] | None, *, force: bool) -> Plan:
    """Looks only. `settings`: the plan that zcached is to carry out, and the file that it was made of.

    Refused: what is there was brought by somebody else, or another way.
    """
    old = find(root)
    if old and old.kind is not kind:
        raise Refused(
            f"{root.prefix or root.transport.serial}: it is installed as {old.kind.name} already",
            name="EEXIST",
            hint=f"zcache uninstall, then zcache install --as {kind.name}",
        )
    files = kind.files(program, settings)
    there = look(root, [file.path for file in files] + [link.path for link in kind.links])
    paths = {file.path: _fate(file, there[file.path], old, force=force) for file in files}
    paths |= {link.path: _fate_of_link(link, there[link.path], force=force) for link in kind.links}
    foreign = [path for path, what in paths.items() if what == "foreign"]
    if foreign:
        raise Refused(
            f"{root.prefix or root.transport.serial}: {', '.join(foreign)}: not brought by zcache install",
            name="EEXIST",
            hint="remove it, with its package or module if it is of one; or --force",
        )
    return Plan(root, kind, files, old, paths)


def _fate(file: File, there: str, old: Installed | None, *, force: bool) -> str:
    if there == f"file {file.sha256}":
        return "same"
    if there == "absent" or (force and there != "other"):
        return "written"
    if old is None or file.path not in old.hashes:
        return "foreign"
    return "written" if there == f"file {old.hashes[file.path]}" else "kept"


def _fate_of_link(link: Link, there: str, *, force: bool) -> str:
    otherwise = "written" if force and there != "other" else "foreign"
    return {"absent": "written", f"link {link.target}": "same"}.get(there, otherwise)


def carry_out(plan: Plan, step: Step, *, force: bool) -> Done:
    """Writes what is to be, and starts it; returns once it answers and has its settings.

    DeployFailed, Refused: it does not start, or they are refused; the files stay.
    """
    root, kind, running = plan.root, plan.kind, plan.daemon
    changed = any(what == "written" for what in plan.paths.values())
    _check_no_other(plan)
    if running and changed:
        end_swap(running)
        if not force:
            check_nothing_held(running)
    _note(plan, _write(plan, step))
    if root.is_image:
        return Done(kind, plan.paths)
    if running and not changed:
        return Done(kind, plan.paths, running)
    step(0.8, "starting")
    root.script(kind.start, timeout=STOP_SECONDS)
    return Done(kind, plan.paths, _wait(plan))


def _check_no_other(plan: Plan) -> None:
    """Refused: `up` has started another, in another directory."""
    transport = plan.root.transport
    others = [] if transport.is_local else find_all(transport)
    for other in others:
        if other.alive and other.directory != plan.kind.directory:
            raise Refused(
                f"{transport.serial}: zcached runs in {other.directory} already, as {other.user}",
                name="EBUSY",
                hint="zcache down",
            )


def _note(plan: Plan, made: list[str]) -> None:
    old = plan.old or Installed(plan.kind, __version__)
    ours = {file.path: file.sha256 for file in plan.files if plan.paths[file.path] != "kept"}
    directories = tuple(dict.fromkeys([*old.made, *made]))
    new = Installed(plan.kind, __version__, old.hashes | ours, plan.kind.links, plan.kind.lines, directories)
    put(plan.root, File(plan.kind.note, show(new).encode()))


_MAKE = r"""
make() { # DIRECTORY, and those above that are not there; says which
    [ ! -d "$1/" ] || return 0 # that of /usr is /
    make "${1%/*}" && mkdir -m 755 "$1" && echo "$1"
}
for path; do
    make "${path%/*}" || exit 1
done
"""
_ADD_LINE = r"""
grep -qxF "$2" "$1" 2>/dev/null && exit 0
[ -z "$(tail -c 1 "$1" 2>/dev/null)" ] || echo >>"$1"
echo "$2" >>"$1"
"""


def _write(plan: Plan, step: Step) -> list[str]:
    """All files beside those they take the place of, then all in their places. Returns the directories it made."""
    root = plan.root
    files = [file for file in plan.files if plan.paths[file.path] == "written"]
    links = [link for link in plan.kind.links if plan.paths[link.path] == "written"]
    size = sum(len(file.content) for file in files) or 1
    targets = [root.at(path) for path in (*(file.path for file in files), *(link.path for link in links))]
    made = root.script(_MAKE, *targets, root.at(plan.kind.note)).split("\n")
    try:
        done = 0
        for file in files:
            step(0.7 * done / size, f"copying {file.path}")
            push(root, file, file.path + NEW)
            done += len(file.content)
    except BaseException:
        root.transport.run(root.rights.wrap(["rm", "-f", *(root.at(file.path) + NEW for file in files)]))
        root.transport.run(root.rights.wrap(["rmdir", *reversed(list(filter(None, made)))]))
        raise
    if files:
        root.script(EXCHANGE, *(root.at(file.path) for file in files))
    for link in links:
        root.script('ln -sfn "$2" "$1"', root.at(link.path), link.target)
    for path, text in plan.kind.lines:
        root.script(_ADD_LINE, root.at(path), text)
    return [path.removeprefix(root.prefix) for path in made if path]


def _wait(plan: Plan) -> Daemon:
    """Until zcached answers and the settings that it starts with are applied, or refused."""
    serial = plan.root.transport.serial
    end = time.monotonic() + _START_SECONDS
    while (daemon := plan.daemon) is None:
        if time.monotonic() > end:
            raise DeployFailed(
                f"{serial}: it is installed as {plan.kind.name}, and zcached does not come up",
                name="start_failed",
                hint=f"its log: {plan.kind.directory}/zcached.log; zcache uninstall removes it",
            )
        time.sleep(_POLL_SECONDS)
    daemon.control().close()
    mark(plan.root.transport, plan.root.rights)
    if plan.kind.settings in {file.path for file in plan.files}:
        _check_settings(daemon, end)
    return daemon


def _check_settings(daemon: Daemon, end: float) -> None:
    while not (outcome := daemon.run(["cat", f"{daemon.directory}/zcached.settings"]).text):
        if time.monotonic() > end:
            raise DeployFailed(f"{daemon.transport.serial}: the settings are still being applied", name="timeout",
                               hint=f"what they come to will be in {daemon.directory}/zcached.settings")  # fmt: skip
        time.sleep(_POLL_SECONDS)
    for line in outcome.splitlines():
        kind, _, why = line.partition(": ")
        if kind != "applied":
            raise Refused(
                f"{daemon.transport.serial}: zcached is installed and runs, but without the settings: {why or line}",
                name=kind,
                hint="zcache install --config with others; zcache uninstall",
            )
