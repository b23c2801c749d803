# SPDX-License-Identifier: Apache-2.0
"""Small files of a device's kernel, as a shell there reads them.

It is kept open and reads by itself: to ask again starts no process there, but for sysctls, which tell nothing from the
second byte on, and a shell reads byte by byte.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from .device import Rights
from .errors import NoDevice
from .transport.base import ByteStream, Transport

Texts = Mapping[str, str]
"""By path, without the last newline."""

DEBUGFS = "/sys/kernel/debug"

_READER = r"""
uid=$(id -u)
while read -r _; do
    echo "uid $uid"
    [ ! -d %s ] || [ -x %s ] || echo "closed %s"
    for file in %s; do
        [ -f "$file" ] || continue
        [ -r "$file" ] || { echo "closed $file"; continue; }
        echo "file $file"
        case $file in
            /proc/sys/*) echo "line $(cat "$file")"; continue;;
            /proc/vmstat) want='zswp*';;
            /proc/meminfo) want='[MSZ]*';;
            *) want='*';;
        esac
        while read -r line || [ -n "$line" ]; do
            case $line in $want) echo "line $line";; esac
        done <"$file"
    done 2>/dev/null
    echo end
done
"""


@dataclass(frozen=True)
class Files:
    texts: Texts
    """What is not there is left out."""
    closed: tuple[str, ...] = ()
    """Paths that need other rights."""
    uid: int = 0
    """Of who read."""


class FileReader:
    """The shell on the device. For one thread."""

    def __init__(self, transport: Transport, rights: Rights, patterns: Iterable[str]) -> None:
        """`patterns`: of paths, as the shell has them."""
        script = _READER % (DEBUGFS, DEBUGFS, DEBUGFS, " ".join(patterns))
        self._serial = transport.serial
        self._stream: ByteStream = transport.open_command(rights.wrap(["sh", "-c", script]))
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stream.close()

    def read(self) -> Files:
        self._stream.write(b"\n")
        return parse(self._lines())

    def _lines(self) -> Iterator[str]:
        while True:
            while b"\n" not in self._received:
                data = self._stream.read(65536)
                if not data:
                    raise NoDevice(f"{self._serial}: its shell ended", name="no_shell", hint="zcache doctor")
                self._received += data
            line, _, self._received = self._received.partition(b"\n")
            if line == b"end":
                return
            yield line.decode(errors="replace")


def parse(lines: Iterator[str]) -> Files:
    """What the shell printed."""
    files: dict[str, list[str]] = {}
    closed: list[str] = []
    uid = 0
    current: list[str] = []
    for line in lines:
        kind, _, rest = line.partition(" ")
        if kind == "line":
            current.append(rest)
        elif kind == "file":
            current = files.setdefault(rest, [])
        elif kind == "closed":
            closed.append(rest)
        elif kind == "uid" and rest.isdecimal():
            uid = int(rest)
    return Files({path: "\n".join(lines) for path, lines in files.items()}, tuple(closed), uid)
