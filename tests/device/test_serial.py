# SPDX-License-Identifier: Apache-2.0
"""All of zcache, out of the wheel, over a UART: a board of 128 MB with BusyBox, a getty on its PL011, and a kernel that
talks on it."""

from __future__ import annotations

import os
import subprocess
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import release
from tests.agent.conftest import Result, fails
from tests.serialline import Noise, SerialLine, said
from tests.support import require_or_skip
from tools.emulator import BOARD_LOGIN, BOARD_PASSWORD, Board, EmulatorError, boot_board

BAUD = 115200
NOISE = Noise(seed=7, one_in=2000, message_in=4000)
SECONDS = 400
PAGES = 12


@pytest.fixture(scope="module")
def board() -> Iterator[Board]:
    try:
        booted = boot_board(chatter=True)
    except EmulatorError as error:
        require_or_skip("devices", str(error))
    with booted:
        yield booted


@pytest.fixture
def line(board: Board, tmp_path: Path) -> Iterator[SerialLine]:
    uart = os.open(board.uart, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(uart)
    os.write(uart, b"\r")
    said(uart, b"login: ", SECONDS)
    with SerialLine(uart, tmp_path / "ttyUSB0", BAUD) as joined:
        yield joined
    os.close(uart)


class Zcache:
    def __init__(self, line: SerialLine, venv: Path, folder: Path) -> None:
        environment = {
            "ZCACHE_SERIAL": f"serial:{line.port},{BAUD}",
            "ZCACHE_SERIAL_LOGIN": BOARD_LOGIN,
            "ZCACHE_SERIAL_PASSWORD": BOARD_PASSWORD,
            "COLUMNS": "100",
        }
        self.start_command = release.zcache(venv, folder, environment).start

    def start(self, *words: object) -> subprocess.Popen[str]:
        return self.start_command("--timeout", 120, *words)

    def __call__(self, *words: object) -> Result:
        return ended(self.start(*words))

    def well(self, *words: object) -> Result:
        result = self(*words)
        assert result.code == 0, result
        return result


def ended(process: subprocess.Popen[str]) -> Result:
    out, err = process.communicate(timeout=SECONDS)
    return Result(process.returncode, out, err)


@pytest.mark.timeout(1500)
@pytest.mark.minutes(6)
def test_a_life_over_the_uart(line: SerialLine, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    zcache = Zcache(line, release.venv(tmp_path_factory), tmp_path)
    fails(zcache("status"), 4, "no daemon runs")

    # The adapter is pulled in the middle of the copy; the next up goes on where that was.
    first = zcache.start("up")
    begin = line.carried[0]
    while line.carried[0] - begin < 250_000 and first.poll() is None:
        line.pause(0.2)
    line.unplug()
    fails(ended(first), 3, str(line.port))
    line.plug()
    begin = line.carried[0]
    zcache.well("up")
    assert line.carried[0] - begin < 480_000
    assert "runs already" in zcache.well("up").out

    facts = zcache.well("status", "--json").json
    assert (facts["directory"], facts["user"]) == ("/var/lib/zcache", "root")
    assert zcache.well("doctor", "--json").json["device"]["uid"] == 0
    zcache.well("pool", "create", "small", "--kind", "persistent")
    zcache.well("set", "params/limit", "8M")
    assert zcache.well("cat", "params/limit").out.strip() == str(8 << 20)
    pages = b"".join(bytes([number]) * 2000 + os.urandom(16) * 131 for number in range(PAGES))
    (tmp_path / "dump").write_bytes(pages)
    report = zcache.well("replay", tmp_path / "dump", "--pool", "small", "--keep", "--json").json
    assert (report["pages"], report["lost"], report["mismatches"]) == (PAGES, 0, 0)
    assert "serves /var/lib/zcache" in zcache.well("log").out
    assert zcache.well("check").out == f"ok: {PAGES} pages in 1 pool\n"
    assert zcache.well("demo", "--json").json["own_daemon"] is False

    # And now the line is noisy.
    line.unplug()
    line.noise = NOISE
    line.plug()
    assert zcache.well("stats", "--json").json["stats/pers_zpages"] == PAGES
    zcache.well("bugreport", tmp_path / "report")
    assert (tmp_path / "report").stat().st_size > 1000
    fails(zcache("down"), 5, f"{PAGES} persistent pages")

    # As fast as the emulator, to become a part of a board that has no /usr yet, and to leave it.
    line.unplug()
    line.noise, line.baud = Noise(), 0
    line.plug()
    assert zcache.well("install", "--force", "--json").json["as"] == "inittab"
    assert zcache.well("status", "--json").json["directory"] == "/var/lib/zcache"
    zcache.well("uninstall")
    fails(zcache("status"), 4, "no daemon runs")
