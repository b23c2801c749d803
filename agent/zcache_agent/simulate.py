# SPDX-License-Identifier: Apache-2.0
"""Simulation: a recording run against any settings, by the store itself, on this machine.

    recording = Recording.load(path)
    outcome = simulate(recording, Settings.parse(["allocator=zsmalloc", "zv_max_zsize=3/4"]))

libzcsim.so is libzcache with a codec that makes of each page what the record says, and with the record's time
(native/sim/sim.h). It runs without Python's lock, so threads may simulate side by side.
"""

from __future__ import annotations

import ctypes
import errno
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import (
    CDLL,
    POINTER,
    Structure,
    byref,
    c_char_p,
    c_int,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self

from . import __version__
from .control import quoted
from .counters import WEAR
from .errors import Refused, Usage, ZcacheError
from .kinds import Size, bytes_of
from .library import load
from .pages import Refusal
from .prices import Prices, ratio_error, total
from .recording import Recording, sampled, sizes_by

_BUNDLED = Path(__file__).parent / "_bin" / "host" / "libzcsim.so"
_SPANS = 5
_MILLION = 1_000_000
_ANSWER = 1 << 16
_NOT_KNOWN = {"entropy_gate": "what is in a page is not recorded"}
OWN = ("allocator", "codec", "cold_codec", "backing", "kind")
"""Settings that are no parameters of the pool or the store."""


class SimulationFailed(ZcacheError):
    """It could not be run to its end."""

    default_name = "simulation_failed"


@dataclass(frozen=True)
class Settings:
    """What differs from the recorded pool: `allocator`, `codec`, `cold_codec`, `kind`, `backing` (none, or
    SIZE[,in_place]), any parameter of the pool, and any of the store."""

    values: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, words: Iterable[str]) -> Self:
        values: dict[str, str] = {}
        for word in words:
            name, equals, value = word.partition("=")
            if not equals or not name or not value:
                raise Usage(f"{word!r} is no setting", hint="NAME=VALUE, e.g. allocator=zbud or zv_max_zsize=3/4")
            if name in _NOT_KNOWN:
                raise Usage(f"{name} cannot be simulated: {_NOT_KNOWN[name]}", hint="leave it out")
            values[name] = value
        return cls(values)

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.values.items()) or "as recorded"


@dataclass(frozen=True)
class Point:
    """The store at a moment."""

    seconds: float
    used_bytes: int
    written_bytes: int


@dataclass(frozen=True)
class Cpu:
    """us on the recorded device. None: the record does not tell."""

    put_us: float | None
    """Mean of a put, refused ones included."""
    get_us: float | None
    """Mean of a get that found a page in memory, same-filled ones included."""
    total_seconds: float | None
    """Of all operations, recompression included."""
    cold_seconds: float | None
    error_percent: float
    """Twice the standard error of what was sampled."""


@dataclass(frozen=True)
class Outcome:
    settings: Settings
    used_bytes: int
    """Of the pool in the end, as stats/used_bytes of it."""
    peak_bytes: int
    """The most that the store used."""
    mean_bytes: int
    """Over time."""
    held_pages: int
    """In memory, in the end."""
    error_percent: float
    """Of memory: twice the standard error where sizes are those of a sample; 0: all were recorded."""
    puts: int
    refused: dict[str, int]
    gets: int
    gets_found: int
    hit_ratio: float | None
    written_bytes: int
    """To the backing store: what wears flash."""
    written_gets: int
    cpu: Cpu
    stats: dict[str, int]
    """The pool's counters, as in pools/NAME/stats: what the stream added to those that count, what is there in the end
    of those that tell what is held."""
    points: list[Point]

    @property
    def refusals(self) -> int:
        return sum(self.refused.values())

    def as_json(self) -> dict[str, Any]:
        facts = asdict(self)
        facts["settings"] = dict(self.settings.values)
        return facts


# ---- the library ----


class _Config(Structure):
    _fields_ = [
        ("page_size", c_uint32),
        ("proc_dir", c_char_p),
        ("cgroup_dir", c_char_p),
        ("create", c_char_p),
        ("codec", c_char_p),
        ("cold_codec", c_char_p),
        ("gain", c_uint32 * _SPANS),
    ]


class _Stream(Structure):
    _fields_ = [
        ("count", c_size_t),
        ("held", c_size_t),
        ("times", c_void_p),
        ("objects", c_void_p),
        ("indexes", c_void_p),
        ("sizes", c_void_p),
        ("colds", c_void_p),
        ("kinds", c_void_p),
        ("flags", c_void_p),
    ]


