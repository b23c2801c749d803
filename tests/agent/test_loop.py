# SPDX-License-Identifier: Apache-2.0
"""The closed loop: its rules on made-up moments, and the loop itself on a real daemon."""

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcache_agent.errors import Usage, ZcacheError
from zcache_agent.gather import Gatherer, Moment
from zcache_agent.kernelstats import Kernel, Pressure
from zcache_agent.loop.bounds import Bounds, PoolBounds, Range, parse_bounds
from zcache_agent.loop.moment import Span
from zcache_agent.loop.rules import Decision, Situation, decide
from zcache_agent.loop.run import Loop
from zcache_agent.transport.base import ByteStream
from zcache_agent.transport.local import LocalTransport

from .conftest import Result, Zcache, fails

MIB = 1 << 20
GIB = 1 << 30
PARAMS = "pools/p/params"
BOUNDS = Bounds(
    limit=Range(16 * MIB, 96 * MIB),
    pools={"p": PoolBounds(Range(2048, 3584), Range(10, 600), Range(60, 3600), wear_per_day=GIB)},
)
VALUES: dict[str, Any] = {
    "page_size": 4096, "params/limit": 64 * MIB, "stats/used_bytes": 60 * MIB, "pools/p/backing": "store",
    f"{PARAMS}/zv_max_zsize": 3072, f"{PARAMS}/cold_after": 120, f"{PARAMS}/writeback_after": 600,
    "pools/p/stats/puts": 0,
}  # fmt: skip


def moment(seconds: float = 0, stalled: float | None = 5, available: int = GIB, **changes: Any) -> Moment:  # noqa: ANN401
    """Keys of `changes`: paths with __ for /."""
    values = VALUES | {key.replace("__", "/"): value for key, value in changes.items()}
    histograms = {"p": [(1024, 100), (2048, 100), (3072, 100)]}
    pressure = {} if stalled is None else {"memory": Pressure(stalled, 0)}
    kernel = Kernel({"MemTotal": 4 * GIB, "MemAvailable": available}, pressure)
    return Moment(seconds, seconds, "local", values, histograms, kernel)


def decisions(now: Moment, before: Moment | None = None, bounds: Bounds = BOUNDS) -> dict[str, Decision]:
    tick = Span(before or moment(now.seconds - 5), now)
    found = decide(bounds, Situation(tick, tick))
    return {decision.path: decision for decision in found}


def test_between_short_and_plentiful_nothing_happens() -> None:
    assert decisions(moment(5, pools__p__stats__policy_percent_exceeded=1000)) == {}


def test_where_memory_is_short_pages_leave_sooner() -> None:
    found = decisions(moment(5, stalled=30))
    assert found["params/limit"].new == 60 * MIB - 10 * MIB, "less than is used: some must leave"
    assert found[f"{PARAMS}/cold_after"].new == 60
    assert found[f"{PARAMS}/writeback_after"].new == 300
    assert found[f"{PARAMS}/zv_max_zsize"].new == 3072 - 256, "half of its bytes compress worse"
    assert all("30.0 % of the time" in decision.reason for decision in found.values())


