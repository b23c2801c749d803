# SPDX-License-Identifier: Apache-2.0
"""The saved traces on ARM: the same answers, the same zpage sizes, as on the host."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.native.traces import TRACES, answers, comparable, page_size, requests
from tests.support import BUILD
from tools.emulator import Device

OS_PAGE_SIZE = {"arm64": 4096, "arm64-16k": 16384}
FOLDER = "/data/local/tmp/traces"


@pytest.fixture
def folder(device: Device) -> Iterator[str]:
    device.shell(f"mkdir -p {FOLDER}")
    yield FOLDER
    device.shell(f"rm -r {FOLDER}")


@pytest.mark.parametrize("abi", ["arm64-v8a", "armeabi-v7a"])
@pytest.mark.parametrize("device", list(OS_PAGE_SIZE), indirect=True)
def test_traces(device: Device, folder: str, abi: str, tmp_path: Path) -> None:
    device.push(BUILD / abi / "zc_driver", f"{folder}/zc_driver")
    os_page_size = OS_PAGE_SIZE[device.target]
    assert device.shell(f"echo store {os_page_size // 2} | {folder}/zc_driver").output == "err EINVAL\n"
    ran = 0
    for trace in TRACES:
        if page_size(trace) < os_page_size:
            continue
        here = tmp_path / "requests"
        here.write_text(requests(trace))
        device.push(here, f"{folder}/requests", 0o644)
        done = device.shell(f"{folder}/zc_driver <{folder}/requests", timeout=120)
        assert comparable(done.output) == answers(trace), trace.stem
        ran += 1
    assert ran >= 3
