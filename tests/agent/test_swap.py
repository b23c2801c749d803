# SPDX-License-Identifier: Apache-2.0
"""zcache swap without a swap device: what it says and refuses. Nothing here could make one; tests/device does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.agent.conftest import Result, Zcache, fails

Local = Callable[..., Result]


def test_it_is_not_on(local_daemon: Local) -> None:
    assert local_daemon("swap", "status").out == "swap is not on\n"
    facts = local_daemon("--json", "swap", "status").json
    assert (facts["on"], facts["device"], facts["orphan"], facts["lost"]) == (False, "none", "none", 0)
    fails(local_daemon("swap", "off"), 5, "swap is not on", "zcache swap on")
    fails(local_daemon("set", "swap/off", 1), 5, "swap is not on")
    fails(local_daemon("set", "swap/off", 2), 5, "'2' is not 1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--size", "0"), "size=512M"),
        (("--size", "12Q"), "size=12Q"),
        (("--size", "99999999999G"), "size=99999999999G"),
        (("--pool", "x" * 200), "1 to 63 bytes"),
        (("--size", "1000"), ""),  # a size, but no multiple of a page; or, before that, no root or no ublk
    ],
)
def test_what_makes_no_sense(local_daemon: Local, words: tuple[str, str], said: str) -> None:
    """And no pool is left of it."""
    fails(local_daemon("swap", "on", *words), 5, said)
    assert local_daemon("--json", "pool", "list").json == []


@pytest.mark.parametrize("words", [("--priority", "32768"), ("--transport", "scsi"), ("--reset",)])
def test_misuse(zcache: Zcache, words: tuple[str, ...]) -> None:
    fails(zcache("-s", "local", "swap", "on", *words), 2, words[0])


def test_a_pool_that_is_there_keeps_its_backing_store(local_daemon: Local) -> None:
    assert local_daemon("pool", "create", "swap").code == 0
    fails(local_daemon("swap", "on", "--backing", "/dev/null"), 2, "pool swap is there already", "zcache pool backing")
