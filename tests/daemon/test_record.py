# SPDX-License-Identifier: Apache-2.0
"""Recording over the data plane: what is noted, who may, and what slow, rude and killed readers do to it."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.conftest import (
    FLUSH_OBJECT,
    FLUSH_PAGE,
    GET,
    PEEK,
    PUT,
    RECORD,
    Answer,
    Daemon,
    answer,
    request,
)
from tests.daemon.conftest import start as start_daemon
from zcache_agent.recording import EVENT, Kind

ENOENT, ENXIO, E2BIG, EBUSY, EINVAL = -2, -6, -7, -16, -22
RING = 65536


def start(sock: socket.socket, *parts: str, every: int = 1, end: bytes = b"\0") -> Answer:
    payload = struct.pack("<II", every, 0) + b"\0".join(part.encode() for part in parts) + end
    sock.sendall(request(RECORD, payload))
    return answer(sock)


def take(sock: socket.socket) -> tuple[int, int, list[tuple[int, ...]]]:
    """us, lost, events."""
    sock.sendall(request(RECORD))
    got = answer(sock)
    assert got.status == 0, got.payload
    time_us, lost = struct.unpack_from("<QQ", got.payload)
    events = list(EVENT.iter_unpack(got.payload[16:]))
    assert got.count == len(events)
    return time_us, lost, events


def take_all(sock: socket.socket) -> list[tuple[int, ...]]:
    """Until nothing comes any more."""
    came: list[tuple[int, ...]] = []
    empty = 0
    while empty < 2:
        _, _, events = take(sock)
        came += events
        empty = 0 if events else empty + 1
    return came


def fields(events: list[tuple[int, ...]], *kinds: Kind) -> list[tuple[int, ...]]:
    """object, index, size, result, detail, flags of events of these kinds."""
    return [(e[0], e[1], e[2], *e[7:]) for e in events if e[6] in kinds]


def page(seed: int, noise: int = 1000) -> bytes:
    return random.Random(seed).randbytes(noise) + b"words " * ((4096 - noise) // 6) + bytes((4096 - noise) % 6)


@pytest.fixture
def recorder(daemon: Daemon) -> Iterator[socket.socket]:
    with daemon.connect("data") as sock:
        yield sock


def put(daemon: Daemon, pool: int, pages: list[bytes], index: int = 0, **more: int) -> list[int]:
    """Sizes."""
    done = daemon.call(PUT, b"".join(pages), pool=pool, object=9, index=index, count=len(pages), **more)
    return [detail for _, detail in struct.iter_unpack("<iI", done.payload)]


def test_what_is_noted(daemon: Daemon, recorder: socket.socket) -> None:
    pool = daemon.pool()
    (held,) = put(daemon, pool, [page(1)], 50)
    assert start(recorder, "p", "lz4", "lz4*4", every=1).status == 0
    pages = [page(2), bytes(4096), page(4, 4096), page(5)]
    sizes = put(daemon, pool, pages)
    assert put(daemon, pool, [page(n) for n in range(10, 14)], 8)
    daemon.call(GET, pool=pool, object=9, index=0, count=2, flags=PEEK)
    daemon.call(GET, pool=pool, object=9, index=2, count=1)
    daemon.call(FLUSH_PAGE, pool=pool, object=9, index=2, count=2)
    daemon.call(FLUSH_OBJECT, pool=pool, object=9, count=1)
    events = take_all(recorder)

    assert fields(events, Kind.PUT)[:4] == [
        (9, 0, sizes[0], 0, 1, 0), (9, 1, 0, 0, 3, 0), (9, 2, sizes[2], 4, 0, 0), (9, 3, sizes[3], 0, 1, 0)
    ]  # fmt: skip
    assert fields(events, Kind.GET) == [(9, 0, 0, 0, 1, 1), (9, 1, 0, 0, 3, 1), (9, 2, 0, 1, 0, 0)]
    assert fields(events, Kind.FLUSH) == [(9, 2, 0, 1, 0, 0), (9, 3, 1, 0, 0, 0)]
    assert fields(events, Kind.FLUSH_OBJECT) == [(9, 0, 7, 0, 0, 0)]
    # Held before, unless it was flushed before anybody looked; same-filled pages are not tried, nor runs with one.
    assert set(fields(events, Kind.HELD)) <= {(9, 50, held, 0, 1, 0)}
    tried = fields(events, Kind.TRIED)
    assert {event[:3] for event in tried if event[4] == 0} >= {(9, 0, sizes[0]), (9, 3, sizes[3])}
    runs = {event[:2] for event in tried if event[4] == 1}
    assert runs == {(9, 8)}
    times = [event[3] for event in events if event[6] in (Kind.PUT, Kind.GET)]
    assert times == sorted(times)
    assert all(event[4] > event[5] > 0 for event in events if event[6] == Kind.PUT and event[2])


def test_pages_held_before(daemon: Daemon, recorder: socket.socket) -> None:
    pool = daemon.pool()
    sizes = [size for n in range(4) for size in put(daemon, pool, [page(n * 100 + i) for i in range(100)], n * 100)]
    put(daemon, pool, [bytes(4096)], 400)
    assert start(recorder, "p").status == 0
    events = take_all(recorder)
    assert sorted(fields(events, Kind.HELD)) == [(9, i, size, 0, 1, 0) for i, size in enumerate(sizes)] + [
        (9, 400, 0, 0, 3, 0)
    ]


def test_a_page_refused_untried_has_a_size(daemon: Daemon, recorder: socket.socket) -> None:
    pool = daemon.pool()
    (size,) = put(daemon, pool, [page(1)])
    assert daemon.ask("set pools/p/params/zv_page_count_policy_percent 0").startswith("OK")
    assert start(recorder, "p").status == 0
    assert put(daemon, pool, [page(1)], 1) == [0]
    assert fields(take_all(recorder), Kind.PUT) == [(9, 1, size, 1, 0, 2)]


@pytest.mark.parametrize(
    ("parts", "every", "end", "status", "word"),
    [
        (("nobody",), 1, b"\0", ENOENT, "no such pool"),
        (("p",), 0, b"\0", EINVAL, "every 0"),
        (("p",), 1, b"", EINVAL, "NUL"),
        (("p", "lz5"), 1, b"\0", EINVAL, "lz5"),
        (("p", "zstd:99"), 1, b"\0", EINVAL, "zstd"),
        (("p", "zstd:3:dict=7"), 1, b"\0", ENOENT, "dictionary"),
        (("p", "lz4*3"), 1, b"\0", EINVAL, "3 pages"),
        (("p", "lz4*x"), 1, b"\0", EINVAL, "'x'"),
        (("p", "lz4*99999999999"), 1, b"\0", EINVAL, "pages"),
        (("p", *["lz4"] * 7), 1, b"\0", E2BIG, "more than 6"),
    ],
)
def test_refused(
    daemon: Daemon, recorder: socket.socket, parts: tuple[str, ...], every: int, end: bytes, status: int, word: str
) -> None:
    daemon.pool()
    refused = start(recorder, *parts, every=every, end=end)
    assert refused.status == status, refused
    assert word in refused.payload.decode()
    assert start(recorder, "p").status == 0  # the connection goes on, and nobody records


def test_one_at_a_time_and_only_by_whom_started_it(daemon: Daemon, recorder: socket.socket) -> None:
    daemon.pool()
    recorder.sendall(request(RECORD))
    assert answer(recorder).status == ENXIO
    assert start(recorder, "p").status == 0
    assert start(recorder, "p").status == EBUSY
    with daemon.connect("data") as other:
        assert start(other, "p").status == EBUSY
        other.sendall(request(RECORD))
        assert answer(other).status == ENXIO
    recorder.close()
    with daemon.connect("data") as other:
        until_it_may(other)


def until_it_may(sock: socket.socket, *tries: str) -> None:
    for _ in range(500):
        if (last := start(sock, "p", *tries)).status == 0:
            return
        assert last.status == EBUSY
        time.sleep(0.02)
    pytest.fail("the recording of a closed connection did not end")


def test_a_slow_reader_loses_events_and_is_told(daemon: Daemon, recorder: socket.socket) -> None:
    """Whoever puts does not wait for it."""
    pool = daemon.pool()
    assert start(recorder, "p").status == 0
    with daemon.connect("data") as sock:
        for i in range(70):
            sock.sendall(request(GET, pool=pool, object=1, index=i, count=1, flags=0))
            answer(sock)
        flush = request(FLUSH_PAGE, pool=pool, object=1, index=0, count=1024)
        for _ in range(70):
            sock.sendall(flush)
            assert answer(sock).status == 0
    events, lost = 0, 0
    while events < RING:
        _, lost, some = take(recorder)
        events += len(some)
    assert (events, lost) == (RING, 70 + 70 * 1024 - RING)


def test_memory_is_given_back(daemon: Daemon, recorder: socket.socket) -> None:
    def used() -> int:
        return int(daemon.ask("get pools/p/stats/used_bytes").split()[2])

    pool = daemon.pool()
    put(daemon, pool, [page(1)])
    before = used()
    assert start(recorder, "p", "zstd:9*16", "zstd:19").status == 0
    assert used() > before + RING * 32
    put(daemon, pool, [page(n) for n in range(64)])
    assert daemon.ask("get check").split()[2] == "ok"
    recorder.close()
    for _ in range(500):
        if used() < before + RING * 32:
            break
        time.sleep(0.02)
    assert used() < before + RING * 32


def test_a_destroyed_pool_ends_it(daemon: Daemon, recorder: socket.socket) -> None:
    daemon.pool()
    assert start(recorder, "p").status == 0
    assert daemon.ask("set pools/p/destroy 1").startswith("OK")
    recorder.sendall(request(RECORD))
    ended = answer(recorder)
    assert (ended.status, ended.payload) == (ENOENT, b"the pool was destroyed")
    daemon.pool()


READER = """
import socket, struct, sys
sock = socket.socket(socket.AF_UNIX)
address = sys.argv[1]
sock.connect("\\0" + address[1:] if address.startswith("@") else address)
sock.sendall(bytes.fromhex(sys.argv[2]))
sock.recv(4096)
print("started", flush=True)
while True:
    sock.sendall(bytes.fromhex(sys.argv[3]))
    sock.recv(1 << 20)
