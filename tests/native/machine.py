# SPDX-License-Identifier: Apache-2.0
"""The state machine that holds the driver against the model."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.native.driver import Driver, crc, same_filled
from tests.native.model import Key, Pool

POOLS = ["p0", "p1", "e0", "e1"]
keys = st.tuples(st.sampled_from([0, 1, 2**64 - 1]), st.one_of(st.integers(0, 40), st.just(2**32 - 1)))
pools = st.sampled_from(POOLS)
seeds = st.integers(0, 30)


class StoreMachine(RuleBasedStateMachine):
    """Subclasses name the build and the page size."""

    config = "host"
    page_size = 4096

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(self.config, self.page_size)
        self.model: dict[str, Pool] = {}
        self.sizes: dict[str, int] = {}
        """What contents compress to: the same at every put."""

    def teardown(self) -> None:
        for pool in self.model:
            self.driver.ask("destroy", pool)
        self.driver.close()

    def content(self, seed: int, eighths: int) -> str:
        """eighths of a page of random bytes; 0: a same-filled page."""
        return f"rand:{seed}:{self.page_size * eighths // 8}" if eighths else f"fill:{seed}"

    def check_put(self, pool: str, key: Key, content: str, answer: str) -> None:
        model = self.model[pool]
        word, zsize = answer.split()
        raw = word == "stored" and int(zsize) == self.page_size and model.params["keep_rejected"]
        if raw:
            # What it compresses to is not told; once it was stored or refused plainly it is known.
            compressed = self.sizes.get(content, model.params["zv_max_zsize"] + 1)
        else:
            compressed = int(zsize)
            assert self.sizes.setdefault(content, compressed) == compressed
        assert (compressed == 0) == same_filled(content, self.page_size)
        assert answer == model.put(key, content, compressed)

    @rule(pool=pools)
    def create(self, pool: str) -> None:
        expected = "err EEXIST" if pool in self.model else "ok"
        assert self.driver.ask("pool", pool, "ephemeral" if pool[0] == "e" else "persistent") == expected
        self.model.setdefault(pool, Pool(self.page_size, pool[0] == "e"))

    @rule(pool=pools)
    def destroy(self, pool: str) -> None:
        gone = self.model.pop(pool, None)
        assert self.driver.ask("destroy", pool) == (f"pages {len(gone.pages)}" if gone else "err ENOENT")

    @precondition(lambda self: self.model)
    @rule(data=st.data(), key=keys, seed=seeds, eighths=st.integers(0, 8))
    def put(self, data: st.DataObject, key: Key, seed: int, eighths: int) -> None:
        pool = data.draw(st.sampled_from(sorted(self.model)))
        content = self.content(seed, eighths)
        self.check_put(pool, key, content, self.driver.ask("put", pool, *key, content))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), entries=st.lists(st.tuples(keys, seeds, st.integers(0, 8)), min_size=1, max_size=40))
    def put_batch(self, data: st.DataObject, entries: list[tuple[Key, int, int]]) -> None:
        pool = data.draw(st.sampled_from(sorted(self.model)))
        contents = [self.content(seed, eighths) for _, seed, eighths in entries]
        lines = [f"{key[0]} {key[1]} {content}" for (key, _, _), content in zip(entries, contents, strict=True)]
        answers = self.driver.batch("puts", pool, lines)
        for (key, _, _), content, answer in zip(entries, contents, answers, strict=True):
            self.check_put(pool, key, content, answer)

    @rule(pool=pools, key=keys, peek=st.booleans())
    def get(self, pool: str, key: Key, peek: bool) -> None:
        expected = self.model[pool].get(key, peek=peek) if pool in self.model else "err ENOENT"
        assert self.driver.ask("peek" if peek else "get", pool, *key) == expected

    @precondition(lambda self: self.model)
    @rule(data=st.data(), some=st.lists(keys, min_size=1, max_size=40), peek=st.booleans())
    def get_batch(self, data: st.DataObject, some: list[Key], peek: bool) -> None:
        pool = data.draw(st.sampled_from(sorted(self.model)))
        answers = self.driver.batch("peeks" if peek else "gets", pool, [f"{key[0]} {key[1]}" for key in some])
        assert answers == [self.model[pool].get(key, peek=peek) for key in some]

    @rule(pool=pools, key=keys)
    def flush(self, pool: str, key: Key) -> None:
        expected = self.model[pool].flush(key) if pool in self.model else "err ENOENT"
        assert self.driver.ask("flush", pool, *key) == expected

    @precondition(lambda self: self.model)
    @rule(data=st.data(), some=st.lists(keys, min_size=1, max_size=20))
    def flush_batch(self, data: st.DataObject, some: list[Key]) -> None:
        pool = data.draw(st.sampled_from(sorted(self.model)))
        answers = self.driver.batch("flushes", pool, [f"{key[0]} {key[1]}" for key in some])
        assert answers == [self.model[pool].flush(key) for key in some]

    @precondition(lambda self: self.model)
    @rule(data=st.data(), objects=st.lists(st.sampled_from([0, 1, 2, 2**64 - 1]), min_size=1, max_size=3))
    def flush_objects(self, data: st.DataObject, objects: list[int]) -> None:
        pool = data.draw(st.sampled_from(sorted(self.model)))
        answers = self.driver.batch("flobjs", pool, [str(object_id) for object_id in objects])
        assert answers == [self.model[pool].flush_object(object_id) for object_id in objects]

    @precondition(lambda self: self.model)
    @rule(
        data=st.data(),
        name=st.sampled_from(["zv_max_zsize", "zv_max_mean_zsize"]),
        value=st.sampled_from(["0", "1/8", "3/8", "62%", "7/8", "100%"]),
    )
    def set_threshold(self, data: st.DataObject, name: str, value: str) -> None:
        pool = data.draw(st.sampled_from(sorted(self.model)))
        assert self.driver.ask("param", pool, name, value) == "ok"
        number, _, divisor = value.removesuffix("%").partition("/")
        by = 100 if value.endswith("%") else int(divisor or 1)
        part = self.page_size if "%" in value or "/" in value else 1
        self.model[pool].params[name] = int(number) * part // by

    @precondition(lambda self: self.model)
    @rule(data=st.data(), name=st.sampled_from(["exclusive_gets", "keep_rejected"]), value=st.integers(0, 1))
    def set_switch(self, data: st.DataObject, name: str, value: int) -> None:
        pool = data.draw(st.sampled_from(sorted(self.model)))
        assert self.driver.ask("param", pool, name, value) == "ok"
        self.model[pool].params[name] = value

    @invariant()
    def counters_agree(self) -> None:
        for name, pool in self.model.items():
            stats = self.driver.stats(name)
            frames = stats.pop("frames")
            expected = pool.stats()
            assert {key: value for key, value in stats.items() if value} == {
                key: value for key, value in expected.items() if value
            }
            assert frames in pool.frames()

    @invariant()
    def histograms_agree(self) -> None:
        for name, pool in self.model.items():
            assert self.driver.ask("dist", name) == pool.dist()

    @rule()
    def everything_is_there(self) -> None:
        for name, pool in self.model.items():
            for key in list(pool.pages):
                expected = f"page {crc(pool.pages[key].content, self.page_size)}"
                pool.get(key, peek=True)
                assert self.driver.ask("peek", name, *key) == expected
