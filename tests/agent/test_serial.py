# SPDX-License-Identifier: Apache-2.0
"""The serial transport against shells on terminals of this machine, over a line that is slow, noisy or unplugged."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agent.conftest import Zcache, fails
from tests.serialline import Noise, SerialLine, said, shell
from zcache_agent.errors import DaemonAbsent, NoDevice, Usage
from zcache_agent.transport.serial import SerialTransport

pytestmark = pytest.mark.minutes(1)
SHELLS = {"dash": ("dash", "-i"), "bash": ("bash", "--norc", "-i"), "busybox": ("busybox", "sh")}
TIMEOUT = 120
NOISE = Noise(seed=1, one_in=1500, message_in=3000)
_STATE = b"stty -a; echo st''ate\r"

Plug = Callable[..., SerialLine]


@pytest.fixture
def plug(tmp_path: Path) -> Iterator[Plug]:
    """Joins a board's terminal to a port."""
    with contextlib.ExitStack() as open_ones:

        def join(board: int, baud: int = 0, noise: Noise | None = None) -> SerialLine:
            return open_ones.enter_context(SerialLine(board, tmp_path / "ttyUSB0", baud, noise))

        yield join


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    yield
    shutil.rmtree(f"/tmp/zcache-line-{os.getuid()}", ignore_errors=True)


def reach(line: SerialLine, timeout: float = TIMEOUT) -> SerialTransport:
    return SerialTransport(f"serial:{line.port}", timeout)


@pytest.mark.parametrize("name", list(SHELLS))
def test_commands_files_and_the_state_of_the_terminal(name: str, plug: Plug, tmp_path: Path) -> None:
    with shell(*SHELLS[name]) as board:
        os.write(board, _STATE)
        before = said(board, b"\nstate").partition(b"speed")[2]
        line = plug(board)
        with reach(line) as transport:
            ran = transport.run(["sh", "-c", 'printf "$1"; echo no >&2; exit 7', "sh", "\x03\x04~}\n'\" ä"])
            assert (ran.code, ran.stdout, ran.stderr) == (7, "\x03\x04~}\n'\" ä".encode(), b"no\n")
            missing = transport.run(["/nothing/here"])
            assert (missing.code, missing.complaint) == (127, "/nothing/here: No such file or directory")
            content = os.urandom(30_000) + bytes(30_000)
            (tmp_path / "source").write_bytes(content)
            steps: list[tuple[int, int]] = []
            transport.push(tmp_path / "source", f"{tmp_path}/target", 0o640, lambda *step: steps.append(step))
            assert steps[-1][0] == steps[-1][1] > 0
            assert (tmp_path / "target").read_bytes() == content
            assert (tmp_path / "target").stat().st_mode & 0o777 == 0o640
            assert transport.pull(f"{tmp_path}/target", 50_000) == content[:50_000]
            with pytest.raises(FileNotFoundError):
                transport.pull(f"{tmp_path}/nothing", 10)
            with pytest.raises(OSError, match=r"No such file|nonexistent"):
                transport.push(tmp_path / "source", f"{tmp_path}/no/where", 0o600)
            with pytest.raises(DaemonAbsent, match="@nobody"):
                transport.open_socket("@nobody")
            assert list(tmp_path.glob("zcached.part-*")) == []
        line.unplug()
        os.write(board, _STATE)
        assert said(board, b"\nstate").partition(b"speed")[2].split(b"state")[0] == before.split(b"state")[0]


