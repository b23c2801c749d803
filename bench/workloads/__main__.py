# SPDX-License-Identifier: Apache-2.0
"""python -m bench.workloads: which programs compressed memory helps. Writes build/workloads.json, and from it the
tables of docs/which-workloads.md and docs/which-workloads.png.

Each program is grown and does a fixed amount of work, in a control group of its own: without a limit; and limited to
75 % and 50 % of the most that it used, where the kernel has no swap, swaps to zram (lz4), and swaps to a disk as slow
as flash. Before that, half way through its work, is looked what its memory is. It wants root.
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.sections import machine, say

from . import swaps
from .memory import look, stored
from .picture import draw
from .programs import WORKLOADS, Workload, refuse_missing
from .report import PATIENCE, median, put_into
from .run import run

RESULT = Path("build/workloads.json")
DOCUMENT, PICTURE = Path("docs/which-workloads.md"), Path("docs/which-workloads.png")
PAGES = Path("build/workloads")
ROUNDS = 3
SHARES = (75, 50)
"""Percent of the most that it used."""
PLACES = {"none": swaps.nowhere, "zram": swaps.to_zram, "flash": swaps.to_flash}

Facts = dict[str, Any]


def measured(workload: Workload, rounds: int) -> Facts:
    say(f"{workload.name}: alone")
    first = run(workload)
    peak = first["peak"]["both" if workload.in_files else "anonymous"]
    memory = memory_of(workload, first["wall_s"], rounds)
    patience = PATIENCE * max(5, first["grow_s"]), PATIENCE * first["wall_s"]
    runs: dict[str, list[Facts]] = {"free": []}
    for number in range(rounds):
        runs["free"].append(run(workload, patience=patience))
        for place, swap in PLACES.items():
            with swap() as node:
                for share in SHARES:
                    of = runs.setdefault(f"{place}-{share}", [])
                    if all(one["outcome"] == "done" for one in of):
                        of.append(run(workload, peak * share // 100, node, patience))
                        say(f"{workload.name}, {number + 1}: {share} %, swap {place}: {told(of[-1])}")
    return {"kind": workload.kind, "work": workload.work, "peak": first["peak"], "memory": memory, "runs": runs}


def memory_of(workload: Workload, seconds: float, rounds: int) -> Facts:
    say(f"{workload.name}: its memory")
    pages = PAGES / f"{workload.name}.pages"
    return look(workload, seconds, pages) | stored(pages, rounds)


def told(one: Facts) -> str:
    return f"{one['wall_s']} s" if one["outcome"] == "done" else str(one["outcome"])


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.workloads", description=str(__doc__).partition("\n\n")[0])
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these: {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"how often each is run ({ROUNDS})")
    parser.add_argument("--result", type=Path, default=RESULT, help=f"where the numbers go ({RESULT})")
    parser.add_argument("--memory", action="store_true", help="measure only what their memory is; the rest stays")
    parser.add_argument("--render", action="store_true", help="measure nothing: tables and picture from the numbers")
    options = parser.parse_args(words)
    if unknown := set(options.names) - set(names):
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(names)}")
    return options


def end(caught: int, _: object) -> None:
    """What was started here ends, and no second signal comes in between."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + caught)


def main(words: Sequence[str] | None = None) -> int:
    options = parsed(words)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    try:
        if not options.render:
            measure_into(options)
        facts = json.loads(options.result.read_text())
    except (BenchError, OSError) as error:
        say(str(error))
        return 1
    if options.result == RESULT:
        DOCUMENT.write_text(put_into(DOCUMENT.read_text(), facts))
        draw(facts, PICTURE)
        say(f"{DOCUMENT} and {PICTURE} are written")
    return 0


def measure_into(options: argparse.Namespace) -> None:
    """What of other programs stands there already stays, so that one can be measured again."""
    result, rounds = options.result, options.rounds
    chosen = [workload for workload in WORKLOADS if not options.names or workload.name in options.names]
    refuse_missing(chosen)
    swaps.refuse_zswap()
    PAGES.mkdir(parents=True, exist_ok=True)
    known = json.loads(result.read_text())["workloads"] if result.exists() else {}
    for workload in chosen:
        if options.memory and workload.name in known:
            of = known[workload.name]
            of["memory"] = memory_of(workload, median(of["runs"]["free"], "wall_s"), rounds)
        else:
            known[workload.name] = measured(workload, rounds)
        ordered = {one.name: known[one.name] for one in WORKLOADS if one.name in known}
        result.write_text(json.dumps({"machine": machine(), "rounds": rounds, "workloads": ordered}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