class _Counts(Structure):
    _fields_ = [
        ("compressed", c_uint64),
        ("decompressed", c_uint64),
        ("compressed_cold", c_uint64 * _SPANS),
        ("decompressed_cold", c_uint64 * _SPANS),
        ("short_puts", c_uint64),
        ("short_found", c_uint64),
        ("peak_bytes", c_uint64),
        ("kib_ms", c_uint64),
    ]


class _Point(Structure):
    _fields_ = [("time_us", c_uint64), ("used_bytes", c_uint64), ("written_bytes", c_uint64)]


_FUNCTIONS: dict[str, tuple[type | None, list[type]]] = {
    "zc_version": (c_char_p, []),
    "zc_sim_create": (c_int, [POINTER(_Config), POINTER(c_void_p), c_char_p, c_size_t]),
    "zc_sim_destroy": (None, [c_void_p]),
    "zc_sim_ask": (c_int64, [c_void_p, c_char_p, c_char_p, c_size_t]),
    "zc_sim_run": (
        c_int,
        [c_void_p, POINTER(_Stream), c_char_p, c_size_t, POINTER(_Point), c_size_t, POINTER(_Counts)],
    ),
}


@cache
def _load(path: str) -> CDLL:
    return load(
        path,
        _FUNCTIONS,
        __version__,
        hint="make build makes it; or name it: ZCACHE_SIM_LIBRARY=FILE",
        version_hint="make build makes it anew",
    )


def _library() -> CDLL:
    return _load(os.environ.get("ZCACHE_SIM_LIBRARY") or str(_BUNDLED))


class _Simulation:
    """One of zc_sim's."""

    def __init__(self, config: _Config) -> None:
        self._library = _library()
        self._sim = c_void_p()
        why = ctypes.create_string_buffer(400)
        result = self._library.zc_sim_create(byref(config), byref(self._sim), why, len(why))
        if result < 0:
            raise _failure(result, why.value.decode(errors="replace"))

    def close(self) -> None:
        self._library.zc_sim_destroy(self._sim)

    def ask(self, line: str) -> str:
        """As the daemon's control socket answers, to one line; Refused: it says no."""
        answer = ctypes.create_string_buffer(_ANSWER)
        size = self._library.zc_sim_ask(self._sim, line.encode(), answer, len(answer))
        if size < 0 or size >= len(answer):
            raise _failure(min(size, -errno.ENOMEM), "a simulated control tree does not answer")
        return _payload(answer.value.decode())

    def run(self, stream: _Stream, points: ctypes.Array[_Point]) -> tuple[dict[str, int], _Counts]:
        """The pool's counters before the recorded operations, and what was counted of these."""
        begin, counts = ctypes.create_string_buffer(_ANSWER), _Counts()
        result = self._library.zc_sim_run(
            self._sim, byref(stream), begin, len(begin), points, len(points), byref(counts)
        )
        if result < 0:
            raise _failure(result, "")
        return _stats(_payload(begin.value.decode())), counts


def _failure(result: int, why: str) -> ZcacheError:
    name = errno.errorcode.get(-result, str(-result))
    if name in ("EINVAL", "ERANGE", "ENOENT") and why:
        return Usage(why, hint="zcache params shows what is allowed")
    return SimulationFailed(f"simulation: {why or os.strerror(-result)}", name=name)


def _payload(answer: str) -> str:
    head, _, payload = answer.partition("\n")
    kind, _, rest = head.partition(" ")
    if kind == "ERR":
        name, _, message = rest.partition(" ")
        raise Refused(message or name, name=name)
    return payload


def _stats(dump: str) -> dict[str, int]:
    pairs = (line.partition("=") for line in dump.splitlines())
    return {path.rpartition("/")[2]: int(value) for path, _, value in pairs}


# ---- what is to be simulated ----


@dataclass(frozen=True)
class _Plan:
    """The recorded pool with the settings that differ."""

    kind: str
    allocator: str
    codec: str
    cold_codec: str
    backing: tuple[int, str] | None
    params: dict[str, str]
    store: dict[str, str]
    differ: dict[str, str]
    """Parameters, of the pool or the store."""

    def param(self, name: str) -> str:
        return self.differ.get(name, self.params.get(name, "0"))


