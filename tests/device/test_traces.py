# SPDX-License-Identifier: Apache-2.0
"""The saved traces on ARM: the same answers, the same zpage sizes, as on the host."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.native.traces import TRACES, answers, comparable, page_size, requests
from tests.support import BUILD
from tools.emulator import Device

OS_PAGE_SIZE = {"arm64": 4096, "arm64-root": 4096, "arm64-16k": 16384}
FOLDER = "/data/local/tmp/traces"


@pytest.fixture
def folder(device: Device) -> Iterator[str]:
    device.shell(f"mkdir -p {FOLDER}")
    yield FOLDER
    device.shell(f"rm -r {FOLDER}")


@pytest.mark.parametrize("abi", ["arm64-v8a", "armeabi-v7a"])
@pytest.mark.parametrize("device", ["arm64", "arm64-16k"], indirect=True)
def test_traces(device: Device, folder: str, abi: str, tmp_path: Path) -> None:
    if abi == "armeabi-v7a" and OS_PAGE_SIZE[device.target] != 4096:
        assert device.shell("zcat /proc/config.gz | grep CONFIG_COMPAT=y").exit_code != 0
        return  # a kernel of 16 KiB pages runs no 32-bit programs
    device.push(BUILD / abi / "zc_driver", f"{folder}/zc_driver")
    ran = 0
    for trace in TRACES:
        if page_size(trace) < OS_PAGE_SIZE[device.target]:
            continue
        here = tmp_path / "requests"
        here.write_text(requests(trace))
        device.push(here, f"{folder}/requests", 0o644)
        done = device.shell(f"{folder}/zc_driver <{folder}/requests", timeout=120)
        assert comparable(done.output) == answers(trace), trace.stem
        ran += 1
    assert ran >= 3
