# SPDX-License-Identifier: Apache-2.0
"""The console of a board: finds its shell, logs in, and brings zcline onto it with what a shell has.

Bytes get lost and messages come in between, so a small loop is typed into the shell that runs only lines whose checksum
is right, and gives checksums with what it answers. It ends, and puts the terminal back, when nothing comes for 10 s.
"""

import base64
import gzip
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import NoDevice
from .base import Deadline, lost
from .frames import CALL, Deframer
from .line import Port

LOGIN, PASSWORD = "ZCACHE_SERIAL_LOGIN", "ZCACHE_SERIAL_PASSWORD"
_DIRECTORIES = "/tmp /data/local/tmp /run /dev/shm /var/tmp"  # noqa: S108 (of its own, mode 0700, and checked)
_ABIS = {"aarch64": "arm64-v8a", "armv8l": "armeabi-v7a", "armv7l": "armeabi-v7a", "x86_64": "x86_64"}
_BUNDLED = Path(__file__).parent.parent / "_bin"
_LOOP = (
    "o=$(stty -g);stty raw -echo min 0 time 99;h(){ (cksum||md5sum||sha256sum)2>/dev/null;};l=;while read -r n s d;do "
    'x=$(printf %s "$n $d"|h);case ,$s, in *",${x%% *},"*)[ "$n" = "$l" ]||eval "$d";l=$n;x=$(printf %s "$n $r"|h);'
    "printf '\\n@%s\\n' \"$n $r ${x%% *}\";;*)printf '\\n@?\\n';esac;done;stty \"$o\""
)
_LOOK = (
    "for q in DIRECTORIES;do q=$q/zcache-line-$(id -u);(umask 077;mkdir $q)2>/dev/null;"
    "[ -O $q ]&&[ ! -L $q ]&&chmod 700 $q 2>/dev/null&&break;q=;done;x=$(h<$q/zcline);x=${x%% *};"
    'r="$(uname -m) ${q:--} ${x:--}";for t in base64 xxd gzip;do type $t >/dev/null 2>&1&&r="$r $t";done'
)
_ANSWER = re.compile(rb"@(\d+) ([^\r\n]*?) ?([0-9a-f]+)\r?\n")
_REFUSAL = b"@?\n"
_CHUNK = 2048
"""Bytes in a line of the loop, before they are encoded: without stty a line has 4095 at most."""
_QUIET_SECONDS = 1.0
_ANSWER_SECONDS = 2.0
_LOGIN_SECONDS = 15.0
_LOGINS = 3
_LOOP_SECONDS = 10.5
_ASKS_NAME = re.compile(rb"login: *$", re.IGNORECASE)
_ASKS_PASSWORD = re.compile(rb"password: *$", re.IGNORECASE)
_PROMPT = re.compile(rb"[#$%>] *(\x1b\[[0-9;?]*[a-zA-Z])*$")
_KILL_LINE, _INTERRUPT, _QUIT = b"\x15", b"\x03", b"\x1c"
_NOT_EXECUTABLE = "126"


