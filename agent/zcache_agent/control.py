# SPDX-License-Identifier: Apache-2.0
"""Client of the control tree. docs/protocol.md explains the wire."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from . import __version__
from .errors import DaemonAbsent, NoDevice, ProtocolError, Refused
from .transport.base import ByteStream

ABI = 1
LINE_MAX = 4096
_ANSWER_MAX = 64 * 1024 * 1024
"""Far more than a tree of thousands of pools; what announces more is no zcached."""

_NUMBER = re.compile(r"-?\d+(\.\d+)?")

_HINTS = {
    "ENOENT": "zcache ls shows what there is",
    "EINVAL": "zcache params shows what is allowed",
    "ERANGE": "zcache params shows what is allowed",
    "EACCES": "zcache params shows what can be set",
    "EPERM": "zcache params shows what can be set",
    "EEXIST": "zcache pool list shows the pools",
}


@dataclass(frozen=True)
class Description:
    """What the tree says of a node."""

    path: str
    type: str
    access: str
    unit: str
    range: str
    default: str
    meaning: str


def number(value: str) -> int | float | str:
    """A value of the tree as a number, where it is one."""
    if not _NUMBER.fullmatch(value):
        return value
    return float(value) if "." in value else int(value)


class ControlClient:
    """A connection to the control socket, for one thread."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._received = bytearray()
        try:
            abi = self.get("abi")
        except NoDevice as error:
            if error.name != "lost":
                raise
            raise DaemonAbsent(
                f"the daemon ended the connection: {error.message}", hint="zcache status; zcache up"
            ) from error
        if abi != str(ABI):
            raise DaemonAbsent(
                f"the daemon speaks ABI {abi}, this agent (zcache {__version__}) speaks ABI {ABI}",
                name="abi_mismatch",
                hint="zcache up --replace brings the agent's own daemon",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stream.close()

    def get(self, path: str) -> str:
        """A node's value; a table's lines with newlines between them."""
        return self._ask("get", quoted(path)).removesuffix("\n")

    def set(self, *pairs: tuple[str, str]) -> None:
        """All of them or none."""
        self._ask("set", *(quoted(word) for pair in pairs for word in pair))

    def list(self, path: str = "") -> list[str]:
        """Names in a directory; those of directories end with a slash."""
        return self._ask("list", *_optional(path)).splitlines()

    def dump(self, path: str = "") -> dict[str, str]:
        """Every value below, tables left out, by its path from the root."""
        return dict(_split(line) for line in self._ask("dump", *_optional(path)).splitlines())

    def describe(self, path: str = "") -> Sequence[Description]:
        lines = self._ask("describe", *_optional(path)).splitlines()
        return [_description(line) for line in lines]

    def _ask(self, *words: str) -> str:
        line = " ".join(words)
        if any(not char.isprintable() for char in line):
            raise Refused(f"{line!r}: a request is one line of text", name="EINVAL")
        request = line.encode() + b"\n"
        if len(request) > LINE_MAX:
            raise Refused(
                f"the request has {len(request)} bytes; {LINE_MAX} are allowed", name="E2BIG", hint="set fewer at once"
            )
        self._stream.write(request)
        return self._answer()

    def _answer(self) -> str:
        head = self._read_line()
        kind, _, rest = head.partition(" ")
        if kind == "ERR":
            name, _, message = rest.partition(" ")
            raise Refused(message or name, name=name, hint=_HINTS.get(name, ""))
        if kind != "OK" or not rest.isdecimal() or int(rest) > _ANSWER_MAX:
            raise ProtocolError(f"what answers is no zcached: {head[:80]!r}", hint="zcache log; zcache up --replace")
        size = int(rest)
        while len(self._received) < size:
            self._receive()
        payload = bytes(self._received[:size])
        del self._received[:size]
        return payload.decode(errors="replace")

    def _read_line(self) -> str:
        while (end := self._received.find(b"\n")) < 0:
            if len(self._received) > LINE_MAX:
                raise ProtocolError("what answers is no zcached: its answer has no first line")
            self._receive()
        line = bytes(self._received[:end]).decode(errors="replace")
        del self._received[: end + 1]
        return line

    def _receive(self) -> None:
        data = self._stream.read(65536)
        if not data:
            raise DaemonAbsent(
                "the daemon ended the connection", hint="zcache log shows its reason, zcache up starts it again"
            )
        self._received += data


def quoted(word: str) -> str:
    """A word of a request: in quotes where it would not be one without."""
    if word and not re.search(r'[\s"]', word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _optional(path: str) -> list[str]:
    return [quoted(path)] if path else []


def _split(line: str) -> tuple[str, str]:
    path, equals, value = line.partition("=")
    if not equals:
        raise ProtocolError(f"a line of a dump has no value: {line[:80]!r}")
    return path, value


def _description(line: str) -> Description:
    fields = line.split("\t")
    if len(fields) != 7:
        raise ProtocolError(f"a description has {len(fields)} fields instead of 7: {line[:80]!r}")
    path, kind, access, unit, allowed, default, meaning = fields
    return Description(path, kind, access, unit, allowed, default, meaning)
