# SPDX-License-Identifier: Apache-2.0
"""The state machine that holds the driver against the model."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.native.driver import Driver, crc, same_filled
from tests.native.model import Key, Pool

POOLS = ["p0", "p1", "pz", "e0", "ez"]
"""Persistent and ephemeral; those with a z in zsmalloc."""
CODECS = ["lz4", "lz4:8", "zstd", "zstd:-5", "zstd:5", "none", "zstd:1:dict=1"]
FROM_THE_START = {
    "e0": ("poor_run_limit", 1),
    "ez": ("nonactive_puts_ignored", 1),
    "p1": ("writeback_after", 1000),
    "pz": ("cold_after", 1000),
}
"""Of these pools a parameter that seldom would be drawn together with what it acts on."""
FULL = ["policy_percent_exceeded", "failed_getfreepages"]
UNTRIED = [FULL[0], "poor_run_refused", "eph_nonactive_puts_ignored", "pers_nonactive_puts_ignored"]
SLACK = 64 * 1024
"""Bytes under its limit at which a store may call itself full, and that its index may go over it."""
STORE_PAGES = 1500
"""Of a backing store's size; fewer are put."""
OBJECTS = [0, 7, 2**64 - 1]
CHANGES = [
    *[("zv_max_zsize", value) for value in ("0", "3/8", "62%", "7/8", "100%")],
    *[("zv_max_mean_zsize", value) for value in ("1/8", "3/8", "5/8", "100%")],
    *[("zv_page_count_policy_percent", value) for value in ("0", "75", "100")],
    *[(switch, value) for switch in ("exclusive_gets", "keep_rejected", "checksums") for value in ("0", "1")],
    *[(switch, value) for switch in ("compact_auto", "nonactive_puts_ignored") for value in ("0", "1")],
    *[("poor_run_limit", value) for value in ("0", "1", "3")],
    *[("cold_extent", value) for value in ("1", "2", "4", "8", "16")],
    *[("cold_readahead", value) for value in ("0", "1")],
    *[("cold_after", value) for value in ("0", "1000", "1000")],
    *[("writeback_auto", value) for value in ("0", "1")],
    *[("writeback_after", value) for value in ("0", "1000", "1000")],
]
CAUSES = ["evicted_user", "evicted_limit", "evicted_pressure", "pers_ate_eph"]
WRITTEN = ["writeback_user", "writeback_limit", "writeback_pressure", "writeback_idle"]
MOVED = [
    *["compacted_frames", "compacted_zpages", "reclaimed_frames", "reclaimed_zpages"],
    *["writeback_frames", "writeback_errors", "wear_evicted", "wear_cleaned", "wear_metadata"],
    *[name for cause in [*CAUSES, *WRITTEN] for name in (cause, f"{cause}_frames")],
    *["recompressed_frames", "cold_extents", "cold_bytes", "cold_frames"],
]
keys = st.tuples(st.sampled_from(OBJECTS), st.one_of(st.integers(0, 12), st.just(2**32 - 1)))
pools = st.sampled_from(POOLS)
seeds = st.integers(0, 30)
eighths = st.integers(0, 8)
layouts = st.sampled_from(["", "packed", "packed", "in_place"])
FAULTS = [
    *[("pwritev", error) for error in ("EIO", "ENOSPC", "ENXIO", "short", "EINTR")],
    *[("meta", error) for error in ("EIO", "short")],
]
READ_FAULTS = ["EIO", "ENXIO"]


