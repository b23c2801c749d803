# SPDX-License-Identifier: Apache-2.0
"""A zram device of the kernel's, for as long as it is needed."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.errors import BenchError

CONTROL = Path("/sys/class/zram-control")
BLOCK = Path("/sys/block")


@contextmanager
def device(algorithm: str, size: int) -> Iterator[Path]:
    """An empty device of `size` bytes that compresses so; it is gone with the block."""
    try:
        number = (CONTROL / "hot_add").read_text().strip()
    except OSError as error:
        raise BenchError(f"{CONTROL}/hot_add: {error.strerror}; load the module zram, and be root") from error
    settings = BLOCK / f"zram{number}"
    try:
        offered = algorithms((settings / "comp_algorithm").read_text())
        if algorithm not in offered:
            raise BenchError(f"zram: {algorithm}: not in this kernel, which has {', '.join(offered)}")
        (settings / "comp_algorithm").write_text(algorithm)
        (settings / "disksize").write_text(str(size))
        with _node(settings) as node:
            yield node
    finally:
        with suppress(OSError):  # not set up yet
            (settings / "reset").write_text("1")
        (CONTROL / "hot_remove").write_text(number)


def algorithms(text: str) -> list[str]:
    """From comp_algorithm: "lzo-rle [lz4] zstd"."""
    return [word.strip("[]") for word in text.split()]


@contextmanager
def _node(settings: Path) -> Iterator[Path]:
    """The device's file: the one in /dev, or one of its own where there is none."""
    major, minor = map(int, (settings / "dev").read_text().split(":"))
    node = Path("/dev") / settings.name
    if node.exists() and node.stat().st_rdev == os.makedev(major, minor):
        yield node
        return
    with tempfile.TemporaryDirectory() as directory:
        node = Path(directory) / settings.name
        os.mknod(node, 0o600 | 0o060000, os.makedev(major, minor))
        yield node


@contextmanager
def swap(size: int) -> Iterator[Path]:
    """A device with lz4 of `size` bytes that the kernel swaps to, page by page, before any other."""
    cluster = Path("/proc/sys/vm/page-cluster")
    before = cluster.read_text()
    with device("lz4", size) as node:
        for command in (["mkswap", "--quiet", str(node)], ["swapon", "--priority", "32767", str(node)]):
            run(command)
        try:
            cluster.write_text("0")
            yield node
        finally:
            cluster.write_text(before)
            run(["swapoff", str(node)])


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(command)}: {done.stderr.strip()}")
