# SPDX-License-Identifier: Apache-2.0
"""A compiler: cc1plus in the middle of writing the code for a source that uses much of the standard library."""

import fcntl
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.errors import BenchError

from .process import GROW_S, descendants, started, whole_run

SOURCE = Path(__file__).with_name("library.cpp")


@contextmanager
def running() -> Iterator[list[int]]:
    # It stops where the pipe is full, at the same place every time: when all was read, and some was compiled.
    command = ["g++", "-S", "-std=c++17", "-O2", "-pipe", "-o", "-", str(SOURCE)]
    with started(command, output=subprocess.PIPE) as process:
        _wait_until_full(process)
        yield descendants(process.pid)


@contextmanager
def at_work(groups: Sequence[Path]) -> Iterator[Callable[[], None]]:
    with whole_run(["g++", "-S", "-std=c++17", "-o", "/dev/null", str(SOURCE)], groups) as work:
        yield work


def _wait_until_full(process: subprocess.Popen[str]) -> None:
    assert process.stdout
    deadline = time.monotonic() + GROW_S
    size = fcntl.fcntl(process.stdout, fcntl.F_GETPIPE_SZ)
    while int.from_bytes(fcntl.ioctl(process.stdout, termios.FIONREAD, bytes(4)), "little") < size:
        if process.poll() is not None:
            raise BenchError(f"g++: ended before it was half done: {process.stdout.readline().strip()}")
        if time.monotonic() > deadline:
            raise BenchError(f"g++: not half done after {GROW_S} s")
        time.sleep(0.05)
