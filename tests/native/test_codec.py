# SPDX-License-Identifier: Apache-2.0
"""Codecs: pages there and back, damaged zpages, specs, dictionaries; the entropy estimate and the hash."""

import base64
import json
import random
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from tests.native.driver import program
from tests.support import BUILD, CODECS, LZO

CONFIGS = ["host", "host-asan", "host-lzo"]
MIB = 1 << 20


def zc_codec(config: str, *words: object, fails: bool = False) -> str:
    command = [str(program(config, "zc_codec")), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert (done.returncode != 0) == fails, done.stderr[-4000:]
    return done.stderr if fails else done.stdout


def specs(config: str) -> list[str]:
    """Each codec of a build at its levels. Deep levels are slow under a sanitizer: there, those that differ most."""
    zstd = [level for level in range(-5, 20) if level] if config == "host" else [-5, -1, 1, 2, 4, 6, 8, 13, 19]
    lz4 = [f"lz4:{level}" for level in (1, 2, 8, 100, 65537)]
    found = [*lz4, *(f"zstd:{level}" for level in zstd), *(f"zstd:{level}:dict=7" for level in zstd), "none"]
    return [*found, "lzo"] if config == "host-lzo" else found


def text(size: int) -> bytes:
    rows = [
        {"id": n, "name": f"user-{n}", "at": [n / 7, n * n], "mail": f"u{n}@example.org"} for n in range(size // 60)
    ]
    return json.dumps(rows).encode()[:size]


def mixture(size: int) -> bytes:
    """Pages of the interpreter's code and data, of text, of zeros, random ones, and halves of these."""
    code = Path(sys.executable).resolve().read_bytes()
    step = len(code) // 8
    rest = bytes(65536) + text(65536) + random.Random(1).randbytes(65536)
    rest += random.Random(2).randbytes(2048) + bytes(2048) + b"ab" * 4096 + bytes(range(256)) * 32
    parts = [code[at * step : at * step + size // 10] for at in range(8)]
    return (b"".join(parts) + rest)[:size].ljust(size, b"\0")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codec") / "pages"
    path.write_bytes(mixture(MIB))
    return path


@pytest.fixture(scope="module")
def trained(pages: Path) -> Path:
    """A dictionary of zstd's own format."""
    path = pages.with_name("trained")
    samples = pages.with_name("samples")
    samples.write_bytes(text(MIB))
    command = [str(program("host", "zc_codec")), "train", str(samples), "4096", "16384"]
    path.write_bytes(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    assert path.read_bytes()[:4] == b"\x37\xa4\x30\xec"
    return path


@pytest.fixture(scope="module")
def raw(pages: Path) -> Path:
    path = pages.with_name("raw")
    path.write_bytes(text(20000))
    return path


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
@pytest.mark.parametrize("config", CONFIGS)
def test_every_page_comes_back(config: str, page_size: int, pages: Path, trained: Path, raw: Path) -> None:
    """By each codec at each level, within its bound; the program looks at that."""
    source = pages
    if config != "host":
        source = pages.with_name(f"few-{page_size}")
        source.write_bytes(pages.read_bytes()[: 16 * page_size])
    chosen, count = specs(config), source.stat().st_size // page_size
    for dictionary in (trained, raw):
        lines = zc_codec(config, "trip", source, page_size, dictionary, *chosen).splitlines()
        assert len(lines) == len(chosen)
        sizes = {line.split()[0]: int(line.split()[2]) for line in lines}
        assert all(line.split()[1] == str(count) for line in lines)
        assert sizes["none"] == count * page_size
        assert all(size < count * page_size for spec, size in sizes.items() if spec != "none" and spec != "lz4:65537")
        assert sizes["zstd:19"] < sizes["zstd"] < sizes["zstd:-5"]
        assert sizes["lz4"] < sizes["lz4:8"] <= sizes["lz4:65537"]


@pytest.mark.parametrize("run", ["4096x2", "4096x8", "16384x4", "65536x16"])
@pytest.mark.parametrize("config", CONFIGS)
def test_every_run_and_its_beginnings_come_back(config: str, run: str, pages: Path, trained: Path) -> None:
    """Together small pages are smaller than each by itself; and damage does no harm."""
    chosen = ["zstd", "zstd:9", "zstd:19", "zstd:9:dict=7", "lz4", "none"]
    page_size, count = run.split("x")
    together, alone = (
        {
            line.split()[0]: int(line.split()[2])
            for line in zc_codec(config, "trip", pages, size, trained, *chosen).splitlines()
        }
        for size in (run, page_size)
    )
    assert set(together) == set(alone) == set(chosen)
    if int(page_size) < 65536:  # LZ4 looks back no further, and zstd's blocks gain little
        assert all(together[spec] < alone[spec] for spec in chosen if spec != "none")
    for line in zc_codec(config, "damage", pages, run, trained, "zstd", "zstd:9:dict=7").splitlines():
        _, tries, refused = line.split()
        assert 0.3 * int(tries) < int(refused) <= int(tries), line
    assert int(count) * int(page_size) <= MIB


def test_a_dictionary_makes_zpages_smaller(tmp_path: Path, trained: Path, raw: Path) -> None:
    source = tmp_path / "text"
    source.write_bytes(text(2 * MIB)[MIB:])
    for dictionary in (trained, raw):
        told = zc_codec("host", "trip", source, 4096, dictionary, "zstd:9", "zstd:9:dict=7").splitlines()
        without, with_it = (int(line.split()[2]) for line in told)
        assert with_it < without * 0.98


@pytest.mark.parametrize("page_size", [4096, 65536])
@pytest.mark.parametrize("config", CONFIGS)
def test_damaged_zpages_do_no_harm(config: str, page_size: int, pages: Path, trained: Path) -> None:
    """A wrong page or EIO, and the next good zpage is whole again; the sanitizer looks at the rest."""
    chosen = ["lz4", "zstd", "zstd:-5", "zstd:9", "zstd:3:dict=7", "none"] + ["lzo"] * (config == "host-lzo")
    for line in zc_codec(config, "damage", pages, page_size, trained, *chosen).splitlines():
        _, tries, refused = line.split()
        assert 0.3 * int(tries) < int(refused) <= int(tries), line


@pytest.mark.parametrize("config", ["host", "host-tsan"])
def test_threads_share_a_codec(config: str, pages: Path, trained: Path) -> None:
    small = pages.with_name("few")
    small.write_bytes(pages.read_bytes()[: 40 * 4096])
    chosen = ["lz4", "zstd", "zstd:dict=7", "zstd:7:dict=7"]
    alone = zc_codec(config, "trip", small, 4096, trained, *chosen)
    assert zc_codec(config, "threads", small, 4096, trained, *chosen) == alone


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("lz4", "lz4"), ("lz4:1", "lz4"), ("lz4:4", "lz4:4"), ("lz4:65537", "lz4:65537"), ("none", "none"),
        ("zstd", "zstd"), ("zstd:1", "zstd"), ("zstd:3", "zstd:3"), ("zstd:-5", "zstd:-5"), ("zstd:19", "zstd:19"),
        ("zstd:dict=7", "zstd:dict=7"), ("zstd:1:dict=7", "zstd:dict=7"), ("zstd:-1:dict=7", "zstd:-1:dict=7"),
    ],
)  # fmt: skip
def test_good_specs(spec: str, canonical: str) -> None:
    assert zc_codec("host-asan", "spec", 4096, spec) == f"ok {canonical}\n"


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("", f"not one of {CODECS}"),
        ("zip", f"not one of {CODECS}"),
        ("LZ4", f"not one of {CODECS}"),
        ("lz4 ", f"not one of {CODECS}"),
        (":1", f"not one of {CODECS}"),
        *([] if LZO else [("lzo", f"not one of {CODECS}")]),
        ("lz4:0", "the level of lz4 is 1..65537"),
        ("lz4:65538", "the level of lz4 is 1..65537"),
        ("lz4:-1", "the level of lz4 is 1..65537"),
        ("lz4:", "the level of lz4 is 1..65537"),
        ("lz4:1x", "the level of lz4 is 1..65537"),
        ("zstd:0", "the level of zstd is -5..19 without 0"),
        ("zstd:-6", "the level of zstd is -5..19 without 0"),
        ("zstd:20", "the level of zstd is -5..19 without 0"),
        ("zstd:+3", "the level of zstd is -5..19 without 0"),
        ("zstd: 3", "the level of zstd is -5..19 without 0"),
        ("zstd:--3", "the level of zstd is -5..19 without 0"),
        ("zstd:4294967297", "the level of zstd is -5..19 without 0"),
        ("zstd:18446744073709551617", "the level of zstd is -5..19 without 0"),
        ("zstd:3:", "not NAME[:LEVEL][:dict=ID]"),
        ("zstd:3:4", "not NAME[:LEVEL][:dict=ID]"),
        ("zstd:dict=", "a dictionary's id is a whole number, see dictionaries/"),
        ("zstd:dict=x", "a dictionary's id is a whole number, see dictionaries/"),
        ("zstd:dict=7:3", "a dictionary's id is a whole number, see dictionaries/"),
        ("zstd:dict=4294967303", "a dictionary's id is a whole number, see dictionaries/"),
        ("none:1", "none takes no level"),
        ("none:dict=7", "none takes no dictionary"),
        ("lz4:dict=7", "lz4 takes no dictionary"),
        ("lz4:2:dict=7", "lz4 takes no dictionary"),
    ],
)
def test_bad_specs_are_refused_and_say_why(spec: str, why: str) -> None:
    assert zc_codec("host-asan", "spec", 4096, spec) == f"err EINVAL codec '{spec}': {why}\n"


def test_an_unknown_dictionary_is_not_there() -> None:
    said = "err ENOENT codec 'zstd:dict=8': no such dictionary, see dictionaries/\n"
    assert zc_codec("host-asan", "spec", 4096, "zstd:dict=8") == said


def test_a_build_with_lzo_has_it_and_says_so() -> None:
    assert zc_codec("host-lzo", "spec", 4096, "lzo") == "ok lzo\n"
    assert "lzo takes no level" in zc_codec("host-lzo", "spec", 4096, "lzo:1")
    assert "not one of lz4 zstd lzo none" in zc_codec("host-lzo", "spec", 4096, "zip")
    for config, license_ in (("host-lzo", True), ("host", LZO)):
        said = subprocess.run(
            [BUILD / config / "zcached", "version"], capture_output=True, text=True, check=True
        ).stdout
        assert ("(with LZO: GPL-2.0-or-later)" in said) == license_


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (b"", "err EINVAL"),
        (b"x", "ok 1 "),
        (b"\x37\xa4\x30\xec" + b"no dictionary of zstd" * 9, "err EINVAL"),
        (b"\x37\xa4\x30\xec", "ok 4 "),  # too short to be of the format: bytes like any others
        (bytes(MIB), "ok 1048576 "),
        (bytes(MIB + 1), "err EINVAL"),
    ],
)
def test_dictionaries_that_are_none_are_refused(content: bytes, answer: str, tmp_path: Path) -> None:
    path = tmp_path / "dictionary"
    path.write_bytes(content)
    assert zc_codec("host-asan", "dictionary", path).startswith(answer)


