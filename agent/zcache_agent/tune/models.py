# SPDX-License-Identifier: Apache-2.0
"""Candidates, and what each would cost: zcache's pools, the kernel's zram and its zswap.

All pages are put once and got once. A candidate's figures are sums over the sampled pages, kept by group, so that a
group may be left out or counted twice; see search.py. Nothing here is a number of another device.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import product
from operator import mul
from typing import NamedTuple

from ..predict import HEAD_BYTES, Allocator, KernelZsmalloc, SizeClass, Thresholds, Zbud, Zsmalloc, fill
from .kernel import Kernel
from .measured import COLD_CODEC, Measured, Time

GROUPS = 128
WALK = 20_000

Setting = str | int | bool
Settings = Mapping[str, Mapping[str, Setting]]
"""By section of a config."""


class Sums(NamedTuple):
    """Of pages."""

    pages: float = 0
    tried: float = 0
    """Compressed; not same-filled ones."""
    stored: float = 0
    """As zpages."""
    cost: float = 0
    """Bytes of frames, about."""
    zbytes: float = 0
    raw: float = 0
    """Refused, so they stay as they are."""


@dataclass(frozen=True)
class Parts:
    """A pool that all pages went through."""

    groups: Sequence[Sums]
    rate: float
    """Bytes of memory for each of `cost`: what frames are not full, and metadata."""
    index: float = 0
    """Bytes of each page that is kept."""
    fixed: float = 0

    @cached_property
    def _columns(self) -> list[tuple[float, ...]]:
        return list(zip(*self.groups, strict=True))

    def total(self, weights: Sequence[float] | None = None) -> Sums:
        if weights is None:
            return Sums(*map(sum, self._columns))
        return Sums(*(sum(map(mul, column, weights)) for column in self._columns))


Timing = Sequence[tuple[str, Time]]
"""What a page takes is the sum; what has the same name errs alike."""


def spent(timing: Timing, times: Mapping[str, Time] | None = None) -> tuple[float, float]:
    """µs of a put and a get. They are never less than a tenth of the first: a difference may be anything."""
    parts = [(times or {}).get(name, time) for name, time in timing]
    put = max(sum(part.put.value for part in parts), parts[0].put.value / 10)
    return put, max(sum(part.get.value for part in parts), parts[0].get.value / 10)


@dataclass(frozen=True)
class Again:
    """Cold pages are compressed again."""

    parts: Parts
    timing: "Timing"
    share: float
    """Of the pages that are stored."""


@dataclass(frozen=True)
class Conditions:
    """What no setting changes."""

    flash_mb_s: float | None = None
    """None: there is no flash that pages could go to."""
    limit: int | None = None
    """Bytes of memory that they may take."""
    limit_is_asked: bool = False
    """It is no device's own."""
    cold: float = 0
    """Share of pages that idle: said by who asks, not measured."""
    cold_after: int = 600
    mem_total: int | None = None


class Outcome(NamedTuple):
    memory_bytes: float
    """Of RAM that all the pages take, those that are refused too."""
    cpu_us_per_page: float
    flash_bytes: float
    refused: float
    """Share of all pages."""
    put_us: float
    get_us: float

    def time(self, all_bytes: float, page_size: int, flash_mb_s: float | None) -> float:
        """µs a page: with what is waited for flash, each byte written once and read once."""
        wait = 2 * self.flash_bytes / flash_mb_s if flash_mb_s else 0.0
        return self.cpu_us_per_page + wait / (all_bytes / page_size)


