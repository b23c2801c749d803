# SPDX-License-Identifier: Apache-2.0
"""Backing stores next to a model: faults of the system calls, kills at every one of them, damaged bytes."""

from __future__ import annotations

import random
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bench import zram
from bench.errors import BenchError
from tests.native.backing import MIB, Key, Record, Store
from tests.native.driver import CONFIGS, Died, program
from tests.native.test_alloc import PAGE_SIZES
from tests.support import require_or_skip

LAYOUTS = ["packed", "in_place"]
STEPS = {"host": 40, "host-asan": 30, "host-tsan": 20}
EXAMPLES = {"host": 50, "host-asan": 20, "host-tsan": 8}
"""Percent of those of the profile."""
CALLS = ["pread", "data", "meta", "discard"]
ERRORS = ["EIO", "ENOSPC", "ENXIO", "EINTR", "short"]


def store_size(layout: str, page_size: int, segments: int = 5) -> int:
    """A few segments, or a few dozen pages."""
    segment = max(MIB, 32 * page_size)
    return 2 * MIB + (segments * (segment + 8192) if layout == "packed" else 40 * page_size)


@pytest.fixture
def new_store(tmp_path: Path) -> Iterator[Callable[..., Store]]:
    stores: list[Store] = []

    def make(layout: str = "packed", page_size: int = 4096, config: str = "host-asan") -> Store:
        path = tmp_path / f"store{len(stores)}"
        stores.append(Store(config, path, layout, page_size, store_size(layout, page_size, 8)))
        return stores[-1]

    yield make
    for store in stores:
        store.driver.end()


def a_record(store: Store, seed: int, size: int = 1200) -> Record:
    if store.layout == "in_place":
        return Record(1, 1, store.page_size, seed)
    return Record(1, 1, size, seed, seed % 7, seed % 3)


def write(store: Store, records: dict[Key, Record]) -> None:
    for key, record in records.items():
        assert store.add(key, record) == "ok"
    assert store.commit().startswith("ok")
    assert store.settle() == "ok"


# ---- the machine ----


