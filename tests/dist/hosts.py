# SPDX-License-Identifier: Apache-2.0
"""Runs zcache as if this were macOS or Windows: without what Python does not have there.

    python hosts.py Darwin|Windows ARGUMENT…

Other packages are imported as they are on Linux. What the kernel does differently this does not show.
"""

import importlib
import os
import platform
import signal
import socket
import sys
from types import ModuleType

PLATFORMS = {"Darwin": "darwin", "Windows": "win32"}
MISSING: dict[str, dict[ModuleType, tuple[str, ...]]] = {
    "Darwin": {os: ("memfd_create", "sched_getaffinity", "O_PATH")},
    "Windows": {
        os: ("getuid", "geteuid", "memfd_create", "sysconf", "uname", "fork", "O_NOFOLLOW", "sched_getaffinity"),
        signal: ("SIGHUP", "SIGUSR1", "SIGUSR2"),
        socket: ("AF_UNIX", "SCM_RIGHTS", "recv_fds", "send_fds"),
    },
}
UNIX_MODULES = ("fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "syslog")
THIRD_PARTY = ("adbutils", "attrs", "cattrs", "click", "elftools.elf.elffile", "rich.console", "rich.live")


def locking(file: int, mode: int, count: int) -> None:
    """msvcrt's, where nobody else has the file."""


def pretend(host: str) -> None:
    for name in (*THIRD_PARTY, "asyncio", "ctypes.util", "subprocess", "tempfile"):
        importlib.import_module(name)
    for module, names in MISSING[host].items():
        for name in names:
            delattr(module, name)
    if host == "Windows":
        sys.modules.update(dict.fromkeys(UNIX_MODULES))  # type: ignore[arg-type] # None: it cannot be imported
        msvcrt = ModuleType("msvcrt")
        vars(msvcrt).update(LK_NBLCK=2, locking=locking)
        sys.modules["msvcrt"] = msvcrt
    sys.platform = PLATFORMS[host]
    platform.system = lambda: host


if __name__ == "__main__":
    pretend(sys.argv[1])
    main = importlib.import_module("zcache_agent.cli").main
    sys.exit(main(sys.argv[2:]))