"""


def test_a_killed_reader_and_a_killed_daemon(tmp_path: Path) -> None:
    daemon = start_daemon("host", tmp_path / "run")
    pool = daemon.pool()
    begin = request(RECORD, struct.pack("<II", 1, 0) + b"p\0zstd:3\0")
    command = [sys.executable, "-c", READER, daemon.state()["data"], begin.hex(), request(RECORD).hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"started\n"
        put(daemon, pool, [page(n) for n in range(64)])
        reader.kill()
    with daemon.connect("data") as sock:
        until_it_may(sock, "zstd:3")
        put(daemon, pool, [page(n) for n in range(64)])
        assert len(fields(take_all(sock), Kind.PUT)) == 64
        os.kill(daemon.pid, signal.SIGKILL)  # the last that it does for anybody
        with pytest.raises((EOFError, ConnectionError)):
            take_all(sock)


def test_a_reader_that_never_reads(daemon: Daemon) -> None:
    """It asks again and again, and takes no answer: the daemon goes on, and ends in good order."""
    pool = daemon.pool()
    with daemon.connect("data") as rude:
        assert start(rude, "p").status == 0
        rude.sendall(request(RECORD) * 1000)
        for n in range(8):
            put(daemon, pool, [page(n)])
        assert daemon.ask("get check").split()[2] == "ok"
    with daemon.connect("data") as sock:
        until_it_may(sock)
