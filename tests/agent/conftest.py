# SPDX-License-Identifier: Apache-2.0
"""The command as a user runs it, a daemon of a test's own, an adb server of the session's own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from adbutils import adb_path

from zcache_agent import cli
from zcache_agent.daemon import find
from zcache_agent.transport.local import LocalTransport

ZCACHE = str(Path(sys.executable).parent / "zcache")
_OURS = ("ZCACHE_SERIAL", "ANDROID_SERIAL", "ZCACHE_DIR", "ADB_SERVER_SOCKET", "ANDROID_ADB_SERVER_ADDRESS")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 (whatever the document is)
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, str]:
        """Of a command with --json that failed: its one document on standard error."""
        error: dict[str, str] = json.loads(self.err)["error"]
        return error


class Zcache:
    """Runs the installed command, or another, with environment variables of its own, perhaps in a folder of its own."""

    def __init__(
        self, environment: dict[str, str], command: Sequence[str] = (ZCACHE,), folder: Path | None = None
    ) -> None:
        self.command, self.folder = command, folder
        kept = {name: value for name, value in os.environ.items() if name not in _OURS}
        self.environment = kept | {"COLUMNS": "80"} | environment

    def __call__(self, *arguments: object, **environment: str) -> Result:
        ran = subprocess.run(
            [*self.command, *map(str, arguments)],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=280,
            check=False,
            env=self.environment | environment,
            cwd=self.folder,
        )
        assert "Traceback" not in ran.stderr, ran.stderr
        return Result(ran.returncode, ran.stdout, ran.stderr)

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.command, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=self.environment,
            cwd=self.folder,
        )


class Quick:
    """The command in this process, with its environment: to start one takes longer than most of them do."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Result:
        self._capsys.readouterr()
        code = cli.main([str(word) for word in arguments])
        return Result(code, *self._capsys.readouterr())


@pytest.fixture
def quick(capsys: pytest.CaptureFixture[str]) -> Quick:
    return Quick(capsys)


def fails(result: Result, code: int, *said: str) -> None:
    """It ended with this code, and said so on one line that names these words."""
    assert result.code == code, result
    assert len(result.err.strip().splitlines()) == 1, result.err
    for word in said:
        assert word in result.err, result.err


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real adb server that no device is connected to."""
    port = free_port()
    home = tmp_path_factory.mktemp("adb")
    environment = os.environ | {"HOME": str(home), "ADB_LOCAL_TRANSPORT_MAX_PORT": "5554", "TMPDIR": str(home)}
    environment.pop("ADB_SERVER_SOCKET", None)
    server = subprocess.Popen(
        [adb_path(), "-P", str(port), "nodaemon", "server"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        else:
            pytest.fail("adb does not start")
        yield port
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def zcache(adb_server: int, tmp_path: Path) -> Zcache:
    """The command. Its `local` is a directory of the test's own, its adb server sees no device."""
    return Zcache({"ANDROID_ADB_SERVER_PORT": str(adb_server), "ZCACHE_DIR": str(tmp_path / "zcache")})


@pytest.fixture
def local_daemon(zcache: Zcache, tmp_path: Path) -> Iterator[Callable[..., Result]]:
    """A daemon on this machine, with 4 KiB pages, and the command that speaks with it.

    It gives up no pages when this machine is short of memory.
    """
    started = zcache("-s", "local", "up", "--page-size", 4096)
    assert started.code == 0, started.err
    with find(LocalTransport(zcache.environment["ZCACHE_DIR"])).control() as control:
        control.set(("params/pressure_shrink_percent", "0"))

    def run(*arguments: object) -> Result:
        return zcache("-s", "local", *arguments)

    yield run
    ended = zcache("-s", "local", "down", "--force")
    assert ended.code == 0, ended.err
    assert not (tmp_path / "zcache").exists()
