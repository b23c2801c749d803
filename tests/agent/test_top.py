# SPDX-License-Identifier: Apache-2.0
"""The dashboard: in Textual's pilot and in a real terminal, with the real daemon. Cables are forced."""

from __future__ import annotations

import asyncio
import fcntl
import html
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot

from tests.agent.conftest import ZCACHE, Result, Zcache, fails
from tests.agent.flaky import Cable, FlakyTransport
from zcache_agent import gather
from zcache_agent.cli import panels
from zcache_agent.cli.dashboard import Dashboard
from zcache_agent.cli.panels import View
from zcache_agent.counters import REFUSALS
from zcache_agent.gather import Gatherer, Moment
from zcache_agent.kernelstats import parse
from zcache_agent.transport.local import LocalTransport

Local = Callable[..., Result]
Play = Callable[[Pilot[None]], Awaitable[None]]
_TEXT = re.compile(r'<text class="[^"]*" x="([\d.]+)" y="([\d.]+)"[^>]*>(.*?)</text>')


_CELL = 12.2
"""Width of a character there."""


def shown(pilot: Pilot[None]) -> str:
    """What stands on the screen."""
    lines: dict[float, str] = {}
    for x, y, text in _TEXT.findall(pilot.app.export_screenshot()):
        line = lines.get(float(y), "").ljust(round(float(x) / _CELL))
        lines[float(y)] = line + html.unescape(text).replace("\xa0", " ")
    return "\n".join(line.rstrip() for _, line in sorted(lines.items()))


