# SPDX-License-Identifier: Apache-2.0
"""A private adb server: a free port, keys of its own, never the user's at 5037."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import adbutils

from .packages import EmulatorError
from .process import die_with_parent

_FIRST_PORT = 20000


def free_port() -> int:
    """A free port from 20000 on: adb lists devices of ports near 5555 twice."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port >= _FIRST_PORT:
            return port
    raise EmulatorError(f"no free TCP port from {_FIRST_PORT} on")


@dataclass
class AdbServer:
    port: int
    home: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, deadline: float = 30) -> Self:
        home = Path(tempfile.mkdtemp(prefix="zcache-adb-"))
        port = free_port()
        server = cls(port, home, _spawn(port, home))
        server._wait(deadline)
        return server

    def restart(self, deadline: float = 30) -> None:
        """Killed, and started again where it was: it knows no device any more."""
        self.process.kill()
        self.process.wait()
        self.process = _spawn(self.port, self.home)
        self._wait(deadline)

    @property
    def env(self) -> dict[str, str]:
        """What makes adb and zcache use this server."""
        return {"ANDROID_ADB_SERVER_PORT": str(self.port), "ADB_SERVER_SOCKET": f"tcp:127.0.0.1:{self.port}"}

    def client(self, timeout: float = 30) -> adbutils.AdbClient:
        return adbutils.AdbClient(host="127.0.0.1", port=self.port, socket_timeout=timeout)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    def _wait(self, deadline: float) -> None:
        end = time.monotonic() + deadline
        while time.monotonic() < end and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        said = (self.home / "server.log").read_text(errors="replace").strip()
        self.stop()
        raise EmulatorError(f"adb's server does not start: {said[-200:]}")


def _spawn(port: int, home: Path) -> subprocess.Popen[bytes]:
    env = {
        **os.environ,
        "HOME": str(home),
        "ANDROID_USER_HOME": str(home / ".android"),
        "ADB_MDNS": "0",
        "ADB_LIBUSB": "0",
    }
    env.pop("ADB_SERVER_SOCKET", None)
    with (home / "server.log").open("wb") as log:
        return subprocess.Popen(
            [adbutils.adb_path(), "-P", str(port), "server", "nodaemon"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,
        )
