# SPDX-License-Identifier: Apache-2.0
"""zcache out of the wheel, in a venv and a folder where nothing else of this tree is, on emulated devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import release
from tests.agent.conftest import Zcache
from tools.emulator import Device


@pytest.fixture
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return release.venv(tmp_path_factory)


def lives(zcache: Zcache, folder: Path, *abi: str) -> None:
    """Deployed, used, gone."""
    pages = folder / "pages"
    pages.write_bytes(b"".join(f"{page}".encode().ljust(32768, b".") * 2 for page in range(8)))
    started = zcache("up", *abi)
    assert started.code == 0, started
    assert zcache("pool", "create", "p").code == 0
    replayed = zcache("replay", pages, "--pool", "p", "--json")
    assert (replayed.code, replayed.json["pages"] in (128, 32)) == (0, True), replayed
    ended = zcache("down", "--force")
    assert ended.code == 0, ended


def test_it_deploys_to_a_device(device: Device, venv: Path, tmp_path: Path) -> None:
    lives(release.zcache(venv, tmp_path, {**device.env, "ANDROID_SERIAL": device.serial}), tmp_path)


def test_it_deploys_its_32_bit_binary_from_windows(arm64: Device, venv: Path, tmp_path: Path) -> None:
    """As far as Linux can play that: tests/dist/hosts.py."""
    zcache = release.zcache(venv, tmp_path, {**arm64.env, "ANDROID_SERIAL": arm64.serial}, "Windows")
    lives(zcache, tmp_path, "--abi", "armeabi-v7a")
