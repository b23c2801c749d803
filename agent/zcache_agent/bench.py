# SPDX-License-Identifier: Apache-2.0
"""What each codec does to a device's own pages: `zcached bench`, run there."""

import json
from dataclasses import dataclass
from typing import Any

from .daemon import Daemon
from .errors import ProtocolError
from .replay import failure


@dataclass(frozen=True)
class Options:
    page_size: int
    pages: int = 2000
    seconds: int = 10
    """For all codecs together, about."""
    codecs: tuple[str, ...] = ()
    """Specs; none: a choice of zcached's."""
    pid: int | None = None
    file: str | None = None
    """On the device. Neither this nor pid: what the device's user holds, and its largest libraries."""

    def words(self) -> list[str]:
        words = ["--page-size", str(self.page_size), "--pages", str(self.pages), "--seconds", str(self.seconds)]
        words += [word for spec in self.codecs for word in ("--codec", spec)]
        if self.pid is not None:
            words += ["--pid", str(self.pid)]
        if self.file is not None:
            words += ["--file", self.file]
        return words


def run_bench(daemon: Daemon, options: Options) -> dict[str, Any]:
    """What zcached prints, see docs/protocol.md. Pages stay on the device; the daemon's pools are not touched."""
    command = [daemon.program, "bench", *options.words()]
    done = daemon.run(command, timeout=options.seconds + daemon.transport.timeout)
    if done.code != 0:
        complaint = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise failure(done.code, complaint or done.complaint)
    try:
        facts: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise ProtocolError(f"zcached bench said {done.text[:80]!r}") from error
    return facts
