# SPDX-License-Identifier: Apache-2.0
"""Client of the data plane. native/include/zcache/proto.h states the wire format, docs/protocol.md explains it."""

import itertools
import mmap
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Self

from .errors import DaemonAbsent, ProtocolError, Refused
from .transport.base import ByteStream

ABI = 1
MAGIC = 0x3163637A
MAX_BATCH = 1024
MAX_PAYLOAD = 2 * 1024 * 1024
MAX_DICTIONARY = 1024 * 1024
_LARGE = 4096
"""A payload up to here fits any socket's buffer: sending it never waits for the other side."""

REQUEST = struct.Struct("<IHHQIIQIIII")
ANSWER = struct.Struct("<IHHQiIQII")
KEY = struct.Struct("<QII")
OFFSET = struct.Struct("<Q")
RESULT = struct.Struct("<iI")
HELLO = struct.Struct("<IIII32s")
POOL = struct.Struct("<II")
DICTIONARY = struct.Struct("<II")
RECORD = struct.Struct("<II")
RECORDING = struct.Struct("<II")
RECORDED = struct.Struct("<QQ")
EVENT_BYTES = 32
MAX_EVENTS = 8192

# Linux's generic errno numbers, which the wire carries whatever this machine calls them.
ERRNO_NAMES = {
    1: "EPERM", 2: "ENOENT", 5: "EIO", 7: "E2BIG", 9: "EBADF", 11: "EAGAIN", 12: "ENOMEM", 14: "EFAULT", 16: "EBUSY",
    17: "EEXIST", 22: "EINVAL", 28: "ENOSPC", 34: "ERANGE", 38: "ENOSYS", 71: "EPROTO", 90: "EMSGSIZE",
    95: "EOPNOTSUPP", 105: "ENOBUFS", 110: "ETIMEDOUT",
}  # fmt: skip
EIO, ENOENT = 5, 2


class Op(IntEnum):
    HELLO = 1
    POOL = 2
    SEGMENT = 3
    PUT = 4
    GET = 5
    FLUSH_PAGE = 6
    FLUSH_OBJECT = 7
    DESTROY_POOL = 8
    DICTIONARY = 9
    RECORD = 10

    @property
    def has_results(self) -> bool:
        """Its answer has a result for each page, object or pool."""
        return Op.PUT <= self <= Op.DESTROY_POOL


class Flag(IntFlag):
    KEYS = 1
    SEGMENT = 2
    PEEK = 4
    INACTIVE = 8


NO_FLAGS = Flag(0)


class Kind(IntEnum):
    persistent = 0
    ephemeral = 1


class Refusal(IntEnum):
    """Why a put was refused; the name is that of the pool's counter."""

    policy_percent_exceeded = 1
    low_memory = 2
    entropy_rejected = 3
    compress_poor = 4
    mean_compress_poor = 5
    failed_getfreepages = 6
    eph_nonactive_puts_ignored = 7
    pers_nonactive_puts_ignored = 8
    poor_run_refused = 9


def errno_name(status: int) -> str:
    return ERRNO_NAMES.get(-status, f"errno {-status}")


@dataclass(frozen=True)
class Key:
    object: int
    index: int = 0
    pool: int = 0

    def pack(self) -> bytes:
        return KEY.pack(self.object, self.index, self.pool)


@dataclass(frozen=True)
class Request:
    op: Op
    pool: int = 0
    object: int = 0
    index: int = 0
    count: int = 0
    flags: Flag = NO_FLAGS
    payload: bytes = b""

    def pack(self, request_id: int) -> bytes:
        header = REQUEST.pack(
            MAGIC,
            ABI,
            self.op,
            request_id,
            self.pool,
            self.index,
            self.object,
            self.count,
            self.flags,
            len(self.payload),
            0,
        )
        return header + self.payload


@dataclass(frozen=True)
class Answer:
    """An answer's header."""

    op: int
    id: int
    status: int
    count: int
    time_ns: int
    payload: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        magic, version, op, request_id, status, count, time_ns, payload, reserved = ANSWER.unpack(data)
        if magic != MAGIC:
            raise ProtocolError(f"an answer begins with {magic:#010x}, not with {MAGIC:#010x}")
        if version != ABI:
            raise ProtocolError(f"an answer is of ABI {version}; this agent speaks ABI {ABI}")
        if payload > MAX_PAYLOAD:
            raise ProtocolError(f"an answer announces {payload} bytes; {MAX_PAYLOAD} are allowed")
        if status > 0 or reserved != 0:
            raise ProtocolError(f"an answer has status {status} and {reserved} in its reserved field")
        return cls(op, request_id, status, count, time_ns, payload)