def test_without_psi_available_memory_tells() -> None:
    short = decisions(moment(5, stalled=None, available=GIB // 10))
    assert short[f"{PARAMS}/cold_after"].new == 60
    assert "% of memory are available" in short[f"{PARAMS}/cold_after"].reason
    assert decisions(moment(5, stalled=None, available=GIB // 2)) == {}


def test_a_limit_is_not_lowered_where_nothing_can_leave() -> None:
    alone: dict[str, Any] = {"pools__p__backing": "none"}
    assert "params/limit" not in decisions(moment(5, stalled=30, **alone))
    assert "params/limit" in decisions(moment(5, stalled=30, stats__eph_pageframes=1, **alone))


@pytest.mark.parametrize("counter", ["pools__p__stats__policy_percent_exceeded", "stats__evicted_limit"])
def test_a_limit_in_the_way_is_raised_where_memory_is_plentiful(counter: str) -> None:
    found = decisions(moment(5, stalled=0, **{counter: 7}))
    assert found["params/limit"].new == 74 * MIB
    assert "7 pages had no room" in found["params/limit"].reason


def test_what_came_back_from_the_cold_goes_there_later() -> None:
    found = decisions(moment(5, stalled=0, pools__p__stats__written_gets=1))
    assert found[f"{PARAMS}/cold_after"].new == 240
    assert found[f"{PARAMS}/writeback_after"].new == 1200


def test_many_refusals_raise_the_threshold_where_memory_is_plentiful() -> None:
    refused = {"pools__p__stats__puts": 100, "pools__p__stats__compress_poor": 6}
    assert decisions(moment(5, stalled=0, **refused))[f"{PARAMS}/zv_max_zsize"].new == 3072 + 256
    assert decisions(moment(5, stalled=0, **refused | {"pools__p__stats__puts": 1000})) == {}


def test_flash_that_wears_too_fast_gets_less_even_where_memory_is_short() -> None:
    before, now = moment(0), moment(100, stalled=30, pools__p__stats__wear_evicted=2 * MIB)
    found = decisions(now, before)
    assert found[f"{PARAMS}/writeback_after"].new == 1200
    assert found[f"{PARAMS}/zv_max_zsize"].new == 3072 + 256
    assert f"{GIB} are allowed" in found[f"{PARAMS}/writeback_after"].reason
    assert decisions(moment(100, pools__p__stats__wear_evicted=MIB), before) == {}, "that pace is allowed"


def test_what_is_beyond_its_bounds_comes_back_to_them() -> None:
    found = decisions(moment(5, params__limit=GIB, **{f"{PARAMS}/cold_after".replace("/", "__"): 0}))
    assert found["params/limit"].new == 96 * MIB
    assert found[f"{PARAMS}/cold_after"].new == 600, "never is later than any"


def test_only_what_the_config_names_is_changed() -> None:
    extreme = moment(5, stalled=90, stats__evicted_limit=5, pools__p__stats__written_gets=3)
    assert decisions(extreme, bounds=Bounds()) == {}
    assert set(decisions(extreme, bounds=Bounds(pools={"p": PoolBounds(cold_after=Range(1, 999))}))) == {
        f"{PARAMS}/cold_after"
    }
    assert decisions(extreme, bounds=Bounds(pools={"absent": BOUNDS.pools["p"]})) == {}


def ranges(least: int, most: int) -> st.SearchStrategy[Range]:
    ends = st.tuples(st.integers(least, most), st.integers(least, most))
    return ends.map(lambda pair: Range(min(pair), max(pair)))


@given(
    limit=ranges(1 * MIB, 256 * MIB),
    cold=ranges(1, 32767),
    written=ranges(1, 32767),
    threshold=ranges(1, 4096),
    start=st.fixed_dictionaries({
        "params__limit": st.integers(0, 512 * MIB),
        "stats__used_bytes": st.integers(0, 512 * MIB),
        "pools__p__params__zv_max_zsize": st.integers(0, 4096),
        "pools__p__params__cold_after": st.integers(0, 32767),
        "pools__p__params__writeback_after": st.integers(0, 32767),
    }),
    grown=st.fixed_dictionaries({
        "pools__p__stats__puts": st.integers(0, 1000),
        "pools__p__stats__compress_poor": st.integers(0, 1000),
        "pools__p__stats__written_gets": st.integers(0, 10),
        "pools__p__stats__wear_evicted": st.integers(0, GIB),
        "stats__evicted_limit": st.integers(0, 10),
    }),
    stalled=st.none() | st.floats(0, 100),
    available=st.integers(0, 4 * GIB),
)  # fmt: skip
def test_whatever_happens_nothing_leaves_its_bounds_and_the_loop_comes_to_rest(
    limit: Range, cold: Range, written: Range, threshold: Range, start: dict[str, int], grown: dict[str, int],
    stalled: float | None, available: int,
) -> None:  # fmt: skip
    bounds = Bounds(limit=limit, pools={"p": PoolBounds(threshold, cold, written, wear_per_day=MIB)})
    allowed = {
        "params/limit": limit, f"{PARAMS}/zv_max_zsize": threshold,
        f"{PARAMS}/cold_after": cold, f"{PARAMS}/writeback_after": written,
    }  # fmt: skip
    state: dict[str, Any] = dict(start)
    for _ in range(64):  # the same again and again
        before = moment(0, stalled, available, **state)
        found = decide(bounds, Situation(*[Span(before, moment(60, stalled, available, **state | grown))] * 2))
        assert len({decision.path for decision in found}) == len(found)
        for decision in found:
            assert allowed[decision.path].low <= decision.new <= allowed[decision.path].high
            assert decision.new != decision.old
            assert decision.reason
            state[decision.path.replace("/", "__")] = decision.new
        if not found:
            return
    pytest.fail(f"it never comes to rest: {state}")


# ---- bounds ----


def test_bounds_take_sizes_parts_and_times() -> None:
    table = {
        "interval": "2s", "settle": "1m", "short": "20%", "relaxed": 0.5, "limit": {"min": "64M", "max": "25%"},
        "pools": {"p": {"zv_max_zsize": {"min": "1/2", "max": "87%"}, "cold_after": {"min": 30, "max": "1h"},
                        "wear_per_day": "2G"}},
    }  # fmt: skip
    bounds = parse_bounds(table, GIB, 4096)
    assert bounds == Bounds(
        2, 60, 20, 0.5, Range(64 * MIB, 256 * MIB),
        {"p": PoolBounds(Range(2048, 3563), Range(30, 3600), None, 2 * GIB)},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"intervall": 1}, ["agent.intervall", "no such key"]),
        ({"interval": "soon"}, ["agent.interval = 'soon'", "5m"]),
        ({"interval": 0.5}, ["agent.interval", "1 to 86400 seconds"]),
        ({"settle": True}, ["agent.settle = True"]),
        ({"short": 101}, ["agent.short = 101", "0 to 100"]),
        ({"relaxed": 50}, ["agent.relaxed = 50", "less than agent.short"]),
        ({"limit": "64M"}, ["agent.limit = '64M'", "a table"]),
        ({"limit": {"min": "64M"}}, ["agent.limit", "min", "max"]),
        ({"limit": {"min": "2G", "max": "1G"}}, ["agent.limit", "min no more than max"]),
        ({"limit": {"min": "1X", "max": "1G"}}, ["agent.limit.min = '1X'", "64M"]),
        ({"pools": {"p": 3}}, ["agent.pools.p = 3", "a table"]),
        ({"pools": {"p": {"cold": 3}}}, ["agent.pools.p.cold", "no such key"]),
        ({"pools": {"p": {"cold_after": {"min": 0, "max": 9}}}}, ["agent.pools.p.cold_after.min = 0", "32767"]),
        ({"pools": {"p": {"zv_max_zsize": {"min": "9/8", "max": "9/8"}}}}, ["zv_max_zsize.min = '9/8'", "7/8"]),
        ({"pools": {"p": {"zv_max_zsize": {"min": 0, "max": 9}}}}, ["p.zv_max_zsize", "1 to 4096 bytes"]),
        ({"pools": {"p": {"wear_per_day": "5%"}}}, ["agent.pools.p.wear_per_day = '5%'", "bytes"]),
    ],
)
def test_wrong_bounds_name_the_key_the_value_and_what_it_takes(table: Mapping[str, Any], words: Sequence[str]) -> None:
    with pytest.raises(Usage) as refused:
        parse_bounds(table, GIB, 4096)
    for word in words:
        assert word in refused.value.message


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["interval", "settle", "short", "relaxed", "limit", "pools", "p", "min", "max", "cold_after"]),
        inner, max_size=4),
))  # fmt: skip
def test_no_table_at_all_does_worse_than_to_be_refused(table: object) -> None:
    if isinstance(table, dict):
        with contextlib.suppress(Usage):
            parse_bounds(table, GIB, 4096)


