# SPDX-License-Identifier: Apache-2.0
"""The benchmark of programs: a tiny one, measured for real but for swap; and what is made of the numbers.

workloads.json is a run's of two programs.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError
from bench.programs.process import answering, whole_run
from bench.workloads import swaps
from bench.workloads.__main__ import parsed
from bench.workloads.group import CONTROLLERS, Group, Use, found, group
from bench.workloads.memory import look, share_cold
from bench.workloads.picture import draw
from bench.workloads.programs import Work, Workload, refuse_missing
from bench.workloads.report import BEGIN, END, outcome, put_into, render
from bench.workloads.run import run
from tests.support import ROOT, require_or_skip

Facts = dict[str, Any]

MIB = 1 << 20
TINY = f"""
import sys, time
memory = bytearray(b"some text, again and again. " * (24 * {MIB} // 28))
print("ready", flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        memory[:{MIB}] = bytes({MIB})
        time.sleep(0.02)
    print("done", flush=True)
"""


@contextmanager
def tiny_at_work(groups: Sequence[Path]) -> Iterator[Work]:
    with answering([sys.executable, "-c", TINY], 60, groups=groups) as work:
        yield work


TINY_WORKLOAD = Workload("tiny", "test", "writes over a MiB of 24", tiny_at_work, ())


def why_no_groups() -> str:
    try:
        with group():
            return ""
    except (BenchError, OSError) as error:
        return str(error)


@pytest.fixture
def _cgroups(tmp_path: Path) -> Iterator[None]:
    """Where none are mounted, as in a bare chroot, they are for the test."""
    mounted = []
    try:
        for controller in CONTROLLERS if why_no_groups() else ():
            at = tmp_path / controller
            at.mkdir()
            if subprocess.run(["mount", "-t", "cgroup", "-o", controller, "cgroup", at], check=False).returncode == 0:
                mounted.append(at)
        if why := why_no_groups():
            require_or_skip("zram", f"no control groups to be made: {why}")
        yield
    finally:
        for at in mounted:
            subprocess.run(["umount", at], check=True)


@pytest.fixture
def facts() -> Facts:
    loaded: Facts = json.loads(Path(__file__).with_name("workloads.json").read_text())
    return loaded


def groups_of(pid: int) -> list[Path]:
    roots, _ = found(Path("/proc/mounts").read_text())
    return [root / f"zcache-bench-{pid}" for root in roots.values() if (root / f"zcache-bench-{pid}").exists()]


@pytest.mark.usefixtures("_cgroups")
def test_a_run_says_what_it_took() -> None:
    facts = run(TINY_WORKLOAD)
    assert facts["outcome"] == "done"
    assert 24 * MIB < facts["peak"]["anonymous"] < 64 * MIB
    assert facts["wall_s"] > 1
    assert facts["cpu_s"] > 0
    assert groups_of(os.getpid()) == []


@pytest.mark.usefixtures("_cgroups")
def test_without_swap_a_limit_kills_it() -> None:
    facts = run(TINY_WORKLOAD, limit=16 * MIB)
    assert facts["outcome"] == "killed"
    assert facts["peak"]["anonymous"] <= 16 * MIB
    assert groups_of(os.getpid()) == []


@pytest.mark.usefixtures("_cgroups")
def test_what_takes_too_long_is_given_up() -> None:
    assert run(TINY_WORKLOAD, patience=(60, 0.1))["outcome"] == "slow"


@pytest.mark.usefixtures("_cgroups")
def test_a_program_that_fails_is_no_result() -> None:
    @contextmanager
    def failing(groups: Sequence[Path]) -> Iterator[Work]:
        with whole_run([sys.executable, "-c", "raise SystemExit(3)"], groups) as work:
            yield work

    with pytest.raises(BenchError, match="ended with 3"):
        run(Workload("failing", "test", "fails", failing, (), serves=False))


@pytest.mark.usefixtures("_cgroups")
def test_what_its_memory_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("bench.workloads.memory.IDLE_S", 0.5)
    facts = look(TINY_WORKLOAD, 1, tmp_path / "pages")
    lz4 = facts["total"]["codecs"][0]
    assert lz4["spec"] == "lz4"
    assert lz4["ratio"] > 5
    assert facts["total"]["pages"] > 24 * MIB // 4096
    assert (tmp_path / "pages").stat().st_size > 16 * MIB
    assert facts["touched"]["idle"] > 0.9
    assert facts["mapped_files"] > 0


def test_pages_that_are_touched_are_not_cold() -> None:
    script = "b = bytearray(64 << 20)\nprint(flush=True)\nwhile True: b[::4096] = bytes(len(b[::4096]))"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            process.stdout.readline()

            class One:
                def pids(self) -> list[int]:
                    return [process.pid]

            touched: Any = One()
            assert share_cold(touched, [1])[0] < 0.6
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.1)
            assert share_cold(touched, [0.1])[0] > 0.9
        finally:
            process.kill()


ENDLESS = """
import sys
from bench.workloads.__main__ import end, signal
from bench.workloads.run import run
from tests.bench.test_workloads import TINY_WORKLOAD
signal.signal(signal.SIGTERM, end)
while True:
    run(TINY_WORKLOAD)
"""


@pytest.mark.usefixtures("_cgroups")
def test_a_killed_one_leaves_nothing() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "agent")])}
    with subprocess.Popen([sys.executable, "-c", ENDLESS], env=environment, cwd=ROOT) as process:
        deadline = time.monotonic() + 300
        while not any((one / "cgroup.procs").read_text() for one in groups_of(process.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        running = [int(pid) for pid in (groups_of(process.pid)[0] / "cgroup.procs").read_text().split()]
        process.terminate()
        assert process.wait(300) == 128 + signal.SIGTERM
    assert groups_of(process.pid) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in running)


def test_either_version_of_cgroups(tmp_path: Path) -> None:
    mounts = ("/c/memory cgroup rw,memory", "/c/cpu cgroup rw,cpu,cpuacct", "/c/io cgroup rw,blkio")
    old = "".join(f"cgroup {mount} 0 0\n" for mount in mounts)
    assert found(old) == ({"memory": Path("/c/memory"), "cpuacct": Path("/c/cpu"), "blkio": Path("/c/io")}, False)
    control = tmp_path / "cgroup.subtree_control"
    control.write_text("cpu io memory pids\n")
    new = f"cgroup2 {tmp_path} cgroup2 rw 0 0\n"
    assert found(new) == (dict.fromkeys(("memory", "cpuacct", "blkio"), tmp_path), True)
    control.write_text("cpu\n")
    with pytest.raises(BenchError, match="no cgroup limits memory"):
        found(new)


def test_a_group_of_version_2(tmp_path: Path) -> None:
    one = Group(dict.fromkeys(("memory", "cpuacct", "blkio"), tmp_path), unified=True)
    assert one.joined == [tmp_path]
    files = {
        "memory.stat": "anon 4096\nfile 8192\nfile_mapped 4096\npgmajfault 3\n",
        "memory.swap.current": "12288\n",
        "memory.events": "oom 1\noom_kill 1\n",
        "cpu.stat": "usage_usec 1500000\nuser_usec 1000000\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert one.use() == Use(16384, 12288, 8192, 3, 1.5)
    assert one.killed()
    one.limit(65536, swap=False)
    assert [(tmp_path / f"memory.{name}").read_text() for name in ("max", "swap.max")] == ["65536", "0"]
    one.limit(65536, swap=True)
    assert (tmp_path / "memory.swap.max").read_text() == "max"
    one.slow_reads("8:0", 1000)
    assert (tmp_path / "io.max").read_text() == "8:0 rbps=1000"


def test_swap_of_others_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "swaps"
    listed.write_text("Filename Type Size Used Priority\n/dev/zram1 partition 9 4 32767\n/dev/zram2 partition 9 8 5\n")
    monkeypatch.setattr(swaps, "PROC", listed)
    assert swaps.elsewhere(Path("/dev/zram2")) == 4096
    assert swaps.elsewhere(None) == 12 * 1024


def test_zswap_in_front_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swaps, "ZSWAP", tmp_path / "enabled")
    swaps.refuse_zswap()
    (tmp_path / "enabled").write_text("Y\n")
    with pytest.raises(BenchError, match="echo N"):
        swaps.refuse_zswap()


def test_what_is_missing_is_one_line() -> None:
    with pytest.raises(BenchError, match=r"^not here: no-such-program.*tools/system_packages bench"):
        refuse_missing([Workload("x", "test", "", tiny_at_work, ("no-such-program",))])


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(["redsi"])
    assert "redsi: not one of redis, sqlite" in capsys.readouterr().err


def test_only_what_is_between_the_marks_is_made_anew(facts: Facts) -> None:
    text = put_into(f"before\n{BEGIN}what was\n{END}after\n", facts)
    assert text.startswith(f"before\n{BEGIN}")
    assert text.endswith(f"{END}after\n")
    assert f"{BEGIN}what was" not in text
    assert put_into(text, facts) == text


def test_rows_are_as_wide_as_their_heads(facts: Facts) -> None:
    width = 0
    for line in render(facts).splitlines():
        width = (width or line.count("|")) if line.startswith("|") else 0
        assert line.count("|") == width, line
    assert all(f"| {name} |" in render(facts) for name in facts["workloads"])


def test_the_document_has_the_marks() -> None:
    document = (ROOT / "docs/which-workloads.md").read_text()
    assert document.count(BEGIN) == document.count(END) == 1


def test_a_run_that_was_not_done_is_no_time() -> None:
    done = {"outcome": "done", "wall_s": 3.0}
    assert outcome([done, {"outcome": "done", "wall_s": 5.0}, done], 2) == "1.50 (1.50\N{EN DASH}2.50)"
    assert outcome([done, {"outcome": "slow"}], 2) == "1.50 (1 of 2 given up)"
    assert outcome([{"outcome": "killed"}], 2) == "killed"
    assert outcome([{"outcome": "slow"}], 2) == "given up"


def test_swap_of_others_is_said(facts: Facts) -> None:
    assert "No other swap was in use." in render(facts)
    next(iter(facts["workloads"].values()))["runs"]["zram-75"][0]["peak"]["elsewhere"] = 3 * MIB
    assert "Other swap than ours grew by up to 3.0 MiB" in render(facts)


def test_the_same_numbers_make_the_same_picture(facts: Facts, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw(facts, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
