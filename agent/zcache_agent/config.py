# SPDX-License-Identifier: Apache-2.0
"""Settings of a device as one TOML file: zcache's store, pools, swap device and block cache, and the kernel's own
compressed memory. docs/config.md has every key. What is left out stays as it is."""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import cattrs
import tomlkit
from cattrs.gen import make_dict_structure_fn, override

from .control import Description
from .errors import Usage
from .kinds import Algorithms, Flag, Kind, Number, Seconds, Size, Threshold, Value, Words, bytes_of

KEYS = "docs/config.md has all keys"
_CODEC = r"(lz4(:\d+)?|lzo|none|zstd(:-?\d+)?(:dict=\d+)?)"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,62}")
_WORD = r"[^\s\"\\]+"


@attrs.frozen
class Key:
    kind: Kind
    meaning: str
    to: str = ""
    """The node below its table's directory, or the kernel's file. Empty: it is a part of what makes the thing."""


def _key(kind: Kind, meaning: str, to: str = "") -> Any:  # noqa: ANN401 (attrs.field's own way)
    return attrs.field(default=None, kw_only=True, metadata={"key": Key(kind, meaning, to)})


def keys_of(table: type) -> dict[str, Key]:
    """The keys of a table, in their order."""
    return {each.name: each.metadata["key"] for each in attrs.fields(table) if "key" in each.metadata}


_PERCENTAGE = Number(0, 100, "percent")
_NODE_SECONDS = Seconds(0, 32767)
_CODEC_KIND = Words(_CODEC, "a codec: lz4[:ACCELERATION], zstd[:LEVEL][:dict=ID], none")


@attrs.define
class Store:
    """zcache's store as a whole."""

    limit: int | str | None = _key(Size(percent=True), "memory that the store may use", "limit")
    reserve: int | None = _key(Number(0, 1 << 32, "frames"), "frames kept ready for the next puts", "reserve")
    high_watermark_percent: int | None = _key(_PERCENTAGE, "of the limit: over this, the coldest pages go",
                                              "high_watermark_percent")  # fmt: skip
    low_watermark_percent: int | None = _key(_PERCENTAGE, "of the limit: down to this", "low_watermark_percent")
    accept_threshold_percent: int | None = _key(
        _PERCENTAGE, "of the limit: once it refused a put, puts are refused down to this", "accept_threshold_percent"
    )
    pressure_shrink_percent: int | None = _key(
        _PERCENTAGE, "of their frames: what ephemeral pools and those with a backing store give up if memory is short",
        "pressure_shrink_percent",
    )  # fmt: skip


