# SPDX-License-Identifier: Apache-2.0
"""Brings zcached onto a device, starts it, takes it away."""

import contextlib
import errno
import hashlib
import re
import secrets
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from . import __version__, apply
from .binary import Binary, DeployFailed, choose_binary
from .control import ControlClient
from .daemon import (
    ROOT_DIRECTORIES,
    ROOT_MARK,
    SHELL_DIRECTORY,
    STAGES,
    START,
    Daemon,
    find,
    find_all,
    look_into,
)
from .device import Device, Rights, find_root, look, run_script
from .errors import DaemonAbsent, NoDevice, Refused, Usage, ZcacheError
from .lock import alone_on
from .ondevice.process import end_agent, remove_agent
from .transport.base import Transport
from .transport.local import LocalTransport

_FILES = ("zcached", "zcached.lock", "zcached.state", "zcached.log", "zcached.log.1", "control.sock", "data.sock",
          "zcached.settings", "zcached.apply.lock", "zcached.apply.new", "zcached.outcome")  # fmt: skip
_NEW = "zcached.new-"
_PART = "zcached.part-"
"""What a transport has of a push that was cut off."""
_SPARE = 64 * 1024
"""Bytes that a directory needs besides the program."""
_LARGEST_PROGRAM = 64 * 1024 * 1024
_STOP_SECONDS = 10
_SAVED_A_SECOND = 4 * 1024 * 1024
"""Bytes: what a slow flash takes of what a daemon that ends writes to its backing stores."""

Step = Callable[[float, str], None]
"""Told the part done, 0..1, and what is being done."""


def _silent(part: float, what: str) -> None: ...


@dataclass(frozen=True)
class Options:
    """What `zcache up` was asked for."""

    abi: str | None = None
    binary: Path | None = None
    page_size: int | None = None
    replace: bool = False
    force: bool = False
    root: bool = False
    """Get root by su where the transport's user has none."""


@dataclass(frozen=True)
class Started:
    daemon: Daemon
    changed: bool
    """False: it ran already."""


def up(transport: Transport, options: Options, step: Step = _silent) -> Started:
    """Brings the daemon to run. When that fails nothing new stays on the device, and a daemon that was to be replaced
    runs again, without its pages."""
    with alone(transport):
        return _up(transport, options, step)


def _up(transport: Transport, options: Options, step: Step) -> Started:
    step(0, "looking at the device")
    device = look(transport)
    binary = choose_binary(device, transport.is_local, options.abi, options.binary)
    old = _running(transport)
    if old and not options.replace:
        _check_same(old, binary, options)
        return Started(old, False)
    if old:
        check_not_swap(old)
        if not options.force:
            check_nothing_held(old)
    place = _choose_place(transport, device, options)
    with undone_on_failure(place):
        new = _install(place, binary, step)
        step(0.8, "starting")
        if old:
            stop(old, options.force)
        daemon = _switch(place, new, old, options)
    step(1, "ready")
    return Started(daemon, True)


def alone(transport: Transport) -> contextlib.AbstractContextManager[None]:
    """No other command of this user's changes the device meanwhile."""
    device = transport.directory if isinstance(transport, LocalTransport) else transport.serial
    return alone_on(device, transport.timeout)


def _running(transport: Transport) -> Daemon | None:
    try:
        return find(transport)
    except DaemonAbsent:
        return None


def _check_same(running: Daemon, binary: Binary, options: Options) -> None:
    """DaemonAbsent: the daemon that runs is not what was asked for."""
    page_size = int(running.state["page_size"])
    wrong = ""
    if options.binary and sha256_of(running, running.program) != binary.sha256:
        wrong = f"{options.binary} is another build"
    elif not options.binary and running.version != __version__:
        wrong = f"this agent brings {__version__}"
    elif options.page_size not in (None, page_size):
        wrong = f"--page-size {options.page_size} was asked for"
    elif options.root and running.directory == SHELL_DIRECTORY:
        wrong = "--root was asked for"
    if wrong:
        raise DaemonAbsent(
            f"{running.transport.serial}: zcached {running.version} with pages of {page_size} bytes runs in"
            f" {running.directory}, and {wrong}",
            name="other_version",
            hint="zcache up --replace replaces it",
        )


def _unsaved(control: ControlClient) -> int:
    """Persistent pages that are nowhere else, and would find no place in a backing store."""
    try:
        return int(control.get("stats/pers_unsaved"))
    except Refused:
        return int(control.get("stats/pers_zpages"))  # a daemon that knows no backing stores


