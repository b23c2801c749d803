# SPDX-License-Identifier: Apache-2.0
"""Brings the agent onto a device, beside the daemon that runs there, and starts it."""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..binary import DeployFailed
from ..daemon import START, Daemon, find
from ..deploy import alone, copy_in, sha256_of, undone_on_failure
from ..device import look
from ..loop.bounds import parse_bounds
from ..transport.base import Transport
from .files import PROGRAM
from .process import Agent, end_agent, find_agent, places_with_agent, program_in, remove_agent
from .program import LEAST_PYTHON, Program, make_program

_PYTHON_SECONDS = 120.0
"""A slow board compiles the program's modules each time that it starts."""
_ASK = "import sys; print(*sys.version_info[:2])"
_LEAST = ".".join(map(str, LEAST_PYTHON))
_ELSE = "zcache agent run does the same from here"


@dataclass(frozen=True)
class Options:
    config: bytes
    table: dict[str, object]
    """Of the config: [agent]."""
    python: str | None = None
    """On the device; else python3 as its shell finds it."""


@dataclass(frozen=True)
class Started:
    agent: Agent
    changed: bool
    """False: the same ran already."""


@dataclass(frozen=True)
class _File:
    path: Path
    size: int
    sha256: str


def start(transport: Transport, options: Options) -> Started:
    """Whatever else ran as agent there is replaced. What fails before that changes nothing."""
    with alone(transport):
        place = find(transport)
        python = options.python or (sys.executable if transport.is_local else "python3")
        parse_bounds(options.table, look(transport).mem_total, int(place.state["page_size"]))
        program = make_program(options.config)
        if place.agent_alive and _has(place, program):
            return Started(Agent(place), False)
        _check_python(place, python)
        with undone_on_failure(place):
            new = _copy(place, program)
        for other in places_with_agent(transport):
            end_agent(other)
            if other.directory != place.directory:
                remove_agent(other, keep_log=True)
        place.run(["mv", "-f", new, program_in(place)])
        _launch(place, python)
        return Started(find_agent(transport), True)


def stop(transport: Transport) -> Sequence[Daemon]:
    """Ends it and removes it, but for its log; returns where it was."""
    with alone(transport):
        places = places_with_agent(transport)
        for place in places:
            end_agent(place)
            remove_agent(place, keep_log=True)
        return places


def _has(place: Daemon, program: Program) -> bool:
    try:
        return sha256_of(place, program_in(place)) == program.sha256
    except DeployFailed:
        return False  # somebody has removed it


def _check_python(place: Daemon, python: str) -> None:
    serial = place.transport.serial
    asked = place.run([python, "-c", _ASK], timeout=max(_PYTHON_SECONDS, place.transport.timeout))
    words = asked.text.split()
    if asked.code != 0 or len(words) != 2 or not all(word.isdecimal() for word in words):
        raise DeployFailed(
            f"{serial}: {python} does not run there ({asked.complaint}), and the agent needs Python {_LEAST} or later",
            name="no_python",
            hint=f"install it, or name it: --python FILE; {_ELSE}",
        )
    if (int(words[0]), int(words[1])) < LEAST_PYTHON:
        raise DeployFailed(
            f"{serial}: {python} is Python {'.'.join(words)}, and the agent needs {_LEAST} or later",
            name="old_python",
            hint=f"install it, or name it: --python FILE; {_ELSE}",
        )


def _copy(place: Daemon, program: Program) -> str:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / PROGRAM
        file.write_bytes(program.content)
        return copy_in(place, _File(file, len(program.content), program.sha256))


def _launch(place: Daemon, python: str) -> None:
    kind = "local" if place.transport.is_local else "remote"
    command = ["sh", "-c", START, "sh", kind, python, program_in(place), "start"]
    started = place.run(command, timeout=max(_PYTHON_SECONDS, place.transport.timeout))
    if started.code != 0:
        place.run(["rm", "-f", program_in(place)])
        said = started.complaint.removeprefix("zcache-agent: ")
        raise DeployFailed(f"{place.transport.serial}: the agent does not start: {said}", name="start_failed")