class BackingMachine(RuleBasedStateMachine):
    """Subclasses name the build, the layout and the page size."""

    config = "host"
    layout = "packed"
    page_size = 4096
    reached: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.directory = TemporaryDirectory()
        root = Path(self.directory.name)
        self.store = Store(
            self.config, root / "store", self.layout, self.page_size, store_size(self.layout, self.page_size), root
        )
        (root / "sys/kernel/random").mkdir(parents=True)
        self.boot_id = root / "sys/kernel/random/boot_id"
        self.boots = 0
        self.boot()
        self.seed = 0
        self.faults = False
        self.codecs = "none"
        self.store.start()

    def teardown(self) -> None:
        self.tally()
        self.store.driver.end()
        self.directory.cleanup()

    def tally(self) -> None:
        for request, answer in self.store.driver.log:
            command, *words = [request.split()[0], *answer.split()]
            self.reached[f"{command} err" if words[0] == "err" else command] += 1
            if command == "clean" and words[0] == "freed":
                self.reached["moved"] += int(words[3])
                self.reached["forgotten"] += int(words[5])

    def boot(self) -> None:
        self.boots += 1
        self.boot_id.write_text(f"boot-{self.boots}\n")

    @initialize(fill=st.booleans())
    def begin(self, fill: bool) -> None:
        if fill and self.layout == "packed":
            self.fill(15 * self.page_size, 16, 12)

    def a_key(self, data: st.DataObject) -> Key:
        index = data.draw(st.integers(0, 30))
        return (7, index) if self.layout == "in_place" else (data.draw(st.integers(0, 1)), index)

    def a_live_key(self, data: st.DataObject) -> Key:
        keys = sorted(self.store.durable)
        return data.draw(st.sampled_from(keys)) if keys else self.a_key(data)

    def make(self, pages: int, live: int, size: int) -> Record:
        self.seed += 1
        if self.layout == "in_place":
            return Record(1, 1, self.page_size, self.seed)
        return Record(pages, live % (1 << pages) or 1, size, self.seed, self.seed % 16, self.seed % 5)

    def put(self, key: Key, record: Record) -> None:
        answer = self.store.add(key, record)
        if answer == "err EAGAIN":
            self.write_batch()
            answer = self.store.add(key, record)
        assert answer == "ok" or answer in self.excuses("ENOSPC"), answer
        if answer == "err ENOSPC":
            assert self.layout == "packed"

    def excuses(self, *errors: str) -> set[str]:
        """What may be answered instead of success."""
        return {f"err {name}" for name in [*errors, *(ERRORS if self.faults else [])]}

    def write_batch(self, late: Key | None = None) -> None:
        answer = self.store.commit()
        assert answer.startswith("ok") or answer in self.excuses(), answer
        if late in self.store.unsettled and not self.faults:
            self.store.late(late)
        assert self.store.settle() in {"ok", *self.excuses()}

    def fill(self, size: int, pages: int, count: int) -> None:
        for i in range(count):
            self.put((0, 100 + i), self.make(pages, (1 << pages) - 1, size))
        self.write_batch()

    @rule(data=st.data(), pages=st.integers(1, 16), live=st.integers(1, 65535), share=st.integers(0, 63))
    def add(self, data: st.DataObject, pages: int, live: int, share: int) -> None:
        self.add_one(data, pages, live, share)

    def add_one(self, data: st.DataObject, pages: int, live: int, share: int) -> None:
        key = self.a_key(data)
        if key not in self.store.pending:
            self.put(key, self.make(pages, live, 4 + pages * self.page_size * share // 64))

    @precondition(lambda self: self.store.pending)
    @rule(data=st.data())
    def change(self, data: st.DataObject) -> None:
        if not self.faults:
            self.store.change(data.draw(st.sampled_from(sorted(self.store.pending))))

    @rule(data=st.data(), late=st.booleans())
    def write(self, data: st.DataObject, late: bool) -> None:
        keys = sorted(self.store.pending)
        self.write_batch(data.draw(st.sampled_from(keys)) if keys and late else None)

    @precondition(lambda self: self.layout == "packed")
    @rule(pages=st.integers(8, 16), count=st.integers(1, 10))
    def write_large(self, pages: int, count: int) -> None:
        if not any(key[1] >= 100 for key in self.store.pending):
            self.fill(15 * self.page_size * pages // 16, pages, count)

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        assert self.store.forget(self.a_live_key(data)) in {"ok", *self.excuses()}

    @precondition(lambda self: self.layout == "packed")
    @rule(data=st.data(), live=st.integers(1, 65535))
    def keep(self, data: st.DataObject, live: int) -> None:
        key = self.a_live_key(data)
        left = self.store.durable[key].live & live if key in self.store.durable else 0
        if left:
            assert self.store.keep(key, left) in {"ok", *self.excuses()}

    @rule(want=st.integers(0, 6), share=st.sampled_from([0, 0, 3]))
    def clean(self, want: int, share: int) -> None:
        self.clean_now(want, share)

    def clean_now(self, want: int, share: int) -> None:
        # A read that fails would look like a page that was forgotten.
        answer = self.store.clean(want, 0 if self.faults else share)
        assert answer.startswith("freed") or answer in self.excuses("ENOSPC"), answer

    @precondition(lambda self: not self.faults)
    @rule(name=st.sampled_from(["lz4", "lz4,zstd", "none"]))
    def set_codecs(self, name: str) -> None:
        assert self.store.driver.ask("codecs", name) == "ok"
        self.codecs = name

    @rule(call=st.sampled_from(CALLS), error=st.sampled_from(ERRORS), after=st.integers(0, 5), count=st.integers(1, 6))
    def fail(self, call: str, error: str, after: int, count: int) -> None:
        self.arm(call, error, after, count)

    def arm(self, call: str, error: str, after: int, count: int) -> None:
        self.store.driver.fail(call, error, after, count)
        self.faults = True

    @rule(data=st.data(), call=st.sampled_from(["data", "meta"]), error=st.sampled_from(ERRORS))
    def write_and_fail(self, data: st.DataObject, call: str, error: str) -> None:
        for _ in range(3):
            self.add_one(data, 2, 3, 10)
        self.arm(call, error, 0, 3)
        self.write_batch()

    @precondition(lambda self: self.layout == "packed" and len(self.store.durable) > 4)
    @rule(
        call=st.sampled_from([*CALLS, None, None]),
        error=st.sampled_from(ERRORS),
        after=st.integers(0, 3),
        share=st.sampled_from([0, 3]),
    )
    def clean_what_is_sparse(self, call: str | None, error: str, after: int, share: int) -> None:
        for key in sorted(self.store.durable)[::2]:
            assert self.store.forget(key) in {"ok", *self.excuses()}
        if call:
            self.arm(call, error, after, 3)
        self.clean_now(8, share)

    def mend(self) -> None:
        """The faults end, and the next write makes up for what they left."""
        for call in CALLS:
            self.store.driver.fail(call, "EIO", 0, 0)
        self.faults = False
        self.write_batch()
        self.put((7, 39), self.make(1, 1, 100))
        assert self.store.driver.stats()["is_failed"] == 0

    @precondition(lambda self: self.faults)
    @rule()
    def end_faults(self) -> None:
        self.mend()

    @rule(how=st.sampled_from(["clean", "dirty", "kill"]), boots=st.booleans(), refuse=st.booleans())
    def reopen(self, how: str, boots: bool, refuse: bool) -> None:
        if self.faults:
            self.mend()
        if how != "kill":
            if self.store.pending:
                self.write_batch()
            is_failed = self.store.driver.stats()["is_failed"]
            assert self.store.close(how) == "ok" or is_failed
            how = "dirty" if is_failed else how
        if how == "kill":
            is_failed = self.store.driver.stats()["is_failed"]
            self.tally()
            self.store.new_driver()
        self.store.forget_batch()
        if boots:
            self.boot()
        if is_failed or (boots and how != "clean"):
            assert self.store.open().startswith("err ESTALE")
            assert self.store.open("reset") == "ok"
            self.store.durable, self.codecs = {}, "none"
        else:
            assert self.store.open() == "ok"
        refused = sorted(self.store.durable)[:2] if refuse else []
        found = self.store.recover(*refused)
        for key in refused:
            del self.store.durable[key]
        assert found == self.store.durable
        assert self.store.driver.stats()["damaged"] == 0
        self.store.resume(found)

    @invariant()
    def it_holds_what_the_model_does(self) -> None:
        stats = self.store.driver.stats()
        assert stats["records"] == len(self.store.live)
        assert stats["live_bytes"] == sum(record.size for record in self.store.live.values())
        if not self.faults:
            self.store.check()
            assert self.store.driver.ask("what") == self.codecs
            return
        for key, record in self.store.live.items():
            answer = self.store.read(key)
            assert answer in {f"{record.seed} {record.codec} {record.flags} {record.live}", "err EIO"}


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", CONFIGS)
def test_a_backing_store_does_what_its_model_does(config: str, layout: str, page_size: int) -> None:
    names = {"config": config, "layout": layout, "page_size": page_size, "reached": Counter()}
    machine = type("Machine", (BackingMachine,), names)
    profile = settings()
    run_state_machine_as_test(
        machine,
        settings=settings(
            profile,
            max_examples=profile.max_examples * EXAMPLES[config] // (100 if page_size < 65536 else 300),
            stateful_step_count=STEPS[config],
        ),
    )
    reached: Counter[str] = machine.reached  # type: ignore[attr-defined]
    expected = ["commit err", "forget", "open err", *(["moved", "keep"] if layout == "packed" else [])]
    assert config != "host" or not [what for what in expected if not reached[what]], reached


# ---- killed at every call that writes ----


def scenario(store: Store) -> Iterator[Callable[[], object]]:
    """The life of a store, step by step."""
    packed = store.layout == "packed"
    large = 15 * store.page_size if packed else store.page_size
    count = 3 * max(MIB, 32 * store.page_size) // (16 * store.page_size) if packed else 12
    records = {(7, i): a_record(store, 100 + i, large) for i in range(min(count, 40))}
    yield lambda: store.start()
    for key, record in records.items():
        yield lambda key=key, record=record: add_or_write(store, key, record)  # type: ignore[misc]
    yield store.commit
    yield lambda: store.late((7, 3)) if (7, 3) in store.unsettled else None
    yield store.settle
    yield lambda: store.forget((7, 1))
    yield lambda: store.driver.ask("codecs", "lz4")
    for i in range(0, len(records), 2):
        yield lambda i=i: store.forget((7, i))  # type: ignore[misc]
    yield lambda: store.close("clean")
    yield lambda: store.start()
    yield lambda: store.add((7, 1), a_record(store, 500, 4))
    yield lambda: store.add((7, 2), a_record(store, 501, 700))
    yield lambda: store.change((7, 2))
    yield store.commit
    yield store.settle
    if packed:
        yield lambda: store.keep((7, 5), store.live[7, 5].live)
        yield lambda: store.clean(100)
    yield lambda: store.forget((7, 5))
    yield lambda: store.close("dirty")
    yield lambda: store.start()


def add_or_write(store: Store, key: Key, record: Record) -> None:
    answer = store.add(key, record)
    if answer == "err EAGAIN":
        assert store.commit().startswith("ok")
        assert store.settle() == "ok"
        answer = store.add(key, record)
    assert answer == "ok"


def calls_of(store: Store) -> int:
    for step in scenario(store):
        step()
    moved = [int(answer.split()[3]) for request, answer in store.driver.log if request.startswith("clean")]
    assert all(moved)
    return int(store.driver.ask("calls"))


def run_until_it_dies(store: Store) -> tuple[dict[Key, Record], dict[Key, Record]]:
    """What had to come back before the step in which it died, and after it."""
    before: dict[Key, Record] = {}
    for step in scenario(store):
        before = dict(store.durable)
        try:
            step()
        except Died:
            return before, dict(store.durable)
    pytest.fail("it did not die")


@pytest.mark.parametrize("half", ["", "half"])
@pytest.mark.parametrize(("layout", "page_size"), [(layout, size) for layout in LAYOUTS for size in PAGE_SIZES])
def test_a_kill_at_any_call_loses_nothing_that_was_settled(
    layout: str, page_size: int, half: str, new_store: Callable[..., Store]
) -> None:
    calls = calls_of(new_store(layout, page_size, "host"))
    assert calls > 20
    for last in range(calls):
        store = new_store(layout, page_size, "host")
        # So that nothing hides what was there.
        store.driver.fail("discard", "EIO", 0, 1000000)
        store.driver.ask("die", last, half)
        before, after = run_until_it_dies(store)
        store.driver.end()
        store.new_driver()
        answer = store.open()
        if not before and not after and answer != "ok":
            # It died while it was made: nothing was there, and nothing must seem to be.
            assert answer.startswith(("err EEXIST", "err EUCLEAN")), answer
            answer = store.open("reset")
        assert answer == "ok", (last, answer)
        found = store.recover()
        for key in before.keys() | after.keys() | found.keys():
            assert found.get(key) in (before.get(key), after.get(key)), (last, key)
        store.resume(found)
        write(store, {(7, 30): a_record(store, 999), (7, 31): a_record(store, 1000)})
        store.check()
        store.path.unlink()


# ---- faults ----


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "ENXIO", "short"])
def test_a_batch_that_cannot_be_written_is_not_there(layout: str, error: str, new_store: Callable[..., Store]) -> None:
    store = new_store(layout)
    store.start()
    write(store, {(7, i): a_record(store, i + 1) for i in range(4)})
    store.driver.fail("pwritev", error, 0, 2)
    assert store.add((7, 8), a_record(store, 9)) == "ok"
    expected = {"short": "err EIO"}.get(error, f"err {error}")
    assert store.commit() == expected
    assert store.settle() == "ok"
    assert store.driver.stats()["write_errors"] > 0
    assert store.read((7, 8)) == "err ENOENT"
    store.driver.fail("pwritev", error, 0, 0)
    write(store, {(7, 8): a_record(store, 10)})
    store.check()
    store.new_driver()
    store.start()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_settling_that_fails_is_made_up_for(layout: str, new_store: Callable[..., Store]) -> None:
    store = new_store(layout)
    store.start()
    write(store, {(7, i): a_record(store, i + 1) for i in range(4)})
    for i in range(4, 8):
        assert store.add((7, i), a_record(store, i + 1)) == "ok"
    assert store.commit() == "ok 4"
    store.driver.fail("meta", "EIO", 0, 1)
    assert store.settle() == "err EIO"
    store.check()
    assert store.forget((7, 5)) == "ok"
    assert store.driver.stats()["is_failed"] == 0
    store.new_driver()
    store.start()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_words_that_cannot_be_written_are_owed(layout: str, new_store: Callable[..., Store]) -> None:
    """A page that was forgotten must not come back, so what is left is stale until they are written."""
    for mended in (False, True):
        store = new_store(layout)
        store.start()
        write(store, {(7, i): a_record(store, i + 1) for i in range(4)})
        store.driver.fail("meta", "EIO", 0, 2)
        assert store.forget((7, 1)) == "err EIO"
        assert store.driver.stats()["is_failed"] == 1
        assert store.read((7, 2)).startswith("3 ")
        if mended:
            assert store.forget((7, 2)) == "ok"
            assert store.driver.stats()["is_failed"] == 0
            store.check()
        store.new_driver()
        if mended:
            store.start()
        else:
            assert store.open().startswith("err ESTALE")
            assert "last changes could not be written" in store.driver.log[-1][1]


def test_a_store_that_vanished_and_is_back_goes_on(new_store: Callable[..., Store]) -> None:
    store = new_store()
    store.start()
    write(store, {(7, i): a_record(store, i + 1) for i in range(40)})
    for call in ("pread", "pwritev", "discard"):
        store.driver.fail(call, "ENXIO", 0, 1000000)
    for i in range(0, 40, 2):
        assert store.forget((7, i)) == "err ENXIO" if i == 0 else "err EIO"
    assert store.read((7, 1)) == "err EIO"
    assert store.add((7, 50), a_record(store, 50)) == "err EIO"
    for call in ("pread", "pwritev", "discard"):
        store.driver.fail(call, "ENXIO", 0, 0)
    write(store, {(7, 50): a_record(store, 51)})
    assert store.driver.stats()["is_failed"] == 0
    store.check()
    store.new_driver()
    store.start()


# ---- threads ----

OPS = {"host": 8000, "host-asan": 4000, "host-tsan": 3000}


@pytest.mark.parametrize(("layout", "page_size"), [("packed", 4096), ("packed", 16384), ("in_place", 4096)])
@pytest.mark.parametrize("config", CONFIGS)
def test_threads_write_read_and_forget_while_one_cleans(
    config: str, layout: str, page_size: int, tmp_path: Path
) -> None:
    """They must come across each other, which on a busy machine they may do but rarely."""
    counts: Counter[str] = Counter()
    wanted = ["written", "read", "gone", "forgotten", *(["moved", "freed"] if layout == "packed" else [])]
    for seed in range(1, 11):
        words = [tmp_path / f"store{seed}", layout, page_size, 9 * MIB, seed, OPS[config], 4]
        command = [str(program(config, "zc_backing_threads")), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, f"seed {seed}: {done.stderr[-3000:]}"
        counts.update({name: int(value) for name, value in (pair.split("=") for pair in done.stdout.split())})
        if all(counts[what] for what in wanted):
            return
    pytest.fail(f"{counts}")


# ---- cleaning ----


def test_cleaning_gets_space_back(new_store: Callable[..., Store]) -> None:
    store = new_store()
    store.start()
    keys = [(i % 3, i) for i in range(2500)]
    for i, key in enumerate(keys):
        add_or_write(store, key, a_record(store, i + 1, 1200 + i % 700))
    store.commit()
    store.settle()
    before = store.driver.stats()
    for key in keys[::2]:
        assert store.forget(key) == "ok"
    freed, moved, forgotten = store.clean(5, share=2).split()[1::2]
    after = store.driver.stats()
    assert after["free_segments"] == before["free_segments"] + 1
    assert min(int(freed), int(moved), int(forgotten)) > 0
    assert 0 < after["cleaned"] - before["cleaned"] < MIB * 2
    assert after["evicted"] == before["evicted"]
    assert after["discarded"] - before["discarded"] == int(freed) * after["segment_size"]
    store.check()
    written = after["cleaned"]
    while int(store.clean(8).split()[1]):
        pass
    assert store.clean(8) == "freed 0 moved 0 forgotten 0"
    assert store.driver.stats()["cleaned"] <= 3 * written
    store.new_driver()
    store.start()
    store.check()


def test_a_full_store_says_so_and_goes_on_when_it_was_cleaned(new_store: Callable[..., Store]) -> None:
    store = new_store()
    store.start()
    answers = []
    for i in range(300):
        answers.append(store.add((1, i), a_record(store, i + 1, 40000)))
        if answers[-1] == "err EAGAIN":
            store.commit()
            store.settle()
            answers.append(store.add((1, i), a_record(store, i + 1, 40000)))
        if answers[-1] == "err ENOSPC":
            break
    assert answers[-1] == "err ENOSPC"
    assert store.driver.stats()["free_segments"] == 1, "the last one is for cleaning"
    for key in sorted(store.live)[::3]:
        store.forget(key)
    assert store.clean(3).startswith("freed")
    write(store, {(2, i): a_record(store, i + 1, 30000) for i in range(5)})
    store.check()


def test_what_is_damaged_stays_so_when_it_is_moved(new_store: Callable[..., Store]) -> None:
    store = new_store()
    store.start()
    records = {(1, i): a_record(store, i + 1, 5000) for i in range(190)}
    for key, record in records.items():
        add_or_write(store, key, record)
    store.commit()
    store.settle()
    content = store.path.read_bytes()
    at = content.index((3).to_bytes(4, "little"), content.index(bytes([2, 0, 0, 0]), MIB))
    with store.path.open("r+b") as file:
        file.seek(content.index((150).to_bytes(4, "little"), at) + 2000)
        file.write(b"damaged")
    damaged = [key for key in records if store.read(key) == "err EIO"]
    assert len(damaged) == 1
    store.close("clean")
    assert store.open() == "ok"
    found = store.recover()
    assert [key for key, record in found.items() if record is None] == damaged
    for key in list(records)[::2]:
        if key not in damaged:
            store.forget(key)
    assert store.clean(8).split()[1] != "0"
    assert [key for key in records if store.read(key) == "err EIO"] == damaged


@pytest.mark.parametrize("records", [90, 5000])
def test_little_is_written_beside_the_records(records: int, new_store: Callable[..., Store]) -> None:
    """Of 1.2 KB on the average, in full batches and in part of one."""
    store = new_store()
    store.start()
    before = store.driver.stats()
    for i in range(records):
        add_or_write(store, (i % 2, i), a_record(store, i + 1, 400 + i * 7919 % 1600))
    store.commit()
    store.settle()
    after = store.driver.stats()
    written = sum(after[cause] - before[cause] for cause in ("evicted", "cleaned", "metadata"))
    assert written <= 1.05 * after["live_bytes"]


# ---- whose it is ----

FOREIGN = [
    (1080, b"\x53\xef", "ext4"),
    (4086, b"SWAPSPACE2", "swap"),
    (65600, b"_BHRfS_M", "btrfs"),
    (5000, b"x", "else"),
]


@pytest.mark.parametrize(("at", "magic", "name"), FOREIGN)
def test_what_is_not_ours_is_refused(at: int, magic: bytes, name: str, new_store: Callable[..., Store]) -> None:
    store = new_store()
    store.path.write_bytes(b"\0" * at + magic + b"\0" * 100000)
    content = store.path.read_bytes()
    answer = store.open()
    assert answer.startswith(f"err EEXIST backing store {store.path}: it holds ")
    assert name in answer
    assert "reset=1" in answer
    assert store.path.read_bytes() == content
    assert store.open("reset") == "ok"
    assert store.recover() == {}


def test_a_store_of_other_ways_is_refused(new_store: Callable[..., Store]) -> None:
    store = new_store()
    store.start()
    write(store, {(1, 1): a_record(store, 1)})
    store.close("clean")
    path, size = store.path, store.size
    for words, reason in [
        ((path, "in_place", 4096, size, "pool", "x"), "its layout is packed, not in_place"),
        ((path, "packed", 16384, size, "pool", "x"), "its pages are of 4096 bytes, not 16384"),
        ((path, "packed", 4096, size, "other", "x"), "it is pool pool's, not other's"),
        ((path, "packed", 4096, 2 * size, "pool", "x"), f"it was made with {size} bytes, not {2 * size}"),
    ]:
        answer = store.driver.ask("open", *words)
        assert answer.startswith(f"err EINVAL backing store {path}: {reason}; ")
    assert store.open() == "ok"
    other = new_store()
    other.path = store.path
    assert other.open().startswith(f"err EBUSY backing store {path}: in use")
    assert store.recover() == store.durable
    store.close("clean")
    with path.open("r+b") as file:
        file.truncate(size // 2)
    assert f"of which {size // 2} are left" in store.driver.ask("open", path, "packed", 4096, 0, "pool", "x")


def test_what_cannot_be_a_store_is_refused(tmp_path: Path, new_store: Callable[..., Store]) -> None:
    ask = new_store().driver.ask
    ways = ("packed", 4096)
    missing = ask("open", tmp_path / "none", *ways, 0, "pool", "x")
    assert missing.startswith("err ENOENT")
    assert missing.endswith("no such file; a size makes one")
    assert not (tmp_path / "none").exists()
    assert ask("open", tmp_path, *ways, 0, "pool", "x").startswith("err EISDIR")
    assert ask("open", "/dev/null", *ways, 0, "pool", "x").endswith("neither a block device nor a file")
    small = ask("open", tmp_path / "small", *ways, 3 * MIB, "pool", "x")
    assert small == f"err ENOSPC backing store {tmp_path}/small: {3 * MIB} bytes are too few; 5341184 make a store"
    assert ask("open", tmp_path / "small", *ways, 5341184, "pool", "x") == "ok"
    assert ask("recover") == "found"
    assert ask("close", "clean") == "ok"
    assert ask("open", tmp_path / "no/dir", *ways, 9 * MIB, "pool", "x").startswith("err ENOENT")
    assert "too long" in ask("open", tmp_path / "a", *ways, 9 * MIB, "p" * 64, "x")


@pytest.mark.parametrize("copies", [1, 2])
def test_one_superblock_is_enough(copies: int, new_store: Callable[..., Store]) -> None:
    for first in range(2):
        store = new_store()
        store.start()
        write(store, {(1, 1): a_record(store, 1)})
        store.close("clean")
        with store.path.open("r+b") as file:
            for copy in range(copies):
                file.seek((first + copy) % 2 * 8192 + 50)
                file.write(b"x")
        if copies == 1:
            store.start()
        else:
            assert store.open().startswith(f"err EUCLEAN backing store {store.path}: its superblocks are damaged")
            assert store.open("reset") == "ok"
            assert store.recover() == {}


def test_only_a_clean_stop_outlives_the_boot(tmp_path: Path, new_store: Callable[..., Store]) -> None:
    boot_id = tmp_path / "sys/kernel/random/boot_id"
    boot_id.parent.mkdir(parents=True)
    boot_id.write_text("one\n")
    store = new_store()
    store.proc = tmp_path
    store.start()
    write(store, {(1, 1): a_record(store, 1)})
    store.close("clean")
    boot_id.write_text("two\n")
    store.start()
    assert store.driver.stats()["generation"] == 2
    store.new_driver()
    store.start()
    store.new_driver()
    boot_id.write_text("three\n")
    answer = store.open()
    assert answer.startswith(
        f"err ESTALE backing store {store.path}: stale: it was not closed before the system stopped;"
    )
    boot_id.unlink()
    assert store.open().startswith("err ESTALE"), "what boot this is, nobody knows"
    store.durable.clear()
    store.start("reset=stale")


def test_only_a_stale_store_is_made_anew_for_being_stale(new_store: Callable[..., Store]) -> None:
    store = new_store()
    store.start("reset=stale")
    write(store, {(1, 1): a_record(store, 1)})
    store.new_driver()
    store.start("reset=stale")
    store.close("clean")
    store.path.write_bytes(b"something else" * 1000)
    assert store.open("reset=stale").startswith("err EEXIST")


def test_swap_needs_a_direct_medium(new_store: Callable[..., Store]) -> None:
    store = new_store()
    assert store.open("direct") == "ok"
    assert store.driver.stats()["is_direct"] == 1
    assert store.recover() == {}
    write(store, {(1, 1): a_record(store, 1)})
    store.close("clean")
    store.driver.fail("cached", "one", 0, 1)
    assert "go through the page cache" in store.open("direct")
    assert store.open("direct") == "ok"
    assert store.recover() == store.durable, "probing changes nothing"
    store.close("clean")
    store.driver.fail("open", "EINVAL", 1, 1)
    assert store.open("direct").startswith("err ENOTSUP")
    store.driver.fail("open", "EINVAL", 1, 1)
    assert store.open() == "ok"
    assert store.driver.stats()["is_direct"] == 0
    assert store.recover() == store.durable


def test_memory_is_no_medium_for_swap(new_store: Callable[..., Store]) -> None:
    store = new_store()
    with TemporaryDirectory(dir="/dev/shm") as directory:
        store.path = Path(directory) / "store"
        assert store.open("direct").startswith("err ENOTSUP")
        assert store.open() == "ok"
        assert store.recover() == {}
        write(store, {(1, 1): a_record(store, 1)})
        store.check()
        store.close("clean")


def test_a_block_device_is_one() -> None:
    with ExitStack() as stack:
        try:
            device = stack.enter_context(zram.device("lz4", 16 * MIB))
        except BenchError as error:
            require_or_skip("zram", str(error))
        store, other = (Store("host", device, "packed", 4096, 0) for _ in range(2))
        stack.callback(lambda: store.driver.end())
        stack.callback(lambda: other.driver.end())
        assert "more than the" in store.driver.ask("open", device, "packed", 4096, 17 * MIB, "pool", "x")
        assert store.open("direct") == "ok"
        assert store.recover() == {}
        assert store.driver.stats()["is_direct"] == 1
        assert other.open("reset").startswith(f"err EBUSY backing store {device}: in use by another")
        for i in range(1000):
            add_or_write(store, (1, i), a_record(store, i + 1, 4000))
        store.commit()
        store.settle()
        store.new_driver()
        store.start()
        for i in range(0, 1000, 2):
            store.forget((1, i))
        assert store.clean(100).split()[1] != "0"
        assert store.driver.stats()["discarded"] > 0
        store.check()
        store.close("clean")
        store.start()
        store.close("clean")


# ---- damage ----


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_bytes_are_never_believed(layout: str, new_store: Callable[..., Store]) -> None:
    """Anywhere: superblocks, words, heads, tables, records. What was forgotten stays so."""
    store = new_store(layout)
    store.start()
    write(store, {(7, i): a_record(store, 100 + i, 3000) for i in range(30)})
    write(store, {(7, i): a_record(store, 200 + i, 300) for i in range(20, 36)})
    for i in range(0, 36, 3):
        store.forget((7, i))
    store.close("dirty")
    content = store.path.read_bytes()
    used = [at for at in range(0, len(content), 16) if any(content[at : at + 16])]
    chance = random.Random(1)
    opened = 0
    for _ in range(150):
        damaged = bytearray(content)
        for at in chance.choices(used, k=chance.choice([1, 3, 200])):
            damaged[at + chance.randrange(16)] ^= 1 << chance.randrange(8)
        store.path.write_bytes(damaged)
        answer = store.open()
        if answer != "ok":
            assert answer.startswith(("err EUCLEAN", "err EEXIST")), answer
            continue
        opened += 1
        for key, record in store.recover().items():
            assert record in (store.durable[key], None)
        assert store.clean(8).startswith("freed")
        store.close("dirty")
    assert opened > 50