def _plan(recording: Recording, settings: Settings) -> _Plan:
    header, values = recording.header, dict(settings.values)
    pool: dict[str, str] = dict(header["pool"])
    params: dict[str, str] = dict(header["params"])
    store: dict[str, str] = dict(header["store"])
    own = {name: values.pop(name) for name in OWN if name in values}
    for name, value in own.items():
        if any(char.isspace() for char in value):
            raise Usage(f"{name}: {value!r} is more than one word", hint="NAME=VALUE, each by itself")
    cold = own.get("cold_codec", params.pop("cold_codec", "zstd:9"))
    params.pop("cold_codec", None)
    for name in _NOT_KNOWN:
        params.pop(name, None)
    if "limit" not in values and "limit" in store and store["limit"].isdecimal():
        # Other pools have had their part of it.
        store["limit"] = str(max(int(store["limit"]) - int(header["others_bytes"]), recording.page_size))
    backing = header["backing"]
    return _Plan(
        kind=own.get("kind", pool["kind"]),
        allocator=own.get("allocator", pool["allocator"]),
        codec=own.get("codec", pool["codec"]),
        cold_codec=cold,
        backing=_backing(own["backing"])
        if "backing" in own
        else (backing["size"], backing["layout"])
        if backing
        else None,
        params=params,
        store=store,
        differ=values,
    )


def _backing(text: str) -> tuple[int, str] | None:
    if text == "none":
        return None
    size, _, layout = text.partition(",")
    if not Size(low=1).takes(size) or layout not in ("", "packed", "in_place"):
        raise Usage(f"backing={text}: is none, or no size and layout", hint="none, 256M, or 1G,in_place")
    return bytes_of(size), layout or "packed"


def _is_cold(plan: _Plan) -> bool:
    return plan.param("cold_after") != "0"


def _need(recording: Recording, codec: str, what: str) -> int:
    """Its place among the tries."""
    if codec in recording.tries:
        return recording.tries.index(codec)
    known = ", ".join(spec for spec in recording.tries if "*" not in spec)
    raise Usage(f"{what} {codec}: the record has no sizes of it, but of {known}", hint=f"zcache record --codec {codec}")


def _gain(recording: Recording, cold_codec: str) -> list[float]:
    """What 1, 2, 4, … pages take together, of what they take one by one: as tried, and in between by the ratio of each
    doubling."""
    gains = {0: 1.0}
    alone = recording.tries.index(cold_codec)
    for span in range(1, _SPANS):
        spec = f"{cold_codec}*{1 << span}"
        which = recording.tries.index(spec) if spec in recording.tries else -1
        both = [one.of for one in recording.tried if which in one.of and alone in one.of]
        single = sum(of[alone][0] for of in both) << span
        if single:
            gains[span] = sum(of[which][0] for of in both) / single
    largest = max(gains)
    doubling = gains[largest] ** (1 / largest) if largest else 1.0
    return [gains.get(span, doubling**span) for span in range(_SPANS)]


_IN_MEMORY = Path("/dev/shm")  # noqa: S108 (the directory in it is our own)


def _place(most: int) -> Path | None:
    """Where a backing store of so many bytes is to be: in memory, if there is plenty; None: with temporary files."""
    if not _IN_MEMORY.is_dir() or not os.access(_IN_MEMORY, os.W_OK):
        return None
    room = os.statvfs(_IN_MEMORY)
    return _IN_MEMORY if room.f_bavail * room.f_frsize >= 4 * most else None


@contextmanager
def _files(ram: int, most: int) -> Iterator[Path]:
    """A directory that has the device's memory in proc/, and room for a backing store."""
    with tempfile.TemporaryDirectory(prefix="zcache-sim-", dir=_place(most)) as name:
        directory = Path(name)
        (directory / "proc").mkdir()
        (directory / "cgroup").mkdir()
        meminfo = f"MemTotal: {ram // 1024} kB\nMemAvailable: {ram // 1024} kB\n"
        (directory / "proc" / "meminfo").write_text(meminfo)
        yield directory


_BACKING_SIZE = 4 << 30
"""Where the device did not tell: a file with holes."""