@attrs.define
class Pool:
    """A pool of zcache's; made where it is not there."""

    kind: str | None = _key(Words("persistent|ephemeral", "persistent or ephemeral"),
                            "persistent: no page is lost; ephemeral: pages may be dropped; needed")  # fmt: skip
    allocator: str | None = _key(Words("zbud|zsmalloc", "zbud or zsmalloc"), "where zpages lie; else zbud")
    codec: str | None = _key(_CODEC_KIND, "what compresses new pages", "codec")
    backing: str | None = _key(Words(f"/{_WORD}", "an absolute path on the device, without spaces"),
                               "backing store: a file or block device; only for a pool that is made")  # fmt: skip
    backing_layout: str | None = _key(
        Words("packed|in_place", "packed or in_place"), "of the backing store; else packed"
    )
    backing_size: int | str | None = _key(Size(), "make the backing file, or extend it, to that")
    zv_max_zsize: int | str | None = _key(Threshold(), "a larger zpage is refused", "params/zv_max_zsize")
    zv_max_mean_zsize: int | str | None = _key(
        Threshold(), "a larger zpage is refused while the pool's mean is larger, too", "params/zv_max_mean_zsize"
    )
    zv_page_count_policy_percent: int | None = _key(
        _PERCENTAGE, "of RAM, that the pool's frames may use", "params/zv_page_count_policy_percent"
    )
    exclusive_gets: bool | None = _key(Flag(), "a get takes the page away", "params/exclusive_gets")
    keep_rejected: bool | None = _key(Flag(), "keep badly compressing pages uncompressed", "params/keep_rejected")
    ignore_low_memory: bool | None = _key(Flag(), "take pages also while memory is short", "params/ignore_low_memory")
    checksums: bool | None = _key(Flag(), "zpages get a checksum, which a get verifies", "params/checksums")
    entropy_gate: int | None = _key(
        Number(0, 8000, "millibits a byte"), "a page estimated above this is refused uncompressed; 0: none is",
        "params/entropy_gate",
    )  # fmt: skip
    compact_auto: bool | None = _key(Flag(), "compact when flushes left frames badly filled", "params/compact_auto")
    nonactive_puts_ignored: bool | None = _key(
        Flag(), "pages that the frontend calls inactive are refused", "params/nonactive_puts_ignored"
    )
    poor_run_limit: int | None = _key(
        Number(0, 65535, "pages"), "after so many refusals in a row most are refused untried; 0: all are tried",
        "params/poor_run_limit",
    )  # fmt: skip
    writeback_budget: int | str | None = _key(
        Size(unit="bytes a day"), "what writeback may write; 0: any number", "params/writeback_budget"
    )
    writeback_auto: bool | None = _key(
        Flag(),
        "pages go to the backing store over the high watermark, or when memory is short",
        "params/writeback_auto",
    )
    writeback_after: int | None = _key(
        _NODE_SECONDS, "pages idle for so long go to the backing store; 0: none", "params/writeback_after"
    )
    cold_after: int | None = _key(
        _NODE_SECONDS, "pages idle for so long are compressed again; 0: never", "params/cold_after"
    )
    cold_extent: int | None = _key(Number(1, 16, "pages: 1, 2, 4, 8 or 16"), "pages compressed together then",
                                   "params/cold_extent")  # fmt: skip
    cold_readahead: bool | None = _key(Flag(), "a get of a cold page makes its neighbours warm, too",
                                       "params/cold_readahead")  # fmt: skip
    cold_cpu_percent: int | None = _key(Number(1, 100, "percent of a CPU"), "what cold_after may take",
                                        "params/cold_cpu_percent")  # fmt: skip
    cold_codec: str | None = _key(_CODEC_KIND, "what compresses cold pages", "params/cold_codec")


_TRANSPORT = Words("ublk|nbd", "ublk or nbd")
_POOL_NAME = Words(_NAME.pattern, "a pool's name")


@attrs.define
class Swap:
    """zcache's swap device. Needs root."""

    size: int | str | None = _key(Size(), "of the device, before compression; needed")
    pool: str | None = _key(_POOL_NAME, "a persistent pool without pages, of this file or there; needed")
    priority: int | None = _key(Number(0, 32767), "above that of all other swap; else the least that is")
    transport: str | None = _key(_TRANSPORT, "else ublk where the kernel has it")


@attrs.define
class BlockCache:
    """zcache's block cache. Needs root."""

    source: str | None = _key(Words(f"/{_WORD}", "an absolute path on the device, without spaces"),
                              "the block device or file that is read through it; needed")  # fmt: skip
    pool: str | None = _key(_POOL_NAME, "an ephemeral pool without pages, of this file or there; needed")
    read_only: bool | None = _key(Flag(), "also where the source could be written")
    transport: str | None = _key(_TRANSPORT, "else ublk where the kernel has it")


_VM = "/proc/sys/vm/"


@attrs.define
class Vm:
    """The kernel's memory management, `sysctl vm`. Needs root, as all of kernel."""

    swappiness: int | None = _key(Number(0, 200), "cost of swap against that of files; over 100: swap is cheaper",
                                  f"{_VM}swappiness")  # fmt: skip
    page_cluster: int | None = _key(Number(0, 10), "swap reads 2 to the power of this pages at once; 0 suits zram",
                                    f"{_VM}page-cluster")  # fmt: skip
    watermark_scale_factor: int | None = _key(
        Number(1, 3000, "ten-thousandths of memory"), "distance of the watermarks: more wakes kswapd earlier",
        f"{_VM}watermark_scale_factor",
    )  # fmt: skip
    watermark_boost_factor: int | None = _key(
        Number(0, 100000), "reclaim beyond the watermark after fragmentation; 0: none", f"{_VM}watermark_boost_factor"
    )
    min_free_kbytes: int | None = _key(
        Number(64, 1 << 24, "KiB"), "that the kernel keeps free", f"{_VM}min_free_kbytes"
    )
    vfs_cache_pressure: int | None = _key(
        Number(0, 10000, "percent"), "how willingly inodes and dentries are given up", f"{_VM}vfs_cache_pressure"
    )