def _mounted(control: ControlClient) -> str:
    """The block cache's device, if it is in use; or nothing."""
    try:
        return control.get("blockcache/device") if control.get("blockcache/in_use") == "1" else ""
    except Refused:
        return ""  # a daemon that knows no block cache


def check_nothing_held(daemon: Daemon) -> None:
    """Refused: it holds pages that exist nowhere else, or what is mounted would fail without it."""
    try:
        with daemon.control() as control:
            held, mounted = _unsaved(control), _mounted(control)
    except DaemonAbsent as error:
        if error.name != "abi_mismatch":
            return  # it has ended meanwhile
        raise Refused(
            f"zcached {daemon.version} may hold persistent pages: {error.message}",
            name="pages_held",
            hint="--force ends it all the same",
        ) from error
    if mounted:
        raise Refused(
            f"{daemon.transport.serial}: {mounted}, the block cache's device, is mounted or in use",
            name="mounted",
            hint=f"umount {mounted}, or give --force, which fails what it is asked from then on",
        )
    if held:
        raise Refused(
            f"{daemon.transport.serial}: {held} persistent pages are held and would be lost",
            name="pages_held",
            hint="flush them, destroy their pools, set a backing store, or give --force",
        )


def check_not_swap(daemon: Daemon) -> None:
    """Refused: the kernel swaps to it. Killed, it would take other programs' memory along; no force allows that."""
    device = "none"
    if not re.search(r"^/\S*/(ublkb|nbd)\d", daemon.transport.run(["cat", "/proc/swaps"]).text, re.MULTILINE):
        return  # not even a daemon that does not answer has it
    with contextlib.suppress(ZcacheError), daemon.control() as control:
        device = control.get("swap/device")
    if device != "none":
        raise Refused(
            f"{daemon.transport.serial}: the kernel swaps to {device}, which this zcached serves",
            name="swap_on",
            hint="zcache swap off",
        )


def _choose_place(transport: Transport, device: Device, options: Options) -> Daemon:
    """Where the daemon is to live."""
    if isinstance(transport, LocalTransport):
        if options.root and not device.is_root:
            raise Usage("--root: on this machine zcache has the rights that you have", hint="run zcache itself as root")
        return Daemon(transport, transport.directory, Rights.OWN)
    if not device.is_root and not options.root:
        return Daemon(transport, SHELL_DIRECTORY, Rights.OWN)
    root = find_root(transport, device.uid)
    if root.rights is None:
        raise DeployFailed(f"{transport.serial}: no root ({root.refusals})", name="no_root", hint="leave out --root")
    android = run_script(transport, "[ -d /data/adb ]", root.rights).code == 0
    return Daemon(transport, ROOT_DIRECTORIES[0 if android else 1], root.rights)


@contextlib.contextmanager
def undone_on_failure(place: Daemon) -> Iterator[None]:
    """Removes what is half done. From a device that is lost, the next `up` or `down` does."""
    try:
        yield
    except NoDevice:
        raise
    except BaseException:
        with contextlib.suppress(ZcacheError):
            _remove_temporary(place)
            place.run(["rmdir", place.directory])  # fails where something is in it, and shall
        raise


def _remove_temporary(place: Daemon) -> None:
    run_script(place.transport, f"rm -f {' '.join(f'{stage}/{_NEW}*' for stage in STAGES)}")
    run_script(place.transport, f"rm -f {shlex.quote(place.directory)}/{_NEW}*", place.rights)


def _install(place: Daemon, binary: Binary, step: Step) -> str:
    """Copies the program into the directory under a temporary name, which it returns, and verifies the copy."""
    _make_directory(place)
    _remove_temporary(place)
    return copy_in(place, binary, step)


class Cargo(Protocol):
    """A file of this machine."""

    @property
    def path(self) -> Path: ...

    @property
    def size(self) -> int: ...

    @property
    def sha256(self) -> str: ...


