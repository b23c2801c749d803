# SPDX-License-Identifier: Apache-2.0
"""python -m bench: measure, write build/bench.json and from it docs/benchmarks.md."""

import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.corpora import corpora
from bench.report import render

BENCH, ZCACHED = Path("build/host/zc_bench"), Path("build/host/zcached")
RESULT, DOCUMENT = Path("build/bench.json"), Path("docs/benchmarks.md")
ROUNDS = 25
FEW, MANY = 10_000, 4_000_000
BYTES_A_PAGE = 2600
"""Of memory, at most, for each of MANY pages."""


def main() -> int:
    facts: dict[str, Any] = {"machine": machine(), "rounds": ROUNDS, "corpora": {}, "used": {}}
    files = corpora()
    for file in files:
        say(f"{file.stem}: in process and through the socket")
        facts["corpora"][file.stem] = {
            "inproc": medians(measure("inproc", file, 4096, ROUNDS)),
            "inproc_16k": medians(measure("inproc", file, 16384, ROUNDS)),
            "socket": medians(over_socket(file)),
        }
    for page_size in (4096, 16384):
        say(f"used_bytes with pages of {page_size}")
        facts["used"][str(page_size)] = measure("used", files[0], page_size)
    facts["scale"] = scale(files[0])
    RESULT.write_text(json.dumps(facts, indent=1) + "\n")
    DOCUMENT.write_text(render(facts))
    say(f"{RESULT} and {DOCUMENT} are written")
    return 0


def say(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)


def measure(*words: object) -> dict[str, Any]:
    command = [str(word) for word in (BENCH, *words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=1800)
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def medians(facts: dict[str, Any]) -> dict[str, Any]:
    """Of each series, and of the ratios to LZ4 alone, round by round."""
    result: dict[str, Any] = {}
    for name, value in facts.items():
        result[name] = round(statistics.median(value), 1) if isinstance(value, list) else value
        where, _, rest = name.partition("_")
        if isinstance(value, list) and where != "lz4" and f"lz4_{rest}" in facts:
            result[f"{name.removesuffix('_ns')}_ratio"] = ratio(value, facts[f"lz4_{rest}"])
    return result


def ratio(series: list[float], to: list[float]) -> float:
    """The median of the rounds' ratios."""
    return round(statistics.median(a / b for a, b in zip(series, to, strict=True)), 3)


def over_socket(file: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "run"
        start = [str(ZCACHED), "run", "--dir", str(directory), "--detach"]
        subprocess.run(start, stdout=subprocess.DEVNULL, check=True, timeout=30)
        try:
            create = b"set pools/create name=bench kind=persistent\nset pools/bench/params/zv_max_mean_zsize 100%\n"
            subprocess.run(
                [ZCACHED, "bridge", "control", "--dir", directory],
                input=create,
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=30,
            )
            return measure("socket", file, directory, "bench", ROUNDS)
        finally:
            pid = int((directory / "zcached.lock").read_text())
            subprocess.run(["kill", str(pid)], check=True)


def scale(file: Path) -> dict[str, Any]:
    available = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable")
    )
    many = min(MANY, int(available * 0.8) // BYTES_A_PAGE)
    say(f"put and get with {FEW} and with {many} pages stored")
    facts = measure("scale", file, 4096, FEW, many, ROUNDS)
    ratios = {f"{op}_ratio": ratio(facts[f"many_{op}_ns"], facts[f"few_{op}_ns"]) for op in ("put", "get")}
    return medians(facts) | ratios


def machine() -> str:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return f"{cpu}, Linux {platform.release().split('-')[0]}, {platform.machine()}"


if __name__ == "__main__":
    sys.exit(main())