_ALGORITHM = Words(r"[a-z0-9-]{1,24}", "an algorithm's name; zcache kernel status shows those of the device")


@attrs.define
class Zram:
    """The kernel's zram. What needs a reset is done only where its contents fit elsewhere."""

    device: str | None = _key(Words(r"zram\d{1,3}", "a zram device: zram0"), "which one; zram0 if it is left out")
    algorithm: str | None = _key(_ALGORITHM, "what compresses; resets", "algorithm")
    disksize: int | str | None = _key(Size(whole_pages=True), "before compression; 0: not set up; resets", "disksize")
    mem_limit: int | str | None = _key(Size(whole_pages=True), "memory that it may take; 0: any", "mem_limit")
    recompression: list[str] | None = _key(  # noqa: RUF009 (it is a field)
        Algorithms(3), "what compresses again, by priority; resets", "recompression"
    )
    writeback_device: str | None = _key(
        Words(f"none|/{_WORD}", "a block device of the device's, or none"), "where pages are written back; resets",
        "backing",
    )  # fmt: skip
    writeback_limit: int | str | None = _key(
        Size(more=("off",)), "what may be written back from now on; off: any number", "writeback_limit"
    )
    swap: bool | None = _key(Flag("on", "off"), "the kernel swaps to it")
    priority: int | None = _key(Number(0, 32767), "of the swap; else as it is, or 100")


_ZSWAP = "/sys/module/zswap/parameters/"


@attrs.define
class Zswap:
    """The kernel's zswap: a compressed cache in front of all swap."""

    enabled: bool | None = _key(Flag("Y", "N"), "it takes pages", f"{_ZSWAP}enabled")
    compressor: str | None = _key(_ALGORITHM, "what compresses", f"{_ZSWAP}compressor")
    max_pool_percent: int | None = _key(
        Number(1, 100, "percent of RAM"), "that it may take", f"{_ZSWAP}max_pool_percent"
    )
    accept_threshold_percent: int | None = _key(
        Number(1, 100, "percent of that"), "down to here it takes no page once it was full",
        f"{_ZSWAP}accept_threshold_percent",
    )  # fmt: skip
    shrinker_enabled: bool | None = _key(Flag("Y", "N"), "it writes cold pages to swap when memory is short",
                                         f"{_ZSWAP}shrinker_enabled")  # fmt: skip


@attrs.define
class Kernel:
    """The kernel's own compressed memory."""

    vm: Vm = attrs.field(factory=Vm)
    zram: Zram = attrs.field(factory=Zram)
    zswap: Zswap = attrs.field(factory=Zswap)


@attrs.define
class Config:
    store: Store = attrs.field(factory=Store)
    pools: dict[str, Pool] = attrs.field(factory=dict)
    swap: Swap = attrs.field(factory=Swap)
    blockcache: BlockCache = attrs.field(factory=BlockCache)
    kernel: Kernel = attrs.field(factory=Kernel)
    agent: dict[str, Any] = attrs.field(factory=dict)
    """Bounds of `zcache agent run`, which reads and checks them."""
    measured: dict[str, Any] = attrs.field(factory=dict)
    """Why it is so: whatever who wrote the file measured. Nothing is done by it."""

    def tables(self) -> Iterator[tuple[str, Any]]:
        """Each table of keys, by its name in the file."""
        yield "store", self.store
        for name, pool in self.pools.items():
            yield f"pools.{name}", pool
        yield "swap", self.swap
        yield "blockcache", self.blockcache
        yield "kernel.vm", self.kernel.vm
        yield "kernel.zram", self.kernel.zram
        yield "kernel.zswap", self.kernel.zswap

    @property
    def needs_root(self) -> bool:
        kernel = any(given(table) for table in (self.kernel.vm, self.kernel.zram, self.kernel.zswap))
        return kernel or bool(given(self.swap)) or bool(given(self.blockcache))

    @property
    def needs_daemon(self) -> bool:
        return bool(self.pools) or any(given(table) for table in (self.store, self.swap, self.blockcache))


