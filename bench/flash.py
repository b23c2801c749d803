# SPDX-License-Identifier: Apache-2.0
"""This machine's disk, written no faster than flash is: by the kernel's limits on block I/O."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.errors import BenchError

MOUNTS = Path("/proc/mounts")


class Limit(NamedTuple):
    """How a hierarchy of cgroups says it: the file, and what it takes."""

    file: str
    line: str


VERSIONS = {
    "cgroup": Limit("blkio.throttle.write_bps_device", "{device} {rate}"),
    "cgroup2": Limit("io.max", "{device} wbps={rate}"),
}


@contextmanager
def slow_as(rate: int, file: Path) -> Iterator[None]:
    """This process and what it starts write to the disk that `file` is on at most `rate` bytes a second."""
    root, limit = hierarchy()
    group = root / f"zcache-bench-{os.getpid()}"
    try:
        group.mkdir()
        try:
            (group / limit.file).write_text(limit.line.format(device=disk(file), rate=rate))
            (group / "cgroup.procs").write_text("0")
            yield
        finally:
            (root / "cgroup.procs").write_text("0")
            group.rmdir()
    except OSError as error:
        raise BenchError(f"{error.filename or group}: {error.strerror}; limits on block I/O need root") from error


def hierarchy() -> tuple[Path, Limit]:
    """Where groups with limits on block I/O are made: our own place in version 2, or the root of version 1."""
    for mount in MOUNTS.read_text().splitlines():
        _, where, kind, options, *_ = mount.split()
        if kind == "cgroup" and "blkio" in options.split(","):
            return Path(where), VERSIONS[kind]
        if kind == "cgroup2" and "io" in (Path(where) / "cgroup.subtree_control").read_text().split():
            return Path(where), VERSIONS[kind]
    raise BenchError("no cgroup limits block I/O here: mount blkio (version 1), or enable io (version 2)")


def disk(file: Path) -> str:
    """MAJOR:MINOR of the whole disk, which is what limits are set for."""
    device = file.parent.stat().st_dev
    own = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    return ((own.parent if (own / "partition").exists() else own) / "dev").read_text().strip()
