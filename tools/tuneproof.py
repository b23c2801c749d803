# SPDX-License-Identifier: Apache-2.0
"""python -m tools.tuneproof [TARGET…]: what `zcache tune` predicts and recommends for zram and zswap, on a kernel.

A database, a compiler and an interpreter of Debian's arm64 packages on an emulated device, each stopped with its memory
grown. Tuned is what it holds, on this machine, as an emulated processor's times are none. Then what is recommended, and
what the frontier has besides, is applied there (`zcache config apply`), and the pages go where it is for: into the zram
device, or out of the process through zswap. Prints a table for docs/tune.md.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import swapload
from .emulator import Device, boot
from .emulator.image import disk_of
from .programs import (
    MB,
    MOST,
    PACKAGES,
    SECONDS,
    copy_pages,
    error_text,
    page_out,
    print_table,
    shell,
    stopped,
    zcache,
)

TARGETS = ("arm64-16k",)
"""Whose kernel has zswap."""
GOAL = "density"
SWAP_MB = 192
DUMP = "/dev/pages"
"""In the device's memory."""
COLUMNS = """\
| target | program | for | pages | | | predicted, KiB | taken, KiB | error |
| --- | --- | --- | --: | --- | --- | --: | --: | --: |"""


@dataclass(frozen=True)
class Row:
    target: str
    program: str
    place: str
    pages: int
    setting: str
    role: str
    predicted: float
    stored: int
    """Bytes of memory, both."""

    def text(self) -> str:
        return (
            f"| {self.target} | {self.program} | {self.place} | {self.pages} | {self.setting} | {self.role} "
            f"| {error_text(self.predicted, self.stored)} |"
        )


@dataclass(frozen=True)
class Program:
    device: Device
    name: str
    pid: int
    dump: Path
    """All pages that it holds, here."""
    page_size: int

    def tuned(self, place: str, save: Path) -> dict[str, Any]:
        words = ("--goal", GOAL, "--page-size", self.page_size, "--pages", MOST, "--save", save)
        facts: dict[str, Any] = zcache(self.device, "tune", self.dump, "--for", place, *words)
        return facts


def settings_of(facts: dict[str, Any], key: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Points of the frontier, one for each algorithm, and what they are; the recommended one first."""
    seen = set()
    for role in ("recommended", "defaults", ""):
        for point in [facts[role]] if role else facts["points"]:
            if point["settings"][key] not in seen:
                seen.add(point["settings"][key])
                is_both = role == "recommended" and facts["keeps_defaults"]
                yield point, "defaults, kept" if is_both else role


def zram_rows(program: Program) -> Iterator[Row]:
    device, saved = program.device, program.dump.with_suffix(".zram")
    facts = program.tuned("zram", saved)
    for point, role in settings_of(facts, "algorithm"):
        algorithm = point["settings"]["algorithm"]
        file = saved
        if not point["recommended"]:
            file = program.dump.with_suffix(".other")
            file.write_text(f'[kernel.zram]\nalgorithm = "{algorithm}"\ndisksize = "256M"\nmem_limit = 0\n')
        zcache(device, "config", "apply", file)
        shell(device, f"dd if={DUMP} of=/dev/zram0 bs=65536 conv=fsync 2>/dev/null")
        used = int(shell(device, "cat /sys/block/zram0/mm_stat").split()[2])
        shell(device, "echo 1 >/sys/block/zram0/reset")
        predicted = point["memory_bytes"]["value"]
        yield Row(device.target, program.name, "zram", facts["pages"], algorithm, role, predicted, used)


def zswap_rows(program: Program) -> Iterator[Row]:
    device, pid, saved = program.device, program.pid, program.dump.with_suffix(".zswap")
    facts = program.tuned("zswap", saved)
    for point, role in settings_of(facts, "compressor"):
        compressor = point["settings"]["compressor"]
        file = program.dump.with_suffix(".other")
        more = f'[kernel.zswap]\ncompressor = "{compressor}"\n'
        text = saved.read_text() if point["recommended"] else more
        file.write_text(text.replace("[kernel.zswap]\n", "[kernel.zswap]\nenabled = true\n"))
        zcache(device, "config", "apply", file)
        shell(device, "mkswap /dev/vdb >/dev/null && swapon /dev/vdb")
        page_out(device, pid)
        held = shell(device, "awk '/^Zswap(ped)?:/ { print $2 }' /proc/meminfo").split()
        used, swapped = (1024 * int(kib) for kib in held)  # of others' pages, too, which may go along
        shell(device, "swapoff /dev/vdb; echo N >/sys/module/zswap/parameters/enabled")
        pages = swapped // facts["page_size"]
        predicted = point["memory_bytes"]["value"] * pages / facts["pages"]
        yield Row(device.target, program.name, "zswap", pages, compressor, role, predicted, used)


def rows_of(device: Device, name: str, pid: int, directory: Path) -> Iterator[Row]:
    copy_pages(device, pid, DUMP)
    program = Program(device, name, pid, directory / name, swapload.page_size(device))
    program.dump.write_bytes(device.pull(DUMP, SECONDS))
    yield from zram_rows(program)
    shell(device, f"rm {DUMP}")
    if "zswap" in shell(device, "ls /sys/module").split():
        yield from zswap_rows(program)


def prove(target: str) -> Iterator[Row]:
    with (
        tempfile.TemporaryDirectory() as directory,
        boot(target, mem_mb=MB, disks=[disk_of(*PACKAGES), SWAP_MB], root=True) as device,
    ):
        for name, pid in stopped(device):
            yield from rows_of(device, name, pid, Path(directory))


if __name__ == "__main__":
    sys.exit(print_table("tuneproof", COLUMNS, TARGETS, prove))
