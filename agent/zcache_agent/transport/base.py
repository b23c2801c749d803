# SPDX-License-Identifier: Apache-2.0
"""What the agent asks of a way to a device. Every operation ends within its timeout, whatever becomes of the device."""

import contextlib
import errno
import os
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from ..errors import NoDevice

SILENT_HINT = "is the device awake and connected? --timeout allows more"

Progress = Callable[[int, int], None]
"""Told the bytes done and the bytes in all."""


@dataclass(frozen=True)
class Completed:
    """A command that ended."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace").strip()

    @property
    def complaint(self) -> str:
        """What the command said of its failure, on one line."""
        said = self.stderr.strip() or self.stdout.strip()
        return " ".join(said.decode(errors="replace").split()) or f"it ended with code {self.code}"


class ByteStream(Protocol):
    """A connection to a socket or to a command. Raises NoDevice when it breaks or a call takes too long."""

    @property
    def unix(self) -> socket.socket | None:
        """The socket below, where the other end is a process of this machine."""

    def read(self, size: int) -> bytes:
        """1 to `size` bytes, as soon as there are any; b"" when the other side has ended."""

    def write(self, data: bytes) -> None:
        """All of it."""

    def close(self) -> None: ...


class Transport(Protocol):
    """A way to a device. `timeout`, in seconds, is the transport's own where None."""

    @property
    def serial(self) -> str: ...

    @property
    def timeout(self) -> float: ...

    @property
    def is_local(self) -> bool:
        """The device is this machine."""

    @property
    def bytes_second(self) -> int | None:
        """What it carries in a second, where that is so little that it decides what can be done."""

    def run(self, argv: Sequence[str], *, timeout: float | None = None) -> Completed:
        """Runs a command to its end."""

    def push(self, source: Path, target: str, mode: int, progress: Progress | None = None) -> None:
        """Copies a file of this machine to the device. Raises OSError for what the device says of its file."""

    def pull(self, source: str, limit: int) -> bytes:
        """A file of the device, which may have `limit` bytes. Raises OSError for what the device says of it."""

    def open_socket(self, address: str) -> ByteStream:
        """Connects to a Unix socket: a path, or @name for an abstract one."""

    def open_command(self, argv: Sequence[str]) -> ByteStream:
        """Starts a command with its standard input and output as the stream."""

    def forget(self) -> None:
        """Removes from the device what the transport itself has brought there; it may still be used."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class Interruptible(Protocol):
    """A transport on which a wait can be ended before its deadline."""

    def interrupt(self) -> None:
        """Called from another thread: what waits for the device now fails; what is begun later does not."""


class Awaited:
    """What a transport may be waiting for."""

    def __init__(self) -> None:
        self._things: weakref.WeakSet[socket.socket | subprocess.Popen[bytes]] = weakref.WeakSet()
        self._lock = threading.Lock()

    def add(self, thing: "socket.socket | subprocess.Popen[bytes]") -> None:
        with self._lock:
            self._things.add(thing)

    def end(self) -> None:
        """From any thread. Whoever reads from one of them finds its end."""
        with self._lock:
            for thing in self._things:
                with contextlib.suppress(OSError):
                    thing.shutdown(socket.SHUT_RDWR) if isinstance(thing, socket.socket) else thing.kill()


class Deadline:
    """A moment by which something must have ended."""

    def __init__(self, seconds: float, serial: str) -> None:
        self._seconds = seconds
        self._serial = serial
        self.restart()

    def restart(self) -> None:
        self._end = time.monotonic() + self._seconds

    @property
    def past(self) -> bool:
        return time.monotonic() >= self._end

    def remaining(self) -> float:
        """Seconds left, more than 0. NoDevice: there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise self.expired()
        return left

    def expired(self) -> NoDevice:
        return NoDevice(
            f"{self._serial}: no answer within {self._seconds:g} s",
            name="timeout",
            hint=SILENT_HINT,
        )


class SocketStream:
    """A ByteStream over a connected socket."""

    def __init__(
        self,
        connection: socket.socket,
        serial: str,
        timeout: float,
        *,
        unix: bool = False,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        """`at_end` is called when the other side has ended; it raises NoDevice if the device has gone with it."""
        self._connection = connection
        self._serial = serial
        self._timeout = timeout
        self._unix = unix
        self._at_end = at_end

    @property
    def unix(self) -> socket.socket | None:
        return self._connection if self._unix else None

    def read(self, size: int) -> bytes:
        deadline = Deadline(self._timeout, self._serial)
        try:
            self._connection.settimeout(deadline.remaining())
            data = self._connection.recv(size)
        except TimeoutError:
            raise deadline.expired() from None
        except OSError as error:
            raise lost(self._serial, error) from error
        if not data:
            self._at_end()
        return data

    def write(self, data: bytes) -> None:
        deadline = Deadline(self._timeout, self._serial)
        try:
            self._connection.settimeout(deadline.remaining())
            self._connection.sendall(data)  # the timeout is of the whole
        except TimeoutError:
            raise deadline.expired() from None
        except OSError as error:
            raise lost(self._serial, error) from error

    def close(self) -> None:
        self._connection.close()


def lost(serial: str, why: object = "") -> NoDevice:
    said = f": {why}" if str(why) else ""
    return NoDevice(
        f"{serial}: the connection broke{said}",
        name="lost",
        hint="zcache devices shows what is connected; zcache log shows what the daemon said last",
    )


def file_error(path: str, said: bytes) -> OSError:
    """What a device says of a file of its own, as the error it is."""
    text = said.decode(errors="replace").strip()
    for number in (errno.ENOSPC, errno.EACCES, errno.ENOENT, errno.EROFS, errno.EPERM):
        if os.strerror(number).lower() in text.lower():
            return OSError(number, os.strerror(number), path)
    return OSError(errno.EIO, text or "the device gave no reason", path)