def given(table: object) -> dict[str, Value]:
    """The keys of a table that are not left out."""
    return {name: value for name in keys_of(type(table)) if (value := getattr(table, name)) is not None}


# ---- TOML ----


class _Wrong(ValueError):
    """A value that its key does not take."""


def _taker(key: Key) -> Callable[[object, object], object]:
    def take(value: object, _: object) -> object:
        if key.kind.takes(value):
            return value
        raise _Wrong(f"{_toml(value)} is not {key.kind.allowed}")

    return take


def _structure(value: object, kind: type) -> Any:  # noqa: ANN401
    if not isinstance(value, dict):
        raise _Wrong(f"{_toml(value)} is no table")
    return _HOOKS[kind](value, kind)


def _structure_pools(value: object, _: object) -> dict[str, Pool]:
    if not isinstance(value, dict):
        raise _Wrong(f"{_toml(value)} is no table of pools")
    for name in value:
        if not _NAME.fullmatch(name):
            raise _Wrong(f"pool {name!r}: a name is 1 to 63 letters, digits, _, - and .")
    return {name: _nested(name, each) for name, each in value.items()}


def _nested(name: str, value: object) -> Pool:
    try:
        pool: Pool = _CONVERTER.structure(value, Pool)
    except Exception as error:
        error.add_note(f"pool {name}")
        raise
    return pool


