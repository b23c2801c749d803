# SPDX-License-Identifier: Apache-2.0
"""This machine as a device whose cable can be pulled, or that falls silent: what the real ones do only by chance."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from zcache_agent.transport.base import ByteStream, Completed, lost
from zcache_agent.transport.local import LocalTransport


@dataclass
class Cable:
    """`answers` unset: whoever asks, waits. `in_place` unset: whoever asks is told that the device is lost."""

    in_place: threading.Event = field(default_factory=threading.Event)
    answers: threading.Event = field(default_factory=threading.Event)
    commands: list[str] = field(default_factory=list)
    """Those that were started on the device."""

    def __post_init__(self) -> None:
        self.in_place.set()
        self.answers.set()

    def use(self) -> None:
        self.answers.wait()
        if not self.in_place.is_set():
            raise lost("flaky", "unplugged")


class _Stream:
    unix = None

    def __init__(self, stream: ByteStream, cable: Cable) -> None:
        self._stream = stream
        self._cable = cable

    def read(self, size: int) -> bytes:
        self._cable.use()
        return self._stream.read(size)

    def write(self, data: bytes) -> None:
        self._cable.use()
        self._stream.write(data)

    def close(self) -> None:
        self._stream.close()


class FlakyTransport(LocalTransport):
    def __init__(self, directory: str, cable: Cable) -> None:
        cable.use()
        super().__init__(directory)
        self.serial = "flaky"
        self._cable = cable

    def run(self, argv: Sequence[str], *, timeout: float | None = None) -> Completed:
        self._cable.use()
        self._cable.commands.append(argv[0])
        return super().run(argv, timeout=timeout)

    def open_socket(self, address: str) -> ByteStream:
        self._cable.use()
        return _Stream(super().open_socket(address), self._cable)

    def open_command(self, argv: Sequence[str]) -> ByteStream:
        self._cable.use()
        self._cable.commands.append(argv[0])
        return _Stream(super().open_command(argv), self._cable)
