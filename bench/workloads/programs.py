# SPDX-License-Identifier: Apache-2.0
"""The programs. Each grows, in a group, and then does a fixed amount of work whenever it is asked to."""

import importlib.util
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.programs import chromium, compiler, interpreters, jvm, redis, shop, video

Work = Callable[[], None]
AtWork = Callable[[Sequence[Path]], AbstractContextManager[Work]]


@dataclass(frozen=True)
class Workload:
    name: str
    kind: str
    work: str
    """What it does, for people."""
    at_work: AtWork
    needs: tuple[str, ...]
    """Programs."""
    serves: bool = True
    """It has grown when its work starts; if not, to start and to grow is the work."""
    in_files: bool = False
    """Most of its memory is page cache, so limits are of that, too."""


WORKLOADS = (
    Workload(
        "redis", "database", "2 million requests for orders, one in ten a write", redis.at_work, ("redis-check-rdb",)
    ),
    Workload(
        "sqlite",
        "database",
        "300 000 requests to a file of orders, one in ten a write",
        shop.at_work,
        (),
        in_files=True,
    ),
    Workload(
        "g++",
        "compiler",
        "one source that uses much of the standard library, -O0",
        compiler.at_work,
        ("g++",),
        serves=False,
    ),
    Workload("chromium", "browser", "4 pages, each used twice, one after the other", chromium.at_work, ("chromium",)),
    Workload("python3", "interpreter", "100 000 records through JSON and back", interpreters.python_at_work, ()),
    Workload("node", "interpreter", "600 000 pages made of records", interpreters.node_at_work, ("node",)),
    Workload("java", "interpreter", "200 000 requests, JVM with -Xmx192m", jvm.at_work, ("java",)),
    Workload("encode", "media", "150 frames of 720p to H.264, ffmpeg", video.encoding, ("ffmpeg",), serves=False),
    Workload("decode", "media", "1500 frames of 720p from H.264, ffmpeg", video.decoding, ("ffmpeg",), serves=False),
)


def refuse_missing(workloads: Sequence[Workload]) -> None:
    """One line says what is missing."""
    missing = sorted({program for one in workloads for program in one.needs if shutil.which(program) is None})
    missing += [name for name in ("mkswap", "losetup", "fio") if shutil.which(name) is None]
    if importlib.util.find_spec("sqlite3") is None:
        missing.append("sqlite3 of Python")
    if missing:
        raise BenchError(f"not here: {', '.join(missing)}; tools/system_packages bench installs them")
