# SPDX-License-Identifier: Apache-2.0
"""What compression would make of a device's memory: `zcached sample` measures there, this scales and predicts.

A sample is a fair one of all pages, so every figure of it stands for the whole, with a standard error.
"""

import json
import math
import platform
import random
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .binary import bundled
from .daemon import Daemon
from .errors import DaemonAbsent, ProtocolError, Refused, Usage
from .predict import Allocator, Filled, KernelZsmalloc, SizeClass, Thresholds, Zbud, Zsmalloc, fill
from .replay import failure
from .sources import open_source
from .transport.base import Completed

SAVED_FORMAT = 1
PAGES = 20000
WALK = 100_000
"""Pages that a prediction walks at most; it is scaled from there."""
UNREADABLE = ("EACCES", "EPERM")


@dataclass(frozen=True)
class Options:
    page_size: int
    pids: tuple[int, ...] = ()
    app: str | None = None
    files: bool = False
    swapped: bool = False
    pages: int | None = None
    """None: 20000, of pages in swap 1000."""
    seconds: int = 20
    cpu: int = 50
    """Percent of one processor."""
    codecs: tuple[str, ...] = ()
    """Specs; none: lz4 and zstd:3."""

    def words(self) -> list[str]:
        """Of `zcached sample`."""
        words = ["--page-size", str(self.page_size), "--seconds", str(self.seconds), "--cpu", str(self.cpu)]
        words += [word for pid in self.pids for word in ("--pid", str(pid))]
        words += [word for spec in self.codecs for word in ("--codec", spec)]
        words += ["--app", self.app] if self.app else []
        words += ["--pages", str(self.pages)] if self.pages else []
        return words + ["--files"] * self.files + ["--swapped"] * self.swapped


# ---- taking a sample ----

_RUN_AS = r"""
command -v run-as >/dev/null || { echo 'zcached: ENOENT: no run-as' >&2; exit 3; }
program=$1 app=$2; shift 2
run-as "$app" sh -c '
umask 077
cat >zcached.sample && chmod 700 zcached.sample && ./zcached.sample sample "$@"
code=$?
rm -f zcached.sample
exit $code' sh "$@" <"$program"
"""
"""The app's user may neither reach nor start what is in the daemon's directory: it gets a copy."""


def sample_device(daemon: Daemon, options: Options) -> dict[str, Any]:
    """What `zcached sample` printed on the device, see docs/protocol.md; contents of pages stay there."""
    limit = options.seconds + daemon.transport.timeout
    done = daemon.run([daemon.program, "sample", *options.words()], timeout=limit)
    if options.app and done.code == 3 and _name_of(done) in UNREADABLE:
        script = ["sh", "-c", _RUN_AS, "sh", daemon.program, options.app, *options.words()]
        done = daemon.run(script, timeout=limit)
        if done.code != 0:
            said = _complaint(done)
            why = "this device has no run-as" if "no run-as" in said else f"run-as says: {said}"
            raise Refused(
                f"the pages of {options.app} may not be read: {why}",
                name="EACCES",
                hint="root reads every app; run-as, a debuggable one",
            )
    return _parse(done)


def sample_file(path: Path, options: Options) -> dict[str, Any]:
    """The same of a dump of pages or a tar of files on this machine, by its own zcached."""
    most = options.pages or PAGES
    with open_source(path, options.page_size) as source, tempfile.NamedTemporaryFile() as chosen:
        seen = choose(source.pages(), most, options.page_size, chosen.file)
        command = [str(own_program()), "sample", *options.words(), "--file", chosen.name]
        ran = subprocess.run(command, capture_output=True, check=False)
    facts = _parse(Completed(ran.returncode, ran.stdout, ran.stderr))
    facts["pages"] = facts["sources"][0]["pages"] = seen
    facts["sources"][0]["name"] = str(path)
    return facts


