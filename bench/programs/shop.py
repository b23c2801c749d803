# SPDX-License-Identifier: Apache-2.0
"""A database in a file: SQLite, with the orders of a shop, most of which lie in the page cache.

python -m bench.programs.shop FILE reads all of it, says "ready", and for each line of its input with a number it serves
so many requests and says "done".
"""

import os
import random
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from .process import answering
from .prose import words

ORDERS, REQUESTS, WRITES, SKEW = 250_000, 300_000, 10, 7
"""Every 10th request is a write; half of all are for a 128th of the orders."""


@contextmanager
def at_work(groups: Sequence[Path]) -> Iterator[Callable[[], None]]:
    path = Path("build/workloads/shop.sqlite")
    if not path.exists():
        make(path)
    forget(path)
    with answering([sys.executable, "-m", "bench.programs.shop", str(path)], REQUESTS, groups=groups) as work:
        yield work


def make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    rng, names = random.Random(7), words()  # noqa: S311 the same orders every time
    rows = ((n, rng.choice(names), " ".join(rng.choices(names, k=60)), n * 37) for n in range(ORDERS))
    with closing(sqlite3.connect(new)) as shop, shop:
        shop.execute("create table orders (id integer primary key, customer text, note text, at integer)")
        shop.executemany("insert into orders values (?, ?, ?, ?)", rows)
        shop.execute("create index by_customer on orders (customer)")
    new.rename(path)


def forget(path: Path) -> None:
    """So that its pages count for who reads it next."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    rng = random.Random(11)  # noqa: S311
    with closing(sqlite3.connect(sys.argv[1])) as shop:
        shop.execute("select sum(length(note)) from orders").fetchone()
        print("ready", flush=True)
        for line in sys.stdin:
            for number in range(int(line)):
                order = ORDERS - 1 - int(ORDERS * rng.random() ** SKEW)
                shop.execute("select * from orders where id = ?", (order,)).fetchone()
                if number % WRITES == 0:
                    shop.execute("update orders set at = ? where id = ?", (number, order))
                if number % 5000 == 0:
                    shop.commit()
            shop.commit()
            print("done", flush=True)


if __name__ == "__main__":
    main()
