# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics, read by prometheus-client's own parser. Cables are forced; daemons are real."""

from __future__ import annotations

import os
import resource
import signal
import socket
import stat
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.agent.conftest import ZCACHE, Result, Zcache, fails, free_port
from tests.agent.flaky import Cable, FlakyTransport
from tests.agent.test_gather import PHONE
from zcache_agent.control import Description
from zcache_agent.counters import REFUSALS
from zcache_agent.errors import NoDevice
from zcache_agent.gather import Gatherer, Moment
from zcache_agent.kernelstats import parse
from zcache_agent.metrics import LEVELS, DeviceCollector, metrics

Local = Callable[..., Result]
Families = dict[str, Metric]

COUNTERS = {
    "puts", "stored_puts", *REFUSALS, "kept_rejected", "dup_puts", "put_to_flush", "gets", "gets_found", "flush_total",
    "flush_found", "flobj_total", "flobj_found", "damaged", "compacted_frames", "compacted_zpages", "reclaimed_frames",
    "reclaimed_zpages", "writeback_frames", "writeback_pages", "writeback_user", "writeback_user_frames",
    "writeback_limit", "writeback_limit_frames", "writeback_pressure", "writeback_pressure_frames", "writeback_idle",
    "writeback_errors", "written_gets", "read_errors", "evicted_user", "evicted_user_frames", "evicted_limit",
    "evicted_limit_frames", "evicted_pressure", "evicted_pressure_frames", "pers_ate_eph", "pers_ate_eph_frames",
    "recompressed_frames", "recompressed_pages", "warmed_pages", "wear_evicted", "wear_cleaned", "wear_metadata",
    "pressures",
}  # fmt: skip


def families(text: str) -> Families:
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(found: Families, name: str, **labels: str) -> float:
    """Of the one sample with these labels."""
    samples = [s for family in found.values() for s in family.samples if s.name == name and s.labels == labels]
    assert len(samples) == 1, (name, labels, samples)
    return float(samples[0].value)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    path = tmp_path / "dump"
    path.write_bytes(b"".join(bytes(4096) + os.urandom(2048) + bytes(2048) + os.urandom(4096) for _ in range(10)))
    return path


def test_every_number_is_there_with_its_meaning(local_daemon: Local, dump: Path) -> None:
    local_daemon("pool", "create", "swap")
    local_daemon("pool", "create", "cache", "--kind", "ephemeral")
    local_daemon("replay", dump, "--pool", "swap", "--keep")
    result = local_daemon("export", "--once")
    assert result.code == 0, result.err
    found = families(result.out)
    assert value(found, "zcache_up") == 1
    assert value(found, "zcache_pool_puts_total", pool="swap") == 30
    assert value(found, "zcache_pool_puts_total", pool="cache") == 0
    assert value(found, "zcache_pool_zpages", pool="swap") == 10
    assert value(found, "zcache_pool_param_zv_max_zsize_bytes", pool="swap") == 3584
    assert value(found, "zcache_param_high_watermark_percent") == 95
    assert value(found, "zcache_page_size_bytes") == 4096
    assert value(found, "zcache_pool_info", pool="swap", kind="persistent", allocator="zbud", codec="lz4") == 1
    assert value(found, "zcache_info", serial="local", version=local_daemon("cat", "version").out.strip(), abi="1") == 1
    assert 0 < value(found, "zcache_uptime_seconds") < 3600
    assert (found["zcache_pool_puts"].type, found["zcache_pool_zpages"].type) == ("counter", "gauge")

    refused = {reason: value(found, "zcache_pool_refusals_total", pool="swap", reason=reason) for reason in REFUSALS}
    assert refused.pop("compress_poor") == 10
    assert not any(refused.values())
    assert "compress_poor: zpage larger than zv_max_zsize;" in found["zcache_pool_refusals"].documentation

    # As many samples as the tree has numbers there, and nothing without a meaning.
    values = {path: v for command in ("stats", "params") for path, v in local_daemon(command, "--json").json.items()}
    numbers = [path for path, v in values.items() if isinstance(v["value"] if isinstance(v, dict) else v, int)]
    whole = {path.removeprefix("stats/") for path in numbers if path.startswith("stats/")}
    told = [
        family
        for name, family in found.items()
        if name.startswith(("zcache_pool_", "zcache_param_")) or {name[7:], name[7:].removesuffix("_bytes")} & whole
    ]
    alone = [found[name] for name in ("zcache_pool_info", "zcache_pool_id")]
    assert sum(len(family.samples) for family in told if family not in alone) == len(numbers)
    assert all(family.documentation for family in found.values())


