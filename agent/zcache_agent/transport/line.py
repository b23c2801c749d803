# SPDX-License-Identifier: Apache-2.0
"""Streams over a serial line with zcline at its far end: several at a time, whatever the line does to the bytes."""

import contextlib
import itertools
import os
import secrets
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import DaemonAbsent, NoDevice
from .base import Completed, Deadline, lost
from .frames import PAYLOAD, WINDOW, Deframer, Frame, Kind, Link, hello

_HELLO_SECONDS = 0.5
_PING_SECONDS = 2.0
_SILENCE_SECONDS = 15.0
_TURN_SECONDS = 0.05
_UNDER_WAY_SECONDS = 0.5
"""So much of the line's time is on its way: an answer to who asks next waits behind it."""
_GRANTED = 8192
"""Bytes that a stream's other end takes at its begin; and what we take of it."""
_TAKEN = 65536
_GRANT_AT_LEAST = _TAKEN // 4
_STREAMS = 16
_BYE_TRIES = 4


class Port(Protocol):
    """What is asked of a serial port; pyserial's is one."""

    timeout: float | None

    @property
    def in_waiting(self) -> int: ...

    def read(self, size: int = ..., /) -> bytes: ...

    def write(self, data: bytes, /) -> int | None: ...


class StreamEnded(NoDevice):
    """What was to take more bytes has ended."""


@dataclass
class _Stream:
    number: int
    output: bytearray = field(default_factory=bytearray)
    error: bytearray = field(default_factory=bytearray)
    keeps_error: bool = False
    granted: int = _GRANTED
    """Bytes that its other end takes."""
    grant: int = 0
    """Bytes that were read here, and can be granted again."""
    started: bool = False
    ended: tuple[int, int] | None = None
    """Its exit code, and the errno of why it never started."""


