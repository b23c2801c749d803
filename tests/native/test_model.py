# SPDX-License-Identifier: Apache-2.0
"""The store against its model: every operation, 4, 16 and 64 KiB pages, plain and under the sanitizers."""

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.native.driver import CONFIGS, program
from tests.native.machine import StoreMachine

EXAMPLES = {"host": 100, "host-asan": 40, "host-tsan": 20}
SOAK = 50 if os.environ.get("HYPOTHESIS_PROFILE") == "soak" else 1


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.timeout(600)
def test_store_behaves_as_its_model(config: str, page_size: int) -> None:
    program(config)
    machine = type("Machine", (StoreMachine,), {"config": config, "page_size": page_size})
    mine = settings(
        max_examples=EXAMPLES[config] * SOAK,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=mine)
