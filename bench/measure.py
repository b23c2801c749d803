# SPDX-License-Identifier: Apache-2.0
"""zc_bench, the measuring program, and what is made of its numbers."""

import json
import statistics
import subprocess
from typing import Any

from bench.errors import BenchError

BENCH = "build/host/zc_bench"
DEADLINE = 1800

Facts = dict[str, Any]
"""Numbers by their names; a list is a series, one number a round."""


def measure(command: str, *words: object, **options: object) -> Facts:
    """zc_bench COMMAND WORD… --option=VALUE…"""
    flags = [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in options.items()]
    done = subprocess.run([BENCH, command, *map(str, words), *flags], stdout=subprocess.PIPE, timeout=DEADLINE)
    if done.returncode != 0:
        raise BenchError(f"zc_bench {command}: ended with {done.returncode}; what it says is above")
    facts: Facts = json.loads(done.stdout)
    return facts


def medians(facts: Facts) -> Facts:
    """Of each series."""
    return {
        name: round(statistics.median(value), 3) if isinstance(value, list) else value for name, value in facts.items()
    }


def compared(facts: Facts, to: str) -> Facts:
    """Medians, and for each series SIDE_OP_ns the ratio SIDE_OP_ratio to the series TO_OP_ns."""
    result = medians(facts)
    operations = [name.removeprefix(f"{to}_") for name in facts if name.startswith(f"{to}_")]
    for name, series in facts.items():
        for operation in operations:
            base = f"{to}_{operation}"
            if isinstance(series, list) and name.endswith(f"_{operation}") and name != base:
                result[f"{name.removesuffix('_ns')}_ratio"] = ratio(series, facts[base])
    return result


def ratio(series: list[float], to: list[float]) -> float:
    """The median of the rounds' ratios."""
    return round(statistics.median(a / b for a, b in zip(series, to, strict=True)), 3)
