# SPDX-License-Identifier: Apache-2.0
"""python -m tools.simproof [TARGET…]: µs of a put and a get as `zcache simulate` says, against live pools.

On an emulated device whose clock counts instructions, with a database, a compiler and an interpreter of Debian's. All
pages of each go into pools and come back, recorded; each record is simulated as it is and by zstd:3, and held against a
run of such a pool that nobody records. Prints a table for docs/simulate.md.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zcache_agent.recording import Recording
from zcache_agent.simulate import Settings, simulate

from .emulator import Device, boot
from .emulator.image import disk_of
from .programs import MB, PACKAGES, print_table, stopped, zcache
from .swapload import ZCACHE

TARGETS = ("arm64",)
POOLS = tuple(itertools.product(("persistent", "ephemeral"), ("lz4", "zstd:3")))
OTHER = "zstd:3"
EVERY = 16
"""Pages of which one is tried by other codecs."""
COLUMNS = """\
| program | pool | recorded | simulated | put, simulated | live | | get, simulated | live | |
| --- | --- | --- | --- | --: | --: | --: | --: | --: | --: |"""


@dataclass(frozen=True)
class Row:
    program: str
    kind: str
    recorded: str
    simulated: str
    put: tuple[float, float]
    get: tuple[float, float]
    """µs, simulated and live."""

    def text(self) -> str:
        cells = [f"{own:.0f} | {live:.0f} | {100 * (own / live - 1):+.1f} %" for own, live in (self.put, self.get)]
        return f"| {self.program} | {self.kind} | {self.recorded} | {self.simulated} | {' | '.join(cells)} |"


def replay(device: Device, pool: str, pid: int) -> tuple[float, float]:
    """µs of a put and of a get."""
    report = zcache(device, "replay", "--pid", pid, "--pool", pool)
    return report["put_us"], report["get_us"]


def record(device: Device, pool: str, pid: int, path: Path) -> Recording:
    with subprocess.Popen(
        [ZCACHE, "-s", device.serial, "record", pool, str(path), "--every", str(EVERY)],
        env=os.environ | device.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as recorder:
        assert recorder.stderr
        recorder.stderr.readline()  # it records
        replay(device, pool, pid)
        time.sleep(2)
        recorder.send_signal(signal.SIGINT)
        recorder.communicate()
    return Recording.load(path)


def rows_of(device: Device, name: str, pid: int, directory: Path) -> Iterator[Row]:
    live, recordings = {}, {}
    for number, (kind, codec) in enumerate(POOLS):
        pool = f"p{number}"
        zcache(device, "pool", "create", pool, "--kind", kind, "--codec", codec, "--allocator", "zsmalloc")
        recordings[kind, codec] = record(device, pool, pid, directory / f"{name}-{pool}.zcrec")
        live[kind, codec] = replay(device, pool, pid)
        zcache(device, "pool", "destroy", pool)
    for (kind, codec), recording in recordings.items():
        for other in dict.fromkeys((codec, OTHER)):
            cpu = simulate(recording, Settings({"codec": other})).cpu
            put, get = live[kind, other]
            yield Row(name, kind, codec, other, (cpu.put_us or 0, put), (cpu.get_us or 0, get))


def prove(target: str) -> Iterator[Row]:
    with (
        tempfile.TemporaryDirectory() as directory,
        boot(target, mem_mb=MB, disks=[disk_of(*PACKAGES)], root=True, counted=True) as device,
    ):
        for name, pid in stopped(device):
            yield from rows_of(device, name, pid, Path(directory))


if __name__ == "__main__":
    sys.exit(print_table("simproof", COLUMNS, TARGETS, prove))
