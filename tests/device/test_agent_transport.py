# SPDX-License-Identifier: Apache-2.0
"""The adb transport on a real adbd, with the shell protocol and without; and root by a real su."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agent.conftest import Zcache, fails
from tools.emulator import Device
from zcache_agent.device import Rights, find_root
from zcache_agent.errors import DaemonAbsent, NoDevice
from zcache_agent.transport.adb import AdbTransport

CONTENT = random.Random(1).randbytes(300_001)


def connect(device: Device, monkeypatch: pytest.MonkeyPatch) -> AdbTransport:
    for name, value in device.env.items():
        monkeypatch.setenv(name, value)
    return AdbTransport(device.serial, 60)


@pytest.fixture(params=["shell protocol", "exec"])
def transport(request: pytest.FixtureRequest, arm64: Device, monkeypatch: pytest.MonkeyPatch) -> AdbTransport:
    transport = connect(arm64, monkeypatch)
    if request.param == "exec":
        vars(transport)["features"] = frozenset()  # as an adbd before Android 7 says
    return transport


def test_commands(transport: AdbTransport) -> None:
    ran = transport.run(["sh", "-c", "printf '%s\\n' \"$@\"; echo no >&2; exit 7", "sh", "a b", "$HOME", "'", ""])
    assert ran.code == 7
    assert ran.stdout.startswith(b"a b\n$HOME\n'\n\n")
    assert b"no" in ran.stderr + ran.stdout
    assert transport.run(["nope"]).code == 127


def test_a_command_that_takes_too_long(transport: AdbTransport) -> None:
    with pytest.raises(NoDevice) as caught:
        transport.run(["sleep", "30"], timeout=1)
    assert caught.value.name == "timeout"


def test_files(transport: AdbTransport, tmp_path: Path) -> None:
    file, there = tmp_path / "file", "/data/local/tmp/blob"
    file.write_bytes(CONTENT)
    told: list[tuple[int, int]] = []
    transport.push(file, there, 0o700, lambda done, size: told.append((done, size)))
    try:
        assert told[-1] == (len(CONTENT), len(CONTENT))
        assert transport.pull(there, len(CONTENT)) == CONTENT
        assert transport.pull(there, 1000) == CONTENT[:1000]
        assert transport.run(["cat", there]).stdout == CONTENT
    finally:
        transport.run(["rm", there])
    with pytest.raises(FileNotFoundError):
        transport.pull(there, 1)
    with pytest.raises(PermissionError):
        transport.push(file, "/blob", 0o700)


def test_streams_leave_bytes_as_they_are(transport: AdbTransport) -> None:
    stream = transport.open_command(["sh", "-c", "echo not this >&2; exec cat"])
    sent, got = CONTENT[:50_000], b""
    stream.write(sent)
    while len(got) < len(sent):
        got += stream.read(65536)
    assert got == sent
    stream.close()


def test_a_stream_ends_with_its_command(transport: AdbTransport) -> None:
    stream = transport.open_command(["echo", "ok"])
    assert (stream.read(100), stream.read(100)) == (b"ok\n", b"")


def test_nobody_listens(transport: AdbTransport) -> None:
    with pytest.raises(DaemonAbsent):
        transport.open_socket("@zcache-nope-control")


class TestSu:
    @pytest.fixture
    def device(self, boot_device: Callable[..., Device]) -> Device:
        return boot_device("arm64", mem_mb=256, su=True)

    @pytest.fixture
    def zcache(self, device: Device) -> Zcache:
        return Zcache(device.env)

    def test_a_root_daemon_behind_an_unprivileged_adbd(
        self, device: Device, zcache: Zcache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        transport = connect(device, monkeypatch)
        assert find_root(transport, 2000).rights is Rights.SU_C
        facts = zcache("up", "--root", "--json").json
        assert (facts["user"], facts["dies_with_adbd"]) == ("root", False)
        assert transport.run(["ls", facts["directory"]]).code != 0  # nothing for the shell user to look into
        listed = transport.run(Rights.SU_C.wrap(["ls", "-ldn", f"{facts['directory']}/zcached"])).text.split()
        assert (listed[0], listed[2]) == ("-rwx------", "0")

        assert zcache("status", "--json").json["pid"] == facts["pid"]
        assert zcache("pool", "create", "swap").code == 0
        (tmp_path / "dump").write_bytes(bytes(4096) + b"zcache " * 2000)
        assert zcache("replay", tmp_path / "dump", "--pool", "swap", "--keep").code == 0
        assert zcache("log").code == 0
        fails(zcache("down"), 5, "4 persistent pages")

        assert zcache("down", "--force").code == 0
        left = "ls -A /data/local/tmp /data/adb /var/lib/zcache; grep -l '(zcached)' /proc/[0-9]*/stat"
        names = transport.run(Rights.SU_C.wrap(["sh", "-c", f"{{ {left}; }} 2>/dev/null"])).text
        assert "zcache" not in names.replace("/var/lib/zcache:", "")
        fails(zcache("status"), 4, "zcache up")
        self.check_module(zcache, transport)

    def check_module(self, zcache: Zcache, transport: AdbTransport) -> None:
        """tests/device/test_install.py runs its scripts; here root is behind su."""
        transport.run(Rights.SU_C.wrap(["mkdir", "/data/adb/modules"]))
        installed = zcache("--json", "install").json
        assert installed["as"] == "magisk"
        listed = transport.run(Rights.SU_C.wrap(["ls", "-lnR", "/data/adb/modules/zcache"])).text
        assert "-rwx------    1 0        0" in listed
        assert " 2000 " not in listed
        assert zcache("status", "--json").json["pid"] == installed["daemon"]["pid"]
        assert set(zcache("--json", "uninstall").json["files"].values()) == {"removed"}
        left = transport.run(Rights.SU_C.wrap(["find", "/data/adb", "/data/local/tmp"])).text
        assert left.split() == ["/data/adb", "/data/adb/modules", "/data/local/tmp"]

    def test_from_shell_to_root(self, zcache: Zcache) -> None:
        first = zcache("up", "--json").json
        assert first["user"] == "shell"
        fails(zcache("up", "--root"), 4, "--root was asked for", "--replace")
        second = zcache("up", "--root", "--replace", "--json").json
        assert (second["user"], second["changed"]) == ("root", True)
        removed = {"directory": second["directory"], "ran": True, "agent_ran": False}
        assert zcache("down", "--json").json["removed"] == [removed]
