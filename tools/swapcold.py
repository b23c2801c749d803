# SPDX-License-Identifier: Apache-2.0
"""python -m tools.swapcold [TARGET…]: memory that swapped-out programs take on zram, on zcache, and there once cold.

On emulated devices, with a database, a compiler and an interpreter of Debian's: each is stopped, and paged out whole to
zram (lz4), then to zcache's swap device, where its pages are compressed again as those that stay idle are. Prints a
table for docs/swap.md.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from . import swapload
from .emulator import Device, boot
from .emulator.image import disk_of
from .programs import MB, PACKAGES, page_out, print_table, shell, stopped, zcache
from .swapload import LoadError

TARGETS = ("arm64", "arm64-16k")
SCALES = {"sqlite": 30, "cc1": 14, "python3": 24}
"""So that each has 40 to 65 MiB: of less, either allocator takes more, a page, for slots in which nothing lies yet."""
SIZE_MB = 384
PASSES = 8
"""Until the kernel has paged all out."""
COLUMNS = """\
| pages | program | swapped out, MiB | zram, bytes a page | zcache | of zram's | cold | of zram's |
| --- | --- | --: | --: | --: | --: | --: | --: |"""


@dataclass(frozen=True)
class Row:
    page_size: int
    program: str
    swapped: int
    """Bytes."""
    zram: float
    warm: float
    cold: float
    """Bytes that one swapped out takes."""

    def text(self) -> str:
        own = " | ".join(f"{taken * self.page_size:.0f} | {taken / self.zram:.2f}" for taken in (self.warm, self.cold))
        sizes = f"{self.page_size // 1024} KiB | {self.program} | {self.swapped / (1 << 20):.1f}"
        return f"| {sizes} | {self.zram * self.page_size:.0f} | {own} |"


def swap_out(device: Device, pid: int) -> int:
    """Returns the bytes that the process has swapped out, 99 % of its own memory."""
    for _ in range(PASSES):
        page_out(device, pid)
        facts = dict(line.split(":") for line in shell(device, f"cat /proc/{pid}/status").splitlines())
        swapped, resident = (int(facts[name].split()[0]) * 1024 for name in ("VmSwap", "RssAnon"))
        if resident * 99 <= swapped:
            return swapped
    raise LoadError(f"process {pid}: {resident} of {resident + swapped} bytes are not swapped out")


def on_zram(device: Device, pid: int) -> float:
    """Bytes of memory for one swapped out."""
    with swapload.zram(device, SIZE_MB):
        swapped = swap_out(device, pid)
        return int(shell(device, swapload.MEMORY_OF_ZRAM)) / swapped


def on_zcache(device: Device, pid: int) -> tuple[int, float, float]:
    """Bytes swapped out, and what one takes, warm and cold."""
    command = swapload.memory_of(int(zcache(device, "status")["pid"]))
    zcache(device, "swap", "on", "--size", f"{SIZE_MB}M")
    before = int(shell(device, command))
    swapped = swap_out(device, pid)
    warm = int(shell(device, command)) - before
    zcache(device, "pool", "recompress", "swap", "all")
    cold = int(shell(device, command)) - before
    zcache(device, "swap", "off")
    return swapped, warm / swapped, cold / swapped


def prove(target: str) -> Iterator[Row]:
    with boot(target, mem_mb=MB, disks=[disk_of(*PACKAGES)], root=True) as device:
        page_size = swapload.page_size(device)
        for name, pid in stopped(device, SCALES):
            zram = on_zram(device, pid)
            swapped, warm, cold = on_zcache(device, pid)
            yield Row(page_size, name, swapped, zram, warm, cold)


if __name__ == "__main__":
    sys.exit(print_table("swapcold", COLUMNS, TARGETS, prove))
