# SPDX-License-Identifier: Apache-2.0
"""What a device is, and which of zcache's uses it allows."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from .errors import NoDevice
from .transport.base import Completed, Transport

ROOT_SECONDS = 10.0
"""For each way to root: a root manager may be asking its user meanwhile."""


class Rights(Enum):
    """Whose rights a command has on the device. The values are what people call them."""

    OWN = "own"
    """Those of the user whom the transport gives."""
    SU_C = "su -c"
    SU_0 = "su 0"

    def wrap(self, argv: Sequence[str]) -> list[str]:
        if self is Rights.SU_C:
            return ["su", "-c", shlex.join(argv)]
        if self is Rights.SU_0:
            return ["su", "0", *argv]
        return list(argv)


def run_script(
    transport: Transport, script: str, rights: Rights = Rights.OWN, timeout: float | None = None
) -> Completed:
    """A few lines of POSIX shell on the device."""
    return transport.run(rights.wrap(["sh", "-c", script]), timeout=timeout)


@dataclass(frozen=True)
class Root:
    """Whether commands can have root, and what each way to it answered."""

    rights: Rights | None
    answers: Mapping[str, str]

    @property
    def how(self) -> str | None:
        """The way that works."""
        return next((way for way, answer in self.answers.items() if answer == "yes"), None)

    @property
    def refusals(self) -> str:
        return "; ".join(f"{way}: {answer}" for way, answer in self.answers.items())


def find_root(transport: Transport, uid: int) -> Root:
    if uid == 0:
        return Root(Rights.OWN, {"already root": "yes"})
    answers = {"already root": f"no: uid {uid}"}
    if transport.is_local:
        return Root(None, answers)
    for rights in (Rights.SU_C, Rights.SU_0):
        try:
            asked = transport.run(rights.wrap(["id", "-u"]), timeout=ROOT_SECONDS)
        except NoDevice as error:
            if error.name != "timeout":
                raise
            answers[rights.value] = f"no answer within {ROOT_SECONDS:g} s: is a root manager asking on the screen?"
            continue
        if asked.code == 0 and asked.text == "0":
            answers[rights.value] = "yes"
            return Root(rights, answers)
        answers[rights.value] = f"no: {asked.complaint}"
    return Root(None, answers)


@dataclass(frozen=True)
class Device:
    """Facts, as far as the device tells them to the transport's user. None: it does not tell."""

    serial: str
    model: str
    android: str
    """Its release; empty where it is no Android."""
    abis: tuple[str, ...]
    """By Android's names, the preferred one first."""
    machine: str
    kernel: str
    page_size: int | None
    mem_total: int
    mem_available: int
    cgroup_limit: int | None
    """Bytes of memory that the transport's user may use, where that is less than there is."""
    uid: int
    selinux: str
    """enforcing, permissive, disabled or absent."""
    ptrace_scope: int
    """Of Yama; 0 where there is none."""
    python: str
    zram: str
    """This and the next: yes, module (not loaded), or no."""
    ublk: str
    nbd: str
    zswap: bool
    zswap_on: bool
    """It is in front of all swap devices, zcache's too: pages are compressed twice."""
    psi: bool
    swaps: tuple[str, ...]
    """Paths of the swap areas in use."""

    @property
    def is_root(self) -> bool:
        return self.uid == 0

    @property
    def user(self) -> str:
        return {0: "root", 2000: "shell"}.get(self.uid, f"uid {self.uid}")


_ABIS = {
    "aarch64": ("arm64-v8a", "armeabi-v7a"),
    "arm64": ("arm64-v8a", "armeabi-v7a"),
    "armv8l": ("armeabi-v7a",),
    "armv7l": ("armeabi-v7a",),
    "x86_64": ("x86_64",),
}

