# SPDX-License-Identifier: Apache-2.0
"""The wire, byte for byte: tests/golden/*.txt holds a request and an answer of every operation, "NAME HEX" a line.

The C structures and the Python client must make those requests, the daemon must give those answers (its time is left
out: the eight bytes from 24 on are zero).
"""

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from tests.daemon.conftest import Daemon, pass_descriptor, receive
from tests.native.driver import program
from zcache_agent.pages import Answer, Flag, Key, Op, Request, record_request
from zcache_agent.recording import EVENT, Kind

F_ADD_SEALS, F_SEAL_SHRINK, F_SEAL_GROW = 1033, 2, 4
GOLDEN = Path(__file__).parent.parent / "golden"
KEYS = Key(0x1122334455667788, 0x99AABBCC, 1).pack() + Key(5, 6, 2).pack()
OFFSETS = bytes(8) + (4096).to_bytes(8, "little")
REQUESTS = {
    "hello": Request(Op.HELLO),
    "pool": Request(Op.POOL, payload=b"golden"),
    "segment": Request(Op.SEGMENT, object=8192),
    "put-inline": Request(Op.PUT, pool=1, object=9, index=7, count=1, payload=b"\xab" * 4096),
    "put-segment": Request(Op.PUT, pool=1, object=9, index=8, count=2, flags=Flag.SEGMENT, payload=OFFSETS),
    "put-inactive": Request(
        Op.PUT, pool=1, object=9, index=8, count=1, flags=Flag.SEGMENT | Flag.INACTIVE, payload=OFFSETS[:8]
    ),
    "get-peek": Request(Op.GET, pool=1, object=9, index=7, count=1, flags=Flag.PEEK),
    "get-segment": Request(Op.GET, pool=1, object=9, index=7, count=2, flags=Flag.SEGMENT, payload=OFFSETS),
    "record": record_request("golden", 64, ("lz4", "zstd:9*4")),
    "flush-page": Request(Op.FLUSH_PAGE, count=2, flags=Flag.KEYS, payload=KEYS),
    "flush-object": Request(Op.FLUSH_OBJECT, pool=1, object=9, count=1),
    "destroy-pool": Request(Op.DESTROY_POOL, pool=1, count=1),
    "dictionary": Request(Op.DICTIONARY, payload=b"a dictionary"),
}


def golden(name: str) -> dict[str, bytes]:
    lines = (GOLDEN / f"{name}.txt").read_text().splitlines()
    return {key: bytes.fromhex(value) for key, value in (line.split() for line in lines)}


def test_every_operation_has_its_bytes() -> None:
    assert {request.op for request in REQUESTS.values()} == set(Op)
    assert golden("requests").keys() == golden("answers").keys() == REQUESTS.keys()


@pytest.mark.parametrize("config", ["host", "host-asan"])
def test_requests_in_c(config: str) -> None:
    done = subprocess.run([program(config, "zc_golden")], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == (GOLDEN / "requests.txt").read_text()


EVENTS = [
    (0x1122334455667788, 0x99AABBCC, 1234, 1000000, 5600, 4500, Kind.PUT, 0, 1, 0),
    (9, 7, 3900, 1000001, 5000, 4400, Kind.PUT, 4, 0, 1),
    (9, 8, 0, 1000002, 1800, 0, Kind.GET, 0, 1, 1),
    (9, 8, 1, 1000003, 700, 0, Kind.FLUSH, 0, 0, 0),
    (9, 0, 12, 1000004, 9000, 0, Kind.FLUSH_OBJECT, 0, 0, 0),
    (5, 6, 2000, 0, 0, 3600, Kind.HELD, 0, 1, 0),
    (9, 4, 2900, 1000005, 30000, 150000, Kind.TRIED, 0, 3, 0),
]


@pytest.mark.parametrize("config", ["host", "host-asan"])
def test_events(config: str) -> None:
    """Of a recording, in C and in Python."""
    done = subprocess.run(
        [program(config, "zc_golden"), "events"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == (GOLDEN / "events.txt").read_text()
    assert [EVENT.pack(*event).hex() for event in EVENTS] == done.stdout.split()
    assert [Kind(event[6]) for event in EVENTS[1:]] == list(Kind)


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_in_python(name: str) -> None:
    request_id = list(REQUESTS).index(name) + 1
    assert REQUESTS[name].pack(request_id) == golden("requests")[name]


def test_answers(daemon: Daemon) -> None:
    expected = golden("answers")
    assert daemon.pool("golden") == 1
    descriptor = os.memfd_create("golden", os.MFD_ALLOW_SEALING)
    os.truncate(descriptor, 8192)
    os.pwrite(descriptor, b"one page" * 512 + b"other!" * 682, 0)
    fcntl.fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW)
    with daemon.connect("data") as sock:
        for name, request in golden("requests").items():
            if name == "segment":
                pass_descriptor(sock, request, descriptor)
            else:
                sock.sendall(request)
            head = bytearray(receive(sock, 40))
            head[24:32] = bytes(8)
            answer = Answer.parse(bytes(head))
            assert bytes(head) + receive(sock, answer.payload) == expected[name], name
    os.close(descriptor)
