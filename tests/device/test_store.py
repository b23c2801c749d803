# SPDX-License-Identifier: Apache-2.0
"""zsmalloc, zstd and dictionaries on emulated devices; their frames emptied, what they hold checked."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.conftest import Zcache, fails
from tests.agent.test_dictionary import WORDS
from tools.emulator import Device
from zcache_agent.daemon import Daemon, find
from zcache_agent.pages import Key, PagesClient, Run
from zcache_agent.transport import open_transport

on_each_program = pytest.mark.parametrize(
    ("device", "abi"),
    [("arm64", "arm64-v8a"), ("arm64", "armeabi-v7a"), ("arm64-16k", "arm64-v8a")],
    indirect=["device"],
)
PAGES = 200


@pytest.fixture
def zcache(device: Device, abi: str) -> Iterator[Zcache]:
    command = Zcache({**device.env, "ANDROID_SERIAL": device.serial})
    started = command("up", "--abi", abi)
    assert started.code == 0, started.err
    yield command
    ended = command("down", "--force")
    assert ended.code == 0, ended.err


@pytest.fixture
def daemon(zcache: Zcache, device: Device, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    for name, value in device.env.items():
        monkeypatch.setenv(name, value)
    return find(open_transport(device.serial, 60))


def page(number: int, size: int) -> bytes:
    """Words, and then as much of one byte as makes it compress to some size of its own."""
    rng = random.Random(number)
    return b" ".join(rng.choices(WORDS, k=rng.randrange(size // 100, size // 20)))[:size].ljust(size, b".")


def done(zcache: Zcache, *words: object) -> dict[str, object]:
    ran = zcache("--json", *words)
    assert ran.code == 0, ran.err
    document: dict[str, object] = ran.json
    return document


@on_each_program
def test_a_store_with_all_of_it(zcache: Zcache, daemon: Daemon, tmp_path: Path, device: Device, abi: str) -> None:
    """One daemon for all: to bring it there takes an emulated device longer than the rest."""
    size = int(zcache("cat", "page_size").out)
    dump = tmp_path / "dump"
    dump.write_bytes(b"".join(page(number, size) for number in range(PAGES)))
    a_dictionary(zcache, dump, tmp_path / "dictionary", size)
    compaction(zcache, daemon, size)
    reclaim(zcache)
    assert zcache("check").out == f"ok: {PAGES // 5 + held(zcache, 'd')} pages in 2 pools\n"
    what_is_refused(zcache)


def held(zcache: Zcache, pool: str) -> int:
    return int(zcache("cat", f"pools/{pool}/stats/zpages").out)


def a_dictionary(zcache: Zcache, dump: Path, trained: Path, size: int) -> None:
    done(zcache, "dictionary", "train", dump, "-o", trained, "--page-size", size, "--size", 8192)
    loaded = done(zcache, "dictionary", "load", trained)
    assert (loaded["id"], loaded["size"]) == (1, len(trained.read_bytes()))
    words = ("--kind", "ephemeral", "--allocator", "zsmalloc", "--codec", "zstd:1:dict=1")
    made = done(zcache, "pool", "create", "d", *words)
    assert (made["allocator"], made["codec"]) == ("zsmalloc", "zstd:dict=1")
    report = done(zcache, "replay", dump, "--pool", "d", "--keep")
    assert (report["stored"], report["lost"], report["mismatches"]) == (PAGES, 0, 0)


def compaction(zcache: Zcache, daemon: Daemon, size: int) -> None:
    assert zcache("pool", "create", "p", "--allocator", "zsmalloc", "--codec", "zstd:3").code == 0
    assert zcache("set", "pools/p/params/compact_auto", "0").code == 0
    kept = sorted(random.Random(1).sample(range(PAGES), PAGES // 5))
    with PagesClient(daemon.open("data")) as client:
        pool = client.pool("p").id
        for first in range(0, PAGES, client.batch):
            run = Run(pool, 1, first, min(client.batch, PAGES - first))
            put = client.put(run, [page(number, size) for number in range(first, first + run.count)])
            assert set(put.status) == {0}
        gone = [Key(1, number, pool) for number in range(PAGES) if number not in kept]
        assert set(client.flush_page(gone).status) == {0}
        compacted = done(zcache, "pool", "compact", "p")
        assert compacted["frames"] > 0  # type: ignore[operator]
        for number in kept:
            assert client.get([Key(1, number, pool)]).pages == (page(number, size),)


def reclaim(zcache: Zcache) -> None:
    before = held(zcache, "d")
    shrunk = done(zcache, "pool", "shrink", "d", 2)
    assert 2 <= shrunk["frames"] <= 2 + 8  # type: ignore[operator]
    assert shrunk["zpages"] == before - held(zcache, "d") > 0


def what_is_refused(zcache: Zcache) -> None:
    fails(zcache("pool", "codec", "p", "zstd:20"), 5, "zstd:20", "-5..19")
    fails(zcache("pool", "codec", "p", "zstd:dict=7"), 5, "zstd:dict=7")
    fails(zcache("pool", "shrink", "p", 1), 5, "'p' is persistent")
    fails(zcache("dictionary", "remove", 1), 5, "dictionary 1")
    assert zcache("pool", "codec", "d", "lz4").code == 0
    fails(zcache("dictionary", "remove", 1), 5, "dictionary 1")
    assert zcache("pool", "destroy", "d").code == 0
    assert zcache("dictionary", "remove", 1).code == 0
