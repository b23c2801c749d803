# SPDX-License-Identifier: Apache-2.0
"""Hypothesis profiles, the order of tests, and how many ran per folder and target."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support import REQUIREMENTS

pytest.register_assert_rewrite("tests.native.machine")  # says what differs

# No deadline anywhere: the wall time of a test asserts nothing.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile(
    "explore",
    deadline=None,
    max_examples=2000,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_configure() -> None:
    wanted = set(filter(None, os.environ.get("ZCACHE_REQUIRE", "").split(",")))
    if unknown := wanted - set(REQUIREMENTS):
        raise pytest.UsageError(f"ZCACHE_REQUIRE={','.join(sorted(unknown))}: choose from {','.join(REQUIREMENTS)}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest starts first: in the end no worker has much left while the others have nothing.

    A test parametrized with `target` or `device` is counted under that.
    """
    items.sort(key=_minutes, reverse=True)
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            target = item.callspec.params.get("target") or item.callspec.params.get("device")
            if target is not None:
                item.user_properties.append(("target", str(target)))


OWN_DEVICES = tuple(
    f"tests/device/{name}"
    for name in (
        "test_swap.py",
        "test_agent_lost.py",
        "test_ondevice.py",
        "test_config.py::test_settings",
        "test_install.py::TestBoard",
    )
)
"""Which share no device with others, and take minutes."""
LINE = "tests/device/test_serial.py"
"""Which waits for bytes most of the time."""


class Scheduling(LoadScopeScheduling):  # type: ignore[misc] # it has no types
    """Each worker gets a test at a time, but one of them all that share devices, one those that boot their own."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(OWN_DEVICES):
            return "own devices"
        if nodeid.startswith(LINE):
            return "a line"
        return "devices" if nodeid.startswith("tests/device/") else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    return Scheduling(config, log)


def _minutes(item: pytest.Item) -> float:
    mark = item.get_closest_marker("minutes")
    return float(mark.args[0]) if mark else 0


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    groups: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "error", "skipped", "xfailed"):
        for report in terminalreporter.getreports(outcome):
            folder = report.nodeid.partition("::")[0].rpartition("/")[0]
            target = dict(getattr(report, "user_properties", ())).get("target")
            group = f"{folder} on {target}" if target else folder
            groups.setdefault(group, Counter())[outcome] += 1
    terminalreporter.section("tests per target")
    for group, outcomes in sorted(groups.items()):
        counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
        terminalreporter.line(f"{group}: {counts}")
