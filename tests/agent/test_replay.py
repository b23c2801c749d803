# SPDX-License-Identifier: Apache-2.0
"""Replay against the real daemon on this machine, and against one that is wrong on purpose."""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agent.conftest import ZCACHE, Zcache, fails
from zcache_agent.pages import (
    ABI,
    ANSWER,
    HELLO,
    MAGIC,
    POOL,
    REQUEST,
    RESULT,
    Kind,
    Op,
    PagesClient,
    Pool,
)
from zcache_agent.replay import Replay, Report

PAGE = 4096
KEYS = {
    "pages", "stored", "same_filled", "refused", "dropped", "lost", "mismatches", "frames", "used_bytes",
    "effective_ratio", "put_us", "get_us", "transport_us", "histogram", "tail_bytes",
}  # fmt: skip


@dataclass
class WrongDaemon:
    """A daemon that keeps pages in a dict and does to them what `fault` says: no real one can be made to."""

    fault: str = ""
    unix: None = None
    pages: dict[int, bytes] = field(default_factory=dict)
    answers: bytes = b""

    def write(self, data: bytes) -> None:
        _, _, op, number, _, index, _, count, _, _, _ = REQUEST.unpack(data[: REQUEST.size])
        payload = data[REQUEST.size :]
        results = b""
        pages = b""
        if op == Op.HELLO:
            pages = HELLO.pack(ABI, PAGE, 1024, 1 << 20, b"1")
        elif op == Op.POOL:
            pages = POOL.pack(1, Kind.persistent)
        for at in range(index, index + count):
            if op == Op.PUT:
                self.pages[at] = payload[(at - index) * PAGE : (at - index + 1) * PAGE]
                results += RESULT.pack(4 if self.fault == "refuse, keep" else 0, 100)
            elif op == Op.GET and self.fault == "lose":
                results += RESULT.pack(-2, 0)
            elif op == Op.GET and self.fault == "damage":
                results += RESULT.pack(-5, 0)
            elif op == Op.GET:
                page = self.pages[at]
                results += RESULT.pack(0, 0)
                pages += page[:-1] + bytes([page[-1] ^ 1]) if self.fault == "flip a bit" else page
        answer = results + pages
        self.answers += ANSWER.pack(MAGIC, ABI, op, number, 0, count, 1000, len(answer), 0) + answer

    def read(self, size: int) -> bytes:
        taken, self.answers = self.answers[:size], self.answers[size:]
        return taken

    def close(self) -> None: ...


@dataclass
class Pages:
    """A source in memory."""

    count: int
    name = "pages"
    tail_bytes = 0

    def pages(self) -> Iterator[bytes]:
        return (bytes([number % 256]) * PAGE for number in range(self.count))

    def progress(self) -> float:
        return 0.5


@pytest.mark.parametrize(
    ("fault", "lost", "mismatches"),
    [
        ("", 0, 0),
        ("flip a bit", 0, 100),
        ("lose", 100, 0),
        ("damage", 0, 100),
        ("refuse, keep", 0, 100),  # stale: a page that was refused must not be there
    ],
)
def test_what_a_wrong_daemon_does_is_seen(fault: str, lost: int, mismatches: int) -> None:
    client = PagesClient(WrongDaemon(fault))
    report = Replay(client, Pool(1, Kind.persistent), 7, Pages(100), lambda part, what: None).run()
    assert (report.pages, report.lost, report.mismatches) == (100, lost, mismatches)
    assert report.passed == (not fault)


@given(st.tuples(*[st.integers(0, 3)] * 6))
def test_passed_is_what_the_issue_says(n: tuple[int, ...]) -> None:
    pages, stored, same_filled, poor, lost, mismatches = n
    report = Report(pages, stored, same_filled, {"compress_poor": poor}, lost=lost, mismatches=mismatches)
    assert report.passed == (pages == stored + same_filled + poor and lost == 0 and mismatches == 0)
    assert set(report.as_json()) == KEYS
    assert Report.from_json(json.loads(json.dumps(report.as_json()))) == report


# --- the real daemon ----------------------------------------------------------------------------------------------


@dataclass
class Local:
    """The command on a daemon of the test's own, with a persistent pool p and an ephemeral pool e."""

    zcache: Zcache

    def __call__(self, *arguments: object) -> str:
        done = self.zcache("-s", "local", *arguments)
        assert done.code == 0, done
        return done.out

    def fails(self, code: int, said: str, *arguments: object) -> None:
        fails(self.zcache("-s", "local", "replay", *arguments), code, said)

    def start(self, *arguments: object) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [ZCACHE, "-s", "local", "replay", *map(str, arguments)],
            env=self.zcache.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def replay(self, *arguments: object) -> Report:
        facts = json.loads(self("--json", "replay", *arguments))
        assert set(facts) >= KEYS
        return Report.from_json(facts)

    def held(self, pool: str) -> int:
        stats = json.loads(self("--json", "stats", f"pools/{pool}/stats/*"))
        return sum(stats[f"pools/{pool}/stats/{name}"] for name in ("zpages", "same_filled"))


