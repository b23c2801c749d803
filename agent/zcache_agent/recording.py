# SPDX-License-Identifier: Apache-2.0
"""Recordings: what happened to a pool's pages on a device, without what is in them. docs/simulate.md has the format."""

from __future__ import annotations

import json
import re
import struct
import time
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO

from . import __version__
from .daemon import Daemon
from .device import look
from .errors import Usage, ZcacheError
from .pages import EVENT_BYTES, MAX_EVENTS, PagesClient, Recorded, Refusal

MAGIC = b"ZCRECORD"
VERSION = 1
HEAD = struct.Struct("<8sII")
CHUNK = struct.Struct("<4sIIIQQ")
"""Tag, bytes as they are and as they are stored, CRC-32 of the latter, time_us, lost."""
EVENT = struct.Struct("<QIIIIIBBBB")
EVENTS, DONE = b"EVTS", b"DONE"
_HEADER_MAX = 1 << 20
_TIME_MAX = 1 << 45
"""us: more than a year."""
_PEEK, _INACTIVE, _SHORT = 1, 1, 128
_FILL = 3
_FAILED = 255


class BadRecord(ZcacheError):
    """A file that is no recording, or a damaged one."""

    default_name = "bad_record"


class Kind(IntEnum):
    PUT = 1
    GET = 2
    FLUSH = 3
    FLUSH_OBJECT = 4
    HELD = 5
    TRIED = 6


# ---- taking one ----


@dataclass(frozen=True)
class Options:
    pool: str
    seconds: float | None = None
    """None: until Ctrl-C."""
    events: int | None = None
    codecs: tuple[str, ...] = ("zstd:3",)
    """Besides the pool's own."""
    every: int = 64
    """Of so many pages that are put one is tried by each codec."""


class Writer:
    """Writes a recording; what was written by then is whole, whenever it ends."""

    def __init__(self, file: BinaryIO, header: Mapping[str, Any]) -> None:
        self._file = file
        text = json.dumps(header).encode()
        file.write(HEAD.pack(MAGIC, VERSION, len(text)) + text)
        file.flush()

    def events(self, recorded: Recorded) -> None:
        self._chunk(EVENTS, recorded.events, recorded.time_us, recorded.lost)

    def done(self, facts: Mapping[str, Any]) -> None:
        self._chunk(DONE, json.dumps(facts).encode(), 0, 0)

    def _chunk(self, tag: bytes, data: bytes, time_us: int, lost: int) -> None:
        stored = zlib.compress(data, 1)
        self._file.write(CHUNK.pack(tag, len(data), len(stored), zlib.crc32(stored), time_us, lost) + stored)
        self._file.flush()


@dataclass
class Progress:
    """How far a recording is."""

    seconds: float = 0.0
    events: int = 0
    lost: int = 0


def header_of(daemon: Daemon, control: Mapping[str, str], options: Options, tries: Sequence[str]) -> dict[str, Any]:
    """What a recording says of the device and the pool; `control`: the dump of the whole tree."""
    device = look(daemon.transport)
    pool = f"pools/{options.pool}/"
    mine = {path.removeprefix(pool): value for path, value in control.items() if path.startswith(pool)}
    backing = dict(word.split("=", 1) for word in mine.get("backing", "").split() if "=" in word)
    used = [int(value) for path, value in control.items() if re.fullmatch(r"pools/[^/]+/stats/used_bytes", path)]
    return {
        "zcache": __version__,
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": {
            "model": device.model,
            "machine": device.machine,
            "kernel": device.kernel,
            "android": device.android,
            "mem_total": device.mem_total,
        },
        "page_size": int(control["page_size"]),
        "ram": min(device.mem_total, device.cgroup_limit or device.mem_total),
        "pool": {name: mine[name] for name in ("kind", "allocator", "codec")},
        "backing": {"layout": backing["layout"], "size": _size_of(daemon, backing["path"])} if backing else None,
        "params": {path.removeprefix("params/"): value for path, value in mine.items() if path.startswith("params/")},
        "store": {path.removeprefix("params/"): value for path, value in control.items() if path.startswith("params/")},
        "stats": {path.removeprefix("stats/"): int(value) for path, value in mine.items() if path.startswith("stats/")},
        "others_bytes": sum(used) - int(mine["stats/used_bytes"]),
        "every": options.every,
        "tries": list(tries),
    }


