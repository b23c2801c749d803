# SPDX-License-Identifier: Apache-2.0
"""A device behind an adb server. The server is used as it is: never restarted, started only where none runs."""

import contextlib
import os
import re
import shlex
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from adbutils import AdbConnection, AdbError, adb_path
from adbutils.errors import AdbTimeout

from ..errors import DaemonAbsent, NoDevice, Usage
from .base import SILENT_HINT, Awaited, ByteStream, Completed, Deadline, Progress, SocketStream, file_error, lost

DEFAULT_PORT = 5037
_SERVER_START_SECONDS = 20
_CONNECT_SECONDS = 10.0
_STARTING = threading.Lock()
_CHUNK = 64 * 1024  # the sync protocol's largest
_STDOUT, _STDERR, _EXIT = 1, 2, 3  # packets of the shell protocol, version 2
_EXIT_MARK = b"zcache-exit:"
_TAG = re.compile(r"\b(usb|product|model|device|transport_id):(\S+)")

STATE_HINTS = {
    "unauthorized": "accept the prompt on the phone",
    "offline": "it does not answer adb: replug it, or run adb reconnect offline",
    "connecting": "it is being connected: try again, or run zcache wait",
    "authorizing": "accept the prompt on the phone",
    "no permissions": "this user may not open the USB device: see the udev rules for adb",
    "recovery": "it runs its recovery system: boot it normally",
    "sideload": "it waits for a sideload: boot it normally",
    "bootloader": "it is in its bootloader: boot it normally",
}


@dataclass(frozen=True)
class AdbDevice:
    """A line of `adb devices -l`."""

    serial: str
    state: str
    model: str

    @property
    def usable(self) -> bool:
        return self.state == "device"

    @property
    def hint(self) -> str:
        if self.usable:
            return ""
        return next((hint for state, hint in STATE_HINTS.items() if self.state.startswith(state)), "boot it normally")

    def __str__(self) -> str:
        return f"{self.serial} ({self.state}{': ' if self.hint else ''}{self.hint})"

    @classmethod
    def parse(cls, line: str) -> Self:
        serial, rest = [*line.split(maxsplit=1), ""][:2]
        tags = dict(_TAG.findall(rest))
        return cls(serial, _TAG.sub("", rest).strip(), tags.get("model", "").replace("_", " "))


class _Connection(AdbConnection):  # type: ignore[misc] # it has no types
    """A connection that was made; adbutils would start a server of its own choice, and knows no IPv6."""

    def __init__(self, connected: socket.socket) -> None:
        self._connected = connected
        super().__init__("", 0)

    def _safe_connect(self) -> socket.socket:
        return self._connected


class AdbServer:
    """The adb server that adb itself would use, by its environment variables."""

    def __init__(self, timeout: float) -> None:
        self.host, self.port = _server_address()
        self.timeout = timeout

    def devices(self) -> list[AdbDevice]:
        return [AdbDevice.parse(line) for line in self.query("host:devices-l", self.timeout).splitlines() if line]

    def choose(self, serial: str | None) -> str:
        """The device of that serial, or the only one there is. NoDevice: it cannot be used, or which one is meant?"""
        devices = self.devices()
        seen = ", ".join(map(str, devices)) or "none"
        meant = [device for device in devices if serial in (None, device.serial)]
        if not meant:
            what = f"no device {serial}" if serial else "no device"
            raise NoDevice(f"{what}: adb sees {seen}", hint=_missing_hint(serial))
        if len(meant) > 1:
            raise NoDevice(
                f"more than one device: {seen}", name="ambiguous_device", hint="name one: -s SERIAL, or ZCACHE_SERIAL"
            )
        if not meant[0].usable:
            raise NoDevice(f"device {meant[0].serial} is {meant[0].state}", name=meant[0].state, hint=meant[0].hint)
        return meant[0].serial

    def query(self, service: str, timeout: float) -> str:
        """Asks the server itself; the answer is a text."""
        with self.connect(Deadline(timeout, "adb server")) as connection, _translated("adb server"):
            connection.send_command(service)
            connection.check_okay()
            return str(connection.read_string_block())

    def connect(self, deadline: Deadline) -> AdbConnection:
        connection = _Connection(self._reach(deadline))
        connection.conn.settimeout(deadline.remaining())
        return connection

    def _reach(self, deadline: Deadline) -> socket.socket:
        with contextlib.suppress(ConnectionRefusedError):
            return self._connected(deadline)
        with _STARTING:  # of several devices, one starts it
            try:
                return self._connected(deadline)
            except ConnectionRefusedError:
                self._start()
        try:
            return self._connected(deadline)
        except ConnectionRefusedError:
            raise NoDevice(f"no {self}", name="no_adb_server", hint="run adb start-server") from None

    def _connected(self, deadline: Deadline) -> socket.socket:
        """ConnectionRefusedError: none runs."""
        try:
            connection = socket.create_connection((self.host, self.port), min(_CONNECT_SECONDS, deadline.remaining()))
        except ConnectionRefusedError:
            raise
        except OSError as error:
            raise NoDevice(
                f"{self} does not answer: {error.strerror or error}",
                name="no_adb_server",
                hint="check ADB_SERVER_SOCKET and ANDROID_ADB_SERVER_PORT",
            ) from error
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # one that is far away may go unheard
        return connection

    def _start(self) -> None:
        if self.host not in ("127.0.0.1", "localhost", "::1"):
            raise NoDevice(
                f"no {self}",
                name="no_adb_server",
                hint="start it there: adb -a nodaemon server, or unset ADB_SERVER_SOCKET",
            )
        try:
            started = subprocess.run(
                [adb_path(), "-P", str(self.port), "start-server"],
                capture_output=True,
                timeout=_SERVER_START_SECONDS,
                check=False,
                env={name: value for name, value in os.environ.items() if name != "ADB_SERVER_SOCKET"},
            )
        except (AdbError, OSError, subprocess.TimeoutExpired) as error:
            raise NoDevice(
                f"no {self} and none could be started: {error}", name="no_adb_server", hint="install adb"
            ) from error
        if started.returncode != 0:
            said = (started.stderr or started.stdout).decode(errors="replace").strip()
            raise NoDevice(
                f"no {self} and none could be started: {said}", name="no_adb_server", hint="run adb start-server"
            )

    def __str__(self) -> str:
        return f"adb server at {self.host}:{self.port}"


