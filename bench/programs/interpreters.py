# SPDX-License-Identifier: Apache-2.0
"""Interpreters: Python and Node.js, each with a program that keeps records and serves requests for them."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .process import answering
from .prose import lines

NODE = Path(__file__).with_name("records.js")
PYTHON_REQUESTS, NODE_REQUESTS = 100_000, 600_000


@contextmanager
def python_at_work(groups: Sequence[Path]) -> Iterator[Callable[[], None]]:
    with answering([sys.executable, "-m", "bench.programs.records"], PYTHON_REQUESTS, groups=groups) as work:
        yield work


@contextmanager
def node_at_work(groups: Sequence[Path]) -> Iterator[Callable[[], None]]:
    with answering(["node", str(NODE)], NODE_REQUESTS, lines(), groups) as work:
        yield work
