# SPDX-License-Identifier: Apache-2.0
"""zcache-agent.pyz: the closed loop beside the daemon, unattended. program.py says which modules it finds there."""

import argparse
import contextlib
import fcntl
import json
import os
import pkgutil
import signal
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import DaemonAbsent, ZcacheError
from ..gather import Gatherer
from ..loop.bounds import Bounds, parse_bounds
from ..loop.events import Event, Events
from ..loop.run import Loop
from ..transport.local import LocalTransport
from .files import CONFIG, CONFIG_HASH, LOG, NAME, STATE

LOG_BYTES = 256 * 1024
"""A log that would grow beyond is kept as NAME.log.1, in the place of the one before."""
_TIMEOUT = 30.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=NAME, description="The closed loop of zcache, on the device itself.")
    parser.add_argument("command", choices=("start", "run"),
                        help="start: in the background, and return once it runs; run: until ended")  # fmt: skip
    parser.add_argument("--dir", type=Path, default=Path(sys.argv[0]).absolute().parent,
                        help="the daemon's directory, and that of state and log; else this file's")  # fmt: skip
    parser.add_argument("--version", action="version", version=__version__)
    given = parser.parse_args(arguments)
    os.umask(0o077)
    try:
        with _alone(given.dir) as is_ours:
            if given.command == "run":
                _run(given.dir, is_ours)
            else:
                _run_in_background(given.dir, is_ours)
    except ZcacheError as error:
        return _complain(error.message, error.exit_code)
    except OSError as error:
        return _complain(f"{error.filename or given.dir}: {error.strerror}", ZcacheError.exit_code)
    return 0


def _complain(message: str, code: int) -> int:
    print(f"{NAME}: {message}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[Callable[[], bool]]:
    """A function that tells whether the directory is still this one's: who removes its lock takes that away.
    DaemonAbsent: another one runs. A child that goes on keeps the lock."""
    with (directory / f"{NAME}.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DaemonAbsent(f"one runs already in {directory}") from None
        yield lambda: os.fstat(file.fileno()).st_nlink > 0


def _run_in_background(directory: Path, is_ours: Callable[[], bool]) -> None:
    """In a child of no session and no terminal; the parent returns when that is at work."""
    told, tells = os.pipe()
    if os.fork():
        os.close(tells)
        if not os.read(told, 1):
            raise ZcacheError(f"it ended at once; {directory / LOG} may say why")
        return
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    _run(directory, is_ours, lambda: os.write(tells, b"1"))


def _run(directory: Path, is_ours: Callable[[], bool], ready: Callable[[], object] = lambda: None) -> None:
    """Until a signal ends it, which takes the state along; what else ends it leaves that, and says why in the log."""
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, _end)
    table = tomllib.loads(_resource(CONFIG))["agent"]

    def bounds_of(memory: int, page_size: int) -> Bounds:
        return parse_bounds(table, memory, page_size)

    def goes_on() -> bool:
        diary.keep()
        return is_ours()

    diary = Diary(directory)
    diary.begin()
    events = Events(diary.put)
    events.tell("started", message=f"zcache {__version__}, pid {os.getpid()}, config {diary.state['config'][:12]}")
    ready()
    try:
        with Gatherer(lambda _: LocalTransport(str(directory), _TIMEOUT)) as gatherer:
            Loop(gatherer, bounds_of, events, unattended=True).run(None, None, goes_on)
    except KeyboardInterrupt:
        events.tell("stopped")
        diary.end()
    except BaseException as bug:
        events.tell("failed", message=f"internal error: {type(bug).__name__}: {bug}")
        raise


def _end(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _resource(name: str) -> str:
    """Of what program.py has put beside the package."""
    content = pkgutil.get_data("zcache_agent", name)
    assert content is not None
    return content.decode()


class Diary:
    """What others are told of it: the log, and the state, key=value lines which are exchanged as a whole."""

    def __init__(self, directory: Path) -> None:
        self._log = directory / LOG
        self._file = directory / STATE
        self.state: dict[str, Any] = {
            "pid": os.getpid(),
            "start": _started(),
            "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "version": __version__,
            "config": _resource(CONFIG_HASH).strip(),
            "python": sys.executable,
            "since": int(time.time()),
            "decisions": 0,
            "refused": 0,
            "waits_for": "",
            "last": "",
        }

    def put(self, event: Event) -> None:
        """Storage that is full or broken ends no loop."""
        kind = event["event"]
        if kind in ("set", "refused"):
            self.state["decisions"] += 1
            self.state["refused"] += kind == "refused"
            self.state["last"] = _json(event)
        if kind in ("lost", "found"):
            self.state["waits_for"] = event.get("message", "")
        with contextlib.suppress(OSError):
            self._write_log(_json(event) + "\n")
        with contextlib.suppress(OSError):
            self._write_state()

    def end(self) -> None:
        self._file.unlink(missing_ok=True)

    def begin(self) -> None:
        """What cannot be written fails here; later it is not missed."""
        self._write_state()

    def keep(self) -> None:
        """A state that somebody has removed is written again, unless the directory went with it."""
        if not self._file.exists():
            with contextlib.suppress(OSError):
                self._write_state()

    def _write_state(self) -> None:
        new = self._file.with_suffix(".new")
        new.write_text("".join(f"{key}={value}\n" for key, value in self.state.items()), encoding="utf-8")
        new.replace(self._file)

    def _write_log(self, line: str) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(line)
            size = file.tell()
        if size > LOG_BYTES:
            self._log.replace(f"{self._log}.1")


def _json(event: Event) -> str:
    return json.dumps(event, ensure_ascii=False)


def _started() -> str:
    """When this process began, in ticks after the boot: with the pid, what no other process has."""
    return Path("/proc/self/stat").read_text().rpartition(") ")[2].split()[19]