def test_every_statistic_is_known_to_grow_or_not(local_daemon: Local) -> None:
    """One that is new has to be put where it belongs."""
    nodes = local_daemon("--json", "stats").json
    local_daemon("pool", "create", "p")
    nodes |= local_daemon("--json", "stats").json
    names = {path.rpartition("/")[2] for path, number in nodes.items() if isinstance(number, int)}
    assert names == LEVELS | COUNTERS
    assert not LEVELS & COUNTERS


def test_counters_do_not_shrink_and_levels_do(local_daemon: Local, dump: Path) -> None:
    local_daemon("pool", "create", "swap")
    local_daemon("replay", dump, "--pool", "swap", "--keep")
    before = families(local_daemon("export", "--once").out)
    local_daemon("replay", dump, "--pool", "swap")
    local_daemon("pool", "create", "other")
    local_daemon("pool", "destroy", "other")
    after = families(local_daemon("export", "--once").out)
    assert before.keys() == after.keys()
    for name, family in before.items():
        for old, new in zip(family.samples, after[name].samples, strict=True):
            assert family.type != "counter" or new.value >= old.value, old
    assert value(after, "zcache_pool_flush_found_total", pool="swap") == 0


def test_zram_zswap_and_pressure() -> None:
    moment = Moment(1, 1, "phone", kernel=parse(iter(PHONE.splitlines())), problem=NoDevice("gone"))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fixed(list(metrics(moment, []))))
    found = families(generate_latest(registry).decode())
    assert value(found, "zcache_up") == 0
    assert value(found, "zcache_device_memory_total_bytes") == 5742184 * 1024
    assert value(found, "zcache_device_memory_available_bytes") == 2010212 * 1024
    assert value(found, "zcache_device_swap_free_bytes") == 1194300 * 1024
    assert value(found, "zcache_device_pressure_seconds_total", resource="memory", kind="some") == 0.123456
    assert value(found, "zcache_kernel_zram_mem_used_total_bytes", device="zram0") == 512823296
    assert value(found, "zcache_kernel_zram_bd_writes_bytes_total", device="zram0") == 9 * 4096
    assert value(found, "zcache_kernel_zram_disksize_bytes", device="zram10") == 0
    assert value(found, "zcache_kernel_zram_info", device="zram0", algorithm="lz4") == 1
    assert value(found, "zcache_kernel_zswap_stored_pages") == 120
    assert value(found, "zcache_kernel_zswap_enabled", compressor="zstd") == 1
    assert found["zcache_kernel_zram_huge_pages_since"].type == "counter"
    assert found["zcache_kernel_zram_huge_pages"].type == "gauge"


class _Fixed(DeviceCollector):
    def __init__(self, made: list[Metric]) -> None:
        self._made = made

    def collect(self) -> list[Metric]:
        return self._made


def test_hostile_names_are_escaped() -> None:
    """Forced: the daemon takes no such name."""
    name = 'a"b\\c\nzcache_up 7'
    node = Description("pools/NAME/stats/puts", "uint", "r", "puts", "", "", 'puts\n"and\\more')
    moment = Moment(1, 1, "x", {f"pools/{name}/stats/puts": 3, "version": '"'})
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fixed(list(metrics(moment, [node]))))
    found = families(generate_latest(registry).decode())
    assert value(found, "zcache_up") == 1
    assert value(found, "zcache_pool_puts_total", pool=name) == 3