class Line:
    """A session with zcline. Its thread reads the port; whoever has something to say writes."""

    def __init__(self, port: Port, serial: str, baud: int, timeout: float) -> None:
        self.serial = serial
        self.timeout = timeout
        self._byte_seconds = 10 / baud
        window = int(_UNDER_WAY_SECONDS / self._byte_seconds / PAYLOAD)
        self._link = Link(secrets.randbits(31) + 1, max(4, min(window, WINDOW)))
        self._deframer = Deframer(self._link.session)
        self._port = port
        self._streams: dict[int, _Stream] = {}
        self._numbers = itertools.cycle(range(1, 256))
        """Not soon again: what an ended stream sent may still be on its way."""
        self._changed = threading.Condition()
        """Holds all of the above."""
        self._interrupts = 0
        self._failure: NoDevice | None = None
        self._greeted = self._parted = self._closing = False
        self._heard = self._said = time.monotonic()
        self._thread = threading.Thread(target=self._listen, name=serial, daemon=True)

    @property
    def broken(self) -> bool:
        return self._failure is not None

    def begin(self) -> None:
        """Starts the session. NoDevice: nobody answers within the timeout."""
        deadline = Deadline(self.timeout, self.serial)
        self._thread.start()
        with self._changed:
            while not self._greeted:
                self._write(hello(self._link.session, self._link.window))
                self._changed.wait(min(_HELLO_SECONDS, deadline.remaining()))
                self._check()

    def run(self, argv: Sequence[str], timeout: float | None = None) -> Completed:
        deadline = self._deadline(timeout)
        with self._opened(_command(argv)) as stream, self._changed:
            self._link.send(Kind.END, stream.number)
            self._flush()
            output, seen = bytearray(), 0
            while stream.ended is None:
                self._wait(deadline)
                came = len(output) + len(stream.output) + len(stream.error)
                deadline.earn(came - seen)
                seen = came
                output += self._take(stream)
            output += self._take(stream)
            code, reason = stream.ended
            if reason:
                raise NoDevice(f"{self.serial}: {argv[0]}: {os.strerror(reason)}", name="no_command")
            return Completed(code, bytes(output), bytes(stream.error))

    def open_socket(self, address: str) -> "LineStream":
        opened = LineStream(self, self._open(b"s" + address.encode()))
        try:
            opened.wait_until_started(address)
        except BaseException:
            opened.close()
            raise
        return opened

    def open_command(self, argv: Sequence[str], keeps_error: bool = False) -> "LineStream":
        return LineStream(self, self._open(_command(argv), keeps_error))

    def interrupt(self) -> None:
        """From any thread: whoever waits fails. The session goes on."""
        with self._changed:
            self._interrupts += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the session: the console is the shell's again."""
        with self._changed:
            noise = self._deframer.noise
            for _ in range(_BYE_TRIES):
                if self._failure or self._parted or self._deframer.noise > noise or not self._greeted:
                    break  # what is no frame is a prompt
                self._write(self._link.stamped(Frame(Kind.BYE)))
                self._changed.wait_for(lambda: self._parted or self._failure, _HELLO_SECONDS)
            self._closing = True
        if self._thread.is_alive():
            self._thread.join(_SILENCE_SECONDS)

    # What follows is for one who holds the lock, unless it says otherwise.

    @contextlib.contextmanager
    def _opened(self, request: bytes) -> Iterator[_Stream]:
        """Without the lock."""
        stream = self._open(request, keeps_error=True)
        try:
            yield stream
        finally:
            self.shut(stream)

    def _open(self, request: bytes, keeps_error: bool = False) -> _Stream:
        """Without the lock."""
        with self._changed:
            self._check()
            if len(self._streams) >= _STREAMS:
                raise NoDevice(f"{self.serial}: more than {_STREAMS} streams at a time", name="too_many_streams")
            number = next(n for n in self._numbers if n not in self._streams)
            stream = self._streams[number] = _Stream(number, keeps_error=keeps_error)
            for at in range(0, len(request), PAYLOAD):
                self._link.send(Kind.OPEN, number, request[at : at + PAYLOAD])
            self._link.send(Kind.START, number)
            self._flush()
            return stream

    def shut(self, stream: _Stream) -> None:
        """Without the lock."""
        with self._changed:
            if self._streams.get(stream.number) is not stream:
                return
            if stream.ended is None and not self._failure:
                self._link.send(Kind.CLOSE, stream.number)
                self._flush()
            del self._streams[stream.number]

    def read(self, stream: _Stream, size: int) -> bytes:
        """Without the lock."""
        deadline = self._deadline()
        with self._changed:
            while not stream.output and stream.ended is None:
                self._wait(deadline)
            return self._take(stream, size)

    def write(self, stream: _Stream, data: bytes) -> None:
        """Without the lock."""
        deadline = self._deadline()
        at = 0
        with self._changed:
            while at < len(data):
                while not stream.granted and stream.ended is None:
                    self._wait(deadline)
                self._check()
                if stream.ended is not None:
                    raise StreamEnded(f"{self.serial}: the other end has closed the stream", name="lost")
                part = data[at : at + min(PAYLOAD, stream.granted)]
                self._link.send(Kind.DATA, stream.number, part)
                stream.granted -= len(part)
                at += len(part)
                self._flush()
                deadline.restart()

    def end(self, stream: _Stream) -> None:
        """Without the lock: nothing more will be written."""
        with self._changed:
            self._link.send(Kind.END, stream.number)
            self._flush()

    def wait_for(self, stream: _Stream, what: Callable[[_Stream], bool]) -> None:
        """Without the lock."""
        deadline = self._deadline()
        with self._changed:
            while not what(stream):
                self._wait(deadline)

    def _take(self, stream: _Stream, size: int = _TAKEN) -> bytes:
        data = bytes(stream.output[:size])
        del stream.output[:size]
        self._grant(stream, len(data))
        return data

    def _grant(self, stream: _Stream, size: int) -> None:
        stream.grant += size
        if stream.grant >= _GRANT_AT_LEAST and stream.ended is None:
            self._link.send(Kind.CREDIT, stream.number, struct.pack("<I", stream.grant))
            stream.grant = 0
            self._flush()

    def _deadline(self, timeout: float | None = None) -> "_LineDeadline":
        return _LineDeadline(timeout or self.timeout, self.serial, self._byte_seconds, self._interrupts)

    def _wait(self, deadline: "_LineDeadline") -> None:
        self._check()
        self._changed.wait(deadline.remaining())
        self._check()
        if deadline.interrupts != self._interrupts:
            raise lost(self.serial, "interrupted")

    def _check(self) -> None:
        if self._failure:
            raise NoDevice(self._failure.message, name=self._failure.name, hint=self._failure.hint)

    def _write(self, frame: Frame) -> None:
        self._said = time.monotonic()
        try:
            self._port.write(frame.encode(self._link.session))
        except (OSError, TypeError) as error:  # the latter: of a port that was closed
            self._fail(str(error))

    def _flush(self) -> None:
        """Writes what is to be written now."""
        while not self._failure and (frame := self._link.output(time.monotonic())):
            self._write(frame)

    def _fail(self, why: str) -> None:
        self._failure = self._failure or lost(self.serial, why)
        self._changed.notify_all()

    # The thread.

    def _listen(self) -> None:
        self._port.timeout = _TURN_SECONDS
        while not self._closing and not self._failure:
            try:
                data = self._port.read(max(1, self._port.in_waiting))
            except (OSError, TypeError) as error:
                with self._changed:
                    self._fail(str(error))
                return
            with self._changed:
                self._hear(data)

    def _hear(self, data: bytes) -> None:
        now = time.monotonic()
        for frame in self._deframer.feed(data):
            self._heard = now
            self._greeted |= frame.kind == Kind.HELLO and frame.payload[2:] == struct.pack("<I", self._link.session)
            self._parted |= frame.kind == Kind.BYE
            for due in self._link.receive(frame, now):
                if stream := self._streams.get(due.stream):
                    self._deliver(stream, due)
        if self._greeted:
            self._flush()
            if now - self._said > _PING_SECONDS:
                self._write(self._link.stamped(Frame(Kind.PING)))
            if now - self._heard > _SILENCE_SECONDS:
                self._fail(f"nothing was heard for {_SILENCE_SECONDS:g} s")
        self._changed.notify_all()

    def _deliver(self, stream: _Stream, frame: Frame) -> None:
        if frame.kind == Kind.DATA:
            stream.output += frame.payload
        elif frame.kind == Kind.ERROR:
            if stream.keeps_error:
                stream.error += frame.payload
            self._grant(stream, len(frame.payload))
        elif frame.kind == Kind.STARTED:
            stream.started = True
        elif frame.kind == Kind.CREDIT and len(frame.payload) == 4:
            stream.granted += struct.unpack("<I", frame.payload)[0]
        elif frame.kind == Kind.EXIT and len(frame.payload) == 8:
            stream.ended = struct.unpack("<iI", frame.payload)


