# SPDX-License-Identifier: Apache-2.0
"""A JVM: a service that keeps orders, an index of texts and documents, with the garbage of its work."""

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .process import answering, started, tell, wait_for_line
from .prose import lines

SOURCE = Path(__file__).with_name("Service.java")
HEAP_MB = 192
COMMAND = ("java", f"-Xmx{HEAP_MB}m", str(SOURCE))
REQUESTS = 200_000


@contextmanager
def running() -> Iterator[list[int]]:
    with started(COMMAND, output=subprocess.PIPE) as process:
        tell(process, "\n".join([*lines(), "", ""]))
        wait_for_line(process, "ready")
        yield [process.pid]


@contextmanager
def at_work(groups: Sequence[Path]) -> Iterator[Callable[[], None]]:
    with answering(COMMAND, REQUESTS, lines(), groups) as work:
        yield work
