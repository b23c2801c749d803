# SPDX-License-Identifier: Apache-2.0
"""A device that is lost in the middle of something. It is one of this module's own: it ends badly."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from adbutils import adb_path

from tests.agent.conftest import Zcache, fails
from tools.emulator import Device, boot
from zcache_agent.analyze import Options as SampleOptions
from zcache_agent.daemon import find
from zcache_agent.deploy import Options, down, up
from zcache_agent.device import run_script
from zcache_agent.errors import NoDevice
from zcache_agent.gather import Gatherer
from zcache_agent.transport import Transport, open_transport
from zcache_agent.tune.measured import measure_device

PATIENT, SHORT = 60.0, 3.0
MOMENTS = ["looking at the device", "copying", "verifying", "starting"]


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    with boot("arm64", mem_mb=256) as booted:
        yield booted


@pytest.fixture
def environment(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in device.env.items():
        monkeypatch.setenv(name, value)


def adb(device: Device, *arguments: str) -> None:
    subprocess.run([adb_path(), *arguments], env=os.environ | device.env, check=True, capture_output=True, timeout=60)


def reconnect(device: Device) -> None:
    adb(device, "connect", device.serial)
    adb(device, "-s", device.serial, "wait-for-device")


@pytest.fixture(params=["stopped", "disconnected"])
def lose(request: pytest.FixtureRequest, device: Device, environment: None) -> Iterator[Callable[[], None]]:
    """Takes the device away; it is there again after the test, and has nothing of zcache."""
    if request.param == "stopped":
        yield device.pause
        device.resume()
    else:
        yield lambda: adb(device, "disconnect", device.serial)
        reconnect(device)
    transport = open_transport(device.serial, PATIENT)
    down(transport, force=True)
    left = "ls -d /data/local/tmp/*zcache*; grep -l '(zcached)' /proc/[0-9]*/stat"
    assert run_script(transport, f"{{ {left}; }} 2>/dev/null").text == ""


def at(moment: str, action: Callable[[], None]) -> Callable[[float, str], None]:
    """A step that does something once, when that is what is being done."""
    done: list[str] = []

    def step(part: float, what: str) -> None:
        if what == moment and not done:
            done.append(what)
            action()

    return step


@pytest.mark.parametrize("moment", MOMENTS)
def test_lost_in_the_middle_of_up(device: Device, lose: Callable[[], None], moment: str) -> None:
    transport = open_transport(device.serial, SHORT)
    transport.run(["true"])
    with pytest.raises(NoDevice):
        up(transport, Options(), at(moment, lose))


def test_what_a_lost_up_left_does_not_hinder_the_next(device: Device, environment: None) -> None:
    transport = open_transport(device.serial, SHORT)
    with pytest.raises(NoDevice):
        up(transport, Options(), at("verifying", lambda: adb(device, "disconnect", device.serial)))
    reconnect(device)
    transport = open_transport(device.serial, PATIENT)
    directory = up(transport, Options()).daemon.directory
    names = run_script(transport, f"ls {directory}").text.split()
    assert not [name for name in names if "new" in name]
    down(transport, force=True)


def test_lost_between_two_requests(device: Device, lose: Callable[[], None]) -> None:
    up(open_transport(device.serial, PATIENT), Options())
    transport = open_transport(device.serial, SHORT)
    control = find(transport).control()
    lose()
    with pytest.raises(NoDevice):
        control.dump()


@pytest.mark.parametrize("moment", ["sampling sizes", "measuring times"])
def test_lost_in_the_middle_of_tune(device: Device, lose: Callable[[], None], moment: str) -> None:
    up(open_transport(device.serial, PATIENT), Options())
    daemon = find(open_transport(device.serial, SHORT))
    program = open_transport(device.serial, PATIENT).open_command(["sh", "-c", "x=$(seq 9999); echo $$; read y"])
    pid = int(program.read(20))
    options = SampleOptions(page_size=4096, pids=(pid,), pages=20, seconds=4, codecs=("lz4",))
    with closing(program), pytest.raises(NoDevice):
        measure_device(daemon, options, cold=False, progress=at(moment, lose))


def test_moments_before_while_and_after_it_is_unplugged(device: Device, environment: None) -> None:
    up(open_transport(device.serial, PATIENT), Options())
    with Gatherer(lambda serial: open_transport(serial or device.serial, PATIENT)) as gatherer:
        assert gatherer.take().is_up
        adb(device, "disconnect", device.serial)
        for _ in range(2):
            moment = gatherer.take()
            assert isinstance(moment.problem, NoDevice), moment.problem
            assert moment.kernel is None
        reconnect(device)
        moment = gatherer.take()
        assert moment.is_up, moment.problem
    down(open_transport(device.serial, PATIENT), force=True)


def test_killed(device: Device, environment: None) -> None:
    """The last one: nothing brings the device back."""
    zcache = Zcache({**device.env, "ANDROID_SERIAL": device.serial})
    assert zcache("up").code == 0
    watch = zcache.start("stats", "-w", "0.2", "--json", "--timeout", 5)
    assert watch.stdout
    assert watch.stdout.readline()
    device.kill()
    assert watch.wait(60) == 3
    fails(zcache("--timeout", 5, "status"), 3, device.serial)
    transport: Transport | None = None
    for _ in range(100):
        try:
            transport = open_transport(device.serial, SHORT)
            transport.run(["true"])
        except NoDevice:
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"{transport} outlived its machine")