@dataclass(frozen=True)
class Candidate:
    settings: Settings
    parts: Parts
    timing: Timing
    scale: float
    """Pages of all for each that was sampled."""
    page_size: int
    again: Again | None = None
    limit: float | None = None
    """Bytes; what is over it leaves."""
    watermarks: tuple[int, int] = (100, 100)
    """Percent of the limit: over the first it leaves, until it is between both."""
    to_flash: str = ""
    """What is over it leaves so: `packed`, as zpages; `pages`, decompressed. Empty: it stays as it is."""
    huge_to_flash: bool = False
    """Pages that hardly compress are written to flash."""
    defaults: bool = False

    @property
    def flat(self) -> dict[str, Setting]:
        return {name: value for section in self.settings.values() for name, value in section.items()}

    def changes(self, of: "Candidate") -> int:
        return sum(of.flat.get(name) != value for name, value in self.flat.items())

    def outcome(
        self,
        weights: Sequence[float] | None = None,
        cold_weights: Sequence[float] | None = None,
        times: Mapping[str, Time] | None = None,
    ) -> Outcome:
        """With weights of the groups: of another sample that might have been taken as well."""
        sums = self.parts.total(weights)
        pages = max(sums.pages, 1.0)
        put_us, get_us = spent(self.timing, times)
        cost = sums.cost * self.parts.rate
        cpu = sums.tried * put_us + sums.stored * get_us
        if self.again:  # a share of the stored pages is put once more, and got from there
            cold = self.again.parts.total(cold_weights)
            dense = cold.cost * self.again.parts.rate / max(cold.stored, 1.0)
            count = sums.stored * self.again.share
            cost = cost * (1 - self.again.share) + count * dense
            cpu += count * sum(spent(self.again.timing, times))
        whole = sum(group.pages for group in self.parts.groups) / pages * self.scale
        raw = sums.raw * self.page_size
        kept = (pages - sums.raw) * self.parts.index
        memory, flash = self._at_the_limit(
            Load(cost * whole, raw * whole, kept * whole + self.parts.fixed, sums.zbytes * whole, sums.stored * whole)
        )
        return Outcome(memory, cpu / pages, flash, sums.raw / pages, put_us, get_us)

    def _at_the_limit(self, load: "Load") -> tuple[float, float]:
        """Bytes of memory, and written."""
        raw, flash = load.raw, 0.0
        if self.huge_to_flash:
            raw, flash = 0.0, load.raw
        used = load.zpages + raw + load.rest
        high, low = ((self.limit or 0) * mark / 100 for mark in self.watermarks)
        if self.limit is None or used <= high:
            return used, flash
        over = used - (high + low) / 2
        pages_out = min(over, raw)
        part = min(1.0, (over - pages_out) / max(load.zpages, 1.0))
        if not self.to_flash:  # the raw ones lie outside anyway
            part = min(1.0, max(0.0, load.zpages + load.rest - (self.limit or 0)) / max(load.zpages, 1.0))
            return used - part * load.zpages + part * load.stored * self.page_size, flash
        leaving = load.zbytes if self.to_flash == "packed" else load.stored * self.page_size
        return used - pages_out - part * load.zpages, flash + pages_out + part * leaving


class Load(NamedTuple):
    """Bytes of memory, but for the last two."""

    zpages: float
    raw: float
    rest: float
    """Which never leaves."""
    zbytes: float
    stored: float
    """Pages."""


# ---- pages through allocators ----


def _in_groups(
    sizes: Sequence[int], costs: Sequence[int], page_size: int, *, huge: int | None = None
) -> tuple[Sums, ...]:
    """Of the sampled pages, which are in an order by chance. `huge`: as dear as that counts as raw."""
    groups = [[0.0] * 6 for _ in range(min(GROUPS, len(sizes)))]
    for number, size in enumerate(sizes):
        group, cost = groups[number % len(groups)], costs[number]
        raw = bool(size) and (not cost or (huge is not None and cost >= huge))
        group[0] += 1
        group[1] += size > 0
        if size and not raw:
            group[2] += 1
            group[3] += cost
            group[4] += min(size, page_size)
        group[5] += raw
    return tuple(Sums(*group) for group in groups)


def _pool_parts(measured: Measured, name: str, spec: str, thresholds: Thresholds) -> Parts:
    sample = measured.sample
    allocator: Allocator = Zbud(sample.page_size) if name == "zbud" else _zsmalloc(measured)
    codec = next(codec for codec in sample.codecs if codec["spec"] == spec)
    filled = fill(allocator, sample.walk(codec["sizes"], WALK), thresholds, sample.page_size)
    metadata = sample.facts["metadata"]
    used = filled.frames * sample.page_size + filled.record_bytes
    costs = sum(filled.costs)
    return Parts(
        _in_groups(codec["sizes"], filled.costs, sample.page_size),
        rate=used / costs if costs else 1.0,
        index=metadata["index"] / metadata["index_pages"],
        fixed=codec["metadata"] + metadata[name] - metadata["zsmalloc"],
    )