class LineStream:
    """A ByteStream over a line."""

    unix = None

    def __init__(self, line: Line, stream: _Stream) -> None:
        self._line = line
        self._stream = stream

    def wait_until_started(self, address: str) -> None:
        """DaemonAbsent: nobody listens there."""
        self._line.wait_for(self._stream, lambda stream: stream.started or stream.ended is not None)
        if not self._stream.started and self._stream.ended:
            raise DaemonAbsent(
                f"{self._line.serial}: {address}: {os.strerror(self._stream.ended[1])}", hint="zcache up starts it"
            )

    def read(self, size: int) -> bytes:
        return self._line.read(self._stream, size)

    def write(self, data: bytes) -> None:
        self._line.write(self._stream, data)

    def finish(self) -> Completed:
        """Nothing more is written; waits until the command has ended."""
        self._line.end(self._stream)
        output = bytearray()
        while data := self.read(_TAKEN):
            output += data
        assert self._stream.ended
        return Completed(self._stream.ended[0], bytes(output), bytes(self._stream.error))

    def close(self) -> None:
        self._line.shut(self._stream)


class _LineDeadline(Deadline):
    """What a long answer takes on the line is not counted."""

    def __init__(self, seconds: float, serial: str, byte_seconds: float, interrupts: int) -> None:
        super().__init__(seconds, serial)
        self._byte_seconds = byte_seconds
        self.interrupts = interrupts
        """That there were before."""

    def earn(self, size: int) -> None:
        self._end += 2 * size * self._byte_seconds


def _command(argv: Sequence[str]) -> bytes:
    return b"c" + b"".join(word.encode() + b"\0" for word in argv)
