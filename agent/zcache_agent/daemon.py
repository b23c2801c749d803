# SPDX-License-Identifier: Apache-2.0
"""Where a device has its daemon, and the way to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .control import ControlClient
from .device import Rights
from .errors import DaemonAbsent, NoDevice
from .ondevice.files import STATE
from .transport.base import ByteStream, Completed, Transport
from .transport.local import LocalTransport

SHELL_DIRECTORY = "/data/local/tmp/zcache"
ROOT_DIRECTORIES = ("/data/adb/zcache", "/var/lib/zcache", "/data/vendor/zcache")
STAGES = ("/data/local/tmp", "/tmp")  # noqa: S108 (what passes through is verified where it ends up)
ROOT_MARK = ".zcache-root"
"""In a stage: the rights that reach the root daemon, so that not every command asks the root manager. Who forges it
makes zcache ask for rights, and gets none."""

CUT_OFF = "a change of settings is under way, or was cut off: zcache config diff rolls that back or forward"


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
    applying: bool = False
    """Settings are being changed, or that was cut off: there is a journal."""
    applied: str = ""
    """What became of the last change of settings, if there was one."""
    agent: Mapping[str, str] = field(default_factory=dict)
    """What the agent beside it wrote last; empty if none ran, or it ended cleanly."""
    agent_alive: bool = False

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

    def end(self, *process: str, patience: int, last: int, timeout: float | None = None) -> bool:
        """Ends what runs there, `alive PID` or `began PID TICKS`: by force after `patience` tenths of a second. False:
        after `last` it runs still."""
        command = ["sh", "-c", _END, "sh", str(patience), str(last), *process]
        return self.run(command, timeout=timeout).code == 0

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
    cut = f"; {CUT_OFF}" if any(daemon.applying for daemon in there) else ""
    for daemon in there:
        if daemon.state:
            raise DaemonAbsent(
                f"{transport.serial}: the daemon of {daemon.directory} (pid {daemon.state.get('pid')}) has died{cut}",
                name="daemon_died",
                hint="zcache log shows its last words, zcache up starts it again",
            )
    raise DaemonAbsent(f"{transport.serial}: no daemon runs{cut}", hint="zcache up starts it")


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
began() { # PID TICKS: a process that has not ended, and began so many ticks after the boot
    ticks=$2 stat=$(cat "/proc/$1/stat" 2>/dev/null)
    set -- ${stat##*) }
    case $1 in ''|[ZX]) false;; *) [ "${20}" = "$ticks" ];; esac
}
"""

_END = (
    ALIVE
    + r"""
patience=$1 last=$2
shift 2
"$@" && kill -TERM "$2"
tries=0
while "$@"; do
    [ $tries -lt "$last" ] || exit 9
    [ $tries -lt "$patience" ] || kill -KILL "$2"
    tries=$((tries + 1))
    sleep 0.1 2>/dev/null || sleep 1
done
exit 0
"""
)

START = r"""
if [ "$(id -u)" = 0 ] && [ "$1" != local ]; then
    # Init kills what is in adbd's cgroups when adbd ends.
    for file in /sys/fs/cgroup/cgroup.procs /acct/cgroup.procs /dev/memcg/cgroup.procs /dev/cpuctl/cgroup.procs; do
        [ -w $file ] && echo $$ >$file
    done 2>/dev/null
fi
shift
exec "$@"
"""
"""What begins a process that is to outlive adbd."""

_LIST = r"""
boot=$(cat /proc/sys/kernel/random/boot_id)
ours() { # DIRECTORY: something of zcache is in it, or nothing at all
    for file in "$1"/zcached* "$1"/zcache-agent*; do
        [ -e "$file" ] && return
    done
    [ -z "$(ls -A "$1")" ]
}
value() { # KEY STATE: of figures
    value=${2#*"$1="}
    echo "${value%%%%[!0-9a-f-]*}"
}
for d; do
    [ -r "$d" ] && [ -x "$d" ] && ours "$d" || continue
    alive=no
    state=$(cat "$d/zcached.state" 2>/dev/null) # once: it may be another's a moment later
    [ "$(value boot_id "$state")" = "$boot" ] && alive "$(value pid "$state")" && alive=yes
    echo "directory=$d"
    echo "alive=$alive"
    [ -e "$d/zcached.apply" ] && echo applying=yes
    [ -r "$d/zcached.outcome" ] && read -r outcome <"$d/zcached.outcome" && echo "applied=$outcome"
    [ -z "$state" ] || echo "$state"
    state=$(cat "$d/%s" 2>/dev/null)
    [ -n "$state" ] || continue
    [ "$(value boot_id "$state")" = "$boot" ] && began "$(value pid "$state")" "$(value start "$state")" &&
        echo agent_alive=yes
    echo "agent="
    printf '%%s\n' "$state"
done
for d in %s; do
    [ -r "$d/%s" ] && [ "$(id -u)" != 0 ] && read -r mark <"$d/%s" && echo "mark=$mark"
done
exit 0
"""


def look_into(transport: Transport, directories: Sequence[str], rights: Rights) -> tuple[list[Daemon], str]:
    """What is in these directories, and the mark of a root daemon that these rights do not show."""
    script = ALIVE + _LIST % (STATE, " ".join(STAGES), ROOT_MARK, ROOT_MARK)
    listed = transport.run(rights.wrap(["sh", "-c", script, "sh", *directories]))
    if listed.code != 0:
        raise NoDevice(f"{transport.serial}: its shell does not work: {listed.complaint}", name="no_shell")
    states: list[tuple[dict[str, str], dict[str, str]]] = []
    """Of the daemon and the agent in each directory."""
    mark = ""
    current: dict[str, str] = {}
    for line in listed.text.splitlines():
        key, _, value = line.partition("=")
        if key == "mark":
            mark = value
            continue
        if key == "directory":
            states.append(({}, {}))
            current = states[-1][0]
        if key == "agent":
            current = states[-1][1]
        else:
            current[key] = value
    there = []
    for state, agent in states:
        directory, alive = state.pop("directory"), state.pop("alive", "") == "yes"
        applying, applied = state.pop("applying", "") == "yes", state.pop("applied", "")
        agent_alive = state.pop("agent_alive", "") == "yes"
        if "start" not in agent:  # cut off with the device's power
            agent, agent_alive = {}, False
        there.append(Daemon(transport, directory, rights, state, alive, applying, applied, agent, agent_alive))
    return there, mark
