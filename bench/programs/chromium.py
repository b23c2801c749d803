# SPDX-License-Identifier: Apache-2.0
"""A browser: Chromium, with four pages of this folder open, each in a process of its own."""

import json
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bench.errors import BenchError

from .process import GROW_S, command_line, descendants, started
from .prose import articles

WEB = Path(__file__).with_name("web")
D3 = Path("/usr/share/javascript/d3/d3.min.js")
PAGES = ("article", "orders", "charts", "feed")
VISITS, TURNS = 2, 30
"""How often a reader comes back to each page, and what he does there, each time."""
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".json": "application/json"}

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--site-per-process",
    "--js-flags=--random-seed=7",
    "--window-size=1280,1024",
)


class Site(ThreadingHTTPServer):
    """The pages, and who of them has said that it is done."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {path.name: path.read_bytes() for path in WEB.iterdir()}
        self.files["d3.js"] = D3.read_bytes()
        listed = [{"title": title, "paragraphs": paragraphs} for title, paragraphs in articles().items()]
        self.files["articles.json"] = json.dumps(listed).encode()
        self._waiting = set(PAGES)
        self.done = threading.Event()
        self._turns: dict[str, queue.Queue[int]] = {name: queue.Queue() for name in PAGES}

    def page_is_done(self, name: str) -> None:
        self._waiting.discard(name)
        if not self._waiting:
            self.done.set()

    def use(self, name: str, turns: int) -> None:
        """Has a page used that waits for it (?turns)."""
        self.done.clear()
        self._waiting = {name}
        self._turns[name].put(turns)

    def turns_of(self, name: str) -> str:
        """Waits until somebody wants that page used."""
        return str(self._turns[name].get())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:
        path, _, asked = self.path[1:].partition("?")
        if asked == "next":
            self._answer(200, self.server.turns_of(Path(path).stem).encode())
            return
        content = self.server.files.get(path)
        self._answer(404 if content is None else 200, content or b"")

    def do_POST(self) -> None:
        self._answer(200, b"")
        self.server.page_is_done(Path(self.path).stem)

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", TYPES.get(Path(self.path.partition("?")[0]).suffix, "text/plain"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running() -> Iterator[list[int]]:
    """The browser's own process and those of the pages."""
    with _shown("", ()) as (process, _):
        renderers = [pid for pid in descendants(process.pid) if "--type=renderer" in command_line(pid)]
        yield [process.pid, *renderers]


@contextmanager
def at_work(groups: Sequence[Path]) -> Iterator[Callable[[], None]]:
    """A reader goes from page to page and back."""
    with _shown("?turns", groups) as (process, site):

        def work() -> None:
            for name in PAGES * VISITS:
                site.use(name, TURNS)
                _wait_until_done(site, process, f"used {name}")

        yield work


@contextmanager
def _shown(asked: str, groups: Sequence[Path]) -> Iterator[tuple[subprocess.Popen[str], Site]]:
    with _site() as site, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        address = f"http://localhost:{site.server_port}/index.html{asked}"
        command = ["chromium", *FLAGS, f"--user-data-dir={profile}", address]
        with started(command, environment={"HOME": profile, "TMPDIR": profile}, groups=groups) as process:
            _wait_until_done(site, process, "shown its pages")
            yield process, site


def _wait_until_done(site: Site, process: subprocess.Popen[str], what: str) -> None:
    deadline = time.monotonic() + GROW_S
    while not site.done.wait(0.2):
        if process.poll() is not None:
            raise BenchError(f"chromium: ended before it had {what}")
        if time.monotonic() > deadline:
            raise BenchError(f"chromium: has not {what} after {GROW_S} s")


@contextmanager
def _site() -> Iterator[Site]:
    if not D3.exists():
        raise BenchError(f"{D3}: not there; tools/system_packages bench installs it")
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        try:
            yield site
        finally:
            site.shutdown()
            thread.join()
