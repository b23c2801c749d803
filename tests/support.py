# SPDX-License-Identifier: Apache-2.0
"""What the test folders share."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build"

LZO = bool(os.environ.get("LZO"))
"""`make test LZO=1`: every build has the codec lzo."""
CODECS = "lz4 zstd lzo none" if LZO else "lz4 zstd none"
"""As refusals of another one list them."""
MEASURED = ["lz4", "lz4:8", *(["lzo"] if LZO else []), "zstd:-5", "zstd:-1", "zstd:1", "zstd:3", "zstd:9", "none"]
"""By bench, if it is not told which."""

REQUIREMENTS = ("devices", "zram", "sanitizers")


def require_or_skip(what: str, reason: str) -> NoReturn:
    """Skip this test for want of `what`, or fail it where ZCACHE_REQUIRE lists that."""
    assert what in REQUIREMENTS, f"{what}: not one of {', '.join(REQUIREMENTS)}"
    if what in os.environ.get("ZCACHE_REQUIRE", "").split(","):
        pytest.fail(f"ZCACHE_REQUIRE={what}: {reason}", pytrace=False)
    pytest.skip(reason)


def pause(pid: int) -> None:
    """Stops a process, and waits until each of its threads stands still: one alone sees the signal first."""
    os.kill(pid, signal.SIGSTOP)
    while not all(map(_stands_still, Path(f"/proc/{pid}/task").iterdir())):
        time.sleep(0.01)


def _stands_still(task: Path) -> bool:
    try:
        return (task / "stat").read_text().rpartition(") ")[2][0] == "T"
    except OSError:
        return True  # it has ended