def _missing_hint(serial: str | None) -> str:
    if serial and ":" in serial:
        return f"adb connect {serial}"
    return "connect one and allow USB debugging on it; -s local is this machine"


def _server_address() -> tuple[str, int]:
    """As adb reads them: ADB_SERVER_SOCKET, else ANDROID_ADB_SERVER_ADDRESS and ANDROID_ADB_SERVER_PORT."""
    if spec := os.environ.get("ADB_SERVER_SOCKET"):
        kind, _, rest = spec.partition(":")
        host, _, port = rest.rpartition(":")
        if kind != "tcp" or not port.isdecimal():
            raise Usage(f"ADB_SERVER_SOCKET={spec}: only tcp:[HOST:]PORT is supported", hint="e.g. tcp:127.0.0.1:5037")
        return host.strip("[]") or "127.0.0.1", int(port)
    port = os.environ.get("ANDROID_ADB_SERVER_PORT", str(DEFAULT_PORT))
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise Usage(f"ANDROID_ADB_SERVER_PORT={port}: not a port", hint="1..65535")
    return os.environ.get("ANDROID_ADB_SERVER_ADDRESS", "127.0.0.1"), int(port)


class AdbTransport:
    is_local = False
    bytes_second: int | None = None

    def __init__(self, serial: str, timeout: float = 30.0) -> None:
        self.serial = serial
        self.timeout = timeout
        self._server = AdbServer(timeout)
        self._awaited = Awaited()

    def restart_as_root(self) -> None:
        """What `adb root` does. Ends the connections of everybody to this device, and what adbd keeps alive."""
        deadline = Deadline(self.timeout, self.serial)
        try:
            with self._open("root:", deadline) as wire:
                said = wire.read_to_end().decode(errors="replace").strip()
        except NoDevice as error:
            if error.name != "lost":
                raise
            self._check_present()
            said = "its adbd cannot"
        if "already" in said:
            return
        if "restarting" not in said:
            raise DaemonAbsent(f"{self.serial}: adb root: {said}", name="no_root", hint="leave out --adb-root")
        while True:
            time.sleep(min(0.5, deadline.remaining()))
            with contextlib.suppress(NoDevice):
                if self.run(["id", "-u"], timeout=deadline.remaining()).text == "0":
                    return

    @cached_property
    def features(self) -> frozenset[str]:
        with _translated(self.serial):
            return frozenset(self._server.query(f"host-serial:{self.serial}:features", self.timeout).split(","))

    def run(self, argv: Sequence[str], *, timeout: float | None = None) -> Completed:
        deadline = Deadline(timeout or self.timeout, self.serial)
        if "shell_v2" in self.features:
            return self._run_v2(shlex.join(argv), deadline)
        return self._run_exec(shlex.join(argv), deadline)

    def _run_v2(self, command: str, deadline: Deadline) -> Completed:
        said = {_STDOUT: bytearray(), _STDERR: bytearray()}
        with self._open(f"shell,v2,raw:{command}", deadline) as wire:
            while True:
                kind, size = struct.unpack("<BI", wire.read_exactly(5))
                data = wire.read_exactly(size)
                if kind == _EXIT:
                    return Completed(data[0], bytes(said[_STDOUT]), bytes(said[_STDERR]))
                if kind in said:
                    said[kind] += data

    def _run_exec(self, command: str, deadline: Deadline) -> Completed:
        """For an adbd without the shell protocol: both outputs are one, the exit code comes at its end."""
        with self._open(f"exec:({command}); echo {_EXIT_MARK.decode()}$?", deadline) as wire:
            text, mark, code = wire.read_to_end().rpartition(_EXIT_MARK)
        if not mark or not code.strip().isdigit():
            raise lost(self.serial)
        return Completed(int(code), text, b"")

    def push(self, source: Path, target: str, mode: int, progress: Progress | None = None) -> None:
        size = source.stat().st_size
        deadline = Deadline(self.timeout, self.serial)
        with source.open("rb") as file, self._open("sync:", deadline) as wire:
            wire.write(_sync(b"SEND", f"{target},{0o100000 | mode}".encode()))
            while data := file.read(_CHUNK):
                wire.write(_sync(b"DATA", data))
                deadline.restart()
                if progress:
                    progress(file.tell(), size)
            wire.write(struct.pack("<4sI", b"DONE", int(time.time())))
            answer, length = struct.unpack("<4sI", wire.read_exactly(8))
            if answer != b"OKAY":
                raise file_error(target, wire.read_exactly(length))

    def pull(self, source: str, limit: int) -> bytes:
        content = bytearray()
        deadline = Deadline(self.timeout, self.serial)
        with self._open("sync:", deadline) as wire:
            wire.write(_sync(b"RECV", source.encode()))
            while True:
                answer, length = struct.unpack("<4sI", wire.read_exactly(8))
                if answer == b"DONE" or len(content) >= limit:
                    return bytes(content[:limit])
                data = wire.read_exactly(length)
                if answer != b"DATA":
                    raise file_error(source, data)
                content += data
                deadline.restart()

    def open_socket(self, address: str) -> ByteStream:
        kind, name = ("localabstract", address[1:]) if address.startswith("@") else ("localfilesystem", address)
        return self._open_stream(f"{kind}:{name}")

    def open_command(self, argv: Sequence[str]) -> ByteStream:
        """By exec:, which leaves bytes as they are. It would mix standard error into them."""
        return self._open_stream(f"exec:{shlex.join(argv)} 2>/dev/null")

    def _open_stream(self, service: str) -> ByteStream:
        wire = self._open(service, Deadline(self.timeout, self.serial))
        return SocketStream(wire.connection.conn, self.serial, self.timeout, at_end=self._check_present)

    def _check_present(self) -> None:
        """adb ends a stream, or refuses it, in the same way whether its service or the device has gone."""
        self._server.choose(self.serial)

    def _open(self, service: str, deadline: Deadline) -> "_Wire":
        connection = self._server.connect(deadline)
        self._awaited.add(connection.conn)
        try:
            with _translated(self.serial):
                connection.send_command(f"host:transport:{self.serial}")
                connection.check_okay()
            with _translated(self.serial, service):
                connection.send_command(service)
                connection.check_okay()
        except BaseException as error:
            connection.close()
            if isinstance(error, DaemonAbsent):
                self._check_present()
            raise
        return _Wire(connection, deadline, self.serial)

    def forget(self) -> None:
        pass

    def interrupt(self) -> None:
        self._awaited.end()

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Wire:
    """An open service of a device; all of its life has one deadline."""

    def __init__(self, connection: AdbConnection, deadline: Deadline, serial: str) -> None:
        self.connection = connection
        self._deadline = deadline
        self._serial = serial

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.conn.close()

    def read(self, size: int) -> bytes:
        with self._guarded() as wire:
            return wire.recv(size)

    def read_exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = self.read(size - len(data))
            if not chunk:
                raise lost(self._serial)
            data += chunk
        return bytes(data)

    def read_to_end(self) -> bytes:
        data = bytearray()
        while chunk := self.read(_CHUNK):
            data += chunk
        return bytes(data)

    def write(self, data: bytes) -> None:
        with self._guarded() as wire:
            wire.sendall(data)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[socket.socket]:
        wire: socket.socket = self.connection.conn
        wire.settimeout(self._deadline.remaining())
        try:
            yield wire
        except TimeoutError:
            raise self._deadline.expired() from None
        except OSError as error:
            raise lost(self._serial, error.strerror or error) from error


def _sync(command: bytes, data: bytes) -> bytes:
    return struct.pack("<4sI", command, len(data)) + data


@contextlib.contextmanager
def _translated(who: str, service: str = "") -> Iterator[None]:
    """adbutils' exceptions as ours. `service`: the device is there, so what fails is this service of it."""
    try:
        yield
    except (AdbTimeout, TimeoutError):
        raise NoDevice(f"{who}: no answer in time", name="timeout", hint=SILENT_HINT) from None
    except (AdbError, OSError, EOFError, ValueError) as error:
        said = str(error)
        for state, hint in STATE_HINTS.items():
            if f"device {state}" in said or f"device still {state}" in said:
                raise NoDevice(f"{who}: {said.splitlines()[0]}", name=state, hint=hint) from error
        if "not found" in said:
            raise NoDevice(f"{who}: adb knows no such device", hint="zcache devices lists what it sees") from error
        if service.startswith("local"):
            raise DaemonAbsent(f"{who}: nobody listens on {service}", hint="zcache up starts the daemon") from error
        raise lost(who, said) from error
