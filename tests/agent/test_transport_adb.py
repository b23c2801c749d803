# SPDX-License-Identifier: Apache-2.0
"""The adb transport against faults. Real devices are in tests/device."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.agent.conftest import Zcache, fails, free_port
from tests.agent.fake_adb import FakeAdb, shell_packet
from zcache_agent.errors import DaemonAbsent, NoDevice, Usage, ZcacheError
from zcache_agent.transport.adb import AdbDevice, AdbServer, AdbTransport

ONE = "emulator-1   device product:x model:Pixel_9 device:y transport_id:3\n"
SHORT = 0.5


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("ADB_SERVER_SOCKET", "ANDROID_ADB_SERVER_ADDRESS", "ANDROID_ADB_SERVER_PORT"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def transport(fake: FakeAdb, environment: pytest.MonkeyPatch, timeout: float = 10) -> AdbTransport:
    environment.setenv("ANDROID_ADB_SERVER_PORT", str(fake.port))
    return AdbTransport("emulator-1", timeout)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (ONE.strip(), AdbDevice("emulator-1", "device", "Pixel 9")),
        ("0123 unauthorized usb:1-2 transport_id:1", AdbDevice("0123", "unauthorized", "")),
        (
            "0123 no permissions (missing udev rules? user is in the plugdev group); see [http://x] usb:1-1",
            AdbDevice("0123", "no permissions (missing udev rules? user is in the plugdev group); see [http://x]", ""),
        ),
        ("10.0.0.1:5555 offline", AdbDevice("10.0.0.1:5555", "offline", "")),
    ],
)
def test_a_line_of_the_device_list(line: str, expected: AdbDevice) -> None:
    assert AdbDevice.parse(line) == expected


@pytest.mark.parametrize(
    ("variables", "host", "port"),
    [
        ({}, "127.0.0.1", 5037),
        ({"ANDROID_ADB_SERVER_PORT": "7000"}, "127.0.0.1", 7000),
        ({"ANDROID_ADB_SERVER_ADDRESS": "10.0.0.1", "ANDROID_ADB_SERVER_PORT": "7000"}, "10.0.0.1", 7000),
        ({"ADB_SERVER_SOCKET": "tcp:7001", "ANDROID_ADB_SERVER_PORT": "7000"}, "127.0.0.1", 7001),
        ({"ADB_SERVER_SOCKET": "tcp:box:7002"}, "box", 7002),
        ({"ADB_SERVER_SOCKET": "tcp:[::1]:7003"}, "::1", 7003),
    ],
)
def test_the_server_is_the_one_that_adb_would_use(
    environment: pytest.MonkeyPatch, variables: dict[str, str], host: str, port: int
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    server = AdbServer(1)
    assert (server.host, server.port) == (host, port)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ADB_SERVER_SOCKET", "localfilesystem:/x"),
        ("ADB_SERVER_SOCKET", "tcp:x"),
        ("ANDROID_ADB_SERVER_PORT", "x"),
        ("ANDROID_ADB_SERVER_PORT", "70000"),
    ],
)
def test_a_wrong_server_address_is_named(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    environment.setenv(name, value)
    with pytest.raises(Usage, match=name):
        AdbServer(1)


def test_no_server_on_another_machine_is_started(zcache: Zcache) -> None:
    result = zcache("status", "-s", "x", ADB_SERVER_SOCKET="tcp:127.0.0.2:1")
    fails(result, 3, "127.0.0.2:1")


@pytest.mark.parametrize(
    ("state", "hint"),
    [("unauthorized", "accept the prompt on the phone"), ("offline", "replug"), ("recovery", "boot it normally")],
)
def test_an_unusable_device_is_named_with_its_state_and_the_way_out(zcache: Zcache, state: str, hint: str) -> None:
    with FakeAdb(devices=f"0123\t{state} transport_id:1\n").running() as fake:
        for arguments in ([], ["-s", "0123"]):
            result = zcache("status", *arguments, ANDROID_ADB_SERVER_PORT=str(fake.port))
            fails(result, 3, "0123", state, hint)


def test_which_of_two_devices_is_not_guessed(zcache: Zcache) -> None:
    with FakeAdb(devices=ONE + "0123 unauthorized\n").running() as fake:
        port = str(fake.port)
        fails(zcache("status", ANDROID_ADB_SERVER_PORT=port), 3, "emulator-1", "0123", "unauthorized", "-s SERIAL")
        listed = zcache("devices", "--json", ANDROID_ADB_SERVER_PORT=port).json
    others = [device for device in listed if device["state"] != "serial port"]  # those that this machine has
    assert [(device["serial"], device["state"]) for device in others] == [
        ("emulator-1", "device"),
        ("0123", "unauthorized"),
        ("local", "device"),
    ]


def test_a_server_that_never_answers_ends_in_time(zcache: Zcache) -> None:
    with FakeAdb(mute=True).running() as fake:
        fails(zcache("status", "--timeout", SHORT, ANDROID_ADB_SERVER_PORT=str(fake.port)), 3, "adb server")


def test_no_server_is_started_if_one_runs(zcache: Zcache) -> None:
    with FakeAdb(devices=ONE).running() as fake:
        zcache("devices", ANDROID_ADB_SERVER_PORT=str(fake.port))
        assert {request.split(":")[1] for request in fake.asked} == {"devices-l"}


def test_exit_codes_and_both_outputs(environment: pytest.MonkeyPatch) -> None:
    said = shell_packet(1, b"out") + shell_packet(2, b"err") + shell_packet(1, b"put") + shell_packet(3, b"\x07")
    with FakeAdb(services={"shell,v2,raw:": said}).running() as fake:
        ran = transport(fake, environment).run(["printf", "a b"])
    assert (ran.code, ran.stdout, ran.stderr) == (7, b"output", b"err")
    assert fake.asked[-1] == "shell,v2,raw:printf 'a b'"


def test_exit_codes_without_the_shell_protocol(environment: pytest.MonkeyPatch) -> None:
    with FakeAdb(features="cmd", services={"exec:": b"out\nzcache-exit:3\n"}).running() as fake:
        ran = transport(fake, environment).run(["false"])
    assert (ran.code, ran.stdout) == (3, b"out\n")


@pytest.mark.parametrize("features", ["shell_v2", ""])
def test_a_device_lost_in_the_middle_of_a_command(environment: pytest.MonkeyPatch, features: str) -> None:
    with (
        FakeAdb(features=features, services={"shell,v2,raw:": shell_packet(1, b"x"), "exec:": b"x"}).running() as fake,
        pytest.raises(NoDevice) as caught,
    ):
        transport(fake, environment).run(["sleep", "1"])
    assert caught.value.name == "lost"


@pytest.mark.parametrize("features", ["shell_v2", ""])
def test_a_device_that_falls_silent_in_the_middle_of_a_command(environment: pytest.MonkeyPatch, features: str) -> None:
    said = {"shell,v2,raw:": shell_packet(1, b"x"), "exec:": b"x"}
    with FakeAdb(features=features, services=said, silent=True).running() as fake, pytest.raises(NoDevice) as caught:
        transport(fake, environment, SHORT).run(["sleep", "1"])
    assert caught.value.name == "timeout"


@pytest.mark.parametrize(("devices", "name"), [("", "no_device"), ("emulator-1 offline\n", "offline")])
def test_a_stream_that_ends_with_its_device(environment: pytest.MonkeyPatch, devices: str, name: str) -> None:
    with FakeAdb(devices=devices).running() as fake, pytest.raises(NoDevice) as caught:
        transport(fake, environment).open_socket("@x").read(1)
    assert caught.value.name == name


@pytest.mark.parametrize(("devices", "kind"), [("", NoDevice), (ONE, DaemonAbsent)])
def test_a_refused_socket_is_the_daemons_or_the_devices(
    environment: pytest.MonkeyPatch, devices: str, kind: type[ZcacheError]
) -> None:
    with FakeAdb(devices=devices, refuses_services=True).running() as fake, pytest.raises(kind):
        transport(fake, environment).open_socket("@x")


def test_a_stream_that_ends_by_itself(environment: pytest.MonkeyPatch) -> None:
    with FakeAdb(devices=ONE).running() as fake:
        assert transport(fake, environment).open_socket("@x").read(1) == b""


@pytest.mark.parametrize(
    ("said", "fails"),
    [
        (b"adbd is already running as root\n", False),
        (b"restarting adbd as root\n", False),
        (b"adbd cannot run as root in production builds\n", True),
    ],
)
def test_adb_root(environment: pytest.MonkeyPatch, said: bytes, fails: bool) -> None:
    id_root = shell_packet(1, b"0\n") + shell_packet(3, b"\0")
    with FakeAdb(devices=ONE, services={"root:": said, "shell,v2,raw:id": id_root}).running() as fake:
        if not fails:
            transport(fake, environment).restart_as_root()
            return
        with pytest.raises(DaemonAbsent, match="production builds"):
            transport(fake, environment).restart_as_root()


def test_what_the_device_says_of_a_push_is_kept(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(200_000))
    said = b"write failed: No space left on device"
    with (
        FakeAdb(services={"sync:": b"FAIL" + len(said).to_bytes(4, "little") + said}, silent=True).running() as fake,
        pytest.raises(OSError, match="No space left") as caught,
    ):
        transport(fake, environment).push(file, "/data/x", 0o700)
    assert caught.value.errno == errno.ENOSPC


def test_a_push_to_a_silent_device_ends_in_time(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(1000))
    with FakeAdb(silent=True).running() as fake, pytest.raises(NoDevice) as caught:
        transport(fake, environment, SHORT).push(file, "/data/x", 0o700)
    assert caught.value.name == "timeout"


@pytest.mark.parametrize(
    "said", ["device offline", "device unauthorized.\nThis adb server's ...", "device 'x' not found"]
)
def test_a_refused_transport_is_no_device(environment: pytest.MonkeyPatch, said: str) -> None:
    with FakeAdb(refusal=said).running() as fake, pytest.raises(NoDevice):
        transport(fake, environment).run(["true"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=60) | st.binary(max_size=40).map(lambda data: b"OKAY" + data))
def test_garbage_of_a_server_is_an_error_of_ours(environment: pytest.MonkeyPatch, said: bytes) -> None:
    with FakeAdb(garbage=said).running() as fake:
        environment.setenv("ANDROID_ADB_SERVER_PORT", str(fake.port))
        for ask in (lambda: AdbServer(SHORT).choose("x"), lambda: AdbTransport("x", SHORT).run(["true"])):
            with pytest.raises(ZcacheError):
                ask()


def test_a_server_is_started_where_none_runs(zcache: Zcache, tmp_path: Path) -> None:
    """And its words do not get into the output."""
    import subprocess

    from adbutils import adb_path

    port = str(free_port())
    try:
        result = zcache("devices", "--json", ANDROID_ADB_SERVER_PORT=port, HOME=str(tmp_path))
        assert [device["serial"] for device in result.json][-1:] == ["local"]
        assert result.err == ""
    finally:
        subprocess.run([adb_path(), "-P", port, "kill-server"], check=False, capture_output=True)