@pytest.fixture(params=[4096, 16384], ids=lambda size: f"{size >> 10}k")
def page_size(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def local(zcache: Zcache, page_size: int) -> Iterator[Local]:
    there = Local(zcache)
    there("up", "--page-size", page_size)
    there("pool", "create", "p", "--kind", "persistent")
    there("pool", "create", "e", "--kind", "ephemeral")
    yield there
    there("down", "--force")


def text_page(number: int, size: int) -> bytes:
    words = b"".join(b"%d pages of %d\n" % (number * i, i) for i in range(size // 12))
    return words[:size].ljust(size, b".")


def mixture(page_size: int) -> bytes:
    """40 pages of text, 20 of one word, 10 that do not compress, and a tail."""
    rng = random.Random(2012)
    pages = [text_page(number, page_size) for number in range(40)]
    pages += [bytes([number, 0, 0, 0]) * (page_size // 4) for number in range(20)]
    pages += [rng.randbytes(page_size) for _ in range(10)]
    rng.shuffle(pages)
    return b"".join(pages) + b"tail"


@pytest.mark.parametrize("pool", ["p", "e"])
def test_a_dump(local: Local, tmp_path: Path, page_size: int, pool: str) -> None:
    dump = tmp_path / "dump"
    dump.write_bytes(mixture(page_size))
    report = local.replay(dump, "--pool", pool)
    assert (report.pages, report.stored, report.same_filled) == (70, 40, 20)
    assert report.refused == {"compress_poor": 10}
    assert (report.lost, report.mismatches, report.tail_bytes) == (0, 0, 4)
    assert sum(count for _, count in report.histogram) == 40
    assert 20 <= report.frames <= 40
    assert report.used_bytes > report.frames * page_size
    assert report.effective_ratio == round(60 * page_size / report.used_bytes, 3)
    assert min(report.put_us or 0, report.get_us or 0) > 0
    assert local.held(pool) == 0, "it was to be flushed"


def test_kept_pages_stay(local: Local, tmp_path: Path, page_size: int) -> None:
    dump = tmp_path / "dump"
    dump.write_bytes(mixture(page_size))
    local.replay(dump, "--pool", "p", "--keep")
    assert local.held("p") == 60
    local.replay(dump, "--pool", "p")
    assert local.held("p") == 60, "each replay has an object of its own"


def test_the_thresholds_count(local: Local, tmp_path: Path, page_size: int) -> None:
    dump = tmp_path / "dump"
    dump.write_bytes(mixture(page_size))
    local("set", "pools/p/params/zv_max_zsize", "1")
    report = local.replay(dump, "--pool", "p")
    assert (report.stored, report.same_filled, report.refused) == (0, 20, {"compress_poor": 50})
    assert report.passed
    assert report.get_us is not None


def test_people_see_the_same_facts(local: Local, tmp_path: Path, page_size: int) -> None:
    dump = tmp_path / "dump"
    dump.write_bytes(mixture(page_size))
    shown = local("replay", dump, "--pool", "p")
    for line in ("pages +70 ", "stored +40 ", "same-filled +20 ", "compress_poor +10 .*refused"):
        assert re.search(line, shown), f"{line}\n{shown}"
    assert "60 of 60 stored pages came back the same" in shown
    assert "4 bytes after the last whole page" in shown


HOLDER = """
import sys
memory = b"".join(b"%d: some text\\n" % n for n in range(400000))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that holds some megabytes."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    yield process
    process.kill()
    process.communicate()


def test_a_process(local: Local, holder: "subprocess.Popen[bytes]", page_size: int) -> None:
    report = local.replay("--pid", holder.pid, "--pool", "p")
    assert report.pages * page_size > 5 << 20
    assert report.passed
    assert report.stored > 0
    assert report.effective_ratio
    assert local.held("p") == 0
    local.replay("--pid", holder.pid, "--pool", "p", "--keep")
    assert local.held("p") > 0


def test_what_is_not_there(local: Local, tmp_path: Path, page_size: int) -> None:
    short = tmp_path / "short"
    short.write_bytes(bytes(page_size - 1))
    ended = subprocess.Popen(["true"])
    ended.wait()
    dump = tmp_path / "dump"
    dump.write_bytes(mixture(page_size))
    missing = tmp_path / "missing"
    local.fails(2, "no whole page", short, "--pool", "p")
    local.fails(2, "missing", missing, "--pool", "p")
    local.fails(2, "not a regular file", tmp_path, "--pool", "p")
    local.fails(5, "nopool", dump, "--pool", "nopool")
    local.fails(5, "nopool", "--pid", os.getpid(), "--pool", "nopool")
    local.fails(5, str(ended.pid), "--pid", ended.pid, "--pool", "p")
    local.fails(2, "either", "--pool", "p")
    local.fails(2, "either", dump, "--pid", "1", "--pool", "p")
    assert local.held("p") == 0


def test_a_process_that_ends_while_it_is_read(local: Local, holder: "subprocess.Popen[bytes]") -> None:
    """Stopped at a page of its own choosing it cannot be; so it is killed at several moments."""
    for delay in (0.0, 0.05, 0.1, 0.2):
        replaying = local.start("--pid", holder.pid, "--pool", "p")
        time.sleep(delay)
        holder.kill()
        _, said = replaying.communicate(timeout=60)
        assert replaying.returncode in (0, 5), said
        assert said.count(b"\n") == (1 if replaying.returncode else 0)
        assert local.held("p") == 0


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("what", ["file", "process"])
def test_an_interrupted_replay_leaves_nothing(
    local: Local, tmp_path: Path, holder: "subprocess.Popen[bytes]", what: str, ending: signal.Signals
) -> None:
    dump = tmp_path / "dump"
    dump.write_bytes(mixture(65536) * 8)
    source = [str(dump)] if what == "file" else ["--pid", holder.pid]
    replaying = local.start(*source, "--pool", "p")
    for _ in itertools.takewhile(lambda _: replaying.poll() is None, range(1000)):
        if local.held("p"):
            os.killpg(replaying.pid, ending)  # as Ctrl-C does: everybody in the foreground gets it
            break
    _, said = replaying.communicate(timeout=60)
    assert b"Traceback" not in said
    assert local.held("p") == 0