def test_a_damaged_dictionary_is_refused_or_harmless(tmp_path: Path, trained: Path, pages: Path) -> None:
    few = tmp_path / "pages"
    few.write_bytes(pages.read_bytes()[: 8 * 4096])
    path = tmp_path / "dictionary"
    refused = 0
    for at in range(4, 120, 5):
        content = bytearray(trained.read_bytes())
        content[at] ^= 0x55
        path.write_bytes(content)
        if zc_codec("host-asan", "dictionary", path).startswith("ok "):
            zc_codec("host-asan", "trip", few, 4096, path, "zstd:dict=7", "zstd:9:dict=7")
        else:
            refused += 1
    assert refused


def test_what_a_dictionary_costs_is_counted(trained: Path) -> None:
    _, size, _, memory = zc_codec("host", "dictionary", trained).split()
    assert int(size) < int(memory) < int(size) + 64 * 1024


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
def test_entropy_tells_what_is_compressed_from_what_is_not(page_size: int, tmp_path: Path) -> None:
    path = tmp_path / "pages"

    def entropy(content: bytes) -> list[int]:
        path.write_bytes(content)
        return [int(line) for line in zc_codec("host-asan", "entropy", path, page_size).splitlines()]

    noise = random.Random(3)
    assert entropy(bytes(page_size)) == [0]
    assert min(entropy(noise.randbytes(64 * page_size))) > 6400
    assert min(entropy(zlib.compress(text(8 * MIB))[: 32 * page_size])) > 6400
    assert max(entropy(text(32 * page_size))) < 5500
    in_base64 = entropy(base64.b64encode(noise.randbytes(32 * page_size)))
    assert min(in_base64) > 5500
    assert max(in_base64) < 6400
    assert max(entropy(b"".join(noise.randbytes(8) + bytes(24) for _ in range(page_size)))) < 3000


def test_the_hash_is_xxh3(tmp_path: Path) -> None:
    """Of nothing and of one byte and a longer text, as published for XXH3_64bits."""
    for content, expected in ((b"", "2d06800538d394c2"), (b"a", "e6c632b61e964e1f"), (b"abc", "78af5f94892f3950")):
        path = tmp_path / "bytes"
        path.write_bytes(content)
        assert zc_codec("host-asan", "hash", path) == f"{expected} {expected[8:]}\n"
