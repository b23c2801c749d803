# SPDX-License-Identifier: Apache-2.0
"""Simulations of streams made by chance; and their codec, which must be in no daemon."""

import subprocess
from pathlib import Path

import pytest

from tests.native.driver import ENVIRONMENT, program


@pytest.mark.parametrize(("config", "seed"), [("host", 1), ("host", 2), ("host-asan", 3), ("host-tsan", 4)])
def test_simulations(config: str, seed: int, tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 1000000 kB\nMemAvailable: 1000000 kB\n")
    command = [str(program(config, "zc_sim")), str(seed), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("config", ["host", "host-asan"])
def test_no_daemon_has_the_codec(config: str, tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(b"a page  " * 512)
    command = [str(program(config, "zcached")), "bench", "--file", str(tmp_path / "page"), "--codec", "simulated"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=ENVIRONMENT)
    assert done.returncode == 2
    assert "codec 'simulated': not one of " in done.stderr
