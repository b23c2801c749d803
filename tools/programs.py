# SPDX-License-Identifier: Apache-2.0
"""Real programs on an emulated device, for the proofs: of Debian's arm64 packages, stopped with their memory grown."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from zcache_agent.errors import ZcacheError
from zcache_agent.transport import open_transport
from zcache_agent.transport.base import ByteStream, Completed, Transport
from zcache_agent.workloads import available, running

from . import swapload
from .emulator import Device, EmulatorError

PROGRAMS = {"sqlite": 6, "cc1": 2, "python3": 8}
"""Of the demo's workloads; how much each is to hold."""
PACKAGES = ("python3-minimal", "libpython3-stdlib", "gcc", "libc6-dev", "coreutils", "findutils")
ROOT = "/data/debian"
MOST = 1 << 18  # pages
MB = 640
SECONDS = 1800.0

_MOUNT = f"""
mkdir -p {ROOT} && mount -t ext4 /dev/vda {ROOT} && mount -t proc none {ROOT}/proc && mount --bind /dev {ROOT}/dev &&
ln -sf /proc/self/fd /dev/fd && ln -sf /proc/self/fd/0 /dev/stdin
"""

# Runs on the device. Resident anonymous pages, as `zcached sample` chooses them: present, not of a file, not shared.
_COPY = """
import os, struct, sys
pid, page = sys.argv[1], os.sysconf("SC_PAGESIZE")
maps = open(f"/proc/{pid}/maps").read().splitlines()
pagemap, memory = open(f"/proc/{pid}/pagemap", "rb"), open(f"/proc/{pid}/mem", "rb")
copy = open(sys.argv[2], "wb")
for line in maps:
    span, _, *rest = line.split()
    start, end = (int(part, 16) for part in span.split("-"))
    if rest[-1] in ("[vvar]", "[vvar_vclock]", "[vsyscall]", "[vdso]"):
        continue
    pagemap.seek(start // page * 8)
    entries = struct.unpack(f"<{(end - start) // page}Q", pagemap.read((end - start) // page * 8))
    for number, entry in enumerate(entries):
        if entry >> 63 & 1 and not entry >> 61 & 1:
            memory.seek(start + number * page)
            copy.write(memory.read(page))
copy.flush()
os.fsync(copy.fileno())
"""

# Runs on the device: process_madvise(2) with MADV_PAGEOUT over all that a process may write and shares with nobody.
_PAGE_OUT = """
import ctypes, sys
class Range(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("size", ctypes.c_size_t)]
pid, syscall = int(sys.argv[1]), ctypes.CDLL(None).syscall
process = syscall(434, pid, 0)
for line in open(f"/proc/{pid}/maps"):
    span, rights = line.split()[:2]
    start, end = (int(part, 16) for part in span.split("-"))
    if rights[1] == "w" and rights[3] == "p":
        syscall(440, process, ctypes.byref(Range(start, end - start)), 1, 21, 0)
"""


@dataclass
class _Chroot:
    """A transport whose commands run in the packages' tree."""

    below: Transport
    is_local: bool = False

    def run(self, argv: Sequence[str], *, timeout: float | None = None) -> Completed:
        return self.below.run(["chroot", ROOT, *argv], timeout=timeout)

    def open_command(self, argv: Sequence[str]) -> ByteStream:
        return self.below.open_command(["chroot", ROOT, *argv])


def zcache(device: Device, *words: object) -> Any:  # noqa: ANN401 (whatever the document is)
    return swapload.zcache(device, *words, "--timeout", 300, timeout=SECONDS)


def shell(device: Device, command: str) -> str:
    return swapload.ask(device, command.strip(), SECONDS)


def run_python(device: Device, program: str, *words: object) -> str:
    """Of the packages' Python, whose tree has the device's /dev and /proc."""
    return shell(device, f"chroot {ROOT} python3 -c '{program}' {' '.join(map(str, words))}")


def copy_pages(device: Device, pid: int, target: str) -> None:
    """All that a process holds into a file or device."""
    run_python(device, _COPY, pid, target)


def page_out(device: Device, pid: int) -> None:
    """As much of what a process holds as the kernel swaps out at one time."""
    run_python(device, _PAGE_OUT, pid)


def stopped(device: Device, programs: Mapping[str, int] = PROGRAMS) -> Iterator[tuple[str, int]]:
    """Names and process ids, one after the other, on a device whose first disk has PACKAGES; zcached is up there."""
    os.environ.update(device.env)
    shell(device, _MOUNT)
    zcache(device, "up")
    transport = cast(Transport, _Chroot(open_transport(device.serial, SECONDS)))
    there = {workload.name: workload for workload in available(transport)}
    for name, scale in programs.items():
        if name not in there:
            raise EmulatorError(f"{name}: its programs are not on the disk")
        with running(transport, there[name], scale) as pid:
            shell(device, f"kill -STOP {pid}")
            yield name, pid
            shell(device, f"kill -CONT {pid}")


class Row(Protocol):
    def text(self) -> str: ...


def error_text(predicted: float, stored: int) -> str:
    """Of bytes, both: cells of a table."""
    error = 100 * (predicted / stored - 1)
    return f"{predicted / 1024:.0f} | {stored / 1024:.0f} | {error:+.1f} %"


def print_table(name: str, columns: str, targets: Sequence[str], prove: Callable[[str], Iterator[Row]]) -> int:
    """All that tools/`name` does: a row as soon as it is there, of each target its words name, else of `targets`.

    `columns`: the heading's lines.
    """
    parser = argparse.ArgumentParser(prog=f"python -m tools.{name}")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of the emulator's; else {', '.join(targets)}")
    asked = parser.parse_args().targets
    print(columns)
    try:
        for target in asked or targets:
            for row in prove(target):
                print(row.text(), flush=True)
    except (EmulatorError, swapload.LoadError, ZcacheError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0