def _structure_free(value: object, _: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Wrong(f"{_toml(value)} is no table")
    return value


def _toml(value: object) -> str:
    return repr(value) if not isinstance(value, bool) else str(value).lower()


def _make_converter() -> tuple[cattrs.Converter, dict[type, Callable[[Any, Any], Any]]]:
    converter = cattrs.Converter(forbid_extra_keys=True)
    hooks: dict[type, Callable[[Any, Any], Any]] = {}
    for table in (Store, Pool, Swap, BlockCache, Vm, Zram, Zswap):
        overrides = {name: override(struct_hook=_taker(key)) for name, key in keys_of(table).items()}
        hooks[table] = make_dict_structure_fn(table, converter, _cattrs_forbid_extra_keys=True, **overrides)  # type: ignore[arg-type]
        converter.register_structure_hook(table, _structure)
    for outer in (Kernel, Config):
        more = (
            {
                "pools": override(struct_hook=_structure_pools),
                "agent": override(struct_hook=_structure_free),
                "measured": override(struct_hook=_structure_free),
            }
            if outer is Config
            else {}
        )
        hooks[outer] = make_dict_structure_fn(outer, converter, _cattrs_forbid_extra_keys=True, **more)  # type: ignore[arg-type]
        converter.register_structure_hook(outer, _structure)
    return converter, hooks


_CONVERTER, _HOOKS = _make_converter()


def load(path: Path) -> Config:
    """Usage: the file is none, one line for all that is wrong in it."""
    try:
        text = path.read_text()
    except OSError as error:
        raise Usage(f"{path}: {error.strerror}", hint="zcache config save FILE writes one") from error
    except UnicodeDecodeError as error:
        raise Usage(f"{path}: it is no text", hint=KEYS) from error
    return parse(text, str(path))


def parse(text: str, where: str) -> Config:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Usage(f"{where}: it is no TOML: {error}", hint="values of text are in quotes") from error
    try:
        config: Config = _CONVERTER.structure(document, Config)
    except Exception as error:
        raise Usage(f"{where}: {'; '.join(_complaints(error, ''))}", hint=KEYS) from error
    wrong = list(_contradictions(config))
    if wrong:
        raise Usage(f"{where}: {'; '.join(wrong)}", hint=KEYS)
    return config


def _complaints(error: BaseException, path: str) -> Iterator[str]:
    """What is wrong where, from what cattrs raises."""
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        known = ", ".join(each.name for each in attrs.fields(error.cl))
        for key in sorted(error.extra_fields):
            yield f"{path}{key}: there is no such key; here are: {known}"
    elif isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _complaints(each, path + _place(each))
    else:
        yield f"{path.rstrip('.')}: {error}"


def _place(error: BaseException) -> str:
    """Where in its table it happened: what cattrs, and _nested(), have noted."""
    place = ""
    for note in reversed(getattr(error, "__notes__", [])):
        if isinstance(note, cattrs.AttributeValidationNote):
            place += f"{note.name}."
        elif note.startswith("pool "):
            place += f"{note.removeprefix('pool ')}."
    return place


def _contradictions(config: Config) -> Iterator[str]:
    """What no single key tells."""
    for table, needed in (("swap", ("size", "pool")), ("blockcache", ("source", "pool"))):
        there = given(getattr(config, table))
        for key in needed if there else ():
            if key not in there:
                yield f"{table}.{key}: it is needed"
    for name, pool in config.pools.items():
        if pool.backing is None and (pool.backing_layout or pool.backing_size) is not None:
            yield f"pools.{name}: backing_layout and backing_size need backing"
        if pool.cold_extent not in (None, 1, 2, 4, 8, 16):
            yield f"pools.{name}.cold_extent: {pool.cold_extent} is not 1, 2, 4, 8 or 16"
    store = config.store
    low, high = store.low_watermark_percent, store.high_watermark_percent
    if low is not None and high is not None and low > high:
        yield f"store.low_watermark_percent: {low} is above high_watermark_percent, {high}"
    zram = config.kernel.zram
    if zram.priority is not None and zram.swap is False:
        yield "kernel.zram.priority: swap is false"
    if zram.swap and zram.disksize is not None and bytes_of(zram.disksize) == 0:
        yield "kernel.zram.disksize: swap needs one"
    if zram.writeback_limit not in (None, "off") and bytes_of(zram.writeback_limit) % 4096:
        yield f"kernel.zram.writeback_limit: {zram.writeback_limit} is not a multiple of 4096"


def write(config: Config) -> str:
    """As TOML, with the meaning of each key behind it. What it takes is checked as in a file that is read."""
    document = tomlkit.document()
    for path, table in config.tables():
        values = given(table)
        if not values and not path.startswith("pools."):
            continue
        at: Any = document
        *above, last = path.split(".", 1)
        for name in above:
            if name not in at:
                at[name] = tomlkit.table(is_super_table=True)
            at = at[name]
        at[last] = _written(values, keys_of(type(table)))
    for name in ("agent", "measured"):
        if free := getattr(config, name):
            document[name] = free
    text = tomlkit.dumps(document)
    parse(text, "what would be written")
    return text


def _written(values: Mapping[str, Value], keys: Mapping[str, Key]) -> Any:  # noqa: ANN401
    table = tomlkit.table()
    for name, value in values.items():
        item = tomlkit.item(value)
        item.comment(keys[name].meaning)
        table.add(name, item)
    return table


# ---- what a daemon says of it ----

_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def check_described(config: Config, described: Mapping[str, Description], where: str) -> None:
    """Usage: the daemon that runs knows a setting not, or other bounds."""
    for table, prefix, paths in _described(config):
        for name, value in given(table).items():
            key = keys_of(type(table))[name]
            if not key.to:
                continue
            node = described.get(f"{paths}/{key.to}")
            if node is None:
                raise Usage(f"{where}: {prefix}.{name}: this zcached has no such setting", hint="zcache up --replace")
            bounds = _RANGE.fullmatch(node.range)
            if bounds and isinstance(value, int) and not int(bounds[1]) <= value <= int(bounds[2]):
                raise Usage(f"{where}: {prefix}.{name}: {value} is not in {node.range} {node.unit}", hint=KEYS)


def _described(config: Config) -> Iterator[tuple[object, str, str]]:
    yield config.store, "store", "params"
    for name, pool in config.pools.items():
        yield pool, f"pools.{name}", "pools/NAME"