def choose(pages: Any, most: int, page_size: int, file: Any) -> int:  # noqa: ANN401
    """Writes a fair sample of the pages, in their order where it is all of them. Returns how many there are."""
    seen = 0
    chance = random.Random()  # noqa: S311 (nothing to guess here)
    for seen, page in enumerate(pages, 1):
        place = seen - 1 if seen <= most else chance.randrange(seen)
        if place < most:
            file.seek(place * page_size)
            file.write(page)
    file.flush()
    return seen


def own_program() -> Path:
    there = bundled()
    abi = {"aarch64": "arm64-v8a", "armv7l": "armeabi-v7a"}.get(platform.machine(), platform.machine())
    for name in ("host", abi):
        if name in there:
            return there[name]
    raise DaemonAbsent(f"there is no zcached for this machine, {abi}", name="no_program", hint="make build makes it")


def _complaint(done: Completed) -> str:
    return done.stderr.decode(errors="replace").strip().rpartition("\n")[2] or done.complaint


def _name_of(done: Completed) -> str:
    return _complaint(done).removeprefix("zcached: ").partition(":")[0]


def _parse(done: Completed) -> dict[str, Any]:
    if done.code != 0:
        raise failure(done.code, _complaint(done))
    try:
        facts: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise ProtocolError(f"zcached sample said {done.text[:80]!r}") from error
    return facts


# ---- what it says ----


@dataclass(frozen=True)
class Estimate:
    """Of the whole."""

    value: float
    error: float
    """Standard error."""

    def as_json(self) -> dict[str, float]:
        return {"value": round(self.value), "error": round(self.error)}


class Sample:
    """A sample's facts, and which of its pages are whose."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        self.page_size: int = facts["page_size"]
        self.pages: int = facts["pages"]
        self.sources: list[dict[str, Any]] = facts["sources"]
        self.of: list[int] = facts["from"]
        self.codecs: list[dict[str, Any]] = facts["codecs"]

    @property
    def count(self) -> int:
        return len(self.of)

    @cached_property
    def duplicates(self) -> set[int]:
        return set(self.facts["duplicates"])

    @cached_property
    def by_source(self) -> list[list[int]]:
        """Numbers of pages."""
        pages: list[list[int]] = [[] for _ in self.sources]
        for number, source in enumerate(self.of):
            pages[source].append(number)
        return pages

    def walk(self, sizes: Sequence[int], most: int = WALK) -> list[int]:
        """The sizes again and again, until they are as many as the whole has pages.

        Again they are a little smaller or larger, as pages are that were not seen: the very same ones would fill
        fewer size classes, and those better, than the whole does.
        """
        step = self.page_size // 256
        walk = list(sizes)
        for number in range(len(sizes), min(self.pages, most)):
            size = sizes[number % len(sizes)]
            walk.append(max(1, size + number * 7919 % (2 * step + 1) - step) if size else 0)
        return walk

    def scale(self, values: Sequence[float], pages: int) -> Estimate:
        """A sum over `pages` pages, of which these are the sampled ones' values."""
        count = len(values)
        mean = sum(values) / count
        variance = sum((value - mean) ** 2 for value in values) / max(1, count - 1)
        unseen = max(0.0, 1 - count / pages) if pages else 0.0
        return Estimate(mean * pages, pages * math.sqrt(variance / count * unseen))


def analyze(sample: Sample, thresholds: Thresholds) -> dict[str, Any]:
    """The facts of `zcache analyze --json`."""
    shares = _Shares(sample, thresholds)
    everything = list(range(sample.count))
    facts = sample.facts
    return {
        "format": SAVED_FORMAT,
        "page_size": sample.page_size,
        "kind": facts["kind"],
        "thresholds": {"zv_max_zsize": thresholds.max_zsize, "zv_max_mean_zsize": thresholds.max_mean_zsize},
        **{name: facts[name] for name in ("seconds", "cpu_seconds", "peak_bytes", "left_out", "short_of_memory")},
        "total": {
            "anonymous_bytes": sum(source["anonymous"] for source in sample.sources),
            "swapped_bytes": sum(source["swapped"] for source in sample.sources),
            **_describe(sample, everything, sample.pages),
            "codecs": [_describe_codec(sample, shares, number) for number in range(len(sample.codecs))],
        },
        "processes": [_describe_process(sample, shares, number) for number in range(len(sample.sources))],
    }