def _zsmalloc(measured: Measured) -> Zsmalloc:
    return Zsmalloc(measured.page_size, [SizeClass(*shape) for shape in measured.sample.facts["classes"]])


def _zram_parts(measured: Measured, spec: str) -> Parts:
    sample = measured.sample
    sizes = measured.sizes[spec]
    filled = fill(KernelZsmalloc(sample.page_size), sample.walk(sizes, WALK), None, sample.page_size)
    small = sum(cost for cost in filled.costs if cost < sample.page_size)
    huge = sum(cost >= sample.page_size for cost in filled.costs)
    rate = (filled.frames - huge) * sample.page_size / small if small else 1.0
    return Parts(_in_groups(sizes, filled.costs, sample.page_size, huge=sample.page_size), rate)


def _zswap_parts(measured: Measured, spec: str) -> Parts:
    """It keeps whatever becomes smaller at all, though that may take a page."""
    page_size, sizes = measured.sample.page_size, measured.sizes[spec]
    keeps = Thresholds(page_size - 1, page_size)
    filled = fill(KernelZsmalloc(page_size), measured.sample.walk(sizes, WALK), keeps, page_size)
    costs = sum(filled.costs)
    return Parts(_in_groups(sizes, filled.costs, page_size), filled.frames * page_size / costs if costs else 1.0)


def _extent_parts(measured: Measured, pages: int) -> Parts:
    """As if each page took its share of the extent's; an extent lies in parts, of a page and a rest."""
    sample, extents = measured.sample, measured.extents[pages]
    allocator = _zsmalloc(measured)
    most = sample.page_size - HEAD_BYTES
    costs = []
    for size in extents.sizes:
        whole, rest = divmod(min(size, pages * sample.page_size), most)
        costs.append(sum(allocator.add(most) for _ in range(whole)) + (allocator.add(rest) if rest else 0))
    used = allocator.frames * sample.page_size + allocator.record_bytes
    groups = [
        Sums(group.pages * pages, group.tried * pages, group.tried * pages, group.cost, group.zbytes, 0)
        for group in _in_groups(extents.sizes, costs, pages * sample.page_size)
    ]
    return Parts(groups, rate=used / sum(costs) if sum(costs) else 1.0)


# ---- zcache's pools ----

_SHARES = tuple(
    (Fraction(whole), Fraction(mean))
    for whole, mean in (
        ("7/8", "5/8"),
        ("1", "1"),
        ("7/8", "7/8"),
        ("3/4", "5/8"),
        ("5/8", "5/8"),
        ("1/2", "1/2"),
        ("3/8", "3/8"),
        ("1/4", "1/4"),
    )
)
"""Thresholds, of a page; the first are the defaults."""
WATERMARKS: Sequence[tuple[int, int]] = ((95, 90), (98, 96), (85, 80))
"""Percent of the limit: over high_watermark_percent pages are written, down to low_watermark_percent. The first are the
defaults."""


def pool_candidates(measured: Measured, conditions: Conditions) -> Iterator[Candidate]:
    """The defaults first."""
    for warm in _warm_candidates(measured, conditions):
        kinds = [warm, *(_with_cold_tier(warm, measured, pages, conditions) for pages in measured.extents)]
        yield from kinds
        if conditions.flash_mb_s and conditions.limit:
            yield from (_with_watermarks(kind, *marks) for kind, marks in product(kinds, WATERMARKS[1:]))


def _warm_candidates(measured: Measured, conditions: Conditions) -> Iterator[Candidate]:
    sample = measured.sample
    seen: set[tuple[str, str, tuple[Sums, ...]]] = set()
    for (whole, mean), spec, name in product(_SHARES, measured.sizes, ("zbud", "zsmalloc")):
        thresholds = Thresholds(int(whole * sample.page_size), int(mean * sample.page_size))
        parts = _pool_parts(measured, name, spec, thresholds)
        key = (name, spec, tuple(parts.groups))
        if key in seen:  # these thresholds refuse the same
            continue
        seen.add(key)
        settings = {"allocator": name, "codec": spec, "zv_max_zsize": _part(whole), "zv_max_mean_zsize": _part(mean)}
        yield Candidate(
            {"pool": settings},
            parts,
            _timing(measured, name, spec),
            sample.pages / sample.count,
            sample.page_size,
            limit=conditions.limit,
            watermarks=WATERMARKS[0] if conditions.flash_mb_s else (100, 100),
            to_flash="packed" if conditions.flash_mb_s else "",
            defaults=len(seen) == 1,
        )


