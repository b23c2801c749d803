# SPDX-License-Identifier: Apache-2.0
"""Has zcached, on the device, carry out a plan as a whole or not at all, and what was cut off rolled back or forward.

From the moment that the plan has arrived it needs nobody here.
"""

import time
from collections.abc import Callable, Iterator, Sequence

from .daemon import START, Daemon, find_all
from .errors import DaemonAbsent, NoDevice, Refused
from .transport.base import ByteStream, Transport

_SECONDS = 600.0
"""What memory that is swapped out may need to come back."""
JOURNAL = "zcached.apply"
_HEAD = "zcache-apply 1"

Say = Callable[[str], None]


def silent(line: str) -> None: ...


def choose(transport: Transport, root: bool) -> Daemon:
    """The directory of zcache whose zcached is to do it. DaemonAbsent: none is there, or none with the rights."""
    there = sorted(find_all(transport), key=lambda daemon: daemon.alive, reverse=True)
    wanted = [daemon for daemon in there if not root or _is_root(daemon)]
    if wanted:
        return wanted[0]
    if there:
        raise Refused(
            f"{transport.serial}: settings of the kernel need root, and zcached is there as {there[0].user} only",
            name="EPERM",
            hint="run zcache as root" if transport.is_local else "zcache down; zcache up --root",
        )
    raise DaemonAbsent(
        f"{transport.serial}: no zcached is there, which changes settings",
        hint=f"zcache up{' --root' if root and not transport.is_local else ''}",
    )


def _is_root(daemon: Daemon) -> bool:
    return daemon.run(["id", "-u"]).text == "0"


def settle(there: Sequence[Daemon], say: Say = silent) -> None:
    """Rolls back or forward what was cut off. Refused: it cannot be, or it is under way."""
    for daemon in there:
        if not daemon.applying:
            continue
        command = [daemon.program, "apply", "--recover", "--dir", daemon.directory]
        ran = daemon.run(command, timeout=_SECONDS)
        if ran.code != 0:
            raise Refused(f"{daemon.transport.serial}: {ran.complaint}", name="stuck", hint="zcache status; zcache log")
        for line in ran.text.splitlines():
            say(line)
        if not ran.text and _has_journal(daemon):
            raise Refused(
                f"{daemon.transport.serial}: another change of settings is at work",
                name="EBUSY",
                hint="zcache status says when it is done",
            )


def _has_journal(daemon: Daemon) -> bool:
    return daemon.run(["test", "-e", f"{daemon.directory}/{JOURNAL}"]).code == 0


def plan_text(steps: Sequence[str]) -> str:
    """As `zcached apply` reads it: native/zcached/apply/apply.h."""
    return "".join(f"{line}\n" for line in (_HEAD, *steps, "end"))


def run(daemon: Daemon, plan: Sequence[str], say: Say = silent) -> str:
    """Carries it out; returns what zcached said of it. Refused: all is as it was, and why."""
    kind = "local" if daemon.transport.is_local else "remote"
    command = [daemon.program, "apply", "--dir", daemon.directory, "--detach"]
    stream = daemon.transport.open_command(daemon.rights.wrap(["sh", "-c", START, "sh", kind, *command]))
    last = ""
    try:
        stream.write(plan_text(plan).encode())
        for last in _lines(lambda size: _read(daemon, stream, size)):
            say(last)
    except NoDevice as error:
        error.hint = "what was begun goes on on the device: zcache status says what became of it"
        raise
    finally:
        stream.close()
    outcome, _, why = last.partition(": ")
    if outcome == "applied":
        return why
    if outcome == "stuck":
        raise Refused(f"{daemon.transport.serial}: {why}", name="stuck", hint="zcache config diff tries again")
    if outcome in ("undone", "refused"):
        changed = "all is as it was" if outcome == "undone" else "nothing was changed"
        raise Refused(f"{daemon.transport.serial}: {why}", name=outcome, hint=changed)
    raise DaemonAbsent(
        f"{daemon.transport.serial}: zcached ended before all was done",
        name="cut_off",
        hint="zcache config diff rolls it back or forward",
    )


def _lines(read: Callable[[int], bytes]) -> Iterator[str]:
    received = b""
    while data := read(65536):
        received += data
        *lines, received = received.split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")


def _read(daemon: Daemon, stream: ByteStream, size: int) -> bytes:
    """It may be silent for longer than the transport waits, while the device answers others."""
    end = time.monotonic() + _SECONDS
    while True:
        try:
            return stream.read(size)
        except NoDevice as error:
            if error.name != "timeout" or time.monotonic() > end:
                raise
            daemon.run(["true"])
