# SPDX-License-Identifier: Apache-2.0
"""What is measured, section by section of the report."""

import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import flash, zram
from bench.measure import Facts, compared, measure, medians, ratio

ZCACHED = Path("build/host/zcached")
ROUNDS, FEW_ROUNDS, FLASH_ROUNDS = 25, 9, 3
FEW, MANY = 10_000, 4_000_000
SOCKET_PAGES = 12_000
BYTES_A_PAGE = 2600
"""Of memory, at most, for each of MANY pages."""
ALLOCATORS = ("zbud", "zsmalloc")
SIZES_OF = ("lz4", "zstd")
ZRAM = {"lz4": "lz4", "lzo-rle": "lzo"}
"""zram's algorithm → our codec."""
FEW_CORPORA = ("chromium", "java")
"""For what hardly depends on the pages."""
HEAPS = ("thread", "sigbus", "alone")
COMPACTED = 200_000
"""Pages."""
STORE = Path("build/backing.store")
"""Of a backing store; it should be on a disk."""
FLASH = (150, 500)
"""MB/s that are written to eMMC 5.1 and to UFS 3.1."""


def measured(files: Sequence[Path]) -> Facts:
    before = processor_time()
    codecs = measure("codecs")["codecs"].split()
    facts: Facts = {"machine": machine(), "rounds": ROUNDS, "few_rounds": FEW_ROUNDS, "codecs": codecs}
    facts["flash_rounds"] = FLASH_ROUNDS
    say("sizes of zpages")
    facts["sizes"] = {codec: {file.stem: measure("sizes", file, codec=codec) for file in files} for codec in SIZES_OF}
    facts["zram"] = {
        algorithm: {file.stem: beside_zram(file, algorithm, codecs) for file in files} for algorithm in ZRAM
    }
    facts["threads"] = {
        allocator: {file.stem: two_threads(file, allocator) for file in files if file.stem in FEW_CORPORA}
        for allocator in ALLOCATORS
    }
    facts["compact"] = {file.stem: compact(file) for file in files if file.stem in FEW_CORPORA}
    facts["reclaim"] = {
        allocator: {file.stem: measure("reclaim", file, allocator=allocator) for file in files}
        for allocator in ALLOCATORS
    }
    facts["backing"] = {file.stem: backing(file) for file in files if file.stem in FEW_CORPORA}
    facts["flash"] = {
        str(rate): {file.stem: on_flash(file, rate) for file in files if file.stem in FEW_CORPORA} for rate in FLASH
    }
    facts["cold"] = {file.stem: cold(file) for file in files}
    facts["heap"] = {file.stem: heap(file) for file in files if file.stem in FEW_CORPORA}
    facts["entropy"] = {file.stem: measure("entropy", file) for file in files}
    facts["corpora"] = {file.stem: beside_codec(file) for file in files}
    facts["used"] = {allocator: used(files[0], allocator) for allocator in ALLOCATORS}
    facts["scale"] = {allocator: scale(files[0], allocator) for allocator in ALLOCATORS}
    facts["stolen"] = stolen(before, processor_time())
    return facts


def say(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)


def beside_zram(file: Path, algorithm: str, codecs: Sequence[str]) -> Facts:
    """Without our side where this build lacks the codec."""
    say(f"{file.stem}: beside zram, {algorithm}")
    ours = {"codec": ZRAM[algorithm]} if ZRAM[algorithm] in codecs else {"only_device": True}
    with zram.device(algorithm, file.stat().st_size) as device:
        return compared(measure("zram", file, device=device, rounds=ROUNDS, **ours), "zram")


def two_threads(file: Path, allocator: str) -> Facts:
    """Medians, and how many times as much two get done as one."""
    say(f"{file.stem}: two threads, {allocator}")
    facts = measure("threads", file, allocator=allocator, rounds=ROUNDS)
    pairs = {"alone_two": "alone_one", "same": "one", "apart": "one"}
    times = {
        f"{two}_{op}_times": ratio(facts[f"{one}_{op}_ns"], facts[f"{two}_{op}_ns"])
        for two, one in pairs.items()
        for op in ("put", "again", "get")
    }
    return medians(facts) | times


