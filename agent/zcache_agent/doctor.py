# SPDX-License-Identifier: Apache-2.0
"""What `zcache doctor` finds out: a device's facts, its ways to root, what its kernel grants, and what follows."""

import contextlib
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from .binary import choose_binary
from .control import number
from .daemon import Daemon, find
from .deploy import find_stage
from .device import Device, Probe, Root, Use, find_root, look, uses
from .errors import DaemonAbsent, NoDevice, Usage
from .transport.base import Completed, Transport

Step = Callable[[float, str], None]


@dataclass(frozen=True)
class Examination:
    device: Device
    root: Root
    probe: Probe
    uses: list[Use]
    daemon: Daemon | None

    def as_json(self) -> dict[str, Any]:
        return {
            "device": asdict(self.device),
            "root": {"how": self.root.how, "answers": dict(self.root.answers)},
            "probe": {name: number(value) for name, value in self.probe.facts.items()},
            "uses": [asdict(use) for use in self.uses],
            "daemon": self.daemon.version if self.daemon else None,
        }


def _silent(part: float, what: str) -> None: ...


def examine(transport: Transport, step: Step = _silent) -> Examination:
    step(0, "looking at the device")
    device = look(transport)
    daemon = None
    with contextlib.suppress(DaemonAbsent):
        daemon = find(transport)
    step(0.3, "asking for root")
    root = find_root(transport, device.uid)
    step(0.6, "trying the program")
    probe = _probe(transport, device, daemon, step)
    return Examination(device, root, probe, uses(device, root, probe), daemon)


def _probe(transport: Transport, device: Device, daemon: Daemon | None, step: Step) -> Probe:
    """Runs the program that is there, or a copy that is removed afterwards."""
    if daemon:
        return _parse(daemon.run([daemon.program, "probe"]))
    try:
        binary = choose_binary(device, transport.is_local)
        if transport.is_local:
            return _parse(transport.run([str(binary.path), "probe"]))
        target = f"{find_stage(transport)}/zcache-probe-{secrets.token_hex(4)}"
    except (DaemonAbsent, Usage) as error:
        return Probe(failure=error.message)
    try:
        transport.push(
            binary.path, target, 0o700, lambda done, size: step(0.6 + 0.4 * done / size, "trying the program")
        )
        return _parse(transport.run([target, "probe"]))
    except OSError as error:
        return Probe(failure=f"{target}: {error.strerror}")
    finally:
        with contextlib.suppress(NoDevice):
            transport.run(["rm", "-f", target])


def _parse(ran: Completed) -> Probe:
    if ran.code != 0:
        return Probe(failure=f"zcached does not run there: {ran.complaint}")
    return Probe(dict(line.split("=", 1) for line in ran.text.splitlines() if "=" in line))
