# SPDX-License-Identifier: Apache-2.0
"""What zcache install has brought to a device, as the device has it noted."""

from dataclasses import dataclass, field

from .kinds import KINDS, Kind, Link
from .root import Root

_HEADING = "zcache-installed 1"


@dataclass(frozen=True)
class Installed:
    """What a device's note says that was brought there."""

    kind: Kind
    version: str
    hashes: dict[str, str] = field(default_factory=dict)
    """Of the files, by path."""
    links: tuple[Link, ...] = ()
    lines: tuple[tuple[str, str], ...] = ()
    made: tuple[str, ...] = ()
    """Directories."""


def find(root: Root) -> Installed | None:
    """What zcache install has brought there."""
    for kind in KINDS.values():
        note = root.script('[ ! -r "$1" ] || cat "$1"', root.at(kind.note))
        if note.startswith(_HEADING):
            return _parse(note)
    return None


def _parse(note: str) -> Installed:
    facts: dict[str, str] = {}
    hashes: dict[str, str] = {}
    links, lines, made = [], [], []
    for line in note.splitlines()[1:]:
        word, _, rest = line.partition(" ")
        first, _, second = rest.partition(" ")
        if word == "file":
            hashes[second] = first
        elif word == "link":
            links.append(Link(second, first))
        elif word == "line":
            lines.append((first, second))
        elif word == "made":
            made.append(rest)
        else:
            facts[word] = rest
    return Installed(KINDS[facts["as"]], facts["version"], hashes, tuple(links), tuple(lines), tuple(made))


def show(installed: Installed) -> str:
    lines = [_HEADING, f"as {installed.kind.name}", f"version {installed.version}"]
    lines += [f"file {sha256} {path}" for path, sha256 in installed.hashes.items()]
    lines += [f"link {link.target} {link.path}" for link in installed.links]
    lines += [f"line {path} {text}" for path, text in installed.lines]
    lines += [f"made {path}" for path in installed.made]
    return "\n".join(lines) + "\n"
