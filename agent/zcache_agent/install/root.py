# SPDX-License-Identifier: Apache-2.0
"""The file system that zcached is to be a part of: looking, copying."""

import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..binary import DeployFailed
from ..deploy import SUM, find_stage
from ..device import Rights
from ..transport.base import Transport
from .kinds import File

NEW = ".zcache-new"
"""Ends the name of what is to take a file's place."""


@dataclass(frozen=True)
class Root:
    """The file system that it goes to: a device's, with root's rights, or that of an image below `prefix`."""

    transport: Transport
    rights: Rights
    prefix: str = ""

    @property
    def is_image(self) -> bool:
        return bool(self.prefix)

    def at(self, path: str) -> str:
        return f"{self.prefix}{path}"

    def script(self, script: str, *arguments: str, timeout: float | None = None) -> str:
        """What a script says, with the arguments as $1 and on. DeployFailed: it failed."""
        command = self.rights.wrap(["sh", "-c", script, "sh", *arguments])
        ran = self.transport.run(command, timeout=timeout)
        if ran.code != 0:
            raise DeployFailed(f"{self.transport.serial}: {ran.complaint}", name="install_failed")
        return ran.text


_SUMS = (
    SUM
    + r"""
for path; do
    if [ -L "$path" ]; then echo "link $(readlink "$path")"
    elif [ -f "$path" ]; then echo "file $(sum "$path")"
    elif [ -e "$path" ]; then echo other
    else echo absent
    fi
done
"""
)


def look(root: Root, paths: Sequence[str]) -> dict[str, str]:
    """By path: `file HASH`, `link TARGET`, other or absent."""
    if not paths:
        return {}
    said = root.script(_SUMS, *map(root.at, paths)).splitlines()
    return dict(zip(paths, said, strict=True))


EXCHANGE = r"""
for path; do
    mv -f "$path%s" "$path" || exit 1
done
""".replace("%s", NEW)


def put(root: Root, file: File) -> None:
    push(root, file, file.path + NEW)
    root.script(EXCHANGE, root.at(file.path))


_SETTLE = r"""
[ "$1" = "$2" ] || { rm -f "$2" && cp "$1" "$2" && rm -f "$1"; } || exit 1
[ -z "$4" ] || chown "$4" "$2" || exit 1
chmod "$3" "$2"
"""


def push(root: Root, file: File, path: str) -> None:
    """Writes it there, and verifies the copy."""
    transport, target = root.transport, root.at(path)
    staged = target
    if root.rights is not Rights.OWN:
        staged = f"{find_stage(transport)}/zcached.new-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory) / "file"
        here.write_bytes(file.content)
        try:
            transport.push(here, staged, file.mode)
        except OSError as error:
            raise DeployFailed(
                f"{transport.serial}: {target}: {error.strerror}",
                name="install_failed",
                hint="is its file system full, or mounted read-only?",
            ) from error
    root.script(_SETTLE, staged, target, f"{file.mode:o}", "" if root.is_image else "0:0")
    if look(root, [path])[path] != f"file {file.sha256}":
        raise DeployFailed(
            f"{transport.serial}: the copy {target} is damaged",
            name="damaged",
            hint="try again; check the cable and the device's storage",
        )