def _config(recording: Recording, plan: _Plan, gain: Sequence[float], directory: Path) -> _Config:
    create = f"kind={plan.kind} allocator={plan.allocator}"
    if plan.backing:
        size, layout = plan.backing
        create += f" path={directory}/backing layout={layout} size={size or _BACKING_SIZE}"
    return _Config(
        page_size=recording.page_size,
        proc_dir=os.fsencode(directory / "proc"),
        cgroup_dir=os.fsencode(directory / "cgroup"),
        create=create.encode(),
        codec=_plain(plan.codec).encode(),
        cold_codec=_plain(plan.cold_codec).encode(),
        gain=(c_uint32 * _SPANS)(*(round(part * _MILLION) for part in gain)),
    )


def _plain(codec: str) -> str:
    """Without its dictionary, which is not here."""
    return codec.partition(":dict=")[0]


def _address(column: array[int] | bytearray) -> int:
    if isinstance(column, bytearray):
        return ctypes.addressof((c_uint8 * len(column)).from_buffer(column)) if column else 0
    return column.buffer_info()[0]


def _stream(recording: Recording, sizes: array[int], colds: array[int], flags: bytearray) -> _Stream:
    return _Stream(
        count=recording.count,
        held=recording.held,
        times=_address(recording.times),
        objects=_address(recording.objects),
        indexes=_address(recording.indexes),
        sizes=_address(sizes),
        colds=_address(colds),
        kinds=_address(recording.kinds),
        flags=_address(flags),
    )


# ---- running it ----


class Simulator:
    """Simulates one recording again and again; what other codecs make of its pages is worked out once."""

    def __init__(self, recording: Recording, points: int = 0) -> None:
        self.recording = recording
        self._points = points
        self._sizes: dict[str, array[int]] = {recording.codec: recording.sizes}
        self._prices = Prices(recording)

    def codecs(self) -> list[str]:
        """Those that can be simulated."""
        return [spec for spec in dict.fromkeys([self.recording.codec, *self.recording.tries]) if "*" not in spec]

    def run(self, settings: Settings | None = None) -> Outcome:
        settings = settings or Settings()
        plan = _plan(self.recording, settings)
        sizes = self._sizes_by(plan.codec, "codec")
        colds, gain = sizes, [1.0] * _SPANS
        if _is_cold(plan):
            colds = self._sizes_by(plan.cold_codec, "cold_codec")
            gain = _gain(self.recording, plan.cold_codec)
        flags = self.recording.flags
        if plan.param("ignore_low_memory") == "1":
            flags = bytearray(flag & 1 for flag in flags)
        stream = _stream(self.recording, sizes, colds, flags)
        with _files(self.recording.header["ram"], self._most(plan, sizes)) as directory:
            simulation = _Simulation(_config(self.recording, plan, gain, directory))
            try:
                _apply(simulation, plan)
                points = self._make_points()
                begin, counts = simulation.run(stream, points)
                end = _stats(simulation.ask("dump pools/sim/stats"))
            finally:
                simulation.close()
        return self._outcome(settings, plan, begin, end, counts, points)

    def _sizes_by(self, codec: str, what: str) -> array[int]:
        if codec not in self._sizes:
            _need(self.recording, codec, what)
            self._sizes[codec] = sizes_by(self.recording, codec)
        return self._sizes[codec]

    def _most(self, plan: _Plan, sizes: array[int]) -> int:
        """Bytes that a backing store may come to have."""
        if not plan.backing:
            return 0
        size, layout = plan.backing
        put = self.recording.count * self.recording.page_size if layout == "in_place" else sum(sizes)
        return min(size or _BACKING_SIZE, put)

    def _make_points(self) -> ctypes.Array[_Point]:
        points = (_Point * self._points)()
        recording = self.recording
        first = recording.times[recording.held] if recording.count > recording.held else 0
        for i, point in enumerate(points):
            point.time_us = first + round(recording.seconds * _MILLION * i / max(1, self._points - 1))
        return points

    def _outcome(
        self,
        settings: Settings,
        plan: _Plan,
        begin: dict[str, int],
        end: dict[str, int],
        counts: _Counts,
        points: ctypes.Array[_Point],
    ) -> Outcome:
        stats = {name: value if name in _STATES else value - begin[name] for name, value in end.items()}
        stats["puts"] += counts.short_puts
        stats["low_memory"] += counts.short_puts
        stats["put_to_flush"] += counts.short_found
        stats["flush_total"] -= counts.short_puts
        stats["flush_found"] -= counts.short_found
        refused = {reason.name: stats[reason.name] for reason in Refusal if stats[reason.name]}
        recording, seconds = self.recording, self.recording.seconds
        first = recording.times[recording.held] / _MILLION if recording.count > recording.held else 0.0
        return Outcome(
            settings=settings,
            used_bytes=end["used_bytes"],
            peak_bytes=counts.peak_bytes,
            mean_bytes=round(counts.kib_ms * 1024 / (seconds * 1000)) if seconds >= 0.001 else end["used_bytes"],
            held_pages=sum(end[name] for name in ("zpages", "same_filled", "raw_pages", "cold_pages")),
            error_percent=self._error(plan),
            puts=stats["puts"],
            refused=refused,
            gets=stats["gets"],
            gets_found=stats["gets_found"],
            hit_ratio=stats["gets_found"] / stats["gets"] if stats["gets"] else None,
            written_bytes=sum(stats[name] for name in WEAR),
            written_gets=stats["written_gets"],
            cpu=self._cpu(plan, stats, counts),
            stats=stats,
            points=[Point(p.time_us / _MILLION - first, p.used_bytes, p.written_bytes) for p in points],
        )

    # ---- what is estimated ----

    def _error(self, plan: _Plan) -> float:
        if plan.codec == self.recording.codec:
            return 0.0
        pairs = sampled(self.recording, self.recording.tries.index(plan.codec))
        return ratio_error([own for own, _ in pairs], [made[0] for _, made in pairs])

    def _cpu(self, plan: _Plan, stats: dict[str, int], counts: _Counts) -> Cpu:
        prices = self._prices
        codec = prices.of(plan.codec)
        fills = prices.fills
        refused = sum(stats[reason.name] for reason in Refusal)
        put_ns = total(
            (counts.compressed, codec.compress),
            (stats["stored_puts"] - fills, prices.stored),
            (refused, prices.refused or 0.0),
            (fills, prices.fill),
        )
        unpack_ns = total((1, codec.decompress), (1, prices.beside_decompression))
        get_ns = total((counts.decompressed, unpack_ns), (prices.got_fills, prices.got_fill))
        gets = counts.decompressed + prices.got_fills
        cold_ns = self._cold(plan, counts)
        parts = (
            put_ns,
            get_ns,
            cold_ns,
            total((stats["gets"] - stats["gets_found"], prices.missed), (stats["flush_total"], prices.flushed)),
        )
        return Cpu(
            put_us=put_ns / stats["puts"] / 1000 if put_ns is not None and stats["puts"] else None,
            get_us=get_ns / gets / 1000 if get_ns is not None and gets else None,
            total_seconds=None if None in parts else sum(part or 0.0 for part in parts) / 1e9,
            cold_seconds=cold_ns / 1e9 if cold_ns is not None else None,
            error_percent=codec.error_percent,
        )

    def _cold(self, plan: _Plan, counts: _Counts) -> float | None:
        """ns of recompression, and of gets of what it made."""
        parts: list[tuple[int, float | None]] = []
        for span in range(_SPANS):
            price = self._prices.of_extent(plan.cold_codec, span)
            parts.append((counts.compressed_cold[span], price.compress))
            parts.append((counts.decompressed_cold[span] >> span, price.decompress))
        return total(*parts)


