# SPDX-License-Identifier: Apache-2.0
"""Dictionaries: trained on this machine, loaded into the real daemon, held on to as long as pages need them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from tests.agent.conftest import Result, Zcache, fails
from zcache_agent.dictionary import train
from zcache_agent.errors import Usage
from zcache_agent.sources import open_source

Local = Callable[..., Result]
PAGE = 4096
ZSTD_MAGIC = bytes.fromhex("37a430ec")
MIB = 1 << 20


WORDS = [random.Random(number).randbytes(6).hex().encode() for number in range(1000)]


def alike(count: int, seed: int = 1) -> bytes:
    """Pages of the same words, hardly one of them twice in a page."""
    rng = random.Random(seed)
    return b"".join(b" ".join(rng.choices(WORDS, k=400))[:PAGE] for _ in range(count))


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    path = tmp_path / "dump"
    path.write_bytes(alike(600))
    return path


@pytest.fixture
def trained(zcache: Zcache, dump: Path, tmp_path: Path) -> Path:
    path = tmp_path / "trained"
    assert zcache("dictionary", "train", dump, "-o", path).code == 0
    return path


class TestTrain:
    def test_it_makes_pages_of_its_kind_smaller(self, zcache: Zcache, dump: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        facts = zcache("dictionary", "train", dump, "-o", out, "--json").json
        assert (facts["file"], facts["size"]) == (str(out), len(out.read_bytes()))
        assert 1024 < facts["size"] <= 32 * 1024
        assert facts["pages"] > 400
        assert facts["held_out"] > 100
        assert facts["ratio_with"] > 2 * facts["ratio_without"] > 3
        assert out.read_bytes()[:4] == ZSTD_MAGIC

    def test_of_several_files_in_pages_of_another_size(self, zcache: Zcache, dump: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.write_bytes(alike(600, seed=2) + bytes(100 * PAGE))
        words = ("dictionary", "train", dump, other, "-o", tmp_path / "out", "--page-size", 2 * PAGE, "--size", 4096)
        facts = zcache(*words, "--level", 3, "--json").json
        assert facts["size"] <= 4096
        assert facts["pages"] + facts["held_out"] <= 600, "pages of zeros are left out"
        told = zcache(*words).out
        assert f"from {facts['pages']} pages" in told
        assert "zstd:1" in told

    def test_nothing_to_train_on(self, zcache: Zcache, dump: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        fails(zcache("dictionary", "train", tmp_path / "nope", "-o", out), 2, "nope")
        fails(zcache("dictionary", "train", dump), 2, "--output")
        fails(zcache("dictionary", "train", "-o", out), 2, "FILE")
        fails(zcache("dictionary", "train", dump, "-o", out, "--size", 1), 2, "--size")
        few = tmp_path / "few"
        few.write_bytes(alike(20) + bytes(400 * PAGE))
        fails(zcache("dictionary", "train", few, "-o", out), 2, "20 pages", "too few")
        assert not out.exists()
        fails(zcache("dictionary", "train", dump, "-o", tmp_path), 2, str(tmp_path))

    def test_what_zstd_cannot_train(self, dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Forced: no pages are known with which it fails."""

        def fail(*_: object, **__: object) -> None:
            raise zstandard.ZstdError("cannot train dict: boom")

        monkeypatch.setattr("zstandard.train_dictionary", fail)
        with open_source(dump, PAGE) as source, pytest.raises(Usage, match="boom"):
            train([source], PAGE, 4096, 1)


