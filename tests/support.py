# SPDX-License-Identifier: Apache-2.0
"""What the test folders share."""

from __future__ import annotations

import os
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
