# SPDX-License-Identifier: Apache-2.0
"""zcached bench: codecs on real pages, and what it makes of wrong ones."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.native.driver import program
from tests.support import CODECS, MEASURED

CONFIGS = ["host", "host-asan", "host-tsan"]

RESERVES = """
import ctypes, mmap, sys
size, some = 8 << 40, 64 << 30
map_noreserve = 0x4000
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
at = libc.mmap(None, size, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | map_noreserve, -1, 0)
for i in range(size // some):
    ctypes.memset(at + i * some, i, 4096)
print("ready", flush=True)
sys.stdin.read()
"""


def kernel() -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))


def bench(*words: object, config: str = "host") -> subprocess.CompletedProcess[str]:
    command = [str(word) for word in (program(config, "zcached"), "bench", *words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def measured(*words: object, config: str = "host") -> dict[str, Any]:
    done = bench(*words, config=config)
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def by_spec(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {codec["spec"]: codec for codec in facts["codecs"]}


def test_what_it_measures_on_by_itself() -> None:
    facts = measured("--pages", 400, "--seconds", 3)
    assert facts["source"] == "device"
    assert facts["processes"] + facts["files"] > 0
    assert 0 < facts["pages"] <= 400
    assert facts["page_size"] == os.sysconf("SC_PAGESIZE")
    codecs = by_spec(facts)
    assert list(codecs) == MEASURED
    for codec in codecs.values():
        assert 0 < codec["pages"] <= facts["pages"]
        assert codec["put_us"] > 0
        assert codec["get_us"] > 0
        assert codec["refused"] <= codec["pages"]
    assert codecs["none"]["ratio"] == 1
    assert codecs["none"]["refused"] == codecs["none"]["pages"]
    assert codecs["lz4"]["ratio"] > 1


def test_an_allocator_with_a_codec(tmp_path: Path) -> None:
    """Both put the same pages; an allocator that is not there is named."""
    path = tmp_path / "pages"
    path.write_bytes(b"".join(f"{n:06}".encode() * 683 for n in range(500)))
    words = ("--file", path, "--page-size", 4096, "--seconds", 1)
    codecs = by_spec(measured(*words, "--codec", "lz4", "--codec", "zbud/lz4", "--codec", "zsmalloc/lz4"))
    assert list(codecs) == ["lz4", "zbud/lz4", "zsmalloc/lz4"]
    assert len({codec["ratio"] for codec in codecs.values()}) == 1
    done = bench(*words, "--codec", "slab/lz4")
    assert (done.returncode, done.stderr) == (2, "zcached: EINVAL: codec slab/lz4\n")


@pytest.mark.parametrize("page_size", [4096, 65536])
@pytest.mark.parametrize("config", CONFIGS)
def test_a_file(config: str, page_size: int, tmp_path: Path) -> None:
    """Same-filled pages are left out; random ones take a page and are counted as refused."""
    path = tmp_path / "pages"
    words = " ".join(f"word{n % 97} {n}" for n in range(100_000)).encode()
    noise = random.Random(1)
    content = [words[at * page_size :][:page_size] for at in range(4)] + [bytes(page_size)] * 3
    content += [noise.randbytes(page_size) for _ in range(5)]
    path.write_bytes(b"".join(content) + b"tail")
    facts = measured(
        "--file",
        path,
        "--page-size",
        page_size,
        "--codec",
        "zstd:3",
        "--codec",
        "lz4",
        "--codec",
        "none",
        config=config,
    )
    assert (facts["source"], facts["files"], facts["processes"]) == ("file", 1, 0)
    assert (facts["page_size"], facts["pages"], facts["same_filled"]) == (page_size, 9, 3)
    codecs = by_spec(facts)
    assert list(codecs) == ["zstd:3", "lz4", "none"]
    assert [codecs[spec]["refused"] for spec in codecs] == [5, 5, 9]
    assert 9 / 5.0 > codecs["zstd:3"]["ratio"] > codecs["lz4"]["ratio"] > 9 / 8


def test_of_many_pages_some_are_taken_from_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    noise = random.Random(1)
    path.write_bytes(
        b"".join([noise.randbytes(64) * 64 for _ in range(500)] + [noise.randbytes(4096) for _ in range(500)])
    )
    (codec,) = measured("--file", path, "--pages", 100, "--page-size", 4096, "--codec", "lz4")["codecs"]
    assert (codec["pages"], codec["refused"]) == (100, 50)


@pytest.mark.parametrize("config", ["host", "host-asan"])
def test_a_process(config: str) -> None:
    script = "import sys; held = [str(n) * 99 for n in range(20000)]; print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        facts = measured("--pid", child.pid, "--pages", 300, "--codec", "lz4", config=config)
        child.communicate()
    assert (facts["source"], facts["processes"], facts["files"]) == ("process", 1, 0)
    assert 200 < facts["pages"] <= 300
    assert facts["codecs"][0]["ratio"] > 1.5


@pytest.mark.skipif(kernel() < (6, 7), reason="PAGEMAP_SCAN steps over what is only reserved, from Linux 6.7 on")
def test_a_process_that_has_reserved_terabytes() -> None:
    """As programs under sanitizers do. To read of each page whether it is there takes minutes."""
    with subprocess.Popen(
        [sys.executable, "-c", RESERVES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        facts = measured("--pid", child.pid, "--pages", 100000, "--codec", "lz4")
        child.communicate()
    assert facts["same_filled"] >= 100


def test_time_is_kept_to_and_it_says_over_how_much_it_measured(tmp_path: Path) -> None:
    """Level 19 takes a millisecond a page: twenty thousand do not go into a second."""
    path = tmp_path / "pages"
    path.write_bytes(random.Random(1).randbytes(1 << 20) * 80)
    done = bench("--file", path, "--pages", 20000, "--page-size", 4096, "--seconds", 1, "--codec", "zstd:19")
    assert done.returncode == 0
    facts = json.loads(done.stdout)
    assert facts["pages"] == 20000
    assert 0 < facts["codecs"][0]["pages"] < 20000
    assert facts["codecs"][0]["rounds"] >= 2, "the first takes memory for the pool"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--codec", "zip"], 2, f"codec 'zip': not one of {CODECS}"),
        (["--codec", "lz4", "--codec", "zstd:0"], 2, "the level of zstd is -5..19 without 0"),
        (["--codec", "zstd:dict=1"], 2, "no such dictionary"),
        (["--page-size", "5000"], 2, "--page-size 5000: not the OS page size, "),
        (["--pages", "0"], 2, "--pages: not 1 to 262144: 0"),
        (["--seconds", "x"], 2, "--seconds: not 1 to 3600: x"),
        (["--pid", "1", "--file", "x"], 2, "--pid or --file, not both"),
        (["extra"], 2, "too many arguments: extra"),
        (["--codec", "none"] * 33, 2, "--codec: too many"),
        (["--file", "/nonexistent"], 1, "/nonexistent"),
        (["--file", "/dev/null"], 1, "/dev/null: it has no page to measure on"),
        (["--pid", "2147483647"], 3, "process 2147483647"),
    ],
)
def test_what_is_wrong_is_said(words: list[str], code: int, said: str) -> None:
    done = bench(*words)
    assert done.returncode == code
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
