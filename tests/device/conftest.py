# SPDX-License-Identifier: Apache-2.0
"""Booted devices: one a target and session, shared by its tests, of which one is alive at a time.

A test names its device by a fixture: `device` (each target of `targets`), `arm64`, `arm64_root`, `arm64_16k`, or
boots its own with `boot_device`, where it kills, stops or fills it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import require_or_skip
from tools.emulator import TARGETS, Device, EmulatorError, SlowDisk, boot

DISK_MB = 32
"""Of /dev/vda and /dev/vdb, which a shared device has."""
SLOW = SlowDisk(DISK_MB, 4 * 1024 * 1024)
"""Its /dev/vdc."""

_FIXTURES = {"arm64": "arm64", "arm64_root": "arm64-root", "arm64_16k": "arm64-16k"}
_booted: dict[str, Device | str] = {}
"""By target; a text where it did not boot: why."""


def _target_of(item: pytest.Item) -> str:
    for fixture, target in _FIXTURES.items():
        if fixture in getattr(item, "fixturenames", ()):
            return target
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("device", "")) if callspec else ""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one target together, in the places where device tests stood."""
    places = [place for place, item in enumerate(items) if "device" in item.path.parts]
    ordered = sorted((items[place] for place in places), key=_target_of)
    for place, item in zip(places, ordered, strict=True):
        item.add_marker(pytest.mark.minutes(8))
        items[place] = item


def _shared(target: str) -> Device:
    for other, device in list(_booted.items()):
        if other != target and isinstance(device, Device):
            device.stop()
            del _booted[other]
    if target not in _booted:
        try:
            _booted[target] = boot(target, disks=[DISK_MB, DISK_MB, SLOW])
        except EmulatorError as error:
            _booted[target] = str(error)
    there = _booted[target]
    if isinstance(there, str):
        require_or_skip("devices", there)
    assert isinstance(there, Device)
    return there


@pytest.fixture(params=list(TARGETS))
def device(request: pytest.FixtureRequest) -> Device:
    return _shared(request.param)


@pytest.fixture
def arm64() -> Device:
    return _shared("arm64")


@pytest.fixture
def arm64_root() -> Device:
    return _shared("arm64-root")


@pytest.fixture
def arm64_16k() -> Device:
    return _shared("arm64-16k")


@pytest.fixture
def boot_device() -> Iterator[Callable[..., Device]]:
    """boot() whose devices end with the test."""
    mine: list[Device] = []

    def start(target: str, **options: Any) -> Device:  # noqa: ANN401 - boot()'s own
        try:
            mine.append(boot(target, **options))
        except EmulatorError as error:
            require_or_skip("devices", str(error))
        return mine[-1]

    yield start
    for one in mine:
        one.stop()


def pytest_sessionfinish() -> None:
    for device in _booted.values():
        if isinstance(device, Device):
            device.stop()
    _booted.clear()