def _part(share: Fraction) -> str:
    """Of a page, as pools take it: 1 would be a byte."""
    return "100%" if share == 1 else str(share)


def _timing(measured: Measured, allocator: str, spec: str) -> Timing:
    own = (spec, measured.times[spec])
    return (own, ("zbud", measured.in_zbud)) if allocator == "zbud" and measured.in_zbud else (own,)


def _with_watermarks(candidate: Candidate, high: int, low: int) -> Candidate:
    marks: dict[str, Setting] = {"high_watermark_percent": high, "low_watermark_percent": low}
    return replace(candidate, settings={**candidate.settings, "store": marks}, watermarks=(high, low), defaults=False)


def _with_cold_tier(warm: Candidate, measured: Measured, pages: int, conditions: Conditions) -> Candidate:
    cold: dict[str, Setting] = {"cold_after": conditions.cold_after, "cold_extent": pages, "cold_codec": COLD_CODEC}
    timing = ((f"{pages} {COLD_CODEC}", measured.extents[pages].time),)
    again = Again(_extent_parts(measured, pages), timing, conditions.cold)
    return replace(warm, settings={"pool": {**warm.settings["pool"], **cold}}, again=again, defaults=False)


# ---- the kernel's ----

KERNEL_CODECS = {"lz4": "lz4", "zstd": "zstd:3", "lzo": "lzo"}
"""Algorithms of the kernel's, and our codec that does the same."""


def _algorithms(measured: Measured, offered: Sequence[str], default: str) -> list[tuple[str, str]]:
    """Those measured that the kernel has, the default first; its codec of ours with each."""
    known = [(name, spec) for name, spec in KERNEL_CODECS.items() if spec in measured.sizes]
    return sorted(
        ((name, spec) for name, spec in known if not offered or name in offered), key=lambda one: one[0] != default
    )


def zram_candidates(measured: Measured, conditions: Conditions, kernel: Kernel) -> Iterator[Candidate]:
    sample = measured.sample
    first = True
    algorithms = _algorithms(measured, kernel.zram_algorithms, kernel.zram_algorithm)
    for name, spec in algorithms:
        plain = Candidate(
            {"zram": {"algorithm": name, "writeback": "none", "recompression": "none"}},
            _zram_parts(measured, spec),
            _timing(measured, "", spec),
            sample.pages / sample.count,
            sample.page_size,
            defaults=first,
        )
        first = False
        kinds = [plain]
        if conditions.flash_mb_s:
            kinds.append(_changed(plain, {"writeback": "huge"}, huge_to_flash=True))
        yield from kinds
        for second, its_spec in algorithms:
            if second == name or not conditions.cold or not kernel.recompresses:
                continue
            again = Again(_zram_parts(measured, its_spec), _timing(measured, "", its_spec), conditions.cold)
            for kind in kinds:
                yield _changed(kind, {"recompression": second}, again=again)


def _changed(candidate: Candidate, settings: Mapping[str, Setting], **fields: object) -> Candidate:
    section, values = next(iter(candidate.settings.items()))
    return replace(candidate, settings={section: {**values, **settings}}, defaults=False, **fields)  # type: ignore[arg-type]


ZSWAP_PERCENTS = (20, 10, 30, 40, 50)
"""Of RAM; the first is the kernel's default."""


def zswap_candidates(measured: Measured, conditions: Conditions, kernel: Kernel) -> Iterator[Candidate]:
    """What its pool does not hold is on the swap device, a page each; a page that no codec makes smaller too."""
    sample = measured.sample
    percents = sorted(ZSWAP_PERCENTS, key=lambda percent: percent != kernel.zswap_percent)
    first = True
    for name, spec in _algorithms(measured, (), kernel.zswap_compressor):
        parts = _zswap_parts(measured, spec)
        for percent in percents:
            yield Candidate(
                {"zswap": {"compressor": name, "max_pool_percent": percent}},
                parts,
                _timing(measured, "", spec),
                sample.pages / sample.count,
                sample.page_size,
                limit=(conditions.mem_total or 0) * percent / 100 if conditions.mem_total else None,
                to_flash="pages",
                huge_to_flash=True,
                defaults=first,
            )
            first = False
