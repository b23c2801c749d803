# SPDX-License-Identifier: Apache-2.0
"""Has the kernel take back what it swapped out to a device of zcached's."""

from .daemon import Daemon
from .errors import CheckFailed


def swap_off(daemon: Daemon, device: str, timeout: float) -> None:
    """All that is swapped out comes back, or CheckFailed: it does not fit. The device stays, unused."""
    ran = daemon.run([daemon.program, "swapoff", device], timeout=timeout)
    if ran.code != 0:
        raise CheckFailed(f"{device} stays on: {ran.complaint}", hint="end what uses memory: all of it has to fit")
