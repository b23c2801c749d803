# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/which-workloads.md out of build/workloads.json."""

import statistics
from collections.abc import Callable, Iterator
from typing import Any

from bench.report.table import mib, percent, table, times, us

Facts = dict[str, Any]

BEGIN = "<!-- made by `make workloads` out of build/workloads.json: do not edit -->\n"
END = "<!-- end of what is made -->\n"
PAGE_SIZE = 4096
PATIENCE = 6
"""A run that takes so many times as long as without a limit is given up, and not tried again."""

HEAD = """
Machine: {machine}. Median of {rounds} runs, in brackets the least and the most.{swap}

### What the memory is
"""
MEMORY = """
Half way through the work. *Anonymous*: the most at any time. *Files*: mapped ones, a page that others map too only in
part, and what was read. *Poor*: pages of which LZ4 leaves more than 7/8. Then what 100 MiB of its pages take, those
that are refused among it: in zbud and zsmalloc (LZ4, default thresholds) and in the kernel's zram (LZ4), as `zcache
analyze` predicts it, and in zcache's cold tier, as measured. *zram held*: what was swapped out with half of the memory,
and what the device took for it, MiB.

"""
COLD = """
### How cold it is

Of its anonymous pages, those that were not touched again within so many seconds: of its work, and while nobody asks it
for anything. A translation that a processor had kept may hide a touch, of a few MiB at most.

"""
LIMITED = """
### With less memory

Time of the same work, of the time without a limit. *Killed*: by the OOM killer. *Given up*: not done after {patience}
times as long, or not grown by then.

"""
TRAFFIC = """
Pages and major faults a second while it worked, and processor time, of that without a limit: the program's own and what
the kernel does in its name. To compress is among that, to write to a disk is not.

"""
ZCACHE = """
### In zcache

The same pages in a pool, in process, LZ4 and zsmalloc: µs a page put into an empty pool, put over what is there, got.
*Refused* by the default thresholds. *Flash*: bytes that writeback writes for each byte of pages that leaves memory,
into an empty backing store, and into one where a half of what it held was forgotten. Swap that is not compressed
writes 1.

"""