def raw(sample: Sample) -> dict[str, Any]:
    """What --save keeps beside the facts: of each page whose it is, is it a duplicate, and its sizes."""
    return {
        "from": sample.of,
        "duplicates": sorted(sample.duplicates),
        "sizes": {codec["spec"]: codec["sizes"] for codec in sample.codecs},
        "codec_metadata": {codec["spec"]: codec["metadata"] for codec in sample.codecs},
        "classes": sample.facts["classes"],
        "metadata": sample.facts["metadata"],
    }


def _describe(sample: Sample, numbers: list[int], pages: int) -> dict[str, Any]:
    sizes = sample.codecs[0]["sizes"]
    same = [float(sizes[number] == 0) for number in numbers]
    again = [float(number in sample.duplicates) for number in numbers]
    return {
        "pages": pages,
        "sampled": len(numbers),
        "same_filled": sample.scale(same, pages).as_json() if numbers else None,
        "duplicates": sample.scale(again, pages).as_json() if numbers else None,
    }


def _describe_sizes(sample: Sample, codec: dict[str, Any], numbers: list[int]) -> dict[str, Any]:
    """Of pages that are not same-filled; none counts as larger than it was."""
    page_size = sample.page_size
    sizes = [codec["sizes"][number] for number in numbers if codec["sizes"][number]]
    taken = sum(min(size, page_size) for size in sizes)
    return {
        "spec": codec["spec"],
        "ratio": round(len(sizes) * page_size / taken, 3) if taken else None,
        "incompressible": sum(size > page_size * 7 // 8 for size in sizes),
    }


def _mean_us(nanoseconds: int, pages: int) -> float | None:
    return round(nanoseconds / pages / 1000, 3) if pages else None


def _describe_codec(sample: Sample, shares: "_Shares", number: int) -> dict[str, Any]:
    codec = sample.codecs[number]
    compressed = sum(size > 0 for size in codec["sizes"])
    held = sum(0 < size <= sample.page_size for size in codec["sizes"])
    return {
        **_describe_sizes(sample, codec, list(range(sample.count))),
        "put_us": _mean_us(sum(codec["put_ns"]), compressed),
        "get_us": _mean_us(sum(codec["get_ns"]), held),
        "histogram": _histogram(codec["sizes"], sample.page_size),
        **{name: shares.prediction(number, name) for name in shares.allocators},
    }


def _describe_process(sample: Sample, shares: "_Shares", number: int) -> dict[str, Any]:
    source, numbers = sample.sources[number], sample.by_source[number]
    held = source["anonymous"] + source["swapped"]
    return {
        "pid": source["pid"],
        "name": source["name"],
        "anonymous_bytes": source["anonymous"],
        "swapped_bytes": source["swapped"],
        "resident": round(source["anonymous"] / held, 4) if held else None,
        "error": source.get("error"),
        **_describe(sample, numbers, source["pages"]),
        "codecs": [
            {
                **_describe_sizes(sample, codec, numbers),
                "put_us": _mean_us(codec["put_ns"][number], sum(codec["sizes"][page] > 0 for page in numbers)),
                "get_us": _mean_us(
                    codec["get_ns"][number], sum(0 < codec["sizes"][page] <= sample.page_size for page in numbers)
                ),
                "histogram": _histogram([codec["sizes"][page] for page in numbers], sample.page_size),
                **{name: shares.of_source(which, name, number) for name in shares.allocators},
            }
            for which, codec in enumerate(sample.codecs)
        ]
        if numbers
        else [],
    }


def _histogram(sizes: Sequence[int], page_size: int) -> list[list[int]]:
    """As of a pool: zpages by size, in 64ths of a page; those of incompressible pages in the last."""
    step = page_size // 64
    counts = Counter(min(-(-size // step), 64) for size in sizes if size)
    return [[bucket * step, counts[bucket]] for bucket in range(1, 65)]


# ---- what pools would use ----


class _Shares:
    """For each codec and allocator: one pool that all pages are put into, and what of it is whose."""

    allocators = ("zbud", "zsmalloc", "zram")

    def __init__(self, sample: Sample, thresholds: Thresholds) -> None:
        self.sample = sample
        self.filled: dict[tuple[int, str], Filled] = {}
        for number, codec in enumerate(sample.codecs):
            sizes = sample.walk(codec["sizes"])
            for name in self.allocators:
                limits = None if name == "zram" else thresholds
                self.filled[number, name] = fill(self._allocator(name), sizes, limits, sample.page_size)

    def _allocator(self, name: str) -> Allocator:
        page_size = self.sample.page_size
        if name == "zbud":
            return Zbud(page_size)
        if name == "zsmalloc":
            return Zsmalloc(page_size, [SizeClass(*shape) for shape in self.sample.facts["classes"]])
        return KernelZsmalloc(page_size)

    def _used(self, number: int, name: str) -> tuple[float, int]:
        """Bytes of the pool when all pages were put; of these, bytes that come with the pool itself."""
        filled = self.filled[number, name]
        pages = self.sample.pages / filled.pages
        frames = filled.frames * self.sample.page_size * pages
        if name == "zram":
            return frames, 0
        metadata = self.sample.facts["metadata"]
        index = metadata["index"] / metadata["index_pages"]
        fixed = self.sample.codecs[number]["metadata"] + metadata[name] - metadata["zsmalloc"]
        indexed = (filled.stored + filled.same_filled) * index
        return frames + (filled.record_bytes + indexed) * pages + fixed, fixed

    def prediction(self, number: int, name: str) -> dict[str, Any]:
        filled = self.filled[number, name]
        pages = self.sample.pages / filled.pages
        used, fixed = self._used(number, name)
        costs = self._costs(number, name)
        spread = self.sample.scale(costs, self.sample.pages)
        error = spread.error / spread.value * (used - fixed) if spread.value else 0.0
        held = (filled.stored + filled.same_filled) * pages * self.sample.page_size
        return {
            "used_bytes": round(used),
            "error": round(error),
            "frames": round(filled.frames * pages),
            "saved_bytes": round(held - used),
            "refused": {reason: round(count * pages) for reason, count in filled.refused.items()},
        }

    def _costs(self, number: int, name: str) -> list[int]:
        """Of the sampled pages, in their order."""
        return self.filled[number, name].costs[: self.sample.count]

    def of_source(self, number: int, name: str, source: int) -> dict[str, Any]:
        """A process's part of that pool, by its pages' part of the frames."""
        costs = self._costs(number, name)
        sizes = self.sample.codecs[number]["sizes"]
        mine = self.sample.by_source[source]
        pages = self.sample.sources[source]["pages"]
        own = self.sample.scale([costs[page] for page in mine], pages)
        everybody = sum(costs) / len(costs) * self.sample.pages
        used, fixed = self._used(number, name)
        rate = (used - fixed) / everybody if everybody else 0.0
        refused = sum(1 for page in mine if sizes[page] and not costs[page])
        held = (len(mine) - refused) / len(mine) * pages * self.sample.page_size
        return {
            "used_bytes": round(own.value * rate),
            "error": round(own.error * rate),
            "saved_bytes": round(held - own.value * rate),
            "refused": round(refused / len(mine) * pages),
        }


def parse_threshold(text: str, page_size: int) -> int:
    """Bytes, `7/8` or `87%` of a page, as pools take them."""
    try:
        if text.endswith("%"):
            size = int(text[:-1]) * page_size // 100
        elif "/" in text:
            part, _, whole = text.partition("/")
            size = int(part) * page_size // int(whole)
        else:
            size = int(text)
    except (ValueError, ZeroDivisionError):
        size = -1
    if not 0 <= size <= page_size:
        raise Usage(f"{text}: no threshold: 0 to {page_size} bytes, or a part of a page", hint="e.g. 3584, 7/8 or 87%")
    return size
