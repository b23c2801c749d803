# SPDX-License-Identifier: Apache-2.0
"""Files that a command writes for its user."""

import contextlib
import os
import tempfile
from pathlib import Path

from .errors import Usage


def write_whole(path: Path, text: str, option: str = "") -> None:
    """All of it or, with an error, nothing: what was there before stays. A device or pipe is written to as it is.

    Usage: it cannot be written; `option` is the one that named it.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_text(text)
        else:
            _replace(path.resolve(), text)
    except OSError as error:
        raise Usage(f"{option} {path}: {error.strerror}".lstrip(), hint="name a file that can be written") from error


def _replace(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _umask() -> int:
    """Which mkstemp() does not follow."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
