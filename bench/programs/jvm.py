# SPDX-License-Identifier: Apache-2.0
"""A JVM: a service that keeps orders, an index of texts and documents, with the garbage of its work."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.errors import BenchError

from .process import GROW_S, started
from .prose import articles

SOURCE = Path(__file__).with_name("Service.java")
HEAP_MB = 192


@contextmanager
def running() -> Iterator[list[int]]:
    texts = [" ".join(paragraph.split()) for paragraphs in articles().values() for paragraph in paragraphs]
    command = ["java", f"-Xmx{HEAP_MB}m", str(SOURCE)]
    with started(command, output=subprocess.PIPE) as process:
        assert process.stdin
        with suppress(BrokenPipeError):  # it has ended: why, it said
            process.stdin.write("\n".join([*texts, "", ""]))
            process.stdin.flush()
        _wait_until_ready(process)
        yield [process.pid]


def _wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout
    said = ""
    watchdog = threading.Timer(GROW_S, process.kill)
    watchdog.start()
    try:
        for line in process.stdout:
            if line.startswith("ready"):
                return
            said = line.strip() or said
    finally:
        watchdog.cancel()
    raise BenchError(f"java: ended, or was ended after {GROW_S} s, before it was ready: {said}")
