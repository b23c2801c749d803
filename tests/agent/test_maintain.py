# SPDX-License-Identifier: Apache-2.0
"""What a round of `kernel maintain` does to zram. The device is a FAKE here, which says what it was told;
tests/device/test_config.py has a real one, whose kernel cannot recompress."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

from zcache_agent.device import Rights
from zcache_agent.kernelstats import Kernel
from zcache_agent.maintain import Budget, Maintainer
from zcache_agent.transport.base import Completed, Transport


class Fake:
    """A zram device with 100 pages that are written back by as many as its limit allows."""

    serial = "fake"

    def __init__(self, *refused: str, **facts: object) -> None:
        self.refused = refused
        self.told: list[str] = []
        self.facts: dict[str, Any] = {"disksize": 1 << 30, "mem_used_total": 1000000, "bd_writes": 0}
        self.facts |= {"recomp_algorithm": "#1: zstd", "backing_dev": "/dev/vda"} | facts
        self.files = {"writeback_limit": "0", "writeback_limit_enable": "0"}
        self.waiting = 100

    def read(self) -> Kernel:
        return Kernel(
            zram={"zram0": self.facts | {name: int(text) for name, text in self.files.items() if text.isdecimal()}}
        )

    def run(self, argv: Sequence[str], *, timeout: float | None = None) -> Completed:
        script = argv[-1]
        told = re.fullmatch(r"echo (\S+) 2>&1 >/sys/block/zram0/(\w+)", script)
        assert told, script
        value, file = told[1].strip("'"), told[2]
        self.told.append(f"{file}={value}")
        if f"{file}={value}" in self.refused:
            return Completed(1, b"", b"sh: write error: Invalid argument")
        self.files[file] = value
        if file == "recompress":
            self.facts["mem_used_total"] -= 5000
        if file == "writeback":
            pages = min(self.waiting, int(self.files["writeback_limit"]))
            self.waiting -= pages
            self.facts["bd_writes"] += pages
            self.files["writeback_limit"] = str(int(self.files["writeback_limit"]) - pages)
        return Completed(0, b"", b"")

    def maintainer(self, budget: int, *kinds: str) -> Maintainer:
        transport = cast("Transport", self)
        return Maintainer(transport, Rights.OWN, "zram0", self.read, 60, kinds or ("idle",), Budget(budget))


def test_a_round() -> None:
    fake = Fake()
    done = [action.text for action in fake.maintainer(40 * 4096).round()]
    assert done == [
        "zram0: idle 60: pages not touched for so many seconds",
        "zram0: recompress type=idle: 5000 bytes of memory freed",
        "zram0: writeback idle: 163840 bytes written, 0 bytes of memory freed",
    ]
    assert (fake.files["writeback_limit"], fake.files["writeback_limit_enable"]) == ("0", "0"), "as it was"


def test_the_kernels_own_limit_holds_too() -> None:
    fake = Fake()
    fake.files |= {"writeback_limit": "30", "writeback_limit_enable": "1"}
    maintainer = fake.maintainer(40 * 4096, "huge_idle", "idle")
    written = [action.written for action in maintainer.round() if action.what == "writeback"]
    assert written == [30 * 4096, 0]
    assert maintainer.budget.left == 10 * 4096
    assert (fake.files["writeback_limit"], fake.files["writeback_limit_enable"]) == ("0", "1")


def test_what_cannot_be_done_is_said() -> None:
    fake = Fake("idle=60", recomp_algorithm="", backing_dev="none")
    del fake.facts["recomp_algorithm"]
    done = list(fake.maintainer(0).round())
    assert [action.note for action in done] == [
        "no recompression algorithm, so no recompression",
        "no writeback device, so no writeback",
        "what is not touched until the next round is idle then",
    ]
    assert fake.told == ["idle=60", "idle=all"]
    assert [action.note for action in Fake(disksize=0).maintainer(0).round()] == ["it is not set up"]
    assert "no writeback: the budget is used up" in [action.note for action in Fake().maintainer(0).round()]


def test_what_the_kernel_refuses_is_said() -> None:
    fake = Fake("writeback=idle", "recompress=type=idle")
    done = {action.what: action for action in fake.maintainer(40 * 4096).round()}
    assert done["recompress"].note == done["writeback"].note == "refused: Invalid argument"
    assert (fake.files["writeback_limit"], fake.files["writeback_limit_enable"]) == ("0", "0")
