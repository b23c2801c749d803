# SPDX-License-Identifier: Apache-2.0
"""What a device's settings are now, what a config would change of them, and the plan by which zcached does that."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .config import BlockCache, Config, Key, Pool, Store, Swap, Vm, Zram, Zswap, given, keys_of
from .device import Rights
from .errors import Refused
from .kernelfiles import FileReader, Texts
from .kernelstats import ZRAM_FILES, zrams
from .kinds import Facts, Value
from .transport.base import Transport

_ABSENT = "absent"
"""What is shown of a setting, pool or device that is not there."""
_OFF = "off"


def read_files(transport: Transport, rights: Rights) -> Texts:
    """The kernel's settings, by path; what is not there, or not told, is left out."""
    paths = [key.to for table in (Vm, Zswap) for key in keys_of(table).values()]
    with FileReader(transport, rights, (*paths, *ZRAM_FILES, "/proc/swaps")) as reader:
        return reader.read().texts


@dataclass(frozen=True)
class State:
    """Of a device, now."""

    files: Texts
    """The kernel's, by path."""
    tree: Mapping[str, str] = field(default_factory=dict)
    """The daemon's values, by path; empty where none runs."""
    memory: int = 0
    """RAM that a daemon's limit in percent is of."""
    page_size: int = 4096
    """The kernel's."""

    @property
    def facts(self) -> Facts:
        return Facts(int(self.tree.get("page_size", self.page_size)), self.memory, self.page_size)

    def zram(self, device: str) -> dict[str, str]:
        """The words of zcached's plans. Empty: there is no such device."""
        facts = zrams(self.files).get(device, {})
        if "algorithm" not in facts:
            return {}
        limit = int(facts.get("writeback_limit", 0)) * 4096
        priority = self.swaps().get(device)
        return {
            "algorithm": str(facts["algorithm"]),
            "disksize": str(facts.get("disksize", 0)),
            "mem_limit": str(facts.get("mem_limit", 0)),
            "recompression": _recompression(str(facts.get("recomp_algorithm", ""))),
            "backing": str(facts.get("backing_dev", "none")),
            "writeback_limit": str(limit) if facts.get("writeback_limit_enable") == 1 else _OFF,
            "swap": _OFF if priority is None else "on",
            "priority": "" if priority is None else str(priority),
        }

    def algorithms(self, device: str) -> list[str]:
        """That zram device's, as the kernel lists them."""
        return re.findall(r"[a-z0-9-]+", self.files.get(f"/sys/block/{device}/comp_algorithm", ""))

    def zrams(self) -> list[str]:
        return [device for device, facts in zrams(self.files).items() if "disksize" in facts]

    def swaps(self) -> dict[str, int]:
        """Priority by a device's name."""
        rows = (line.split() for line in self.files.get("/proc/swaps", "").splitlines()[1:])
        return {row[0].rpartition("/")[2]: int(row[4]) for row in rows if len(row) == 5}

    def pools(self) -> list[str]:
        return [match[1] for path in self.tree if (match := re.fullmatch(r"pools/([^/]+)/kind", path))]


def _recompression(text: str) -> str:
    """Of `#1: zstd, #2: none`: 1:zstd."""
    found = (part.lstrip("#").partition(": ") for part in text.split(", ") if part)
    return ",".join(f"{priority}:{algorithm}" for priority, _, algorithm in found if algorithm != "none") or "none"


# ---- the device's settings as a config ----


def shown(state: State) -> Config:
    """All that the device has."""
    config = Config()
    if state.tree:
        config.store = Store(**dict(_read(Store, lambda key: state.tree.get(f"params/{key.to}"))))
        config.pools = {name: _pool(state, name) for name in state.pools()}
        config.swap = _made(Swap, state, "swap")
        config.blockcache = _made(BlockCache, state, "blockcache")
    config.kernel.vm = Vm(**dict(_read(Vm, lambda key: state.files.get(key.to))))
    config.kernel.zswap = Zswap(**dict(_read(Zswap, lambda key: state.files.get(key.to))))
    for device in state.zrams()[:1]:
        config.kernel.zram = _zram(state, device)
    return config


def _read(table: type, text_of: Callable[[Key], str | None]) -> Iterator[tuple[str, Any]]:
    """Those that the device tells, and that a config may have: it may be older, or newer, than we know."""
    for name, key in keys_of(table).items():
        text = text_of(key) if key.to else None
        if not text:
            continue
        try:
            value = key.kind.value(text)
        except ValueError:
            continue
        if key.kind.takes(value):
            yield name, value