def _size_of(daemon: Daemon, path: str) -> int:
    """Of a backing store; 0: the device does not tell."""
    script = 'size=$(cat "/sys/class/block/${1##*/}/size" 2>/dev/null) && echo $((size * 512)) || stat -c %s "$1"'
    said = daemon.run(["sh", "-c", script, "sh", path]).text
    return int(said) if said.isdecimal() else 0


def tries_of(codec: str, cold_codec: str, extent: int, others: Sequence[str]) -> list[str]:
    """The codecs that a recording tries: the pool's and the cold one, alone and in extents, and others."""
    tries = [codec, *others, cold_codec]
    return list(dict.fromkeys([*tries, *([f"{cold_codec}*{extent}"] if extent > 1 else [])]))


def take(client: PagesClient, writer: Writer, options: Options, progress: Progress) -> Iterator[Progress]:
    """Writes what comes, and says after each part how far it is; ends by time or count."""
    while True:
        recorded = client.take_events()
        progress.seconds = recorded.time_us / 1e6
        progress.events += len(recorded.events) // EVENT_BYTES
        progress.lost = recorded.lost
        if recorded.events:
            writer.events(recorded)
        yield progress
        is_late = options.seconds is not None and progress.seconds >= options.seconds
        is_all = len(recorded.events) < MAX_EVENTS * EVENT_BYTES
        if (is_late and is_all) or (options.events is not None and progress.events >= options.events):
            return


# ---- reading one ----


@dataclass
class Tried:
    """A page that was compressed by several codecs: bytes, ns to compress, to decompress, by their place in `tries`."""

    of: dict[int, tuple[int, int, int]] = field(default_factory=dict)


@dataclass
class Costs:
    """ns of operations, by what became of them."""

    compress: array[int] = field(default_factory=lambda: array("I"))
    stored: array[int] = field(default_factory=lambda: array("I"))
    """Of puts: without compression, as those refused."""
    refused: array[int] = field(default_factory=lambda: array("I"))
    fill: array[int] = field(default_factory=lambda: array("I"))
    got: array[int] = field(default_factory=lambda: array("I"))
    """Warm pages, as they are in memory."""
    got_fill: array[int] = field(default_factory=lambda: array("I"))
    missed: array[int] = field(default_factory=lambda: array("I"))
    flushed: array[int] = field(default_factory=lambda: array("I"))


@dataclass
class Recording:
    """One that was read. Operations are columns; those held before it began come first, the longest idle ahead."""

    header: dict[str, Any]
    times: array[int]
    """us"""
    objects: array[int]
    indexes: array[int]
    sizes: array[int]
    """Of puts, by the pool's codec; 0: same-filled."""
    kinds: bytearray
    flags: bytearray
    held: int
    tried: list[Tried]
    costs: Costs
    lost: int
    is_cut: bool
    """It ends without saying so: the device or this machine went away."""
    done: dict[str, Any]

    @property
    def page_size(self) -> int:
        return int(self.header["page_size"])

    @property
    def codec(self) -> str:
        return str(self.header["pool"]["codec"])

    @property
    def tries(self) -> list[str]:
        return list(self.header["tries"])

    @property
    def count(self) -> int:
        return len(self.kinds)

    @property
    def seconds(self) -> float:
        return (self.times[-1] - self.times[self.held]) / 1e6 if self.count > self.held else 0.0

    @classmethod
    def load(cls, path: Path) -> Recording:
        try:
            with path.open("rb") as file:
                return cls.read(file)
        except OSError as error:
            raise Usage(f"{path}: {error.strerror}", hint="zcache record makes one") from error
        except BadRecord as error:
            raise BadRecord(f"{path}: {error.message}", hint=error.hint) from error

    @classmethod
    def read(cls, file: BinaryIO) -> Recording:
        header = _read_header(file)
        reader = _Reader()
        done: dict[str, Any] = {}
        lost, is_cut = 0, True
        for tag, data, time_us, missed in _chunks(file):
            if tag == DONE:
                done, is_cut = _facts(data), False
                break
            reader.add(data, time_us)
            lost = missed
        return reader.finish(header, lost, is_cut, done)


