# SPDX-License-Identifier: Apache-2.0
"""python -m tools.tunegain: what `zcache tune` recommends against the defaults, live, as bench/tuning.toml wants it.

On an emulated device whose clock counts instructions, with the workloads' programs of Debian's. For each it stops the
process, has it tuned for each goal, and then puts all its pages into real pools, with the defaults and as recommended
in turn, puts them once more and gets them back. It writes the figures into docs/tune.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from zcache_agent.cli.pool import backing_words
from zcache_agent.control import ControlClient
from zcache_agent.daemon import Daemon
from zcache_agent.deploy import Options, up
from zcache_agent.errors import ZcacheError
from zcache_agent.replay import Report, replay_process
from zcache_agent.transport import open_transport
from zcache_agent.tune.goals import GOALS, Cost, Goal
from zcache_agent.tune.measured import measure_flash

from .emulator import Device, EmulatorError, boot
from .emulator.image import disk_of
from .programs import MB, PACKAGES, SECONDS, shell, stopped, zcache
from .swapload import LoadError

PLAN = Path("bench/tuning.toml")
DOCUMENT = Path("docs/tune.md")
BEGIN, END = "<!-- measured by python -m tools.tunegain -->\n", "<!-- end -->\n"
Config = dict[str, dict[str, Any]]
DEFAULTS: Config = {"pool": {"allocator": "zbud", "codec": "lz4"}}
_MARKS = {"high_watermark_percent": 95, "low_watermark_percent": 90}
TARGET = "arm64"
FLASH_MB = 512
FLASH = "/data/flash"
"""A disk's file system on the device, for what is over the limit."""
_MIB = 1 << 20
_TICK_US = 10_000
"""Of /proc/PID/stat."""
_SETTLE_SECONDS = 2.0
"""Without a byte written: then nothing more is to be."""
_MADE_WITH = ("allocator", "codec")
"""Settings that a pool is made with; the others are parameters."""


@dataclass(frozen=True)
class Measured:
    """Settings in a live run."""

    cost: Cost
    """Its CPU: a put and a get, by the daemon's clock, which counts what the one CPU does."""
    daemon_us: float
    """A page, all that the daemon does for requests and copies included."""
    pages: int


@dataclass(frozen=True)
class Row:
    """Of a workload and a goal."""

    workload: str
    goal: Goal
    config: Config
    predicted: float
    """The gain."""
    gains: list[float]
    """By round."""
    defaults: Cost
    recommended: Cost
    daemon_us: tuple[float, float]
    """With the defaults, and as recommended."""
    all_bytes: int

    @property
    def gain(self) -> float:
        return self.goal.gain(self.recommended, self.defaults)

    def keeps_bounds(self) -> bool:
        return self.goal.allows(self.recommended, self.defaults, self.all_bytes)


class Live:
    """A process on the device, and the daemon there."""

    def __init__(self, device: Device, daemon: Daemon, control: ControlClient, pid: int, flash_mb_s: float) -> None:
        self.device, self.daemon, self.control, self.pid = device, daemon, control, pid
        self.flash_mb_s = flash_mb_s
        self.page_size = int(control.get("page_size"))
        self._limit = control.get("params/limit")

    def run(self, settings: Config, limit: int | None) -> Measured:
        """All pages into a new pool: what they take; then over themselves and back: what of a processor."""
        config = settings["pool"]
        words = ["name=live", "kind=persistent", *(f"{name}={config[name]}" for name in _MADE_WITH)]
        params = [(f"pools/live/params/{name}", str(value)) for name, value in config.items() if name not in _MADE_WITH]
        self.control.set(("pools/create", " ".join(words)))
        try:
            if limit:
                self.control.set(("pools/live/backing", backing_words(f"{FLASH}/store", None, "256M")))
                self.control.set(
                    *(("params/" + name, str(value)) for name, value in {**_MARKS, "limit": limit}.items())
                )
            for name, value in settings.get("store", {}).items():
                self.control.set((f"params/{name}", str(value)))
            if params:
                self.control.set(*params)
            memory, flash = self._held(self._replay())
            before = self._ticks()
            report = self._replay()
            daemon_us = (self._ticks() - before) * _TICK_US / report.pages
        finally:
            self.control.set(("pools/live/destroy", "1"))
            self.control.set(("params/limit", self._limit))
            shell(self.device, f"rm -f {FLASH}/store")
        cpu = (report.put_us or 0) + (report.get_us or 0)
        time_us = cpu + 2 * flash / self.flash_mb_s / report.pages
        return Measured(Cost(memory, cpu, flash, time_us), daemon_us, report.pages)

    @cached_property
    def all_bytes(self) -> int:
        """Of all its pages."""
        return self.run(DEFAULTS, None).pages * self.page_size

    def _replay(self) -> Report:
        report = replay_process(self.daemon, "live", self.pid, keep=True)
        if not report.passed:
            raise LoadError(f"process {self.pid}: {report.lost} pages lost, {report.mismatches} came back different")
        return report

    def _held(self, report: Report) -> tuple[int, int]:
        """Bytes of memory, with pages that are not in the pool; and of flash, once all is written that is to be."""
        stats, before = self._stats(), -1
        while before != (written := _written(stats)):
            time.sleep(_SETTLE_SECONDS)
            stats, before = self._stats(), written
        kept = report.stored + report.same_filled
        return stats["used_bytes"] + (report.pages - kept) * self.page_size, written

    def _stats(self) -> dict[str, int]:
        return {path.rpartition("/")[2]: int(value) for path, value in self.control.dump("pools/live/stats").items()}

    def _ticks(self) -> int:
        """What the daemon has used, ended threads too."""
        words = shell(self.device, f"cat /proc/{self.daemon.state['pid']}/stat").rpartition(")")[2].split()
        return int(words[11]) + int(words[12])


