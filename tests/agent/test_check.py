# SPDX-License-Identifier: Apache-2.0
"""check: what is wrong is found. What no real daemon gets wrong, a scripted one does."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agent.conftest import Result, Zcache, fails
from zcache_agent.check import TRIES, Verdict, check
from zcache_agent.daemon import find
from zcache_agent.pages import EIO, PagesClient, Run
from zcache_agent.transport.local import LocalTransport

Local = Callable[..., Result]
PAGE = 4096


def values(run: Local) -> dict[str, str]:
    """What check looks at of the tree."""
    stats = {path: str(value) for path, value in run("stats", "--json").json.items()}
    kinds = {f"pools/{pool['name']}/kind": pool["kind"] for pool in run("pool", "list", "--json").json}
    return {"page_size": str(PAGE), **stats, **kinds}


class Scripted:
    """A control connection to a tree that is read again and again."""

    def __init__(self, trees: Iterator[dict[str, str]], said: str = "ok") -> None:
        self.trees = trees
        self.said = said

    def get(self, path: str) -> str:
        assert path == "check"
        return self.said

    def dump(self, path: str = "") -> dict[str, str]:
        assert path == ""
        return next(self.trees)


def verdict(*trees: dict[str, str], said: str = "ok") -> Verdict:
    """Of trees read one after another, the last one for ever."""

    def read() -> Iterator[dict[str, str]]:
        yield from trees
        while True:
            yield trees[-1]

    return check(Scripted(read(), said))  # type: ignore[arg-type]


def fill(run: Local, dump: Path) -> None:
    rng = random.Random(1)
    text = b"".join(rng.randbytes(rng.randrange(99, 2000)).ljust(PAGE, b".") for _ in range(100))
    dump.write_bytes(text + bytes(20 * PAGE) + rng.randbytes(20 * PAGE))
    run("pool", "create", "p", "--allocator", "zsmalloc", "--codec", "zstd")
    run("pool", "create", "e", "--kind", "ephemeral")
    run("set", "pools/e/params/keep_rejected", "1")
    for pool in ("p", "e"):
        assert run("replay", dump, "--pool", pool, "--keep").code == 0
        assert run("replay", dump, "--pool", pool).code == 0


@pytest.fixture(scope="module")
def right(adb_server: int, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tree of a real daemon that is right."""
    directory = tmp_path_factory.mktemp("right")
    zcache = Zcache({"ANDROID_ADB_SERVER_PORT": str(adb_server), "ZCACHE_DIR": str(directory / "zcache")})

    def run(*arguments: object) -> Result:
        return zcache("-s", "local", *arguments)

    assert run("up", "--page-size", PAGE).code == 0
    try:
        fill(run, directory / "dump")
        return values(run)
    finally:
        assert run("down", "--force").code == 0


def test_what_is_right(local_daemon: Local, tmp_path: Path) -> None:
    fill(local_daemon, tmp_path / "dump")
    pages = 120 + 140
    assert local_daemon("check").out == f"ok: {pages} pages in 2 pools\n"
    facts = {"ok": True, "wrong": [], "pools": 2, "pages": pages, "compared": True}
    assert local_daemon("check", "--json").json == facts


def test_every_counter_that_is_wrong_is_found(right: dict[str, str]) -> None:
    assert verdict(right) == Verdict([], 2, 260, compared=True)
    parts = {"gets_found", "flush_found", "flobj_found", "put_to_flush", "dup_puts", "kept_rejected"}
    parts |= {"written_gets", "read_errors", "cold_extents", "cold_frames"}
    alone = {"limit_bytes", "gets", "flush_total", "flobj_total", "damaged"}
    alone |= {f"writeback_{what}" for what in ("frames", "pages", "errors")}
    alone |= {f"wear_{cause}" for cause in ("evicted", "cleaned", "metadata")}
    alone |= {"compacted_frames", "compacted_zpages", "pressures", "pressure_source"}
    alone |= {"recompressed_frames", "recompressed_pages", "warmed_pages"}
    for path, value in right.items():
        if path.rpartition("/")[2] in parts | alone or "stats/" not in path:
            continue
        for changed in (int(value) + 1, int(value) * 2 + 5):
            found = verdict({**right, path: str(changed)})
            assert found.wrong, f"{path}={changed}"
            assert found.compared


