# SPDX-License-Identifier: Apache-2.0
"""Does what a daemon holds hang together? It goes through its pages itself; here its counters are held together."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .control import ControlClient
from .pages import Refusal

TRIES = 5
"""Dumps that may pass until two show the same: then nothing happened in between."""

_AT_MOST = (
    ("gets_found", "gets"),
    ("flush_found", "flush_total"),
    ("flobj_found", "flobj_total"),
    ("dup_puts", "stored_puts"),
    ("kept_rejected", "stored_puts"),
    ("written_gets", "gets"),
    ("read_errors", "written_gets"),
    ("cold_extents", "cold_pages"),
    ("cold_frames", "frames"),
)
"""Pairs of a pool's counters of which the first counts a part of the second."""
_CAUSES = ("evicted_user", "evicted_limit", "evicted_pressure", "pers_ate_eph")
"""Of the pages that were reclaimed, each; and with _frames of the frames."""
_WRITTEN_BY = ("writeback_user", "writeback_limit", "writeback_pressure")
"""Likewise of those that were written back. Idle pages, which are too, leave page by page."""


@dataclass(frozen=True)
class Verdict:
    wrong: list[str]
    pools: int
    pages: int
    """That the pools hold, in memory or a backing store."""
    compared: bool
    """The store's sums were held against the pools' counters; under way, they are no snapshot of one moment."""


def check(control: ControlClient) -> Verdict:
    said = control.get("check")
    values, is_quiet = _dump(control)
    pools = _pools(values)
    wrong = [] if said == "ok" else [said]
    for name, pool in pools.items():
        wrong += [f"pool {name}: {what}" for what in wrong_in_pool(pool, int(values["page_size"]))]
    wrong += wrong_in_store(values)
    if is_quiet:
        wrong += wrong_sums(values)
    held = sum(_held(pool) + pool["written_pages"] for pool in pools.values())
    return Verdict(wrong, len(pools), held, is_quiet)


def _dump(control: ControlClient) -> tuple[dict[str, str], bool]:
    """The tree's values, and whether no pool changed while they were read."""
    values = control.dump()
    for _ in range(TRIES):
        before, values = values, control.dump()
        if _pools(before) == _pools(values):
            return values, True
    return values, False


def _pools(values: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """The counters of each pool."""
    pools: dict[str, dict[str, int]] = {}
    for path, value in values.items():
        words = path.split("/")
        if len(words) == 4 and words[0] == "pools" and words[2] == "stats":
            pools.setdefault(words[1], {})[words[3]] = int(value)
    return pools


def _held(pool: Mapping[str, int]) -> int:
    return pool["zpages"] + pool["same_filled"] + pool["raw_pages"] + pool["cold_pages"]


def wrong_in_pool(pool: Mapping[str, int], page_size: int) -> Iterator[str]:
    """Its counters are of one moment, so they agree at any."""
    refused = sum(pool[refusal.name] for refusal in Refusal)
    yield from _equal("puts", pool["puts"], "stored_puts and the refusals", pool["stored_puts"] + refused)
    used = pool["frames"] * page_size + pool["metadata_bytes"]
    yield from _equal("used_bytes", pool["used_bytes"], "frames and metadata_bytes", used)
    for whole, unit in (("reclaimed_zpages", ""), ("reclaimed_frames", "_frames")):
        by_cause = sum(pool[cause + unit] for cause in _CAUSES)
        yield from _equal(whole, pool[whole], "the evictions by cause", by_cause)
    for whole, unit, idle in (("writeback_pages", "", pool["writeback_idle"]), ("writeback_frames", "_frames", 0)):
        by_cause = sum(pool[cause + unit] for cause in _WRITTEN_BY) + idle
        yield from _equal(whole, pool[whole], "the writebacks by cause", by_cause)
    parts = [(part, pool[part], whole, pool[whole]) for part, whole in _AT_MOST]
    for part, count, whole, most in [*parts, ("put_to_flush", pool["put_to_flush"], "the refusals", refused)]:
        if count > most:
            yield f"{part} {count} is more than {whole}, {most}"


def wrong_in_store(values: Mapping[str, str]) -> Iterator[str]:
    frames = int(values["stats/frames"]) + int(values["stats/reserve_frames"])
    used = frames * int(values["page_size"]) + int(values["stats/metadata_bytes"])
    yield from _equal("stats/used_bytes", int(values["stats/used_bytes"]), "frames, reserve and metadata_bytes", used)


def wrong_sums(values: Mapping[str, str]) -> Iterator[str]:
    """The store's counters, where no pool changed while they and the pools' were read."""
    pools = _pools(values)

    def total(what: str, kind: str = "") -> int:
        chosen = [pool for name, pool in pools.items() if not kind or values[f"pools/{name}/kind"] == kind]
        return sum(_held(pool) if what == "pages" else pool[what] for pool in chosen)

    sums = {
        "pools": len(pools),
        "frames": total("frames"),
        "pers_zpages": total("pages", "persistent"),
        "eph_zpages": total("pages", "ephemeral"),
        "pers_pageframes": total("frames", "persistent"),
        "eph_pageframes": total("frames", "ephemeral"),
        "same_filled": total("same_filled"),
        "zbytes": total("zbytes"),
        "written_pages": total("written_pages"),
        "written_bytes": total("written_bytes"),
        **{cause + unit: total(cause + unit) for cause in (*_CAUSES, *_WRITTEN_BY) for unit in ("", "_frames")},
        "writeback_idle": total("writeback_idle"),
        "cold_pages": total("cold_pages"),
        "cold_bytes": total("cold_bytes"),
    }
    for name, counted in sums.items():
        yield from _equal(f"stats/{name}", int(values[f"stats/{name}"]), "what the pools have", counted)
    unsaved, most = int(values["stats/pers_unsaved"]), sums["pers_zpages"]
    if unsaved > most:
        yield f"stats/pers_unsaved {unsaved} is more than what the pools have, {most}"
    metadata, least = int(values["stats/metadata_bytes"]), total("metadata_bytes")
    if metadata < least:
        yield f"stats/metadata_bytes {metadata} is less than what the pools have, {least}"


def _equal(name: str, value: int, what: str, counted: int) -> Iterator[str]:
    if value != counted:
        yield f"{name} {value} is not {what}, {counted}"
