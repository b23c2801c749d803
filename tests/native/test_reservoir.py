# SPDX-License-Identifier: Apache-2.0
"""The sampler of pages: as many as there is room for, each once, each as likely as any other."""

import re
import subprocess

import pytest

from tests.native.driver import CONFIGS, program


def samples(config: str, most: int, pages: int, count: int) -> list[tuple[int, int]]:
    """Of each page: in how many samples it was, and how often among the first quarter of one."""
    command = [str(word) for word in (program(config, "zc_reservoir"), most, pages, count)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    return [(int(into), int(early)) for into, early in re.findall(r"in=(\d+) early=(\d+)", said)]


@pytest.mark.parametrize(("most", "pages"), [(1, 1), (1, 500), (100, 99), (100, 100), (100, 101), (64, 5000)])
@pytest.mark.parametrize("config", CONFIGS)
def test_bounds(config: str, most: int, pages: int) -> None:
    """The program checks each sample; together they have as many pages as they may."""
    counts = samples(config, most, pages, 20)
    assert sum(into for into, _ in counts) == 20 * min(most, pages)


def test_each_page_is_as_likely_as_any_other() -> None:
    """Chi-squared of a thousand pages, in the sample and in its first quarter; 6 standard deviations are allowed."""
    count, most, pages = 4000, 200, 1000
    counts = samples("host", most, pages, count)
    for which, part in ((0, most / pages), (1, most / 4 / pages)):
        expected = count * part
        squares = sum((page[which] - expected) ** 2 for page in counts) / (expected * (1 - part))
        assert abs(squares - pages) < 6 * (2 * pages) ** 0.5