@dataclass(frozen=True)
class Hello:
    abi: int
    page_size: int
    max_batch: int
    max_payload: int
    version: str

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        _expect_size("hello", payload, HELLO.size)
        abi, page_size, max_batch, max_payload, version = HELLO.unpack(payload)
        if page_size < 512 or page_size & (page_size - 1):
            raise ProtocolError(f"the daemon says that its pages are {page_size} bytes")
        if not 0 < max_batch <= MAX_BATCH or not page_size < max_payload <= MAX_PAYLOAD:
            raise ProtocolError(f"the daemon's limits are {max_batch} pages and {max_payload} bytes a request")
        return cls(abi, page_size, max_batch, max_payload, _text(version.rstrip(b"\0")))


@dataclass(frozen=True)
class Pool:
    id: int
    kind: Kind

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        _expect_size("pool", payload, POOL.size)
        number, kind = POOL.unpack(payload)
        if kind not in list(Kind):
            raise ProtocolError(f"the daemon says that a pool is of kind {kind}")
        return cls(number, Kind(kind))


@dataclass(frozen=True)
class Results:
    """One entry a key: status 0 done, > 0 a Refusal, < 0 an errno; detail as in zc_result."""

    status: tuple[int, ...]
    detail: tuple[int, ...]
    time_ns: int
    pages: tuple[bytes | None, ...] = ()
    """Of a get: the page wherever the status is 0."""

    @classmethod
    def parse(cls, request: Request, answer: Answer, payload: bytes, page_size: int, region: memoryview) -> Self:
        """`region`: where the pages of a get with Flag.SEGMENT lie, one after another; else not looked at."""
        if answer.count != request.count:
            raise ProtocolError(f"{answer.count} results for {request.count} keys")
        size = answer.count * RESULT.size
        if len(payload) < size:
            raise ProtocolError(f"{len(payload)} bytes cannot hold {answer.count} results")
        entries = list(RESULT.iter_unpack(payload[:size]))
        status = tuple(entry[0] for entry in entries)
        detail = tuple(entry[1] for entry in entries)
        pages: tuple[bytes | None, ...] = ()
        if request.op == Op.GET and request.flags & Flag.SEGMENT:
            pages = tuple(
                bytes(region[i * page_size : (i + 1) * page_size]) if s == 0 else None for i, s in enumerate(status)
            )
        elif request.op == Op.GET:
            starts = itertools.count(size, page_size)
            pages = tuple(payload[(at := next(starts)) : at + page_size] if s == 0 else None for s in status)
            size += status.count(0) * page_size
        _expect_size(request.op.name.lower(), payload, size)
        return cls(status, detail, answer.time_ns, pages)


def _expect_size(what: str, payload: bytes, size: int) -> None:
    if len(payload) != size:
        raise ProtocolError(f"the answer to {what} carries {len(payload)} bytes instead of {size}")


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")


@dataclass(frozen=True)
class Recorded:
    """What a recording noted since it was asked last."""

    time_us: int
    """Since it began."""
    lost: int
    """Events that nobody took in time, since then."""
    events: bytes

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        if len(payload) < RECORDED.size or (len(payload) - RECORDED.size) % EVENT_BYTES:
            raise ProtocolError(f"{len(payload)} bytes are no events of {EVENT_BYTES}")
        time_us, lost = RECORDED.unpack_from(payload)
        return cls(time_us, lost, payload[RECORDED.size :])


def record_request(pool: str, every: int, tries: Sequence[str]) -> Request:
    """`tries`: codecs as SPEC or SPEC*PAGES."""
    text = b"".join(part.encode() + b"\0" for part in (pool, *tries))
    return Request(Op.RECORD, payload=RECORD.pack(every, 0) + text)


@dataclass(frozen=True)
class Run:
    """Keys next to each other: (pool, object, index), (pool, object, index + 1), …"""

    pool: int
    object: int
    index: int
    count: int


Where = Run | Sequence[Key]


def _count(where: Where) -> int:
    return where.count if isinstance(where, Run) else len(where)


