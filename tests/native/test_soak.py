# SPDX-License-Identifier: Apache-2.0
"""A short soak; SOAK_SECONDS makes it longer."""

import os

import pytest

from tests.native.driver import program
from tools.soak import heap_shortcomings, render, shortcomings, soak, soak_heaps

SECONDS = float(os.environ.get("SOAK_SECONDS") or 20)


HEAP_SECONDS = SECONDS / 10


@pytest.mark.minutes((SECONDS + HEAP_SECONDS) / 60)
@pytest.mark.timeout(int(SECONDS + HEAP_SECONDS) * 2 + 300)
def test_everything_at_once_for_a_while() -> None:
    facts = soak(program("host", "zc_soak"), SECONDS, seed=4)
    assert list(shortcomings(facts)) == []
    assert facts["restarts"] > 0
    assert facts["recompressed"] > 0 or SECONDS < 60
    assert facts["compared"] > 0
    hit = [count > 0 for count in facts["faults"].values()]
    assert all(hit) if SECONDS >= 60 else any(hit), facts["faults"]
    heaps = soak_heaps(program("host", "zc_heap"), HEAP_SECONDS, seed=4)
    assert list(heap_shortcomings(heaps)) == []
    record = render(facts, heaps)
    assert f"{facts['ops']['put']} puts" in record
    assert f"| {heaps[0]['ops']} | {heaps[0]['evicted']} |" in record


@pytest.mark.minutes(0.5)
@pytest.mark.parametrize("config", ["host-asan", "host-tsan"])
def test_under_the_sanitizers(config: str) -> None:
    """What the OS counts is theirs, too."""
    facts = soak(program(config, "zc_soak"), 10, seed=1, keys=2000)
    assert facts["disturbances"] > 0