class StoreMachine(RuleBasedStateMachine):
    """Subclasses name the build and the page size."""

    config = "host"
    page_size = 4096
    reached: Counter[str]
    """Commands with their answers' first words, over all runs; and why pages were written by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(self.config, self.page_size)
        self.directory = TemporaryDirectory()
        assert self.driver.ask("dictionary", 5, 3000) == "id 1"
        self.default_limit = self.driver.totals()["limit_bytes"]
        self.model: dict[str, Pool] = {}
        self.tried: defaultdict[str, set[Key]] = defaultdict(set)
        """Of each pool, the keys that were put, stored or not: what is drawn must not hang on a full store's whims."""
        self.sizes: dict[tuple[str, str], int] = {}
        """What contents compress to by each codec: the same at every put."""
        self.may_have_written = False
        """Pages to a backing store, as it was told to. No draw may hang on what it writes by itself, and when."""
        self.limited = False
        self.refuses = False
        """The limit refused a put, perhaps not for the last time."""
        self.limit = 0
        """Set by a rule; 0: the default, which is not reached."""
        self.by_itself: Counter[str] = Counter()
        """Of each pool, pages written back by itself, as last seen."""
        self.evicted: Counter[str] = Counter()
        """Of each ephemeral pool, pages dropped for others' sake, as last seen."""

    def teardown(self) -> None:
        self.reached.update(f"{request.split()[0]} {word.split()[0]}" for request, word in self.answers())
        with self.driver:
            self.flush_everything()
            for name in self.model:
                assert self.driver.ask("destroy", name) == "pages 0"
        self.directory.cleanup()

    def answers(self) -> Iterator[tuple[str, str]]:
        for request, answer in self.driver.log:
            for part in answer.split(", "):
                yield request, part

    def flush_everything(self) -> None:
        for name, pool in self.model.items():
            for object_id in {key[0] for key in pool.pages}:
                assert self.driver.ask("flobj", name, object_id) == pool.flush_object(object_id)
            stats = self.driver.stats(name)
            held = ["zpages", "same_filled", "raw_pages", "zbytes", "frames", "written_pages", "written_bytes"]
            held += ["cold_pages", "cold_extents", "cold_bytes", "cold_frames"]
            assert not any(stats[what] for what in held)
        totals = self.driver.totals()
        assert totals["frames"] == totals["reserve_frames"] == 0

    def content(self, seed: int, eighths: int) -> str:
        """eighths of a page of random bytes, or of random half bytes; 0: a same-filled page."""
        kind = "half" if seed % 2 else "rand"
        return f"{kind}:{seed}:{self.page_size * eighths // 8}" if eighths else f"fill:{seed}"

    def check_put(self, pool: str, key: Key, content: str, answer: str, *, inactive: bool = False) -> None:
        model = self.model[pool]
        self.tried[pool].add(key)
        word, zsize = answer.split()
        if self.limit and model.backing and model.codec != "none" and answer == f"stored {self.page_size}":
            model.is_well |= not model.params["keep_rejected"]  # written to meanwhile
        full = word if word in FULL and self.limit else ""
        raw = int(zsize) == self.page_size and model.keeps_raw()
        if raw or word in UNTRIED:
            # What it compresses to is not told; once it was stored or refused plainly it is known.
            unknown = self.page_size if model.codec == "none" else model.params["zv_max_zsize"] + 1
            compressed = self.sizes.get((model.codec, content), unknown)
        else:
            compressed = int(zsize)
            assert self.sizes.setdefault((model.codec, content), compressed) == compressed
            assert (compressed == 0) == same_filled(content, self.page_size)
        over = (raw or word == "mean_compress_poor") if self.limit else None
        assert answer == model.put(key, content, compressed, full, inactive=inactive, over=over)

    @initialize(
        some=st.sets(st.sampled_from(POOLS), min_size=1),
        limited=st.booleans(),
        layouts=st.tuples(*[layouts] * len(POOLS)),
    )
    def begin(self, some: set[str], limited: bool, layouts: tuple[str, ...]) -> None:
        """The reserve fills itself at its own pace, so what fits under a limit is certain only without it."""
        self.limited = limited
        if limited:
            assert self.driver.ask("reserve", 0) == "ok"
        for pool, layout in zip(sorted(some), layouts, strict=False):
            self.create(pool)
            if layout and not self.model[pool].ephemeral:
                self.attach_new(pool, layout)

    def create(self, pool: str) -> None:
        expected = "err EEXIST" if pool in self.model else "ok"
        kind = "ephemeral" if pool[0] == "e" else "persistent"
        allocator = "zsmalloc" if pool[1] == "z" else "zbud"
        assert self.driver.ask("pool", pool, kind, allocator) == expected
        if pool in self.model:
            return
        self.model[pool] = Pool(self.page_size, pool[0] == "e", allocator)
        assert self.driver.ask("param", pool, "cold_cpu_percent", 100) == "ok"
        if pool in FROM_THE_START:
            name, value = FROM_THE_START[pool]
            assert self.driver.ask("param", pool, name, value) == "ok"
            self.model[pool].params[name] = value

    def destroy(self, pool: str) -> None:
        gone = self.model.pop(pool, None)
        self.evicted.pop(pool, None)
        self.by_itself.pop(pool, None)
        self.tried.pop(pool, None)
        assert self.driver.ask("destroy", pool) == (f"pages {len(gone.pages)}" if gone else "err ENOENT")

    def a_pool(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.model) or POOLS))

    def a_held_pool(self, data: st.DataObject) -> str:
        """One with pages, if there is one; unless they were all flushed or refused."""
        held = sorted(name for name in self.model if self.tried[name])
        return data.draw(st.sampled_from(held)) if held else self.a_pool(data)

    def a_key(self, data: st.DataObject, pool: str) -> Key:
        """Mostly of a page that was put."""
        tried = sorted(self.tried[pool])
        known = [st.sampled_from(tried)] * 4 if tried else []
        key: Key = data.draw(st.one_of(*known, keys))
        return key

    def some_keys(self, data: st.DataObject, pool: str) -> list[Key]:
        return [self.a_key(data, pool) for _ in range(data.draw(st.integers(1, 12)))]

    @rule(pool=pools, destroy=st.booleans())
    def create_or_destroy(self, pool: str, destroy: bool) -> None:
        if destroy:
            self.destroy(pool)
        else:
            self.create(pool)
            self.settle()

    @precondition(lambda self: self.model)
    @rule(data=st.data(), seed=seeds, eighths=st.one_of(eighths, st.just(8)), inactive=st.booleans())
    def put(self, data: st.DataObject, seed: int, eighths: int, inactive: bool) -> None:
        pool = self.a_pool(data)
        key, content = self.a_key(data, pool), self.content(seed, eighths)
        used = self.driver.totals()["used_bytes"]
        answer = self.driver.ask("put-inactive" if inactive else "put", pool, *key, content)
        if answer.split()[0] in FULL and self.model[pool].params["zv_page_count_policy_percent"]:
            used = max(used, self.driver.totals()["used_bytes"])  # a codec's first put makes its state
            extent = 8 if self.model[pool].allocator == "zsmalloc" else 1
            near = used + (extent + 3) * self.page_size + SLACK > self.limit > 0
            assert near or (self.refuses and used > self.limit * 0.9)
            self.refuses |= answer.startswith("policy_percent_exceeded")
            assert self.model[pool].ephemeral or self.driver.totals()["eph_pageframes"] == 0
        self.check_put(pool, key, content, answer, inactive=inactive)
        self.settle()

    @precondition(lambda self: self.model)
    @rule(data=st.data(), entries=st.lists(st.tuples(keys, seeds, eighths), min_size=1, max_size=40))
    def put_batch(self, data: st.DataObject, entries: list[tuple[Key, int, int]]) -> None:
        pool = self.a_pool(data)
        contents = [self.content(seed, eighths) for _, seed, eighths in entries]
        lines = [f"{key[0]} {key[1]} {content}" for (key, _, _), content in zip(entries, contents, strict=True)]
        answers = self.driver.batch("puts", pool, lines)
        for (key, _, _), content, answer in zip(entries, contents, answers, strict=True):
            self.check_put(pool, key, content, answer)
        self.settle()

    @precondition(lambda self: self.model)
    @rule(data=st.data(), first=st.integers(0, 300), count=st.integers(1, 64), seed=seeds, eighths=eighths)
    def put_run(self, data: st.DataObject, first: int, count: int, seed: int, eighths: int) -> None:
        """Adjacent pages of one object: enough for an index to split and join its leaves."""
        self.do_put_run(self.a_pool(data), first, count, seed, eighths)

    def do_put_run(self, pool: str, first: int, count: int, seed: int, eighths: int) -> None:
        contents = [self.content(seed + i % 4, eighths) for i in range(count)]
        answers = self.driver.batch("puts", pool, [f"7 {first + i} {contents[i]}" for i in range(count)])
        for i, answer in enumerate(answers):
            self.check_put(pool, (7, first + i), contents[i], answer)
        self.settle()

    @rule(data=st.data(), peek=st.booleans())
    def get(self, data: st.DataObject, peek: bool) -> None:
        pool = self.a_held_pool(data)
        key = self.a_key(data, pool)
        expected = self.model[pool].get(key, peek=peek) if pool in self.model else "err ENOENT"
        assert self.driver.ask("peek" if peek else "get", pool, *key) == expected
        self.find_warmed(pool)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), peek=st.booleans())
    def get_batch(self, data: st.DataObject, peek: bool) -> None:
        pool = self.a_held_pool(data)
        some = self.some_keys(data, pool)
        answers = self.driver.batch("peeks" if peek else "gets", pool, [f"{key[0]} {key[1]}" for key in some])
        assert answers == [self.model[pool].get(key, peek=peek) for key in some]
        self.find_warmed(pool)

    def find_warmed(self, pool: str) -> None:
        model = self.model.get(pool)
        if not model or not model.params["cold_readahead"]:
            return
        for key, held in sorted(model.pages.items()):
            if held.kind == "cold" and self.driver.ask("where", pool, *key) == "zpage":
                zsize = int(self.driver.ask("size", pool, *key))
                assert self.sizes.setdefault((model.codec, held.content), zsize) == zsize
                model.warm(key, zsize)

    @rule(data=st.data())
    def flush(self, data: st.DataObject) -> None:
        pool = self.a_held_pool(data)
        key = self.a_key(data, pool)
        expected = self.model[pool].flush(key) if pool in self.model else "err ENOENT"
        assert self.driver.ask("flush", pool, *key) == expected

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def flush_batch(self, data: st.DataObject) -> None:
        pool = self.a_held_pool(data)
        some = self.some_keys(data, pool)
        answers = self.driver.batch("flushes", pool, [f"{key[0]} {key[1]}" for key in some])
        assert answers == [self.model[pool].flush(key) for key in some]

    @precondition(lambda self: self.model)
    @rule(data=st.data(), objects=st.lists(st.sampled_from([*OBJECTS, 5]), min_size=1, max_size=3))
    def flush_objects(self, data: st.DataObject, objects: list[int]) -> None:
        pool = self.a_held_pool(data)
        answers = self.driver.batch("flobjs", pool, [str(object_id) for object_id in objects])
        assert answers == [self.model[pool].flush_object(object_id) for object_id in objects]

    @precondition(lambda self: self.model)
    @rule(data=st.data(), change=st.sampled_from(CHANGES))
    def set_param(self, data: st.DataObject, change: tuple[str, str]) -> None:
        """Where raw pages are kept it is not told which pages are poor, so then no run of them is counted."""
        pool, (name, value) = self.a_pool(data), change
        model = self.model[pool]
        if name == "poor_run_limit" and (model.params["keep_rejected"] or model.backing):
            value = "0"
        if name == "keep_rejected":
            self.count_no_poor_runs(pool)
        assert self.driver.ask("param", pool, name, value) == "ok"
        number, _, divisor = value.removesuffix("%").partition("/")
        by = 100 if value.endswith("%") else int(divisor or 1)
        whole = self.page_size if "%" in value or "/" in value else 1
        self.model[pool].params[name] = int(number) * whole // by
        self.settle()

    def count_no_poor_runs(self, pool: str) -> None:
        assert self.driver.ask("param", pool, "poor_run_limit", 0) == "ok"
        self.model[pool].params["poor_run_limit"] = 0

    @precondition(lambda self: self.model)
    @rule(data=st.data(), codec=st.sampled_from([*CODECS, "lz5", "zstd:20", "lz4:0", "zstd:3:dict=2"]))
    def set_codec(self, data: st.DataObject, codec: str) -> None:
        pool = self.a_pool(data)
        if self.limited and codec == "none":
            codec = "lz4"  # else what is raw could not be told from what is not
        if codec in CODECS:
            assert self.driver.ask("codec", pool, codec) == "ok"
            self.model[pool].codec = codec
        else:
            expected = "err ENOENT" if "dict" in codec else "err EINVAL"
            assert self.driver.ask("codec", pool, codec) == expected

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        pool = self.a_held_pool(data)
        before = self.driver.stats(pool)["frames"]
        word, frames = self.driver.ask("compact", pool).split()
        assert (word, int(frames)) == ("frames", before - self.driver.stats(pool)["frames"])
        assert self.driver.ask("compact", pool) == "frames 0"

    @precondition(lambda self: self.model)
    @rule(data=st.data(), frames=st.integers(1, 12), share=st.integers(0, 8))
    def reclaim(self, data: st.DataObject, frames: int, share: int) -> None:
        """Pages leave ephemeral pools without a word, persistent ones only to who takes them."""
        pool = self.a_held_pool(data)
        model, before = self.model[pool], self.driver.stats(pool)
        ask = ["reclaim", pool, frames] if model.ephemeral else ["reclaim", pool, frames, share]
        _, freed, _, zpages, _, *taken = self.driver.ask(*ask).split()
        after = self.driver.stats(pool)
        assert int(freed) == before["frames"] - after["frames"]
        held = model.in_memory()
        if model.ephemeral:
            self.forget_dropped(pool, held)
            self.evicted[pool] += int(zpages)
            assert not taken
        for page in taken:
            object_id, index, crc32 = (int(number) for number in page.split(":"))
            assert index % 8 < share
            assert crc32 == crc(model.drop((object_id, index)).content, self.page_size)
        left = model.in_memory()
        assert int(zpages) == len(held) - len(left)
        assert model.ephemeral or len(taken) == int(zpages)
        if model.ephemeral or share == 8:
            assert int(freed) >= frames or not left

    @precondition(lambda self: self.model)
    @rule(percent=st.sampled_from([0, 10, 100]))
    def run_short_of_memory(self, percent: int) -> None:
        """Every ephemeral pool may give pages up, and none does that for nothing; and those with a backing store."""
        assert self.driver.ask("set", "pressure_shrink_percent", percent) == "ok"
        self.settle()  # that had it look at its limit, which a codec's state for a get may have passed
        before = self.driver.totals()
        assert self.driver.ask("pressure") == "ok"
        after = self.driver.totals()
        gone = before["eph_pageframes"] - after["eph_pageframes"]
        assert gone >= -(-before["eph_pageframes"] * percent // 100)
        assert gone == 0 or percent
        for kept in (before, after):
            kept["pers_zpages"] += kept["written_pages"]
        assert after["pers_zpages"] == before["pers_zpages"]
        self.settle()

    def settle(self) -> None:
        """What was dropped in the background, or for a persistent pool's sake, is not there any more."""
        assert self.driver.ask("settle") == "ok"
        for name, model in self.model.items():
            if model.params["cold_after"]:
                self.learn_what_went_cold(name)
            if not model.ephemeral:
                self.learn_what_was_written(name)
                continue
            stats = self.driver.stats(name)
            evicted = sum(stats[cause] for cause in CAUSES)
            if evicted != self.evicted[name]:
                before = len(model.pages)
                self.forget_dropped(name, {key for key, held in model.pages.items() if held.kind != "fill"})
                assert before - len(model.pages) == evicted - self.evicted[name]
                self.evicted[name] = evicted

    def learn_what_went_cold(self, name: str) -> None:
        """By itself. Some may be elsewhere by now."""
        model = self.model[name]
        self.reached["cold_after pages"] += len(self.find_chilled(name))
        recompressed = self.driver.stats(name)["recompressed_pages"]
        assert recompressed >= model.count["recompressed_pages"]
        model.count["recompressed_pages"] = recompressed

    def learn_what_was_written(self, name: str) -> None:
        """By itself."""
        stats = self.driver.stats(name)
        written = sum(stats[cause] for cause in WRITTEN[1:])
        more, model = written - self.by_itself[name], self.model[name]
        if more == 0:
            return
        assert model.backing
        model.is_well = True
        self.by_itself[name] = written
        self.reached.update(f"{cause} pages" for cause in WRITTEN[1:] if stats[cause])
        for key in model.in_memory():
            if self.driver.ask("where", name, *key) == "written":
                model.write_back(key)
                more -= 1
        assert more >= 0  # some were put again, or flushed
        model.count["writeback_pages"] += more

    @precondition(lambda self: self.model)
    @rule(data=st.data(), frames=st.sampled_from([1, 3, 10**6]), codec=st.sampled_from(["zstd:3", "lz4"]))
    def recompress(self, data: st.DataObject, frames: int, codec: str) -> None:
        pool = self.a_held_pool(data)
        assert self.driver.ask("param", pool, "cold_codec", codec) == "ok"
        self.settle()
        before = self.driver.stats(pool)["frames"]
        _, freed, _, pages, _, extents, said = self.driver.ask("recompress", pool, frames).split()
        assert said == "ok"
        assert int(freed) == max(0, before - self.driver.stats(pool)["frames"])
        assert int(extents) <= int(pages)
        assert int(pages) == len(self.find_chilled(pool))

    @rule(seconds=st.sampled_from([1000, 2000]))
    def let_time_pass(self, seconds: int) -> None:
        """Every page becomes idle for longer. What an example takes by itself is less by far.

        What was idle for long, and may leave, has left then."""
        self.skip(seconds)
        for model in self.model.values():
            if seconds > model.params["writeback_after"] > 0 and model.backing:
                assert not any(map(model.must_leave, model.in_memory()))

    def skip(self, seconds: int) -> None:
        assert self.driver.ask("skip", seconds) == "ok"
        for model in self.model.values():
            model.now += seconds
        self.settle()

    @precondition(lambda self: self.model)
    @rule(data=st.data(), seconds=st.sampled_from([500, 1500]))
    def recompress_idle(self, data: st.DataObject, seconds: int) -> None:
        pool = self.a_held_pool(data)
        model = self.model[pool]
        before = self.driver.stats(pool)["frames"]
        _, freed, _, pages, *_, said = self.driver.ask("recompress-idle", pool, seconds).split()
        assert said == "ok" or (said == "ENOMEM" and self.limit)
        assert int(freed) == max(0, before - self.driver.stats(pool)["frames"])
        chilled = self.find_chilled(pool)
        assert int(pages) == len(chilled)
        assert all(model.now - model.used[key] >= seconds for key in chilled)

    def find_chilled(self, pool: str) -> list[Key]:
        """Warm pages that have become cold."""
        model = self.model[pool]
        held = [key for key in sorted(model.in_memory()) if model.pages[key].kind != "cold"]
        for key in held:
            if self.driver.ask("where", pool, *key) == "cold":
                model.chill(key)
        return [key for key in held if model.pages[key].kind == "cold"]

    def forget_dropped(self, pool: str, held: set[Key]) -> None:
        for key in held:
            answer = self.driver.ask("peek", pool, *key)
            self.model[pool].count["gets"] += 1
            if answer == "err ENOENT":
                self.model[pool].drop(key)
            else:
                self.model[pool].count["gets_found"] += 1
                assert answer == f"page {crc(self.model[pool].pages[key].content, self.page_size)}"

    # ---- backing stores ----

    def path(self, pool: str) -> str:
        return f"{self.directory.name}/{pool}"

    def attach(self, pool: str, layout: str) -> str:
        return self.driver.ask("backing", pool, self.path(pool), layout, STORE_PAGES * self.page_size).split(" /")[0]

    def attach_new(self, pool: str, layout: str) -> None:
        Path(self.path(pool)).unlink(missing_ok=True)
        assert self.attach(pool, layout) == "ok"
        self.count_no_poor_runs(pool)
        self.model[pool].backing, self.model[pool].is_well = layout, True
        self.settle()

    @precondition(lambda self: self.model)
    @rule(data=st.data(), layout=st.sampled_from(["packed", "in_place"]))
    def set_backing(self, data: st.DataObject, layout: str) -> None:
        pool = self.a_pool(data)
        model = self.model[pool]
        if model.ephemeral or model.backing:
            expected = "err EPERM" if model.ephemeral else "err EBUSY"
            assert self.attach(pool, layout).startswith(expected)
            return
        self.attach_new(pool, layout)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def take_backing_away(self, data: st.DataObject) -> None:
        """Not while pages are in it. In the end it is gone, so that what is drawn later hangs on no whims."""
        pool = self.a_pool(data)
        model = self.model[pool]
        if model.stats()["written_pages"]:
            assert self.driver.ask("backing", pool, "none").startswith("err EBUSY")
            for object_id in OBJECTS:
                assert self.driver.ask("flobj", pool, object_id) == model.flush_object(object_id)
        assert self.driver.ask("backing", pool, "none") == "ok"
        model.backing, model.in_place = "", None

    def a_written_pool(self, data: st.DataObject) -> str:
        backed = sorted(name for name, pool in self.model.items() if pool.backing)
        return data.draw(st.sampled_from(backed)) if backed else self.a_pool(data)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), frames=st.sampled_from([1, 2, 7, 10**6]))
    def write_back(self, data: st.DataObject, frames: int) -> None:
        pool = self.a_written_pool(data)
        model = self.model[pool]
        freed, said = self.do_write_back(pool, frames)
        assert said == ("ok" if model.backing else "ENXIO")
        if model.backing:
            assert freed >= frames or not any(map(model.must_leave, model.in_memory()))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), fault=st.sampled_from(FAULTS), after=st.integers(0, 4), count=st.sampled_from([1, 99]))
    def write_back_with_faults(self, data: st.DataObject, fault: tuple[str, str], after: int, count: int) -> None:
        """Whatever fails, a page is in memory or in the store."""
        pool = self.a_written_pool(data)
        call, error = fault
        assert self.driver.ask("fault", call, error, after, count) == "ok"
        _, said = self.do_write_back(pool, 10**6)
        assert self.driver.ask("fault", call, error, 0, 0) == "ok"
        assert said in ("ok", "EIO", "ENOSPC", "ENXIO")
        self.skip(100)  # it is left alone for less

    def do_write_back(self, pool: str, frames: int) -> tuple[int, str]:
        """Frames freed, and how it ended; the model learns which pages went."""
        model, before = self.model[pool], self.driver.stats(pool)
        self.may_have_written |= bool(model.backing and self.tried[pool])
        _, freed, _, pages, said = self.driver.ask("writeback", pool, frames).split()
        after = self.driver.stats(pool)
        assert int(freed) == before["frames"] - after["frames"]
        held = model.in_memory()
        for key in sorted(held):
            kind = self.driver.ask("where", pool, *key)
            if kind == "written":
                model.write_back(key)
            else:
                assert kind == model.pages[key].kind
        assert int(pages) == len(held) - len(model.in_memory())
        if model.backing:
            model.is_well = said == "ok" and (model.is_well or int(pages) > 0)
        return int(freed), said

    @precondition(lambda self: self.model)
    @rule(data=st.data(), error=st.sampled_from(READ_FAULTS), peek=st.booleans())
    def get_what_cannot_be_read(self, data: st.DataObject, error: str, peek: bool) -> None:
        pool = self.a_written_pool(data)
        key = self.a_key(data, pool)
        held = self.model[pool].pages.get(key)
        assert self.driver.ask("fault", "pread", error, 0, 1) == "ok"
        answer = self.driver.ask("peek" if peek else "get", pool, *key)
        assert self.driver.ask("fault", "pread", error, 0, 0) == "ok"
        if held and held.kind == "written":
            assert answer == self.model[pool].fail_to_read()
        else:
            assert answer == self.model[pool].get(key, peek=peek)

    @precondition(lambda self: self.may_have_written)
    @rule(save=st.booleans())
    def restart(self, save: bool) -> None:
        """A clean stop brings everything back that found a place; else what was written comes back."""
        _, saved, _, lost, said = self.driver.ask("restart", "save" if save else "drop").split()
        assert said == "ok"
        if self.limited:
            assert self.driver.ask("reserve", 0) == "ok"
        self.limit = 0
        assert self.driver.ask("dictionary", 5, 3000) == "id 1"
        before, self.model, self.may_have_written = self.model, {}, False
        tried = self.tried.copy()
        self.tried.clear()
        self.by_itself.clear()
        self.evicted.clear()
        pages = there = 0
        for name, old in before.items():
            if old.backing:
                pages += len(old.pages)
                there += self.come_back(name, old, save)
                self.tried[name] = tried[name]
        assert not save or (int(saved), int(lost)) == (there, pages - there)

    def come_back(self, name: str, old: Pool, save: bool) -> int:
        """Of a pool with a backing store: what is there again."""
        self.create(name)
        assert self.attach(name, old.backing) == "ok"
        model = self.model[name]
        model.backing, model.in_place, model.wrote_extents = old.backing, old.in_place, old.wrote_extents
        for key, held in sorted(old.pages.items()):
            where = self.driver.ask("where", name, *key)
            if where == "none":
                assert held.kind != "written"
                assert not save or not old.may_leave(key) or old.in_place is None
                continue
            assert where == "written"
            model.pages[key] = held
            if held.kind != "written":
                assert save
                model.leave(key)
        objects = {key[0] for key in model.pages}
        assert old.backing == "packed" or len(objects) <= 1
        assert not save or all(key in model.pages for key in old.pages if model.must_leave(key))
        return len(model.pages)

    @invariant()
    def it_holds_together(self) -> None:
        assert self.driver.ask("check") == "ok"

    @precondition(lambda self: self.limited)
    @rule(frames=st.sampled_from([None, 0, 2, 20]))
    def set_limit(self, frames: int | None) -> None:
        """So many frames above what is used, or one that ephemeral pages have to make room for."""
        self.limit_to(frames)

    @precondition(lambda self: self.limited and self.model)
    @rule(data=st.data(), count=st.integers(16, 64), seed=seeds, eighths=st.integers(1, 6))
    def come_to_the_limit(self, data: st.DataObject, count: int, seed: int, eighths: int) -> None:
        """Where pages leave by themselves."""
        pool = self.a_written_pool(data)
        self.limit_to(2)
        self.do_put_run(pool, 0, count, seed, eighths)

    def limit_to(self, frames: int | None) -> None:
        used = self.driver.totals()["used_bytes"]
        self.limit = 0 if frames is None else used + SLACK + frames * self.page_size
        self.refuses = False
        assert self.driver.ask("limit", self.limit) == "ok"
        self.settle()

    @invariant()
    def counters_agree(self) -> None:
        for name, pool in self.model.items():
            stats = self.driver.stats(name)
            frames, metadata, used = (stats.pop(memory) for memory in ("frames", "metadata_bytes", "used_bytes"))
            expected = pool.stats()
            for moved in ("zpages", "frames"):
                suffix = "_frames" if moved == "frames" else ""
                assert stats[f"reclaimed_{moved}"] == sum(stats[cause + suffix] for cause in CAUSES)
            if pool.wrote_extents:
                stats["written_bytes"] = expected["written_bytes"]
            assert stats["cold_extents"] <= stats["cold_pages"] <= 16 * stats["cold_extents"]
            warm = frames - stats["cold_frames"]
            assert -(-stats["cold_bytes"] // self.page_size) <= stats["cold_frames"] <= 8 * 16 * stats["cold_extents"]
            for counter in MOVED:
                stats.pop(counter)
            assert {key: value for key, value in stats.items() if value} == {
                key: value for key, value in expected.items() if value
            }
            assert warm in pool.frames()
            assert used == frames * self.page_size + metadata
            assert metadata > 0

    @invariant()
    def totals_agree(self) -> None:
        totals = self.driver.totals()
        expected = Counter(pools=len(self.model))
        for name, pool in self.model.items():
            stats = self.driver.stats(name)
            kind = "eph" if pool.ephemeral else "pers"
            in_memory = len(pool.pages) - stats["written_pages"]
            expected[f"{kind}_zpages"] += in_memory
            if not pool.ephemeral:
                expected["unsaved" if pool.backing else "pers_unsaved"] += in_memory
            expected[f"{kind}_pageframes"] += stats["frames"]
            both_have = (
                "frames",
                "same_filled",
                "zbytes",
                "written_pages",
                "written_bytes",
                "cold_pages",
                "cold_bytes",
            )
            for both in both_have:
                expected[both] += stats[both]
        for name in ("pressures", "pressure_source"):
            totals.pop(name)
        memory = {name: totals.pop(name) for name in ("limit_bytes", "reserve_frames", "metadata_bytes", "used_bytes")}
        unsaved = totals.pop("pers_unsaved")  # also of a backing store that owes a write
        assert 0 <= unsaved - expected["pers_unsaved"] <= expected["unsaved"]
        assert totals == {name: expected[name] for name in totals}
        frames = totals["frames"] + memory["reserve_frames"]
        assert memory["used_bytes"] == frames * self.page_size + memory["metadata_bytes"]
        assert memory["limit_bytes"] == (self.limit or self.default_limit)

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