def _request(op: Op, where: Where, flags: Flag = NO_FLAGS, payload: bytes = b"") -> Request:
    if isinstance(where, Run):
        return Request(op, where.pool, where.object, where.index, where.count, flags, payload)
    keys = b"".join(key.pack() for key in where)
    return Request(op, count=len(where), flags=flags | Flag.KEYS, payload=keys + payload)


class Segment:
    """Memory shared with the daemon, sealed as it demands: one region for each request in flight."""

    def __init__(self, regions: int, region_size: int) -> None:
        import fcntl  # not there on Windows, where no daemon is on the same machine

        self.size = regions * region_size
        self.region_size = region_size
        self.fd = os.memfd_create("zcache-pages", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, self.size)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self.memory = mmap.mmap(self.fd, self.size)

    def region(self, number: int) -> memoryview:
        start = number * self.region_size
        return memoryview(self.memory)[start : start + self.region_size]

    def close(self) -> None:
        """Its memory goes with the last view of a region, which whoever was interrupted in one may still hold."""
        os.close(self.fd)
        with suppress(BufferError):
            self.memory.close()


@dataclass
class Pending:
    """A request in flight; PagesClient.finish() waits for what it answers."""

    request: Request
    id: int
    answer: Answer | None = None
    payload: bytes = b""
    results: Results | None = None


