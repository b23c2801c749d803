# SPDX-License-Identifier: Apache-2.0
"""What a store must do, said without allocators, shards or locks. Only a zpage's size is taken from the driver."""

from collections import Counter
from dataclasses import dataclass, field

from tests.native.driver import crc, same_filled

BUCKETS = 64
MANY = 1000
"""Indexes below are within every backing store."""
Key = tuple[int, int]


@dataclass
class Held:
    content: str
    kind: str
    """zpage, fill, raw, cold: in an extent, or written: in the backing store."""
    zsize: int


@dataclass
class Pool:
    page_size: int
    ephemeral: bool
    allocator: str = "zbud"
    codec: str = "lz4"
    pages: dict[Key, Held] = field(default_factory=dict)
    count: Counter[str] = field(default_factory=Counter)
    cumul: Counter[int] = field(default_factory=Counter)
    params: dict[str, int] = field(default_factory=dict)
    backing: str = ""
    """The backing store's layout; none: \"\"."""
    is_well: bool = True
    """The last writeback did not fail."""
    now: int = 0
    """Seconds that it has been older than it is."""
    used: dict[Key, int] = field(default_factory=dict)
    """Of each page, when it was put or last got."""
    wrote_extents: bool = False
    """Records of several pages: how large they are is not told."""
    in_place: int | None = None
    """The object whose pages are in it, in place; None: not told yet."""
    poor_run: int = 0
    """Pages in a row that compressed poorly, or were refused for that."""

    def __post_init__(self) -> None:
        self.params = {
            "zv_max_zsize": self.page_size * 7 // 8,
            "zv_max_mean_zsize": self.page_size * 5 // 8,
            "zv_page_count_policy_percent": 75,
            "exclusive_gets": int(self.ephemeral),
            "keep_rejected": 0,
            "checksums": 1,
            "entropy_gate": 0,
            "compact_auto": 1,
            "writeback_budget": 0,
            "writeback_auto": 1,
            "writeback_after": 0,
            "nonactive_puts_ignored": 0,
            "poor_run_limit": 0,
            "cold_extent": 4,
            "cold_readahead": 0,
            "cold_after": 0,
            "cold_cpu_percent": 100,
        }

    def zpages(self) -> list[Held]:
        return [held for held in self.pages.values() if held.kind == "zpage"]

    def in_poor_run(self) -> bool:
        limit = self.params["poor_run_limit"]
        if limit == 0:
            self.poor_run = 0
        if limit == 0 or self.poor_run < limit:
            return False
        self.poor_run += 1
        return (self.poor_run - 1 - limit) % 16 != 15

    def count_poor_run(self, *, poor: bool) -> None:
        if not poor:
            self.poor_run = 0
        elif self.poor_run < self.params["poor_run_limit"]:
            self.poor_run += 1

    def admit(self, content: str, zsize: int, full: str, *, inactive: bool, over: bool | None) -> tuple[str, str]:
        """The answer's first word, and the kind it is held as, or would be."""
        if inactive and self.params["nonactive_puts_ignored"]:
            return f"{'eph' if self.ephemeral else 'pers'}_nonactive_puts_ignored", "nothing"
        if same_filled(content, self.page_size):
            return "stored", "fill"
        if full == "policy_percent_exceeded" or self.params["zv_page_count_policy_percent"] == 0:
            return "policy_percent_exceeded", "nothing"
        if self.in_poor_run():
            if self.keeps_raw():
                return full or "stored", "raw"
            return "poor_run_refused", "nothing"
        zpages = self.zpages()
        total = sum(held.zsize for held in zpages)
        refusal = ""
        max_mean = self.params["zv_max_mean_zsize"]
        if zsize > self.params["zv_max_zsize"] or zsize > self.page_size:
            refusal = "compress_poor"
        elif zsize > max_mean and (zpages and total > max_mean * len(zpages) if over is None else over):
            refusal = "mean_compress_poor"
        self.count_poor_run(poor=refusal == "compress_poor")
        if refusal and self.keeps_raw():
            return full or "stored", "raw"
        return refusal or full or "stored", "zpage"

    def keeps_raw(self) -> bool:
        return bool(self.params["keep_rejected"] or (self.backing and self.is_well))

    def put(self, key: Key, content: str, compressed: int, full: str, *, inactive: bool, over: bool | None) -> str:
        """The expected answer; `compressed`: what the content compresses to; `full`: the refusal of a full store;
        `over`: of pages that may have left meanwhile, whether their mean is over zv_max_mean_zsize."""
        word, kind = self.admit(content, compressed, full, inactive=inactive, over=over)
        zsize = {"fill": 0, "nothing": 0, "raw": self.page_size, "zpage": compressed}[kind]
        old = self.pages.pop(key, None)
        self.count["puts"] += 1
        if word != "stored":
            self.count[word] += 1
            self.count["put_to_flush"] += old is not None
            return f"{word} {zsize}"
        self.count["stored_puts"] += 1
        self.count["dup_puts"] += old is not None
        self.count["kept_rejected"] += kind == "raw"
        self.pages[key] = Held(content, kind, zsize)
        self.used[key] = self.now
        if kind == "zpage":
            self.cumul[self.bucket(zsize)] += 1
        return f"stored {zsize}"

    def get(self, key: Key, *, peek: bool) -> str:
        self.count["gets"] += 1
        held = self.pages.get(key)
        if not held:
            return "err ENOENT"
        self.count["gets_found"] += 1
        if not peek:
            self.used[key] = self.now
        if self.params["exclusive_gets"] and not peek:
            del self.pages[key]
        self.count["written_gets"] += held.kind == "written"
        return f"page {crc(held.content, self.page_size)}"

    def fail_to_read(self) -> str:
        """A get of a written page."""
        for counter in ("gets", "written_gets", "read_errors"):
            self.count[counter] += 1
        return "err EIO"

    def in_memory(self) -> set[Key]:
        """Pages that have a place in memory."""
        return {key for key, held in self.pages.items() if held.kind in ("zpage", "raw", "cold")}

    def may_leave(self, key: Key) -> bool:
        """Would it find a place in the backing store?"""
        if self.backing != "in_place":
            return True
        return key[1] < MANY and self.in_place in (None, key[0])

    def must_leave(self, key: Key) -> bool:
        """In place whose pages they are may be settled by a batch that failed."""
        return self.may_leave(key) and (self.backing != "in_place" or self.in_place is not None)

    def write_back(self, key: Key) -> None:
        """In place the first page says whose they are."""
        assert self.may_leave(key)
        self.leave(key)
        self.count["writeback_pages"] += 1

    def chill(self, key: Key) -> None:
        """The page has become one of an extent."""
        held = self.pages[key]
        assert held.kind in ("zpage", "raw")
        self.pages[key] = Held(held.content, "cold", 0)
        self.count["recompressed_pages"] += 1

    def warm(self, key: Key, zsize: int) -> None:
        """Another page of its extent was got, or itself."""
        held = self.pages[key]
        assert held.kind == "cold"
        assert 0 < zsize <= self.params["zv_max_zsize"]
        self.pages[key] = Held(held.content, "zpage", zsize)
        self.used[key] = self.now
        self.count["warmed_pages"] += 1

    def leave(self, key: Key) -> None:
        held = self.pages[key]
        self.wrote_extents |= held.kind == "cold" and self.backing == "packed"
        size = 8 if held.kind == "fill" else held.zsize
        if self.backing == "in_place":
            self.in_place = key[0]
            size = self.page_size
        self.pages[key] = Held(held.content, "written", size)

    def flush(self, key: Key) -> str:
        self.count["flush_total"] += 1
        if self.pages.pop(key, None) is None:
            return "err ENOENT"
        self.count["flush_found"] += 1
        return "ok"

    def flush_object(self, object_id: int) -> str:
        mine = [key for key in self.pages if key[0] == object_id]
        for key in mine:
            del self.pages[key]
        self.count["flobj_total"] += 1
        self.count["flobj_found"] += bool(mine)
        return f"pages {len(mine)}"

    def bucket(self, zsize: int) -> int:
        """The upper bound of its histogram bucket."""
        width = self.page_size // BUCKETS
        return -(-zsize // width) * width

    def stats(self) -> dict[str, int]:
        """Every counter but those of memory."""
        kinds = Counter(held.kind for held in self.pages.values())
        held = {
            "zpages": kinds["zpage"],
            "same_filled": kinds["fill"],
            "raw_pages": kinds["raw"],
            "cold_pages": kinds["cold"],
            "zbytes": sum(held.zsize for held in self.zpages()),
            "written_pages": kinds["written"],
            "written_bytes": sum(held.zsize for held in self.pages.values() if held.kind == "written"),
        }
        return {**self.count, **held}

    def dist(self) -> str:
        curr = Counter(self.bucket(held.zsize) for held in self.zpages())
        words = [f"{bound}:{counts}" for bound, counts in sorted(curr.items())]
        ever = [f"{bound}:{counts}" for bound, counts in sorted(self.cumul.items())]
        return " ".join(["curr", *words, "cumul", *ever])

    def drop(self, key: Key) -> Held:
        """By reclaim."""
        return self.pages.pop(key)

    def frames(self) -> range:
        """How many the allocator may hold; a raw page is alone in its own."""
        stats = self.stats()
        raw, zpages = stats["raw_pages"], stats["zpages"]
        if self.allocator == "zbud":  # at most two zpages in each
            return range(raw + (zpages + 1) // 2, raw + zpages + 1)
        least = -(-stats["zbytes"] // self.page_size)
        return range(raw + least, raw + 8 * zpages + 1)
