# SPDX-License-Identifier: Apache-2.0
"""Many threads in one store."""

import subprocess

import pytest

from tests.native.driver import CONFIGS, program

OPS = {"host": 30000, "host-asan": 8000, "host-tsan": 2500}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("config", CONFIGS)
def test_threads_in_one_store(config: str, seed: int) -> None:
    stress = program(config, "zc_stress")
    done = subprocess.run(
        [stress, "4", str(OPS[config]), str(seed)], capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "pages checked" in done.stdout