class PagesClient:
    """A connection to the data plane, for one thread.

    At most `window` requests are in flight. A large request never goes out while large answers are due:
    daemon and client would wait for each other, both writing.
    """

    def __init__(self, stream: ByteStream, window: int = 4, batch: int = 32) -> None:
        self._stream = stream
        self.window = window
        self._next_id = 1
        self._in_flight: deque[Pending] = deque()
        self._segment: Segment | None = None
        self.io_ns = 0
        """Spent sending and waiting for answers, the daemon's own work included."""
        self.hello = Hello.parse(self._call(Request(Op.HELLO)))
        entry = self.hello.page_size + KEY.size + RESULT.size
        self.batch = max(1, min(batch, self.hello.max_batch, self.hello.max_payload // entry))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stream.close()
        if self._segment:
            self._segment.close()
            self._segment = None

    def pool(self, name: str) -> Pool:
        """Refused: there is none of that name."""
        try:
            return Pool.parse(self._call(Request(Op.POOL, payload=name.encode())))
        except Refused as error:
            raise Refused(
                f"pool {name}: {error.message}", name=error.name, hint="zcache pool list shows the pools"
            ) from error

    def load_dictionary(self, data: bytes) -> int:
        """The number that codecs name it by: dict=N. Refused: it is none."""
        if len(data) > self.hello.max_payload:  # the daemon would end the connection
            raise Refused(f"a dictionary has at most {MAX_DICTIONARY} bytes, not {len(data)}", name="EINVAL")
        answer = self._call(Request(Op.DICTIONARY, payload=data))
        _expect_size("dictionary", answer, DICTIONARY.size)
        number, _ = DICTIONARY.unpack(answer)
        return int(number)

    def start_recording(self, pool: str, every: int, tries: Sequence[str]) -> None:
        """The pool is recorded until this connection ends; take_events() gives what came. Refused: it cannot be."""
        answer = self._call(record_request(pool, every, tries))
        _expect_size("record", answer, RECORDING.size)
        size, _ = RECORDING.unpack(answer)
        if size != EVENT_BYTES:
            raise ProtocolError(f"the daemon's events are {size} bytes, not {EVENT_BYTES}")

    def take_events(self) -> Recorded:
        """Refused: the pool was destroyed."""
        return Recorded.parse(self._call(Request(Op.RECORD)))

    def share_memory(self) -> None:
        """From now on pages travel in a segment, where the daemon is a process of this machine."""
        connection = self._stream.unix
        if connection is None:
            return
        segment = Segment(self.window, self.batch * self.hello.page_size)
        try:
            self._call(Request(Op.SEGMENT, object=segment.size), (connection, segment.fd))
        except BaseException:
            segment.close()
            raise
        self._segment = segment

    def start_put(self, where: Where, pages: Sequence[bytes], *, inactive: bool = False) -> Pending:
        flags = Flag.INACTIVE if inactive else NO_FLAGS
        data = b"".join(pages)
        if len(data) != _count(where) * self.hello.page_size:
            raise ValueError(f"{len(data)} bytes are not {_count(where)} pages")
        if not self._segment:
            return self._start(_request(Op.PUT, where, flags, data))
        self._make_room()
        self._region(self._next_id)[: len(data)] = data
        return self._start(_request(Op.PUT, where, flags | Flag.SEGMENT, self._offsets(_count(where))))

    def start_get(self, where: Where, *, peek: bool = False) -> Pending:
        flags = Flag.PEEK if peek else NO_FLAGS
        if not self._segment:
            return self._start(_request(Op.GET, where, flags))
        return self._start(_request(Op.GET, where, flags | Flag.SEGMENT, self._offsets(_count(where))))

    def start_flush_page(self, where: Where) -> Pending:
        return self._start(_request(Op.FLUSH_PAGE, where))

    def finish(self, pending: Pending) -> Results:
        """Waits for the answer. Refused: the daemon did nothing of it, and says why."""
        self._wait(pending)
        assert pending.results is not None
        return pending.results

    def put(self, where: Where, pages: Sequence[bytes], *, inactive: bool = False) -> Results:
        return self.finish(self.start_put(where, pages, inactive=inactive))

    def get(self, where: Where, *, peek: bool = False) -> Results:
        return self.finish(self.start_get(where, peek=peek))

    def flush_page(self, where: Where) -> Results:
        return self.finish(self.start_flush_page(where))

    def flush_object(self, where: Where) -> Results:
        return self.finish(self._start(_request(Op.FLUSH_OBJECT, where)))

    def destroy_pool(self, where: Where) -> Results:
        return self.finish(self._start(_request(Op.DESTROY_POOL, where)))

    def _call(self, request: Request, descriptor: tuple[socket.socket, int] | None = None) -> bytes:
        """For the ops without results."""
        pending = self._start(request, descriptor)
        self._wait(pending)
        return pending.payload

    def _wait(self, pending: Pending) -> None:
        while pending.answer is None:
            self._receive()
        if pending.answer.status < 0:
            raise Refused(_text(pending.payload), name=errno_name(pending.answer.status))

    def _start(self, request: Request, descriptor: tuple[socket.socket, int] | None = None) -> Pending:
        self._make_room(len(request.payload))
        pending = Pending(request, self._next_id)
        self._next_id += 1
        data = request.pack(pending.id)
        started = time.monotonic_ns()
        if descriptor:
            connection, number = descriptor
            socket.send_fds(connection, [data], [number])
        else:
            self._stream.write(data)
        self.io_ns += time.monotonic_ns() - started
        self._in_flight.append(pending)
        return pending

    def _make_room(self, payload: int = 0) -> None:
        while len(self._in_flight) >= self.window or (
            payload > _LARGE and any(waiting.request.op == Op.GET for waiting in self._in_flight)
        ):
            self._receive()

    def _receive(self) -> None:
        """Takes the next answer in and gives it to its request."""
        pending = self._in_flight[0]
        started = time.monotonic_ns()
        answer = Answer.parse(self._read(ANSWER.size))
        if (answer.id, answer.op) != (pending.id, pending.request.op):
            raise ProtocolError(
                f"an answer to request {answer.id}, op {answer.op},"
                f" where {pending.id}, op {pending.request.op}, was due"
            )
        pending.payload = self._read(answer.payload)
        self.io_ns += time.monotonic_ns() - started
        if answer.status == 0 and pending.request.op.has_results:
            region = self._region(pending.id)
            pending.results = Results.parse(pending.request, answer, pending.payload, self.hello.page_size, region)
            pending.payload = b""
        pending.answer = answer
        self._in_flight.popleft()

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self._stream.read(size - len(data))
            if not part:
                raise DaemonAbsent(
                    "the daemon ended the data connection", name="lost", hint="zcache log shows its reason"
                )
            data += part
        return bytes(data)

    def _region(self, request_id: int) -> memoryview:
        """Requests in flight have consecutive ids and are never more than the regions: each has its own."""
        return self._segment.region(request_id % self.window) if self._segment else memoryview(b"")

    def _offsets(self, count: int) -> bytes:
        """Where the pages of the next request lie: one after another in its region."""
        assert self._segment is not None
        if count > self.batch:
            raise ValueError(f"{count} pages in a request; a region of the segment holds {self.batch}")
        start = self._next_id % self.window * self._segment.region_size
        size = self.hello.page_size
        return b"".join(OFFSET.pack(start + i * size) for i in range(count))
