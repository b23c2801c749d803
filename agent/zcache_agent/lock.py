# SPDX-License-Identifier: Apache-2.0
"""Keeps this user's commands from changing the same device at the same time."""

import contextlib
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .errors import DaemonAbsent

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_POLL_SECONDS = 0.1


@contextlib.contextmanager
def alone_on(device: str, timeout: float) -> Iterator[None]:
    """Waits until nobody else is at work on the device, at most `timeout` seconds. Ends with the process."""
    key = hashlib.sha256(device.encode()).hexdigest()[:16]
    user = os.getuid() if sys.platform != "win32" else "user"  # there each has a temporary directory of its own
    path = Path(tempfile.gettempdir()) / f"zcache-{user}-{key}.lock"
    end = time.monotonic() + timeout
    while (held := _try(path)) is None:
        if time.monotonic() > end:
            raise DaemonAbsent(f"{device}: another zcache is at work on it", name="busy", hint=f"{path} is its lock")
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it is gone; or Windows, which removes no open file
            path.unlink()
        os.close(held)


def _try(path: Path) -> int | None:
    """A descriptor of the locked file, or None: somebody else has it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        _lock(file)
        if os.fstat(file).st_nlink:  # else its last holder has removed it
            return file
    except (BlockingIOError, PermissionError):
        pass
    os.close(file)
    return None


def _lock(file: int) -> None:
    """OSError: somebody else has it."""
    if sys.platform == "win32":
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