def test_a_lost_device_is_no_traceback(local_daemon: Local, zcache: Zcache) -> None:
    cable = Cable()
    with Gatherer(lambda _: FlakyTransport(zcache.environment["ZCACHE_DIR"], cable)) as gatherer:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(DeviceCollector(gatherer))
        for lost in (False, True, True, False):
            if lost:
                cable.in_place.clear()
            else:
                cable.in_place.set()
            found = families(generate_latest(registry).decode())
            assert value(found, "zcache_up") == (not lost)
            assert ("zcache_used_bytes" in found) == (not lost)


def scrape(address: str) -> Families:
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert answer.status == 200
        return families(answer.read().decode())


def test_served(local_daemon: Local, zcache: Zcache) -> None:
    served = zcache.start("-s", "local", "export", "--listen", "127.0.0.1:0", "--kernel")
    try:
        assert served.stdout
        said = served.stdout.readline()
        address = said.split()[1]
        assert said == f"serves {address} for local\n"
        assert value(scrape(address), "zcache_up") == 1
        os.kill(local_daemon("status", "--json").json["pid"], signal.SIGKILL)
        for _ in range(2):
            lost = scrape(address)
            assert value(lost, "zcache_up") == 0
            assert "zcache_device_memory_total_bytes" in lost
        assert zcache("-s", "local", "up", "--page-size", 4096).code == 0
        for _ in range(300):
            if value(scrape(address), "zcache_up") == 1:
                break
        else:
            pytest.fail("it does not come back")
    finally:
        served.terminate()
        _, errors = served.communicate(timeout=60)
    assert (served.returncode, errors) == (0, "")


def test_addresses(local_daemon: Local) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        fails(local_daemon("export", "--listen", f"127.0.0.1:{port}"), 2, str(port), "in use")
    for wrong in ("nonsense", "127.0.0.1", "127.0.0.1:70000", "[::1:80", "a b:x"):
        fails(local_daemon("export", "--listen", wrong), 2, wrong)
    fails(local_daemon("export", "--listen", f"nowhere.invalid:{free_port()}"), 2, "nowhere.invalid")
    fails(local_daemon("export", "--once", "--listen", "127.0.0.1:0"), 2, "--once")
    fails(local_daemon("export", "--json", "--once"), 2)


def test_a_file_is_replaced_as_a_whole(local_daemon: Local, zcache: Zcache, tmp_path: Path) -> None:
    target = tmp_path / "textfiles" / "zcache.prom"
    target.parent.mkdir()
    target.write_text("old")
    before = target.stat().st_ino
    assert local_daemon("export", "--once", target).code == 0
    assert value(families(target.read_text()), "zcache_up") == 1
    assert target.stat().st_ino != before, "whoever reads has the old or the new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask(), "others read it"
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    fails(local_daemon("export", "--once", tmp_path / "nope" / "file"), 2, "nope")
    fails(local_daemon("export", "--once", tmp_path), 2, str(tmp_path))
    assert local_daemon("down").code == 0
    fails(zcache("-s", "local", "export", "--once", target), 4, "zcache up")
    assert value(families(target.read_text()), "zcache_up") == 0


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_full_disk(local_daemon: Local, zcache: Zcache, tmp_path: Path) -> None:
    """/dev/full is one; elsewhere a limit of this process's ends the write in the middle."""
    fails(local_daemon("export", "--once", "/dev/full"), 2, "/dev/full: No space left on device")
    target = tmp_path / "zcache.prom"
    target.write_text("old")
    ran = subprocess.run(
        [ZCACHE, "-s", "local", "export", "--once", str(target)],
        capture_output=True, text=True, timeout=120, env=zcache.environment, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )  # fmt: skip
    fails(Result(ran.returncode, ran.stdout, ran.stderr), 2, "zcache.prom: File too large")
    assert target.read_text() == "old"
    assert not list(tmp_path.glob(".zcache.prom*"))