def copy_in(place: Daemon, cargo: Cargo, step: Step = _silent) -> str:
    """Copies a file into zcache's directory under a temporary name, which it returns, and verifies the copy."""
    transport = place.transport
    name = f"{_NEW}{secrets.token_hex(4)}"
    target = f"{place.directory}/{name}"
    pushed = target if place.rights is Rights.OWN else f"{find_stage(transport)}/{name}"
    _check_space(place, cargo)
    step(0.1, "copying")
    try:
        transport.push(cargo.path, pushed, 0o700, lambda done, size: step(0.1 + 0.6 * done / size, "copying"))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_space(place, cargo) from error
        raise DeployFailed(f"{transport.serial}: {pushed}: {error.strerror}", name=_errno_name(error)) from error
    if pushed != target:
        moved = run_script(transport, f"cp {pushed} {target} && rm {pushed} && chown 0:0 {target}", place.rights)
        if moved.code != 0:
            raise DeployFailed(f"{transport.serial}: {moved.complaint}")
    place.run(["chmod", "700", target])
    step(0.7, "verifying")
    if (found := sha256_of(place, target)) != cargo.sha256:
        raise DeployFailed(
            f"{transport.serial}: the copy of {cargo.path} is damaged: SHA-256 {found} instead of {cargo.sha256}",
            name="damaged",
            hint="try again; check the cable and the device's storage",
        )
    return target


def _make_directory(place: Daemon) -> None:
    """Makes it with mode 0700. One that somebody else owns is not used: its owner could exchange the program."""
    directory = shlex.quote(place.directory)
    script = f"""
        [ -d {directory} ] || mkdir -p -m 700 {directory} || exit 1
        [ -O {directory} ] && [ ! -L {directory} ] || {{ echo {directory} belongs to somebody else; exit 1; }}
        chmod 700 {directory}"""
    made = run_script(place.transport, script, place.rights)
    if made.code != 0:
        hint = "name another directory: -s local:DIR, or ZCACHE_DIR" if place.transport.is_local else ""
        raise DeployFailed(f"{place.transport.serial}: {made.complaint}", name="no_directory", hint=hint)


def find_stage(transport: Transport) -> str:
    """A directory to push to where the target is another user's."""
    found = run_script(transport, f"for d in {' '.join(STAGES)}; do [ -w $d ] && echo $d && break; done").text
    if not found:
        raise DeployFailed(f"{transport.serial}: neither {' nor '.join(STAGES)} can be written to", name="no_stage")
    return found


def _check_space(place: Daemon, cargo: Cargo) -> None:
    free = _free_bytes(place)
    if free is not None and free < cargo.size + _SPARE:
        raise _no_space(place, cargo)


def _free_bytes(place: Daemon) -> int | None:
    """None: the device's df says nothing that can be read."""
    fields = place.run(["df", "-Pk", place.directory]).text.splitlines()[-1:]
    words = fields[0].split() if fields else []
    return int(words[3]) * 1024 if len(words) > 3 and words[3].isdecimal() else None


def _no_space(place: Daemon, cargo: Cargo) -> DeployFailed:
    free = _free_bytes(place)
    has = "too little" if free is None else f"{free} bytes"
    return DeployFailed(
        f"{place.transport.serial}: no space: {place.directory} has {has} free,"
        f" {cargo.path.name} needs {cargo.size + _SPARE} bytes",
        name="ENOSPC",
        hint="free some space there",
    )


def _errno_name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, DeployFailed.default_name)


SUM = r"""
sum() { { sha256sum "$1" || toybox sha256sum "$1" || busybox sha256sum "$1"; } 2>/dev/null | cut -c 1-64; }
"""
"""The SHA-256 of a file, in a shell: where one of these programs is."""


def sha256_of(place: Daemon, path: str) -> str:
    found = run_script(place.transport, f"{SUM}sum {shlex.quote(path)}", place.rights).text
    if len(found) == 64:
        return found
    if place.rights is not Rights.OWN:
        return hashlib.sha256(place.run(["cat", path]).stdout).hexdigest()
    try:
        return hashlib.sha256(place.transport.pull(path, _LARGEST_PROGRAM)).hexdigest()
    except OSError as error:
        raise DeployFailed(f"{place.transport.serial}: {path}: {error.strerror}", name=_errno_name(error)) from error


def _switch(place: Daemon, new: str, old: Daemon | None, options: Options) -> Daemon:
    """Puts the new program in place and starts it; the old daemon, which has ended, comes back if that fails."""
    kept = f"{old.directory}/{_NEW}kept" if old else ""
    if old:
        old.run(["mv", old.program, kept])
    place.run(["mv", new, place.program])
    try:
        start(place, options.page_size)
        daemon = _answering(place)
    except NoDevice:
        raise
    except BaseException:
        if old:
            old.run(["mv", kept, old.program])
            start(old, int(old.state["page_size"]))
        there, _ = look_into(place.transport, [place.directory], place.rights)
        if not any(found.alive for found in there):  # nor did another `up` start one meanwhile
            _remove(place)
        raise
    if old:
        old.run(["rm", "-f", kept])
        if old.directory != place.directory:
            _remove_with_agent(old)
    return daemon


