# SPDX-License-Identifier: Apache-2.0
"""The agent that runs beside a daemon: what it says of itself, and its end."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ..daemon import Daemon, find_all
from ..errors import DaemonAbsent
from ..loop.events import Event
from ..transport.base import Transport
from .files import FILES, LOG, PROGRAM

_TRIES = 100
"""Tenths of a second that it may take to end; then it is killed."""


@dataclass(frozen=True)
class Agent:
    """One that runs, or has died."""

    place: Daemon

    @property
    def alive(self) -> bool:
        return self.place.agent_alive

    @property
    def pid(self) -> int:
        return int(self.place.agent["pid"])

    @property
    def version(self) -> str:
        return self.place.agent["version"]

    @property
    def config_sha256(self) -> str:
        return self.place.agent["config"]

    @property
    def since(self) -> int:
        """Seconds since 1970, by the device's clock."""
        return int(self.place.agent["since"])

    @property
    def decisions(self) -> int:
        return int(self.place.agent.get("decisions", 0))

    @property
    def refused(self) -> int:
        """Of the decisions, those that the daemon said no to."""
        return int(self.place.agent.get("refused", 0))

    @property
    def waits_for(self) -> str:
        """What it lost and looks for, or nothing."""
        return self.place.agent.get("waits_for", "")

    @property
    def start_command(self) -> str:
        """What starts it on the device, also after a boot."""
        return shlex.join([self.place.agent["python"], program_in(self.place), "start"])

    @property
    def last(self) -> Event | None:
        """Its last decision."""
        event: Event | None = json.loads(self.place.agent.get("last") or "null")
        return event


def find_agent(transport: Transport) -> Agent:
    """The one that runs on a device. DaemonAbsent: none does."""
    agents = [Agent(place) for place in find_all(transport) if place.agent]
    for agent in agents:
        if agent.alive:
            return agent
    if agents:
        raise DaemonAbsent(
            f"{transport.serial}: the agent of {agents[0].place.directory} (pid {agents[0].pid}) has died",
            name="agent_died",
            hint="zcache agent log shows its last words, zcache agent start starts it again",
        )
    raise DaemonAbsent(
        f"{transport.serial}: no agent runs there", name="no_agent", hint="zcache agent start --config FILE starts one"
    )


def end_agent(place: Daemon, timeout: float | None = None) -> None:
    """Ends it, if it runs: at last by force, as it holds nothing that could be lost."""
    if not place.agent_alive:
        return
    process = ("began", place.agent["pid"], place.agent["start"])
    if not place.end(*process, patience=_TRIES, last=2 * _TRIES, timeout=timeout):
        raise DaemonAbsent(
            f"{place.transport.serial}: the agent (pid {place.agent['pid']}) does not end", name="does_not_end"
        )


def remove_agent(place: Daemon, *, keep_log: bool) -> None:
    """What is there of it, so that nothing starts it again either."""
    files = [name for name in FILES if not (keep_log and name.startswith(LOG))]
    place.run(["sh", "-c", f"cd {shlex.quote(place.directory)} && rm -f {' '.join(files)}"])


def places_with_agent(transport: Transport) -> Sequence[Daemon]:
    """Where one runs, has died, or would be started at the next boot."""
    return [
        place for place in find_all(transport) if place.agent or place.run(["test", "-e", program_in(place)]).code == 0
    ]


def read_log(transport: Transport) -> str:
    """JSON Lines: the newest part of the log of the one that runs, else of one that ran. DaemonAbsent: none did."""
    script = f'for d; do cat "$d/{LOG}.1" "$d/{LOG}" 2>/dev/null; done | tail -c 262144'
    places = sorted(find_all(transport), key=lambda place: place.agent_alive, reverse=True)
    for place in places:
        if text := place.run(["sh", "-c", script, "sh", place.directory]).stdout.decode(errors="replace"):
            return text
    raise DaemonAbsent(
        f"{transport.serial}: no agent ran there, so there is no log",
        name="no_agent",
        hint="zcache agent start --config FILE starts one",
    )


def program_in(place: Daemon) -> str:
    return f"{place.directory}/{PROGRAM}"
