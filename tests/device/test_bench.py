# SPDX-License-Identifier: Apache-2.0
"""zcache bench on emulated devices: every codec of each ARM program, on pages of the device, each got back the same."""

import pytest

from tests.agent.conftest import Zcache
from tests.support import MEASURED
from tools.emulator import Device


@pytest.mark.parametrize(
    ("device", "abi", "page_size"),
    [
        ("arm64", "arm64-v8a", 4096),
        ("arm64", "armeabi-v7a", 4096),
        ("arm64-root", "arm64-v8a", 4096),
        ("arm64-16k", "arm64-v8a", 16384),
    ],
    indirect=["device"],
)
def test_every_codec(device: Device, abi: str, page_size: int) -> None:
    zcache = Zcache({**device.env, "ANDROID_SERIAL": device.serial})
    assert zcache("up", "--abi", abi).code == 0
    told = zcache("--json", "bench", "--pages", 100, "--seconds", 8)
    assert told.code == 0, told.err
    facts = told.json
    assert (facts["source"], facts["page_size"]) == ("device", page_size)
    assert facts["files"] > 0
    codecs = {codec["spec"]: codec for codec in facts["codecs"]}
    assert list(codecs) == MEASURED
    assert all(0 < codec["pages"] <= facts["pages"] for codec in codecs.values())
    assert codecs["lz4"]["ratio"] > codecs["none"]["ratio"] == 1
    assert zcache("down").code == 0
