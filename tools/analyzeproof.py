# SPDX-License-Identifier: Apache-2.0
"""python -m tools.analyzeproof [TARGET…]: what `zcache analyze` predicts of real programs on an emulated device.

A database, a compiler and an interpreter of Debian's arm64 packages, each stopped with its memory grown: analyzed, put
into pools, and written page by page to the kernel's zram. Prints a table for docs/analyze.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from .emulator import Device, boot
from .emulator.image import disk_of
from .programs import MB, MOST, PACKAGES, copy_pages, error_text, print_table, shell, stopped, zcache

TARGETS = ("arm64-root", "arm64-16k")
CODECS = {"lz4": "lz4", "zstd:3": "zstd"}
"""As zcache and as zram name them."""
ALLOCATORS = ("zbud", "zsmalloc")
COLUMNS = """\
| target | program | pages | codec | in | predicted, KiB | stored, KiB | error |
| --- | --- | --: | --- | --- | --: | --: | --: |"""


@dataclass(frozen=True)
class Row:
    target: str
    program: str
    pages: int
    codec: str
    place: str
    predicted: int
    stored: int
    """Bytes, both."""

    def text(self) -> str:
        return (
            f"| {self.target} | {self.program} | {self.pages} | {self.codec} | {self.place} "
            f"| {error_text(self.predicted, self.stored)} |"
        )


def rows_of(device: Device, program: str, pid: int) -> Iterator[Row]:
    codecs = [word for codec in CODECS for word in ("--codec", codec)]
    facts = zcache(device, "analyze", "--pid", pid, "--pages", MOST, "--seconds", 300, "--cpu", 100, *codecs)
    pages = facts["total"]["pages"]
    predicted = {codec["spec"]: codec for codec in facts["total"]["codecs"]}
    for codec, algorithm in CODECS.items():
        for allocator in ALLOCATORS:
            stored = in_pool(device, pid, allocator, codec)
            used = predicted[codec][allocator]["used_bytes"]
            yield Row(device.target, program, pages, codec, allocator, used, stored)
        stored = in_zram(device, pid, algorithm)
        yield Row(device.target, program, pages, codec, "zram", predicted[codec]["zram"]["used_bytes"], stored)


def in_pool(device: Device, pid: int, allocator: str, codec: str) -> int:
    zcache(device, "pool", "create", "proof", "--allocator", allocator, "--codec", codec)
    stored: int = zcache(device, "replay", "--pid", pid, "--pool", "proof", "--keep")["used_bytes"]
    zcache(device, "pool", "destroy", "proof")
    return stored


def in_zram(device: Device, pid: int, algorithm: str) -> int:
    """mem_used_total of a device that has this process's pages and no other."""
    shell(device, f"cd /sys/block/zram0; echo 1 >reset; echo {algorithm} >comp_algorithm; echo 256M >disksize")
    copy_pages(device, pid, "/dev/zram0")
    used = int(shell(device, "cat /sys/block/zram0/mm_stat").split()[2])
    shell(device, "echo 1 >/sys/block/zram0/reset")
    return used


def prove(target: str) -> Iterator[Row]:
    with boot(target, mem_mb=MB, disks=[disk_of(*PACKAGES)], root=True) as device:
        for name, pid in stopped(device):
            yield from rows_of(device, name, pid)


if __name__ == "__main__":
    sys.exit(print_table("analyzeproof", COLUMNS, TARGETS, prove))
