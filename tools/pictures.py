# SPDX-License-Identifier: Apache-2.0
"""python -m tools.pictures: docs/top.png, docs/top-narrow.png, docs/report.png, of a daemon at work on this machine.

The dashboard is drawn by Textual, the report by zcache; Chromium, headless, takes pictures of both.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zcache_agent.cli.dashboard import Dashboard
from zcache_agent.daemon import find
from zcache_agent.gather import Gatherer
from zcache_agent.pages import Key, PagesClient, Pool
from zcache_agent.transport import open_transport

DOCS = Path("docs")
ZCACHE = [str(Path(sys.executable).parent / "zcache"), "-q"]
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--virtual-time-budget=2000")  # fmt: skip
PROGRAMS = Path("agent/zcache_agent/_bin")
CELL = 12.2, 24.4
"""Width and height of a character in Textual's picture."""
FRONTIER = """{"format": "zcache-frontier-1", "goal": "balanced", "measured_on": "an example, not measured",
"why": "zstd:1 in zsmalloc saves a sixth more than lz4 there, for 6 µs a page and no flash.", "points": [
{"settings": {"codec": "lz4", "allocator": "zbud"}, "memory_bytes": {"value": 233e6, "error": 3.3e6},
 "cpu_us_per_page": {"value": 9.1, "error": 0.4}},
{"settings": {"codec": "lz4", "allocator": "zsmalloc"}, "memory_bytes": {"value": 199e6, "error": 2.3e6},
 "cpu_us_per_page": {"value": 9.6, "error": 0.4}},
{"settings": {"codec": "zstd:1", "allocator": "zsmalloc"}, "memory_bytes": {"value": 165e6, "error": 2.3e6},
 "cpu_us_per_page": {"value": 15.9, "error": 0.7}, "recommended": true},
{"settings": {"codec": "zstd:3", "allocator": "zsmalloc", "writeback_after": 3600},
 "memory_bytes": {"value": 153e6, "error": 2.3e6}, "cpu_us_per_page": {"value": 21.6, "error": 1.4},
 "flash_bytes": {"value": 52e6, "error": 5e6}}]}"""


def zcache(*words: str) -> None:
    subprocess.run([*ZCACHE, *words], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def daemon(directory: Path) -> Iterator[None]:
    os.environ |= {"ZCACHE_DIR": str(directory / "zcache"), "ZCACHE_SERIAL": "local"}
    zcache("up", "--page-size", "4096")
    try:
        yield
    finally:
        zcache("down", "--force")


def pages() -> list[bytes]:
    """Of Python's library and of programs, and some that do not compress at all."""
    files = [*sorted(Path(os.__file__).parent.glob("*.py")), *sorted(PROGRAMS.glob("*/*"))]
    content = b"".join(path.read_bytes() for path in files)
    found = [content[at : at + 4096] for at in range(0, len(content) - 4095, 4096)]
    return [os.urandom(4096) if number % 23 == 0 else page for number, page in enumerate(found)]


class Work:
    """Puts, gets and flushes in waves, until it is ended."""

    def __init__(self) -> None:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        with PagesClient(find(open_transport("local", 30)).open("data")) as client:
            pools = [client.pool(name) for name in ("swap", "cache", "browser")]
            for number, page in enumerate(pages() * 1000):
                if self._end.is_set():
                    return
                self._touch(client, pools[number // 50 % 3], number, page)
                self._end.wait(0.001 * abs(number % 3000 - 1500) / 1500)  # in waves

    def _touch(self, client: PagesClient, pool: Pool, number: int, page: bytes) -> None:
        client.put([Key(7, number, pool.id)], [page])
        if number % 3:
            client.get([Key(7, max(0, number - 100), pool.id)])
        if number % 7 == 0:
            client.flush_page([Key(7, max(0, number - 4000), pool.id)])


def prepare(directory: Path) -> None:
    """Pools that have been in use."""
    dump = directory / "dump"
    dump.write_bytes(b"".join(pages()))
    zcache(
        "pool", "create", "swap", "--allocator", "zsmalloc", "--backing", f"{directory}/back", "--backing-size", "64M"
    )
    zcache("pool", "create", "cache", "--kind", "ephemeral", "--codec", "zstd:1")
    zcache("pool", "create", "browser", "--allocator", "zsmalloc", "--codec", "zstd:3")
    zcache("set", "pools/cache/params/zv_max_zsize", "1/2", "params/limit", "12M")
    for pool in ("swap", "cache"):
        zcache("replay", str(dump), "--pool", pool, "--keep")
    zcache("pool", "writeback", "swap", "300")
    zcache("pool", "recompress", "swap", "300")


async def dashboard(size: tuple[int, int], target: Path, seconds: float, *, kernel: bool) -> None:
    app = Dashboard(Gatherer(lambda _: open_transport("local", 30), kernel=kernel), 0.25)
    async with app.run_test(size=size) as pilot:
        await pilot.pause(seconds)
        target.write_text(app.export_screenshot(title="zcache top"))
        await pilot.press("q")


def photograph(source: Path, target: Path, width: int, height: int, *more: str) -> None:
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            ["chromium", *FLAGS, *more, f"--user-data-dir={profile}", f"--window-size={width},{height}",
             f"--screenshot={target.absolute()}", source.absolute().as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        with daemon(directory):
            prepare(directory)
            for name, size, kernel in (("top-narrow", (80, 24), False), ("top", (120, 40), True)):
                picture = directory / f"{name}.svg"
                with Work():
                    asyncio.run(dashboard(size, picture, 12, kernel=kernel))
                width, height = (round(count * cell) for count, cell in zip(size, CELL, strict=True))
                photograph(picture, DOCS / f"{name}.png", width + 20, height + 52)
            report(directory)


def report(directory: Path) -> None:
    page, saved, frontier = (directory / name for name in ("report.html", "saved.json", "frontier.json"))
    frontier.write_text(FRONTIER)
    zcache("report", str(page), "--save", str(saved))
    zcache("set", "pools/swap/params/zv_max_zsize", "3/4")
    with Work():
        zcache(
            "report", str(page), "--before", str(saved), "--with", str(frontier), "--for", "12s", "--interval", "0.5"
        )
    photograph(page, DOCS / "report.png", 1000, 4100)
    photograph(page, DOCS / "report-dark.png", 1000, 1500, "--blink-settings=preferredColorScheme=0")


if __name__ == "__main__":
    main()
