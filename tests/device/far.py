# SPDX-License-Identifier: Apache-2.0
"""A machine from which nothing but the adb server can be reached: a network namespace, with a relay on a Unix socket.

As a program, `far.py SOCKET HOST PORT COMMAND…`, it is the inside: HOST:PORT there leads to the socket.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

HOST = "127.0.0.2"
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


@contextlib.contextmanager
def relayed(listener: socket.socket, connect: Callable[[], socket.socket]) -> Iterator[None]:
    """Whoever connects to the listener speaks with what `connect` reaches."""

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = connect()
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=_copy, args=(one, other), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield
        listener.shutdown(socket.SHUT_RDWR)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def adb_server(path: Path, port: int) -> Iterator[list[str]]:
    """The beginning of a command line that is run far away, where HOST:port is the adb server at that port here."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    with relayed(listener, lambda: socket.create_connection(("127.0.0.1", port))):
        yield [*_namespace(), sys.executable, __file__, str(path), HOST, str(port)]


def _namespace() -> list[str]:
    """Where this user may have none, what is run far away can reach more, and still finds the server at HOST only."""
    user = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user, "--net"]
    return command if subprocess.run([*command, "true"], check=False).returncode == 0 else []


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket, contextlib.suppress(PermissionError):
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def main(path: str, host: str, port: str, *command: str) -> int:
    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        return connection

    _raise_loopback()
    with relayed(socket.create_server((host, int(port))), connect):
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