# ---- the loop, on a daemon ----


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "device.toml"
    file.write_text('[agent]\nsettle = 1\nlimit = { min = "2M", max = "64M" }\n')
    return file


def events(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def start_loop(zcache: Zcache, config: Path, *more: object) -> "subprocess.Popen[str]":
    return zcache.start("-s", "local", "--json", "agent", "run", "--config", config, "--interval", 0.2, *more)


def read_event(loop: "subprocess.Popen[str]") -> dict[str, Any]:
    assert loop.stdout
    event: dict[str, Any] = json.loads(loop.stdout.readline())
    return event


def ended(loop: "subprocess.Popen[str]") -> str:
    loop.send_signal(signal.SIGINT)
    out, err = loop.communicate(timeout=30)
    assert (loop.returncode, err) == (0, "")
    return out


def compressible(file: Path, count: int) -> Path:
    """So many distinct pages."""
    file.write_bytes(b"".join(i.to_bytes(4, "little") * 300 + bytes(4096 - 1200) for i in range(count)))
    return file


@pytest.mark.parametrize("dry", [False, True])
def test_the_loop_raises_a_limit_that_is_in_the_way(
    zcache: Zcache, local_daemon: Callable[..., Result], tmp_path: Path, dry: bool
) -> None:
    config = tmp_path / "device.toml"
    config.write_text('[agent]\nsettle = 1\nlimit = { min = "128K", max = "64M" }\nrelaxed = 98\nshort = 99\n')
    local_daemon("pool", "create", "p", "--allocator", "zsmalloc")
    local_daemon("set", "params/limit", "256K", "params/reserve", 0)
    loop = start_loop(zcache, config, *(["--dry-run"] if dry else []))
    pages = compressible(tmp_path / "pages", 20000)
    time.sleep(1)  # its first look
    report = local_daemon("--json", "replay", pages, "--pool", "p", "--keep").json
    assert report["refused"]["policy_percent_exceeded"] > 0
    event = read_event(loop)
    assert event["event"] == ("would_set" if dry else "set")
    assert (event["path"], event["old"]) == ("params/limit", 256 << 10)
    assert "pages had no room" in event["reason"]
    limit = int(local_daemon("cat", "params/limit").out)
    assert limit == (256 << 10 if dry else event["new"])
    ended(loop)


def test_the_loop_waits_for_a_daemon_that_is_gone(
    zcache: Zcache, local_daemon: Callable[..., Result], config: Path
) -> None:
    loop = start_loop(zcache, config)
    assert read_event(loop)["path"] == "params/limit", "it was beyond its bounds"
    pid = local_daemon("--json", "status").json["pid"]
    subprocess.run(["kill", "-9", str(pid)], check=True)
    lost = read_event(loop)
    assert lost["event"] == "lost"
    assert lost["message"]
    assert local_daemon("up").code == 0
    assert read_event(loop)["event"] == "found"
    assert read_event(loop)["path"] == "params/limit", "the new one's is, too"
    assert ended(loop) == ""


def test_it_ends_by_itself_after_so_long(zcache: Zcache, local_daemon: Callable[..., Result], config: Path) -> None:
    said = local_daemon("agent", "run", "--config", config, "--interval", 0.2, "--for", 1)
    assert (said.code, said.err) == (0, "")
    assert " set params/limit " in said.out


def test_misuse_is_one_line(zcache: Zcache, tmp_path: Path, config: Path) -> None:
    def run(file: Path) -> Result:
        return zcache("-s", "local", "agent", "run", "--config", file, "--for", 0)

    fails(run(config), 4, "no daemon", "zcache up")
    fails(run(tmp_path / "absent"), 2, "absent", "No such file")
    (tmp_path / "garbage").write_bytes(b"\xff\x00[")
    fails(run(tmp_path / "garbage"), 2, "garbage", "no text")
    (tmp_path / "empty").write_text("")
    fails(run(tmp_path / "empty"), 2, "no [agent] table")
    (tmp_path / "wrong").write_text("[agent]\nlimit = 5\n")
    fails(run(tmp_path / "wrong"), 2, "agent.limit = 5", "docs/agent.md")
    fails(zcache("-s", "local", "agent", "run"), 2, "--config")


# ---- faults that have to be forced: what the kernel says of its memory ----


SHORT = b"""uid 0
file /proc/meminfo
line MemTotal: 1048576 kB
line MemAvailable: 524288 kB
file /proc/pressure/memory
line some avg10=42.00 avg60=9.00 avg300=1.00 total=1
end
"""


class ToldByUs(LocalTransport):
    """A fake of the shell that reads /proc; all else is this machine."""

    said = SHORT

    def open_command(self, argv: Sequence[str]) -> ByteStream:
        if any("/proc/meminfo" in word for word in argv):
            return super().open_command(["sh", "-c", 'while read -r _; do echo "$0"; done', self.said.decode().strip()])
        return super().open_command(argv)


class Heard:
    def __init__(self) -> None:
        self.decisions: list[tuple[Decision, str]] = []

    def decided(self, decision: Decision, refusal: str) -> None:
        self.decisions.append((decision, refusal))

    def lost(self, error: ZcacheError) -> None:
        pytest.fail(error.message)

    def found(self) -> None:
        pytest.fail("it was not lost")


def run_short(directory: str, bounds: Bounds, said: bytes = SHORT) -> list[tuple[Decision, str]]:
    def told(_serial: str | None) -> ToldByUs:
        transport = ToldByUs(directory)
        transport.said = said
        return transport

    heard = Heard()
    with Gatherer(told) as gatherer:
        Loop(gatherer, lambda *_: bounds, heard, dry_run=False).run(0.1, 0.5)
    return heard.decisions


def test_under_pressure_ephemeral_pages_go_back_to_the_os(
    zcache: Zcache, local_daemon: Callable[..., Result], tmp_path: Path
) -> None:
    pages = compressible(tmp_path / "pages", 4000)
    local_daemon("pool", "create", "e", "--kind", "ephemeral")
    local_daemon("set", "params/limit", "64M", "params/reserve", 0)
    local_daemon("replay", pages, "--pool", "e", "--keep")
    before = int(local_daemon("cat", "stats/used_bytes").out)
    bounds = Bounds(settle=60, limit=Range(2 * MIB, 64 * MIB), pools={"e": PoolBounds(cold_after=Range(5, 50))})
    made = run_short(zcache.environment["ZCACHE_DIR"], bounds)
    assert {decision.path for decision, _ in made} == {"params/limit", "pools/e/params/cold_after"}
    assert len(made) == 2, "then they rest"
    assert "42.0 %" in next(decision.reason for decision, _ in made if decision.path == "params/limit")
    limit = int(local_daemon("cat", "params/limit").out)
    assert limit < before
    assert int(local_daemon("cat", "stats/used_bytes").out) <= limit
    assert int(local_daemon("cat", "stats/evicted_limit").out) > 0


def test_what_the_daemon_refuses_is_said_and_goes_on(zcache: Zcache, local_daemon: Callable[..., Result]) -> None:
    local_daemon("pool", "create", "p")
    bounds = Bounds(settle=60, pools={"p": PoolBounds(Range(8192, 8192), cold_after=Range(5, 50))})
    made = run_short(zcache.environment["ZCACHE_DIR"], bounds)
    refused = [refusal for decision, refusal in made if refusal and decision.path.endswith("zv_max_zsize")]
    assert len(refused) == 1
    assert int(local_daemon("cat", "pools/p/params/cold_after").out) == 50


def test_a_kernel_that_tells_no_memory_is_named(zcache: Zcache, local_daemon: Callable[..., Result]) -> None:
    with pytest.raises(ZcacheError, match="MemTotal"):
        run_short(zcache.environment["ZCACHE_DIR"], Bounds(), b"uid 0\nend")
