# SPDX-License-Identifier: Apache-2.0
"""Brings zcached onto a device, starts it, takes it away."""

import contextlib
import errno
import hashlib
import secrets
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import __version__
from .binary import Binary, DeployFailed, choose_binary
from .control import ControlClient
from .daemon import (
    ALIVE,
    ROOT_DIRECTORIES,
    ROOT_MARK,
    SHELL_DIRECTORY,
    STAGES,
    Daemon,
    find,
    find_all,
    look_into,
)
from .device import Device, Rights, find_root, look, run_script
from .errors import DaemonAbsent, NoDevice, Refused, Usage, ZcacheError
from .lock import alone_on
from .transport.base import Transport
from .transport.local import LocalTransport

_FILES = ("zcached", "zcached.lock", "zcached.state", "zcached.log", "zcached.log.1", "control.sock", "data.sock")
_NEW = "zcached.new-"
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
    with _alone(transport):
        return _up(transport, options, step)


def _up(transport: Transport, options: Options, step: Step) -> Started:
    step(0, "looking at the device")
    device = look(transport)
    binary = choose_binary(device, transport.is_local, options.abi, options.binary)
    old = _running(transport)
    if old and not options.replace:
        _check_same(old, binary, options)
        return Started(old, False)
    if old and not options.force:
        check_nothing_held(old)
    place = _choose_place(transport, device, options)
    with _undone_on_failure(transport, place):
        new = _install(transport, place, binary, step)
        step(0.8, "starting")
        if old:
            stop(old, options.force)
        daemon = _switch(place, new, old, options)
    step(1, "ready")
    return Started(daemon, True)


def _alone(transport: Transport) -> contextlib.AbstractContextManager[None]:
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
    if options.binary and _sha256(running, running.program) != binary.sha256:
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


