# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks make of their numbers; facts.json is a short run's, of two corpora."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.measure import compared, medians, ratio
from bench.picture import draw
from bench.report import render
from bench.report.aims import Aim, aims, aims_table
from bench.sections import stolen, times_of

Facts = dict[str, Any]


@pytest.fixture
def facts() -> Facts:
    loaded: Facts = json.loads(Path(__file__).with_name("facts.json").read_text())
    return loaded


def test_ratios_are_made_round_by_round() -> None:
    facts = {"zram_put_ns": [1.0, 10.0, 100.0], "zbud_put_ns": [2.0, 10.0, 50.0], "pages": 7}
    assert compared(facts, "zram") == {"zram_put_ns": 10.0, "zbud_put_ns": 10.0, "zbud_put_ratio": 1.0, "pages": 7}
    assert ratio([3.0, 1.0, 1.0], [1.0, 1.0, 2.0]) == 1.0


def test_a_series_is_compared_with_the_same_operation_only() -> None:
    facts = {"zram_put_ns": [1.0], "zram_put_cpu_ns": [4.0], "zbud_put_ns": [3.0], "zbud_put_cpu_ns": [2.0]}
    assert {name: value for name, value in compared(facts, "zram").items() if name.endswith("ratio")} == {
        "zbud_put_ratio": 3.0,
        "zbud_put_cpu_ratio": 0.5,
    }


def test_medians_leave_single_numbers_alone() -> None:
    assert medians({"a": [3.0, 1.0, 2.0], "b": 5}) == {"a": 2.0, "b": 5}


def test_what_the_host_took_is_of_the_time_that_was_wanted() -> None:
    before, after = times_of("cpu  10 0 20 500 7 1 2 4 9 0\ncpu0 1"), times_of("cpu  50 5 60 900 8 3 5 14 10 0\ncpu0 1")
    assert stolen(before, after) == 10.0
    assert stolen(before, before) == 0.0


def test_every_section_has_its_rows(facts: Facts) -> None:
    text = render(facts)
    assert "x86_64. Its host gave others 0.2 % of" in text
    sections = dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
    assert set(sections) == {
        "Aims",
        "Beside the kernel's zram",
        "Two threads",
        "Compaction",
        "Reclaim",
        "Writeback",
        "How many frames",
        "The entropy gate",
        "In process, against the codec alone",
        "Through the data socket, against the codec alone",
        "Scale",
        "The cold tier",
        "The compressed heap",
        "used_bytes against the OS",
    }
    for name, section in sections.items():
        assert len([line for line in section.splitlines() if line.startswith("|")]) > 2, name
    assert "| chromium | zram |" in sections["Beside the kernel's zram"]


def test_rows_of_a_table_are_as_wide_as_its_head(facts: Facts) -> None:
    width = 0
    for line in render(facts).splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        width = width or line.count("|")
        assert line.count("|") == width, line


def test_memory_used_is_held_against_zrams(facts: Facts) -> None:
    memory = facts["zram"]["lz4"]["chromium"]["memory"]
    memory["zram"]["used_bytes"], memory["zsmalloc"]["used_bytes"] = 1000, 1010
    used = next(aim for aim in aims(facts) if aim.what.startswith("memory used"))
    assert used.values["chromium"] == pytest.approx(1.01)
    assert not used.meets(used.aim)


def test_a_codec_we_lack_is_shown_alone_with_the_reason(facts: Facts) -> None:
    text = render(facts)
    assert "this build has no `lzo`" in text
    assert not any("lzo-rle" in aim.what for aim in aims(facts))


def test_the_worst_corpus_decides() -> None:
    most = Aim("put", 1, {"a": 0.8, "b": 1.1}, 0.9)
    assert (most.worst, most.meets(1), most.meets(1.1)) == ("b", False, True)
    least = Aim("threads", 1.8, {"a": 1.9, "b": 1.7}, at_least=True)
    assert (least.worst, least.meets(1.8), least.meets(1.7)) == ("b", False, True)
    verdicts = [line.split("|")[-2].strip() for line in aims_table([most, least]).splitlines() if line.startswith("| ")]
    assert verdicts[2:] == ["**missed**", "**missed**"]
    assert "goal met" in aims_table([Aim("get", 1, {"a": 0.7}, 0.8)])
    beside = Aim("threads", 1.8, {"a": 1.9, "b": 1.7}, at_least=True, alone={"a": 1.6, "b": 1.75})
    assert "| 1.7; LZ4 alone 1.75 |" in aims_table([beside])


def test_the_picture_is_one(facts: Facts, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    draw(facts["sizes"], path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert int.from_bytes(content[16:20], "big") > 1000
    draw(facts["sizes"], path)
    assert path.read_bytes() == content, "the same numbers make the same file"


def test_writeback_is_shown_for_each_disk(facts: Facts) -> None:
    text = render(facts)
    assert all(f"| {disk} | chromium |" in text for disk in ("as it is", "150 MB/s", "500 MB/s"))
