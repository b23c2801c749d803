# SPDX-License-Identifier: Apache-2.0
"""A fake adb server: for devices in states, and for faults at moments, that no real one can be brought to."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class FakeAdb:
    """Answers as `devices` and `services` say. A service is what is sent after its OKAY; then the connection ends, or
    stays silent where `silent` is set."""

    devices: str = ""
    features: str = "shell_v2,cmd"
    refusal: str = ""
    """Instead of a transport to the device."""
    services: dict[str, bytes] = field(default_factory=dict)
    """By the beginning of their names."""
    refuses_services: bool = False
    silent: bool = False
    mute: bool = False
    """Accepts connections and says nothing at all."""
    garbage: bytes = b""
    """Is all that it says."""
    port: int = 0
    asked: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self, host: str = "127.0.0.1") -> Iterator[FakeAdb]:
        listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.port = listener.getsockname()[1]
        connections: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connections.append(connection)
                    threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield self
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            for connection in connections:
                connection.close()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            while not self.mute:
                request = connection.recv(int(connection.recv(4, socket.MSG_WAITALL), 16), socket.MSG_WAITALL).decode()
                self.asked.append(request)
                if not self._serve(connection, request):
                    connection.close()
                    return

    def _serve(self, connection: socket.socket, request: str) -> bool:
        """Whether the connection goes on."""
        if self.garbage:
            connection.sendall(self.garbage)
            return False
        if request.startswith("host:devices"):
            connection.sendall(b"OKAY" + _block(self.devices))
            return False
        if request.endswith(":features"):
            connection.sendall(b"OKAY" + _block(self.features))
            return False
        if request.startswith("host:transport:"):
            connection.sendall(b"FAIL" + _block(self.refusal) if self.refusal else b"OKAY")
            return not self.refusal
        if self.refuses_services:
            connection.sendall(b"FAIL" + _block("closed"))
            return False
        said = next((said for name, said in self.services.items() if request.startswith(name)), b"")
        connection.sendall(b"OKAY" + said)
        return self.silent


def _block(text: str) -> bytes:
    return f"{len(text.encode()):04x}".encode() + text.encode()


def shell_packet(kind: int, data: bytes) -> bytes:
    return struct.pack("<BI", kind, len(data)) + data
