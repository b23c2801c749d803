# SPDX-License-Identifier: Apache-2.0
"""The agent on a device itself: a rooted phone with Debian's Python. This module unplugs it, so it is its own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from adbutils import adb_path

from tests.agent.conftest import Result, Zcache, fails
from tests.agent.test_ondevice import BEYOND, BOUND, CONFIG
from tests.support import require_or_skip
from tools.emulator import Device, EmulatorError, boot
from tools.emulator.image import disk_of
from zcache_agent.daemon import find, find_all
from zcache_agent.device import Rights, run_script
from zcache_agent.ondevice.process import find_agent
from zcache_agent.transport import Transport, open_transport

pytestmark = pytest.mark.minutes(2)

SECONDS = 300
SHELL, ROOT = "/data/local/tmp/zcache", "/data/adb/zcache"
TREE = "/data/debian"
LIBRARIES = "/usr/lib/aarch64-linux-gnu"

# As on a board whose system has Python.
INSTALL = f"""
mkdir -p {TREE} /usr/lib && mount -t ext4 -o ro /dev/vda {TREE} || exit 1
ln -s {TREE}/usr/lib/python3* /usr/lib/
for library in {TREE}{LIBRARIES}/*; do
    [ -e {LIBRARIES}/${{library##*/}} ] || ln -s $library {LIBRARIES}/
done
ln -s {TREE}/usr/bin/python3 /bin/python3
"""

# Without adb: the host reads the console.
TELL = "tail -n 0 -F {directory}/zcache-agent.log >/dev/console 2>/dev/null </dev/null &"
# Takes the limit beyond its bounds again and again.
DISTURB = """
sh -c 'while sleep 1; do
    echo set params/limit {limit} | {directory}/zcached bridge control --dir {directory}
done' >/dev/null 2>&1 </dev/null &
echo $!
"""


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    try:
        booted = boot("arm64", su=True, disks=[disk_of("python3-minimal", "libpython3-stdlib")])
    except EmulatorError as error:
        require_or_skip("devices", str(error))
    with booted:
        yield booted


@pytest.fixture(scope="module")
def transport(device: Device) -> Iterator[Transport]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in device.env.items():
            patch.setenv(name, value)
        transport = open_transport(device.serial, SECONDS)
        fails(zcache_of(device)("agent", "start", "--config", os.devnull), 2, "no [agent] table")
        installed = run_script(transport, INSTALL, Rights.SU_C)
        assert installed.code == 0, installed.complaint
        yield transport


def zcache_of(device: Device) -> Zcache:
    return Zcache({**device.env, "ANDROID_SERIAL": device.serial})


@pytest.fixture
def zcache(device: Device, transport: Transport) -> Iterator[Zcache]:
    """Nothing of it is left in the end."""
    zcache = zcache_of(device)
    yield zcache
    print(zcache("agent", "log"))  # what a test that failed is asked first
    assert zcache("down", "--force").code == 0
    left = "ls -d /data/local/tmp/*zcache* /data/adb/*; grep -l '(zcached)\\|(python3' /proc/[0-9]*/stat"
    assert run_script(transport, f"{{ {left}; }} 2>/dev/null", Rights.SU_C).text == ""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "device.toml"
    file.write_text(CONFIG)
    return file


def until(what: Callable[[], Any]) -> Any:  # noqa: ANN401 (whatever it becomes)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.5)
    pytest.fail("it did not become so")


def adb(device: Device, *arguments: str) -> None:
    subprocess.run([adb_path(), *arguments], env=os.environ | device.env, check=True, capture_output=True, timeout=60)


def moves(device: Device) -> int:
    """That the console tells of."""
    return device.console.read_text(errors="replace").count('"event": "set"')


def test_it_goes_on_while_the_device_is_unplugged(
    device: Device, zcache: Zcache, transport: Transport, config: Path
) -> None:
    assert zcache("up").code == 0
    fails(
        zcache("agent", "start", "--config", config, "--python", "/bin/no-python"), 4, "no-python", "3.11", "agent run"
    )
    started = zcache("agent", "start", "--config", config, "--timeout", SECONDS)
    assert started.code == 0, started.err
    assert f"/bin/python3 {SHELL}/zcache-agent.pyz start" in started.out
    pid = find_agent(transport).pid
    assert run_script(transport, TELL.format(directory=SHELL), Rights.SU_C).code == 0
    disturber = run_script(transport, DISTURB.format(limit=BEYOND, directory=SHELL)).text
    until(lambda: moves(device) > 0)
    adb(device, "disconnect", device.serial)
    before = moves(device)
    until(lambda: moves(device) > before + 1)
    fails(zcache("agent", "status"), 3, device.serial)
    adb(device, "connect", device.serial)
    adb(device, "-s", device.serial, "wait-for-device")
    facts = zcache("agent", "status", "--json").json
    assert facts["pid"] == pid
    assert facts["decisions"] >= before + 2
    assert facts["last"]["new"] == BOUND
    assert facts["dies_with_adbd"]
    print_cost(transport, pid)
    run_script(transport, f"kill {disturber}; {kill_tail()}", Rights.SU_C)
    assert "set params/limit" in zcache("agent", "log").out


def kill_tail() -> str:
    return "for file in $(grep -l '(tail)' /proc/[0-9]*/stat); do kill $(cut -d' ' -f1 $file); done"


def print_cost(transport: Transport, pid: int) -> None:
    """-s shows it: docs/agent.md has the figures."""
    print(
        run_script(
            transport, f"grep VmRSS /proc/{pid}/status; cut -d' ' -f14-17,22 /proc/{pid}/stat; cat /proc/uptime"
        ).text
    )


def test_beside_a_root_daemon(device: Device, zcache: Zcache, transport: Transport, config: Path) -> None:
    assert zcache("up", "--root").code == 0

    def start(*more: object) -> Result:
        return zcache("agent", "start", "--config", config, "--timeout", SECONDS, "--json", *more)

    first = start().json
    assert (first["user"], first["directory"], first["dies_with_adbd"]) == ("root", ROOT, False)
    groups = run_script(transport, f"cat /proc/{first['pid']}/cgroup", Rights.SU_C).text
    assert all(line.endswith(":/") for line in groups.splitlines()), groups
    listed = run_script(transport, f"ls -ln {ROOT}", Rights.SU_C).text.splitlines()
    assert all(line[4:10] == "------" for line in listed if "zcache-agent" in line), listed
    assert start().json["changed"] is False
    until(lambda: find_agent(transport).decisions > 0)
    # The daemon is started anew under it.
    run_script(transport, f"kill -9 {find(transport).pid}", Rights.SU_C)
    until(lambda: find_agent(transport).waits_for)
    assert zcache("up", "--root").code == 0
    until(lambda: not find_agent(transport).waits_for)
    until(lambda: find_agent(transport).decisions > 1)  # the new one's limit
    # It is killed itself; what a boot's script runs brings it back.
    run_script(transport, f"kill -9 {first['pid']}", Rights.SU_C)
    until(lambda: not any(place.agent_alive for place in find_all(transport)))
    fails(zcache("agent", "status"), 4, "has died")
    assert run_script(transport, first["start_command"], Rights.SU_C, timeout=SECONDS).code == 0
    assert find_agent(transport).pid != first["pid"]
    assert "ended, removed" in zcache("agent", "stop").out
    fails(zcache("agent", "status"), 4, "no agent")
