# SPDX-License-Identifier: Apache-2.0
"""python -m bench.corpora: real pages to measure on, a file a program under build/corpora; made where missing."""

import os
import signal
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from bench.errors import BenchError
from bench.programs import chromium, compiler, jvm, redis
from zcache_agent.transport import open_transport
from zcache_agent.workloads import WORKLOADS
from zcache_agent.workloads import running as running_workload

CORPORA = Path("build/corpora")
PAGE_SIZE = os.sysconf("SC_PAGESIZE")
BLOCK = max(PAGE_SIZE, 16384)
"""What is taken or left as a whole, so that pages of this size can be measured too."""
MAX_BYTES = 64 * 1024 * 1024

_PRESENT, _FILE_OR_SHARED = 1 << 63, 1 << 61

T = TypeVar("T")


@contextmanager
def demo_workload(name: str, scale: int) -> Iterator[list[int]]:
    """One of the demo's own."""
    workload = next(workload for workload in WORKLOADS if workload.name == name)
    with running_workload(open_transport("local", 120), workload, scale) as pid:
        yield [pid]


PROGRAMS: dict[str, Callable[[], AbstractContextManager[list[int]]]] = {
    "chromium": chromium.running,
    "java": jvm.running,
    "cc1plus": compiler.running,
    "redis": redis.running,
    "python3": partial(demo_workload, "python3", 20),
    "sqlite": partial(demo_workload, "sqlite", 30),
    "sort": partial(demo_workload, "sort", 30),
}


def corpora() -> list[Path]:
    """Raw pages, a file a source."""
    CORPORA.mkdir(parents=True, exist_ok=True)
    sources: dict[str, Callable[[], Iterator[bytes]]] = {
        **{name: partial(memory_of, running) for name, running in PROGRAMS.items()},
        "libraries": library_pages,
    }
    return [_corpus(CORPORA / f"{name}.pages", source) for name, source in sources.items()]


def _corpus(path: Path, source: Callable[[], Iterator[bytes]]) -> Path:
    if path.exists():
        return path
    print(f"corpora: {path.stem} …", end=" ", file=sys.stderr, flush=True)
    new = path.with_suffix(".new")
    with new.open("wb") as out:
        for part in source():
            out.write(part)
    new.rename(path)
    print(f"{path.stat().st_size >> 20} MiB", file=sys.stderr)
    return path


def memory_of(running: Callable[[], AbstractContextManager[list[int]]]) -> Iterator[bytes]:
    """What of the anonymous memory of its processes is resident, evenly thinned out to MAX_BYTES."""
    with running() as pids, stopped(pids), ExitStack() as stack:
        memory = {pid: stack.enter_context(Path(f"/proc/{pid}/mem").open("rb", buffering=0)) for pid in pids}
        blocks = [(pid, address) for pid in pids for address in anonymous_blocks(pid)]
        for pid, address in evenly(blocks, MAX_BYTES // BLOCK):
            memory[pid].seek(address)
            yield memory[pid].read(BLOCK)


@contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    """They stand still, so that what is read of them is of one instant."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def evenly(items: Sequence[T], most: int) -> Sequence[T]:
    if len(items) <= most:
        return items
    return [items[i * len(items) // most] for i in range(most)]


def anonymous_blocks(pid: int) -> Iterator[int]:
    """Addresses of the aligned blocks all of whose pages are resident and anonymous."""
    with Path(f"/proc/{pid}/pagemap").open("rb") as pagemap:
        for start, end in readable_areas(Path(f"/proc/{pid}/maps").read_text()):
            first, last = -(-start // BLOCK) * BLOCK, end // BLOCK * BLOCK
            if first < last:
                pagemap.seek(first // PAGE_SIZE * 8)
                entries = pagemap.read((last - first) // PAGE_SIZE * 8)
                yield from (first + at * BLOCK for at in whole_blocks(entries, BLOCK // PAGE_SIZE))


def readable_areas(maps: str) -> Iterator[tuple[int, int]]:
    """From /proc/PID/maps: first and last address of each; not the kernel's own."""
    for line in maps.splitlines():
        area, rights, *_ = line.split()
        if rights.startswith("r") and "[v" not in line:
            start, end = area.split("-")
            yield int(start, 16), int(end, 16)


def whole_blocks(entries: bytes, pages: int) -> Iterator[int]:
    """From entries of /proc/PID/pagemap: numbers of the blocks all of whose pages are resident and anonymous."""
    resident = [entry & _PRESENT and not entry & _FILE_OR_SHARED for (entry,) in struct.iter_unpack("<Q", entries)]
    for block in range(len(resident) // pages):
        if all(resident[block * pages : (block + 1) * pages]):
            yield block


def library_pages() -> Iterator[bytes]:
    """Of the machine's largest shared libraries, as a tar of them holds them; a file's end padded with zeros."""
    files = [path for path in Path("/usr/lib").rglob("*.so*") if path.is_file() and not path.is_symlink()]
    files.sort(key=lambda path: (-path.stat().st_size, str(path)))
    blocks = [(path, at) for path in files[:40] for at in range(0, path.stat().st_size, BLOCK)]
    with ExitStack() as stack:
        opened = {path: stack.enter_context(path.open("rb")) for path in files[:40]}
        for path, at in evenly(blocks, MAX_BYTES // BLOCK):
            opened[path].seek(at)
            yield opened[path].read(BLOCK).ljust(BLOCK, b"\0")


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):  # so that no program stays behind
        signal.signal(number, lambda caught, _: sys.exit(128 + caught))
    try:
        corpora()
    except BenchError as error:
        print(f"corpora: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
