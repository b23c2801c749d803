# SPDX-License-Identifier: Apache-2.0
"""Two devices at once: through an adb server that is elsewhere, and when one is unplugged meanwhile."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.agent.conftest import ZCACHE, Result, Zcache, fails
from tests.device import far
from tools.emulator import Device

_SMALL_MB = 192


@dataclass
class Pair:
    kept: Device
    lost: Device
    zcache: Zcache

    @property
    def serials(self) -> list[str]:
        return [self.kept.serial, self.lost.serial]


@pytest.fixture
def pair(arm64_root: Device, boot_device: Callable[..., Device]) -> Iterator[Pair]:
    """The shared device, and one of the test's own at the same adb server, which the test pulls the plug of."""
    server = arm64_root.server
    both = Pair(arm64_root, boot_device("arm64-root", mem_mb=_SMALL_MB, server=server), Zcache(server.env))
    yield both
    assert both.zcache("-s", arm64_root.serial, "down", "--force").code == 0


def test_two_devices_from_afar_and_one_is_unplugged(pair: Pair, tmp_path: Path) -> None:
    with far.adb_server(tmp_path / "adb", pair.kept.server.port) as begin:
        _from_afar(pair, begin)
    _unplugged(pair)


def _from_afar(pair: Pair, begin: list[str]) -> None:
    """Where nothing listens but the adb server: whatever went through a port of localhost would fail."""

    def zcache(*arguments: object) -> Result:
        server = {"ADB_SERVER_SOCKET": f"tcp:{far.HOST}:{pair.kept.server.port}"}
        command = [*begin, ZCACHE, *map(str, arguments)]
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=300, check=False, env=pair.zcache.environment | server
        )
        return Result(ran.returncode, ran.stdout, ran.stderr)

    started = zcache("-s", "all", "up", "--json")
    assert started.code == 0, started
    assert sorted(started.json["devices"]) == sorted(pair.serials)
    assert zcache("-s", "all", "pool", "create", "swap").code == 0
    shown = zcache("-s", ",".join(pair.serials), "stats", "*/puts").out.splitlines()
    assert [line.split() for line in shown[1:]] == [[serial, "pools/swap/stats/puts", "0"] for serial in pair.serials]
    found = zcache("-s", "all", "analyze", "--pages", 100, "--seconds", 5, "--json")
    assert found.code == 0, found
    assert all(facts["total"]["sampled"] > 0 for facts in found.json["devices"].values())


def _unplugged(pair: Pair) -> None:
    names = ",".join(pair.serials)
    sampling = pair.zcache.start("-s", names, "analyze", "--seconds", 20)
    assert sampling.stderr is not None
    for _ in pair.serials:
        assert "sampling on" in sampling.stderr.readline()
    pair.lost.kill()
    out, err = sampling.communicate(timeout=300)
    fails(Result(sampling.returncode, out, err), 3, f"1 of 2 devices failed: {pair.lost.serial}")
    good, bad = out.splitlines()[1:]
    assert good.startswith(pair.kept.serial)
    assert "lz4 " in good
    assert bad.startswith(pair.lost.serial)
    assert "lz4 " not in bad
    status = pair.zcache("-s", names, "status", "--json", "--timeout", 20)
    assert status.code == 3, status
    assert status.json["devices"][pair.kept.serial]["pools"] == {"swap": "persistent"}
