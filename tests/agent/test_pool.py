# SPDX-License-Identifier: Apache-2.0
"""Pools of every kind, allocator and codec: what can be changed about them while they hold pages."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.agent.conftest import Result, fails
from tests.support import CODECS
from zcache_agent.daemon import Daemon, find
from zcache_agent.errors import ZcacheError
from zcache_agent.pages import Answer, Key, Kind, Op, PagesClient, Request, Results, Run
from zcache_agent.replay import replay_source
from zcache_agent.sources import Source, open_source
from zcache_agent.transport.local import LocalTransport

Local = Callable[..., Result]
PAGE = 4096
PAGES = 2000
ALLOCATORS = ("zbud", "zsmalloc")
on_each_allocator = pytest.mark.parametrize("allocator", ALLOCATORS)


def page(number: int) -> bytes:
    """One that is compressed to some size of its own."""
    rng = random.Random(number)
    return rng.randbytes(rng.randrange(100, 2400)).ljust(PAGE, b"%d" % (number % 10))


@pytest.fixture
def daemon(local_daemon: Local, tmp_path: Path) -> Daemon:
    return find(LocalTransport(str(tmp_path / "zcache")))


@pytest.fixture
def pages(daemon: Daemon) -> Callable[[], AbstractContextManager[PagesClient]]:
    return lambda: PagesClient(daemon.open("data"))


def fill(client: PagesClient, pool: int, count: int = PAGES) -> None:
    for first in range(0, count, client.batch):
        run = Run(pool, 1, first, min(client.batch, count - first))
        done = client.put(run, [page(number) for number in range(first, first + run.count)])
        assert set(done.status) == {0}


def there(client: PagesClient, pool: int, numbers: list[int]) -> int:
    """How many of the pages are there; each as it was put."""
    found = 0
    for start in range(0, len(numbers), client.batch):
        part = numbers[start : start + client.batch]
        for number, back in zip(
            part, client.get([Key(1, number, pool) for number in part], peek=True).pages, strict=True
        ):
            assert back in (None, page(number))
            found += back is not None
    return found


def stats(run: Local, pool: str) -> dict[str, int]:
    values = run("stats", f"pools/{pool}/stats/*", "--json").json
    return {path.rpartition("/")[2]: value for path, value in values.items()}


def test_every_combination_holds_pages(local_daemon: Local, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    dump.write_bytes(b"".join(page(number) for number in range(200)) + bytes(PAGE))
    combinations = list(itertools.product(Kind, ALLOCATORS, ("lz4:8", "zstd", "zstd:-3", "none")))
    for number, (kind, allocator, codec) in enumerate(combinations):
        name = f"p{number}"
        words = ("--kind", kind.name, "--allocator", allocator, "--codec", codec)
        made = local_daemon("pool", "create", name, *words, "--json").json
        assert (made["kind"], made["allocator"], made["codec"]) == (kind.name, allocator, codec)
        if codec == "none":
            params = f"pools/{name}/params/"
            local_daemon("set", f"{params}zv_max_zsize", "100%", f"{params}zv_max_mean_zsize", "100%")
        report = local_daemon("replay", dump, "--pool", name, "--keep", "--json").json
        assert (report["stored"], report["same_filled"]) == (200, 1), made
        assert (report["dropped"], report["lost"], report["mismatches"]) == (0, 0, 0), made
    listed = [(pool["kind"], pool["allocator"], pool["codec"]) for pool in local_daemon("pool", "list", "--json").json]
    assert listed == [(kind.name, allocator, codec) for kind, allocator, codec in combinations]
    assert local_daemon("check", "--json").json["pages"] == 201 * len(combinations)


class TestCodec:
    def test_it_changes_while_pages_are_held(
        self, local_daemon: Local, pages: Callable[[], AbstractContextManager[PagesClient]]
    ) -> None:
        local_daemon("pool", "create", "p", "--allocator", "zsmalloc")
        assert local_daemon("pool", "codec", "p").out == "lz4\n"
        codecs = ["zstd:3", "lz4:2", "none", "zstd:-5", "zstd"]
        local_daemon("set", "pools/p/params/zv_max_zsize", "100%", "pools/p/params/zv_max_mean_zsize", "100%")
        with pages() as client:
            pool = client.pool("p").id
            for number, codec in enumerate(codecs):
                assert client.put(Run(pool, 1, number, 1), [page(number)]).status == (0,)
                before = codecs[number - 1] if number else "lz4"
                changed = local_daemon("pool", "codec", "p", codec, "--json").json
                assert changed == {"name": "p", "codec": codec, "before": before}
            assert there(client, pool, list(range(len(codecs)))) == len(codecs)
        assert local_daemon("check").code == 0
        assert local_daemon("pool", "codec", "p", "zstd:1").out == "pool p: zstd, before zstd\n"

    def test_what_is_none(self, local_daemon: Local) -> None:
        """tests/daemon tries more of them."""
        local_daemon("pool", "create", "p", "--codec", "zstd:7")
        for spec, said in (("zip", CODECS), ("zstd:20", "-5..19"), ("zstd:dict=1", "zcache dictionary list")):
            fails(local_daemon("pool", "codec", "p", spec), 5, f"codec '{spec}'", said)
            fails(local_daemon("pool", "create", "q", "--codec", spec), 5, f"codec '{spec}'")
        fails(local_daemon("pool", "create", "q", "--allocator", "buddy"), 5, "'buddy' is not zbud or zsmalloc")
        assert local_daemon("pool", "codec", "p").out == "zstd:7\n"
        assert [pool["name"] for pool in local_daemon("pool", "list", "--json").json] == ["p"]

    def test_too_many_at_once(
        self, local_daemon: Local, pages: Callable[[], AbstractContextManager[PagesClient]]
    ) -> None:
        local_daemon("pool", "create", "p")
        with pages() as client:
            pool = client.pool("p").id
            for level in range(1, 17):
                assert local_daemon("pool", "codec", "p", f"lz4:{level}").code == 0
                client.put(Run(pool, 1, level, 1), [page(level)])
            refused = local_daemon("pool", "codec", "p", "lz4:17")
            fails(refused, 5, "codec 'lz4:17'", "16 other codecs")
            client.flush_page(Run(pool, 1, 3, 1))
            assert local_daemon("pool", "codec", "p", "lz4:17").code == 0
            assert there(client, pool, list(range(1, 17))) == 15


class TestCompact:
    @on_each_allocator
    def test_it_frees_frames_and_keeps_pages(
        self, local_daemon: Local, pages: Callable[[], AbstractContextManager[PagesClient]], allocator: str
    ) -> None:
        local_daemon("pool", "create", "p", "--allocator", allocator)
        local_daemon("set", "pools/p/params/compact_auto", "0")
        kept = sorted(random.Random(80).sample(range(PAGES), PAGES // 5))
        with pages() as client:
            pool = client.pool("p").id
            fill(client, pool)
            gone = sorted(set(range(PAGES)) - set(kept))
            for start in range(0, len(gone), 512):
                client.flush_page([Key(1, number, pool) for number in gone[start : start + 512]])
            before = stats(local_daemon, "p")
            told = local_daemon("pool", "compact", "p", "--json").json
            after = stats(local_daemon, "p")
            assert told["name"] == "p"
            assert told["frames"] == before["frames"] - after["frames"] > 0
            assert told["zpages"] > 0
            assert there(client, pool, kept) == len(kept)
        assert local_daemon("check").code == 0
        again = local_daemon("pool", "compact", "p").out
        assert again == "pool p: 0 frames freed, 0 pages moved\n"

    def test_an_empty_pool_and_none(self, local_daemon: Local) -> None:
        local_daemon("pool", "create", "p", "--allocator", "zsmalloc")
        assert local_daemon("pool", "compact", "p", "--json").json == {"name": "p", "frames": 0, "zpages": 0}
        fails(local_daemon("pool", "compact", "nope"), 5, "nope")


class TestShrink:
    @on_each_allocator
    def test_it_frees_as_many_frames_as_asked_for(
        self, local_daemon: Local, pages: Callable[[], AbstractContextManager[PagesClient]], allocator: str
    ) -> None:
        local_daemon("pool", "create", "e", "--kind", "ephemeral", "--allocator", allocator)
        local_daemon("set", "pools/e/params/exclusive_gets", "0")
        with pages() as client:
            pool = client.pool("e").id
            fill(client, pool)
            first = list(range(200))
            assert len([back for back in client.get([Key(1, n, pool) for n in first]).pages if back]) == 200
            before = stats(local_daemon, "e")
            told = local_daemon("pool", "shrink", "e", 20, "--json").json
            after = stats(local_daemon, "e")
            assert told["frames"] == before["frames"] - after["frames"]
            assert 20 <= told["frames"] <= 20 + 8, "a zspage has 8 frames at most"
            assert told["zpages"] == before["zpages"] - after["zpages"] > 0
            assert there(client, pool, list(range(PAGES))) == PAGES - told["zpages"]
            assert there(client, pool, first) == 200, "a get has made them young"
        assert local_daemon("check").code == 0
        rest = local_daemon("pool", "shrink", "e", 10**9).out
        assert rest == f"pool e: {after['frames']} frames freed, {after['zpages']} pages dropped\n"
        assert stats(local_daemon, "e")["frames"] == 0

    @on_each_allocator
    def test_a_single_frame(
        self, local_daemon: Local, pages: Callable[[], AbstractContextManager[PagesClient]], allocator: str
    ) -> None:
        local_daemon("pool", "create", "e", "--kind", "ephemeral", "--allocator", allocator)
        with pages() as client:
            fill(client, client.pool("e").id, 400)
        assert 1 <= local_daemon("pool", "shrink", "e", 1, "--json").json["frames"] <= 8

    def test_refusals(self, local_daemon: Local) -> None:
        local_daemon("pool", "create", "p")
        local_daemon("pool", "create", "e", "--kind", "ephemeral")
        result = local_daemon("pool", "shrink", "p", 1, "--json")
        assert (result.code, result.error["name"]) == (5, "EPERM")
        fails(local_daemon("pool", "shrink", "p", 1), 5, "'p' is persistent", "zcache pool compact")
        for frames in ("0", "x", "1.5", ""):
            fails(local_daemon("pool", "shrink", "e", frames), 5, f"'{frames}'")
        fails(local_daemon("pool", "shrink", "e"), 2, "FRAMES")
        fails(local_daemon("pool", "shrink", "nope", 1), 5, "nope")


class TestCreateWithABackingStore:
    def test_it_has_what_was_there(
        self, local_daemon: Local, pages: Callable[[], AbstractContextManager[PagesClient]], tmp_path: Path
    ) -> None:
        words = ("pool", "create", "p", "--backing", tmp_path / "store", "--layout", "in_place")
        fails(local_daemon(*words, "--backing-size", "odd"), 5, "odd")
        assert local_daemon(*words, "--backing-size", "16M").code == 0
        with pages() as client:
            fill(client, client.pool("p").id, 100)
        local_daemon("pool", "writeback", "p")
        shown = local_daemon("pool", "show", "p")
        assert shown.out.startswith("pool p: 0 frames warm, 0 cold, 100 pages written back\n")
        facts = local_daemon("pool", "show", "p", "--json").json
        assert facts["backing"] == f"path={tmp_path / 'store'} layout=in_place"
        assert (facts["warm_frames"], facts["stats/written_pages"]) == (0, 100)
        fails(local_daemon(*words), 5, "'p'", "zcache pool list")

    def test_if_it_is_refused_there_is_no_pool(self, local_daemon: Local, tmp_path: Path) -> None:
        (tmp_path / "letter").write_text("to whom it may concern" * 1000)
        letter = ("--backing", tmp_path / "letter")
        fails(local_daemon("pool", "create", "p", *letter), 5, "letter", "--reset")
        fails(local_daemon("pool", "create", "p", "--backing", tmp_path / "new"), 5, "new")
        fails(local_daemon("pool", "create", "p", "--backing", tmp_path / "no" / "dir", "--backing-size", "16M"), 5,
              "No such file", "a directory that is there")  # fmt: skip
        fails(local_daemon("pool", "create", "p", *letter, "--kind", "ephemeral"), 5, "'p' is ephemeral")
        fails(local_daemon("pool", "create", "p", "--backing", "a b"), 2, "'a b'", "no spaces")
        fails(local_daemon("pool", "create", "p", "--reset"), 2, "--backing PATH")
        assert local_daemon("pool", "list", "--json").json == []
        assert (tmp_path / "letter").read_text().startswith("to whom")
        assert local_daemon("pool", "create", "p", *letter, "--reset", "--backing-size", "16M").code == 0


class TestWriteback:
    @on_each_allocator
    def test_pages_go_to_the_store_and_are_read_from_there(
        self,
        local_daemon: Local,
        pages: Callable[[], AbstractContextManager[PagesClient]],
        allocator: str,
        tmp_path: Path,
    ) -> None:
        local_daemon("pool", "create", "p", "--allocator", allocator)
        fails(local_daemon("pool", "writeback", "p"), 5, "no backing store", "zcache pool backing p PATH")
        assert local_daemon("pool", "backing", "p").out == "pool p: none\n"
        store = tmp_path / "store"
        told = local_daemon("pool", "backing", "p", store, "--size", "32M").out
        assert told == f"pool p: path={store} layout=packed, 0 pages are in it\n"
        with pages() as client:
            number = client.pool("p").id
            fill(client, number)
            told = local_daemon("pool", "writeback", "p", 20, "--json").json
            assert told["frames"] >= 20
            assert 20 <= told["pages"] < PAGES
            rest = local_daemon("pool", "writeback", "p").out
            assert rest.endswith(f" frames freed, {PAGES - told['pages']} pages written back\n")
            assert there(client, number, list(range(PAGES))) == PAGES
        assert local_daemon("check").code == 0

    def test_refusals(self, local_daemon: Local, tmp_path: Path) -> None:
        local_daemon("pool", "create", "p")
        local_daemon("pool", "create", "e", "--kind", "ephemeral")
        (tmp_path / "letter").write_text("to whom it may concern" * 1000)
        fails(local_daemon("pool", "backing", "p", tmp_path / "letter"), 5, "letter", "--reset")
        fails(local_daemon("pool", "backing", "e", tmp_path / "store", "--size", "16M"), 5, "'e' is ephemeral")
        fails(local_daemon("pool", "backing", "p", "store"), 5, "'store' is no path")
        fails(local_daemon("pool", "backing", "p", tmp_path / "store", "--layout", "odd"), 2, "odd")
        for frames in ("0", "x", "1.5"):
            fails(local_daemon("pool", "writeback", "p", frames), 5, f"'{frames}'")


class TestWritebackByItself:
    @pytest.mark.parametrize("layout", ["packed", "in_place"])
    def test_a_load_beyond_the_limit_is_taken(self, local_daemon: Local, layout: str, tmp_path: Path) -> None:
        """Four times the limit, put and got again by replay, which compares every byte."""
        load = tmp_path / "load"
        load.write_bytes(b"".join(map(page, range(6 * PAGES))))
        assert local_daemon("set", "params/limit", "4M").code == 0
        made = local_daemon("pool", "create", "p", "--allocator", "zsmalloc", "--backing", tmp_path / "store",
                            "--layout", layout, "--backing-size", "128M")  # fmt: skip
        assert made.code == 0, made.err
        told = local_daemon("replay", load, "--pool", "p", "--keep", "--json").json
        assert told["stored"] == 6 * PAGES
        assert not any(told[wrong] for wrong in ("refused", "dropped", "lost", "mismatches"))
        stats = local_daemon("stats", "--json").json
        assert stats["pools/p/stats/writeback_limit"] >= 3 * PAGES
        assert stats["pools/p/stats/policy_percent_exceeded"] == 0
        assert local_daemon("check").code == 0

    def test_idle_pages_go(
        self, local_daemon: Local, pages: Callable[[], AbstractContextManager[PagesClient]], tmp_path: Path
    ) -> None:
        local_daemon("pool", "create", "p", "--backing", tmp_path / "store", "--backing-size", "64M")
        fails(local_daemon("set", "pools/p/params/writeback_after", "1h"), 5, "'1h'", "0..32767")
        assert local_daemon("set", "pools/p/params/writeback_after", 1).code == 0
        with pages() as client:
            number = client.pool("p").id
            fill(client, number)
            for _ in range(600):
                if local_daemon("cat", "pools/p/stats/writeback_idle").out == f"{PAGES}\n":
                    break
                time.sleep(0.1)
            stats = local_daemon("stats", "--json").json
            assert stats["pools/p/stats/writeback_idle"] == stats["stats/writeback_idle"] == PAGES
            assert stats["pools/p/stats/frames"] == 0
            assert there(client, number, list(range(PAGES))) == PAGES
        assert local_daemon("check").code == 0


class Shrinking:
    """A source in the middle of whose second walk, the one that gets, somebody shrinks the pool."""

    def __init__(self, source: Source, shrink: Callable[[], object]) -> None:
        self.source = source
        self.name = source.name
        self.tail_bytes = source.tail_bytes
        self.progress = source.progress
        self.shrink = shrink
        self.walks = 0

    def pages(self) -> Iterator[bytes]:
        self.walks += 1
        for number, one in enumerate(self.source.pages()):
            if self.walks == 2 and number == 0:
                self.shrink()
            yield one


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name)
def test_a_shrink_in_the_middle_of_a_replay(local_daemon: Local, daemon: Daemon, tmp_path: Path, kind: Kind) -> None:
    """What an ephemeral pool drops is not lost; a persistent one lets nobody drop anything."""
    local_daemon("pool", "create", "p", "--kind", kind.name)
    dump = tmp_path / "dump"
    dump.write_bytes(b"".join(page(number) for number in range(200)))
    with daemon.control() as control, open_source(dump, PAGE) as source:
        shrinking = Shrinking(source, lambda: local_daemon("pool", "shrink", "p", 10))
        report = replay_source(daemon, control, "p", shrinking)
    assert report.passed
    assert report.stored == 200
    assert (report.dropped > 0) == (kind is Kind.ephemeral)
    assert report.lost == 0


def test_a_replay_interrupted_where_it_reads_shared_pages(
    local_daemon: Local, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its traceback holds a view of the segment. The moment is forced: a signal comes there too seldom."""

    def interrupted(request: Request, answer: Answer, payload: bytes, page_size: int, region: memoryview) -> Results:
        if request.op is Op.GET:
            raise KeyboardInterrupt
        return parse(request, answer, payload, page_size, region)

    local_daemon("pool", "create", "p")
    dump = tmp_path / "dump"
    dump.write_bytes(b"".join(page(number) for number in range(200)))
    parse = Results.parse
    monkeypatch.setattr(Results, "parse", interrupted)
    with daemon.control() as control, open_source(dump, PAGE) as source, pytest.raises(KeyboardInterrupt):
        replay_source(daemon, control, "p", source)
    assert "ok: 0 pages in 1 pool" in local_daemon("check").out


def test_a_pool_that_is_destroyed_while_it_is_used(local_daemon: Local, daemon: Daemon, tmp_path: Path) -> None:
    local_daemon("pool", "create", "p", "--allocator", "zsmalloc", "--codec", "zstd")
    dump = tmp_path / "dump"
    dump.write_bytes(b"".join(page(number) for number in range(200)))
    with daemon.control() as control, open_source(dump, PAGE) as source:
        destroying = Shrinking(source, lambda: local_daemon("pool", "destroy", "p"))
        with pytest.raises(ZcacheError, match="pools/p"):
            replay_source(daemon, control, "p", destroying)
    assert local_daemon("check").out == "ok: 0 pages in 0 pools\n"
