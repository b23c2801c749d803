# SPDX-License-Identifier: Apache-2.0
"""Mutations of small seeds through both parsers, under the sanitizers; `make soak` runs more and other ones."""

import os
import secrets
import subprocess
from pathlib import Path

import pytest

from tests.native.driver import program

SEEDS = Path(__file__).with_name("seeds")
RUNS = {"control": 20000, "data": 6000}
SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"


@pytest.mark.parametrize("config", ["host-asan", "host-tsan"])
@pytest.mark.parametrize("plane", ["control", "data"])
def test_fuzz(plane: str, config: str) -> None:
    runs, seed = (RUNS[plane] * 100, secrets.randbits(32)) if SOAK else (RUNS[plane], 1)
    files = sorted(str(path) for path in (SEEDS / plane).iterdir())
    command = [str(program(config, f"fuzz_{plane}")), str(runs), str(seed), *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=None if SOAK else 280, check=False)
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-4000:]}"
    assert done.stdout == f"{runs} runs on {len(files)} seeds\n"
