# SPDX-License-Identifier: Apache-2.0
"""Where the kernel swaps to while a program is measured: zram, or a disk as slow as flash; gone with the block."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from bench import flash, zram
from bench.errors import BenchError
from bench.zram import run

PROC = Path("/proc/swaps")
ZSWAP = Path("/sys/module/zswap/parameters/enabled")
PRIORITY = 32767
SIZE = 1 << 30
FILE = Path("build/workloads/swap")
WRITTEN, READ, REQUESTS = 150_000_000, 250_000_000, 11_000
"""A second, of eMMC 5.1: bytes, bytes, and requests each way."""


def nowhere() -> AbstractContextManager[Path | None]:
    """What other swap there is, is another limit's concern (Group.limit())."""
    return _nothing()


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


def to_zram() -> AbstractContextManager[Path]:
    """lz4; see bench/zram.py."""
    return zram.swap(SIZE)


@contextmanager
def to_flash() -> Iterator[Path]:
    """A file on this machine's disk, shown as a loop device with limits."""
    FILE.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FILE.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, SIZE)
        with _loop(FILE) as node:
            run(["mkswap", "--quiet", str(node)])
            with _limits(node):
                run(["swapon", "--priority", str(PRIORITY), str(node)])
                try:
                    yield node
                finally:
                    run(["swapoff", str(node)])
    finally:
        FILE.unlink(missing_ok=True)


@contextmanager
def _loop(file: Path) -> Iterator[Path]:
    command = ["losetup", "--find", "--show", "--direct-io=on", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(command)}: {done.stderr.strip()}")
    node = Path(done.stdout.strip())
    try:
        yield node
    finally:
        run(["losetup", "--detach", str(node)])


@contextmanager
def _limits(node: Path) -> Iterator[None]:
    """On the device as a whole: in version 1 the kernel swaps in the name of the hierarchy's root."""
    root, limit = flash.hierarchy()
    if limit is flash.VERSIONS["cgroup2"]:
        yield  # there it does so in the name of the program's group: limit_swap()
        return
    limits = {"write_bps": WRITTEN, "read_bps": READ, "write_iops": REQUESTS, "read_iops": REQUESTS}
    try:
        for name, rate in limits.items():
            (root / f"blkio.throttle.{name}_device").write_text(f"{number(node)} {rate}")
        yield
    finally:
        for name in limits:
            with suppress(OSError):
                (root / f"blkio.throttle.{name}_device").write_text(f"{number(node)} 0")


def limit_swap(directory: Path, node: Path) -> None:
    """The same in version 2, where `directory` is the program's group."""
    line = f"{number(node)} wbps={WRITTEN} rbps={READ} wiops={REQUESTS} riops={REQUESTS}"
    (directory / "io.max").write_text(line)


def number(node: Path) -> str:
    """MAJOR:MINOR."""
    device = node.stat().st_rdev
    return f"{os.major(device)}:{os.minor(device)}"


def transferred(node: Path) -> tuple[int, int]:
    """Pages read from and written to a device since it is there."""
    fields = Path(f"/sys/dev/block/{number(node)}/stat").read_text().split()
    sectors = os.sysconf("SC_PAGESIZE") // 512
    return int(fields[2]) // sectors, int(fields[6]) // sectors


def zram_memory(node: Path | None) -> tuple[int, int]:
    """Bytes of pages that a zram device holds, and what it takes for them; of other devices nothing."""
    path = Path("/sys/block") / (node.name if node else "") / "mm_stat"
    if not path.exists():
        return 0, 0
    held, _, used, *_ = path.read_text().split()
    return int(held), int(used)


def elsewhere(node: Path | None) -> int:
    """Bytes that are in swap but not on this device."""
    used = 0
    for line in PROC.read_text().splitlines()[1:]:
        name, _, _, kilobytes, _ = line.split()
        if node is None or Path(name).name != node.name:
            used += int(kilobytes) * 1024
    return used


def refuse_zswap() -> None:
    """It would hold the pages before they get to the device that is measured."""
    if ZSWAP.exists() and ZSWAP.read_text().strip() == "Y":
        raise BenchError(f"{ZSWAP}: Y: pages would not get to the device measured; echo N >{ZSWAP}")
