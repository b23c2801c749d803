# SPDX-License-Identifier: Apache-2.0
"""python -m tools.swapsoak [--counted] [SECONDS [LOAD…]]: swap on emulated devices, as long on their zram.

--counted: by a clock that counts instructions (docs/swap.md), for figures that neither the load of this machine nor
what is dear to QEMU alone changes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from . import swapload
from .emulator import Device, boot
from .swapload import LoadError, Run, ask, run_hog, swaps, zcache

HOG = Path("build/arm64-v8a/zc_hog")
SECONDS = 300.0
HOG_SECONDS = 1800.0
"""Of one of its runs, at most."""


@dataclass(frozen=True)
class Load:
    target: str
    mem_mb: int
    hog_mb: int
    size_mb: int
    """Of the swap device."""


LOADS = {
    "4k": Load("arm64", 256, 340, 384),
    "16k": Load("arm64-16k", 256, 280, 304),
    "4k-small": Load("arm64", 128, 120, 144),
}
"""About twice what fits beside the kernel."""


def repeat(device: Device, memory_command: str, mb: int, seconds: float) -> Run:
    """The hog, anew until the time is over; as if it had been one."""
    end = time.monotonic() + seconds
    runs = [run_hog(device, memory_command, mb, 1, HOG_SECONDS)]
    while time.monotonic() < end:
        runs.append(run_hog(device, memory_command, mb, 1, HOG_SECONDS))
    return Run(
        sum(run.seconds for run in runs),
        sum(run.pages_in for run in runs),
        sum(run.pages_out for run in runs),
        sum(run.killed for run in runs),
        max((run.watch for run in runs), key=lambda watch: watch.most_used),
    )


def soak(name: str, load: Load, seconds: float, counted: bool) -> str:
    """A line of figures; LoadError where something went wrong."""
    with boot(load.target, mem_mb=load.mem_mb, root=True, counted=counted) as device:
        swapload.push_hog(device, HOG)
        ask(device, "echo 0 > /proc/sys/vm/page-cluster")
        zcache(device, "up")
        pid = int(zcache(device, "status")["pid"])
        facts = zcache(device, "swap", "on", "--size", f"{load.size_mb}M")
        if not all(area.startswith(facts["device"]) for area in swaps(device)):
            raise LoadError(f"{name}: /proc/swaps does not list {facts['device']} alone")
        ours = repeat(device, swapload.memory_of(pid), load.hog_mb, seconds)
        least = swapload.ram_pages(device)
        if ours.killed or min(ours.pages_in, ours.pages_out) <= least:
            raise LoadError(
                f"{name}: {ours.pages_in} pages in, {ours.pages_out} out, {ours.killed} processes killed; "
                f"more than {least} pages both ways and no kill were wanted"
            )
        zcache(device, "swap", "off")
        with swapload.zram(device, load.size_mb):
            kernels = repeat(device, swapload.MEMORY_OF_ZRAM, load.hog_mb, seconds)
        slowest = f"adb's slowest answer {ours.watch.slowest:.1f} s, with zram {kernels.watch.slowest:.1f} s"
        figures = swapload.compare(ours, kernels, swapload.page_size(device))
        return f"{name}: {figures}; {slowest}; load of this machine {os.getloadavg()[2]:.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.swapsoak")
    parser.add_argument("--counted", action="store_true", help="time is what instructions take, 4 ns each")
    parser.add_argument("seconds", nargs="?", type=float, default=SECONDS, help="of each, on this machine's clock")
    parser.add_argument("loads", nargs="*", metavar="LOAD", help=", ".join(LOADS))
    asked = parser.parse_args()
    if unknown := set(asked.loads) - LOADS.keys():
        parser.error(f"no load {' '.join(sorted(unknown))}: there are {', '.join(LOADS)}")
    for name in asked.loads or LOADS:
        try:
            print(soak(name, LOADS[name], asked.seconds, asked.counted), flush=True)
        except LoadError as error:
            print(f"swapsoak: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