def simulate(recording: Recording, settings: Settings | None = None) -> Outcome:
    return Simulator(recording).run(settings)


def _apply(simulation: _Simulation, plan: _Plan) -> None:
    store = simulation.ask("list params").split()
    pool = simulation.ask("list pools/sim/params").split()
    for name in plan.differ:
        if name not in store and name not in pool:
            raise Usage(f"{name}: no such setting", hint=f"there are {', '.join(sorted([*OWN, *store, *pool]))}")
    # Recompression is as fast as it has to be: there is no other work on this processor to leave room for.
    wanted = plan.store | plan.params | plan.differ | {"cold_cpu_percent": "100"}
    for name, value in wanted.items():
        path = f"params/{name}" if name in store else f"pools/sim/params/{name}"
        try:
            simulation.ask(f"set {path} {quoted(value)}")
        except Refused as error:
            if name in plan.differ:
                raise Usage(error.message, hint="zcache params shows what is allowed") from error
            if error.name != "ENOENT":  # a parameter of another version
                raise


_STATES = frozenset(
    [
        *("zpages", "same_filled", "raw_pages", "written_pages", "cold_pages", "cold_extents", "cold_bytes", "zbytes"),
        *("frames", "cold_frames", "metadata_bytes", "used_bytes", "written_bytes"),
    ]
)
"""Counters that tell what is held, not what has happened."""
