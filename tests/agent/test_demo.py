# SPDX-License-Identifier: Apache-2.0
"""The demo on this machine: what it tells, and that nothing of it stays."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zcache_agent.transport.local import LocalTransport
from zcache_agent.workloads import WORKLOADS, Workload, available, running, wait_until_gone

ZCACHE = str(Path(sys.executable).parent / "zcache")


def processes(mark: str) -> set[str]:
    """Processes that know of `mark`, by their environment: all that a command under test started."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"ZCACHE_TEST={mark}\0".encode() in (entry / "environ").read_bytes():
                found.add((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short one: a socket's path has at most 107 bytes."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "tmp").mkdir()
    return {
        **os.environ,
        "ZCACHE_DIR": str(tmp_path / "zcache"),
        "TMPDIR": str(tmp_path / "tmp"),
        "ZCACHE_TEST": str(tmp_path),
    }


def nothing_is_left(tmp_path: Path) -> None:
    for _ in range(100):  # what was told to end may still be on its way
        if not processes(str(tmp_path)):
            break
        time.sleep(0.1)
    assert processes(str(tmp_path)) == set()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_demo_with_a_daemon_of_its_own(environment: dict[str, str], tmp_path: Path) -> None:
    argv = [ZCACHE, "-s", "local", "--json", "demo"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["own_daemon"]
    assert len(facts["processes"]) >= 3
    for process in facts["processes"]:
        zbud, zsmalloc = process, process["zsmalloc"]
        assert zbud["report"]["stored"] > 500
        assert zsmalloc["report"]["stored"] > 500
        assert zsmalloc["used_bytes"] < 0.9 * zbud["used_bytes"], "what zsmalloc is there for"
    thresholds = facts["thresholds"]
    refused = [sum(threshold["report"]["refused"].values()) for threshold in thresholds]
    assert refused == sorted(refused)
    assert refused[-1] > refused[0]
    sizes = [threshold["zv_max_zsize"] for threshold in thresholds]
    assert sizes == sorted(set(sizes), reverse=True)
    assert [(pool["kind"], pool["allocator"]) for pool in facts["pools"]] == [
        ("persistent", "zbud"), ("persistent", "zsmalloc"), ("ephemeral", "zbud"),
    ]  # fmt: skip
    *persistent, ephemeral = facts["pools"]
    assert all(pool["stats"]["same_filled"] > 0 for pool in persistent)
    assert ephemeral["stats"]["zpages"] == facts["libraries"]["stored"]
    assert not (tmp_path / "zcache").exists()
    nothing_is_left(tmp_path)


def test_the_demo_uses_a_daemon_that_runs(environment: dict[str, str], tmp_path: Path) -> None:
    def zcache(*words: str) -> str:
        argv = [ZCACHE, "-s", "local", *words]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=200, check=True).stdout

    zcache("up")
    try:
        told = zcache("demo")
        assert "came back the same, byte for byte" in told
        assert "zv_max_zsize" in told
        assert "█" in told
        assert json.loads(zcache("--json", "ls", "pools")) in (["create"], [])
        assert json.loads(zcache("--json", "stats", "stats/pools"))["stats/pools"] == 0
    finally:
        zcache("down", "--force")
    nothing_is_left(tmp_path)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["daemon", "programs", "libraries"])
def test_a_demo_that_is_ended_leaves_nothing(
    environment: dict[str, str], tmp_path: Path, moment: str, ending: signal.Signals
) -> None:
    demo = subprocess.Popen(
        [ZCACHE, "-s", "local", "demo"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )

    def reached() -> bool:
        there = " ".join(processes(str(tmp_path)))
        if moment == "daemon":
            return "zcached run" in there
        if moment == "programs":
            return "zcached replay" in there
        return bool(list((tmp_path / "tmp").glob("*.tar")))

    while demo.poll() is None and not reached():
        time.sleep(0.01)
    os.killpg(demo.pid, ending)
    _, said = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert said.decode().strip().endswith("interrupted")
    assert b"Traceback" not in said
    nothing_is_left(tmp_path)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_a_workload_holds_memory_until_its_stream_ends(tmp_path: Path, workload: Workload) -> None:
    transport = LocalTransport(str(tmp_path))
    if workload not in available(transport):
        pytest.fail(f"this machine has not all of {', '.join(workload.needs)}")
    with running(transport, workload, 1) as pid:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        anonymous = next(line for line in rollup.splitlines() if line.startswith("Anonymous:"))
        assert int(anonymous.split()[1]) > 500
        assert workload.name in Path(f"/proc/{pid}/cmdline").read_text()
    wait_until_gone(transport, [pid])
    assert not Path(f"/proc/{pid}").exists()
