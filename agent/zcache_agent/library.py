# SPDX-License-Identifier: Apache-2.0
"""Shared libraries of zcache's own, used through ctypes."""

import platform
import sys
from collections.abc import Mapping, Sequence
from ctypes import CDLL
from pathlib import Path

from .errors import ZcacheError

Functions = Mapping[str, tuple[type | None, Sequence[type]]]
"""By name: the result and the arguments. zc_version is one of them."""


class NoLibrary(ZcacheError):
    """There is no library that could be used."""

    default_name = "no_library"


def load(path: str, functions: Functions, version: str, *, hint: str, version_hint: str) -> CDLL:
    """NoLibrary: it is none, lacks one of the functions, or is not of that version."""
    if sys.platform != "linux":
        name = Path(path).name
        raise NoLibrary(
            f"{name} is for Linux only, and this is {platform.system()}", hint="run this on a Linux machine"
        )
    try:
        library = CDLL(path)
        for name, (result, arguments) in functions.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise NoLibrary(f"{path}: {error}", hint=hint) from error
    if (found := library.zc_version().decode()) != version:
        raise NoLibrary(f"{path}: is version {found}, the agent {version}", hint=version_hint)
    return library