def put_into(document: str, facts: Facts) -> str:
    """The part between the marks is made anew."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + render(facts) + END + after


def render(facts: Facts) -> str:
    known = facts["workloads"]
    head = HEAD.format(machine=facts["machine"], rounds=facts["rounds"], swap=other_swap(known))
    parts = [head, MEMORY, memory(known), COLD, cold(known), LIMITED.format(patience=PATIENCE), limited(known)]
    return "".join([*parts, TRAFFIC, traffic(known), ZCACHE, zcache(known)]) + "\n"


def other_swap(known: Facts) -> str:
    """Said where pages may have gone elsewhere."""
    runs = [one for f in known.values() for of in f["runs"].values() for one in of]
    most = max((one["peak"]["elsewhere"] for one in runs), default=0)
    return f" Other swap than ours grew by up to {mib(most)} MiB meanwhile." if most else " No other swap was in use."


def memory(known: Facts) -> str:
    heads = ["", "anonymous, MiB", "files", "same-filled", "duplicate", "poor", "zbud", "zsmalloc", "zram", "cold tier"]
    return table([*heads, "zram held"], [[name, *memory_row(f)] for name, f in known.items()])


def memory_row(f: Facts) -> Iterator[str]:
    total = f["memory"]["total"]
    lz4 = total["codecs"][0]
    yield mib(f["peak"]["anonymous"])
    yield mib(f["peak"]["files"] + f["memory"]["mapped_files"])
    for share in ("same_filled", "duplicates"):
        yield percent(total[share]["value"], total["pages"])
    yield percent(lz4["incompressible"], total["sampled"])
    for name in ("zbud", "zsmalloc", "zram"):
        yield f"{100 * left(f, name):.0f}"
    yield f"{100 * left(f, 'cold'):.0f}"
    half = [one["peak"] for one in f["runs"]["zram-50"] if one["peak"]["held"]]
    yield f"{mib(half[0]['held'])} / {mib(half[0]['held_in'])}" if half else ""


def left(f: Facts, where: str) -> float:
    """What its pages take, of what they are."""
    if where == "cold":
        cold = f["memory"]["cold"]
        return float(cold["used_bytes"] / (cold["pages"] * PAGE_SIZE))
    total = f["memory"]["total"]
    pool = total["codecs"][0][where]
    refused = sum(pool["refused"].values()) * PAGE_SIZE
    return float((pool["used_bytes"] + refused) / (total["pages"] * PAGE_SIZE))


def cold(known: Facts) -> str:
    rows = []
    for name, f in known.items():
        found = f["memory"]["touched"]
        work = [*(f"{100 * share:.0f} %" for share in found["work"]), "", ""]
        rows.append([name, *work[:2], "" if found["idle"] is None else f"{100 * found['idle']:.0f} %"])
    return table(["", "1 s of work", "2 s", "5 s idle"], rows)


CONDITIONS = [(share, place) for share in (75, 50) for place in ("none", "zram", "flash")]
LABELS = {"none": "no swap", "zram": "zram", "flash": "flash"}


def limited(known: Facts) -> str:
    rows = []
    for name, f in known.items():
        free = f["runs"]["free"]
        row = [name, f"{median(free, 'wall_s'):.1f} s ({spread(free, 'wall_s')})"]
        row += [outcome(f["runs"][f"{place}-{share}"], median(free, "wall_s")) for share, place in CONDITIONS]
        rows.append(row)
    return table(["", "no limit", *(f"{share} %, {LABELS[place]}" for share, place in CONDITIONS)], rows)


def outcome(of: list[Facts], free: float) -> str:
    completed = done(of)
    ending = "killed" if of[-1]["outcome"] == "killed" else "given up"
    if not completed:
        return ending
    lost = len(of) - len(completed)
    remark = f"{lost} of {len(of)} {ending}" if lost else spread(completed, "wall_s", free)
    return f"{median(completed, 'wall_s') / free:.2f} ({remark})"


def done(of: list[Facts]) -> list[Facts]:
    return [one for one in of if one["outcome"] == "done"]


def slowdown(f: Facts, condition: str) -> float | None:
    """None: no run was done."""
    of = done(f["runs"][condition])
    return median(of, "wall_s") / median(f["runs"]["free"], "wall_s") if of else None


def traffic(known: Facts) -> str:
    rows = []
    for name, f in known.items():
        for share, place in CONDITIONS:
            of = done(f["runs"][f"{place}-{share}"])
            if place == "none" or not of:
                continue
            rates = [f"{median_of(of, rate(what)):.0f}" for what in ("pages_out", "pages_in", "major_faults")]
            cpu = times(median(of, "cpu_s") / median(f["runs"]["free"], "cpu_s"))
            rows.append([name, f"{share} %, {LABELS[place]}", *rates, cpu])
    return table(["", "", "out/s", "in/s", "major faults/s", "processor"], rows, left=2)


def zcache(known: Facts) -> str:
    rows = []
    for name, f in known.items():
        store, written = f["memory"]["store"], f["memory"]["written"]
        total = f["memory"]["total"]
        refused = sum(total["codecs"][0]["zsmalloc"]["refused"].values())
        row = [name, us(store["store_put_ns"]), us(store["again_put_ns"]), us(store["store_get_ns"])]
        row.append(percent(refused, total["pages"]))
        zbytes = store["zbytes"] / (store["zpages"] * PAGE_SIZE)
        rows.append([*row, times(zbytes * written["filling"]), times(zbytes * written["again"])])
    return table(["", "put", "put over", "get", "refused", "flash", "half full"], rows)


def rate(what: str) -> Callable[[Facts], float]:
    return lambda one: float(one[what] / one["wall_s"])


def median(of: list[Facts], what: str) -> float:
    return median_of(of, lambda one: float(one[what]))


def median_of(of: list[Facts], value: Callable[[Facts], float]) -> float:
    return statistics.median(map(value, of))


def spread(of: list[Facts], what: str, by: float = 1) -> str:
    values = [one[what] / by for one in of]
    digits = 1 if by == 1 else 2
    return f"{min(values):.{digits}f}\N{EN DASH}{max(values):.{digits}f}"