def _written(stats: dict[str, int]) -> int:
    return sum(value for name, value in stats.items() if name.startswith("wear_"))


def compare(live: Live, workload: str, goal: Goal, plan: dict[str, Any]) -> Row:
    part = plan["goal"][goal.name].get("limit")
    limit = int(part * live.all_bytes) if part else None
    words = ["--limit", limit, "--flash-mb-s", live.flash_mb_s] if limit else []
    facts = zcache(live.device, "tune", "--pid", live.pid, "--goal", goal.name, *words)
    config = facts["config"]
    rounds = [(live.run(DEFAULTS, limit), live.run(config, limit)) for _ in range(plan["rounds"])]
    defaults, recommended = (_median([pair[side].cost for pair in rounds]) for side in (0, 1))
    before, after = (statistics.median(pair[side].daemon_us for pair in rounds) for side in (0, 1))
    gains = [goal.gain(mine.cost, its.cost) for its, mine in rounds]
    gain = facts["gain"]["value"]
    return Row(workload, goal, config, gain, gains, defaults, recommended, (before, after), live.all_bytes)


def _median(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))


def lives(scales: dict[str, int]) -> Iterator[tuple[str, Live]]:
    with boot(TARGET, mem_mb=MB, disks=[disk_of(*PACKAGES), FLASH_MB], root=True, counted=True) as device:
        shell(device, f"mke2fs -Fqt ext4 /dev/vdb && mkdir {FLASH} && mount -t ext4 /dev/vdb {FLASH}")
        for name, pid in stopped(device, scales):
            daemon = up(open_transport(device.serial, SECONDS), Options()).daemon
            with daemon.control() as control:
                control.set(("params/pressure_shrink_percent", "0"))
                yield name, Live(device, daemon, control, pid, measure_flash(daemon, FLASH))


# ---- the report ----


def table(rows: list[Row], plan: dict[str, Any]) -> str:
    lines = [
        f"Medians of {plan['rounds']} rounds; (least to most of them). An instruction takes 4 ns.",
        "",
        "| workload | goal | recommended | gain, predicted | gain, live | memory, MiB | µs a page | µs of the daemon "
        "| to flash, MiB | |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    lines += [_line(row, plan["gain"]) for row in rows]
    won = sum(row.gain >= plan["gain"] and row.keeps_bounds() for row in rows)
    lines += ["", f"{won} of {len(rows)} reach {plan['gain']:.0%} within their bounds."]
    return "\n".join(lines) + "\n"


def _line(row: Row, wanted: float) -> str:
    values = {**row.config["pool"], **row.config.get("store", {})}
    settings = ", ".join(str(value) for name, value in values.items() if _is_changed(name, value))
    live = f"{row.gain:.1%} ({min(row.gains):.0%} to {max(row.gains):.0%})"
    pairs = [
        f"{before:.1f} → {after:.1f}"
        for before, after in (
            (row.defaults.memory / _MIB, row.recommended.memory / _MIB),
            (row.defaults.cpu, row.recommended.cpu),
            row.daemon_us,
            (row.defaults.flash / _MIB, row.recommended.flash / _MIB),
        )
    ]
    verdict = "yes" if row.gain >= wanted else "short"
    if settings and not row.keeps_bounds():
        verdict = "over a bound"
    cells = [row.workload, row.goal.name, settings or "the defaults", f"{row.predicted:.1%}", live, *pairs, verdict]
    return f"| {' | '.join(cells)} |"


def _is_changed(name: str, value: object) -> bool:
    defaults = {**DEFAULTS["pool"], "zv_max_zsize": "7/8", "zv_max_mean_zsize": "5/8", **_MARKS}
    return name != "limit" and str(value) != str(defaults.get(name))


def main() -> int:
    argparse.ArgumentParser(prog="python -m tools.tunegain", description=__doc__).parse_args()
    plan = tomllib.loads(PLAN.read_text())
    rows: list[Row] = []
    try:
        for name, live in lives({workload["name"]: workload["scale"] for workload in plan["workload"]}):
            for goal in GOALS.values():
                rows.append(compare(live, name, goal, plan))
                print(_line(rows[-1], plan["gain"]), file=sys.stderr, flush=True)
    except (EmulatorError, LoadError, ZcacheError) as error:
        print(f"tunegain: {error}", file=sys.stderr)
        return 1
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(before + BEGIN + "\n" + table(rows, plan) + "\n" + END + rest.partition(END)[2])
    print(table(rows, plan), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
