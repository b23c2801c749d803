# SPDX-License-Identifier: Apache-2.0
"""What both bringing and taking away come to, and do with a daemon before."""

from dataclasses import dataclass

from ..daemon import Daemon
from ..swapoff import swap_off
from .kinds import Kind

STOP_SECONDS = 700.0
"""What is swapped out comes back meanwhile."""


@dataclass(frozen=True)
class Done:
    """What became of each path: written, removed, same, kept (somebody has changed it), or absent."""

    kind: Kind
    paths: dict[str, str]
    daemon: Daemon | None = None

    @property
    def kept(self) -> list[str]:
        return [path for path, what in self.paths.items() if what == "kept"]

    @property
    def changed(self) -> bool:
        return any(what in ("written", "removed") for what in self.paths.values())


def end_swap(daemon: Daemon) -> None:
    """All that is swapped out comes back."""
    with daemon.control() as control:
        device = control.get("swap/device")
        if device == "none":
            return
        swap_off(daemon, device, STOP_SECONDS)
        control.set(("swap/off", "1"))
