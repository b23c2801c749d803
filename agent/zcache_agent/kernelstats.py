# SPDX-License-Identifier: Apache-2.0
"""What a device's kernel says of its memory: pressure, and its own compressed memory, zram and zswap."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal, Self

from .control import number
from .device import Rights
from .kernelfiles import DEBUGFS, FileReader, Files, Texts
from .kernelfiles import parse as parse_files
from .transport.base import Transport

Number = int | float
Facts = Mapping[str, Number | str]

_ALWAYS = ("/proc/meminfo", *(f"/proc/pressure/{resource}" for resource in ("memory", "io", "cpu")))
_OF_ZRAM = (
    *("disksize", "mm_stat", "io_stat", "bd_stat", "stat", "comp_algorithm", "recomp_algorithm"),
    *("backing_dev", "writeback_limit", "writeback_limit_enable"),
)
ZRAM_FILES = tuple(f"/sys/block/zram*/{name}" for name in _OF_ZRAM)
ZSWAP_FILES = ("/sys/module/zswap/parameters/*", f"{DEBUGFS}/zswap/*")


def amount(facts: Facts, name: str) -> Number:
    """What the kernel does not tell, as a number, is 0."""
    value = facts.get(name, 0)
    return 0 if isinstance(value, str) else value


Type = Literal["counter", "gauge"]


@dataclass(frozen=True)
class Field:
    """A number that the kernel tells."""

    name: str
    """The kernel's, where it has one."""
    type: Type
    unit: str
    meaning: str


_MM_STAT = (
    Field("orig_data_size", "gauge", "bytes", "of the pages stored, uncompressed; same-filled ones are not counted"),
    Field("compr_data_size", "gauge", "bytes", "of the pages stored, compressed"),
    Field("mem_used_total", "gauge", "bytes", "memory that it takes, the allocator's waste included"),
    Field("mem_limit", "gauge", "bytes", "memory that it may take; 0: any"),
    Field("mem_used_max", "gauge", "bytes", "memory that it took at most"),
    Field("same_pages", "gauge", "pages", "same-filled pages, which take no memory"),
    Field("pages_compacted", "counter", "pages", "freed by compaction"),
    Field("huge_pages", "gauge", "pages", "kept uncompressed, as they compress badly"),
    Field("huge_pages_since", "counter", "pages", "that compressed badly, since it was set up"),
)
_IO_STAT = (
    Field("failed_reads", "counter", "requests", "reads that failed"),
    Field("failed_writes", "counter", "requests", "writes that failed"),
    Field("invalid_io", "counter", "requests", "requests that were not of whole pages"),
    Field("notify_free", "counter", "pages", "that swap said it needs no more"),
)
_BD_STAT = (
    Field("bd_count", "gauge", "4 KiB", "written back"),
    Field("bd_reads", "counter", "4 KiB", "read from the backing device"),
    Field("bd_writes", "counter", "4 KiB", "written to the backing device"),
)
_STAT = (
    Field("reads", "counter", "requests", "reads"),
    Field("writes", "counter", "requests", "writes"),
)
ZRAM_FIELDS = (
    Field("disksize", "gauge", "bytes", "what it can hold, uncompressed; 0: not set up"),
    *_MM_STAT,
    *_IO_STAT,
    *_BD_STAT,
    *_STAT,
)
ZSWAP_FIELDS = (
    Field("max_pool_percent", "gauge", "percent", "of RAM, that it may take"),
    Field("accept_threshold_percent", "gauge", "percent", "of that: down to here it takes no page once it was full"),
    Field("pool_total_size", "gauge", "bytes", "memory that it takes"),
    Field("stored_pages", "gauge", "pages", "that it holds"),
    Field("same_filled_pages", "gauge", "pages", "of these, same-filled"),
    Field("written_back_pages", "counter", "pages", "written to the swap device"),
    Field("pool_limit_hit", "counter", "times", "that it was full"),
    Field("reject_compress_poor", "counter", "pages", "refused: they compress badly"),
    Field("reject_compress_fail", "counter", "pages", "refused: the compressor failed"),
    Field("reject_alloc_fail", "counter", "pages", "refused: no memory for the page"),
    Field("reject_kmemcache_fail", "counter", "pages", "refused: no memory for its entry"),
    Field("reject_reclaim_fail", "counter", "pages", "refused: full, and nothing could be written back"),
    Field("decompress_fail", "counter", "pages", "that could not be decompressed"),
    Field("zswpin", "counter", "pages", "got from it"),
    Field("zswpout", "counter", "pages", "put into it"),
    Field("zswpwb", "counter", "pages", "written to the swap device, by the system's count"),
)
MEMORY_FIELDS = (
    Field("MemTotal", "gauge", "bytes", "memory of the device"),
    Field("MemAvailable", "gauge", "bytes", "memory to be had without swapping"),
    Field("SwapTotal", "gauge", "bytes", "swap areas"),
    Field("SwapFree", "gauge", "bytes", "of the swap areas, not in use"),
)


@dataclass(frozen=True)
class Pressure:
    """PSI of a resource: for which share of the time tasks waited for it, in percent, and microseconds in all."""

    some_avg10: float
    some_total: int
    full_avg10: float = 0.0
    full_total: int = 0


