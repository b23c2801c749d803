# SPDX-License-Identifier: Apache-2.0
"""A serial line between a pty for zcache and a board's: slow, noisy if it shall be, and it can be unplugged."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import select
import signal
import threading
import time
import tty
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_TICK = 0.005
_KERNEL = b"\r\n[ 1234.567890] usb 1-1: new high-speed USB device number 7 using xhci-hcd\r\n"


@dataclass(frozen=True)
class Noise:
    """Of so many bytes one is hurt: changed, lost, or another one comes in. Kernel messages only towards the host."""

    seed: int = 1
    one_in: int = 0
    message_in: int = 0


class _Direction:
    def __init__(self, noise: Noise, number: int, messages: bool) -> None:
        self._random = random.Random(f"{noise.seed} {number}")
        self._noise = noise
        self._messages = messages and noise.message_in

    def hurt(self, data: bytes) -> bytes:
        out = bytearray()
        for byte in data:
            if self._messages and not self._random.randrange(self._noise.message_in):
                out += _KERNEL
            if not self._noise.one_in or self._random.randrange(self._noise.one_in):
                out.append(byte)
                continue
            match self._random.randrange(3):
                case 0:
                    out.append(byte ^ 1 << self._random.randrange(8))
                case 1:
                    out += bytes((byte, self._random.randrange(256)))
        return bytes(out)


class SerialLine:
    """`port` is what zcache opens. `board` is a descriptor of the other end."""

    def __init__(self, board: int, port: Path, baud: int = 0, noise: Noise | None = None) -> None:
        self.port = port
        self.noise = noise or Noise()
        self.carried = [0, 0]
        """Bytes, to the board and to the host."""
        self._board = os.dup(board)
        self.baud = baud
        self._end = threading.Event()
        self.plug()

    def plug(self) -> None:
        self._end.clear()
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.port.unlink(missing_ok=True)
        self.port.symlink_to(os.ttyname(self._slave))
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def unplug(self) -> None:
        """The adapter is gone; the board notices nothing."""
        if not self._end.is_set():
            self._end.set()
            self._thread.join()
            self.port.unlink()
            os.close(self._slave)
            os.close(self._master)

    def pause(self, seconds: float) -> None:
        """Waits while it carries."""
        self._end.wait(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()
        os.close(self._board)

    def _carry(self) -> None:
        ways = [(self._master, self._board), (self._board, self._master)]
        directions = [_Direction(self.noise, number, number == 1) for number in range(2)]
        most = max(1, int(self.baud / 10 * _TICK)) if self.baud else 4096
        free = [0.0, 0.0]
        while not self._end.is_set():
            now = time.monotonic()
            wanted = [source for (source, _), at in zip(ways, free, strict=True) if at <= now]
            ready, _, _ = select.select(wanted, [], [], _TICK)
            for number, (source, target) in enumerate(ways):
                if source not in ready:
                    continue
                try:
                    data = os.read(source, most)
                    self.carried[number] += len(data)
                    _write(target, directions[number].hurt(data), self._end)
                except OSError:  # nobody has opened it, or the board is gone
                    data = b""
                    free[number] = now + _TICK
                if self.baud:
                    free[number] = max(free[number], now - _TICK) + 10 * len(data) / self.baud


def _write(target: int, data: bytes, end: threading.Event) -> None:
    while data and not end.is_set():
        if select.select([], [target], [], _TICK)[1]:
            data = data[os.write(target, data) :]


@contextlib.contextmanager
def shell(*argv: str, environment: dict[str, str] | None = None) -> Iterator[int]:
    """A descriptor of the terminal of a program, usually an interactive shell."""
    child, master = pty.fork()
    if child == 0:
        os.execvpe(argv[0], argv, {"PATH": os.environ["PATH"], "TERM": "vt100", "PS1": "# ", **(environment or {})})
    try:
        yield master
    finally:
        os.close(master)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def said(board: int, words: Sequence[bytes] | bytes, seconds: float = 60) -> bytes:
    """What comes out of a terminal until it has said these words."""
    seen = b""
    end = time.monotonic() + seconds
    wanted = [words] if isinstance(words, bytes) else words
    while not all(word in seen for word in wanted):
        assert time.monotonic() < end, seen
        if select.select([board], [], [], 0.1)[0]:
            seen += os.read(board, 4096)
    return seen
