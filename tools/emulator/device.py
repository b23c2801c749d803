# SPDX-License-Identifier: Apache-2.0
"""Boot a device, talk to it over adb, stop it."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import adbutils

from .adb import AdbServer, free_port
from .image import image
from .packages import EmulatorError
from .process import die_with_parent

QEMU = "qemu-system-aarch64"
CPU = "max,pauth=off"
"""Without pointer authentication, which takes QEMU a fifth of its time and devices of this size have not."""
_BOOT_SECONDS = 180
_CPUS = 2
_COUNTED = "shift=2,sleep=on"
"""An instruction takes 2² ns."""


@dataclass(frozen=True)
class Target:
    flavour: str
    """Of the kernel, see packages.KERNELS."""
    root: bool
    """adbd stays root."""


TARGETS = {
    "arm64": Target("4k", False),
    "arm64-root": Target("4k", True),
    "arm64-16k": Target("16k", False),
}


@dataclass(frozen=True)
class SlowDisk:
    """An empty disk that reads and writes no faster than that."""

    mb: int
    bytes_a_second: int


@dataclass(frozen=True)
class KeptDisk:
    """An image file in which stays what the device writes."""

    path: Path


Disk = int | Path | SlowDisk | KeptDisk
"""The size in MB of an empty one, or an image file, which stays as it is: what the device writes is forgotten."""


@dataclass(frozen=True)
class Done:
    """How a command on the device ended."""

    exit_code: int
    output: str


@dataclass
class Device:
    target: str
    serial: str
    server: AdbServer
    owns_server: bool
    process: subprocess.Popen[bytes]
    directory: Path
    """Of this boot: the console's log."""
    uart: str | None = None
    """A pty joined to the board's second UART, if asked for."""
    env: dict[str, str] = field(default_factory=dict)
    """What makes zcache and adb find this device."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def console(self) -> Path:
        return self.directory / "console.log"

    @property
    def pid(self) -> int:
        return self.process.pid

    def adb(self, timeout: float = 60) -> adbutils.AdbDevice:
        return self.server.client(timeout).device(self.serial)

    def shell(self, command: str, timeout: float = 60) -> Done:
        done = self.adb(timeout).shell2(command, timeout=timeout, v2=True)
        return Done(done.returncode, str(done.output))

    def push(self, source: Path, path: str, mode: int = 0o755, timeout: float = 120) -> None:
        self.adb(timeout).sync.push(source, path, mode)

    def pull(self, path: str, timeout: float = 120) -> bytes:
        return bytes(self.adb(timeout).sync.read_bytes(path))

    def pause(self) -> None:
        """The whole machine stands still: nothing answers, nothing is closed."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """As pulling the plug."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.kill()
        if self.owns_server:
            self.server.stop()
        else:
            _quietly(lambda: self.server.client(5).disconnect(self.serial))
        shutil.rmtree(self.directory, ignore_errors=True)

    def wait(self, deadline: float) -> None:
        """Until adb lists it as a device and a command runs."""
        end = time.monotonic() + deadline
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise EmulatorError(f"{QEMU} ended: {self._last_words()}")
            _quietly(lambda: self.server.client(5).connect(self.serial, timeout=5))
            if _quietly(lambda: self.shell("echo up", 5).output.strip() == "up"):
                return
            time.sleep(0.3)
        raise EmulatorError(f"{self.target} did not answer within {deadline:.0f} s: {self._last_words()}")

    def _last_words(self) -> str:
        """QEMU's own, and the console's."""
        logs = (self.directory / "qemu.log", self.console)
        lines = "\n".join(log.read_text(errors="replace") for log in logs if log.exists()).split("\n")
        return " / ".join(line.strip() for line in lines[-5:] if line.strip())


def _quietly(call: Callable[[], object]) -> object:
    """What fails while a device comes or goes is tried again or does not matter."""
    try:
        return call()
    except (adbutils.AdbError, OSError):
        return None