@pytest.mark.parametrize("tools", ["xxd md5sum", "sha256sum"])
def test_a_board_without_base64_and_gzip(tools: str, plug: Plug, tmp_path: Path) -> None:
    """xxd, or only the shell's own printf; each of the checksums."""
    for name in ("sh", "dash", "stty", "uname", "id", "mkdir", "rmdir", "rm", "mv", "chmod", "cat", "wc", "head"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    for name in tools.split():
        target = shutil.which(name)
        if not target:
            (tmp_path / name).symlink_to(str(shutil.which("busybox")))
        else:
            (tmp_path / name).symlink_to(target)
    with (
        shell(str(shutil.which("dash")), "-i", environment={"PATH": str(tmp_path)}) as board,
        reach(plug(board)) as transport,
    ):
        (tmp_path / "source").write_bytes(b"content" * 10)
        transport.push(tmp_path / "source", f"{tmp_path}/target", 0o600)
        assert (tmp_path / "target").read_bytes() == b"content" * 10


@pytest.mark.minutes(1)
@pytest.mark.parametrize("seed", [1, 2])
def test_noise(seed: int, plug: Plug, tmp_path: Path) -> None:
    """Bytes are changed, lost and added both ways, and the kernel talks in between: all arrives all the same."""
    content = os.urandom(40_000)
    (tmp_path / "source").write_bytes(content)
    with shell("dash", "-i") as board, reach(plug(board, 460800, Noise(seed, 1000, 2000))) as transport:
        transport.push(tmp_path / "source", f"{tmp_path}/target", 0o600)
        assert (tmp_path / "target").read_bytes() == content
        assert transport.pull(f"{tmp_path}/target", 100_000) == content
        for number in range(20):
            ran = transport.run(["sh", "-c", f"echo {number}; exit {number}"])
            assert (ran.code, ran.text) == (number, str(number))


def test_streams_at_once(plug: Plug) -> None:
    """One that nobody reads holds up no other, and each gets its own."""
    with shell("dash", "-i") as board, reach(plug(board, 921600)) as transport:
        stuck = transport.open_command(["sh", "-c", "while :; do echo stuck; done"])
        echoes = [transport.open_command(["cat"]) for _ in range(5)]
        wrong: list[bytes] = []

        def check(number: int) -> None:
            data = bytes([number]) * 30_000
            writer = threading.Thread(target=echoes[number].write, args=(data,))
            writer.start()
            came = b""
            while len(came) < len(data):
                came += echoes[number].read(4096)
            writer.join()
            if came != data:
                wrong.append(came)

        threads = [threading.Thread(target=check, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert stuck.read(5) == b"stuck"
        stuck.close()
        assert transport.run(["echo", "well"]).text == "well"


def test_a_push_goes_on_after_the_line_broke(plug: Plug, tmp_path: Path) -> None:
    content = os.urandom(120_000)
    (tmp_path / "source").write_bytes(content)
    with shell("dash", "-i") as board:
        line = plug(board, 230400)

        def cut(done: int, size: int) -> None:
            if done > size / 2:
                line.unplug()

        with pytest.raises(NoDevice) as broken, reach(line) as transport:
            transport.push(tmp_path / "source", f"{tmp_path}/target", 0o600, cut)
        assert broken.value.name == "lost"
        assert not (tmp_path / "target").exists()
        line.plug()
        steps: list[int] = []
        with reach(line) as transport:
            transport.push(tmp_path / "source", f"{tmp_path}/target", 0o600, lambda done, size: steps.append(done))
        assert steps[0] > 20_000
        assert (tmp_path / "target").read_bytes() == content


def test_a_host_that_was_killed_leaves_the_line_to_the_next(plug: Plug) -> None:
    with shell("dash", "-i") as board:
        line = plug(board)
        code = f"""
import os
from zcache_agent.transport.serial import SerialTransport
transport = SerialTransport("serial:{line.port}", {TIMEOUT})
transport.open_command(["cat"])
print(transport.run(["echo", "up"]).text, flush=True)
input()
"""
        first = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert first.stdout
        assert first.stdout.readline() == b"up\n"
        with pytest.raises(NoDevice) as second:
            reach(line)
        assert second.value.name == "busy"
        first.kill()
        first.wait()
        with reach(line) as transport:
            assert transport.run(["echo", "again"]).text == "again"
        first = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert first.stdout
        first.stdout.readline()
        first.kill()
        first.wait()
        line.unplug()
        said(board, b"# ")  # it ends by itself when it hears nothing
        os.write(board, b"stty -a; echo st''ate\r")
        assert b" echo " in said(board, b"\nstate")


def test_a_shell_in_the_middle_of_something(plug: Plug) -> None:
    """A half-typed line is never run, and what runs in front is interrupted."""
    with shell("dash", "-i") as board:
        said(board, b"# ")
        os.write(board, b'cat; echo interrupted\rnothing of "')
        with reach(plug(board)) as transport:
            assert transport.run(["echo", "well"]).text == "well"


def test_a_terminal_that_is_reset(plug: Plug) -> None:
    """As init does with the console, for what it starts there."""
    with shell("dash", "-i") as board:
        sane = termios.tcgetattr(board)
        with reach(plug(board)) as transport:
            assert transport.run(["echo", "one"]).text == "one"
            termios.tcsetattr(board, termios.TCSANOW, sane)
            assert transport.run(["echo", "\3two"]).text == "\3two"


GETTY = r"""
while :; do
    stty sane
    printf 'board login: '
    read -r name || exit
    [ "$name" ] || continue
    stty -echo
    printf 'Password: '
    read -r word
    stty echo
    echo
    if [ "$name $word" = "root secret" ]; then
        echo welcome
        dash -i
    else
        echo Login incorrect
    fi
done
"""


def test_a_login_that_noise_spoils(plug: Plug, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZCACHE_SERIAL_LOGIN", "root")
    monkeypatch.setenv("ZCACHE_SERIAL_PASSWORD", "secret")
    read = "    read -r word\n"
    spoilt = GETTY.replace(read, read + '    [ "$spoilt" ] || word="$word?"; spoilt=1\n')
    assert spoilt != GETTY
    with shell("dash", "-c", spoilt) as board, reach(plug(board)) as transport:
        assert transport.run(["echo", "in"]).text == "in"


def test_login(plug: Plug, monkeypatch: pytest.MonkeyPatch) -> None:
    with shell("dash", "-c", GETTY) as board:
        line = plug(board)
        with pytest.raises(NoDevice, match="it asks for a login") as refused, reach(line) as transport:
            transport.run(["true"])
        assert refused.value.name == "login_needed"
        monkeypatch.setenv("ZCACHE_SERIAL_LOGIN", "root")
        with pytest.raises(NoDevice, match="root has a password"), reach(line) as transport:
            transport.run(["true"])
        monkeypatch.setenv("ZCACHE_SERIAL_PASSWORD", "wrong")
        with pytest.raises(NoDevice, match="the login as root was refused") as refused, reach(line) as transport:
            transport.run(["true"])
        assert refused.value.name == "login_failed"
        monkeypatch.setenv("ZCACHE_SERIAL_PASSWORD", "secret")
        for _ in range(2):
            with reach(line) as transport:
                assert transport.run(["echo", "in"]).text == "in"
        line.unplug()
        os.write(board, b"\r")
        said(board, b"login: ")  # who logs in logs out


def test_ports_that_cannot_be_had(zcache: Zcache, tmp_path: Path) -> None:
    fails(zcache("-s", f"serial:{tmp_path}/ttyUSB7", "status"), 3, "no such port", "ttyUSB7")
    fails(zcache("-s", "serial:", "status"), 2, "serial:PORT")
    with pytest.raises(Usage, match="serial:PORT"):
        SerialTransport("serial:/dev/ttyUSB0,fast")
    (tmp_path / "file").touch()
    fails(zcache("-s", f"serial:{tmp_path}/file", "status"), 3, "file")
    fails(zcache("-s", "serial:/dev/null", "status"), 3, "/dev/null", "no serial port")


def test_a_port_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may open each: so the refusal is made."""
    import serial

    def refuse(*_: object, **__: object) -> None:
        raise serial.SerialException(13, "Permission denied")

    monkeypatch.setattr(serial, "Serial", refuse)
    (tmp_path / "port").touch()
    with pytest.raises(NoDevice, match="may not open it") as refused:
        SerialTransport(f"serial:{tmp_path}/port")
    assert "sudo usermod -aG root" in refused.value.hint


@pytest.mark.parametrize(
    ("board", "name"),
    [
        ("stty raw -echo; echo ready; exec cat >/dev/null", "silent"),
        (r"stty raw -echo; echo ready; while :; do printf '\370\200\001\376\231\340'; sleep 0.2; done", "garbage"),
        ("trap '' INT QUIT; echo ready; while :; do echo U-Boot; sleep 1; done", "no_shell"),
    ],
)
def test_what_is_no_shell(board: str, name: str, plug: Plug) -> None:
    with shell("dash", "-c", board) as terminal:
        said(terminal, b"ready")
        with reach(plug(terminal), 4) as transport, pytest.raises(NoDevice) as refused:
            transport.run(["true"])
    assert refused.value.name == name, refused.value.message
    assert refused.value.hint


def test_a_command_that_does_not_end(plug: Plug) -> None:
    with shell("dash", "-i") as board, reach(plug(board)) as transport:
        transport.run(["true"])
        with pytest.raises(NoDevice, match="no answer within") as late:
            transport.run(["sleep", "1000"], timeout=1)
        assert late.value.name == "timeout"
        threading.Timer(0.5, transport.interrupt).start()
        with pytest.raises(NoDevice, match="interrupted"):
            transport.run(["sleep", "1000"])
        assert transport.run(["echo", "well"]).text == "well"


def test_zcline_brought_is_verified(plug: Plug) -> None:
    """One that was damaged on the board is brought again; forget() removes it."""
    place = Path(f"/tmp/zcache-line-{os.getuid()}")
    place.mkdir(mode=0o700, exist_ok=True)
    (place / "zcline").write_bytes(b"#!/bin/sh\nexit 1\n")
    (place / "zcline").chmod(0o700)
    with shell("dash", "-i") as board, reach(plug(board)) as transport:
        assert transport.run(["echo", "up"]).text == "up"
        ours = Path(__file__).parent.parent.parent / "agent/zcache_agent/_bin/x86_64/zcline"
        assert hashlib.sha256((place / "zcline").read_bytes()).digest() == hashlib.sha256(ours.read_bytes()).digest()
        transport.forget()
    assert not place.exists()
