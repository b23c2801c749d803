# SPDX-License-Identifier: Apache-2.0
"""What follows from a recommendation: settings that have no other price, and why each is as it is."""

from collections.abc import Mapping
from dataclasses import dataclass

from .kernel import ACCEPT, Kernel
from .measured import Measured
from .models import KERNEL_CODECS, Conditions, Setting, Settings
from .search import Point, Result

MIB = 1 << 20
_ROOM = 1.25
"""mem_limit is that many times what was predicted: a device that cannot take a page fails the write."""


@dataclass(frozen=True)
class Advice:
    settings: Settings
    reasons: tuple[str, ...]


def advise(result: Result, target: str, kernel: Kernel) -> Advice:
    """The whole config of a recommendation, the kernel's settings around it included."""
    settings: dict[str, dict[str, Setting]] = {
        name: dict(section) for name, section in result.recommended.candidate.settings.items()
    }
    reasons: list[str] = []
    if target == "zram":
        _zram(settings["zram"], result, reasons)
    elif target == "zswap":
        _zswap(settings["zswap"], result, kernel, reasons)
    else:
        _pool(settings, result, reasons)
    if target != "pool":
        settings["vm"] = _vm(result.recommended, result.measured, result.conditions, kernel, target, reasons)
    return Advice(settings, tuple(reasons))


def _pool(settings: dict[str, dict[str, Setting]], result: Result, reasons: list[str]) -> None:
    conditions = result.conditions
    if conditions.limit and conditions.limit_is_asked:
        settings["store"] = {"limit": conditions.limit, **settings.get("store", {})}
    if result.recommended.cost.flash or result.defaults.cost.flash:
        reasons.append(
            "what goes to flash needs a backing store: zcache pool backing NAME PATH, or backing in the config"
        )
    if "cold_after" in settings["pool"]:
        reasons.append(
            f"cold_after {conditions.cold_after}: of what idles so many seconds, {conditions.cold:.0%} as you say,"
            " extents were measured"
        )


def _zram(zram: dict[str, Setting], result: Result, reasons: list[str]) -> None:
    sample = result.measured.sample
    swapped = sum(source["swapped"] for source in sample.sources) if sample.facts["kind"] == "anonymous" else 0
    zram["disksize"] = _round_up(sample.pages * sample.page_size + swapped)
    used = result.recommended.spread(lambda cost: cost.memory).high
    zram["mem_limit"] = _round_up(used * _ROOM)
    reasons.append(
        f"disksize {_mib(zram['disksize'])}: what these processes hold and have in swap; it is a bound, not memory"
    )
    if zram["writeback"] == "huge":
        reasons.append("writeback huge: zram needs a writeback_device, and somebody who triggers it now and then")
    reasons.append(f"mem_limit {_mib(zram['mem_limit'])}: {_ROOM:g} times what was predicted at most, {_mib(used)}")


def _zswap(zswap: dict[str, Setting], result: Result, kernel: Kernel, reasons: list[str]) -> None:
    zswap["accept_threshold_percent"] = ACCEPT
    reasons.append(
        f"accept_threshold_percent {ACCEPT}, the kernel's default: what another would do hangs on the order in which"
        " pages come, and a sample has none"
    )
    if not result.conditions.mem_total:
        del zswap["max_pool_percent"]
        reasons.append("max_pool_percent is left alone: how much RAM the device has is not known of a file")
    overflows = bool(result.recommended.cost.flash)
    if kernel.zswap_shrinks:
        zswap["shrinker_enabled"] = overflows
        why = "more comes than the pool holds, and so the coldest go first" if overflows else "all of it fits"
        reasons.append(f"shrinker_enabled {'Y' if overflows else 'N'}: {why}")


def _vm(
    point: Point, measured: Measured, conditions: Conditions, kernel: Kernel, target: str, reasons: list[str]
) -> dict[str, Setting]:
    vm: dict[str, Setting] = {}
    get, put = point.outcome.get_us, point.outcome.put_us
    if target == "zram":
        pages = 1 << kernel.page_cluster
        vm["page_cluster"] = 0
        reasons.append(
            f"page_cluster 0: memory has no seek to save, and a fault that reads {pages} pages at once, as"
            f" page_cluster {kernel.page_cluster} does, decompresses for {pages * get:.0f} µs instead of {get:.0f}"
        )
    if not conditions.flash_mb_s:
        reasons.append(
            "swappiness is left alone: it weighs swap against flash; --flash-mb-s or --scratch says how fast"
        )
        return vm
    flash = measured.page_size / conditions.flash_mb_s
    vm["swappiness"] = min(200, max(1, round(200 * flash / (flash + put + get))))
    reasons.append(
        f"swappiness {vm['swappiness']}: a page out and in again takes {put + get:.0f} µs compressed, and one of a file"
        f" {flash:.0f} µs from flash; over 100 needs Linux 5.8"
    )
    return vm


def unmeasured_defaults(result: Result, target: str, kernel: Kernel) -> str:
    """The kernel's present algorithm, where zcached has none that does the same. Empty: it has."""
    present: Mapping[str, str] = {"zram": kernel.zram_algorithm, "zswap": kernel.zswap_compressor}
    name = present.get(target, "")
    if not name or KERNEL_CODECS.get(name) in result.measured.sizes:
        return ""
    section = next(iter(result.defaults.candidate.settings.values()))
    instead = section.get("algorithm") or section.get("compressor")
    return f"{name}, which is set now, cannot be measured by zcached: compared with {instead} instead"


def _round_up(size: float) -> int:
    return -int(-size // MIB) * MIB


def _mib(size: float | str) -> str:
    return f"{float(size) / MIB:.0f} MiB"
