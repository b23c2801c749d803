# SPDX-License-Identifier: Apache-2.0
"""python -m tools.soak [SECONDS]: zc_soak for so long, zc_heap for a quarter of it, their record in docs/soak.md.

SEED in the environment repeats a run's operations; else it is random.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.report.table import mib, table

PROGRAM, HEAP, RECORD = Path("build/host/zc_soak"), Path("build/host/zc_heap"), Path("docs/soak.md")
SECONDS = 1200
HEAP_PART = 1 / 4
"""Of that long, for heaps."""
KEYS = 20_000
"""Of a thread in each pool."""
DIFFERENCE = 0.02
"""Of used_bytes from the OS, at most."""
LEFT = 4 << 20
"""Bytes that the OS may count beyond used_bytes when all is flushed."""
CURVE = 20
"""Lines of the memory curve in the record."""

HEAPS = [("thread", "move"), ("thread", "remap"), ("sigbus", "move"), ("sigbus", "remap")]
"""Who answers faults, how pages are moved: see zc_heap.c."""
HEAP_CODECS = ("lz4", "zstd")
HEAP_THREADS = 3
HEAP_BUDGET = 1 << 20
"""Bytes; the threads use eight times as much."""

Facts = dict[str, Any]

TEXT = """# Soak

Written by `make soak`; do not edit. Two threads put, get and flush at random, {keys} keys each in each of four pools,
while a third changes limits, thresholds and codecs, compacts, reclaims, writes back, makes memory short, has the system
calls below the backing stores fail, and stops the store and starts it again. Every get is held against what its thread
knows of the page; short memory and failing calls are forced, all else is real.

{seconds:.0f} s, seed {seed}, pages of {page_size} bytes: {puts} puts, {gets} gets, {flushes} flushes, {flush_objects}
flushes of a whole object; {disturbances} disturbances, {restarts} of them restarts. No get returned wrong bytes, none
missed a persistent page.

`used_bytes` was held against the OS {compared} times with 64 MiB or more in use: at worst {worst:.2%} apart (aim: 2 %).
When all was flushed, the OS counted {left:.0f} KiB beyond `used_bytes` (aim: 4 MiB).

## Faults hit

{faults}
Gets that failed with `EIO` as a read of a backing store had: {gets_failed}. Ephemeral pages dropped before they were
asked for: {ephemeral_lost}.

## Memory

{curve}
## The compressed heap

Then {heap_seconds} s of heaps, one after another: {heap_threads} threads write and read pages, and hand them to
system calls, pinned and not, while pages are evicted, fetched, pinned and recompressed, and the budget changes,
{heap_budget} KiB at most, an eighth of what they use. Each thread knows what is in its pages; none was wrong. A system
call on a page that was not pinned may fail, or stop short; none on a pinned one did.

{heaps}"""


def soak(program: Path, seconds: float, seed: int, keys: int = KEYS) -> Facts:
    """What the run says of itself; RuntimeError where it broke, with its last words."""
    with tempfile.TemporaryDirectory() as directory:
        command = [str(program), str(seconds), str(seed), directory, str(keys)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            out, err = process.communicate(timeout=seconds * 2 + 240)
        finally:
            process.kill()
    if process.returncode != 0:
        raise RuntimeError(f"zc_soak {seconds} {seed}: ended with {process.returncode}: {err[-3000:]}")
    facts: Facts = json.loads(out)
    return facts


def soak_heap(program: Path, faults: str, by: str, codec: str, seconds: int, seed: int) -> Facts:
    """What zc_heap counted; RuntimeError where it broke."""
    command = [program, "stress", faults, by, codec, HEAP_THREADS, f"{seconds}s", seed, HEAP_BUDGET]
    words = list(map(str, command))
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds * 2 + 120, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: ended with {done.returncode}: {done.stderr[-3000:]}")
    counts = (part.split() for part in done.stdout.split(", "))
    return {"faults": faults, "by": by, "codec": codec, "seconds": seconds} | {
        name: int(count) for count, name in counts
    }


def soak_heaps(program: Path, seconds: float, seed: int) -> list[Facts]:
    """Each of HEAPS with each codec, a second at least."""
    ways = [(faults, by, codec) for faults, by in HEAPS for codec in HEAP_CODECS]
    each = max(1, round(seconds / len(ways)))
    return [soak_heap(program, *way, each, seed + number) for number, way in enumerate(ways)]


def heaps_table(heaps: list[Facts]) -> str:
    columns = {
        "operations": "ops",
        "put away": "evicted",
        "brought back": "stored",
        "not taken by the pool": "refused",
        "system calls": "calls",
        "of these failed": "failed",
    }
    rows = [[way["faults"], way["by"], way["codec"], *(way[name] for name in columns.values())] for way in heaps]
    return table(["faults by", "moved by", "codec", *columns], rows, left=3)


def shortcomings(facts: Facts) -> Iterator[str]:
    """What the run did not meet, though nothing broke."""
    if facts["compared"] and facts["worst_difference"] > DIFFERENCE:
        yield f"used_bytes is {facts['worst_difference']:.2%} from what the OS counts"
    if facts["left_bytes"] > LEFT:
        yield f"the OS counts {facts['left_bytes']} bytes beyond used_bytes when all is flushed"


def heap_shortcomings(heaps: list[Facts]) -> Iterator[str]:
    for way in heaps:
        for count in ("evicted", "stored", "refused", "calls", "failed"):
            if not way[count]:
                yield f"heap, {way['faults']}, {way['by']}, {way['codec']}: {count} is 0: run it for longer"


def render(facts: Facts, heaps: list[Facts]) -> str:
    ops, curve = facts["ops"], facts["curve"]
    lines = [curve[i * len(curve) // CURVE] for i in range(CURVE)] if len(curve) > CURVE else curve
    rows = [
        [f"{line['seconds']:.0f}", mib(line["used_bytes"]), mib(line["os_bytes"]), line["written_pages"]]
        for line in lines
    ]
    return TEXT.format(
        **{name: value for name, value in facts.items() if name not in ("ops", "faults", "curve")},
        keys=KEYS,
        puts=ops["put"],
        gets=ops["get"],
        flushes=ops["flush"],
        flush_objects=ops["flush_object"],
        worst=facts["worst_difference"],
        left=facts["left_bytes"] / 1024,
        faults=table(["system call", "times"], facts["faults"].items()),
        curve=table(["seconds", "used_bytes, MiB", "OS, MiB", "pages in backing stores"], rows, left=0),
        heap_seconds=sum(way["seconds"] for way in heaps),
        heap_threads=HEAP_THREADS,
        heap_budget=HEAP_BUDGET >> 10,
        heaps=heaps_table(heaps),
    )


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    seed = int(os.environ.get("SEED") or random.getrandbits(32))
    until = time.strftime("%H:%M:%S", time.localtime(time.time() + seconds * (1 + HEAP_PART)))
    print(f"soak: seed {seed}, until {until}", file=sys.stderr, flush=True)
    try:
        facts = soak(PROGRAM, seconds, seed)
        heaps = soak_heaps(HEAP, seconds * HEAP_PART, seed)
    except RuntimeError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    RECORD.write_text(render(facts, heaps))
    wrong = [*shortcomings(facts), *heap_shortcomings(heaps)]
    for line in wrong:
        print(f"soak: {line}", file=sys.stderr)
    print(f"soak: {RECORD} is written", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
