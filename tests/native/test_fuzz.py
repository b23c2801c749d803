# SPDX-License-Identifier: Apache-2.0
"""Mutations of small seeds through what reads strange bytes, under the sanitizers; `make explore` runs more."""

import os
import secrets
import subprocess
from pathlib import Path

import pytest

from tests.native.driver import ENVIRONMENT, program

SEEDS = Path(__file__).with_name("seeds")
RUNS = {"control": 20000, "data": 6000, "codec": 6000, "backing": 3000, "swap": 20000, "line": 3000}
EXPLORES = os.environ.get("HYPOTHESIS_PROFILE") == "explore"


@pytest.mark.minutes(0.5)
@pytest.mark.parametrize(("config", "part"), [("host-asan", 1), ("host-tsan", 4)])
@pytest.mark.parametrize("what", list(RUNS))
def test_fuzz(what: str, config: str, part: int) -> None:
    """What is read wrongly, ASan and UBSan see; TSan, many times as slow, is for what other threads do meanwhile."""
    runs, seed = (RUNS[what] * 100, secrets.randbits(32)) if EXPLORES else (RUNS[what] // part, 1)
    files = sorted(str(path) for path in (SEEDS / what).iterdir())
    command = [str(program(config, f"fuzz_{what}")), str(runs), str(seed), *files]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=None if EXPLORES else 280,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-4000:]}"
    assert done.stdout == f"{runs} runs on {len(files)} seeds\n"
