# SPDX-License-Identifier: Apache-2.0
"""The compressed heap on ARM, in programs of 64 and of 32 bits, with what the kernel offers and without."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.native.test_heap import counts_of
from tests.support import BUILD
from tools.emulator import Device

FOLDER = "/data/local/tmp/heap"
SIGBUS, SIGSEGV = 7, 11


@pytest.fixture
def program(device: Device, abi: str) -> Iterator[str]:
    device.shell(f"mkdir -p {FOLDER}")
    device.push(BUILD / abi / "zc_heap", f"{FOLDER}/zc_heap")
    yield f"cd {FOLDER} && ./zc_heap"
    device.shell(f"rm -r {FOLDER}")


@pytest.mark.parametrize(
    ("device", "abi"),
    [("arm64", "arm64-v8a"), ("arm64", "armeabi-v7a"), ("arm64-16k", "arm64-v8a")],
    indirect=["device"],
)
def test_it_works_as_on_the_host(device: Device, program: str, abi: str) -> None:
    """As adb's shell. Linux 6.12 has UFFDIO_MOVE and UFFDIO_POISON, for 32-bit programs too."""

    def run(words: str, status: int = 0) -> str:
        done = device.shell(f"{program} {words}", timeout=120)
        assert done.exit_code == status, done.output
        return done.output

    for how, offered in (("sigbus move", 1), ("thread remap", 0), ("caller bare", 0)):
        got = counts_of(run(f"rules {how}"))
        assert (got["move"], got["delegated"], got["refused"]) == (offered, 0, 0)
        assert got["poison"] == (not how.endswith("bare"))
    for how in ("thread move", "sigbus move", "sigbus remap"):
        got = counts_of(run(f"stress {how} lz4 3 200 1 1048576"))
        assert min(got["new"], got["stored"], got["evicted"]) > 0
        assert counts_of(run(f"signals {how}"))["stored"] > 0
    assert counts_of(run("delegated sigbus move store"))["delegated"] == 18
    run("lost sigbus move", 128 + SIGBUS)
    run("lost thread move", 128 + SIGBUS)
    run("lost thread bare", 128 + SIGSEGV)
    run("handed-on")
    assert "CONFIG_USERFAULTFD" in run("forbidden NOSYS")
