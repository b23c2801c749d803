# SPDX-License-Identifier: Apache-2.0
"""Replay and demo on emulated devices: the ARM programs, brought there through real adbd by the real command."""

from __future__ import annotations

import json
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from adbutils import adb_path

from tests.agent.conftest import Result, Zcache, fails
from tests.agent.test_replay import mixture
from tests.support import ROOT
from tools.emulator import Device
from zcache_agent.daemon import Daemon, find
from zcache_agent.errors import NoDevice
from zcache_agent.replay import replay_process
from zcache_agent.transport import Transport, open_transport
from zcache_agent.workloads import WORKLOADS, available, running, wait_until_gone

PROGRAMS = [
    ("arm64", "arm64-v8a"),
    ("arm64", "armeabi-v7a"),
    ("arm64-root", "arm64-v8a"),
    ("arm64-16k", "arm64-v8a"),
]
on_each_program = pytest.mark.parametrize(("device", "abi"), PROGRAMS, indirect=["device"])
on_each_target = pytest.mark.parametrize(
    ("device", "abi"), [program for program in PROGRAMS if program[1] == "arm64-v8a"], indirect=["device"]
)
on_each_page_size = pytest.mark.parametrize(("device", "abi"), [PROGRAMS[0], PROGRAMS[-1]], indirect=["device"])
SHELL = next(workload for workload in WORKLOADS if workload.name == "sh")


@pytest.fixture
def zcache(device: Device, abi: str) -> Iterator[Zcache]:
    """The command, with a daemon on the device that has a persistent pool p and an ephemeral pool e."""
    command = Zcache({**device.env, "ANDROID_SERIAL": device.serial})
    started = command("up", "--abi", abi)
    assert started.code == 0, started.err
    assert command("pool", "create", "p").code == 0
    assert command("pool", "create", "e", "--kind", "ephemeral").code == 0
    yield command
    ended = command("down", "--force")
    assert ended.code == 0, ended.err


@pytest.fixture
def transport(device: Device, monkeypatch: pytest.MonkeyPatch) -> Transport:
    for name, value in device.env.items():
        monkeypatch.setenv(name, value)
    return open_transport(device.serial, 60)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Callable[..., Result]]:
    """The same on this machine, in pages as large as the device's."""
    command = Zcache({"ZCACHE_DIR": str(tmp_path / "host")})

    def run(page_size: int, *arguments: object) -> Result:
        if command("-s", "local", "status").code == 4:
            assert command("-s", "local", "up", "--page-size", page_size).code == 0
            assert command("-s", "local", "pool", "create", "p").code == 0
            assert command("-s", "local", "pool", "create", "e", "--kind", "ephemeral").code == 0
        return command("-s", "local", *arguments)

    yield run
    assert command("-s", "local", "down", "--force").code == 0


def held(zcache: Zcache, pool: str = "p") -> int:
    stats = zcache("--json", "stats", f"pools/{pool}/stats/*").json
    return int(sum(stats[f"pools/{pool}/stats/{name}"] for name in ("zpages", "same_filled")))


def page_size(zcache: Zcache) -> int:
    return int(zcache("cat", "page_size").out)


@on_each_program
def test_replays(
    zcache: Zcache, transport: Transport, host: Callable[..., Result], tmp_path: Path, device: Device, abi: str
) -> None:
    """One daemon for all of them: to bring it there takes an emulated device longer than to replay."""
    size = page_size(zcache)
    assert size == (16384 if device.target == "arm64-16k" else 4096)
    for pool in ("p", "e"):
        the_same_replay_as_on_this_machine(zcache, host, tmp_path / "dump", size, abi, pool)
    a_tar_of_real_files(zcache, tmp_path / "files.tar.gz")
    a_process_of_the_device(zcache, transport, size)


def the_same_replay_as_on_this_machine(
    zcache: Zcache, host: Callable[..., Result], dump: Path, size: int, abi: str, pool: str
) -> None:
    dump.write_bytes(mixture(size))
    there = zcache("--json", "replay", dump, "--pool", pool)
    assert there.code == 0, there.err
    here = host(size, "--json", "replay", dump, "--pool", pool)
    same = ["pages", "stored", "same_filled", "refused", "lost", "mismatches", "tail_bytes"]
    if abi == "arm64-v8a":
        same += ["frames", "histogram"]  # LZ4 looks for matches in other places on 32 bits
    assert {key: there.json[key] for key in same} == {key: here.json[key] for key in same}
    assert there.json["stored"] == 40
    assert held(zcache, pool) == 0


def a_tar_of_real_files(zcache: Zcache, tar: Path) -> None:
    with tarfile.open(tar, "w:gz") as archive:
        archive.add(ROOT / "native", "native")
        archive.add(ROOT / "agent/zcache_agent/_bin/arm64-v8a", "bin")
    told = zcache("--json", "replay", tar, "--pool", "p")
    assert told.code == 0, told.err
    facts = told.json
    counted = facts["stored"] + facts["same_filled"] + sum(facts["refused"].values())
    assert facts["pages"] == counted > 50
    assert (facts["lost"], facts["mismatches"]) == (0, 0)


