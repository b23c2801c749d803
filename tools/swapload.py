# SPDX-License-Identifier: Apache-2.0
"""More memory than an emulated device has: zc_hog on it, what it swaps, and whether the device answers meanwhile."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from .emulator import Device

ZCACHE = str(Path(sys.executable).with_name("zcache"))
"""The agent of this tree."""
HOG = "/tmp/zc_hog"  # noqa: S108 (on the device)
ZRAM = "/sys/block/zram0"
_ANSWER_SECONDS = 120.0
_COUNTERS = ("pswpin", "pswpout", "oom_kill")


class LoadError(Exception):
    """What went wrong on the device."""


def ask(device: Device, command: str, timeout: float = _ANSWER_SECONDS) -> str:
    done = device.shell(command, timeout)
    if done.exit_code != 0:
        raise LoadError(f"{command}: {done.exit_code}: {done.output.strip()[-300:]}")
    return done.output


def zcache(device: Device, *words: object, timeout: float = 600) -> Any:  # noqa: ANN401 (whatever the document is)
    """What the agent of this tree says, which is one document or nothing."""
    command = [ZCACHE, "-s", device.serial, "--json", *map(str, words)]
    done = subprocess.run(
        command, env=os.environ | device.env, capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode != 0:
        raise LoadError(f"zcache {' '.join(map(str, words))}: {done.stderr.strip()}")
    return json.loads(done.stdout) if done.stdout else None


def counters(device: Device) -> dict[str, int]:
    """Of the kernel: pages swapped in and out, processes killed for want of memory."""
    words = dict(line.split() for line in ask(device, "cat /proc/vmstat").splitlines())
    return {name: int(words[name]) for name in _COUNTERS}


def swaps(device: Device) -> dict[str, int]:
    """The areas of /proc/swaps, and the KiB used of each."""
    return _areas(ask(device, "cat /proc/swaps").splitlines())


def _areas(lines: list[str]) -> dict[str, int]:
    return {words[0]: int(words[3]) for words in (line.split() for line in lines[1:])}


def ram_pages(device: Device) -> int:
    """MemTotal, in pages of the device."""
    found = re.search(r"MemTotal:\s+(\d+) kB", ask(device, "cat /proc/meminfo"))
    assert found
    return int(found[1]) * 1024 // page_size(device)


def page_size(device: Device) -> int:
    found = re.search(r"KernelPageSize:\s+(\d+) kB", ask(device, "cat /proc/self/smaps"))
    assert found
    return int(found[1]) * 1024


def push_hog(device: Device, program: Path) -> None:
    device.push(program, HOG)


@dataclass
class Watch:
    """Asks the device again and again, as a user at `adb shell` would, what its swapped pages take."""

    device: Device
    command: str
    """Prints that in bytes, and starts no program: under load that may take seconds, in which more is swapped out."""
    answers: int = 0
    slowest: float = 0
    """Seconds to an answer."""
    most_used: int = 0
    """Bytes swapped out, the most that was seen."""
    memory: int = 0
    """Bytes taken at that moment."""
    failed: str = ""
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        assert self._thread
        self._thread.join()

    def _run(self) -> None:
        while not self.failed and not self._ended.wait(1):
            start = time.monotonic()
            try:
                first, *lines = ask(self.device, f"{self.command}; {_READ_SWAPS}").splitlines()
                memory, used = int(first), sum(_areas(lines).values()) * 1024
            except Exception as error:  # whatever it is, the device did not answer
                self.failed = f"{type(error).__name__}: {error}"
                return
            self.answers += 1
            self.slowest = max(self.slowest, time.monotonic() - start)
            if used > self.most_used:
                self.most_used, self.memory = used, memory


_READ_SWAPS = 'while read -r line; do echo "$line"; done </proc/swaps'


def memory_of(pid: int) -> str:
    """The command of a Watch: what a process takes."""
    return f"while read -r name kib rest; do [ $name != VmRSS: ] || echo $((kib * 1024)); done </proc/{pid}/status"


MEMORY_OF_ZRAM = f"read -r stored compressed taken rest <{ZRAM}/mm_stat; echo $taken"


@dataclass(frozen=True)
class Run:
    """Of zc_hog, and of the kernel meanwhile."""

    seconds: float
    pages_in: int
    pages_out: int
    killed: int
    """Processes, by the OOM killer."""
    watch: Watch

    @property
    def rate(self) -> float:
        """Pages a second, in and out."""
        return (self.pages_in + self.pages_out) / self.seconds

    def per_page(self, page_size: int) -> float:
        """Bytes of memory that a swapped page takes."""
        return self.watch.memory / (self.watch.most_used / page_size)


def hog(mb: int, rounds: float) -> str:
    """The command. Should memory not do, it is the one to be killed."""
    return f"(echo 1000 > /proc/self/oom_score_adj; exec {HOG} {mb} {rounds})"


def run_hog(device: Device, memory_command: str, mb: int, rounds: float, timeout: float) -> Run:
    """Fails unless it found every byte as it should be, and the device answered all the time."""
    before = counters(device)
    with Watch(device, memory_command) as watch:
        said = ask(device, hog(mb, rounds), timeout)
    found = re.search(r"ok pages=\d+ visits=\d+ ms=(\d+)", said)
    if not found:
        raise LoadError(f"zc_hog: {said.strip()[-300:]}")
    if watch.failed or not watch.answers:
        raise LoadError(f"the device did not answer under load: {watch.failed or 'no answer in time'}")
    after = counters(device)
    change = {name: after[name] - before[name] for name in _COUNTERS}
    return Run(int(found[1]) / 1000, change["pswpin"], change["pswpout"], change["oom_kill"], watch)


@contextmanager
def zram(device: Device, mb: int, codec: str = "lz4") -> Iterator[None]:
    """The kernel's own, as the device's only swap."""
    ask(device, f"echo {codec} > {ZRAM}/comp_algorithm && echo {mb}M > {ZRAM}/disksize && mkswap /dev/zram0")
    ask(device, "swapon /dev/zram0")
    try:
        yield
    finally:
        ask(device, f"swapoff /dev/zram0 && echo 1 > {ZRAM}/reset", 600)


def compare(ours: Run, kernels: Run, page_size: int) -> str:
    """A line for people."""
    share = ours.per_page(page_size) / kernels.per_page(page_size)
    return (
        f"zcache {ours.rate:.0f} pages/s ({ours.pages_out} out, {ours.pages_in} in, {ours.seconds:.0f} s), "
        f"{ours.per_page(page_size):.0f} bytes a page; zram {kernels.rate:.0f} pages/s ({kernels.pages_out} out, "
        f"{kernels.pages_in} in, {kernels.seconds:.0f} s), {kernels.per_page(page_size):.0f} bytes a page; "
        f"pages/s {ours.rate / kernels.rate:.2f} of zram's (aim 0.5), memory {share:.2f} (aim 1.1)"
    )