@dataclass(frozen=True)
class Kernel:
    """One moment. What the device does not have is left out; what it does not tell is in `closed`."""

    memory: Facts = field(default_factory=dict)
    pressure: Mapping[str, Pressure] = field(default_factory=dict)
    zram: Mapping[str, Facts] = field(default_factory=dict)
    """By device. Fields are numbers of ZRAM_FIELDS and texts: algorithm, recomp_algorithm, backing_dev; and what
    limits writeback, as it is in the files."""
    zswap: Facts = field(default_factory=dict)
    """Numbers of ZSWAP_FIELDS and texts: enabled, compressor and other parameters. Empty: the kernel has none."""
    closed: tuple[str, ...] = ()
    """Paths that need other rights."""
    uid: int = 0

    @property
    def user(self) -> str:
        return {0: "root", 2000: "shell"}.get(self.uid, f"uid {self.uid}")

    @property
    def notes(self) -> list[str]:
        """A line for each thing that is not told."""
        way = f"not told to {self.user}: needs root"
        lines = []
        if self.is_closed("/proc/pressure"):
            lines.append(f"PSI: {way}")
        if self.is_closed("/sys/block/zram"):
            lines.append(f"zram: {way}")
        if self.zswap.get("enabled") == "Y" and "stored_pages" not in self.zswap:
            not_there = f"{DEBUGFS} is not mounted: mount -t debugfs none {DEBUGFS}"
            lines.append(f"zswap: its counters are {way if self.uid != 0 else f'not there, {not_there}'}")
        return lines

    def is_closed(self, beginning: str) -> bool:
        return any(path.startswith(beginning) for path in self.closed)

    def as_json(self) -> dict[str, Any]:
        return {
            "memory": dict(self.memory),
            "pressure": {name: dict(vars(pressure)) for name, pressure in self.pressure.items()},
            "zram": {name: dict(facts) for name, facts in self.zram.items()},
            "zswap": dict(self.zswap),
            "closed": list(self.closed),
            "uid": self.uid,
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        pressure = {name: Pressure(**each) for name, each in facts["pressure"].items()}
        return cls(facts["memory"], pressure, facts["zram"], facts["zswap"], tuple(facts["closed"]), int(facts["uid"]))


class Reader:
    """Of a device that is looked at again and again. For one thread."""

    def __init__(self, transport: Transport, rights: Rights = Rights.OWN, *, kernel: bool = False) -> None:
        """`kernel`: zram and zswap, too."""
        more = (*ZRAM_FILES, *ZSWAP_FILES, "/proc/vmstat") if kernel else ()
        self._files = FileReader(transport, rights, (*_ALWAYS, *more))

    def close(self) -> None:
        self._files.close()

    def read(self) -> Kernel:
        return _kernel(self._files.read())


def parse(lines: Iterator[str]) -> Kernel:
    """What the shell printed."""
    return _kernel(parse_files(lines))


def _kernel(files: Files) -> Kernel:
    texts = files.texts
    return Kernel(_memory(texts), _pressures(texts), zrams(texts), _zswap(texts), files.closed, files.uid)


def _memory(files: Texts) -> dict[str, Number | str]:
    return {name: _kilobytes(files, name) for name in (each.name for each in MEMORY_FIELDS)}


def _kilobytes(files: Texts, name: str) -> int:
    """A line of meminfo, in bytes; what it does not list is none."""
    for line in files.get("/proc/meminfo", "").splitlines():
        key, _, value = line.partition(":")
        words = value.split()
        if key == name and words and words[0].isdecimal():
            return int(words[0]) * 1024
    return 0


_PRESSURE = re.compile(r"(some|full) avg10=([\d.]+) .*total=(\d+)")


def _pressures(files: Texts) -> dict[str, Pressure]:
    found = {}
    for path, text in files.items():
        if not path.startswith("/proc/pressure/"):
            continue
        kinds = {match[1]: match for line in text.splitlines() if (match := _PRESSURE.match(line))}
        if some := kinds.get("some"):
            full = kinds.get("full")
            more = (float(full[2]), int(full[3])) if full else (0.0, 0)
            found[PurePosixPath(path).name] = Pressure(float(some[2]), int(some[3]), *more)
    return found


def zrams(files: Texts) -> dict[str, Facts]:
    """By device, as of Kernel."""
    devices: dict[str, dict[str, Number | str]] = {}
    for path, text in files.items():
        words = PurePosixPath(path).parts
        if path.startswith("/sys/block/zram") and len(words) == 5 and text:
            devices.setdefault(words[3], {}).update(_zram(words[4], text))
    return dict(sorted(devices.items(), key=lambda item: (len(item[0]), item[0])))


def _zram(file: str, text: str) -> dict[str, Number | str]:
    words = text.split()
    if file in ("mm_stat", "io_stat", "bd_stat"):
        fields = {"mm_stat": _MM_STAT, "io_stat": _IO_STAT, "bd_stat": _BD_STAT}[file]
        # An older kernel tells fewer.
        return {each.name: number(word) for each, word in zip(fields, words, strict=False)}
    if file == "stat":
        return {"reads": number(words[0]), "writes": number(words[4])} if len(words) > 4 else {}
    if file == "comp_algorithm":
        return {"algorithm": _chosen(text)}
    if file == "recomp_algorithm":
        return {file: ", ".join(f"{line.partition(':')[0]}: {_chosen(line)}" for line in text.splitlines())}
    return {file: number(text.strip())}


def _chosen(line: str) -> str:
    """Of `lzo [lz4] zstd`, the one that is in force."""
    match = re.search(r"\[([^\]]+)\]", line)
    return match[1] if match else "none"


def _zswap(files: Texts) -> dict[str, Number | str]:
    """Its parameters, debugfs's counters, and what of them every user is told."""
    facts: dict[str, Number | str] = {}
    for path, text in files.items():
        if path.startswith(("/sys/module/zswap/parameters/", f"{DEBUGFS}/zswap/")) and text:
            facts[PurePosixPath(path).name] = number(text.strip())
    if not facts:
        return {}
    facts.setdefault("pool_total_size", _kilobytes(files, "Zswap"))
    counters = (line.split() for line in files.get("/proc/vmstat", "").splitlines())
    return facts | {words[0]: number(words[1]) for words in counters if len(words) == 2}
