# SPDX-License-Identifier: Apache-2.0
"""Frames of a serial line, and how they arrive once and in order: native/line/ in Python. docs/protocol.md has them."""

import re
import struct
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum

VERSION = 1
PAYLOAD = 256
WINDOW = 32
CALL = b"~~~~~~"
"""Frames without content: a zcline that hears them says hello; to a shell they are some letters."""

_FLAG, _ESCAPE, _FLIP = b"~", b"}", 0x20
_SPECIAL = re.compile(rb"[~}\x11\x13]")
"""Flag, escape, XON and XOFF."""
_ESCAPED = re.compile(rb"}(.)", re.DOTALL)
_HEADER = struct.Struct("<BBBBI")
_BODY_MAX = _HEADER.size + PAYLOAD + 4
_FIRST_PATIENCE, _LEAST_PATIENCE, _MOST_PATIENCE = 1.0, 0.2, 4.0


class Kind(IntEnum):
    HELLO = 1
    ACK = 2
    PING = 3
    BYE = 4
    OPEN = 16
    START = 17
    STARTED = 18
    DATA = 19
    ERROR = 20
    END = 21
    CREDIT = 22
    CLOSE = 23
    EXIT = 24


@dataclass(frozen=True)
class Frame:
    kind: int
    payload: bytes = b""
    stream: int = 0
    seq: int = 0
    ack: int = 0
    """The next one that is expected."""
    mask: int = 0
    """Bit i: ack + 1 + i has come."""

    @property
    def arrives(self) -> bool:
        """It has a sequence number, and is sent until it has arrived."""
        return self.kind >= Kind.OPEN

    def encode(self, session: int) -> bytes:
        body = _HEADER.pack(self.kind, self.seq, self.ack, self.stream, self.mask) + self.payload
        escaped = _SPECIAL.sub(lambda found: _ESCAPE + _flipped(found[0]), body + _checksum(body, session))
        return _FLAG + escaped + _FLAG


def _flipped(byte: bytes) -> bytes:
    return bytes((byte[0] ^ _FLIP,))


def hello(session: int, window: int) -> Frame:
    return Frame(Kind.HELLO, struct.pack("<BBI", VERSION, window, session))


def _checksum(body: bytes, session: int) -> bytes:
    number = 0 if body[0] == Kind.HELLO else session
    return struct.pack("<I", zlib.crc32(struct.pack("<I", number) + body))


class Deframer:
    """Finds the frames of a session in the bytes of a line."""

    def __init__(self, session: int = 0) -> None:
        self.session = session
        self._noise = 0
        self._body = b""

    @property
    def noise(self) -> int:
        """Bytes so far that were in no frame, or in none that has ended."""
        return self._noise + len(self._body)

    def feed(self, data: bytes) -> Iterator[Frame]:
        first, *more = data.split(_FLAG)
        self._body += first
        for part in more:
            if frame := self._parse(_ESCAPED.sub(lambda found: _flipped(found[1]), self._body)):
                yield frame
            else:
                self._noise += len(self._body)
            self._body = part
        if len(self._body) > 2 * _BODY_MAX:
            self._noise += len(self._body)
            self._body = _FLAG  # no frame: what comes until the next flag does not matter

    def _parse(self, body: bytes) -> Frame | None:
        if not _HEADER.size + 4 <= len(body) <= _BODY_MAX or body[-4:] != _checksum(body[:-4], self.session):
            return None
        kind, seq, ack, stream, mask = _HEADER.unpack_from(body)
        return Frame(kind, body[_HEADER.size : -4], stream, seq, ack, mask)


@dataclass
class _Sent:
    frame: Frame
    order: int = 0
    """Of its last sending among all; 0: it waits for its first."""
    at: float = 0.0
    arrived: bool = False
    again: bool = False
    repeated: bool = False


@dataclass
class Link:
    """A line does not overtake: if a frame has arrived, each one sent before it that has not is lost, and sent again
    at once. Only for the last ones does it take a timer. No input or output of its own."""

    session: int
    window: int = WINDOW
    owes_answer: bool = False
    _patience: float = _FIRST_PATIENCE
    _round: float = 0.0
    _order: int = 0
    _first: int = 0
    """The sequence number of the oldest under way."""
    _sent: deque[_Sent] = field(default_factory=deque)
    _waiting: deque[Frame] = field(default_factory=deque)
    _expected: int = 0
    _early: dict[int, Frame] = field(default_factory=dict)

    def send(self, kind: Kind, stream: int, payload: bytes = b"") -> None:
        """Queues it."""
        self._waiting.append(Frame(kind, payload, stream))

    @property
    def idle(self) -> bool:
        """All that was sent has arrived."""
        return not self._sent and not self._waiting

    def receive(self, frame: Frame, now: float) -> list[Frame]:
        """What is due in order with this one."""
        self._take_answer(frame, now)
        if not frame.arrives:
            return []
        self.owes_answer = True
        if (frame.seq - self._expected) % 256 < WINDOW:
            self._early[frame.seq] = frame
        due = []
        while next_one := self._early.pop(self._expected, None):
            due.append(next_one)
            self._expected = (self._expected + 1) % 256
        return due

    def _take_answer(self, frame: Frame, now: float) -> None:
        before = (frame.ack - self._first) % 256
        if before > len(self._sent):
            return  # an old one
        arrived = [*range(before), *(before + 1 + i for i in range(WINDOW) if frame.mask >> i & 1)]
        newest = max((self._arrive(self._sent[i], now) for i in arrived if i < len(self._sent)), default=0)
        for _ in range(before):
            self._sent.popleft()
        self._first = frame.ack
        for sent in self._sent:
            if not sent.arrived and 0 < sent.order < newest:
                sent.again = True

    def _arrive(self, sent: _Sent, now: float) -> int:
        """When in the order of all sendings this one was sent, if that is news."""
        if sent.arrived or not sent.order:
            return 0
        sent.arrived = True
        if not sent.repeated:
            took = now - sent.at
            self._round = (7 * self._round + took) / 8 if self._round else took
            self._patience = min(max(2 * self._round + _LEAST_PATIENCE / 2, _LEAST_PATIENCE), _MOST_PATIENCE)
        return sent.order

    def output(self, now: float) -> Frame | None:
        """The next one to be written to the line."""
        sent = self._due(now)
        if not sent:
            if not self.owes_answer:
                return None
            self.owes_answer = False
            return self.stamped(Frame(Kind.ACK))
        sent.repeated, sent.again = sent.order != 0, False
        self._order += 1
        sent.order, sent.at = self._order, now
        self.owes_answer = False
        return self.stamped(sent.frame)

    def stamped(self, frame: Frame) -> Frame:
        """With what has come."""
        mask = sum(1 << i for i in range(WINDOW - 1) if (self._expected + 1 + i) % 256 in self._early)
        return replace(frame, ack=self._expected, mask=mask)

    def _due(self, now: float) -> _Sent | None:
        for sent in self._sent:
            if sent.again:
                return sent
        if self._waiting and len(self._sent) < self.window:
            seq = (self._first + len(self._sent)) % 256
            self._sent.append(_Sent(replace(self._waiting.popleft(), seq=seq)))
            return self._sent[-1]
        if now < self.alarm:
            return None
        self._patience = min(2 * self._patience, _MOST_PATIENCE)
        return self._sent[0]

    @property
    def alarm(self) -> float:
        """When output() has to be asked again though nothing came."""
        return self._sent[0].at + self._patience if self._sent else float("inf")
