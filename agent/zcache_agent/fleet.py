# SPDX-License-Identifier: Apache-2.0
"""Several devices in one command: which they are, and work on all of them side by side."""

import contextlib
import ctypes
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from .errors import NoDevice, Usage

ALL = "all"
"""Instead of a serial: every device that adb sees, in whatever state."""
AT_ONCE = 16
"""Devices that are worked on at the same time; the others wait for their turn."""
_LOOK_SECONDS = 0.5
"""A signal that comes just before a wait does not end it: no wait is longer."""

_COMMA = re.compile(r"(?<!\\),")
_HINT = r"-s all, or -s SERIAL,SERIAL,…; a comma within a name is \,"


def split(spec: str) -> list[str]:
    r"""The serials in a list with commas.

    A number behind a serial line is its speed: serial:/dev/ttyUSB0,115200. `\\,` is a comma within a serial.
    """
    found: list[str] = []
    for piece in map(str.strip, _COMMA.split(spec)):
        if piece.isdecimal() and found and found[-1].startswith("serial:") and not _COMMA.search(found[-1]):
            found[-1] += f",{piece}"
        else:
            found.append(piece)
    if len(found) > 1 and "" in found:
        raise Usage(f"{spec}: a comma with no serial beside it", hint=_HINT)
    return [serial.replace("\\,", ",") for serial in found]


def is_fleet(serials: Sequence[str]) -> bool:
    """`all` is one even where it is a single device: what comes out must not depend on what is plugged in."""
    return len(serials) > 1 or ALL in serials


def expand(serials: Iterable[str], timeout: float) -> list[str]:
    """With adb's devices in the place of `all`, each once. NoDevice: there are none."""
    found: list[str] = []
    for serial in serials:
        found += _adb_devices(timeout) if serial == ALL else [serial]
    if not found:
        raise NoDevice("no device: adb sees none", hint="connect one and allow USB debugging on it, or name it by -s")
    return list(dict.fromkeys(found))


def _adb_devices(timeout: float) -> list[str]:
    from .transport.adb import AdbServer  # adbutils is slow to import

    return [device.serial for device in AdbServer(timeout).devices()]


@dataclass
class Job:
    """Work on one device."""

    work: Callable[[], None]
    wake: Callable[[], None] = lambda: None
    """Called from another thread: what the work waits for ends now."""
    done: bool = False
    """Neither interrupted nor left out."""
    bug: Exception | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    _thread: int | None = None
    _left_out: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        try:
            self._run()
            self.done = True
        except KeyboardInterrupt:
            pass
        except Exception as bug:
            self.bug = bug
        finally:
            self.ended.set()

    def _run(self) -> None:
        with self._lock:
            if self._left_out:
                raise KeyboardInterrupt
            self._thread = threading.get_ident()
        try:
            self.work()
        finally:
            with self._lock:
                self._thread = None

    def interrupt(self) -> None:
        """As Ctrl-C would, were it alone: KeyboardInterrupt is raised in the work, which takes away what it made.

        Work that has not begun never does.
        """
        with self._lock:
            self._left_out = True
            if self._thread is None:
                self.ended.set()
                return
            thread, error = ctypes.c_ulong(self._thread), ctypes.py_object(KeyboardInterrupt)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, error)
            self.wake()


def side_by_side(jobs: Sequence[Job], at_once: int = AT_ONCE) -> None:
    """Does them all. KeyboardInterrupt, once each has ended: there was one, and what it met is not `done`.

    What one raises is raised when all have ended. No pool of threads is used: what interrupts the making of its threads
    makes it forget some.
    """
    todo = deque(jobs)

    def work() -> None:
        with contextlib.suppress(IndexError):  # nothing is left to do
            while True:
                todo.popleft().run()

    interrupted = False
    try:
        for _ in range(min(at_once, len(jobs))):
            threading.Thread(target=work, daemon=True).start()
        _wait(jobs)
    except KeyboardInterrupt:
        interrupted = True
    while interrupted:
        try:
            for job in jobs:
                job.interrupt()
            _wait(jobs)
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            if all(job.ended.is_set() for job in jobs):
                raise
    for job in jobs:
        if job.bug:
            raise job.bug


def _wait(jobs: Sequence[Job]) -> None:
    for job in jobs:
        while not job.ended.wait(_LOOK_SECONDS):
            pass
