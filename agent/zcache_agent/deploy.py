# SPDX-License-Identifier: Apache-2.0
"""Brings zcached onto a device, starts it, finds it again, takes it away."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .control import ControlClient
from .device import Rights, run_script
from .errors import DaemonAbsent, NoDevice
from .transport.base import ByteStream, Completed, Transport
from .transport.local import LocalTransport

SHELL_DIRECTORY = "/data/local/tmp/zcache"
ROOT_DIRECTORIES = ("/data/adb/zcache", "/var/lib/zcache")


@dataclass(frozen=True)
class Daemon:
    """A daemon that runs, by the state file it keeps in its directory."""

    transport: Transport
    directory: str
    rights: Rights
    """Of the commands that reach it."""
    state: Mapping[str, str]

    @property
    def pid(self) -> int:
        return int(self.state["pid"])

    @property
    def version(self) -> str:
        return self.state["version"]

    def control(self) -> ControlClient:
        return ControlClient(self.open("control"))

    def open(self, plane: str) -> ByteStream:
        """Connects to `control` or `data`."""
        if self.rights is Rights.OWN:
            return self.transport.open_socket(self.state[plane])
        return self.transport.open_command(self.rights.wrap(self._command("bridge", plane, "--dir", self.directory)))

    def run(self, *arguments: str, timeout: float | None = None) -> Completed:
        """Runs the daemon's program as its user."""
        return self.transport.run(self.rights.wrap(self._command(*arguments)), timeout=timeout)

    def _command(self, *arguments: str) -> list[str]:
        return [f"{self.directory}/zcached", *arguments]


def find(transport: Transport) -> Daemon:
    """The daemon that runs on a device. DaemonAbsent: none does."""
    directories = (
        [transport.directory] if isinstance(transport, LocalTransport) else [SHELL_DIRECTORY, *ROOT_DIRECTORIES]
    )
    if found := _look(transport, directories, Rights.OWN):
        return found
    raise DaemonAbsent(f"{transport.serial}: no daemon runs", hint="zcache up starts it")


def _look(transport: Transport, directories: Sequence[str], rights: Rights) -> Daemon | None:
    """The first of the directories whose state file names a living process of this boot."""
    script = f"""
        boot=$(cat /proc/sys/kernel/random/boot_id)
        for d in {" ".join(directories)}; do
            pid=; boot_id=
            [ -r $d/zcached.state ] || continue
            while IFS='=' read -r key value; do
                case $key in pid) pid=$value;; boot_id) boot_id=$value;; esac
            done < $d/zcached.state
            [ "$boot_id" = "$boot" ] && [ -d "/proc/$pid" ] || continue
            echo "directory=$d"; cat $d/zcached.state; exit 0
        done
        exit 0"""
    looked = run_script(transport, script, rights)
    if looked.code != 0:
        raise NoDevice(f"{transport.serial}: its shell failed: {looked.complaint}")
    state = dict(line.split("=", 1) for line in looked.text.splitlines() if "=" in line)
    directory = state.pop("directory", "")
    return Daemon(transport, directory, rights, state) if directory else None
