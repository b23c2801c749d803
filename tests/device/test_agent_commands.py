# SPDX-License-Identifier: Apache-2.0
"""The agent's commands on emulated devices, through real adbd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agent.conftest import Result, Zcache, fails
from tools.emulator import Device
from zcache_agent.device import Rights, find_root, look, run_script
from zcache_agent.transport import Transport, open_transport


@pytest.fixture
def zcache(device: Device) -> Zcache:
    return Zcache({**device.env, "ANDROID_SERIAL": device.serial})


@pytest.fixture
def transport(device: Device, monkeypatch: pytest.MonkeyPatch) -> Transport:
    for name, value in device.env.items():
        monkeypatch.setenv(name, value)
    return open_transport(device.serial, 60)


@pytest.fixture
def running(zcache: Zcache, transport: Transport) -> Iterator[Callable[..., Result]]:
    """A daemon on the device, and the command that speaks with it. Nothing of it is left in the end."""
    started = zcache("up")
    assert started.code == 0, started.err
    yield zcache
    ended = zcache("down", "--force")
    assert ended.code == 0, ended.err
    assert left_on(transport) == ""


def left_on(transport: Transport) -> str:
    """What zcache left on the device: files, processes."""
    script = "ls -d /data/local/tmp/*zcache* /data/local/tmp/.zcache* /tmp/*zcache* /data/adb/* /var/lib/zcache/*"
    files = run_script(transport, f"{script} 2>/dev/null").text
    processes = run_script(transport, "grep -l '(zcached)' /proc/[0-9]*/stat 2>/dev/null").text
    return files + processes


def home(transport: Transport) -> str:
    """Where the daemon is to live."""
    if not look(transport).is_root:
        return "/data/local/tmp/zcache"
    return run_script(transport, "[ -d /data/adb ] && echo /data/adb/zcache || echo /var/lib/zcache").text


def test_a_life(running: Callable[..., Result], transport: Transport, device: Device) -> None:
    facts = running("status", "--json").json
    root = look(transport).is_root
    assert facts["directory"] == home(transport)
    assert (facts["user"], facts["dies_with_adbd"]) == (("root", False) if root else ("shell", True))
    assert facts["page_size"] == look(transport).page_size
    again = running("up")
    assert "runs already" in again.out
    assert ("adbd" in again.err) == ("adbd" in running("status").out) == (not root)
    assert any("serves" in line for line in running("log", "--json").json)
    versions = running("version", "--json").json
    assert versions["daemon"] == versions["agent"]
    states = {row["serial"]: row["state"] for row in running("devices", "--json").json}
    assert states[device.serial] == "device"
    assert running("wait", "--daemon").code == 0


def test_the_tree(running: Callable[..., Result]) -> None:
    assert "pools/" in running("ls").out.splitlines()
    assert running("pool", "create", "swap").code == 0
    half = running("cat", "page_size", "--json").json["page_size"] // 2
    path = "pools/swap/params/zv_max_zsize"
    assert running("set", path, "1/2", "--json").json == {path: half}
    fails(running("set", path, "-1"), 5, "-1")
    assert running("stats", "pools/swap/stats/puts", "--json").json == {"pools/swap/stats/puts": 0}
    assert running("params", "pools/swap/*", "--json").json[path]["value"] == half
    assert [pool["name"] for pool in running("pool", "list", "--json").json] == ["swap"]
    assert running("pool", "destroy", "swap").code == 0
    fails(running("pool", "show", "swap"), 5, "swap")


def test_another_page_size(running: Callable[..., Result]) -> None:
    fails(running("up", "--page-size", 65536), 4, "65536", "--replace")
    assert running("up", "--page-size", 65536, "--replace", "--json").json["page_size"] == 65536
    assert running("cat", "page_size").out == "65536\n"


def test_doctor_and_bugreport(zcache: Zcache, transport: Transport, tmp_path: Path) -> None:
    result = zcache("doctor", "--json")
    assert result.code == 0, result.err
    facts = result.json
    assert facts["device"]["abis"][0] == "arm64-v8a"
    assert facts["device"]["page_size"] == facts["probe"]["page_size"]
    assert facts["uses"][0]["allowed"] is True
    for use in facts["uses"]:
        assert use["allowed"] or (use["why"] and use["change"]), use
    file = tmp_path / "report.tar.gz"
    assert zcache("bugreport", file).code == 0
    assert file.stat().st_size > 0
    assert left_on(transport) == ""


def test_refusals_leave_nothing(zcache: Zcache, transport: Transport) -> None:
    fails(zcache("status"), 4, "zcache up")
    fails(zcache("log"), 4, "zcache up")
    fails(zcache("up", "--abi", "x86_64"), 4, "x86_64", "arm64-v8a")
    fails(zcache("up", "--page-size", 5000), 4, "5000")
    assert zcache("down").code == 0
    assert left_on(transport) == ""


@pytest.mark.parametrize("device", ["arm64"], indirect=True)
class TestUnprivileged:
    def test_root_that_is_not_to_be_had(self, zcache: Zcache, transport: Transport) -> None:
        assert find_root(transport, 2000).rights is None
        fails(zcache("up", "--root"), 4, "no root", "su -c", "su 0")
        fails(zcache("up", "--adb-root"), 4, "adb root", "cannot")
        assert left_on(transport) == ""

    def test_armv7_on_armv8(self, zcache: Zcache) -> None:
        assert zcache("up", "--abi", "armeabi-v7a").code == 0
        assert zcache("status").code == 0
        assert zcache("down").code == 0


@pytest.mark.parametrize("device", ["arm64-root"], indirect=True)
class TestRoot:
    @pytest.fixture
    def small(self, transport: Transport) -> Iterator[int]:
        """The root daemon's directory with too little space, in bytes."""
        size = 128 * 1024
        directory = home(transport)
        made = run_script(transport, f"mkdir -p {directory} && mount -t tmpfs -o size={size} none {directory}")
        assert made.code == 0, made.complaint
        yield size
        run_script(transport, f"umount {directory}; rmdir {directory}")

    def test_no_space(self, zcache: Zcache, transport: Transport, small: int) -> None:
        directory = home(transport)
        fails(zcache("up"), 4, "no space", directory, str(small), "needs")
        assert run_script(transport, f"ls -A {directory}").text == ""

    def test_nobody_else_gets_at_it(self, zcache: Zcache, transport: Transport) -> None:
        assert zcache("up").code == 0
        listed = run_script(transport, f"ls -ldn {home(transport)} {home(transport)}/*").text.splitlines()
        assert zcache("down").code == 0
        assert len(listed) >= 4
        for line in listed:
            mode, _, uid = line.split()[:3]
            assert (mode[4:10], uid) == ("------", "0"), line

    def test_the_daemon_is_not_in_adbds_cgroup(self, zcache: Zcache, transport: Transport) -> None:
        assert find_root(transport, 0).rights is Rights.OWN
        pid = zcache("up", "--json").json["pid"]
        groups = run_script(transport, f"cat /proc/{pid}/cgroup").text
        assert zcache("down").code == 0
        assert all(line.endswith(":/") for line in groups.splitlines()), groups
