# SPDX-License-Identifier: Apache-2.0
"""The compressed heap: what its header says, threads against a model, signals. Each way to answer faults goes with
each way to move pages."""

import os
import re
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.native.driver import CONFIGS, program
from tests.support import BUILD, ROOT

FAULTS = ["thread", "sigbus", "caller"]
WITH = ["move", "remap", "bare"]
OPS = {"host": 3000, "host-asan": 1500, "host-tsan": 500}
BUDGET = 1 << 20
"""Bytes; the threads use eight times as much."""


def heap(config: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [str(program(config, "zc_heap")), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)


def counts(config: str, *words: object) -> dict[str, int]:
    done = heap(config, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    return counts_of(done.stdout)


def counts_of(output: str) -> dict[str, int]:
    parts = output.splitlines()[-1].split(", ")
    return {name: int(count) for count, name in (part.split() for part in parts)}


@pytest.mark.parametrize("with_", WITH)
@pytest.mark.parametrize("faults", FAULTS)
@pytest.mark.parametrize("config", CONFIGS)
def test_the_header_keeps_its_word(config: str, faults: str, with_: str) -> None:
    """System calls, fork, discarding, unmapping, the end of threads, ageing, budgets."""
    got = counts(config, "rules", faults, with_)
    assert got["refused"] == got["delegated"] == 0


@pytest.mark.parametrize(("codec", "seed"), [("lz4", 1), ("zstd", 2)])
@pytest.mark.parametrize("with_", ["move", "remap"])
@pytest.mark.parametrize("faults", ["thread", "sigbus"])
@pytest.mark.parametrize("config", CONFIGS)
def test_threads_find_what_they_wrote(config: str, faults: str, with_: str, codec: str, seed: int) -> None:
    """While pages are evicted, fetched, pinned, made cold, and the budget changes."""
    got = counts(config, "stress", faults, with_, codec, 3, OPS[config], seed, BUDGET)
    assert all(got[what] > 0 for what in ("new", "stored", "evicted", "refused")), got


@pytest.mark.parametrize("faults", FAULTS)
@pytest.mark.parametrize("config", CONFIGS)
def test_what_the_pool_does_not_take_stays(config: str, faults: str) -> None:
    """And who touches memory is held up, but not for ever."""
    assert counts(config, "refused", faults, "move")["refused"] > 0


@pytest.mark.parametrize("with_", ["move", "remap"])
@pytest.mark.parametrize("config", CONFIGS)
def test_what_came_back_leaves_the_pool_when_room_is_needed(config: str, with_: str) -> None:
    assert counts(config, "full", "sigbus", with_)["evicted"] > 0


@pytest.mark.parametrize("with_", WITH)
@pytest.mark.parametrize("faults", FAULTS)
def test_a_lost_page_is_a_signal(faults: str, with_: str) -> None:
    """SIGBUS, and where a thread answers and the kernel cannot do that, SIGSEGV."""
    done = heap("host", "lost", faults, with_)
    assert done.stdout == "touching it\n", done.stderr[-3000:]
    is_segv = faults == "thread" and with_ == "bare"
    assert done.returncode == -(signal.SIGSEGV if is_segv else signal.SIGBUS)


@pytest.mark.parametrize("with_", ["move", "remap"])
@pytest.mark.parametrize(
    ("config", "faults"),
    [(config, faults) for config in CONFIGS for faults in FAULTS if config != "host-tsan" or faults == "thread"],
)
def test_signal_handlers_may_touch_it(config: str, faults: str, with_: str) -> None:
    """Also while their thread is in a call of the heap's. TSan calls them late, with SIGBUS blocked: not by SIGBUS."""
    assert counts(config, "signals", faults, with_)["stored"] > 0


@pytest.mark.parametrize("with_", ["move", "remap"])
@pytest.mark.parametrize("faults", ["sigbus", "caller"])
@pytest.mark.parametrize("config", CONFIGS)
def test_a_handler_takes_no_memory_and_reads_nothing(config: str, faults: str, with_: str, tmp_path: Path) -> None:
    """zstd's states, cold pages, written pages: a thread of the heap's gets them."""
    assert counts(config, "delegated", faults, with_, tmp_path / "store")["delegated"] == 18


@pytest.mark.parametrize("config", ["host"])
def test_sigbus_that_is_no_heaps_is_handed_on(config: str) -> None:
    """To a handler, with its mask and flags; to the default; and after the last heap it is as before."""
    done = heap(config, "handed-on")
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("error", "way_out"), [("PERM", "vm.unprivileged_userfaultfd=1"), ("NOSYS", "CONFIG_USERFAULTFD")]
)
@pytest.mark.parametrize("config", CONFIGS)
def test_without_userfaultfd_it_says_why_and_blocks_can_be_kept(config: str, error: str, way_out: str) -> None:
    done = heap(config, "forbidden", error)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = done.stdout.splitlines()
    assert "userfaultfd" in line
    assert way_out in line
    assert "zc_put() and zc_get()" in line


def example(name: str, tmp_path: Path, *words: object) -> list[str]:
    """What examples/NAME.c prints, built as docs/heap.md says, and with what finds its mistakes."""
    built, library = tmp_path / name, BUILD / "host"
    compile_ = ["gcc", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
    command = next(
        line.split()[1:] for line in shown() if line.startswith("cc ") and f"examples/{name}.c" in line.split()
    )
    subprocess.run([*compile_, *command[:-1], built], cwd=ROOT, check=True, timeout=60)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library)}
    command = [str(built), *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert set(map(without_numbers, lines)) <= set(map(without_numbers, shown()))
    return lines


def shown() -> list[str]:
    return (ROOT / "docs/heap.md").read_text().splitlines()


def without_numbers(line: str) -> str:
    return re.sub(r"\d+", "0", line)


def numbers(line: str) -> list[int]:
    return list(map(int, re.findall(r"\d+", line)))


def test_the_example_runs_against_the_library(tmp_path: Path) -> None:
    """And shows what docs/heap.md says it does."""
    first, last = example("heap", tmp_path)
    assert first == "counter 999999: 1"
    assert first in shown()
    mapped, resident, stored, pool = numbers(last)
    assert resident <= 9 * 1024
    assert pool < stored / 3 < stored <= mapped - resident + 1024


def test_sqlite_has_its_page_cache_in_a_heap(tmp_path: Path) -> None:
    """A database in memory that is larger than the budget; and a file, its pages pinned for system calls."""
    file = tmp_path / "lines.db"
    lines = example("sqlite", tmp_path, file)
    for name in ("memory", "file"):
        found, check, sizes, pages, *lines = lines
        assert found in shown()
        assert check == f"{name}: integrity_check: ok"
        database, resident, stored, pool = numbers(sizes)
        assert resident <= 9 * 1024 < database - 8 * 1024
        assert pool < stored
        evicted, came_back, _ = numbers(pages)
        assert min(evicted, came_back) > 1000
    assert lines == []
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM line").fetchone() == (135_000,)
