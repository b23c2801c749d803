# SPDX-License-Identifier: Apache-2.0
"""The format of recordings: byte for byte, there and back, cut anywhere, and damaged."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcache_agent.pages import MAX_EVENTS, Recorded
from zcache_agent.recording import EVENT, EVENTS, VERSION, BadRecord, Kind, Recording, Writer, sizes_by

HEADER: dict[str, Any] = {
    "zcache": "0.1.0",
    "began": "2026-01-01T00:00:00Z",
    "device": {"model": "", "machine": "aarch64", "kernel": "6.1", "android": "14", "mem_total": 1 << 30},
    "page_size": 4096,
    "ram": 1 << 30,
    "pool": {"kind": "persistent", "allocator": "zbud", "codec": "lz4"},
    "backing": None,
    "params": {"zv_max_zsize": "3584"},
    "store": {"limit": str(1 << 28)},
    "stats": {},
    "others_bytes": 0,
    "every": 4,
    "tries": ["lz4", "zstd:3"],
}


@dataclass(frozen=True)
class Event:
    kind: Kind
    object: int = 1
    index: int = 0
    size: int = 0
    time_us: int = 0
    ns: int = 0
    codec_ns: int = 0
    result: int = 0
    detail: int = 0
    flags: int = 0

    def pack(self) -> bytes:
        low = self.time_us & 0xFFFFFFFF
        return EVENT.pack(
            self.object, self.index, self.size, low, self.ns, self.codec_ns, self.kind, self.result, self.detail,
            self.flags,
        )  # fmt: skip


def written(*chunks: tuple[int, list[Event]], header: dict[str, Any] | None = None, done: bool = True) -> bytes:
    """A file; of each chunk: when it was taken, and its events."""
    file = io.BytesIO()
    writer = Writer(file, header or HEADER)
    for time_us, events in chunks:
        writer.events(Recorded(time_us, 3, b"".join(event.pack() for event in events)))
    if done:
        writer.done({"reason": "done", "stats": {}})
    return file.getvalue()


def read(data: bytes) -> Recording:
    return Recording.read(io.BytesIO(data))


def test_bytes() -> None:
    """Of a header, a chunk and the end."""
    data = written((7, [Event(Kind.PUT, 0x11, 2, 1234, 5, 9000, 8000, 0, 1, 0)]), header={**HEADER, "tries": []})
    size = struct.unpack_from("<I", data, 12)[0]
    assert data[:12] == b"ZCRECORD" + VERSION.to_bytes(4, "little")
    chunk = data[16 + size :]
    event = "110000000000000002000000d20400000500000028230000401f000001000100"
    stored = zlib.compress(bytes.fromhex(event), 1)
    tag, raw, kept, checksum, time_us, lost = struct.unpack_from("<4sIIIQQ", chunk)
    assert (tag, raw, time_us, lost) == (b"EVTS", 32, 7, 3)
    assert (kept, checksum) == (len(stored), zlib.crc32(stored))
    assert chunk[32 : 32 + kept] == stored
    assert chunk[32 + kept :].startswith(b"DONE")


def test_what_is_read() -> None:
    recording = read(
        written(
            (
                2_000_000,
                [
                    Event(Kind.HELD, 1, 1, 700, codec_ns=5, detail=1),
                    Event(Kind.PUT, 1, 2, 800, 10, 5000, 4000, detail=1),
                    Event(Kind.HELD, 1, 2, 900, codec_ns=0, detail=1),  # was put since
                    Event(Kind.HELD, 1, 3, 0, codec_ns=90, detail=5),  # cold: nobody knows its size
                    Event(Kind.HELD, 1, 4, 0, codec_ns=0, detail=3),
                    Event(Kind.TRIED, 1, 2, 810, 11, 100, 4100, detail=0),
                    Event(Kind.TRIED, 1, 2, 500, 11, 300, 9000, detail=1),
                    Event(Kind.PUT, 1, 5, 3900, 20, 5000, 4400, result=4),
                    Event(Kind.PUT, 1, 6, 3000, 30, 1000, 0, result=2, flags=2),
                    Event(Kind.GET, 1, 2, 0, 40, 1500, detail=1, flags=1),
                    Event(Kind.FLUSH_OBJECT, 1, 0, 3, 50, 100),
                ],
            )
        )
    )
    assert recording.held == 3
    assert list(recording.indexes[:3]) == [3, 1, 4]  # the longest idle ahead
    assert list(recording.times[:4]) == [0, 85_000_000, 90_000_000, 90_000_010]
    assert list(recording.sizes[:3]) == [700, 700, 0]
    assert list(recording.kinds[3:]) == [Kind.PUT, Kind.PUT, Kind.PUT, Kind.GET, Kind.FLUSH_OBJECT]
    assert list(recording.flags[3:]) == [0, 0, 128, 1, 0]
    assert [one.of for one in recording.tried] == [{0: (810, 4100, 100), 1: (500, 9000, 300)}]
    assert (list(recording.costs.compress), list(recording.costs.stored)) == ([4000, 4400], [1000])
    assert not recording.is_cut
    assert recording.lost == 3
    assert list(sizes_by(recording, "zstd:3")) == [500, 500, 0, 500, 500, 500, 0, 0]


def test_times_beyond_32_bits() -> None:
    """Threads note them in no strict order; columns are."""
    first, late = (1 << 32) - 5, (1 << 32) + 5
    recording = read(written((late + 1, [Event(Kind.GET, time_us=late), Event(Kind.GET, time_us=first)])))
    assert list(recording.times) == [late, late]
    recording = read(written((first, [Event(Kind.GET, time_us=first)]), (late, [Event(Kind.GET, time_us=late)])))
    assert list(recording.times) == [first, late]


events = st.builds(
    Event,
    st.sampled_from([Kind.PUT, Kind.GET, Kind.FLUSH, Kind.FLUSH_OBJECT]),
    object=st.integers(0, (1 << 64) - 1),
    index=st.integers(0, (1 << 32) - 1),
    size=st.integers(0, 4096),
    time_us=st.integers(0, 1 << 20),
    ns=st.integers(0, (1 << 32) - 1),
    codec_ns=st.integers(0, (1 << 32) - 1),
    result=st.integers(0, 9),
    detail=st.integers(0, 5),
)
streams = st.lists(st.lists(events, max_size=20), max_size=5)


@given(streams)
def test_there_and_back(chunks: list[list[Event]]) -> None:
    recording = read(written(*((1 << 20, chunk) for chunk in chunks)))
    flat = [event for chunk in chunks for event in chunk]
    assert list(recording.kinds) == [event.kind for event in flat]
    assert list(recording.objects) == [event.object for event in flat]
    assert list(recording.indexes) == [event.index for event in flat]
    assert list(recording.sizes) == [event.size if event.kind == Kind.PUT else 0 for event in flat]
    latest, times = 0, []
    for event in flat:
        latest = max(latest, event.time_us)
        times.append(latest)
    assert list(recording.times) == times


@given(streams, st.integers(0, 5000))
def test_cut_anywhere(chunks: list[list[Event]], end: int) -> None:
    """What came so far is there, or, within the header, it is no recording."""
    data = written(*((1 << 20, chunk) for chunk in chunks))
    header = 16 + struct.unpack_from("<I", data, 12)[0]
    if end >= len(data):
        return
    if end < header:
        with pytest.raises(BadRecord):
            read(data[:end])
        return
    recording = read(data[:end])
    whole = read(data)
    assert recording.is_cut
    assert recording.kinds == whole.kinds[: recording.count]


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(BadRecord):
        read(data)


@given(streams, st.lists(st.tuples(st.integers(0, 10000), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4))
def test_damaged(chunks: list[list[Event]], changes: list[tuple[int, bytes]]) -> None:
    """It is read, or refused by name; nothing else."""
    data = bytearray(written(*((1 << 20, chunk) for chunk in chunks)))
    for at, new in changes:
        at %= len(data)
        data[at : at + len(new)] = new
    try:
        recording = read(bytes(data))
    except BadRecord:
        return
    assert len(recording.kinds) == len(recording.times) == len(recording.sizes) == len(recording.flags)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.sampled_from(sorted(HEADER)),
)
def test_any_header(value: Any, name: str) -> None:  # noqa: ANN401
    try:
        recording = read(written((1, [Event(Kind.PUT, size=100)]), header={**HEADER, name: value}))
    except BadRecord:
        return
    assert recording.page_size >= 512


@pytest.mark.parametrize("size", [33, (MAX_EVENTS + 1) * 32])
def test_a_chunk_that_cannot_be(size: int) -> None:
    stored = zlib.compress(bytes(size), 9)
    chunk = struct.pack("<4sIIIQQ", EVENTS, size, len(stored), zlib.crc32(stored), 0, 0) + stored
    with pytest.raises(BadRecord, match="damaged"):
        read(written(done=False) + chunk)


def test_a_bomb_is_not_unpacked() -> None:
    """What it says of its size holds."""
    stored = zlib.compress(bytes(1 << 26), 9)
    chunk = struct.pack("<4sIIIQQ", EVENTS, 32, len(stored), zlib.crc32(stored), 0, 0) + stored
    with pytest.raises(BadRecord, match="damaged"):
        read(written(done=False) + chunk)


@pytest.mark.parametrize(
    "damage",
    [
        {"params": {"zv_max_zsize": '1 pools/sim/backing "path=/etc/x reset=1"'}},
        {"params": {"a pools/sim/backing": "none"}},
        {"store": {"limit": "5M\nset"}},
        {"pool": {"kind": "persistent", "allocator": "zbud path=/etc/x reset=1", "codec": "lz4"}},
        {"backing": {"layout": "packed path=/etc/x", "size": 1}},
    ],
)
def test_no_header_is_more_than_words(damage: dict[str, Any]) -> None:
    """What it says goes into requests to a simulated control tree, which could be told to write to files."""
    with pytest.raises(BadRecord):
        read(written(header={**HEADER, **damage}))


def test_another_version(tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.write_bytes(b"ZCRECORD" + struct.pack("<II", 2, 0))
    with pytest.raises(BadRecord, match=f"{path}: is of version 2; this zcache reads 1"):
        Recording.load(path)