def check_nothing_held(daemon: Daemon) -> None:
    """Refused: it holds pages that exist nowhere else."""
    try:
        with daemon.control() as control:
            held = _unsaved(control)
    except DaemonAbsent as error:
        if error.name != "abi_mismatch":
            return  # it has ended meanwhile
        raise Refused(
            f"zcached {daemon.version} may hold persistent pages: {error.message}",
            name="pages_held",
            hint="--force ends it all the same",
        ) from error
    if held:
        raise Refused(
            f"{daemon.transport.serial}: {held} persistent pages are held and would be lost",
            name="pages_held",
            hint="flush them, destroy their pools, set a backing store, or give --force",
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
def _undone_on_failure(transport: Transport, place: Daemon) -> Iterator[None]:
    """Removes what is half done. From a device that is lost, the next `up` or `down` does."""
    try:
        yield
    except NoDevice:
        raise
    except BaseException:
        with contextlib.suppress(ZcacheError):
            _remove_temporary(transport, place)
            place.run(["rmdir", place.directory])  # fails where something is in it, and shall
        raise


def _remove_temporary(transport: Transport, place: Daemon) -> None:
    run_script(transport, f"rm -f {' '.join(f'{stage}/{_NEW}*' for stage in STAGES)}")
    run_script(transport, f"rm -f {shlex.quote(place.directory)}/{_NEW}*", place.rights)


def _install(transport: Transport, place: Daemon, binary: Binary, step: Step) -> str:
    """Copies the program into the directory under a temporary name, which it returns, and verifies the copy."""
    _make_directory(place)
    _remove_temporary(transport, place)
    name = f"{_NEW}{secrets.token_hex(4)}"
    target = f"{place.directory}/{name}"
    pushed = target if place.rights is Rights.OWN else f"{_stage(transport)}/{name}"
    _check_space(place, binary.size)
    step(0.1, "copying")
    try:
        transport.push(binary.path, pushed, 0o700, lambda done, size: step(0.1 + 0.6 * done / size, "copying"))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_space(place, binary.size) from error
        raise DeployFailed(f"{transport.serial}: {pushed}: {error.strerror}", name=_errno_name(error)) from error
    if pushed != target:
        moved = run_script(transport, f"cp {pushed} {target} && rm {pushed} && chown 0:0 {target}", place.rights)
        if moved.code != 0:
            raise DeployFailed(f"{transport.serial}: {moved.complaint}")
    place.run(["chmod", "700", target])
    step(0.7, "verifying")
    if (found := _sha256(place, target)) != binary.sha256:
        raise DeployFailed(
            f"{transport.serial}: the copy of {binary.path} is damaged: SHA-256 {found} instead of {binary.sha256}",
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


def _stage(transport: Transport) -> str:
    """A directory to push to where the target is another user's."""
    found = run_script(transport, f"for d in {' '.join(STAGES)}; do [ -w $d ] && echo $d && break; done").text
    if not found:
        raise DeployFailed(f"{transport.serial}: neither {' nor '.join(STAGES)} can be written to", name="no_stage")
    return found


def _check_space(place: Daemon, size: int) -> None:
    free = _free_bytes(place)
    if free is not None and free < size + _SPARE:
        raise _no_space(place, size)


def _free_bytes(place: Daemon) -> int | None:
    """None: the device's df says nothing that can be read."""
    fields = place.run(["df", "-Pk", place.directory]).text.splitlines()[-1:]
    words = fields[0].split() if fields else []
    return int(words[3]) * 1024 if len(words) > 3 and words[3].isdecimal() else None


def _no_space(place: Daemon, size: int) -> DeployFailed:
    free = _free_bytes(place)
    has = "too little" if free is None else f"{free} bytes"
    return DeployFailed(
        f"{place.transport.serial}: no space: {place.directory} has {has} free, zcached needs {size + _SPARE} bytes",
        name="ENOSPC",
        hint="free some space there",
    )


def _errno_name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, DeployFailed.default_name)


def _sha256(place: Daemon, path: str) -> str:
    file = shlex.quote(path)
    script = f"sha256sum {file} || toybox sha256sum {file} || busybox sha256sum {file}"
    words = run_script(place.transport, f"{{ {script}; }} 2>/dev/null", place.rights).text.split()
    if words and len(words[0]) == 64:
        return words[0]
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
            _remove(old)
    return daemon


_START = """
if [ "$(id -u)" = 0 ] && [ "$1" != local ]; then
    # Init kills what is in adbd's cgroups when adbd ends.
    for file in /sys/fs/cgroup/cgroup.procs /acct/cgroup.procs /dev/memcg/cgroup.procs /dev/cpuctl/cgroup.procs; do
        [ -w $file ] && echo $$ >$file
    done 2>/dev/null
fi
shift
exec "$@"
"""


def start(place: Daemon, page_size: int | None) -> None:
    """Starts the program of a directory; returns when it is ready. DeployFailed with its own reason if it is not."""
    serial = place.transport.serial
    command = [place.program, "run", "--dir", place.directory, "--detach"]
    if page_size:
        command += ["--page-size", str(page_size)]
    if not place.transport.is_local:
        command += ["--abstract"]
    kind = "local" if place.transport.is_local else "remote"
    started = place.run(["sh", "-c", _START, "sh", kind, *command])
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
        _mark(place)
    except DaemonAbsent:
        stop(there[0], force=True)
        raise
    return there[0]


def _mark(place: Daemon) -> None:
    """Remembers which rights reach the daemon, where the transport's own do not."""
    if place.rights is not Rights.OWN:
        stage = _stage(place.transport)
        run_script(place.transport, f"umask 077; echo {shlex.quote(place.rights.value)} >{stage}/{ROOT_MARK}")


def down(transport: Transport, *, force: bool) -> list[Daemon]:
    """Ends the daemon and removes all that `up` brought; returns what there was. Refused: persistent pages are held."""
    with _alone(transport):
        there = find_all(transport)
        for daemon in there:
            if daemon.alive and not force:
                check_nothing_held(daemon)
        for daemon in there:
            stop(daemon, force)
            _remove(daemon)
        if any(daemon.rights is not Rights.OWN for daemon in there):
            run_script(transport, f"rm -f {' '.join(f'{stage}/{ROOT_MARK}' for stage in STAGES)}")
        return there


_STOP = (
    ALIVE
    + r"""
alive "$1" && kill -TERM "$1"
tries=0
while alive "$1"; do
    [ $tries -lt "$2" ] || exit 9
    [ $tries -lt "$3" ] || kill -KILL "$1"
    tries=$((tries + 1))
    sleep 0.1 2>/dev/null || sleep 1
done
exit 0
"""
)


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
    limits = (2 * patience, patience) if force else (patience, patience)
    stopped = daemon.run(["sh", "-c", _STOP, "sh", str(daemon.pid), *map(str, limits)], timeout=4 * seconds)
    if stopped.code != 0:
        raise DeployFailed(
            f"{daemon.transport.serial}: zcached (pid {daemon.pid}) does not end",
            name="does_not_end",
            hint="" if force else "--force kills it",
        )


def _remove(daemon: Daemon) -> None:
    """Removes what zcache keeps in a directory, and the directory if nothing else is in it."""
    directory = shlex.quote(daemon.directory)
    script = f"cd {directory} && rm -f {' '.join(_FILES)} {_NEW}* && cd / && rmdir {directory} 2>/dev/null; exit 0"
    run_script(daemon.transport, script, daemon.rights)
