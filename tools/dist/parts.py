# SPDX-License-Identifier: Apache-2.0
"""What is in a release besides our own code: C sources in the binaries, and the packages that the agent needs."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, Literal

import ziglang

THIRD_PARTY = Path("build/third_party")
ZIG = Path(ziglang.__file__).parent
MUSL = ZIG / "lib/libc/musl"
LOCK = Path("requirements.lock")
C_LOCK = Path("third_party.lock")
NOT_SHIPPED = {"minilzo"}
"""Of third_party.lock: in builds with LZO=1 only, which are GPL-2.0-or-later, and no release."""


@dataclass(frozen=True)
class Part:
    """C code that is linked into our binaries."""

    name: str
    licence: str
    """By SPDX."""
    package: str
    """Of PyPI, that it comes out of."""
    text: Path
    """Its licence, or a source whose first comment is that."""
    version_file: Path
    version_pattern: str
    """Its groups, joined by dots, are the version; the package has one of its own."""
    only: Literal["", "daemons", "static"] = ""
    """Which binaries have it; else all."""

    def version(self) -> str:
        return ".".join(re.findall(self.version_pattern, self.version_file.read_text()))

    def licence_text(self) -> str:
        text = self.text.read_text()
        return text[len("/*\n") : text.index("*/")] if self.text.suffix == ".c" else text


def _numbers(prefix: str) -> str:
    return rf"#define {prefix}_VERSION_(?:MAJOR|MINOR|RELEASE) +(\d+)"


LZ4 = THIRD_PARTY / "lz4/lz4libs"
ZSTD = THIRD_PARTY / "zstandard/zstd"
XXHASH = THIRD_PARTY / "xxhash/deps/xxhash"
LIBURING = THIRD_PARTY / "liburing/libs/liburing"

PARTS = (
    Part("liburing", "MIT", "liburing", LIBURING / "LICENSE", LIBURING / "liburing.spec", r"Version: (\S+)", "daemons"),
    Part("lz4", "BSD-2-Clause", "lz4", LZ4 / "lz4.c", LZ4 / "lz4.h", _numbers("LZ4")),
    Part("musl", "MIT", "ziglang", MUSL / "COPYRIGHT", MUSL / "src/internal/version.h", r'"(\S+)"', "static"),
    Part("xxhash", "BSD-2-Clause", "xxhash", XXHASH / "LICENSE", XXHASH / "xxhash.h", _numbers("XXH")),
    Part("zig-compiler-rt", "MIT", "ziglang", ZIG / "LICENSE", LOCK, r"ziglang==(\S+)"),
    Part("zstd", "BSD-3-Clause", "zstandard", ZSTD / "LICENSE", ZSTD / "zstd.h", _numbers("ZSTD")),
)


def pins() -> dict[str, Any]:
    """third_party.lock, of what is shipped: name → version, sha256."""
    locked: dict[str, Any] = tomllib.loads(C_LOCK.read_text())
    return {name: pin for name, pin in locked.items() if name not in NOT_SHIPPED}


def write_licences(folder: Path) -> None:
    """The texts, which the licences want to go with the binaries: a file a part."""
    for old in folder.glob("*.txt"):
        old.unlink()
    for part in PARTS:
        (folder / f"{part.name}.txt").write_text(part.licence_text())


@dataclass(frozen=True)
class Requirement:
    """A version of a package that requirements.lock has."""

    name: str
    version: str
    marker: str
    """On which machines it is this one; empty: on all."""
    needed_by: frozenset[str]

    @property
    def licence(self) -> str | None:
        """As the package says, where it is installed and says it in a line."""
        try:
            facts = metadata(self.name)
        except PackageNotFoundError:
            return None
        classes = [line.rpartition(" :: ")[2] for line in facts.get_all("Classifier", []) if "License ::" in line]
        stated = [facts[name] for name in ("License-Expression", "License") if name in facts]
        return next((text for text in [*stated, *classes] if "\n" not in text), None)


_AGENT = "zcache-agent (pyproject.toml)"
_PIN = re.compile(r"([\w.-]+)==(\S+)(?: ; (.+?))? \\")


def requirements() -> list[Requirement]:
    """What the agent needs to run, directly or not; what only its development needs is left out."""
    locked = _locked(LOCK.read_text().splitlines())
    wanted: set[str] = {_AGENT}
    while more := {pin.name for pin in locked if pin.needed_by & wanted} - wanted:
        wanted |= more
    return [pin for pin in locked if pin.name in wanted]


def direct(requirement: Requirement) -> bool:
    return _AGENT in requirement.needed_by


def _locked(lines: list[str]) -> list[Requirement]:
    """uv's format: a line with name and version, its hashes, and comments that say who wants it."""
    found: list[tuple[re.Match[str], set[str]]] = []
    for line in lines:
        if pin := _PIN.fullmatch(line):
            found.append((pin, set()))
        elif found and (by := re.fullmatch(r" +#(?: via)? +(\S.*)", line)):
            found[-1][1].add(by[1])
    return [Requirement(pin[1], pin[2], pin[3] or "", frozenset(by)) for pin, by in found]