def _facts(data: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadRecord("a part of it is no JSON") from error
    if not isinstance(facts, dict):
        raise BadRecord("a part of it is no JSON object")
    return facts


def _read_header(file: BinaryIO) -> dict[str, Any]:
    head = file.read(HEAD.size)
    if len(head) < HEAD.size or not head.startswith(MAGIC):
        raise BadRecord("is no recording of zcache's", hint="zcache record makes one")
    _, version, size = HEAD.unpack(head)
    if version != VERSION:
        raise BadRecord(
            f"is of version {version}; this zcache reads {VERSION}", hint="use the zcache that recorded it, or a newer"
        )
    if size > _HEADER_MAX or len(text := file.read(size)) < size:
        raise BadRecord("its header is cut off")
    header = _facts(text)
    _check_header(header)
    return header


def _check_header(header: Mapping[str, Any]) -> None:
    """Each value that is used has its type; what it means is asked of the store."""
    size = header.get("page_size")
    if not isinstance(size, int) or not 512 <= size <= 1 << 20 or size & (size - 1):
        raise BadRecord(f"its header says that pages are {size!r} bytes")
    for name, kinds in (("ram", int), ("others_bytes", int), ("every", int), ("tries", list), ("stats", dict)):
        if not isinstance(header.get(name), kinds):
            raise BadRecord(f"its header has no {name}")
    if not all(isinstance(spec, str) for spec in header["tries"]) or header["ram"] < 0 or header["others_bytes"] < 0:
        raise BadRecord("its header has values that cannot be")
    for name in ("pool", "params", "store", "device"):
        if not isinstance(header.get(name), dict):
            raise BadRecord(f"its header has no {name}")
    texts = {**header["pool"], **header["params"], **header["store"]}
    if not all(map(_is_word, [*texts, *texts.values()])) or not {"kind", "allocator", "codec"} <= set(header["pool"]):
        raise BadRecord("its header does not say what pool it is of")
    backing = header.get("backing")
    if backing is not None and not (
        isinstance(backing, dict) and _is_word(backing.get("layout")) and isinstance(backing.get("size"), int)
    ):
        raise BadRecord("its header does not say what the backing store is")


def _is_word(value: object) -> bool:
    """What may become a part of a request to a control tree, and no more than a part."""
    return isinstance(value, str) and re.fullmatch(r"[\w.:%=-]+", value, re.ASCII) is not None


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes, int, int]]:
    """Those that are whole."""
    while len(head := file.read(CHUNK.size)) == CHUNK.size:
        tag, size, stored_size, checksum, time_us, lost = CHUNK.unpack(head)
        most = MAX_EVENTS * EVENT_BYTES if tag == EVENTS else _HEADER_MAX
        if tag not in (EVENTS, DONE) or size > most or stored_size > most + 4096 or time_us > _TIME_MAX:
            raise BadRecord(f"is damaged before byte {file.tell()}", hint="record again")
        stored = file.read(stored_size)
        if len(stored) < stored_size:
            return
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(stored, size + 1)
        except zlib.error:
            data = b""
        if zlib.crc32(stored) != checksum or len(data) != size or (tag == EVENTS and size % EVENT_BYTES):
            raise BadRecord(f"is damaged before byte {file.tell()}", hint="record again")
        yield tag, data, time_us, lost


