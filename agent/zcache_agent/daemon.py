# SPDX-License-Identifier: Apache-2.0
"""Where a device has its daemon, and the way to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .control import ControlClient
from .device import Rights
from .errors import DaemonAbsent, NoDevice
from .transport.base import ByteStream, Completed, Transport
from .transport.local import LocalTransport

SHELL_DIRECTORY = "/data/local/tmp/zcache"
ROOT_DIRECTORIES = ("/data/adb/zcache", "/var/lib/zcache")
STAGES = ("/data/local/tmp", "/tmp")  # noqa: S108 (what passes through is verified where it ends up)
ROOT_MARK = ".zcache-root"
"""In a stage: the rights that reach the root daemon, so that not every command asks the root manager. Who forges it
makes zcache ask for rights, and gets none."""


@dataclass(frozen=True)
class Daemon:
    """A directory of zcache on a device, with a daemon that runs or without."""

    transport: Transport
    directory: str
    rights: Rights
    """Of the commands that reach it."""
    state: Mapping[str, str] = field(default_factory=dict)
    """What the daemon wrote when it was ready; empty if none ever was, or it ended cleanly."""
    alive: bool = False
    """The state is of this boot and its process lives."""

    @property
    def program(self) -> str:
        return f"{self.directory}/zcached"

    @property
    def pid(self) -> int:
        return int(self.state["pid"])

    @property
    def version(self) -> str:
        return self.state["version"]

    @property
    def user(self) -> str:
        if self.transport.is_local:
            return "your user"
        return "shell" if self.directory == SHELL_DIRECTORY else "root"

    @property
    def dies_with_adbd(self) -> bool:
        """Android's init kills what adb's shell user started when adbd ends."""
        return self.user == "shell"

    def control(self) -> ControlClient:
        return ControlClient(self.open("control"))

    def open(self, plane: str) -> ByteStream:
        """Connects to `control` or `data`."""
        if self.rights is Rights.OWN:
            return self.transport.open_socket(self.state[plane])
        bridge = [self.program, "bridge", plane, "--dir", self.directory]
        return self.transport.open_command(self.rights.wrap(bridge))

    def run(self, argv: Sequence[str], timeout: float | None = None) -> Completed:
        """A command with the rights that this directory needs."""
        return self.transport.run(self.rights.wrap(argv), timeout=timeout)

    def read_log(self) -> str:
        """Its newest part: at least a quarter of a MiB, where there is so much."""
        script = 'cat "$1.1" "$1" 2>/dev/null | tail -c 262144'
        return self.run(["sh", "-c", script, "sh", f"{self.directory}/zcached.log"]).stdout.decode(errors="replace")


def find(transport: Transport) -> Daemon:
    """The daemon that runs on a device. DaemonAbsent: none does."""
    there = find_all(transport)
    for daemon in there:
        if daemon.alive:
            return daemon
    for daemon in there:
        if daemon.state:
            raise DaemonAbsent(
                f"{transport.serial}: the daemon of {daemon.directory} (pid {daemon.state.get('pid')}) has died",
                name="daemon_died",
                hint="zcache log shows its last words, zcache up starts it again",
            )
    raise DaemonAbsent(f"{transport.serial}: no daemon runs", hint="zcache up starts it")


def find_all(transport: Transport) -> list[Daemon]:
    """Every directory of zcache on a device that this user can get at."""
    if isinstance(transport, LocalTransport):
        return look_into(transport, [transport.directory], Rights.OWN)[0]
    there, mark = look_into(transport, [SHELL_DIRECTORY, *ROOT_DIRECTORIES], Rights.OWN)
    if mark in (Rights.SU_C.value, Rights.SU_0.value):
        there += look_into(transport, ROOT_DIRECTORIES, Rights(mark))[0]
    return there


ALIVE = r"""
alive() { # PID: a zcached that has not ended
    case $(cat "/proc/$1/stat" 2>/dev/null) in *'(zcached) '[ZX]*) false;; *'(zcached) '*) true;; *) false;; esac
}
"""

_LIST = r"""
boot=$(cat /proc/sys/kernel/random/boot_id)
ours() { # DIRECTORY: something of zcache is in it, or nothing at all
    for file in "$1"/zcached*; do
        [ -e "$file" ] && return
    done
    [ -z "$(ls -A "$1")" ]
}
for d; do
    [ -r "$d" ] && [ -x "$d" ] && ours "$d" || continue
    pid= boot_id= alive=no state=
    if [ -r "$d/zcached.state" ]; then
        state=$(cat "$d/zcached.state")
        while IFS='=' read -r key value; do
            case $key in pid) pid=$value;; boot_id) boot_id=$value;; esac
        done <"$d/zcached.state"
        [ "$boot_id" = "$boot" ] && alive "$pid" && alive=yes
    fi
    echo "directory=$d"
    echo "alive=$alive"
    [ -z "$state" ] || echo "$state"
done
for d in %s; do
    [ -r "$d/%s" ] && [ "$(id -u)" != 0 ] && read -r mark <"$d/%s" && echo "mark=$mark"
done
exit 0
"""


def look_into(transport: Transport, directories: Sequence[str], rights: Rights) -> tuple[list[Daemon], str]:
    """What is in these directories, and the mark of a root daemon that these rights do not show."""
    script = ALIVE + _LIST % (" ".join(STAGES), ROOT_MARK, ROOT_MARK)
    listed = transport.run(rights.wrap(["sh", "-c", script, "sh", *directories]))
    if listed.code != 0:
        raise NoDevice(f"{transport.serial}: its shell does not work: {listed.complaint}", name="no_shell")
    states: list[dict[str, str]] = []
    mark = ""
    for line in listed.text.splitlines():
        key, _, value = line.partition("=")
        if key == "mark":
            mark = value
        elif key == "directory":
            states.append({key: value})
        elif states:
            states[-1][key] = value
    there = []
    for state in states:
        directory, alive = state.pop("directory"), state.pop("alive", "") == "yes"
        there.append(Daemon(transport, directory, rights, state, alive))
    return there, mark
