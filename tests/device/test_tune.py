# SPDX-License-Identifier: Apache-2.0
"""zcache tune on an emulated device: one command, from a device without a daemon to a config."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.agent.conftest import Zcache, fails
from tools.emulator import Device
from zcache_agent.transport import open_transport
from zcache_agent.workloads import WORKLOADS, available, running


def test_from_a_device_to_a_config(arm64: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sizes, times and flash are the device's own. How long it takes is printed."""
    zcache = Zcache({**arm64.env, "ANDROID_SERIAL": arm64.serial})
    for name, value in arm64.env.items():
        monkeypatch.setenv(name, value)
    transport = open_transport(arm64.serial, 300)
    workload = next(one for one in WORKLOADS if one.name == "awk" and one in available(transport))
    config, facts_file = tmp_path / "tuned.toml", tmp_path / "facts.json"
    try:
        with running(transport, workload, 2) as pid:
            started = time.monotonic()
            words = ("--pid", pid, "--pages", 400, "--seconds", 90, "--goal", "density", "--scratch", "/data/local/tmp")
            told = zcache("tune", *words, "--save", config, "--save-facts", facts_file)
        print(f"zcache tune on an emulated device: {time.monotonic() - started:.0f} s\n{told.out}")
        assert told.code == 0, told.err
        assert "started zcached" in told.err
        facts = json.loads(facts_file.read_text())
        assert (facts["sampled"], facts["keeps_defaults"]) == (400, False)
        assert facts["flash_mb_s"] > 0
        assert facts["recommended"]["settings"]["allocator"] == "zsmalloc"
        assert facts["gain"]["low"] > 0
        assert arm64.serial in facts["measured_on"]
        assert "allocator" in config.read_text()
        fails(zcache("-q", "tune", "--for", "zswap", "--pages", 20), 5, "no zswap")
    finally:
        assert zcache("down", "--force").code == 0