def _pool(state: State, name: str) -> Pool:
    base = f"pools/{name}"
    pool = Pool(**dict(_read(Pool, lambda key: state.tree.get(f"{base}/{key.to}"))))
    pool.kind, pool.allocator = state.tree[f"{base}/kind"], state.tree[f"{base}/allocator"]
    words = _words(state.tree.get(f"{base}/backing", "none"))
    pool.backing, pool.backing_layout = words.get("path"), words.get("layout")
    return pool


def _words(text: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


def _made(table: type, state: State, directory: str) -> Any:  # noqa: ANN401
    """The swap device or block cache, if there is one."""
    if state.tree.get(f"{directory}/device", "none") == "none":
        return table()
    texts = {name: state.tree.get(f"{directory}/{name}", "") for name in keys_of(table)}
    values = {name: keys_of(table)[name].kind.value(text) for name, text in texts.items() if text}
    return table(**{name: value for name, value in values.items() if keys_of(table)[name].kind.takes(value)})


def _zram(state: State, device: str) -> Zram:
    words = state.zram(device)
    zram = Zram(**dict(_read(Zram, lambda key: words.get(key.to))))
    zram.device, zram.swap = device, words["swap"] == "on"
    if words["priority"].isdecimal():
        zram.priority = int(words["priority"])
    if f"/sys/block/{device}/recomp_algorithm" not in state.files:
        zram.recompression = None
    if f"/sys/block/{device}/backing_dev" not in state.files:
        zram.writeback_device = zram.writeback_limit = None
    return zram


# ---- a config against the device ----


@dataclass(frozen=True)
class Change:
    """A key whose value is another on the device."""

    key: str
    now: str
    wanted: str
    restart: bool = False
    """It is of a thing that was made otherwise: it would have to be destroyed first."""


def changes(config: Config, state: State) -> list[Change]:
    found: list[Change] = []
    for path, table in config.tables():
        each = (_change(path, table, name, value, state) for name, value in given(table).items())
        found += filter(None, each)
    return found


def _change(path: str, table: object, name: str, value: Value, state: State) -> Change | None:
    key = keys_of(type(table))[name]
    wanted = key.kind.text(value, state.facts)
    now = _now(path, table, name, key, state)
    if now == wanted or (isinstance(table, Zram) and name == "device"):
        return None
    if now is None and isinstance(table, Pool) and name == "backing_size":
        return None  # of a file that is there
    makes = not key.to and isinstance(table, Pool | Swap | BlockCache)
    return Change(f"{path}.{name}", _ABSENT if now is None else now, wanted, makes and _is_there(path, table, state))


def _is_there(path: str, table: object, state: State) -> bool:
    if isinstance(table, Pool):
        return f"{path.replace('.', '/', 1)}/kind" in state.tree
    return state.tree.get(f"{path}/device", "none") != "none"


def _now(path: str, table: object, name: str, key: Key, state: State) -> str | None:
    """None: there is none."""
    if isinstance(table, Vm | Zswap):
        return state.files.get(key.to)
    if isinstance(table, Zram):
        return state.zram(table.device or "zram0").get(key.to or name)
    if isinstance(table, Store):
        return state.tree.get(f"params/{key.to}")
    directory = path.replace(".", "/", 1)
    if not _is_there(path, table, state):
        return None
    if name == "backing_size":
        return None
    if name.startswith("backing"):
        words = _words(state.tree.get(f"{directory}/backing", "none"))
        return words.get("path" if name == "backing" else "layout", "none")
    return state.tree.get(f"{directory}/{key.to or name}")


# ---- the plan ----


def plan(config: Config, state: State) -> list[str]:
    """The lines by which zcached makes it so; none: it is so. Refused: it cannot be."""
    found = changes(config, state)
    for change in found:
        if change.restart:
            raise Refused(
                f"{change.key}: it is {change.now} and cannot become {change.wanted} while it is in use",
                name="EBUSY",
                hint=_way_out(change.key),
            )
    return _steps(config, state, {change.key for change in found})


def boot_plan(config: Config, state: State) -> list[str]:
    """The lines that make it so after each start of the device, whatever it has then."""
    keys = {f"{path}.{name}" for path, table in config.tables() for name in given(table)}
    return _steps(config, State(state.files, memory=state.memory), keys - {"kernel.zram.device"})


def _steps(config: Config, state: State, keys: set[str]) -> list[str]:
    return [
        *_pool_steps(config, state, keys),
        *_value_steps(config, state, keys),
        *_made_steps(config, state),
        *_file_steps(config, state, keys),
        *_zram_steps(config, state, keys),
    ]


def _way_out(key: str) -> str:
    kind, _, rest = key.partition(".")
    return f"zcache pool destroy {rest.partition('.')[0]}" if kind == "pools" else f"zcache {kind} off"


def _pool_steps(config: Config, state: State, keys: set[str]) -> Iterator[str]:
    for name, pool in config.pools.items():
        if f"pools/{name}/kind" in state.tree:
            continue
        if pool.kind is None:
            raise Refused(f"pools.{name}: there is no such pool", name="ENOENT", hint="to have it made, give its kind")
        words = {"name": name, "kind": pool.kind, "allocator": pool.allocator, "codec": pool.codec}
        words |= {"path": pool.backing, "layout": pool.backing_layout}
        if pool.backing_size is not None:
            words["size"] = keys_of(Pool)["backing_size"].kind.text(pool.backing_size, state.facts)
        if pool.backing is not None and config.swap.pool == name:
            words["reset"] = "stale"  # what was swapped out before the device restarted is nobody's
        value = " ".join(f"{key}={value}" for key, value in words.items() if value is not None)
        keys.discard(f"pools.{name}.codec")
        yield f"make\tpools/{name}/kind\tpools/create {value}\tpools/{name}/destroy 1"


def _value_steps(config: Config, state: State, keys: set[str]) -> Iterator[str]:
    for path, table in config.tables():
        if not isinstance(table, Store | Pool):
            continue
        directory = "params" if isinstance(table, Store) else path.replace(".", "/", 1)
        for name, value in given(table).items():
            key = keys_of(type(table))[name]
            if key.to and f"{path}.{name}" in keys:
                yield f"tree\t{directory}/{key.to}\t{key.kind.text(value, state.facts)}"


def _made_steps(config: Config, state: State) -> Iterator[str]:
    for directory, table in (("swap", config.swap), ("blockcache", config.blockcache)):
        values = given(table)
        if not values or _is_there(directory, table, state):
            continue
        pool = str(values["pool"])
        if pool not in config.pools and pool not in state.pools():
            raise Refused(
                f"{directory}.pool: there is no pool {pool}", name="ENOENT", hint=f"add a table [pools.{pool}]"
            )
        kinds = {name: key.kind for name, key in keys_of(type(table)).items()}
        words = " ".join(f"{name}={kinds[name].text(value, state.facts)}" for name, value in values.items())
        yield f"make\t{directory}/device\t{directory}/on {words}\t{directory}/off 1"


def _file_steps(config: Config, state: State, keys: set[str]) -> Iterator[str]:
    """Zswap is switched on last: by what it is to be then."""
    kernel = config.kernel
    for path, table in (("kernel.vm", kernel.vm), ("kernel.zswap", kernel.zswap)):
        for name, value in sorted(given(table).items(), key=lambda item: item[0] == "enabled"):
            key = keys_of(type(table))[name]
            if f"{path}.{name}" not in keys:
                continue
            if key.to not in state.files:
                raise Refused(
                    f"{path}.{name}: this kernel has no {key.to}, or does not show it",
                    name="ENOENT",
                    hint="leave it out; zcache kernel status shows what there is",
                )
            yield f"file\t{key.to}\t{key.kind.text(value, state.facts)}"


def _zram_steps(config: Config, state: State, keys: set[str]) -> Iterator[str]:
    zram = config.kernel.zram
    device = zram.device or "zram0"
    wanted = [name for name in given(zram) if f"kernel.zram.{name}" in keys]
    if not wanted:
        return
    if not state.zram(device):
        raise Refused(
            f"kernel.zram: the kernel shows no {device}", name="ENODEV", hint="load the module: modprobe zram"
        )
    known = state.algorithms(device)
    for algorithm in [zram.algorithm, *(zram.recompression or [])]:
        if algorithm and algorithm not in known:
            raise Refused(
                f"kernel.zram: {device} knows no algorithm {algorithm}",
                name="EINVAL",
                hint=f"it has {', '.join(known)}",
            )
    if zram.priority is not None and not zram.swap and state.zram(device)["swap"] == _OFF:
        raise Refused(f"kernel.zram.priority: {device} is no swap", name="EINVAL", hint="add swap = true")
    yield f"zram\t{device}\t{' '.join(_zram_words(zram, wanted, state))}"


def _zram_words(zram: Zram, wanted: Sequence[str], state: State) -> Iterator[str]:
    keys = keys_of(Zram)
    for name in wanted:
        value = getattr(zram, name)
        if name in ("swap", "priority"):
            continue
        text = keys[name].kind.text(value, state.facts)
        if name == "writeback_limit" and text != _OFF:
            text = str(int(text) // 4096)  # the kernel's unit
        yield f"{keys[name].to}={text}"
    if "priority" in wanted:
        yield f"swap={zram.priority}"
    elif "swap" in wanted:
        yield f"swap={'on' if zram.swap else _OFF}"