async def until(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        await pilot.pause(0.05)
    pytest.fail(f"does not happen:\n{shown(pilot)}")


async def until_shown(pilot: Pilot[None], *texts: str) -> None:
    await until(pilot, lambda: all(text in shown(pilot) for text in texts))


@pytest.fixture
def cable() -> Cable:
    return Cable()


@pytest.fixture
def play(zcache: Zcache, cable: Cable, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs the dashboard, and a coroutine that uses it. Whatever it did not foresee fails the test."""
    monkeypatch.setattr(gather, "_FIND_SECONDS", 0.0)
    monkeypatch.delenv("NO_COLOR", raising=False)

    def run(scene: Play, size: tuple[int, int] = (80, 24), *, kernel: bool = False) -> None:
        async def main() -> None:
            gatherer = Gatherer(lambda _: FlakyTransport(zcache.environment["ZCACHE_DIR"], cable), kernel=kernel)
            app = Dashboard(gatherer, 0.1)
            async with app.run_test(size=size) as pilot:
                await scene(pilot)
                await pilot.press("q")
            if app.failure:
                raise app.failure

        asyncio.run(main())

    return run


@pytest.fixture
def filled(local_daemon: Local, tmp_path: Path) -> Local:
    """Two pools, one with pages of which some are refused."""
    dump = tmp_path / "dump"
    dump.write_bytes(
        b"".join(bytes([page % 7]) * 4096 + os.urandom(2048) + bytes(2048) for page in range(20)) + os.urandom(40960)
    )
    local_daemon("pool", "create", "swap")
    local_daemon("pool", "create", "cache", "--kind", "ephemeral", "--codec", "zstd:1")
    replayed = local_daemon("replay", dump, "--pool", "swap", "--keep")
    assert replayed.code == 0, replayed.err
    return local_daemon


def test_all_of_it_stands_on_80_by_24(filled: Local, play: Callable[..., None]) -> None:
    async def scene(pilot: Pilot[None]) -> None:
        await until_shown(
            pilot, "every 0.1 s", "zcache top", "flaky", "pages of 4096 bytes", "Memory", "used", "frames", "metadata",
            "reserve", "PSI", "A second", "puts", "written", "Refused puts", "10 of 50 puts", "compress_poor",
            "Zpages by size: swap", "4096", "Pools", "cache", "q leave", "k zram and zswap", "space hold",
        )  # fmt: skip
        screen = shown(pilot)
        assert re.search(r"▶ swap +pers lz4 +40 ", screen), screen
        assert re.search(r"  cache +eph  zstd +0 ", screen), screen
        assert max(map(len, screen.splitlines())) <= 80

    play(scene)


def test_a_pool_is_chosen_and_stays_chosen(filled: Local, play: Callable[..., None]) -> None:
    async def scene(pilot: Pilot[None]) -> None:
        await until_shown(pilot, "▶ swap", "Zpages by size: swap")
        await pilot.press("down")
        await until_shown(pilot, "▶ cache", "Zpages by size: cache", "no zpages")
        filled("pool", "create", "third")
        await until_shown(pilot, "third")
        await until_shown(pilot, "▶ cache", "Zpages by size: cache")
        filled("pool", "destroy", "cache")
        await until_shown(pilot, "▶ swap", "Zpages by size: swap")

    play(scene)


def test_rates_and_hold(filled: Local, play: Callable[..., None], tmp_path: Path) -> None:
    async def scene(pilot: Pilot[None]) -> None:
        app = pilot.app
        assert isinstance(app, Dashboard)
        await until(pilot, lambda: bool(app.view.grown))
        filled("replay", tmp_path / "dump", "--pool", "swap")
        await until(pilot, lambda: max(app.view.history["puts"], default=0) > 0)
        await until_shown(pilot, "█")
        await pilot.press("space")
        await until_shown(pilot, "held: space goes on")
        await pilot.press("space")
        await until_shown(pilot, "every 0.1 s")

    play(scene)


def test_a_daemon_that_is_killed_is_a_line_until_it_is_back(
    filled: Local, play: Callable[..., None], zcache: Zcache
) -> None:
    async def scene(pilot: Pilot[None]) -> None:
        await until_shown(pilot, "every 0.1 s", "compress_poor")
        height = len(shown(pilot).splitlines())
        os.kill(filled("status", "--json").json["pid"], signal.SIGKILL)
        await until_shown(pilot, "! flaky: the daemon of", "has died")
        assert "compress_poor" in shown(pilot), "what was known stays"
        assert len(shown(pilot).splitlines()) == height
        assert zcache("-s", "local", "up", "--page-size", 4096).code == 0
        await until_shown(pilot, "every 0.1 s", "none of 0 puts")
        assert "! " not in shown(pilot)

    play(scene)


def test_a_device_that_is_unplugged_is_a_line_until_it_is_back(
    filled: Local, play: Callable[..., None], cable: Cable
) -> None:
    async def scene(pilot: Pilot[None]) -> None:
        await until_shown(pilot, "every 0.1 s", "compress_poor")
        cable.in_place.clear()
        await until_shown(pilot, "! flaky: the connection broke: unplugged", "compress_poor")
        cable.in_place.set()
        await until_shown(pilot, "every 0.1 s")
        assert "! " not in shown(pilot)

    play(scene)


def test_a_device_that_does_not_answer_does_not_keep_anybody(
    filled: Local, play: Callable[..., None], cable: Cable
) -> None:
    async def scene(pilot: Pilot[None]) -> None:
        await until_shown(pilot, "every 0.1 s")
        cable.answers.clear()
        await until_shown(pilot, "no answer for")
        await pilot.press("down")
        await until_shown(pilot, "▶ cache")

    play(scene)
    cable.answers.set()


def test_no_daemon(play: Callable[..., None], zcache: Zcache) -> None:
    async def scene(pilot: Pilot[None]) -> None:
        await until_shown(pilot, "! flaky: no daemon runs (zcache up starts it)", "zram", "zswap", "swap ")
        assert zcache("-s", "local", "up", "--page-size", 4096).code == 0
        await until_shown(pilot, "every 0.1 s", "Pools: none")
        assert zcache("-s", "local", "down").code == 0

    play(scene, kernel=True)


def test_the_kernel_beside(local_daemon: Local, play: Callable[..., None]) -> None:
    async def scene(pilot: Pilot[None]) -> None:
        await until_shown(pilot, "Refused puts")
        assert "zram and zswap─" not in shown(pilot)
        await pilot.press("k")
        await until_shown(pilot, "zram and zswap─", "zswap  ")
        assert "Refused puts" not in shown(pilot), "there is no room for both"
        await pilot.resize_terminal(120, 45)
        await until_shown(pilot, "Refused puts", "zram and zswap─", "ratio", "refused/s")
        await pilot.press("k")
        await until(pilot, lambda: "zram and zswap─" not in shown(pilot))

    play(scene)


def test_every_size(filled: Local, play: Callable[..., None]) -> None:
    async def scene(pilot: Pilot[None]) -> None:
        await until_shown(pilot, "swap")
        for width, height in ((1, 1), (5, 3), (20, 5), (40, 10), (79, 23), (200, 70), (80, 24)):
            await pilot.resize_terminal(width, height)
            await pilot.press("k", "down", "pagedown", "k", "up", "pageup")
            await pilot.pause(0.2)
            if width >= 40:
                assert "zcache top" in shown(pilot)
                assert "used" in shown(pilot)
        await until_shown(pilot, "compress_poor")

    play(scene)


def test_hostile_names_are_text(play: Callable[..., None], cable: Cable, local_daemon: Local) -> None:
    """Forced: the daemon takes no such name."""
    name = "[red]$x"
    values: dict[str, int | float | str] = {"page_size": 4096, "uptime_ms": 1}
    values |= {f"pools/{name}/stats/puts": 3, f"pools/{name}/codec": "[bold]"}
    moment = Moment(1.0, 1.0, "[b]serial[/b]", values, {name: [[64, 1], [4096, 2]]})

    async def scene(pilot: Pilot[None]) -> None:
        app = pilot.app
        assert isinstance(app, Dashboard)
        await until_shown(pilot, "every")
        await pilot.press("space")
        await pilot.pause(0.3)
        app.view.add(moment)
        app._show()
        await until_shown(pilot, name, "[b]serial[/b]", "[bold]", f"size: {name}")

    play(scene)


def test_what_nobody_foresaw_ends_it_and_is_told() -> None:
    """Forced: nothing like it is known."""

    class Broken(Gatherer):
        def take(self, *_: object) -> Moment:
            raise RuntimeError("boom")

    async def main() -> Dashboard:
        app = Dashboard(Broken(lambda _: LocalTransport()), 0.1)
        async with app.run_test() as pilot:
            await until(pilot, lambda: app.failure is not None)
        return app

    assert str(asyncio.run(main()).failure) == "boom"


# ---- in a terminal ----


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self, zcache: Zcache, *arguments: str, rows: int = 24, columns: int = 80, **environment: str) -> None:
        self.seen = ""
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        inherited = {key: value for key, value in zcache.environment.items() if key not in ("COLUMNS", "NO_COLOR")}
        self.process = subprocess.Popen(
            [ZCACHE, "-s", "local", "top", *arguments],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env=inherited | {"TERM": "xterm-256color", "COLORTERM": "truecolor"} | environment,
        )  # fmt: skip
        os.close(theirs)

    def read_until(self, *texts: str) -> None:
        """Or to its end."""
        while not (texts and all(text in self.seen for text in texts)):
            ready, _, _ = select.select([self._ours], [], [], 60)
            assert ready, f"nothing more comes after\n{self.seen}"
            try:
                data = os.read(self._ours, 65536)
            except OSError:  # EIO: it has ended
                return
            if not data:
                return
            self.seen += data.decode(errors="replace")

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def end(self) -> int:
        self.read_until()
        os.close(self._ours)
        return self.process.wait(60)


@pytest.fixture
def terminal(zcache: Zcache) -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def start(*arguments: str, **settings: str) -> Terminal:
        started.append(Terminal(zcache, *arguments, **settings))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


_ALTERNATE, _NORMAL = "\x1b[?1049h", "\x1b[?1049l"
_COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|4[0-7]|38|48|9[0-7]|10[0-7])[;m]")


@pytest.mark.parametrize("keys", ["q", "\x03"])
def test_in_a_terminal(local_daemon: Local, terminal: Callable[..., Terminal], keys: str) -> None:
    local_daemon("pool", "create", "swap")
    top = terminal()
    top.read_until("Memory", "swap", "leave")
    top.press(keys)
    assert top.end() == 0
    assert top.seen.index(_ALTERNATE) < top.seen.rindex(_NORMAL)
    assert _COLOUR.search(top.seen)
    assert "Traceback" not in top.seen


def test_in_a_terminal_without_colour(local_daemon: Local, terminal: Callable[..., Terminal]) -> None:
    top = terminal("--interval", "0.2", NO_COLOR="1")
    top.read_until("Memory", "every 0.2 s")
    top.press("q")
    assert top.end() == 0
    assert not _COLOUR.search(top.seen)


def test_ended_from_outside_it_leaves_the_terminal_as_it_was(
    local_daemon: Local, terminal: Callable[..., Terminal]
) -> None:
    top = terminal()
    top.read_until("Memory", "every")
    top.process.terminate()
    assert top.end() == 0
    assert _NORMAL in top.seen


def test_what_it_needs_from_the_start(zcache: Zcache, terminal: Callable[..., Terminal]) -> None:
    absent = terminal()
    assert absent.end() == 4
    assert "no daemon runs (zcache up starts it)" in absent.seen
    assert _ALTERNATE not in absent.seen
    dumb = terminal(TERM="dumb")
    assert dumb.end() == 2
    fails(zcache("-s", "local", "top"), 2, "zcache stats -w")
    fails(zcache("-s", "local", "top", "--kernel"), 2, "no terminal")
    assert zcache("-s", "local", "--json", "top").error["hint"] == "zcache stats -w --json"
    fails(zcache("-s", "local", "top", "--interval", "0"), 2, "interval")


# ---- panels ----


def view(**counters: int) -> View:
    shown = View()
    values: dict[str, int | float | str] = {f"pools/p/stats/{name}": value for name, value in counters.items()}
    shown.add(Moment(1.0, 1.0, values=values | {"page_size": 4096}))
    return shown


def test_more_refusals_than_lines() -> None:
    every = view(puts=1000, **{reason: number for number, reason in enumerate(REFUSALS, 1)})
    lines = panels.refusals(every, 40, 6).plain.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("45 of 1 000 puts")
    assert lines[-1] == "and 5 other reasons"
    assert sum(len(line) > 40 for line in lines) == 0
    assert panels.refusals(view(puts=3), 40, 6).plain == "none of 3 puts"


def test_sparklines_and_histograms_fill_their_width() -> None:
    assert panels.sparkline([0, 1, 8, 4], 6).plain == "   ▁█▄"
    assert panels.sparkline([0, 0], 2).plain == "  "
    assert panels.sparkline([5], 0).plain == ""
    counts = [[64 * (number + 1), number] for number in range(64)]
    for width, height in ((64, 6), (130, 12), (33, 4), (10, 2), (1, 1)):
        lines = panels.histogram(counts, 4096, width, height).plain.splitlines()
        assert len(lines) == max(2, height)
        assert lines[-2].endswith("█")
        assert len(lines[-2]) == (width if width < 64 else width // 64 * 64)
    assert panels.histogram([[64, 0]], 4096, 30, 5).plain == "no zpages"


def test_a_restarted_counter_is_no_negative_rate() -> None:
    shown = view(puts=100)
    shown.add(Moment(2.0, 2.0, values={"pools/p/stats/puts": 5, "page_size": 4096}))
    assert shown.rate("puts") == 0


def test_zram_and_zswap_on_lines() -> None:
    facts = """uid 2000
closed /sys/kernel/debug
file /sys/block/zram0/disksize
line 4294967296
file /sys/block/zram0/mm_stat
line 104857600 40000000 41943040 52428800 41943040 256 0 12 12
file /sys/block/zram0/bd_stat
line 256 0 256
file /sys/block/zram0/comp_algorithm
line lzo [lz4]
file /sys/module/zswap/parameters/enabled
line Y
file /sys/module/zswap/parameters/max_pool_percent
line 20
file /proc/meminfo
line SwapTotal: 2048 kB
line SwapFree: 1024 kB
line Zswap: 100 kB"""
    lines = panels.kernel_panel(parse(iter(facts.splitlines())), 4096).plain.splitlines()
    assert lines == [
        "zram0  lz4  101.0 MiB in 40.0 MiB (2.52)  of 4.0 GiB  huge 12  limit 50.0 MiB  written back 1.0 MiB",
        "zswap    takes 100.0 KiB  of 20 % of RAM",
        "swap   1.0 MiB of 2.0 MiB",
        "zswap: its counters are not told to shell: needs root",
    ]
