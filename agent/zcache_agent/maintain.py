# SPDX-License-Identifier: Apache-2.0
"""What the kernel's zram needs and nobody triggers: pages marked idle, compressed again, written back.

Linux, Documentation/admin-guide/blockdev/zram.rst.
"""

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from .device import Rights, run_script
from .errors import Refused
from .kernelstats import Facts, Kernel
from .transport.base import Transport

_SECONDS = 600.0
"""What one action may take on a slow device."""
_UNIT = 4096
"""Bytes, of zram's limits and statistics of writeback, whatever the page size."""
KINDS = ("huge_idle", "idle", "huge", "incompressible")
"""Of pages that can be written back; the first two of those that were marked idle."""


@dataclass(frozen=True)
class Action:
    """Something that was done to a device, and what came of it."""

    device: str
    what: str
    """idle, recompress, writeback, or none where nothing can be done."""
    value: str = ""
    """As the kernel was told."""
    freed: int = 0
    """Bytes of memory that zram takes less."""
    written: int = 0
    """Bytes that went to its writeback device."""
    note: str = ""

    @property
    def text(self) -> str:
        effect = {
            "recompress": f"{self.freed} bytes of memory freed",
            "writeback": f"{self.written} bytes written, {self.freed} bytes of memory freed",
        }.get(self.what, "")
        said = ", ".join(filter(None, (effect, self.note)))
        return f"{self.device}: {self.what}{f' {self.value}' if self.value else ''}{f': {said}' if said else ''}"


@dataclass
class Budget:
    """Bytes that may be written back."""

    left: int


@dataclass
class Maintainer:
    """Of one zram device."""

    transport: Transport
    rights: Rights
    device: str
    read: Callable[[], Kernel]
    idle_seconds: int
    kinds: Sequence[str] = KINDS[:1]
    budget: Budget = field(default_factory=lambda: Budget(0))
    knows_age: bool = True
    """The kernel can tell for how long a page was not touched."""

    def round(self) -> Iterator[Action]:
        """What a round does, each action as it is done."""
        facts = self._facts()
        if not facts.get("disksize"):
            yield Action(self.device, "none", note="it is not set up")
            return
        yield from self._mark_old()
        yield self._recompress(facts)
        yield from self._write_back(facts)
        if not self.knows_age:
            self._tell("idle", "all")
            yield Action(self.device, "idle", "all", note="what is not touched until the next round is idle then")

    def _facts(self) -> Facts:
        zram = self.read().zram
        if self.device not in zram:
            known = ", ".join(zram) or "none"
            raise Refused(
                f"{self.transport.serial}: no {self.device}; there are: {known}",
                name="ENODEV",
                hint="load the module: modprobe zram",
            )
        return zram[self.device]

    def _mark_old(self) -> Iterator[Action]:
        if not self.knows_age:
            return
        refusal = self._try("idle", str(self.idle_seconds))
        if not refusal:
            yield Action(self.device, "idle", str(self.idle_seconds), note="pages not touched for so many seconds")
            return
        self.knows_age = False

    def _recompress(self, facts: Facts) -> Action:
        if "none" in str(facts.get("recomp_algorithm", "none")):
            return Action(self.device, "none", note="no recompression algorithm, so no recompression")
        value = "type=idle"
        refusal = self._try("recompress", value)
        after = self._facts()
        return Action(self.device, "recompress", value, freed=_less(facts, after), note=refusal)

    def _write_back(self, facts: Facts) -> Iterator[Action]:
        if str(facts.get("backing_dev", "none")) == "none":
            yield Action(self.device, "none", note="no writeback device, so no writeback")
            return
        if self.budget.left < _UNIT:
            yield Action(self.device, "none", note="no writeback: the budget is used up")
            return
        for kind in self.kinds:
            if self.budget.left >= _UNIT:
                yield self._write_kind(kind)

    def _write_kind(self, kind: str) -> Action:
        """The kernel's own limit holds, too, and is afterwards what it was, less what was written."""
        before = self._facts()
        enabled, limit = (int(before.get(name, 0)) for name in ("writeback_limit_enable", "writeback_limit"))
        allowed = self.budget.left // _UNIT
        self._tell("writeback_limit", str(min(allowed, limit) if enabled else allowed))
        self._tell("writeback_limit_enable", "1")
        try:
            refusal = self._try("writeback", kind)
        finally:
            after = self._facts()
            pages = int(after.get("bd_writes", 0)) - int(before.get("bd_writes", 0))
            self.budget.left -= pages * _UNIT
            self._tell("writeback_limit", str(max(limit - pages, 0) if enabled else limit))
            self._tell("writeback_limit_enable", str(enabled))
        return Action(self.device, "writeback", kind, _less(before, after), pages * _UNIT, refusal)

    def _path(self, file: str) -> str:
        return f"/sys/block/{self.device}/{file}"

    def _try(self, file: str, value: str) -> str:
        """What the kernel says against it; nothing: it did it."""
        script = f"echo {shlex.quote(value)} 2>&1 >{self._path(file)}"
        ran = run_script(self.transport, script, self.rights, timeout=_SECONDS)
        return "" if ran.code == 0 else f"refused: {ran.complaint.rpartition(': ')[2]}"

    def _tell(self, file: str, value: str) -> None:
        if refusal := self._try(file, value):
            raise Refused(f"{self._path(file)}: {value} was {refusal}", name="refused", hint="run it as root")


def _less(before: Facts, after: Facts) -> int:
    return int(before.get("mem_used_total", 0)) - int(after.get("mem_used_total", 0))