def start(place: Daemon, page_size: int | None) -> None:
    """Starts the program of a directory; returns when it is ready. DeployFailed with its own reason if it is not."""
    serial = place.transport.serial
    command = [place.program, "run", "--dir", place.directory, "--detach"]
    if page_size:
        command += ["--page-size", str(page_size)]
    if not place.transport.is_local:
        command += ["--abstract"]
    kind = "local" if place.transport.is_local else "remote"
    started = place.run(["sh", "-c", START, "sh", kind, *command])
    if started.code == 0:
        return
    if started.code in (126, 127):
        raise DeployFailed(
            f"{serial}: {place.program} cannot be executed: {started.complaint}",
            name="not_executable",
            hint="is its file system mounted noexec? ZCACHE_DIR names another" if place.transport.is_local else "",
        )
    raise DeployFailed(f"{serial}: {started.complaint.removeprefix('zcached: ')}", name="start_failed")


def _answering(place: Daemon) -> Daemon:
    """The daemon that was just started. Its ABI must be ours, else it is ended."""
    there, _ = look_into(place.transport, [place.directory], place.rights)
    if not there or not there[0].alive:
        raise DeployFailed(f"{place.transport.serial}: {place.program} said that it is ready, and is not there")
    try:
        there[0].control().close()
        mark(place.transport, place.rights)
    except DaemonAbsent:
        stop(there[0], force=True)
        raise
    return there[0]


def mark(transport: Transport, rights: Rights) -> None:
    """Remembers which rights reach the daemon, where the transport's own do not."""
    if rights is not Rights.OWN:
        run_script(transport, f"umask 077; echo {shlex.quote(rights.value)} >{find_stage(transport)}/{ROOT_MARK}")


def unmark(transport: Transport) -> None:
    run_script(transport, f"rm -f {' '.join(f'{stage}/{ROOT_MARK}' for stage in STAGES)}")


def down(transport: Transport, *, force: bool) -> list[Daemon]:
    """Ends the daemon and removes all that `up` brought; returns what there was. Refused: persistent pages are held."""
    with alone(transport):
        there = find_all(transport)
        with contextlib.suppress(*([Refused] if force else [])):
            apply.settle(there)
        for daemon in there:
            if daemon.alive:
                check_not_swap(daemon)
                if not force:
                    check_nothing_held(daemon)
        for daemon in there:
            stop(daemon, force)
            _remove_with_agent(daemon)
        if any(daemon.rights is not Rights.OWN for daemon in there):
            unmark(transport)
        transport.forget()
        return there


def _saving_seconds(daemon: Daemon) -> int:
    """What it may need to write its pages to backing stores."""
    try:
        with daemon.control() as control:
            values = control.dump()
    except ZcacheError:
        return 0
    if all(value == "none" for path, value in values.items() if path.endswith("/backing")):
        return 0
    return int(values["stats/used_bytes"]) // _SAVED_A_SECOND


def stop(daemon: Daemon, force: bool) -> None:
    """Ends it, if it runs. With `force` one that does not end by itself is killed."""
    if not daemon.alive:
        return
    seconds = _STOP_SECONDS + (0 if force else _saving_seconds(daemon))
    patience = 10 * seconds
    last = 2 * patience if force else patience
    if not daemon.end("alive", str(daemon.pid), patience=patience, last=last, timeout=4 * seconds):
        raise DeployFailed(
            f"{daemon.transport.serial}: zcached (pid {daemon.pid}) does not end",
            name="does_not_end",
            hint="" if force else "--force kills it",
        )


def _remove_with_agent(daemon: Daemon) -> None:
    end_agent(daemon)
    remove_agent(daemon, keep_log=False)
    _remove(daemon)


def _remove(daemon: Daemon) -> None:
    """Removes what zcached keeps in a directory, and the directory if nothing else is in it."""
    directory = shlex.quote(daemon.directory)
    script = (
        f"cd {directory} && rm -f {' '.join(_FILES)} {_NEW}* {_PART}* && cd / && rmdir {directory} 2>/dev/null; exit 0"
    )
    run_script(daemon.transport, script, daemon.rights)
