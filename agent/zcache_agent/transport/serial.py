# SPDX-License-Identifier: Apache-2.0
"""A board with nothing but a console on a UART. docs/serial.md is for who uses it."""

import contextlib
import errno
import gzip
import hashlib
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

import serial
from serial.tools import list_ports

from ..errors import NoDevice, Usage
from .base import ByteStream, Completed, Progress, file_error, lost
from .console import Console, checksums
from .line import Line, StreamEnded

DEFAULT_BAUD = 115200
_CHUNK = 4096
_WRITE_SECONDS = 10.0
_SPEC = re.compile(r"serial:(?P<port>[^,]+)(,(?P<baud>\d+))?")

_HAVE = r"""
umask 077
for f in "${1%/*}"/zcached.part-*; do
    [ "$f" = "$1" ] || rm -f "$f"
done
type gzip >/dev/null 2>&1 && echo has gzip
[ -f "$1" ] && [ -O "$1" ] && [ ! -L "$1" ] || { rm -f "$1"; exit 0; }
echo "size $(wc -c <"$1")"
echo "sum $({ cksum || md5sum || sha256sum; } <"$1" 2>/dev/null)"
"""
_UNPACK = r"""
umask 077
rm -f "$2"
case $4 in gzip) gzip -dc <"$1" >"$2";; *) cat <"$1" >"$2";; esac && chmod "$3" "$2" && rm -f "$1" || exit 1
echo "sum $({ cksum || md5sum || sha256sum; } <"$2" 2>/dev/null)"
"""
_FORGET = r"""
program=$(readlink /proc/$PPID/exe)
case $program in */zcache-line-*/zcline) rm -f "$program" "$program".*; rmdir "${program%/*}";; esac
"""
"""The script's parent is zcline."""


def _silent(done: int, size: int) -> None: ...


def ports() -> list[tuple[str, str]]:
    """What -s takes, and what is behind it."""
    seen = sorted(list_ports.comports())
    return [(f"serial:{port.device}", port.description if port.description != "n/a" else "") for port in seen]


class SerialTransport:
    is_local = False

    def __init__(self, spec: str, timeout: float = 30.0) -> None:
        """`spec`: serial:PORT[,BAUD]. NoDevice: the port cannot be had."""
        found = _SPEC.fullmatch(spec)
        if not found:
            raise Usage(f"{spec}: not serial:PORT[,SPEED]", hint=f"e.g. serial:/dev/ttyUSB0,{DEFAULT_BAUD}")
        self.serial = spec
        self.timeout = timeout
        self._name = found["port"]
        self._baud = int(found["baud"] or DEFAULT_BAUD)
        self._port = self._open_port()
        self._console: Console | None = None
        self._line: Line | None = None
        self._starting = threading.Lock()

    @property
    def bytes_second(self) -> int:
        return self._baud // 10

    @property
    def line(self) -> Line:
        """The session with the board: begun when it is first needed, and again when it broke."""
        with self._starting:
            if self._line and self._line.broken:
                self._line.close()
                self._line = None
                self._port.close()
                self._port = self._open_port()
            if not self._line:
                self._line = self._begin()
            return self._line

    def _begin(self) -> Line:
        try:
            self._console = Console(self._port, self.serial, self._baud, self.timeout)
            self._console.bring_line()
        except serial.SerialException as error:
            raise lost(self.serial, error) from error
        line = Line(self._port, self.serial, self._baud, self.timeout)
        try:
            line.begin()
        except BaseException:
            line.close()
            raise
        return line

    def _open_port(self) -> serial.Serial:
        try:
            return serial.Serial(self._name, self._baud, exclusive=True, write_timeout=_WRITE_SECONDS)
        except (serial.SerialException, OSError, ValueError) as error:
            raise _refusal(self.serial, self._name, error) from error

    def run(self, argv: Sequence[str], *, timeout: float | None = None) -> Completed:
        return self.line.run(argv, timeout)

    def push(self, source: Path, target: str, mode: int, progress: Progress | None = None) -> None:
        """What was pushed of the same file when the line broke is not pushed again."""
        content = source.read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:16]
        part = str(PurePosixPath(target).parent / f"zcached.part-{digest}")
        said = {words[0]: words[1] for words in map(str.split, self._sh(_HAVE, part).splitlines()) if len(words) > 1}
        packed = gzip.compress(content, 9, mtime=0) if said.get("has") == "gzip" else content
        done = int(said.get("size", 0))
        if said.get("sum") not in checksums(packed[:done]):
            done = 0
        self._append(part, packed, done, progress or _silent)
        kind = said.get("has", "plain")
        words = self._sh(_UNPACK, part, target, f"{mode:o}", kind).split()
        if len(words) < 2 or words[1] not in checksums(content):
            raise OSError(errno.EIO, "the copy is damaged", target)

    def _append(self, part: str, packed: bytes, done: int, progress: Progress) -> None:
        script = 'umask 077; if [ "$2" = 0 ]; then exec cat >"$1"; else exec cat >>"$1"; fi'
        stream = self.line.open_command(["sh", "-c", script, "sh", part, str(done)], keeps_error=True)
        try:
            with contextlib.suppress(StreamEnded):  # it says why
                for at in range(done, len(packed), _CHUNK):
                    progress(at, len(packed))
                    stream.write(packed[at : at + _CHUNK])
            ended = stream.finish()
        finally:
            stream.close()
        if ended.code != 0:
            raise file_error(part, ended.stderr)
        progress(len(packed), len(packed))

    def _sh(self, script: str, *words: str) -> str:
        ended = self.run(["sh", "-c", script, "sh", *words])
        if ended.code != 0:
            raise file_error(words[-1], ended.stderr)
        return ended.text

    def pull(self, source: str, limit: int) -> bytes:
        ended = self.run(["head", "-c", str(limit), source])
        if ended.code != 0:
            raise file_error(source, ended.stderr)
        return ended.stdout

    def open_socket(self, address: str) -> ByteStream:
        return self.line.open_socket(address)

    def open_command(self, argv: Sequence[str]) -> ByteStream:
        return self.line.open_command(argv)

    def forget(self) -> None:
        self.run(["sh", "-c", _FORGET])

    def interrupt(self) -> None:
        for waiting in (self._console, self._line):
            if waiting:
                waiting.interrupt()

    def close(self) -> None:
        if self._line:
            self._line.close()
        self._port.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _refusal(spec: str, name: str, error: Exception) -> NoDevice:
    """Why the port cannot be had."""
    number = getattr(error, "errno", None)
    if number == errno.ENOENT:
        there = ", ".join(spec for spec, _ in ports()) or "none"
        return NoDevice(f"{spec}: no such port; there are: {there}", hint="is the adapter plugged in?")
    if number == errno.EACCES:
        return NoDevice(f"{spec}: this user may not open it", name="no_permission", hint=_group_hint(name))
    if number == errno.EBUSY or "exclusively lock" in str(error):
        return NoDevice(
            f"{spec}: another program has it", name="busy", hint=f"end that zcache or terminal: fuser -v {name}"
        )
    said = "it is no serial port" if "ioctl" in str(error) else os.strerror(number) if number else str(error)
    return NoDevice(f"{spec}: {said}", name="no_port", hint="zcache devices lists the ports there are")


def _group_hint(name: str) -> str:
    """The group that a port belongs to."""
    try:
        import grp  # not everywhere

        group = grp.getgrgid(Path(name).stat().st_gid).gr_name
    except (ImportError, OSError, KeyError):
        group = "dialout"
    return f"become a member of its group: sudo usermod -aG {group} $USER, and log in again"
