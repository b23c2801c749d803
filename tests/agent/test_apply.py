# SPDX-License-Identifier: Apache-2.0
"""An apply that is silent for longer than the transport waits. A script stands in for zcached, to be slow or killed."""

from pathlib import Path

import pytest

from zcache_agent import apply
from zcache_agent.daemon import Daemon
from zcache_agent.device import Rights
from zcache_agent.errors import DaemonAbsent, NoDevice
from zcache_agent.transport.local import LocalTransport

TIMEOUT = 1.0
PLAN = 'until [ "$line" = end ]; do read -r line; done'


def daemon(directory: Path, script: str) -> Daemon:
    program = directory / "zcached"
    program.write_text(f"#!/bin/sh\n{PLAN}\n{script}\n")
    program.chmod(0o700)
    return Daemon(LocalTransport(str(directory), TIMEOUT), str(directory), Rights.OWN)


def test_it_is_waited_for(tmp_path: Path) -> None:
    said: list[str] = []
    slow = daemon(tmp_path, f"echo begun; sleep {3 * TIMEOUT}; echo 'applied: all of it'")
    assert apply.run(slow, [], said.append) == "all of it"
    assert said == ["begun", "applied: all of it"]


def test_one_that_is_killed_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / apply.JOURNAL).touch()
    with pytest.raises(DaemonAbsent, match="ended before all was done"):
        apply.run(daemon(tmp_path, f"sleep {2 * TIMEOUT}; kill -9 $$"), [])


def test_a_device_that_is_silent_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = daemon(tmp_path, f"sleep {20 * TIMEOUT}")
    gone = NoDevice("no answer", name="timeout")

    def run(*_: object, **__: object) -> None:
        raise gone

    monkeypatch.setattr(LocalTransport, "run", run)
    with pytest.raises(NoDevice, match="no answer") as error:
        apply.run(silent, [])
    assert "goes on on the device" in (error.value.hint or "")