def a_process_of_the_device(zcache: Zcache, transport: Transport, size: int) -> None:
    with running(transport, SHELL, 1) as pid:
        told = zcache("--json", "replay", "--pid", pid, "--pool", "p", "--keep")
    assert told.code == 0, told.err
    assert told.json["pages"] * size > 256 << 10
    assert told.json["stored"] > 0
    assert held(zcache) == told.json["stored"] + told.json["same_filled"]


@on_each_page_size
def test_what_is_not_there(zcache: Zcache, transport: Transport, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    dump.write_bytes(mixture(page_size(zcache)))
    with running(transport, SHELL, 1) as pid:
        fails(zcache("replay", "--pid", pid, "--pool", "nopool"), 5, "nopool")
    wait_until_gone(transport, [pid])
    fails(zcache("replay", "--pid", pid, "--pool", "p"), 5, str(pid))
    fails(zcache("replay", dump, "--pool", "nopool"), 5, "nopool")
    dump.write_bytes(b"short")
    fails(zcache("replay", dump, "--pool", "p"), 2, "no whole page")
    assert held(zcache) == 0


@pytest.mark.parametrize(("device", "abi"), [("arm64", "arm64-v8a")], indirect=["device"])
def test_another_users_process_needs_root(zcache: Zcache) -> None:
    fails(zcache("replay", "--pid", 1, "--pool", "p"), 5, "1")


@on_each_page_size
def test_a_process_that_ends_while_it_is_read(zcache: Zcache, transport: Transport) -> None:
    with running(transport, SHELL, 1) as pid:
        replaying = zcache.start("replay", "--pid", pid, "--pool", "p")
        while replaying.poll() is None and not held(zcache):
            pass
    _, said = replaying.communicate(timeout=60)
    assert replaying.returncode in (0, 5), said
    assert said.count("\n") == (1 if replaying.returncode else 0)
    assert held(zcache) == 0


@on_each_target
def test_the_demo(zcache: Zcache, device: Device, transport: Transport) -> None:
    before = transport.run(["ls", "/data/local/tmp", "/tmp"]).text
    told = zcache("--json", "demo")
    assert told.code == 0, told.err
    facts = told.json
    assert not facts["own_daemon"]
    assert {process["name"] for process in facts["processes"]} == {w.name for w in available(transport)}
    refused = [sum(step["report"]["refused"].values()) for step in facts["thresholds"]]
    assert refused == sorted(refused)
    assert refused[0] < refused[-1]
    assert json.loads(zcache("--json", "stats", "stats/pools").out) == {"stats/pools": 2}
    assert transport.run(["ls", "/data/local/tmp", "/tmp"]).text == before


# --- a device that is lost ----------------------------------------------------------------------------------------


def disconnect(device: Device) -> None:
    adb(device, "disconnect", device.serial)


def reconnect(device: Device) -> None:
    adb(device, "connect", device.serial)
    adb(device, "-s", device.serial, "wait-for-device")


def adb(device: Device, *words: str) -> None:
    command = [adb_path(), "-P", device.env["ANDROID_ADB_SERVER_PORT"], *words]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


@dataclass(frozen=True)
class Loss:
    lose: Callable[[Device], None]
    undo: Callable[[Device], None]


STOPPED = Loss(Device.pause, Device.resume)
DISCONNECTED = Loss(disconnect, reconnect)
KILLED = Loss(Device.kill, lambda device: None)


def test_a_device_that_is_lost(
    boot_device: Callable[..., Device], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a file is replayed by the command, and, at a chosen moment, while a process is."""
    device = boot_device("arm64", mem_mb=256)
    for name, value in device.env.items():
        monkeypatch.setenv(name, value)
    zcache = Zcache({**device.env, "ANDROID_SERIAL": device.serial})
    assert zcache("up").code == 0
    assert zcache("pool", "create", "p").code == 0
    dump = tmp_path / "dump"
    dump.write_bytes(mixture(65536) * 4)
    patient = open_transport(device.serial, 60)
    daemon = find(open_transport(device.serial, 5))
    for loss in (STOPPED, DISCONNECTED):
        with running(patient, SHELL, 4) as pid:
            lost_with_a_process(device, daemon, loss, pid)
        assert zcache("status").code == 0, "the daemon lives on"
    for loss in (STOPPED, DISCONNECTED, KILLED):
        lost_with_a_file(device, zcache, loss, dump)


def lost_with_a_process(device: Device, daemon: Daemon, loss: Loss, pid: int) -> None:
    done: list[str] = []

    def progress(part: float, what: str) -> None:
        if not done:
            loss.lose(device)
        done.append(what)

    with pytest.raises(NoDevice, match=device.serial):
        replay_process(daemon, "p", pid, progress=progress)
    assert done
    loss.undo(device)


def lost_with_a_file(device: Device, zcache: Zcache, loss: Loss, dump: Path) -> None:
    replaying = zcache.start("--timeout", 5, "replay", dump, "--pool", "p")
    while replaying.poll() is None and not held(zcache):
        time.sleep(0.05)
    assert replaying.poll() is None, "it ended before the device was lost"
    loss.lose(device)
    _, said = replaying.communicate(timeout=60)
    loss.undo(device)
    assert replaying.returncode == 3, said
    assert said.count("\n") == 1, said
    assert device.serial in said
