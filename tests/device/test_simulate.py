# SPDX-License-Identifier: Apache-2.0
"""zcache record on an emulated device, over adb; what is simulated here against the pool there."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.agent.conftest import Zcache
from tests.agent.stream import BATCH, make_pages
from tools.emulator import Device
from zcache_agent.pages import Refusal
from zcache_agent.recording import Recording

PAGES = 1024


@pytest.mark.parametrize(("device", "abi"), [("arm64", "arm64-v8a"), ("arm64", "armeabi-v7a")], indirect=["device"])
def test_a_pool_of_a_device(device: Device, abi: str, tmp_path: Path) -> None:
    zcache = Zcache({**device.env, "ANDROID_SERIAL": device.serial})
    assert zcache("up", "--abi", abi).code == 0
    dump, path = tmp_path / "pages", tmp_path / "p.zcrec"
    dump.write_bytes(b"".join(make_pages(PAGES, 1)))
    for name, allocator in (("p", "zsmalloc"), ("other", "zbud")):
        assert zcache("pool", "create", name, "--allocator", allocator).code == 0

    recorder = zcache.start("record", "p", path, "--every", 8)
    assert recorder.stderr is not None
    assert "recording pool p" in recorder.stderr.readline()
    for name in ("p", "other"):
        assert zcache("replay", dump, "--pool", name, "--keep").code == 0
    time.sleep(1)
    recorder.send_signal(signal.SIGINT)
    _, err = recorder.communicate(timeout=120)
    assert recorder.returncode == 0, err

    recording = Recording.load(path)
    assert (recording.count, recording.lost) == (2 * PAGES, 0)
    assert recording.header["device"]["machine"].startswith(("aarch64", "arm"))
    assert len(set(recording.times)) >= PAGES // BATCH
    facts = zcache("--json", "simulate", path, "--set", "allocator=zbud", "--set", "codec=zstd:3").json
    same, zbud, zstd = facts["variants"]
    for simulated, name in ((same, "p"), (zbud, "other")):
        live = zcache("--json", "stats", f"pools/{name}/stats/*").json
        counters = {key.rpartition("/")[2]: value for key, value in live.items()}
        assert simulated["used_bytes"] == pytest.approx(counters["used_bytes"], rel=0.05)
        assert simulated["refused"] == {
            reason.name: counters[reason.name] for reason in Refusal if counters[reason.name]
        }
        assert simulated["gets_found"] == counters["gets_found"]
    assert zstd["used_bytes"] < same["used_bytes"]
    assert zstd["cpu"]["put_us"] > same["cpu"]["put_us"] > 0
    assert zcache("down", "--force").code == 0
