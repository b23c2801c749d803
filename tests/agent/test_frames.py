# SPDX-License-Identifier: Apache-2.0
"""Frames of a serial line: the bytes of each, in C and in Python, and that they arrive once and in order."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native.driver import program
from zcache_agent.transport.console import posix_cksum
from zcache_agent.transport.frames import PAYLOAD, Deframer, Frame, Kind, Link, hello

GOLDEN = Path(__file__).parent.parent / "golden/frames.txt"
SESSION = 0x12345678
FRAMES = {
    "hello": hello(SESSION, 21),
    "ack": Frame(Kind.ACK, ack=200, mask=5),
    "ping": Frame(Kind.PING, ack=1),
    "bye": Frame(Kind.BYE, ack=1),
    "open": Frame(Kind.OPEN, b"cid\0-u\0\0", 1),
    "start": Frame(Kind.START, b"", 1, seq=1),
    "started": Frame(Kind.STARTED, b"", 1),
    "data": Frame(Kind.DATA, bytes(range(256)), 3, seq=17, ack=19, mask=0x7E7D1113),
    "error": Frame(Kind.ERROR, b"no", 1, seq=1),
    "end": Frame(Kind.END, b"", 1, seq=2),
    "credit": Frame(Kind.CREDIT, b"\0\x20\0\0", 1, seq=3),
    "close": Frame(Kind.CLOSE, b"", 1, seq=4),
    "exit": Frame(Kind.EXIT, b"\3" + bytes(7), 1, seq=255),
}
frames = st.builds(
    Frame,
    st.sampled_from(Kind),
    st.binary(max_size=PAYLOAD),
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 0xFFFFFFFF),
)


def test_bytes_in_python() -> None:
    lines = [f"{name} {frame.encode(SESSION).hex()}\n" for name, frame in FRAMES.items()]
    assert "".join(lines) == GOLDEN.read_text()
    assert {frame.kind for frame in FRAMES.values()} == set(Kind)


@pytest.mark.parametrize("config", ["host", "host-asan"])
def test_bytes_in_c(config: str) -> None:
    done = subprocess.run([program(config, "zc_line")], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == GOLDEN.read_text()


@given(st.lists(frames, max_size=4), st.lists(st.binary(max_size=30).filter(lambda noise: b"~" not in noise)))
def test_frames_come_out_of_any_noise(sent: list[Frame], noise: list[bytes]) -> None:
    line = b"".join(part + frame.encode(7) for frame, part in zip(sent, [*noise, *[b""] * 4], strict=False))
    deframer = Deframer(7)
    whole = [frame for at in range(0, len(line), 5) for frame in deframer.feed(line[at : at + 5])]
    assert whole == sent


@given(frames.filter(lambda frame: frame.kind != Kind.HELLO), st.integers(0), st.integers(1, 255))
def test_a_changed_byte_makes_no_frame(frame: Frame, at: int, change: int) -> None:
    line = bytearray(frame.encode(7))
    line[at % len(line)] ^= change
    assert [found for found in Deframer(7).feed(bytes(line)) if found != frame] == []


def test_another_session_is_noise() -> None:
    assert list(Deframer(8).feed(FRAMES["data"].encode(7))) == []


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(0, 60), st.integers(1, 32), st.integers(0, 400))
def test_all_arrive_once_and_in_order(seed: int, lost_percent: int, window: int, count: int) -> None:
    """Two ends and a line that loses frames, both ways, in a time of its own."""
    chance = random.Random(seed)
    ends = [Link(1, window), Link(1, window)]
    arrived: list[list[bytes]] = [[], []]
    texts = [str(number).encode() for number in range(count)]
    for text in texts:
        for end in ends:
            end.send(Kind.DATA, 1, text)
    now = 0.0
    while not all(end.idle for end in ends):
        now += 0.05
        assert now < 100_000
        for number, end in enumerate(ends):
            while frame := end.output(now):
                if chance.randrange(100) >= lost_percent:
                    arrived[number] += [due.payload for due in ends[1 - number].receive(frame, now)]
    assert arrived == [texts, texts]


def test_checksum_of_posix() -> None:
    assert posix_cksum(b"123456789") == 930766865
    assert posix_cksum(b"") == 4294967295