class Console:
    def __init__(self, port: Port, serial: str, baud: int, timeout: float) -> None:
        self._port = port
        self._serial = serial
        self._byte_seconds = 10 / baud
        self._deadline = Deadline(timeout, serial)
        self._seen = bytearray()
        """Since something was written last."""
        self._all = bytearray()
        self._number = secrets.randbelow(1_000_000)
        self._logged_in = False
        self._logins_left = _LOGINS
        self._interrupted = False
        self._sent_seconds = 0.0
        """That the last write takes on the line."""

    def bring_line(self) -> None:
        """Brings zcline to run on the console, if it does not. NoDevice: why not, and the way out."""
        try:
            if not self._line_runs():
                self._begin_loop()
                self._start()
        except NoDevice:
            if self._logged_in:
                self._write(_INTERRUPT + b"\rexit\r")
            raise

    def interrupt(self) -> None:
        """From any thread: bring_line() fails."""
        self._interrupted = True

    # Finding the shell.

    def _line_runs(self) -> bool:
        """A zcline of a host that was killed; else there is a shell at its prompt, or the loop."""
        self._write(CALL + _KILL_LINE + b"\r")
        signs = (_PROMPT, _ASKS_NAME, _ASKS_PASSWORD)
        self._listen(_QUIET_SECONDS, lambda: self._is_line() or any(sign.search(self._seen) for sign in signs))
        tries = 0
        while not self._is_line():
            if _REFUSAL in self._seen or self._try_shell(tries):
                return False
            tries += 1
            if self._deadline.past:
                raise self._unreachable()
        return True

    def _try_shell(self, tries: int) -> bool:
        if _ASKS_PASSWORD.search(self._seen):
            self._write(b"\r")
            self._listen(_LOGIN_SECONDS, lambda: bool(_ASKS_NAME.search(self._seen)))
        if _ASKS_NAME.search(self._seen) and not self._log_in():
            return False
        if tries > 1:  # whatever runs there
            self._write(_INTERRUPT if tries % 3 else _QUIT)
            self._listen(_QUIET_SECONDS / 2, self._is_line)
        token = f"zc{secrets.token_hex(3)}"
        end = "\r\n" if tries else "\r"  # the loop of a host that was killed waits for a newline
        self._write(_KILL_LINE + f'echo {token[:4]}""{token[4:]}{end}'.encode())
        return self._listen(_QUIET_SECONDS, lambda: token.encode() in self._seen)

    def _log_in(self) -> bool:
        """False: it was refused, perhaps for what noise made of it."""
        name, password = os.environ.get(LOGIN), os.environ.get(PASSWORD)
        if not name:
            raise NoDevice(
                f"{self._serial}: it asks for a login", name="login_needed", hint=f"set {LOGIN}, and {PASSWORD}"
            )
        if not self._logins_left:
            raise NoDevice(
                f"{self._serial}: the login as {name} was refused", name="login_failed", hint=f"see {LOGIN}, {PASSWORD}"
            )
        self._logins_left -= 1
        self._listen(_QUIET_SECONDS / 5, lambda: False)  # it may be about to ask once more
        asked = self._say(name, name, _ASKS_NAME, _ASKS_PASSWORD, _PROMPT) is _ASKS_PASSWORD
        if asked and password is None:
            raise NoDevice(f"{self._serial}: {name} has a password", name="login_needed", hint=f"set {PASSWORD}")
        if asked:
            self._say(password or "", "", _ASKS_NAME, _PROMPT)
        self._logged_in = not _ASKS_NAME.search(self._seen)
        return self._logged_in

    def _say(self, word: str, echo: str, *ends: re.Pattern[bytes]) -> re.Pattern[bytes] | None:
        """Which of these comes after the echo."""

        def end() -> re.Pattern[bytes] | None:
            _, said, answer = self._seen.partition(echo.encode() + b"\r\n")
            return next((end for end in ends if said and end.search(answer)), None)

        self._write(word.encode() + b"\r")
        self._listen(_LOGIN_SECONDS, lambda: end() is not None)
        return end()

    def _unreachable(self) -> NoDevice:
        said = bytes(self._all)
        if not said:
            return NoDevice(
                f"{self._serial}: it is silent",
                name="silent",
                hint="is the board on, are its RX and TX crossed, and is there a shell or getty on this UART?",
            )
        strange = sum(byte >= 0x7F or (byte < 0x20 and byte not in b"\r\n\t\x1b\x07\x08") for byte in said)
        if 5 * strange > len(said):
            return NoDevice(
                f"{self._serial}: what comes is garbage",
                name="garbage",
                hint="is the speed right? e.g. -s serial:/dev/ttyUSB0,115200",
            )
        last = said.decode(errors="replace").strip().splitlines()[-1:] or [""]
        return NoDevice(
            f"{self._serial}: what answers is no shell: {last[0][-60:]!r}",
            name="no_shell",
            hint="end what runs on the console, or boot the board to its shell",
        )

    # The loop.

    def _begin_loop(self) -> None:
        ending = ";exit" if self._logged_in else ""
        runs = _REFUSAL in self._all  # left by a host that was killed
        kill = b""
        while not runs or not self._loop_answers():
            self._deadline.remaining()
            if runs:  # one that was damaged on its way refuses everything, and ends when nothing comes
                self._listen(_LOOP_SECONDS, lambda: bool(_PROMPT.search(self._seen)))
            self._write(kill)
            self._listen(_QUIET_SECONDS / 4 if kill else 0, lambda: False)
            self._write((_LOOP + ending).encode() + b"\r")
            runs, kill = True, _INTERRUPT + _KILL_LINE

    def _loop_answers(self) -> bool:
        """Asks twice: what came before may be the begin of the first line."""
        return any(self._try("r=", _ANSWER_SECONDS) is not None for _ in range(2))

    def _ask(self, line: str) -> str:
        """Runs a line of shell once, whatever the noise; returns what it leaves in $r."""
        self._number += 1
        while (answer := self._try(line, _ANSWER_SECONDS)) is None:
            self._deadline.remaining()
        return answer

    def _try(self, line: str, seconds: float) -> str | None:
        self._write(self._signed(line))
        self._listen(seconds, lambda: self._answer() is not None or _REFUSAL in self._seen)
        return self._answer()

    def _signed(self, line: str) -> bytes:
        text = f"{self._number} {line}".encode()
        return f"{self._number} {','.join(checksums(text))} {line}\n".encode()

    def _answer(self) -> str | None:
        for number, said, checksum in _ANSWER.findall(self._seen):
            text = number + b" " + said
            if int(number) == self._number and checksum.decode() in checksums(text):
                return str(said, errors="replace")
        return None

    # zcline.

    def _start(self) -> None:
        """Starts the one that is there, or brings it, to where programs may be executed."""
        refusals: list[str] = []
        directories = _DIRECTORIES.split()
        while directories:
            machine, place, checksum, *tools = self._ask(_LOOK.replace("DIRECTORIES", " ".join(directories))).split()
            if place == "-":
                break
            program, path = self._program(machine), f"{place}/zcline"
            if checksum in checksums(program) or self._bring(program, path, tools, refusals):
                self._launch(path)
                return
            del directories[: directories.index(place.rpartition("/")[0]) + 1]
        raise NoDevice(
            f"{self._serial}: {'; '.join(refusals) or f'none of {_DIRECTORIES} can be written to'}",
            name="no_stage",
            hint="mount one of them without noexec: mount -o remount,exec /tmp",
        )

    def _launch(self, path: str) -> None:
        """Until it says hello: the line that starts it may be hurt, too."""
        self._number += 1
        while not self._is_line():
            self._deadline.remaining()
            self._write(b"\n" + self._signed(f"{path};break") + CALL)
            self._listen(_ANSWER_SECONDS, self._is_line)

    def _bring(self, program: bytes, path: str, tools: list[str], refusals: list[str]) -> bool:
        self._push(program, path, tools)
        code = self._ask(f"{path} </dev/null >/dev/null 2>&1;r=$?")
        if code == "1":  # it asks for a terminal
            return True
        self._ask(f"rm -f {path};rmdir ${{p%/*}};r=")
        refusals.append(f"{path} {'may not be executed' if code == _NOT_EXECUTABLE else f'ends with code {code}'}")
        return False

    def _program(self, machine: str) -> bytes:
        abi = _ABIS.get(machine, "")
        program = _BUNDLED / abi / "zcline"
        if not abi or not program.exists():
            raise NoDevice(
                f"{self._serial}: there is no zcline for {abi or machine}",
                name="unsupported_abi",
                hint="make build builds it" if abi else f"there is one for {', '.join(_ABIS)}",
            )
        return program.read_bytes()

    def _push(self, program: bytes, path: str, tools: list[str]) -> None:
        packed = gzip.compress(program, 9, mtime=0) if "gzip" in tools else program
        decode = {"base64": "|base64 -d", "xxd": "|xxd -r -p"}.get(next(iter(tools), ""), "")
        while not self._push_chunks(packed, f"{path}.new", tools, decode):
            self._deadline.remaining()
        unpack = f"gzip -dc <{path}.new >{path}.run&&rm {path}.new" if "gzip" in tools else f"mv {path}.new {path}.run"
        code = self._ask(f"{unpack}&&chmod 700 {path}.run&&mv {path}.run {path};r=$?")
        if code != "0":
            raise NoDevice(f"{self._serial}: {path} cannot be written (code {code})", name="no_stage")

    def _push_chunks(self, content: bytes, path: str, tools: list[str], decode: str) -> bool:
        """Whether each arrived as it was sent."""
        self._ask(f"rm -f {path};p={path};r=")
        for at in range(0, len(content), _CHUNK):
            chunk = content[at : at + _CHUNK]
            if "base64" in tools:
                text = "printf %s " + base64.b64encode(chunk).decode()
            elif "xxd" in tools:
                text = "printf %s " + chunk.hex()
            else:
                text = "printf '" + "".join(f"\\{byte:03o}" for byte in chunk) + "'"
            if self._ask(f"{text}{decode}>>$p;x=$(h<$p);r=${{x%% *}}") not in checksums(content[: at + _CHUNK]):
                return False
            self._deadline.restart()
        return True

    # The port.

    def _write(self, data: bytes) -> None:
        self._seen.clear()
        self._port.write(data)
        self._sent_seconds = len(data) * self._byte_seconds

    def _listen(self, seconds: float, enough: Callable[[], bool]) -> bool:
        """Reads until it is enough, for some seconds and what the last write takes on the line."""
        end = time.monotonic() + seconds + self._sent_seconds
        self._port.timeout = 0.05
        while not enough():
            if self._interrupted:
                raise lost(self._serial, "interrupted")
            if time.monotonic() > end:
                return False
            data = self._port.read(max(1, self._port.in_waiting))
            self._seen += data
            self._all += data
        return True

    def _is_line(self) -> bool:
        return any(True for _ in Deframer().feed(bytes(self._all)))


def checksums(data: bytes) -> list[str]:
    """What cksum, md5sum and sha256sum say."""
    digests = [hashlib.md5(data, usedforsecurity=False).hexdigest(), hashlib.sha256(data).hexdigest()]
    return [str(posix_cksum(data)), *digests]


def _table() -> list[int]:
    table = []
    for index in range(256):
        crc = index << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 1 << 31 else 0)) & 0xFFFFFFFF
        table.append(crc)
    return table


_CRC = _table()


def posix_cksum(data: bytes) -> int:
    """Of POSIX's cksum: a CRC-32 of the data and its length."""
    crc = 0
    size = len(data)
    for byte in data:
        crc = (crc << 8 & 0xFFFFFFFF) ^ _CRC[crc >> 24 ^ byte]
    while size:
        crc = (crc << 8 & 0xFFFFFFFF) ^ _CRC[crc >> 24 ^ size & 0xFF]
        size >>= 8
    return crc ^ 0xFFFFFFFF
