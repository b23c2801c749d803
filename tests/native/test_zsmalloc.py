# SPDX-License-Identifier: Apache-2.0
"""What is zsmalloc's own: its classes, frames taken one by one, and how closely zpages lie."""

import subprocess
from itertools import pairwise

import pytest

from tests.native.driver import CONFIGS, program
from tests.native.test_alloc import PAGE_SIZES

MIB = 1024 * 1024
HEAD = 12
"""Bytes of a zpage's head, in its slot."""


def run(config: str, *words: object) -> list[str]:
    command = [str(program(config, "zc_zsmalloc")), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def compact(config: str, page_size: int, count: int, freed: int, refused: int) -> list[tuple[float, bool]]:
    """Full, after freeing, and after compaction: the part of the frames' bytes that is zpages, and whether sparse."""
    steps = []
    for line in run(config, "compact", page_size, count, freed, refused):
        numbers = {name: int(value) for name, value in (pair.split("=") for pair in line.split())}
        density = numbers["bytes"] / (numbers["frames"] * page_size)
        steps.append((density, bool(numbers["sparse"])))
    return steps


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_classes_waste_little(page_size: int) -> None:
    classes = [tuple(map(int, line.split())) for line in run("host", "classes", page_size)]
    *shared, huge = classes
    assert huge == (page_size, 1, 1)
    step = max(page_size // 512, 8)
    assert 32 <= shared[0][0] <= 32 + 4 * step
    assert shared[-1][1:] == (8, 9)  # the closest to one frame a zpage that 8 frames allow
    for size, frames, slots in shared:
        assert size % 8 == 0
        assert 1 <= frames <= 8
        assert slots > frames
        assert 0 <= frames * page_size - size * slots < 8 * slots
    for (smaller, *shape), (larger, *other) in pairwise(shared):
        assert shape != other
        assert 4 * step <= larger - smaller <= max(5 * step + 8, smaller // 12)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("config", CONFIGS[:2])
def test_zspages_of_every_class(config: str, page_size: int) -> None:
    assert run(config, "zspages", page_size) == []


def test_check_names_what_is_broken() -> None:
    (line,) = run("host", "broken", 4096)
    assert line == "zsmalloc, slots of 1072 bytes, zspage 1: zpages are not as many as counted"


@pytest.mark.parametrize(("count", "least"), [(1000, 0.8), (10000, 0.94), (100000, 0.96)])
def test_zpages_lie_closely(count: int, least: float) -> None:
    (full, is_sparse), *_ = compact("host", 4096, count, 0, 0)
    assert full >= least
    assert not is_sparse


@pytest.mark.parametrize(
    ("page_size", "count", "least"),
    [(4096, 60000, 0.95), (16384, 15000, 0.94), (65536, 4000, 0.91), (4096, 2000, 0.86)],
)
def test_compaction_leaves_little_free(page_size: int, count: int, least: float) -> None:
    """A fifth of the zpages is left, at first of more than 64 MiB, last of 2 MiB."""
    _, (freed, was_sparse), (compacted, is_sparse) = compact("host", page_size, count, 80, 0)
    assert freed < 0.5
    assert was_sparse
    assert compacted >= least
    assert not is_sparse


@pytest.mark.parametrize("refused", [30, 100])
def test_compaction_ends_whatever_is_refused(refused: int) -> None:
    _, (freed, was_sparse), (compacted, _) = compact("host-asan", 4096, 8000, 80, refused)
    assert was_sparse
    assert compacted >= freed
