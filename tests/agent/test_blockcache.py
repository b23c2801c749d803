# SPDX-License-Identifier: Apache-2.0
"""The block cache's commands where it is not on; tests/device has it at work."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.agent.conftest import Result, fails

Local = Callable[..., Result]


def test_it_is_not_on(local_daemon: Local) -> None:
    assert local_daemon("blockcache", "status").out == "the block cache is not on\n"
    facts = local_daemon("blockcache", "status", "--json").json
    assert (facts["on"], facts["device"], facts["hits"]) == (False, "none", 0)
    fails(local_daemon("blockcache", "off"), 5, "the block cache is not on", "zcache blockcache on")


@pytest.mark.parametrize("source", ["relative", "/with a space", ""])
def test_a_source_that_is_no_path(local_daemon: Local, source: str) -> None:
    fails(local_daemon("blockcache", "on", source), 2, repr(source), "an absolute path")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("pool=x", "a source is needed"),
        ("source=relative", "'source=relative' is not source=/PATH"),
        ("source=/x read_only=2", "'read_only=2' is not"),
        ("source=/x transport=", "'transport=' is not"),
        ("source=/" + "x" * 600, "is not source=/PATH"),
    ],
)
def test_a_request_that_is_none(local_daemon: Local, value: str, said: str) -> None:
    fails(local_daemon("set", "blockcache/on", value), 5, said)
    fails(local_daemon("set", "blockcache/off", "2"), 5, "'2' is not 1")


def test_a_pool_of_its_own_goes_when_it_cannot_be_on(local_daemon: Local) -> None:
    assert local_daemon("blockcache", "on", "/nowhere/at/all").code == 5
    assert local_daemon("pool", "list", "--json").json == []