_LOOK = r"""
say() { echo "$1=$2"; }
say uid "$(id -u)"
say machine "$(uname -m)"
say kernel "$(uname -r)"
say abilist "$(getprop ro.product.cpu.abilist 2>/dev/null)"
say android "$(getprop ro.build.version.release 2>/dev/null)"
say model "$(getprop ro.product.model 2>/dev/null || cat /proc/device-tree/model 2>/dev/null | tr -d '\0')"
say page_size "$(getconf PAGE_SIZE 2>/dev/null)"
while read -r name value _; do
    case $name in
        KernelPageSize:) say smaps_page_kb "$value"; break;;
    esac
done 2>/dev/null </proc/self/smaps
while read -r name value _; do
    case $name in
        MemTotal:) say mem_total_kb "$value";;
        MemAvailable:) say mem_available_kb "$value";;
    esac
done </proc/meminfo
while IFS=: read -r _ controllers path; do
    case $controllers in
        '') group=/sys/fs/cgroup$path top=/sys/fs/cgroup file=memory.max;;
        memory) group=/sys/fs/cgroup/memory$path top=/sys/fs/cgroup/memory file=memory.limit_in_bytes;;
        *) continue;;
    esac
    while :; do
        [ -r "$group/$file" ] && say cgroup_limit "$(cat "$group/$file")"
        case $group in "$top"/*) group=${group%/*};; *) break;; esac
    done
done 2>/dev/null </proc/self/cgroup
if [ -d /sys/fs/selinux ] && [ -n "$(ls /sys/fs/selinux 2>/dev/null)" ]; then
    say selinux "$(getenforce 2>/dev/null || cat /sys/fs/selinux/enforce 2>/dev/null)"
else
    say selinux absent
fi
say ptrace_scope "$(cat /proc/sys/kernel/yama/ptrace_scope 2>/dev/null)"
say python "$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)"
module() { # NAME MODULE FILE…: a file that shows that it is there, or the module that would bring it
    name=$1 module=$2
    shift 2
    for file; do
        [ -e "$file" ] && say "$name" yes && return
    done
    for directory in /lib/modules/$(uname -r) /vendor/lib/modules /system/lib/modules /vendor_dlkm/lib/modules; do
        [ -n "$(find $directory -name "$module.ko*" 2>/dev/null)" ] && say "$name" module && return
    done
    say "$name" no
}
module zram zram /sys/class/zram-control /sys/block/zram0
module ublk ublk_drv /dev/ublk-control
module nbd nbd /sys/block/nbd0 /dev/nbd0
[ -e /sys/module/zswap/parameters/enabled ] && say zswap yes
[ "$(cat /sys/module/zswap/parameters/enabled 2>/dev/null)" = Y ] && say zswap_on yes
[ -e /proc/pressure/memory ] && say psi yes
while read -r area _; do
    say swap "$area"
done 2>/dev/null </proc/swaps
exit 0
"""


def look(transport: Transport) -> Device:
    looked = run_script(transport, _LOOK)
    facts: dict[str, str] = {}
    swaps: list[str] = []
    limits: list[int] = []
    for line in looked.text.splitlines():
        name, _, value = line.partition("=")
        if name == "swap":
            swaps.append(value)
        elif name == "cgroup_limit" and value.isdecimal():
            limits.append(int(value))
        facts[name] = value.strip()
    if looked.code != 0 or not facts.get("uid", "").isdecimal():
        raise NoDevice(f"{transport.serial}: its shell does not work: {looked.complaint}", name="no_shell")
    mem_total = _integer(facts, "mem_total_kb") * 1024
    return Device(
        serial=transport.serial,
        model=facts.get("model", ""),
        android=facts.get("android", ""),
        abis=_abis(facts),
        machine=facts.get("machine", ""),
        kernel=facts.get("kernel", ""),
        page_size=_integer(facts, "page_size") or _integer(facts, "smaps_page_kb") * 1024 or None,
        mem_total=mem_total,
        mem_available=_integer(facts, "mem_available_kb") * 1024,
        cgroup_limit=min((limit for limit in limits if limit < mem_total), default=None),
        uid=int(facts["uid"]),
        selinux=_selinux(facts.get("selinux", "")),
        ptrace_scope=_integer(facts, "ptrace_scope"),
        python=facts.get("python", ""),
        zram=facts.get("zram", "no"),
        ublk=facts.get("ublk", "no"),
        nbd=facts.get("nbd", "no"),
        zswap=facts.get("zswap") == "yes",
        zswap_on=facts.get("zswap_on") == "yes",
        psi=facts.get("psi") == "yes",
        swaps=tuple(path for path in swaps if path.startswith("/")),
    )


