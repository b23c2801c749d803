# SPDX-License-Identifier: Apache-2.0
"""zcache bench on this machine."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agent.conftest import Result, Zcache, fails
from tests.support import MEASURED


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    path = tmp_path / "pages"
    noise = random.Random(1)
    path.write_bytes(
        b"".join([noise.randbytes(512) * 8 for _ in range(30)] + [noise.randbytes(4096) for _ in range(10)])
    )
    return path


def test_the_device_itself(local_daemon: Callable[..., Result]) -> None:
    facts = local_daemon("bench", "--pages", 300, "--seconds", 3, "--json").json
    assert facts["source"] == "device"
    assert [codec["spec"] for codec in facts["codecs"]] == MEASURED
    ratios = {codec["spec"]: codec["ratio"] for codec in facts["codecs"]}
    assert ratios["zstd:9"] > ratios["lz4"] > ratios["none"] == 1


def test_a_file_for_people(local_daemon: Callable[..., Result], pages: Path) -> None:
    shown = local_daemon("bench", "--file", pages, "--codec", "lz4", "--codec", "zstd:3", "--seconds", 2)
    assert shown.code == 0, shown.err
    head, columns, *rows = shown.out.splitlines()
    assert head == "40 pages of 4096 bytes, from file; 0 same-filled ones left out"
    assert columns.split() == ["codec", "ratio", "put", "µs", "get", "µs", "refused", "pages"]
    assert [row.split()[0] for row in rows] == ["lz4", "zstd:3"]
    assert all(row.split()[-3:] == ["25.0", "%", "40"] for row in rows)


def test_a_process_and_other_pages_than_the_daemons(local_daemon: Callable[..., Result]) -> None:
    facts = local_daemon("bench", "--pid", os.getpid(), "--page-size", 16384, "--codec", "lz4", "--json").json
    assert (facts["source"], facts["page_size"]) == ("process", 16384)
    assert facts["codecs"][0]["ratio"] > 1


def test_pools_are_left_alone(local_daemon: Callable[..., Result], pages: Path) -> None:
    assert local_daemon("pool", "create", "bench").code == 0
    assert local_daemon("bench", "--file", pages, "--codec", "lz4").code == 0
    stats = local_daemon("stats", "pools/bench/stats/*", "--json").json
    assert stats["pools/bench/stats/puts"] == 0


def test_what_is_wrong_is_said(local_daemon: Callable[..., Result], tmp_path: Path) -> None:
    fails(local_daemon("bench", "-q", "--codec", "zip"), 2, "codec 'zip': not one of")
    fails(local_daemon("bench", "-q", "--codec", "zstd:0"), 2, "-5..19 without 0")
    fails(local_daemon("bench", "-q", "--page-size", 5000), 2, "--page-size 5000")
    fails(local_daemon("bench", "-q", "--pid", 1, "--file", "x"), 2, "--pid N or --file FILE")
    fails(local_daemon("bench", "-q", "--pid", 2**31 - 1), 5, "ps -A")
    fails(local_daemon("bench", "-q", "--file", tmp_path / "none"), 1, str(tmp_path / "none"))
    assert local_daemon("bench", "--json", "--codec", "zip").error["name"] == "EINVAL"


def test_it_needs_the_program_that_up_brings(zcache: Zcache) -> None:
    fails(zcache("-s", "local", "bench"), 4, "zcache up")
