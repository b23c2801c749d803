# SPDX-License-Identifier: Apache-2.0
"""A real zcached of each build, in a directory of its own, and raw sockets to it."""

import array
import os
import re
import select
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.native.driver import program

MAGIC, ABI = 0x3163637A, 1
HELLO, POOL, SEGMENT, PUT, GET, FLUSH_PAGE, FLUSH_OBJECT, DESTROY_POOL, DICTIONARY, RECORD = range(1, 11)
KEYS, IN_SEGMENT, PEEK = 1, 2, 4
REQUEST, ANSWER = struct.Struct("<IHHQIIQIIII"), struct.Struct("<IHHQiIQII")
SECONDS = 30


@dataclass
class Answer:
    status: int
    count: int
    payload: bytes


def request(op: int, payload: bytes = b"", *, announce: int | None = None, **fields: int) -> bytes:
    """A request's bytes; `announce` lies about the payload's length."""
    length = len(payload) if announce is None else announce
    head = {"magic": MAGIC, "version": ABI, "id": 7, "pool": 0, "index": 0, "object": 0, "count": 0, "flags": 0}
    head |= {"reserved": 0, **fields}
    return (
        REQUEST.pack(
            head["magic"], head["version"], op, head["id"], head["pool"], head["index"], head["object"],
            head["count"], head["flags"], length, head["reserved"],
        )
        + payload
    )  # fmt: skip


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise EOFError(f"{len(data)} of {size} bytes")
        data += part
    return data


def answer(sock: socket.socket) -> Answer:
    magic, abi, _, _, status, count, _, payload, _ = ANSWER.unpack(receive(sock, ANSWER.size))
    assert (magic, abi) == (MAGIC, ABI)
    return Answer(status, count, receive(sock, payload))


@dataclass
class Daemon:
    directory: Path
    program: Path
    pid: int

    def state(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in (self.directory / "zcached.state").read_text().splitlines())

    def connect(self, plane: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(SECONDS)
        address = self.state()[plane]
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        return sock

    def ask(self, line: str | bytes) -> str:
        """One control request; the whole answer."""
        with self.connect("control") as sock:
            sock.sendall((line if isinstance(line, bytes) else line.encode()) + b"\n")
            sock.shutdown(socket.SHUT_WR)
            said = b""
            while part := sock.recv(65536):
                said += part
        return said.decode()

    def call(self, op: int, payload: bytes = b"", **fields: int) -> Answer:
        with self.connect("data") as sock:
            sock.sendall(request(op, payload, **fields))
            return answer(sock)

    def pool(self, name: str = "p", kind: str = "persistent") -> int:
        assert self.ask(f"set pools/create name={name} kind={kind}") == "OK 0\n"
        return int(struct.unpack("<II", self.call(POOL, name.encode()).payload)[0])

    def page_size(self) -> int:
        return int(self.state()["page_size"])

    def resident(self) -> int:
        """Bytes, by the OS."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return sum(int(kb) * 1024 for kb in re.findall(r"^(?:Pss|SwapPss): +(\d+)", rollup, re.M))

    def alive(self) -> bool:
        return self.ask("get abi") == "OK 2\n1\n"

    def stop(self) -> None:
        """A clean end: SIGTERM, exit, no file left but log and lock."""
        pidfd = os.pidfd_open(self.pid)
        os.kill(self.pid, signal.SIGTERM)
        assert select.select([pidfd], [], [], SECONDS)[0], "zcached did not end"
        os.close(pidfd)
        assert {path.name for path in self.directory.iterdir()} <= {"zcached.lock", "zcached.log", "zcached.log.1"}


def start(config: str, directory: Path, *options: str) -> Daemon:
    binary = program(config, "zcached")
    done = subprocess.run(
        [binary, "run", "--dir", directory, "--detach", *options],
        capture_output=True, text=True, timeout=SECONDS, check=True,
    )  # fmt: skip
    ready = re.fullmatch(r"ready pid=(\d+) version=\S+\n", done.stdout)
    assert ready
    daemon = Daemon(directory, binary, int(ready[1]))
    assert daemon.ask("set params/pressure_shrink_percent 0") == "OK 0\n"  # whatever this machine is short of
    return daemon


@pytest.fixture(params=["host", "host-asan", "host-tsan"])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    one = start(request.param, tmp_path / "run")
    yield one
    assert one.alive()
    one.stop()


@pytest.fixture
def host_daemon(tmp_path: Path) -> Iterator[Daemon]:
    one = start("host", tmp_path / "run")
    yield one
    assert one.alive()
    one.stop()


def pass_descriptor(sock: socket.socket, message: bytes, *descriptors: int) -> None:
    rights = array.array("i", descriptors)
    sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