def compact(file: Path) -> Facts:
    say(f"{file.stem}: compaction")
    return medians(measure("compact", file, allocator="zsmalloc", rounds=FEW_ROUNDS, many=COMPACTED))


def on_flash(file: Path, rate: int) -> Facts:
    say(f"{file.stem}: at most {rate} MB/s")
    with flash.slow_as(rate * 1_000_000, STORE):
        return backing(file, FLASH_ROUNDS)


def backing(file: Path, rounds: int = FEW_ROUNDS) -> Facts:
    """Medians, and our speed's ratio to fio's."""
    say(f"{file.stem}: a backing store beside fio")
    facts = measure("backing", file, device=STORE, rounds=rounds)
    return medians(facts) | {
        f"{who}_ratio": ratio(facts[f"{who}_mbs"], facts["fio_mbs"]) for who in ("one", "two", *ALLOCATORS)
    }


def cold(file: Path) -> Facts:
    say(f"{file.stem}: the cold tier")
    return measure("cold", file)


def heap(file: Path) -> Facts:
    """Medians, and ratios to the kernel's swap."""
    say(f"{file.stem}: a heap beside swap on zram")
    with zram.swap(3 * file.stat().st_size) as device:
        facts = measure("heap", file, device=device, allocator="zsmalloc", rounds=ROUNDS)
    result = compared(facts, "kernel")
    return result | {f"{side}_used_ratio": facts[f"{side}_used_bytes"] / facts["kernel_used_bytes"] for side in HEAPS}


def beside_codec(file: Path) -> Facts:
    say(f"{file.stem}: in process and through the socket")
    return {
        "inproc": compared(measure("inproc", file, rounds=ROUNDS), "alone"),
        "inproc_plain": compared(measure("inproc", file, rounds=ROUNDS, checksums=0), "alone"),
        "inproc_16k": compared(measure("inproc", file, rounds=ROUNDS, page_size=16384), "alone"),
        "socket": compared(over_socket(file), "alone"),
    }


def over_socket(file: Path) -> Facts:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "run"
        start = [str(ZCACHED), "run", "--dir", str(directory), "--detach"]
        subprocess.run(start, stdout=subprocess.DEVNULL, check=True, timeout=30)
        try:
            create = b"set pools/create name=bench kind=persistent\nset pools/bench/params/zv_max_mean_zsize 100%\n"
            subprocess.run(
                [ZCACHED, "bridge", "control", "--dir", directory],
                input=create,
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=30,
            )
            return measure("socket", file, dir=directory, pool="bench", rounds=ROUNDS, most=SOCKET_PAGES)
        finally:
            pid = int((directory / "zcached.lock").read_text())
            subprocess.run(["kill", str(pid)], check=True)


def used(file: Path, allocator: str) -> Facts:
    say(f"used_bytes, {allocator}")
    sizes = (4096, 16384)
    return {str(size): measure("used", file, allocator=allocator, page_size=size) for size in sizes}


def scale(file: Path, allocator: str) -> Facts:
    available = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable")
    )
    many = min(MANY, int(available * 0.8) // BYTES_A_PAGE)
    say(f"put and get with {FEW} and with {many} pages stored, {allocator}")
    facts = measure("scale", file, allocator=allocator, few=FEW, many=many, rounds=ROUNDS)
    ratios = {f"{op}_ratio": ratio(facts[f"many_{op}_ns"], facts[f"few_{op}_ns"]) for op in ("put", "get")}
    return medians(facts) | ratios


def machine() -> str:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return f"{cpu}, Linux {platform.release().split('-')[0]}, {platform.machine()}"


@dataclass(frozen=True)
class ProcessorTime:
    """Of all processors since they started, in ticks."""

    had: int
    stolen: int
    """Wanted, and not had: the host gave it to other machines."""


def processor_time() -> ProcessorTime:
    return times_of(Path("/proc/stat").read_text())


def times_of(stat: str) -> ProcessorTime:
    """The first line of /proc/stat (Linux, filesystems/proc.rst)."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.split()[1:9])
    return ProcessorTime(user + nice + system + irq + softirq, steal)


def stolen(before: ProcessorTime, after: ProcessorTime) -> float:
    """The share of what was wanted, in percent."""
    missed = after.stolen - before.stolen
    return 100 * missed / max(after.had - before.had + missed, 1)
