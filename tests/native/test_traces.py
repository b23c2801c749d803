# SPDX-License-Identifier: Apache-2.0
"""Saved traces give the same answers on this machine; tests/device runs them on the others."""

import subprocess
from pathlib import Path

import pytest

from tests.native.driver import CONFIGS, ENVIRONMENT, program
from tests.native.traces import TRACES, answers, comparable, requests


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.stem)
@pytest.mark.parametrize("config", CONFIGS)
def test_trace(config: str, trace: Path) -> None:
    done = subprocess.run(
        [program(config)],
        input=requests(trace),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=ENVIRONMENT,
    )
    assert comparable(done.stdout) == answers(trace)