def boot(
    target: str,
    mem_mb: int = 512,
    disks: Sequence[Disk] = (),
    uart: bool = False,
    root: bool | None = None,
    su: bool = False,
    board: bool = False,
    server: AdbServer | None = None,
    detach: bool = False,
    counted: bool = False,
    deadline: float = _BOOT_SECONDS,
) -> Device:
    """A device that answers adb, at a private adb server unless one is given.

    disks: virtio block devices in this order. root: overrides the target's. su: the shell user finds a setuid
    su. board: BusyBox's init starts what /etc/inittab says; /etc, /usr and /var stay on the first disk. detach: it may
    outlive this process. counted: it has one CPU, whose clock counts instructions, 4 ns each: what runs there takes
    as long on a busy machine as on an idle one.
    """
    if target not in TARGETS:
        raise EmulatorError(f"no target {target!r}: there are {', '.join(TARGETS)}")
    check_qemu()
    as_root = TARGETS[target].root if root is None else root
    directory = Path(tempfile.mkdtemp(prefix=f"zcache-{target}-"))
    owned = server is None
    adb = server or AdbServer.start()
    port = free_port()
    words = f"zcache.root={int(as_root)} zcache.su={int(su)} zcache.board={int(board)}"
    command = _command(target, mem_mb, disks, uart, counted, words, port, directory)
    with (directory / "qemu.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=detach,
            preexec_fn=None if detach else die_with_parent,
        )
    serial = f"127.0.0.1:{port}"
    device = Device(target, serial, adb, owned, process, directory)
    device.env = {**adb.env, "ANDROID_SERIAL": serial}
    try:
        device.wait(deadline)
        device.uart = pty_of(directory / "qemu.log") if uart else None
    except BaseException:
        device.stop()
        raise
    return device


def check_qemu() -> None:
    if not shutil.which(QEMU):
        raise EmulatorError(f"{QEMU} is missing: apt-get install qemu-system-arm")


def _command(
    target: str, mem_mb: int, disks: Sequence[Disk], uart: bool, counted: bool, words: str, port: int, directory: Path
) -> list[str]:
    made = image(TARGETS[target].flavour)
    # QEMU keeps translated code by virtual address: with random ones it translates each program anew at each start.
    append = f"console=ttyAMA0 quiet panic=-1 norandmaps {words}"
    command = [QEMU, "-M", "virt", "-cpu", CPU, "-m", f"{mem_mb}M"]
    command += ["-smp", "1", "-icount", _COUNTED] if counted else ["-smp", str(_CPUS)]
    command += ["-display", "none", "-monitor", "none", "-no-reboot"]
    command += ["-kernel", str(made.kernel), "-initrd", str(made.initramfs), "-append", append]
    command += ["-serial", f"file:{directory / 'console.log'}"]
    command += ["-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:5555"]
    command += ["-device", "virtio-net-pci,netdev=net,romfile="]
    if uart:
        command += ["-chardev", "pty,id=uart", "-device", "pci-serial,chardev=uart"]
    for number, disk in enumerate(disks):
        more = f",throttling.bps-total={disk.bytes_a_second}" if isinstance(disk, SlowDisk) else ""
        more += ",snapshot=on" if isinstance(disk, Path) else ""
        command += ["-drive", f"if=none,id=disk{number},format=raw,file={_disk(disk, number, directory)}{more}"]
        command += ["-device", f"virtio-blk-pci,drive=disk{number}"]
    return command


def _disk(disk: Disk, number: int, directory: Path) -> Path:
    if isinstance(disk, KeptDisk):
        return disk.path
    if isinstance(disk, Path):
        return disk
    path = directory / f"disk{number}.img"
    path.touch()
    os.truncate(path, (disk.mb if isinstance(disk, SlowDisk) else disk) * 1024 * 1024)
    return path


def pty_of(log: Path) -> str:
    found = re.search(r"redirected to (/dev/pts/\d+)", log.read_text(errors="replace"))
    if not found:
        raise EmulatorError("QEMU names no pty for the UART")
    return found[1]
