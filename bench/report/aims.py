# SPDX-License-Identifier: Apache-2.0
"""What was aimed at, and what the worst corpus came to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import geometric_mean

from bench.measure import Facts

from .sections import cold_default, cold_to_zram, cold_to_zstd
from .table import table
from .zram import memory_ratio


@dataclass(frozen=True)
class Aim:
    what: str
    aim: float
    values: dict[str, float]
    """Where it was measured → what came out."""
    goal: float | None = None
    """What comes after the aim."""
    at_least: bool = False
    alone: dict[str, float] | None = None
    """What LZ4 alone came to there, which the machine sets a limit to."""

    @property
    def worst(self) -> str:
        choose = min if self.at_least else max
        return choose(self.values, key=self.values.__getitem__)

    def meets(self, limit: float) -> bool:
        value = self.values[self.worst]
        return value >= limit if self.at_least else value <= limit


def aims(facts: Facts) -> list[Aim]:
    return [*beside_zram(facts), *threads(facts), *memory(facts), *cold(facts), *heap(facts), *beside_codec(facts)]


def aims_table(found: Sequence[Aim]) -> str:
    rows = []
    for aim in found:
        sign = "≥" if aim.at_least else "≤"
        goal = f"{sign} {aim.goal:g}" if aim.goal is not None else ""
        verdict = (
            "goal met"
            if aim.goal is not None and aim.meets(aim.goal)
            else "met"
            if aim.meets(aim.aim)
            else "**missed**"
        )
        worst = f"{aim.values[aim.worst]:.3g}"
        if aim.alone:
            worst += f"; LZ4 alone {aim.alone[aim.worst]:.3g}"
        rows.append([aim.what, aim.worst, f"{sign} {aim.aim:g}", goal, worst, verdict])
    heads = ["aim", "worst on", "aim", "goal", "measured", ""]
    return "\n## Aims\n\nEach on the corpus where it came out worst.\n\n" + table(heads, rows, left=2)


def beside_zram(facts: Facts) -> list[Aim]:
    found = []
    for algorithm, corpora in facts["zram"].items():
        if not all("zbud_put_ns" in corpus for corpus in corpora.values()):
            continue

        def over(value: Callable[[Facts], float], corpora: Facts = corpora) -> dict[str, float]:
            return {name: value(corpus) for name, corpus in corpora.items()}

        base = f"of zram's, {algorithm}, zsmalloc"
        found += [
            Aim(f"memory used {base}", 1, over(lambda corpus: memory_ratio(corpus["memory"], "zsmalloc")), 0.97),
            Aim(f"put {base}", 1, over(lambda corpus: corpus["zsmalloc_put_ratio"]), 0.9),
            Aim(f"put again {base}", 1, over(lambda corpus: corpus["zsmalloc_again_ratio"]), 0.9),
            Aim(f"get {base}", 1, over(lambda corpus: corpus["zsmalloc_get_ratio"]), 0.8),
            Aim(f"get {base}, no checksums", 0.95, over(lambda corpus: corpus["zsmalloc_plain_get_ratio"]), 0.8),
        ]
    return found


def threads(facts: Facts) -> list[Aim]:
    found = []
    measured = {
        f"{corpus}, {allocator}, {pools}": (f, where)
        for allocator, corpora in facts["threads"].items()
        for corpus, f in corpora.items()
        for where, pools in (("same", "one pool"), ("apart", "two pools"))
    }
    for operation, label in (("put", "put"), ("again", "put again"), ("get", "get")):
        ours = {place: f[f"{where}_{operation}_times"] for place, (f, where) in measured.items()}
        alone = {place: f[f"alone_two_{operation}_times"] for place, (f, _) in measured.items()}
        found.append(Aim(f"{label} by two threads on two cores, times one's", 1.8, ours, at_least=True, alone=alone))
    return found


def memory(facts: Facts) -> list[Aim]:
    metadata = {
        f"{f[side]} pages, {allocator}": f[f"{side}_metadata_bytes"] / f[f"{side}_zpages"]
        for allocator, f in facts["scale"].items()
        for side in ("few", "many")
    }
    difference = {
        f"pages of {size}, {allocator}": 100 * abs(f["used_bytes"] / f["os_bytes"] - 1)
        for allocator, by_size in facts["used"].items()
        for size, f in by_size.items()
    }
    frames = {corpus: f["after_ratio"] for corpus, f in facts["compact"].items()}
    backing = facts["backing"]
    written = {
        f"{corpus}, {when}": f[f"{what}_written"]
        for corpus, f in backing.items()
        for what, when in (("filling", "filling"), ("again", "half freed"))
    }
    batches = {corpus: f["two_ratio"] for corpus, f in backing.items()}
    speed = {f"{corpus}, {who}": f[f"{who}_ratio"] for corpus, f in backing.items() for who in ("zbud", "zsmalloc")}
    return [
        Aim("speed of batches written, of fio's", 0.8, batches, 0.9, at_least=True),
        Aim("speed of writeback, of fio's", 0.8, speed, 0.9, at_least=True),
        *on_flash(facts),
        Aim("bytes written a byte evicted, cleaning apart", 1.05, written),
        Aim("index and metadata a page, bytes", 40, metadata, 32),
        Aim("frames to bytes left, compacted", 1.1, frames),
        Aim("used_bytes against the OS, %", 2, difference),
    ]


def on_flash(facts: Facts) -> list[Aim]:
    found = []
    for rate, corpora in facts["flash"].items():
        speed = {f"{corpus}, {who}": f[f"{who}_ratio"] for corpus, f in corpora.items() for who in ("zbud", "zsmalloc")}
        found.append(Aim(f"speed of writeback, of fio's, disk of {rate} MB/s", 0.8, speed, 0.9, at_least=True))
    return found


def cold(facts: Facts) -> list[Aim]:
    corpora = facts["cold"]
    gets = {corpus: cold_default(f)["get_ns"] / cold_default(f)["zstd_get_ns"] for corpus, f in corpora.items()}
    zram = geometric_mean(cold_to_zram(facts, corpus) for corpus in corpora)
    zstd = geometric_mean(cold_to_zstd(f) for f in corpora.values())
    return [
        Aim("memory once cold, times less than zram's, lz4", 1.7, {"geometric mean": zram}, 1.8, at_least=True),
        Aim("memory once cold, times less than zstd page by page", 1.1, {"geometric mean": zstd}, 1.15, at_least=True),
        Aim("get of a page of an extent, of zstd's single page", 4, gets),
    ]


def heap(facts: Facts) -> list[Aim]:
    def of(value: str) -> dict[str, float]:
        return {corpus: f[f"sigbus_{value}_ratio"] for corpus, f in facts["heap"].items()}

    return [
        Aim("heap: page out, of the kernel's to zram", 0.9, of("out")),
        Aim("heap: page in by SIGBUS, in random order, of the kernel's", 1.3, of("in"), 1.0),
        Aim("heap: page in by SIGBUS, in order, of the kernel's", 1.3, of("in_order"), 1.0),
        Aim("heap: memory used of zram's", 1, of("used")),
    ]


def beside_codec(facts: Facts) -> list[Aim]:
    def over(section: str, value: str) -> dict[str, float]:
        return {name: corpus[section][value] for name, corpus in facts["corpora"].items()}

    return [
        Aim("put of LZ4 alone, in process", 1.1, over("inproc", "again_put_ratio")),
        Aim("get of LZ4 alone, in process", 1.2, over("inproc", "store_get_ratio")),
        Aim("get of LZ4 alone, in process, no checksums", 1.2, over("inproc_plain", "store_get_ratio")),
        Aim("put of LZ4 alone, through the socket", 1.35, over("socket", "socket_put_ratio")),
        Aim("get of LZ4 alone, through the socket", 1.35, over("socket", "socket_get_ratio")),
        Aim("put with many pages, of few", 1.3, {name: f["put_ratio"] for name, f in facts["scale"].items()}),
        Aim("get with many pages, of few", 1.3, {name: f["get_ratio"] for name, f in facts["scale"].items()}),
    ]
