# SPDX-License-Identifier: Apache-2.0
"""zcache analyze on this machine: what it predicts against what the same pages really take, and what it says."""

from __future__ import annotations

import json
import os
import random
import re
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import zram
from bench.errors import BenchError
from tests.agent.conftest import Result, Zcache, fails
from tests.support import pause, require_or_skip
from zcache_agent.predict import KernelZsmalloc, SizeClass, Thresholds, Zbud, Zsmalloc, fill
from zcache_agent.transport.local import LocalTransport
from zcache_agent.workloads import WORKLOADS, available, running

PAGE = 4096
CODECS = ("lz4", "zstd:3")
PROGRAMS = ("cc1", "python3", "sqlite")


@pytest.fixture(scope="module", params=PROGRAMS)
def process(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real program that holds memory and stands still."""
    transport = LocalTransport(str(tmp_path_factory.mktemp("programs")), 120)
    workload = next(workload for workload in WORKLOADS if workload.name == request.param)
    assert workload in available(transport)
    with running(transport, workload, 3) as pid:
        pause(pid)
        yield pid
        os.kill(pid, 18)  # SIGCONT, to end with its standard input


def anonymous_pages(pid: int) -> bytes:
    """Those that are resident, by /proc/PID/pagemap."""
    pages = []
    with Path(f"/proc/{pid}/pagemap").open("rb", 0) as pagemap, Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            start, end = (int(word, 16) // PAGE for word in line.split()[0].split("-"))
            if line.split()[1][0] != "r" or re.search(r"\[v(var|dso|syscall)", line):
                continue
            pagemap.seek(start * 8)
            entries = struct.unpack(f"<{end - start}Q", pagemap.read((end - start) * 8))
            for page, entry in enumerate(entries, start):
                if entry >> 63 and not entry >> 61 & 1:
                    memory.seek(page * PAGE)
                    pages.append(memory.read(PAGE))
    return b"".join(pages)


def codecs_of(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {codec["spec"]: codec for codec in facts["total"]["codecs"]}


def test_pools_take_what_is_predicted(local_daemon: Callable[..., Result], process: int) -> None:
    """Of all pages, and of a sample of a thousand: in zbud and zsmalloc, by lz4 and zstd, metadata too."""
    whole = codecs_of(local_daemon("--json", "analyze", "--pid", process, "--pages", 200000, "--cpu", 100).json)
    some = codecs_of(local_daemon("--json", "analyze", "--pid", process, "--pages", 1000, "--cpu", 100).json)
    for allocator in ("zbud", "zsmalloc"):
        for codec in CODECS:
            pool = f"{allocator}-{codec.replace(':', '-')}"
            assert local_daemon("pool", "create", pool, "--allocator", allocator, "--codec", codec).code == 0
            stored = local_daemon("--json", "replay", "--pid", process, "--pool", pool, "--keep").json
            all_of_it, sampled = whole[codec][allocator], some[codec][allocator]
            assert all_of_it["used_bytes"] == pytest.approx(stored["used_bytes"], rel=0.05)
            assert all_of_it["error"] == 0
            assert all_of_it["refused"] == stored["refused"]
            within = 0.05 * stored["used_bytes"] + 4 * sampled["error"]
            assert sampled["used_bytes"] == pytest.approx(stored["used_bytes"], abs=within)
            assert 0 < sampled["error"] < 0.05 * stored["used_bytes"]


def test_zram_takes_what_is_predicted(local_daemon: Callable[..., Result], process: int, tmp_path: Path) -> None:
    """The kernel's: mem_used_total after the same pages were written to a device of its own. tests/device: by zstd."""
    dump = tmp_path / "dump"
    dump.write_bytes(anonymous_pages(process))
    facts = local_daemon("--json", "analyze", dump, "--pages", 200000, "--cpu", 100, "--codec", "lz4").json
    try:
        with zram.device("lz4", dump.stat().st_size) as node:
            subprocess.run(["dd", f"if={dump}", f"of={node}", "bs=1M", "oflag=direct"], check=True, capture_output=True)
            used = int((Path("/sys/block") / node.name / "mm_stat").read_text().split()[2])
    except BenchError as error:
        require_or_skip("zram", str(error))
    assert codecs_of(facts)["lz4"]["zram"]["used_bytes"] == pytest.approx(used, rel=0.05)


# ---- what it says ----


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """A hundred pages: 20 same-filled, 10 pairs of the same, 30 random ones, 30 of text."""
    chance = random.Random(1)
    pages = [bytes([n % 3]) * PAGE for n in range(20)]
    pages += [chance.randbytes(1500).ljust(PAGE, b"-") for _ in range(10)] * 2
    pages += [chance.randbytes(PAGE) for _ in range(30)]
    words = " ".join(f"word {chance.randrange(999)}" for _ in range(30000)).encode()
    pages += [words[at * PAGE :][:PAGE] for at in range(30)]
    path = tmp_path / "dump"
    path.write_bytes(b"".join(pages))
    return path


def test_what_is_in_a_dump(local_daemon: Callable[..., Result], dump: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    facts = local_daemon("--json", "analyze", dump, "--save", saved).json
    total = facts["total"]
    assert (facts["kind"], total["pages"], total["sampled"]) == ("dump", 100, 100)
    assert total["same_filled"] == {"value": 20, "error": 0}
    assert total["duplicates"] == {"value": 10, "error": 0}
    for codec in total["codecs"]:
        assert codec["incompressible"] == 30
        assert sum(count for _, count in codec["histogram"]) == 80
        assert codec["put_us"] > 0
        assert codec["get_us"] > 0
        assert codec["zbud"]["refused"]["compress_poor"] == 30
        assert codec["zram"]["refused"] == {}
        assert codec["zram"]["frames"] > codec["zsmalloc"]["frames"] + 25
    kept = json.loads(saved.read_text())
    assert kept["sample"]["sizes"].keys() == set(CODECS)
    assert {len(sizes) for sizes in kept["sample"]["sizes"].values()} == {100}
    assert kept["total"].keys() == total.keys()


def test_other_thresholds_refuse_other_pages(local_daemon: Callable[..., Result], dump: Path) -> None:
    tight = local_daemon("--json", "analyze", dump, "--zv-max-zsize", "1/4", "--codec", "lz4").json
    assert tight["thresholds"]["zv_max_zsize"] == 1024
    assert codecs_of(tight)["lz4"]["zsmalloc"]["refused"]["compress_poor"] > 50
    loose = local_daemon("--json", "analyze", dump, "--zv-max-zsize", "100%", "--codec", "none").json
    assert codecs_of(loose)["none"]["zsmalloc"]["refused"].keys() == {"mean_compress_poor"}
    fails(local_daemon("analyze", dump, "--zv-max-zsize", "9/8"), 2, "9/8: no threshold")
    fails(local_daemon("analyze", dump, "--zv-max-mean-zsize", "x"), 2, "x: no threshold")


def test_a_tar_and_a_sample_of_it(local_daemon: Callable[..., Result], dump: Path, tmp_path: Path) -> None:
    """Same-filled pages are 20 %: a sample of half of the pages says so within four standard errors."""
    tar = tmp_path / "files.tar.gz"
    with tarfile.open(tar, "w:gz") as archive:
        archive.add(dump, "dump")
    total = local_daemon("--json", "analyze", tar, "--pages", 50).json["total"]
    assert (total["pages"], total["sampled"]) == (100, 50)
    same = total["same_filled"]
    assert 0 < same["error"] < 6
    assert abs(same["value"] - 20) <= 4 * same["error"] + 1


def test_this_machine_for_people(local_daemon: Callable[..., Result]) -> None:
    shown = local_daemon("analyze", "--pages", 2000, "--top", 1, "--seconds", 10)
    assert shown.code == 0, shown.err
    assert re.match(r"\d+ of \d+ resident anonymous pages of \d+ processes, ", shown.out)
    assert re.search(r"^same-filled +\d+\.\d % ±\d+\.\d ", shown.out, re.M)
    assert re.search(r"^codec +ratio +put µs +get µs +over 7/8 +refused +zbud +zsmalloc +zram$", shown.out, re.M)
    assert re.search(r"^zstd:3 +\d", shown.out, re.M)
    assert re.search(r"^and \d+ more: --top \d+ shows them", shown.out, re.M)


@contextmanager
def app(*names: str) -> Iterator[None]:
    """Processes by the names that they give themselves, as Android's do."""
    script = "held = [str(n) * 50 for n in range(9000)]; print(flush=True); input()"
    with ExitStack() as running_children:
        children = [
            running_children.enter_context(
                subprocess.Popen(
                    [name, "-c", script],
                    executable=sys.executable,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for name in names
        ]
        for child in children:
            assert child.stdout
            child.stdout.readline()
        yield
        for child in children:
            child.communicate("\n")


def test_processes_of_an_app(local_daemon: Callable[..., Result]) -> None:
    """Those with its name, or its name and a colon."""
    with app("com.example.app", "com.example.app:remote", "com.example.apple"):
        facts = local_daemon("--json", "analyze", "--app", "com.example.app", "--codec", "lz4").json
    assert sorted(process["name"] for process in facts["processes"]) == ["com.example.app", "com.example.app:remote"]
    for process in facts["processes"]:
        assert process["resident"] == 1
        assert process["sampled"] > 500
        (codec,) = process["codecs"]
        assert codec["ratio"] > 1.5
        assert 0 < codec["zsmalloc"]["used_bytes"] < process["anonymous_bytes"]
    used = codecs_of(facts)["lz4"]["zsmalloc"]["used_bytes"]
    assert sum(process["codecs"][0]["zsmalloc"]["used_bytes"] for process in facts["processes"]) < used


RUN_AS = """#!/bin/sh
app=$1; shift
[ "$app" = com.example ] || { echo "run-as: package not debuggable: $app" >&2; exit 1; }
cd "$APP_HOME" && exec "$@"
"""
"""As Android's: in the app's directory."""
PROGRAM = """#!/bin/sh
[ "$PWD" = "$APP_HOME" ] && exec "$REAL" "$@"
echo 'zcached: EACCES: 1 of 1 processes may not be read' >&2
exit 3
"""
"""A zcached that may read what the app's user may, and only there."""


@pytest.mark.usefixtures("local_daemon")
def test_an_app_without_root(zcache: Zcache, tmp_path: Path) -> None:
    """run-as runs a copy of zcached, which is gone afterwards; what it says of an app that it refuses is said."""
    home, tools = tmp_path / "home", tmp_path / "tools"
    home.mkdir()
    tools.mkdir()
    real, program = tools / "zcached", Path(zcache.environment["ZCACHE_DIR"]) / "zcached"
    program.rename(real)
    for path, text in ((program, PROGRAM), (tools / "run-as", RUN_AS)):
        path.write_text(text)
        path.chmod(0o755)
    there = {"PATH": f"{tools}:{os.environ['PATH']}", "APP_HOME": str(home), "REAL": str(real)}
    try:
        with app("com.example"):
            done = zcache("-s", "local", "--json", "analyze", "--app", "com.example", "--codec", "lz4", **there)
        refused = zcache("-s", "local", "-q", "analyze", "--app", "com.other", **there)
        without = zcache("-s", "local", "-q", "analyze", "--app", "com.example", APP_HOME="/nowhere")
    finally:
        real.rename(program)
    assert [process["name"] for process in done.json["processes"]] == ["com.example"]
    assert list(home.iterdir()) == []
    fails(refused, 5, "com.other", "run-as: package not debuggable: com.other")
    fails(without, 5, "com.example", "this device has no run-as")


def test_what_is_wrong_is_said(local_daemon: Callable[..., Result], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    fails(local_daemon("analyze", empty), 2, "no whole page in it")
    fails(local_daemon("analyze", tmp_path / "none"), 2, "no such file")
    fails(local_daemon("analyze", empty, "--pid", 1), 2, "--pid N, --app NAME or a SOURCE")
    fails(local_daemon("analyze", "--files", "--swapped"), 2, "--files, --swapped or a SOURCE")
    fails(local_daemon("analyze", "-q", "--pid", 2**31 - 1), 5, "process 2147483647", "ps -A")
    fails(local_daemon("analyze", "-q", "--app", "com.example.none"), 5, "no process of the app com.example.none")
    fails(local_daemon("analyze", "--seconds", 0), 2, "--seconds")
    fails(local_daemon("analyze", "--cpu", 101), 2, "--cpu")
    fails(local_daemon("analyze", "-q", "--codec", "zip"), 2, "codec 'zip': not one of")
    fails(local_daemon("analyze", "-q", "--pid", os.getpid(), "--save", tmp_path / "no" / "x"), 2, "--save")


def test_it_needs_the_program_that_up_brings(zcache: Zcache) -> None:
    fails(zcache("-s", "local", "analyze"), 4, "zcache up")


# ---- the rules of the allocators ----

CLASSES = [SizeClass(1360, 1, 3), SizeClass(2040, 1, 2), SizeClass(PAGE, 1, 1)]


def test_zbud_pairs_what_fits_best() -> None:
    zbud = Zbud(PAGE)
    for size in (2500, 1000, 1500, 3000, 4090):
        zbud.add(size)
    assert zbud.frames == 4, "1500 goes to 2500, 1000 has no partner by then; 3000 goes to 1000"


def test_zsmalloc_takes_frames_as_they_are_needed() -> None:
    zsmalloc = Zsmalloc(PAGE, CLASSES)
    for size in [1000] * 7 + [2000] + [4090]:
        zsmalloc.add(size)
    assert zsmalloc.frames == 3 + 1 + 1


def test_the_kernels_classes() -> None:
    """Of 4 KiB pages and chains of 8: over 3632 bytes a zpage is huge, 8 of each slot are a handle."""
    kernel = KernelZsmalloc(PAGE)
    assert kernel.add(24) == 32
    assert kernel.add(25) == 48
    huge = [size for size in range(3000, PAGE) if kernel.add(size) == PAGE]
    assert huge == list(range(huge[0], PAGE))
    assert 3500 < huge[0] < 3700


def test_thresholds_are_those_of_a_pool() -> None:
    filled = fill(Zbud(PAGE), [0, 3000, 3000, 100, 3000, 3600], Thresholds.default(PAGE), PAGE)
    assert filled.refused == {"mean_compress_poor": 1, "compress_poor": 1}
    assert (filled.pages, filled.stored, filled.same_filled) == (6, 3, 1)
