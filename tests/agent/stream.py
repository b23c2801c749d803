# SPDX-License-Identifier: Apache-2.0
"""A stream of puts, gets and flushes that is the same each time, of pages that compress as those of programs do."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from zcache_agent.pages import PagesClient, Run

PAGE = 4096
BATCH = 16
OBJECTS = 8


def make_pages(count: int, seed: int) -> list[bytes]:
    """Some same-filled, some random, most a mixture of both and of words: from 100 bytes compressed to all."""
    rng = random.Random(seed)
    words = [rng.randbytes(rng.choice((4, 8, 12))) for _ in range(64)]
    made = []
    for _ in range(count):
        kind = rng.random()
        if kind < 0.1:
            made.append(bytes([rng.randrange(4)]) * PAGE)
            continue
        noise = PAGE if kind > 0.97 else int(PAGE * rng.betavariate(1.2, 3))
        text = b"".join(rng.choices(words, k=PAGE // 4))
        made.append((rng.randbytes(noise) + text)[:PAGE])
    return made


@dataclass(frozen=True)
class Step:
    op: str
    run: Run
    pages: tuple[bytes, ...] = ()


def steps(pool: int, pages: list[bytes], seed: int, rounds: int) -> Iterator[Step]:
    """Fills the pool; then puts over, gets and flushes, some pages far more often than others."""
    rng = random.Random(seed)
    runs = [(i % OBJECTS, i // OBJECTS * BATCH) for i in range(len(pages) // BATCH)]
    for i, (object_id, index) in enumerate(runs):
        yield Step("put", Run(pool, object_id, index, BATCH), tuple(pages[i * BATCH : (i + 1) * BATCH]))
    for _ in range(rounds):
        object_id, index = runs[int(len(runs) * rng.betavariate(1, 4))]
        op = rng.choices(("put", "get", "flush"), (3, 5, 1))[0]
        start = rng.randrange(len(pages) - BATCH)
        some = tuple(pages[start : start + BATCH]) if op == "put" else ()
        yield Step(op, Run(pool, object_id, index, BATCH), some)


def play(client: PagesClient, stream: Iterator[Step]) -> None:
    for step in stream:
        if step.op == "put":
            client.put(step.run, step.pages)
        elif step.op == "get":
            client.get(step.run)
        else:
            client.flush_page(step.run)
