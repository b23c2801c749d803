# SPDX-License-Identifier: Apache-2.0
"""The section beside the kernel's zram."""

from collections.abc import Iterator

from bench.measure import Facts

from .table import mib, table, times, us

SIDES = {
    "zram": "zram",
    "zsmalloc": "zsmalloc",
    "zsmalloc_plain": "zsmalloc, no checksums",
    "zbud": "zbud",
}
PAGE_SIZE = 4096

TEXT = """
## Beside the kernel's zram

`zc_bench zram`: a new zram device of the corpus's size, and pools with the same codec, on the same pages. Who is
first changes from round to round. The device is written and read through O_DIRECT in requests of 1 MiB, so that the
kernel compresses on the core that the store's calls run on; pools are put to and got from in process, in batches of
32. Gets go to 1 MiB in turns on both sides. Aims: put and get no slower than zram's write and read, get without
checksums at most 0.95 of it, memory used no more.

*Put*: into an empty device or pool. *CPU* is the time of all threads while putting: a pool's frames come from the OS
cleared, which a second thread does as far as it keeps up; zram's allocation is in its own time. *Again*: over the
pages already there.

*Memory used* is of all pages but same-filled ones, those too that compress badly. zram: `mem_used_total`, and 16
bytes of table a page; its allocator's own descriptors and handles are in no count of the kernel's. Pools: frames,
index and metadata, and a frame for each page refused. The store's reserve of ready frames (at most {reserve} here,
whatever the store's size) is not in it. *With same-filled* adds those, which cost either side an entry and no frame.
"""

ALONE = """\
zram alone: this build has no `lzo`, whose code is GPL; `make bench LZO=1` measures it too. Timings are of
the pages that LZ4 keeps.

"""


def beside_zram(facts: Facts) -> str:
    text = TEXT.format(reserve=f"{mib(reserve(facts))} MiB")
    for algorithm, corpora in facts["zram"].items():
        text += f"\n### {algorithm}\n\n"
        if not all("zbud_put_ns" in corpus for corpus in corpora.values()):
            text += ALONE
        heads = ["corpus", "", "put", "ratio", "CPU", "again", "ratio", "get", "ratio"]
        text += table(heads, time_rows(corpora), left=2) + "\n"
        heads = ["corpus", "", "memory used, MiB", "ratio", "data / memory", "refused", "with same-filled", "ratio"]
        text += table(heads, memory_rows(corpora), left=2)
    return text


def sides(corpus: Facts) -> dict[str, str]:
    return {side: label for side, label in SIDES.items() if f"{side}_put_ns" in corpus}


def time_rows(corpora: Facts) -> Iterator[list[object]]:
    for name, corpus in corpora.items():
        for side, label in sides(corpus).items():
            row: list[object] = [name if side == "zram" else "", label]
            for operation in ("put", "put_cpu", "again", "get"):
                row.append(us(corpus[f"{side}_{operation}_ns"]))
                if operation != "put_cpu":
                    row.append("" if side == "zram" else times(corpus[f"{side}_{operation}_ratio"]))
            yield row


def memory_rows(corpora: Facts) -> Iterator[list[object]]:
    for name, corpus in corpora.items():
        memory, whole = corpus["memory"], corpus["memory_with_same_filled"]
        for side, label in sides(corpus).items():
            used = memory[side]["used_bytes"]
            ratios = ["", ""] if side == "zram" else [times(memory_ratio(part, side)) for part in (memory, whole)]
            refused = memory[side]["huge" if side == "zram" else "refused"]
            row = [name if side == "zram" else "", label, mib(used), ratios[0]]
            yield [*row, times(memory["pages"] * PAGE_SIZE / used), refused, mib(whole[side]["used_bytes"]), ratios[1]]


def memory_ratio(memory: Facts, side: str) -> float:
    return float(memory[side]["used_bytes"] / memory["zram"]["used_bytes"])


def reserve(facts: Facts) -> int:
    """The most seen, in bytes."""
    sides = [
        side
        for corpora in facts["zram"].values()
        for corpus in corpora.values()
        for side in corpus["memory"].values()
        if isinstance(side, dict)
    ]
    return max(int(side.get("reserve_bytes", 0)) for side in sides)
