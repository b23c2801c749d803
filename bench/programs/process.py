# SPDX-License-Identifier: Apache-2.0
"""Processes that are started here, and end here."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.errors import BenchError

GROW_S = 180
"""What a program has to grow its memory."""
END_S = 20

_JOIN = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit; shift; done; shift; exec -a "$0" "$@"'


@contextmanager
def started(
    command: Sequence[str],
    executable: str | None = None,
    output: int = subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
    groups: Sequence[Path] = (),
) -> Iterator[subprocess.Popen[str]]:
    """The process, with a pipe as stdin; stdout and stderr go to `output`. It is ended with the block.

    groups: directories of cgroups that it is in from its first page on.
    """
    program = executable or command[0]
    if shutil.which(program) is None:
        raise BenchError(f"{command[0]}: not found; tools/system_packages bench installs it")
    if groups:
        command = ["bash", "-c", _JOIN, command[0], *map(str, groups), "--", program, *command[1:]]
        executable = None
    process = subprocess.Popen(
        command,
        executable=executable,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(environment or {})},
        text=True,
    )
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


def wait_for_line(process: subprocess.Popen[str], word: str) -> None:
    """Until it says a line that begins so."""
    assert process.stdout
    said = ""
    watchdog = threading.Timer(GROW_S, process.kill)
    watchdog.start()
    try:
        for line in process.stdout:
            if line.startswith(word):
                return
            said = line.strip() or said
    finally:
        watchdog.cancel()
    raise BenchError(f"{process.args!r}: ended, or was ended after {GROW_S} s, before it was {word}: {said}")


@contextmanager
def answering(
    command: Sequence[str], requests: int, texts: Sequence[str] = (), groups: Sequence[Path] = ()
) -> Iterator[Callable[[], None]]:
    """A program that grows, of lines of text if it reads any, says "ready", and "done" after so many requests."""
    with started(command, output=subprocess.PIPE, groups=groups) as process:
        if texts:
            tell(process, "\n".join([*texts, "", ""]))
        wait_for_line(process, "ready")

        def work() -> None:
            tell(process, f"{requests}\n")
            wait_for_line(process, "done")

        yield work


def tell(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin
    with suppress(BrokenPipeError):  # it has ended: why, it said
        process.stdin.write(text)
        process.stdin.flush()


@contextmanager
def whole_run(command: Sequence[str], groups: Sequence[Path] = ()) -> Iterator[Callable[[], None]]:
    """A program whose work is to run from its start to its end."""

    def work() -> None:
        with started(command, groups=groups) as process:
            if process.wait() != 0:
                raise BenchError(f"{command[0]}: ended with {process.returncode}")

    yield work
