# SPDX-License-Identifier: Apache-2.0
"""A browser: Chromium, with four pages of this folder open, each in a process of its own."""

import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bench.errors import BenchError

from .process import GROW_S, command_line, descendants, started
from .prose import articles

WEB = Path(__file__).with_name("web")
D3 = Path("/usr/share/javascript/d3/d3.min.js")
PAGES = {"article", "orders", "charts", "feed"}
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

    def page_is_done(self, name: str) -> None:
        self._waiting.discard(name)
        if not self._waiting:
            self.done.set()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:
        content = self.server.files.get(self.path[1:])
        self._answer(404 if content is None else 200, content or b"")

    def do_POST(self) -> None:
        self._answer(200, b"")
        self.server.page_is_done(Path(self.path).stem)

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", TYPES.get(Path(self.path).suffix, "text/plain"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running() -> Iterator[list[int]]:
    """The browser's own process and those of the pages."""
    with _site() as site, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        address = f"http://localhost:{site.server_port}/index.html"
        command = ["chromium", *FLAGS, f"--user-data-dir={profile}", address]
        with started(command, environment={"HOME": profile, "TMPDIR": profile}) as process:
            if not site.done.wait(GROW_S):
                raise BenchError(f"chromium: has not shown its pages after {GROW_S} s")
            renderers = [pid for pid in descendants(process.pid) if "--type=renderer" in command_line(pid)]
            yield [process.pid, *renderers]


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
