# SPDX-License-Identifier: Apache-2.0
"""python -m bench.tuning: what `zcache tune` recommends against the defaults, live, as bench/tuning.toml wants it.

For each workload it stops the process, has it tuned for each goal, and then puts all its pages into real pools, with
the defaults and as recommended in turn, and gets them back. It writes the figures into docs/tune.md.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.corpora import demo_workload, stopped
from bench.errors import BenchError
from zcache_agent.cli.pool import backing_words
from zcache_agent.control import ControlClient
from zcache_agent.daemon import Daemon
from zcache_agent.deploy import Options, down, up
from zcache_agent.replay import Report, replay_process
from zcache_agent.transport.local import LocalTransport
from zcache_agent.tune.goals import GOALS, Cost, Goal
from zcache_agent.tune.measured import measure_flash

PLAN = Path("bench/tuning.toml")
DOCUMENT = Path("docs/tune.md")
BEGIN, END = "<!-- measured by python -m bench.tuning -->\n", "<!-- end -->\n"
Config = dict[str, dict[str, Any]]
DEFAULTS: Config = {"pool": {"allocator": "zbud", "codec": "lz4"}}
_MARKS = {"high_watermark_percent": 95, "low_watermark_percent": 90}
_MIB = 1 << 20
_CPUCLOCK_SCHED = 2
_MADE_WITH = ("allocator", "codec")
"""Settings that a pool is made with; the others are parameters."""


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
    all_bytes: int

    @property
    def gain(self) -> float:
        return self.goal.gain(self.recommended, self.defaults)

    def keeps_bounds(self) -> bool:
        return self.goal.allows(self.recommended, self.defaults, self.all_bytes)


class Live:
    """A daemon of our own, for one process."""

    def __init__(self, daemon: Daemon, control: ControlClient, pid: int, flash_mb_s: float, scratch: Path) -> None:
        self.daemon, self.control, self.pid = daemon, control, pid
        self.flash_mb_s, self.scratch = flash_mb_s, scratch
        self.page_size = int(control.get("page_size"))
        self._limit = control.get("params/limit")

    def cost(self, settings: Config, limit: int | None) -> tuple[Cost, int]:
        """All pages in, and back, in a new pool. The cost, and how many pages there are."""
        config = settings["pool"]
        words = ["name=live", "kind=persistent", *(f"{name}={config[name]}" for name in _MADE_WITH)]
        params = [(f"pools/live/params/{name}", str(value)) for name, value in config.items() if name not in _MADE_WITH]
        self.control.set(("pools/create", " ".join(words)))
        try:
            if limit:
                self.control.set(("pools/live/backing", backing_words(str(self.scratch / "store"), None, "256M")))
                self.control.set(
                    *(("params/" + name, str(value)) for name, value in {**_MARKS, "limit": limit}.items())
                )
            for name, value in settings.get("store", {}).items():
                self.control.set((f"params/{name}", str(value)))
            if params:
                self.control.set(*params)
            before = self._processor_ns()
            report = replay_process(self.daemon, "live", self.pid, keep=True)
            cpu_ns = self._processor_ns() - before
            if limit:
                time.sleep(1)  # what is over the watermark is written by then
            return self._measured(report, cpu_ns), report.pages
        finally:
            self.control.set(("pools/live/destroy", "1"))
            self.control.set(("params/limit", self._limit))
            (self.scratch / "store").unlink(missing_ok=True)

    def _processor_ns(self) -> int:
        """What the daemon has used, ended threads too: by Linux's clock of another process."""
        return time.clock_gettime_ns(~int(self.daemon.state["pid"]) << 3 | _CPUCLOCK_SCHED)

    def _measured(self, report: Report, cpu_ns: int) -> Cost:
        if not report.passed:
            raise BenchError(f"process {self.pid}: {report.lost} pages lost, {report.mismatches} came back different")
        stats = {path.rpartition("/")[2]: int(value) for path, value in self.control.dump("pools/live/stats").items()}
        kept = report.stored + report.same_filled
        memory = stats["used_bytes"] + (report.pages - kept) * self.page_size
        cpu = cpu_ns / 1000 / report.pages
        flash = sum(value for name, value in stats.items() if name.startswith("wear_"))
        return Cost(memory, cpu, flash, cpu + 2 * flash / self.flash_mb_s / report.pages)


def tuned(daemon: Daemon, pid: int, goal: str, *words: object) -> dict[str, Any]:
    """As who tunes does it."""
    command = [str(Path(sys.executable).parent / "zcache"), "--json", "-s", daemon.transport.serial, "tune"]
    command += ["--pid", str(pid), "--goal", goal, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise BenchError(f"zcache tune --goal {goal}: {done.stderr.strip()}")
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def compare(live: Live, workload: str, goal: Goal, plan: dict[str, Any]) -> Row:
    part = plan["goal"][goal.name].get("limit")
    _, pages = live.cost(DEFAULTS, None)
    all_bytes = pages * live.page_size
    limit = int(part * all_bytes) if part else None
    words = ["--limit", limit, "--flash-mb-s", live.flash_mb_s] if limit else []
    facts = tuned(live.daemon, live.pid, goal.name, *words)
    config = facts["config"]
    rounds = [(live.cost(DEFAULTS, limit)[0], live.cost(config, limit)[0]) for _ in range(plan["rounds"])]
    defaults, recommended = (_median([pair[side] for pair in rounds]) for side in (0, 1))
    gains = [goal.gain(mine, its) for its, mine in rounds]
    return Row(workload, goal, config, facts["gain"]["value"], gains, defaults, recommended, all_bytes)


def _median(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))


@contextmanager
def live_of(workload: dict[str, Any]) -> Iterator[Live]:
    with tempfile.TemporaryDirectory(dir="build") as directory:
        scratch = Path(directory).resolve()
        transport = LocalTransport(str(scratch / "daemon"), 120)
        daemon = up(transport, Options()).daemon
        try:
            with (
                demo_workload(workload["name"], workload["scale"]) as pids,
                stopped(pids),
                daemon.control() as control,
            ):
                control.set(("params/pressure_shrink_percent", "0"))
                yield Live(daemon, control, pids[0], measure_flash(daemon, str(scratch)), scratch)
        finally:
            down(transport, force=True)


# ---- the report ----


def table(rows: list[Row], plan: dict[str, Any]) -> str:
    lines = [
        f"Medians of {plan['rounds']} rounds; (least to most of them). {_machine()}",
        "",
        "| workload | goal | recommended | gain, predicted | gain, live | memory, MiB | µs a page | to flash, MiB | |",
        "|---|---|---|--:|--:|--:|--:|--:|---|",
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


def _machine() -> str:
    machine = os.uname()
    return f"Linux {machine.release}, {machine.machine}, {os.cpu_count()} processors."


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):  # so that no program stays behind
        signal.signal(number, lambda caught, _: sys.exit(128 + caught))
    plan = tomllib.loads(PLAN.read_text())
    rows: list[Row] = []
    try:
        for workload in plan["workload"]:
            with live_of(workload) as live:
                for goal in GOALS.values():
                    rows.append(compare(live, workload["name"], goal, plan))
                    print(_line(rows[-1], plan["gain"]), file=sys.stderr, flush=True)
    except BenchError as error:
        print(f"tuning: {error}", file=sys.stderr)
        return 1
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(before + BEGIN + "\n" + table(rows, plan) + "\n" + END + rest.partition(END)[2])
    print(table(rows, plan), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