@pytest.mark.parametrize(
    ("part", "whole"),
    [("gets_found", "gets"), ("flush_found", "flush_total"), ("flobj_found", "flobj_total"),
     ("dup_puts", "stored_puts"), ("kept_rejected", "stored_puts"), ("put_to_flush", "the refusals")],
)  # fmt: skip
def test_no_part_is_more_than_the_whole(right: dict[str, str], part: str, whole: str) -> None:
    (found,) = verdict({**right, f"pools/p/stats/{part}": "99999"}).wrong
    assert found.startswith(f"pool p: {part} 99999 is more than {whole}, ")


def test_sums_are_left_out_while_pools_change(right: dict[str, str]) -> None:
    busy = [{**right, "pools/p/stats/gets": str(900 + number), "stats/zbytes": "0"} for number in range(TRIES + 1)]
    assert verdict(*busy) == Verdict([], 2, 260, compared=False)
    (quiet_in_the_end,) = verdict(*busy[:3]).wrong
    assert quiet_in_the_end.startswith("stats/zbytes 0 is not what the pools have, ")
    (at_once,) = verdict(*({**tree, "pools/p/stats/puts": "1"} for tree in busy)).wrong
    assert at_once.startswith("pool p: puts 1 is not stored_puts and the refusals, ")


def test_what_the_daemon_says_comes_first(right: dict[str, str]) -> None:
    assert verdict({**right, "stats/zbytes": "0"}, said="pool p: bad").wrong[0] == "pool p: bad"


def flip_in_memory(pid: int, mark: bytes) -> int:
    """Flips a bit of these bytes wherever a process has them. Returns in how many places."""
    found = 0
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        for line in maps:
            area, rights, *_ = line.split()
            if not rights.startswith("rw") or "[v" in line:
                continue
            start, end = (int(bound, 16) for bound in area.split("-"))
            memory.seek(start)
            content = memory.read(end - start) or b""
            for match in re.finditer(re.escape(mark), content):
                memory.seek(start + match.start())
                memory.write(bytes([mark[0] ^ 1]))
                found += 1
    return found


@pytest.mark.parametrize("allocator", ["zbud", "zsmalloc"])
def test_a_damaged_page(local_daemon: Local, tmp_path: Path, allocator: str) -> None:
    """A bit of a page that lies uncompressed in the real daemon's memory is flipped from outside."""
    if os.geteuid() != 0:
        pytest.fail("needs root to write another process's memory: run the tests as root")
    local_daemon("pool", "create", "p", "--allocator", allocator, "--codec", "none")
    local_daemon("set", "pools/p/params/zv_max_zsize", "100%", "pools/p/params/zv_max_mean_zsize", "100%")
    daemon = find(LocalTransport(str(tmp_path / "zcache")))
    mark = random.Random(7).randbytes(32)
    pages = [b"before".ljust(PAGE, b"1"), (b"." * 2000 + mark).ljust(PAGE, b"2"), b"behind".ljust(PAGE, b"3")]
    with PagesClient(daemon.open("data")) as client:
        pool = client.pool("p").id
        assert client.put(Run(pool, 1, 0, 3), pages).status == (0, 0, 0)
        assert local_daemon("check").code == 0
        assert flip_in_memory(daemon.pid, mark) > 0
        wrong = local_daemon("check", "--json")
        assert (wrong.code, wrong.error["name"]) == (1, "check_failed")
        assert wrong.json["ok"] is False
        assert "damaged" in wrong.json["wrong"][0]
        fails(local_daemon("check"), 1, "pool p", "index 1", "zcache bugreport")
        got = client.get(Run(pool, 1, 0, 3))
        assert got.status == (0, -EIO, 0)
        assert got.pages == (pages[0], None, pages[2]), "all else goes on"
        assert local_daemon("stats", "pools/p/stats/damaged", "--json").json == {"pools/p/stats/damaged": 1}
        assert client.put(Run(pool, 1, 1, 1), [pages[1]]).status == (0,)
        assert client.get(Run(pool, 1, 1, 1)).pages == (pages[1],)
    assert local_daemon("check").code == 0


def test_no_daemon(zcache: Callable[..., Result]) -> None:
    fails(zcache("-s", "local", "check"), 4, "zcache up")
