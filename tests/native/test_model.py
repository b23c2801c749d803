# SPDX-License-Identifier: Apache-2.0
"""The store against its model: every operation, 4, 16 and 64 KiB pages, plain and under the sanitizers."""

import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.native.driver import CONFIGS, program
from tests.native.machine import StoreMachine

EXAMPLES = {"host": 200, "host-asan": 75, "host-tsan": 40}
FEW_EXAMPLES = 10
"""For tsan with large pages, which are minutes of copying."""
REFUSALS = ["compress_poor", "mean_compress_poor", "policy_percent_exceeded"]
REACHED = {
    *[f"puts {word}" for word in ("stored", *REFUSALS)],
    *[f"{get} {word}" for get in ("get", "gets", "peek", "peeks") for word in ("page", "err")],
    *[f"{flush} {word}" for flush in ("flush", "flushes") for word in ("ok", "err")],
    *["put stored", "put compress_poor", "flobjs pages", "destroy pages", "destroy err", "pool err"],
    *["puts poor_run_refused", "put-inactive eph_nonactive_puts_ignored", "put-inactive stored"],
    *[
        "codec ok",
        "codec err",
        "compact frames",
        "reclaim frames",
        "recompress frames",
        "recompress-idle frames",
        "check ok",
        "writeback_limit pages",
        "writeback_pressure pages",
        "writeback_idle pages",
        "cold_after pages",
    ],
}
"""What a run of many examples must have come by, or it proves nothing."""
EXPLORES = 50 if os.environ.get("HYPOTHESIS_PROFILE") == "explore" else 1


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.minutes(1)
@pytest.mark.timeout(1800)
def test_store_behaves_as_its_model(config: str, page_size: int) -> None:
    program(config)
    machine: type[StoreMachine] = type(
        "Machine", (StoreMachine,), {"config": config, "page_size": page_size, "reached": Counter()}
    )
    few = config == "host-tsan" and page_size > 4096
    mine = settings(
        max_examples=(FEW_EXAMPLES if few else EXAMPLES[config]) * EXPLORES,
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=mine)
    assert config != "host" or set(machine.reached) >= REACHED
