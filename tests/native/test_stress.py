# SPDX-License-Identifier: Apache-2.0
"""Many threads in one store."""

import subprocess
from pathlib import Path

import pytest

from tests.native.driver import CONFIGS, program

MIB = 1024 * 1024
OPS = {"host": 30000, "host-asan": 8000, "host-tsan": 2500}


@pytest.mark.parametrize(("page_size", "limit"), [(4096, 0), (16384, 8 * MIB)])
@pytest.mark.parametrize("config", CONFIGS)
def test_threads_in_one_store(config: str, page_size: int, limit: int, tmp_path: Path) -> None:
    """The limit is one that is reached all the time."""
    command = [str(program(config, "zc_stress")), "4", str(OPS[config]), "1", str(page_size), str(limit), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "pages checked" in done.stdout
    assert " 0 written back" not in done.stdout
    assert " 0 made cold" not in done.stdout
    assert " 0 under pressure" not in done.stdout
    assert " 0 idle" not in done.stdout
    assert limit == 0 or " 0 pages at the limit" not in done.stdout
