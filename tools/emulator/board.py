# SPDX-License-Identifier: Apache-2.0
"""A board with nothing but a console: BusyBox on a stock kernel, a getty on its PL011, which is a pty here."""

import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from .device import CPU, QEMU, check_qemu, pty_of
from .image import image
from .packages import EmulatorError
from .process import die_with_parent

BOARD_LOGIN, BOARD_PASSWORD = "root", "board"
_SECONDS = 60


@dataclass
class Board:
    process: subprocess.Popen[bytes]
    directory: Path
    uart: str
    """The pty that is its console: as fast as the emulator."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def boot_board(mem_mb: int = 128, chatter: bool = False) -> Board:
    """It boots as it is returned: "login:" comes out of its UART. chatter: so do kernel messages."""
    check_qemu()
    made = image("4k", board=True)
    directory = Path(tempfile.mkdtemp(prefix="zcache-board-"))
    append = f"console=ttyAMA0 quiet panic=-1 rdinit=/sbin/init zcache.chatter={int(chatter)}"
    command = [QEMU, "-M", "virt", "-cpu", CPU, "-m", f"{mem_mb}M", "-display", "none", "-monitor", "none"]
    command += ["-no-reboot", "-nic", "none", "-kernel", str(made.kernel), "-initrd", str(made.initramfs)]
    command += ["-append", append, "-serial", "pty"]
    log = directory / "qemu.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=die_with_parent
        )
    board = Board(process, directory, "")
    try:
        board.uart = _wait_for_pty(process, log)
    except BaseException:
        board.stop()
        raise
    return board


def _wait_for_pty(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + _SECONDS
    while "redirected" not in log.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > end:
            raise EmulatorError(f"{QEMU} ended: {log.read_text(errors='replace')[-200:]}")
        time.sleep(0.1)
    return pty_of(log)
