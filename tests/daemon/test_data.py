# SPDX-License-Identifier: Apache-2.0
"""The data plane: every operation, and hostile clients."""

import fcntl
import mmap
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.daemon.conftest import (
    ABI,
    DESTROY_POOL,
    DICTIONARY,
    FLUSH_OBJECT,
    FLUSH_PAGE,
    GET,
    HELLO,
    IN_SEGMENT,
    KEYS,
    MAGIC,
    PEEK,
    POOL,
    PUT,
    SEGMENT,
    Daemon,
    answer,
    pass_descriptor,
    request,
    start,
)
from tests.support import pause

EPERM, ENOENT, EBADF, EINVAL, ENOSYS, EPROTO, E2BIG = 1, 2, 9, 22, 38, 71, 7
MIB = 1024 * 1024
ZSTD_MAGIC = bytes.fromhex("37a430ec")  # of a dictionary


def results(payload: bytes, count: int) -> list[tuple[int, int]]:
    return [struct.unpack_from("<iI", payload, 8 * i) for i in range(count)]


def page(seed: int, size: int = 4096) -> bytes:
    return random.Random(seed).randbytes(size // 4) * 2 + bytes(size - size // 4 * 2)


def batched(pages: bytes, size: int = 4096) -> list[bytes]:
    return [pages[at : at + size] for at in range(0, len(pages), size)]


@contextmanager
def segment(sock: socket.socket, size: int, seals: int = 2 | 4) -> Iterator[mmap.mmap]:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    try:
        os.truncate(descriptor, size)
        fcntl.fcntl(descriptor, 1033, seals)
        pass_descriptor(sock, request(SEGMENT, object=size), descriptor)
        with mmap.mmap(descriptor, size) as memory:
            yield memory
    finally:
        os.close(descriptor)


def test_hello_and_pool(daemon: Daemon) -> None:
    abi, page_size, batch, payload = struct.unpack_from("<IIII", daemon.call(HELLO).payload)
    assert (abi, page_size, batch, payload) == (ABI, daemon.page_size(), 1024, 2 * MIB)
    number = daemon.pool("e", "ephemeral")
    assert struct.unpack("<II", daemon.call(POOL, b"e").payload) == (number, 1)
    missing = daemon.call(POOL, b"nothing")
    assert (missing.status, missing.payload) == (-ENOENT, b"no such pool")


def test_inline_batches_go_round(daemon: Daemon) -> None:
    pool = daemon.pool()
    pages = [page(i) for i in range(20)] + [bytes(4096), random.Random(0).randbytes(4096)]
    with daemon.connect("data") as sock:
        sock.sendall(request(PUT, b"".join(pages), pool=pool, object=5, index=100, count=22))
        put = results(answer(sock).payload, 22)
        assert [status for status, _ in put] == [0] * 21 + [4]  # compress_poor
        assert put[20][1] == 0  # same-filled
        sock.sendall(request(GET, pool=pool, object=5, index=100, count=22, flags=PEEK))
        got = answer(sock)
        assert [status for status, _ in results(got.payload, 22)] == [0] * 21 + [-ENOENT]
        assert got.payload[22 * 8 :] == b"".join(pages[:21])
        keys = struct.pack("<QII", 5, 100, pool) + struct.pack("<QII", 5, 999, pool) + struct.pack("<QII", 5, 1, 99)
        sock.sendall(request(FLUSH_PAGE, keys, count=3, flags=KEYS))
        assert [status for status, _ in results(answer(sock).payload, 3)] == [0, -ENOENT, -ENOENT]
        sock.sendall(request(FLUSH_OBJECT, pool=pool, object=5, count=1))
        assert results(answer(sock).payload, 1) == [(0, 20)]
        sock.sendall(request(DESTROY_POOL, pool=pool, count=1))
        assert results(answer(sock).payload, 1) == [(0, 0)]
        sock.sendall(request(GET, pool=pool, object=5, count=1))
        assert results(answer(sock).payload, 1) == [(-ENOENT, 0)]


def test_segment_batches_go_round_with_several_in_flight(daemon: Daemon) -> None:
    pool = daemon.pool()
    with daemon.connect("data") as sock, segment(sock, 64 * 4096) as memory:
        assert answer(sock).status == 0
        for i in range(32):
            memory[i * 4096 : (i + 1) * 4096] = page(i)
        first = struct.pack("<16Q", *(i * 4096 for i in range(16)))
        second = struct.pack("<16Q", *(i * 4096 for i in range(16, 32)))
        back = struct.pack("<32Q", *(i * 4096 for i in range(32, 64)))
        batch = {"pool": pool, "object": 1, "flags": IN_SEGMENT}
        sock.sendall(
            request(PUT, first, index=0, count=16, **batch)
            + request(PUT, second, index=16, count=16, **batch)
            + request(GET, back, index=0, count=32, **batch)
        )
        for _ in range(2):
            assert [status for status, _ in results(answer(sock).payload, 16)] == [0] * 16
        assert [status for status, _ in results(answer(sock).payload, 32)] == [0] * 32
        assert memory[32 * 4096 :] == memory[: 32 * 4096]


@pytest.mark.parametrize(
    ("fields", "payload", "error"),
    [
        ({"op": 99}, b"", ENOSYS), ({"op": 0}, b"", ENOSYS), ({"op": HELLO, "count": 1}, b"", EINVAL),
        ({"op": HELLO, "reserved": 1}, b"", EINVAL), ({"op": HELLO}, b"x", EINVAL), ({"op": POOL}, b"", EINVAL),
        ({"op": POOL}, b"x" * 64, EINVAL), ({"op": PUT, "count": 0}, b"", EINVAL),
        ({"op": PUT, "count": 1}, b"", EINVAL),
        ({"op": PUT, "count": 1}, b"x" * 4095, EINVAL), ({"op": PUT, "count": 1}, b"x" * 4097, EINVAL),
        ({"op": PUT, "count": 1025}, b"", EINVAL), ({"op": PUT, "count": 2**32 - 1}, b"", EINVAL),
        ({"op": GET, "count": 1024}, b"", E2BIG), ({"op": GET, "count": 2, "index": 2**32 - 1}, b"", EINVAL),
        ({"op": GET, "count": 1, "flags": 8}, b"", EINVAL),
        ({"op": PUT, "count": 1, "flags": PEEK}, b"x" * 4096, EINVAL),
        ({"op": GET, "count": 1, "flags": KEYS}, b"short", EINVAL), ({"op": FLUSH_OBJECT, "count": 2}, b"", EINVAL),
        ({"op": GET, "count": 1, "flags": IN_SEGMENT}, bytes(8), EINVAL), ({"op": SEGMENT, "object": 4096}, b"", EBADF),
        ({"op": DICTIONARY}, b"", EINVAL), ({"op": DICTIONARY}, bytes(MIB + 1), EINVAL),
        ({"op": DICTIONARY}, bytes(2 * MIB), EINVAL), ({"op": DICTIONARY}, ZSTD_MAGIC + b"garbage" * 9, EINVAL),
        ({"op": DICTIONARY, "count": 1}, b"bytes", EINVAL), ({"op": DICTIONARY, "flags": KEYS}, b"bytes", EINVAL),
        ({"op": DICTIONARY, "reserved": 1}, b"bytes", EINVAL), ({"op": 11}, b"bytes", ENOSYS),
    ],
)  # fmt: skip
def test_bad_requests_are_named_and_the_connection_goes_on(
    daemon: Daemon, fields: dict[str, int], payload: bytes, error: int
) -> None:
    with daemon.connect("data") as sock:
        sock.sendall(request(fields["op"], payload, **{name: fields[name] for name in fields if name != "op"}))
        sock.sendall(request(HELLO))
        refused = answer(sock)
        assert refused.status == -error
        assert refused.payload.isascii()
        assert refused.payload
        assert answer(sock).status == 0


def load(daemon: Daemon, data: bytes) -> int:
    loaded = daemon.call(DICTIONARY, data)
    assert loaded.status == 0, loaded.payload
    number, reserved = struct.unpack("<II", loaded.payload)
    assert reserved == 0
    return int(number)


def test_dictionaries(daemon: Daemon) -> None:
    first, second = b"bytes that pages have too " * 9, random.Random(1).randbytes(MIB)
    assert [load(daemon, data) for data in (first, second, first, second)] == [1, 2, 1, 2]
    assert daemon.ask("list dictionaries") == "OK 13\nremove\n1/\n2/\n"
    assert daemon.ask("get dictionaries/2/size") == f"OK 8\n{MIB}\n"
    assert daemon.ask("set pools/create name=p kind=persistent codec=zstd:3:dict=1") == "OK 0\n"
    assert daemon.ask("set dictionaries/remove 1").startswith("ERR EBUSY ")
    assert daemon.ask("set pools/p/codec lz4") == "OK 0\n"
    assert daemon.ask("set dictionaries/remove 1") == "OK 0\n"
    assert daemon.ask("get dictionaries/1/size").startswith("ERR ENOENT ")
    assert load(daemon, first) == 3


def test_pages_keep_their_dictionary(daemon: Daemon) -> None:
    number = load(daemon, page(5))
    daemon.ask(f"set pools/create name=p kind=persistent codec=zstd:dict={number}")
    pool = struct.unpack("<II", daemon.call(POOL, b"p").payload)[0]
    put = results(daemon.call(PUT, page(5), pool=pool, object=1, count=1).payload, 1)
    assert put[0][0] == 0
    assert put[0][1] < 64, "it is the dictionary, nearly"
    daemon.ask("set pools/p/codec zstd")
    assert daemon.ask(f"set dictionaries/remove {number}").startswith("ERR EBUSY ")
    assert daemon.call(GET, pool=pool, object=1, count=1, flags=PEEK).payload[8:] == page(5)
    assert results(daemon.call(FLUSH_OBJECT, pool=pool, object=1, count=1).payload, 1) == [(0, 1)]
    assert daemon.ask(f"set dictionaries/remove {number}") == "OK 0\n"


@pytest.mark.parametrize("allocator", ["zbud", "zsmalloc"])
def test_a_pool_is_destroyed_while_others_use_it(daemon: Daemon, allocator: str) -> None:
    """Clients put and get, frames are emptied, the codec changes; then the pool goes, and comes again."""
    stop = threading.Event()
    seen: set[int] = set()

    def use(seed: int) -> None:
        pages = b"".join(page(seed * 100 + i) for i in range(16))
        with daemon.connect("data") as sock:
            while not stop.is_set():
                sock.sendall(request(POOL, b"p"))
                found = answer(sock)
                if found.status:
                    continue
                pool = struct.unpack("<II", found.payload)[0]
                for turn in range(8):
                    batch = {"pool": pool, "object": seed, "index": turn * 16, "count": 16}
                    sock.sendall(request(PUT, pages, **batch) + request(GET, flags=PEEK, **batch))
                    seen.update(status for status, _ in results(answer(sock).payload, 16))
                    got = answer(sock)
                    back = [status for status, _ in results(got.payload, 16)]
                    assert set(back) <= {0, -ENOENT}
                    assert all(one in pages for one in batched(got.payload[16 * 8 :]))

    clients = [threading.Thread(target=use, args=(seed,)) for seed in range(3)]
    create = f"set pools/create name=p kind=ephemeral allocator={allocator}"
    assert daemon.ask(create) == "OK 0\n"
    for client in clients:
        client.start()
    try:
        codecs = ["zstd", "lz4:3", "zstd:-2", "lz4", "zstd:5", "none"]
        while codecs or not {0, -ENOENT} <= seen:  # a slow client may meet no pool that lives, or none that dies
            codec = codecs.pop() if codecs else "lz4"
            while daemon.ask("get pools/p/stats/stored_puts").endswith("\n0\n"):
                time.sleep(0.001)
            for line in (f"set pools/p/codec {codec}", "set pools/p/shrink 3", "set pools/p/compact 1"):
                assert daemon.ask(line) == "OK 0\n"
            assert daemon.ask("get check") == "OK 3\nok\n"
            assert daemon.ask("set pools/p/destroy 1") == "OK 0\n"
            assert daemon.ask(create) == "OK 0\n"
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert daemon.ask("get check") == "OK 3\nok\n"


@pytest.mark.parametrize("fields", [{"magic": MAGIC + 1}, {"version": 2}, {"announce": 2 * MIB + 1}])
def test_a_stream_out_of_step_is_ended(daemon: Daemon, fields: dict[str, int]) -> None:
    with daemon.connect("data") as sock:
        sock.sendall(request(PUT, b"", **fields))
        assert answer(sock).status in (-EPROTO, -E2BIG)
        with suppress(ConnectionResetError):
            assert sock.recv(1) == b""


def test_truncated_requests(daemon: Daemon) -> None:
    pool = daemon.pool()
    whole = request(PUT, page(1), pool=pool, count=1)
    for size in (1, 47, 48, 49, 4000, len(whole) - 1):
        with daemon.connect("data") as sock:
            sock.sendall(whole[:size])
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
    assert "pools/p/stats/puts=0\n" in daemon.ask("dump pools/p/stats")


def test_a_started_request_must_end(host_daemon: Daemon) -> None:
    with host_daemon.connect("data") as idle, host_daemon.connect("data") as slow:
        slow.sendall(request(HELLO)[:20])
        began = time.monotonic()
        assert slow.recv(1) == b""
        assert time.monotonic() - began > 4
        idle.sendall(request(HELLO))
        assert answer(idle).status == 0


def test_segments_must_be_sealed_memory_of_the_length_that_is_said(daemon: Daemon) -> None:
    for seals in (0, 2, 4):
        with daemon.connect("data") as sock, segment(sock, 8192, seals):
            refused = answer(sock)
            assert refused.status == -EPERM
            assert b"sealed" in refused.payload
    with daemon.connect("data") as sock:
        null = os.open(os.devnull, os.O_RDWR)
        pass_descriptor(sock, request(SEGMENT, object=8192), null)
        os.close(null)
        assert answer(sock).status == -EPERM
    with daemon.connect("data") as sock, segment(sock, 8192):
        assert answer(sock).status == 0
        for offset in (4097, 8192, 2**63, 2**64 - 1):
            sock.sendall(request(GET, struct.pack("<Q", offset), count=1, flags=IN_SEGMENT))
            assert answer(sock).status == -EINVAL
    for size in (0, 4095, 64 * MIB + 1):
        with daemon.connect("data") as sock:
            descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
            pass_descriptor(sock, request(SEGMENT, object=size), descriptor)
            os.close(descriptor)
            assert answer(sock).status == -EINVAL


def test_a_segment_that_is_read_together_with_other_requests(daemon: Daemon) -> None:
    """Its descriptor has come when the first of them is served, and is the segment's all the same."""
    pool = daemon.pool()
    with daemon.connect("data") as sock:
        pause(daemon.pid)
        try:
            sock.sendall(request(HELLO) + request(POOL, b"p"))
            with segment(sock, 2 * 4096) as memory:
                memory[:4096] = page(1)
                batch = {"pool": pool, "object": 1, "count": 1, "flags": IN_SEGMENT}
                sock.sendall(
                    request(PUT, struct.pack("<Q", 0), **batch) + request(GET, struct.pack("<Q", 4096), **batch)
                )
                os.kill(daemon.pid, signal.SIGCONT)
                assert [answer(sock).status for _ in range(5)] == [0] * 5
                assert memory[4096:] == memory[:4096]
        finally:
            os.kill(daemon.pid, signal.SIGCONT)


def test_descriptors_that_nobody_asked_for_are_closed(daemon: Daemon) -> None:
    fds = Path(f"/proc/{daemon.pid}/fd")
    before = len(list(fds.iterdir()))
    with daemon.connect("data") as sock:
        for _ in range(50):
            pass_descriptor(sock, request(HELLO), 0, 1, 2)
            assert answer(sock).status == 0
        assert len(list(fds.iterdir())) <= before + 2


def test_a_segment_that_is_rewritten_during_puts(daemon: Daemon) -> None:
    """Its owner may do so at any moment: pages may be any mixture, the daemon stays sound."""
    pool = daemon.pool()
    stop = threading.Event()
    with daemon.connect("data") as sock, segment(sock, 32 * 4096) as memory:
        assert answer(sock).status == 0

        def rewrite() -> None:
            rand = random.Random(1)
            while not stop.is_set():
                at = rand.randrange(32 * 4096 - 64)
                memory[at : at + 64] = rand.randbytes(64)

        writer = threading.Thread(target=rewrite)
        writer.start()
        try:
            offsets = struct.pack("<32Q", *(i * 4096 for i in range(32)))
            for _ in range(60):
                sock.sendall(request(PUT, offsets, pool=pool, count=32, flags=IN_SEGMENT))
                assert answer(sock).status == 0
                sock.sendall(request(GET, offsets, pool=pool, count=32, flags=IN_SEGMENT | PEEK))
                got = answer(sock)
                assert {status for status, _ in results(got.payload, 32)} <= {0, -ENOENT}
        finally:
            stop.set()
            writer.join()


def test_a_peer_of_another_user_is_refused(tmp_path: Path) -> None:
    """At abstract sockets, which no file's mode guards."""
    if os.geteuid() != 0:
        pytest.fail("needs root to become another user: run the tests as root")
    daemon = start("host", tmp_path / "run", "--abstract")
    stranger = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX); "
        "s.settimeout(20); s.connect(chr(0) + sys.argv[1]); print(s.recv(1))"
    )
    for plane in ("control", "data"):
        command = [sys.executable, "-c", stranger, daemon.state()[plane][1:]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout == "b''\n", done.stderr
    assert "refused a peer of uid 65534" in (daemon.directory / "zcached.log").read_text()
    assert daemon.alive()
    daemon.stop()


def test_requests_whose_answers_nobody_reads_do_not_grow_the_daemon(host_daemon: Daemon) -> None:
    pool = host_daemon.pool()
    before = host_daemon.resident()
    socks = [host_daemon.connect("data") for _ in range(20)]
    for sock in socks:
        sock.settimeout(0.2)
        try:
            for _ in range(200):
                sock.sendall(request(GET, pool=pool, count=400))
        except TimeoutError:
            pass
    assert host_daemon.resident() - before < 24 * MIB  # ZC_MAX_OUTSTANDING and stacks
    for sock in socks:
        sock.close()


def test_garbage(daemon: Daemon) -> None:
    rand = random.Random(5)
    for size in (1, 48, 100, 5000, 200_000):
        with daemon.connect("data") as sock:
            try:
                sock.sendall(rand.randbytes(size))
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
            except (BrokenPipeError, ConnectionResetError):
                pass
    assert daemon.alive()
