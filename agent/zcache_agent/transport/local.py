# SPDX-License-Identifier: Apache-2.0
"""This machine as the device: commands are child processes, sockets are reached directly."""

import os
import platform
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import DaemonAbsent, Usage
from .base import Awaited, ByteStream, Completed, Deadline, Progress, SocketStream


def default_dir() -> str:
    if given := os.environ.get("ZCACHE_DIR"):
        return str(Path(given).absolute())
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return f"{runtime}/zcache"
    return f"/tmp/zcache-{os.getuid()}"  # noqa: S108 (the daemon makes it 0700, and refuses a foreign one)


class LocalTransport:
    is_local = True
    bytes_second: int | None = None

    def __init__(self, directory: str | None = None, timeout: float = 30.0) -> None:
        if sys.platform != "linux":
            raise Usage(
                f"local: zcached runs on Linux only, and this is {platform.system()}",
                hint="name a device: -s SERIAL; zcache devices lists them",
            )
        self.directory = str(Path(directory).absolute()) if directory else default_dir()
        self.serial = f"local:{directory}" if directory else "local"
        self.timeout = timeout
        self._awaited = Awaited()

    def run(self, argv: Sequence[str], *, timeout: float | None = None) -> Completed:
        deadline = Deadline(timeout or self.timeout, self.serial)
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
        except OSError as error:
            return Completed(127, b"", f"{argv[0]}: {error.strerror}".encode())
        self._awaited.add(process)
        with process:
            try:
                stdout, stderr = process.communicate(timeout=deadline.remaining())
            except subprocess.TimeoutExpired:
                raise deadline.expired() from None
            finally:
                process.kill()  # which it needs only if it was not awaited to its end
        return Completed(process.returncode, stdout, stderr)

    def push(self, source: Path, target: str, mode: int, progress: Progress | None = None) -> None:
        shutil.copyfile(source, target)
        Path(target).chmod(mode)
        if progress:
            size = source.stat().st_size
            progress(size, size)

    def pull(self, source: str, limit: int) -> bytes:
        with Path(source).open("rb") as file:
            return file.read(limit)

    def open_socket(self, address: str) -> ByteStream:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(self.timeout)
            connection.connect("\0" + address[1:] if address.startswith("@") else address)
        except OSError as error:
            connection.close()
            raise DaemonAbsent(
                f"{self.serial}: {address}: {error.strerror or error}", hint="zcache up starts it"
            ) from error
        self._awaited.add(connection)
        return SocketStream(connection, self.serial, self.timeout, unix=True)

    def open_command(self, argv: Sequence[str]) -> ByteStream:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = subprocess.Popen(
                    argv, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.DEVNULL
                )
            except OSError as error:
                ours.close()
                raise DaemonAbsent(f"{self.serial}: {argv[0]}: {error.strerror}") from error
        threading.Thread(target=process.wait, daemon=True).start()  # so that it leaves no zombie
        self._awaited.add(ours)
        return SocketStream(ours, self.serial, self.timeout)

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