class TestLoad:
    def test_a_life(self, local_daemon: Local, trained: Path, dump: Path) -> None:
        size = len(trained.read_bytes())
        loaded = local_daemon("dictionary", "load", trained, "--json").json
        assert loaded == {"id": 1, "size": size, "hash": loaded["hash"]}
        assert len(loaded["hash"]) == 16
        again = local_daemon("dictionary", "load", trained).out
        assert again == f"dictionary 1: {size} bytes, hash {loaded['hash']}\n"
        assert local_daemon("dictionary", "list", "--json").json == [{**loaded, "pools": []}]

        local_daemon("pool", "create", "plain", "--codec", "zstd")
        local_daemon("pool", "create", "p", "--codec", "zstd:1:dict=1")
        sizes = {}
        for pool in ("plain", "p"):
            report = local_daemon("replay", dump, "--pool", pool, "--keep", "--json").json
            assert (report["lost"], report["mismatches"]) == (0, 0)
            sizes[pool] = local_daemon("cat", f"pools/{pool}/stats/zbytes", "--json").json.popitem()[1]
        assert sizes["p"] < 0.6 * sizes["plain"]
        assert local_daemon("dictionary", "list", "--json").json[0]["pools"] == ["p"]
        assert "p" in local_daemon("dictionary", "list").out.splitlines()[1].split()
        assert local_daemon("check").code == 0

    def test_it_stays_as_long_as_it_is_needed(self, local_daemon: Local, trained: Path, dump: Path) -> None:
        local_daemon("dictionary", "load", trained)
        local_daemon("pool", "create", "p", "--codec", "zstd:3:dict=1")
        local_daemon("replay", dump, "--pool", "p", "--keep")
        result = local_daemon("dictionary", "remove", 1, "--json")
        assert (result.code, result.error["name"]) == (5, "EBUSY")
        fails(local_daemon("dictionary", "remove", 1), 5, "dictionary 1", "zcache pool codec")
        assert local_daemon("pool", "codec", "p", "lz4").code == 0
        fails(local_daemon("dictionary", "remove", 1), 5, "dictionary 1", "flush")
        assert local_daemon("check").code == 0
        assert local_daemon("pool", "destroy", "p").code == 0
        assert local_daemon("dictionary", "remove", 1).out == "dictionary 1 removed\n"
        assert local_daemon("dictionary", "list", "--json").json == []
        fails(local_daemon("pool", "create", "p", "--codec", "zstd:dict=1"), 5, "no such dictionary")
        assert local_daemon("dictionary", "load", trained, "--json").json["id"] == 2, "numbers are not used again"
        assert local_daemon("dictionary", "remove", 2, "--json").json == {"id": 2}

    def test_what_is_none(self, local_daemon: Local, tmp_path: Path, trained: Path) -> None:
        file = tmp_path / "file"
        for size in (0, MIB + 1, 2 * MIB, 2 * MIB + 1, 5 * MIB):
            file.write_bytes(bytes(size))
            fails(local_daemon("dictionary", "load", file), 5, f"{MIB} bytes, not {size}", "zcache dictionary train")
        garbage = (ZSTD_MAGIC + b"garbage" * 100, trained.read_bytes()[:100])
        for data in garbage:
            file.write_bytes(data)
            result = local_daemon("dictionary", "load", file, "--json")
            assert (result.code, result.error["name"]) == (5, "EINVAL")
            assert str(len(data)) in result.error["message"]
        fails(local_daemon("dictionary", "load", tmp_path / "nope"), 2, "nope")
        fails(local_daemon("dictionary", "load", tmp_path), 2, str(tmp_path))
        for number, said in ((1, "no dictionary 1"), ("x", "'x'"), ("", "''"), (2**32, "4294967296")):
            fails(local_daemon("dictionary", "remove", number), 5, said)
        assert local_daemon("dictionary", "list", "--json").json == []
        assert local_daemon("stats", "stats/metadata_bytes", "--json").code == 0

    def test_any_bytes_are_one(self, local_daemon: Local, tmp_path: Path) -> None:
        file = tmp_path / "file"
        for number, data in enumerate((b"x", alike(20), random.Random(1).randbytes(MIB)), start=1):
            file.write_bytes(data)
            assert local_daemon("dictionary", "load", file, "--json").json["id"] == number
        for number, name in itertools.product((1, 2, 3), ("p", "e")):
            kind = "persistent" if name == "p" else "ephemeral"
            codec = f"zstd:dict={number}"
            assert local_daemon("pool", "create", f"{name}{number}", "--kind", kind, "--codec", codec).code == 0
        file.write_bytes(alike(64, seed=3))
        for number in (1, 2, 3):
            assert local_daemon("replay", file, "--pool", f"p{number}").code == 0
