# SPDX-License-Identifier: Apache-2.0
"""What a device is, and which of zcache's uses it allows."""

import shlex
from collections.abc import Sequence
from enum import Enum

from .transport.base import Completed, Transport


class Rights(Enum):
    """How a command gets root on the device, or that it does not."""

    OWN = "as the transport's user"
    SU_C = "su -c"
    SU_0 = "su 0"

    def wrap(self, argv: Sequence[str]) -> list[str]:
        if self is Rights.SU_C:
            return ["su", "-c", shlex.join(argv)]
        if self is Rights.SU_0:
            return ["su", "0", *argv]
        return list(argv)


def run_script(
    transport: Transport, script: str, rights: Rights = Rights.OWN, timeout: float | None = None
) -> Completed:
    """A few lines of POSIX shell on the device."""
    return transport.run(rights.wrap(["sh", "-c", script]), timeout=timeout)