def _abis(facts: Mapping[str, str]) -> tuple[str, ...]:
    if listed := facts.get("abilist"):
        return tuple(listed.split(","))
    machine = facts.get("machine", "")
    return _ABIS.get(machine, (machine,))


def _integer(facts: Mapping[str, str], name: str) -> int:
    value = facts.get(name, "")
    return int(value) if value.isdecimal() else 0


def _selinux(said: str) -> str:
    return {"1": "enforcing", "0": "permissive", "": "unknown"}.get(said, said.lower())


@dataclass(frozen=True)
class Probe:
    """What `zcached probe` says: facts that only a system call tells, and the proof that the program runs there."""

    facts: Mapping[str, str] = field(default_factory=dict)
    failure: str = ""
    """Why there are none."""

    @property
    def userfaultfd(self) -> str:
        return self.facts.get("userfaultfd", "unknown")


@dataclass(frozen=True)
class Use:
    """Something that zcache can do, on this device or not."""

    name: str
    allowed: bool
    why: str = ""
    """Where it is not allowed."""
    change: str = ""
    """What would change that."""


def uses(device: Device, root: Root, probe: Probe) -> list[Use]:
    """The first is the main use."""
    rooted = root.rights is not None
    no_root = "needs root" if device.is_root or rooted else f"needs root; this is uid {device.uid}"
    become_root = (
        "run zcache as root" if device.serial.startswith("local") else "root the device (su, or a userdebug build)"
    )
    block_device = "yes" in (device.ublk, device.nbd)
    loadable = "module" in (device.ublk, device.nbd)
    block_change = (
        "load the module ublk_drv or nbd" if loadable else "a kernel with CONFIG_BLK_DEV_UBLK or CONFIG_BLK_DEV_NBD"
    )
    return [
        _need("pools over the sockets", (not probe.failure, probe.failure, "zcache up --binary FILE, if you have one")),
        _need("replay --pid, processes of the same user", (rooted or device.ptrace_scope == 0, "Yama forbids it",
              "run as root, or write 0 to /proc/sys/kernel/yama/ptrace_scope")),
        _need("replay --pid, any process", (rooted, no_root, become_root)),
        _need("swap device", (rooted, no_root, become_root), (block_device, "the kernel offers neither ublk nor nbd",
              block_change)),
        _need("block cache", (rooted, no_root, become_root), (block_device, "the kernel offers neither ublk nor nbd",
              block_change)),
        _need("compressed heap", (probe.userfaultfd == "ok", f"userfaultfd: {probe.userfaultfd}",
              "a kernel with CONFIG_USERFAULTFD that lets this user use it, or root")),
        _need("kernel zram tuning", (rooted, no_root, become_root), (device.zram == "yes", "the kernel shows no zram",
              "load the module zram" if device.zram == "module" else "a kernel with CONFIG_ZRAM")),
        _need("agent on the device", (_version(device.python) >= (3, 11), f"Python {device.python or 'is not there'}",
              "install Python 3.11 or later, e.g. from Termux or the distribution")),
    ]  # fmt: skip


def _need(name: str, *needs: tuple[bool, str, str]) -> Use:
    missing = [(why, change) for met, why, change in needs if not met]
    return Use(name, not missing, "; ".join(why for why, _ in missing), "; ".join(change for _, change in missing))


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())
