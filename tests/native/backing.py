# SPDX-License-Identifier: Apache-2.0
"""zc_backing as a child, and a model of what its backing store holds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tests.native.driver import DIED, Child, numbers

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20

Key = tuple[int, int]
"""Object and index."""


@dataclass(frozen=True)
class Record:
    pages: int
    live: int
    size: int
    seed: int
    codec: int = 0
    flags: int = 0


class Driver(Child):
    def __init__(self, config: str) -> None:
        super().__init__(config, "zc_backing")

    def fail(self, call: str, error: str, after: int, count: int) -> None:
        """Of the next calls of that name, so many fail."""
        assert self.ask("fault", call, error, after, count) == "ok"

    def stats(self) -> dict[str, int]:
        return numbers(self.ask("stats"))

    def end(self) -> None:
        """In good order: a sanitizer's complaint is an error here."""
        assert self.ended() in (0, DIED)


@dataclass
class Store:
    """One backing store over the lives of its drivers, and what it must hold."""

    config: str
    path: Path
    layout: str
    page_size: int
    size: int
    proc: Path | None = None
    driver: Driver = field(init=False)
    live: dict[Key, Record] = field(default_factory=dict)
    """Readable in this process."""
    durable: dict[Key, Record] = field(default_factory=dict)
    """What comes back after a kill."""
    pending: dict[Key, Record] = field(default_factory=dict)
    """In the batch."""
    changed: set[Key] = field(default_factory=set)
    history: dict[Key, set[int]] = field(default_factory=dict)
    """Seeds that a key ever had."""
    unsettled: dict[Key, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.driver = Driver(self.config)

    def open(self, *words: object) -> str:
        proc = [f"proc={self.proc}"] if self.proc else []
        return self.driver.ask("open", self.path, self.layout, self.page_size, self.size, "pool", "none", *proc, *words)

    def recover(self, *refused: Key) -> dict[Key, Record | None]:
        """What is found; None: it cannot be read."""
        word, *records = self.driver.ask("recover", *(f"{key[0]}:{key[1]}" for key in refused)).split()
        assert word == "found", word
        return dict(_parse(record) for record in records)

    def resume(self, found: dict[Key, Record | None]) -> None:
        """What is found is what it holds now."""
        self.live = {key: record for key, record in found.items() if record}
        self.durable = dict(self.live)
        self.forget_batch()

    def forget_batch(self) -> None:
        self.pending, self.unsettled, self.changed = {}, {}, set()

    def start(self, *words: object) -> None:
        assert self.open(*words) == "ok"
        assert self.recover() == self.durable

    def new_driver(self) -> None:
        self.driver.kill()
        self.driver = Driver(self.config)

    # Operations of a pool; each tells the model what it does before it asks, so that it stands when the driver dies.

    def add(self, key: Key, record: Record) -> str:
        self.live.pop(key, None)
        self.durable.pop(key, None)
        self.history.setdefault(key, set()).add(record.seed)
        answer = self.driver.ask(
            "add", *key, record.pages, record.live, record.size, record.seed, record.codec, record.flags
        )
        if answer == "ok":
            self.pending[key] = record
        return answer

    def change(self, key: Key) -> None:
        assert self.driver.ask("change", *key) == "ok"
        self.changed.add(key)

    def commit(self) -> str:
        records = {key: record for key, record in self.pending.items() if key not in self.changed}
        count = len(self.pending)
        answer = self.driver.ask("commit")
        self.pending, self.changed = {}, set()
        if answer.startswith("ok"):
            assert answer == f"ok {count}"
            self.live.update(records)
            self.unsettled = records
        return answer

    def late(self, key: Key) -> None:
        assert self.driver.ask("late", *key) == "ok"
        self.live.pop(key, None)
        self.unsettled.pop(key, None)

    def settle(self) -> str:
        self.durable.update(self.unsettled)
        answer = self.driver.ask("settle")
        self.unsettled = {}
        return answer

    def forget(self, key: Key) -> str:
        self.live.pop(key, None)
        self.durable.pop(key, None)
        return self.driver.ask("forget", *key)

    def keep(self, key: Key, live: int) -> str:
        self.live[key] = self.durable[key] = replace(self.live[key], live=live)
        return self.driver.ask("keep", *key, live)

    def read(self, key: Key) -> str:
        return self.driver.ask("read", *key)

    def clean(self, want: int, share: int = 0) -> str:
        """Those that are forgotten while they are moved are found out by reading."""
        answer = self.driver.ask("clean", want, share)
        if share:
            for key in [key for key in self.live if key[1] % 8 < share]:
                if self.read(key) == "err ENOENT":
                    del self.live[key]
                    self.durable.pop(key, None)
        return answer

    def close(self, how: str) -> str:
        assert not self.pending
        answer = self.driver.ask("close", how)
        self.live = dict(self.durable)
        return answer

    def check(self) -> None:
        for key, record in self.live.items():
            assert self.read(key) == f"{record.seed} {record.codec} {record.flags} {record.live}"
        assert self.driver.stats()["records"] == len(self.live)
        assert self.driver.stats()["live_bytes"] == sum(record.size for record in self.live.values())


def _parse(text: str) -> tuple[Key, Record | None]:
    object_id, index, pages, live, size, seed, codec, flags = text.split(":")
    key = (int(object_id), int(index))
    if seed == "-":
        return key, None
    return key, Record(int(pages), int(live), int(size), int(seed), int(codec), int(flags))
