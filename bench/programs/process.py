# SPDX-License-Identifier: Apache-2.0
"""Processes that are started here, and end here."""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.errors import BenchError

GROW_S = 180
"""What a program has to grow its memory."""
END_S = 20


@contextmanager
def started(
    command: Sequence[str],
    executable: str | None = None,
    output: int = subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """The process, with a pipe as stdin; stdout and stderr go to `output`. It is ended with the block."""
    try:
        process = subprocess.Popen(
            command,
            executable=executable,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            text=True,
        )
    except FileNotFoundError as error:
        raise BenchError(f"{command[0]}: not found; tools/system_packages bench installs it") from error
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with suppress(BrokenPipeError):  # it ended before it had read all
            if process.stdin:
                process.stdin.close()
        if process.stdout:
            process.stdout.close()


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *descendants(child)]
    return found


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
