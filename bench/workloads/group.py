# SPDX-License-Identifier: Apache-2.0
"""A control group that a program runs in: what it uses, and the most that it may. Both versions of cgroups will do."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench import flash
from bench.errors import BenchError

END_S = 30
CONTROLLERS = ("memory", "cpuacct", "blkio")
"""Of version 1, each of which may be a hierarchy of its own; in version 2 they are memory, cpu and io."""


@dataclass(frozen=True)
class Use:
    """At one moment, in bytes and seconds; faults since the group was made."""

    anonymous: int
    """In memory and in swap."""
    swapped: int
    files: int
    """Pages of files that the program was the first to read."""
    major_faults: int
    cpu: float


@dataclass(frozen=True)
class Group:
    directories: dict[str, Path]
    """Controller → the group's directory there."""
    unified: bool
    """Version 2."""

    @property
    def joined(self) -> list[Path]:
        return list(dict.fromkeys(self.directories.values()))

    def limit(self, size: int, *, swap: bool) -> None:
        """Anonymous and file pages come to no more; what does not fit is swapped, or ends with the OOM killer."""
        memory = self.directories["memory"]
        if self.unified:
            (memory / "memory.max").write_text(str(size))
            (memory / "memory.swap.max").write_text("max" if swap else "0")
            return
        (memory / "memory.limit_in_bytes").write_text(str(size))
        if not swap:
            with suppress(FileNotFoundError):  # no accounting of swap here; then there is no swap either
                (memory / "memory.memsw.limit_in_bytes").write_text(str(size))

    def slow_reads(self, device: str, rate: int) -> None:
        """Of the disk MAJOR:MINOR it reads at most so many bytes a second."""
        blkio = self.directories["blkio"]
        if self.unified:
            (blkio / "io.max").write_text(f"{device} rbps={rate}")
        else:
            (blkio / "blkio.throttle.read_bps_device").write_text(f"{device} {rate}")

    def use(self) -> Use:
        memory = self.directories["memory"]
        facts = _table(memory / "memory.stat")
        if self.unified:
            swapped = int((memory / "memory.swap.current").read_text())
            cpu = _table(self.directories["cpuacct"] / "cpu.stat")["usage_usec"] / 1e6
            names = ("anon", "file")
        else:
            swapped = facts.get("swap", 0)
            cpu = int((self.directories["cpuacct"] / "cpuacct.usage").read_text()) / 1e9
            names = ("rss", "cache")
        anonymous, files = (facts[name] for name in names)
        return Use(anonymous + swapped, swapped, files, facts["pgmajfault"], cpu)

    def killed(self) -> bool:
        """By the OOM killer, one of its processes."""
        name = "memory.events" if self.unified else "memory.oom_control"
        return _table(self.directories["memory"] / name).get("oom_kill", 0) > 0

    def pids(self) -> list[int]:
        return [int(pid) for pid in (self.directories["memory"] / "cgroup.procs").read_text().split()]

    def end(self) -> None:
        """No process is left in it."""
        deadline = time.monotonic() + END_S
        while pids := self.pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise BenchError(f"{self.directories['memory']}: processes {pids} do not end")
            time.sleep(0.02)


@contextmanager
def group() -> Iterator[Group]:
    """A new one; what is still in it ends with the block."""
    hierarchies, unified = found(flash.MOUNTS.read_text())
    directories = {name: root / f"zcache-bench-{os.getpid()}" for name, root in hierarchies.items()}
    new = Group(directories, unified)
    try:
        for directory in new.joined:
            directory.mkdir(exist_ok=True)
        yield new
    except PermissionError as error:
        raise BenchError(f"{error.filename}: {error.strerror}; control groups need root") from error
    finally:
        if directories["memory"].exists():
            new.end()
        for directory in new.joined:
            with suppress(FileNotFoundError):
                _remove(directory)


def found(mounts: str) -> tuple[dict[str, Path], bool]:
    """From /proc/mounts: the roots of CONTROLLERS, and whether they are of version 2."""
    roots: dict[str, Path] = {}
    for mount in mounts.splitlines():
        _, where, kind, options, *_ = mount.split()
        if kind == "cgroup":
            roots |= {name: Path(where) for name in CONTROLLERS if name in options.split(",")}
        elif kind == "cgroup2" and {"memory", "io", "cpu"} <= set(
            (Path(where) / "cgroup.subtree_control").read_text().split()
        ):
            return dict.fromkeys(CONTROLLERS, Path(where)), True
    if set(roots) == set(CONTROLLERS):
        return roots, False
    raise BenchError(
        "no cgroup limits memory here: mount memory, cpuacct and blkio (version 1), "
        "or enable memory, cpu and io (version 2)"
    )


def _remove(directory: Path) -> None:
    deadline = time.monotonic() + END_S
    while True:
        try:
            directory.rmdir()
        except OSError:  # the last of it is ending
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _table(path: Path) -> dict[str, int]:
    rows = (line.split() for line in path.read_text().splitlines())
    return {name: int(value) for name, value in rows}