class _Reader:
    """Turns events into columns."""

    def __init__(self) -> None:
        self.times, self.objects = array("Q"), array("Q")
        self.indexes, self.sizes = array("I"), array("I")
        self.kinds, self.flags = bytearray(), bytearray()
        self.held: dict[tuple[int, int], tuple[int, int, int]] = {}
        self.put: set[tuple[int, int]] = set()
        self.tried: list[Tried] = []
        self.last_try = MAX_EVENTS
        self.costs = Costs()

    def add(self, data: bytes, time_us: int) -> None:
        base, low = time_us, time_us & 0xFFFFFFFF
        latest = self.times[-1] if self.times else 0
        for event in EVENT.iter_unpack(data):
            object_id, index, size, when, ns, codec_ns, kind, result, detail, flags = event
            if kind == Kind.TRIED:
                self._try(size, ns, codec_ns, result, detail)
                continue
            if kind == Kind.HELD:
                if (object_id, index) not in self.put:
                    self.held[object_id, index] = (codec_ns, size, detail)
                continue
            if kind not in _OPERATIONS:
                raise BadRecord(f"has an event of kind {kind}", hint="use the zcache that recorded it, or a newer")
            # Threads note events in no strict order.
            latest = max(latest, base - ((low - when) & 0xFFFFFFFF))
            if kind == Kind.PUT:
                self.put.add((object_id, index))
                flags = self._count_put(size, ns, codec_ns, result, flags)
            elif kind == Kind.GET:
                flags &= _PEEK
                self._count_get(ns, result, detail)
            else:
                flags = 0
                self.costs.flushed.append(ns)
            self.times.append(latest)
            self.objects.append(object_id)
            self.indexes.append(index)
            self.sizes.append(size if kind == Kind.PUT else 0)
            self.kinds.append(kind)
            self.flags.append(flags)

    def _count_put(self, size: int, ns: int, codec_ns: int, result: int, flags: int) -> int:
        if codec_ns:
            self.costs.compress.append(codec_ns)
        if size == 0:
            self.costs.fill.append(ns)
        elif result == 0:
            self.costs.stored.append(max(0, ns - codec_ns))
        else:
            self.costs.refused.append(max(0, ns - codec_ns))
        return (flags & _INACTIVE) | (_SHORT if result == Refusal.low_memory else 0)

    def _count_get(self, ns: int, result: int, detail: int) -> None:
        if result:
            self.costs.missed.append(ns)
        elif detail == _FILL:
            self.costs.got_fill.append(ns)
        elif detail == 1:
            self.costs.got.append(ns)

    def _try(self, size: int, ns: int, codec_ns: int, result: int, detail: int) -> None:
        """The tries of a page follow one another by their places."""
        if detail <= self.last_try:
            self.tried.append(Tried())
        self.last_try = detail
        if result == 0:
            self.tried[-1].of[detail] = (size, codec_ns, ns)

    def finish(self, header: dict[str, Any], lost: int, is_cut: bool, done: dict[str, Any]) -> Recording:
        known = sorted(size for _, size, _ in self.held.values() if size) or sorted(filter(None, self.sizes))
        before = sorted(self.held.items(), key=lambda entry: -entry[1][0])
        oldest = before[0][1][0] * 1_000_000 if before else 0
        times = array("Q", (oldest - idle * 1_000_000 for _, (idle, _, _) in before))
        times.extend(oldest + when for when in self.times)
        sizes = array("I", (_held_size(n, size, kind, known, header) for n, (_, (_, size, kind)) in enumerate(before)))
        return Recording(
            header=header,
            times=times,
            objects=array("Q", (key[0] for key, _ in before)) + self.objects,
            indexes=array("I", (key[1] for key, _ in before)) + self.indexes,
            sizes=sizes + self.sizes,
            kinds=bytearray([Kind.PUT]) * len(before) + self.kinds,
            flags=bytearray(len(before)) + self.flags,
            held=len(before),
            tried=self.tried,
            costs=self.costs,
            lost=lost,
            is_cut=is_cut,
            done=done,
        )


_OPERATIONS = frozenset((Kind.PUT, Kind.GET, Kind.FLUSH, Kind.FLUSH_OBJECT))


def _held_size(number: int, size: int, kind: int, known: Sequence[int], header: Mapping[str, Any]) -> int:
    """Of pages that were cold or written back, the record has no size: they get those of others, in turn."""
    if kind == _FILL or size:
        return size
    return known[number * 2654435761 % len(known)] if known else int(header["page_size"]) // 2


# ---- other codecs' sizes ----

_NEAR = 8
"""Sampled pages of about the same size that one is taken of; of exactly the same, all."""


def sampled(recording: Recording, which: int) -> list[tuple[int, tuple[int, int, int]]]:
    """Of pages tried by a codec: their bytes by the pool's own, and what it made of them."""
    own = recording.tries.index(recording.codec) if recording.codec in recording.tries else -1
    return [(one.of[own][0], one.of[which]) for one in recording.tried if own in one.of and which in one.of]


def sizes_by(recording: Recording, codec: str) -> array[int]:
    """What each put would have taken by another codec, drawn from pages of about the same size that it was tried on."""
    if codec == recording.codec:
        return recording.sizes
    pairs = sorted((own, made[0]) for own, made in sampled(recording, recording.tries.index(codec)))
    if not pairs:
        raise Usage(f"codec {codec}: the record has no page that it was tried on", hint="record longer, or --every 1")
    owns = [own for own, _ in pairs]
    near: dict[int, list[int]] = {}
    for size in set(recording.sizes):
        first, end = bisect_left(owns, size), bisect_right(owns, size)
        if end - first < _NEAR:
            first = max(0, min((first + end - _NEAR) // 2, len(pairs) - _NEAR))
            end = first + _NEAR
        near[size] = [made for _, made in pairs[first:end]]
    near[0] = [0]
    draws = (n * 2654435761 >> 7 for n in range(recording.count))
    return array("I", (near[size][draw % len(near[size])] for size, draw in zip(recording.sizes, draws, strict=True)))
