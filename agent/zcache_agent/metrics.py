# SPDX-License-Identifier: Apache-2.0
"""A device's moment as Prometheus metrics. docs/export.md says how they are named."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .control import Description
from .counters import REFUSALS
from .gather import Gatherer, Moment
from .kernelstats import MEMORY_FIELDS, ZRAM_FIELDS, ZSWAP_FIELDS, Facts, Field, Kernel, Type, amount

LEVELS = frozenset(
    [
        "used_bytes",
        "limit_bytes",
        "frames",
        "reserve_frames",
        "metadata_bytes",
        "pers_zpages",
        "eph_zpages",
        "pers_pageframes",
        "eph_pageframes",
        "same_filled",
        "zbytes",
        "cold_pages",
        "cold_bytes",
        "written_pages",
        "written_bytes",
        "pers_unsaved",
        "pools",
        "zpages",
        "raw_pages",
        "cold_extents",
        "cold_frames",
    ]
)
"""Nodes of stats/ that go up and down. The others only grow."""
_GROWING = frozenset(
    [
        "daemon/requests",
        "daemon/errors",
        "swap/reads",
        "swap/writes",
        "swap/discards",
        "swap/read_errors",
        "swap/write_errors",
        "blockcache/hits",
        "blockcache/misses",
        "blockcache/saved",
        "blockcache/writes",
        "blockcache/discards",
        "blockcache/flushes",
        "blockcache/read_errors",
        "blockcache/write_errors",
        "blockcache/raced",
    ]
)
_LEFT_OUT = frozenset(("abi", "daemon/pid"))
_NUMBERS = ("uint", "bytes", "percent", "bool")
_POOL_TEXTS = ("kind", "allocator", "codec")

Labels = Mapping[str, str]


@dataclass(frozen=True)
class _Place:
    """Where a node belongs."""

    metric: str
    """Without unit and _total."""
    template: str
    """Its path as descriptions have it."""
    labels: Labels


class DeviceCollector(Collector):
    """Asks the device at each scrape. No error leaves it: then zcache_up is 0."""

    def __init__(self, gatherer: Gatherer) -> None:
        self.last: Moment | None = None
        self._gatherer = gatherer
        self._lock = threading.Lock()

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            self.last = self._gatherer.take(lambda _: ())
            return list(metrics(self.last, self._gatherer.descriptions))


def metrics(moment: Moment, descriptions: Sequence[Description]) -> Iterator[Metric]:
    yield GaugeMetricFamily("zcache_up", "1: the device and its daemon answered", float(moment.is_up))
    if moment.is_up:
        yield from _tree(moment, {node.path: node for node in descriptions})
        yield from _infos(moment)
    if moment.kernel:
        yield from _kernel(moment.kernel)


# ---- the control tree ----


def _tree(moment: Moment, about: Mapping[str, Description]) -> Iterator[Metric]:
    families: dict[str, Metric] = {}
    for path, value in moment.values.items():
        place = _place(path)
        node = about.get(place.template)
        if isinstance(value, str) or node is None or node.type not in _NUMBERS or path in _LEFT_OUT:
            continue
        name = place.template.rpartition("/")[2]
        if place.template.startswith("pools/NAME/stats/") and name in REFUSALS:
            _add(families, _refusals(about), [*place.labels.items(), ("reason", name)], value)
        elif node.unit == "ms":
            metric = place.metric.removesuffix("_ms") + "_seconds"
            _add(families, _Family(metric, "gauge", node.meaning), place.labels.items(), value / 1000)
        else:
            _add(families, _family(place, node), place.labels.items(), value)
    yield from families.values()


@dataclass(frozen=True)
class _Family:
    name: str
    type: Type
    help: str


def _family(place: _Place, node: Description) -> _Family:
    in_bytes = node.unit.startswith("bytes")
    meaning = node.meaning if node.unit in ("", "bytes") else f"{node.meaning} ({node.unit})"
    unit = "_bytes" if in_bytes and not place.metric.endswith("bytes") else ""
    return _Family(place.metric + unit, _type(place.template), meaning)


def _type(template: str) -> Type:
    directory, _, name = template.rpartition("/")
    if directory.endswith("stats"):
        return "gauge" if name in LEVELS else "counter"
    return "counter" if template in _GROWING else "gauge"


def _refusals(about: Mapping[str, Description]) -> _Family:
    reasons = ((reason, about.get(f"pools/NAME/stats/{reason}")) for reason in REFUSALS)
    said = "; ".join(f"{reason}: {node.meaning.removeprefix('refused: ')}" for reason, node in reasons if node)
    return _Family("zcache_pool_refusals", "counter", f"puts refused, by reason. {said}")


def _add(families: dict[str, Metric], family: _Family, labels: Iterable[tuple[str, str]], value: float) -> None:
    names = dict(labels)
    metric = families.get(family.name)
    if metric is None:
        make = CounterMetricFamily if family.type == "counter" else GaugeMetricFamily
        metric = families[family.name] = make(family.name, family.help, labels=list(names))
    assert isinstance(metric, CounterMetricFamily | GaugeMetricFamily)
    metric.add_metric(list(names.values()), value)


def _place(path: str) -> _Place:
    words = path.split("/")
    if words[0] == "pools" and len(words) > 2:
        kind = {"stats": (), "params": ("param",)}.get(words[2], ())
        return _Place(
            "_".join(("zcache_pool", *kind, words[-1])), "/".join(("pools", "NAME", *words[2:])), {"pool": words[1]}
        )
    if words[0] == "dictionaries" and len(words) == 3:
        return _Place(f"zcache_dictionary_{words[2]}", f"dictionaries/ID/{words[2]}", {"id": words[1]})
    beginning = {"stats": "zcache", "params": "zcache_param"}.get(words[0])
    return _Place("_".join((beginning, *words[1:]) if beginning else ("zcache", *words)), path, {})


def _infos(moment: Moment) -> Iterator[Metric]:
    version, abi = (str(moment.values.get(name, "")) for name in ("version", "abi"))
    info = GaugeMetricFamily("zcache_info", "1: which daemon this is", labels=["serial", "version", "abi"])
    info.add_metric([moment.serial, version, abi], 1)
    yield info
    pools = GaugeMetricFamily("zcache_pool_info", "1: how the pool is made", labels=["pool", *_POOL_TEXTS])
    for pool in moment.pools:
        pools.add_metric([pool, *(str(moment.values.get(f"pools/{pool}/{text}", "")) for text in _POOL_TEXTS)], 1)
    yield pools


# ---- the kernel ----


def _kernel(kernel: Kernel) -> Iterator[Metric]:
    families: dict[str, Metric] = {}
    for each in MEMORY_FIELDS:
        name = "".join(f"_{char.lower()}" if char.isupper() else char for char in each.name)
        kind, _, what = name.removeprefix("_mem").removeprefix("_").rpartition("_")
        metric = f"zcache_device_{kind or 'memory'}_{what}_bytes"
        _add(families, _Family(metric, each.type, each.meaning), (), amount(kernel.memory, each.name))
    for resource, pressure in kernel.pressure.items():
        for kind, total in (("some", pressure.some_total), ("full", pressure.full_total)):
            family = _Family(
                "zcache_device_pressure_seconds",
                "counter",
                "that tasks waited for the resource: some of them, or all that had work (PSI)",
            )
            _add(families, family, (("resource", resource), ("kind", kind)), total / 1e6)
    for device, facts in kernel.zram.items():
        _add_fields(families, "zram", ZRAM_FIELDS, facts, (("device", device),))
        labels = (("device", device), ("algorithm", str(facts.get("algorithm", ""))))
        _add(families, _Family("zcache_kernel_zram_info", "gauge", "1: how the device is made"), labels, 1)
    if kernel.zswap:
        _add_fields(families, "zswap", ZSWAP_FIELDS, kernel.zswap, ())
        compressor = str(kernel.zswap.get("compressor", ""))
        enabled = float(kernel.zswap.get("enabled") == "Y")
        family = _Family("zcache_kernel_zswap_enabled", "gauge", "1: zswap is on")
        _add(families, family, (("compressor", compressor),), enabled)
    yield from families.values()


def _add_fields(
    families: dict[str, Metric], of: str, fields: Sequence[Field], facts: Facts, labels: Iterable[tuple[str, str]]
) -> None:
    """Those that this kernel tells."""
    labels = list(labels)
    for each in fields:
        if each.name not in facts:
            continue
        scale = 4096 if each.unit == "4 KiB" else 1
        unit = "_bytes" if each.unit in ("bytes", "4 KiB") else ""
        meaning = each.meaning if unit else f"{each.meaning} ({each.unit})"
        family = _Family(f"zcache_kernel_{of}_{each.name}{unit}", each.type, meaning)
        _add(families, family, labels, amount(facts, each.name) * scale)
