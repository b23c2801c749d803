# SPDX-License-Identifier: Apache-2.0
"""This machine as the device: commands are child processes, sockets are reached directly."""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import DaemonAbsent
from .base import ByteStream, Completed, Deadline, Progress, SocketStream


def default_dir() -> str:
    if given := os.environ.get("ZCACHE_DIR"):
        return str(Path(given).absolute())
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return f"{runtime}/zcache"
    return f"/tmp/zcache-{os.getuid()}"  # noqa: S108 (the daemon makes it 0700, and refuses a foreign one)


class LocalTransport:
    is_local = True

    def __init__(self, directory: str | None = None, timeout: float = 30.0) -> None:
        self.directory = str(Path(directory).absolute()) if directory else default_dir()
        self.serial = f"local:{directory}" if directory else "local"
        self.timeout = timeout

    def run(self, argv: Sequence[str], *, timeout: float | None = None) -> Completed:
        deadline = Deadline(timeout or self.timeout, self.serial)
        try:
            ended = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=deadline.remaining(), check=False
            )
        except OSError as error:
            return Completed(127, b"", f"{argv[0]}: {error.strerror}".encode())
        except subprocess.TimeoutExpired:
            raise deadline.expired() from None
        return Completed(ended.returncode, ended.stdout, ended.stderr)

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
        return SocketStream(ours, self.serial, self.timeout)

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
