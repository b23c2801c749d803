# SPDX-License-Identifier: Apache-2.0
"""Start, stop, second daemon, what a killed one leaves behind, bridge."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemon.conftest import HELLO, SECONDS, Daemon, request, start
from tests.native.driver import program
from tests.support import pause


def run(*words: object, config: str = "host", feed: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [str(word) for word in (program(config, "zcached"), *words)]
    return subprocess.run(command, input=feed, capture_output=True, timeout=SECONDS, check=False)


def test_a_second_daemon_is_refused(host_daemon: Daemon) -> None:
    done = run("run", "--dir", host_daemon.directory)
    assert done.returncode == 1
    expected = f"zcached: {host_daemon.directory} is in use by pid {host_daemon.pid}; stop it, or use another --dir\n"
    assert done.stderr.decode() == expected


def test_what_a_killed_daemon_left_is_taken_over(tmp_path: Path) -> None:
    first = start("host", tmp_path / "run")
    first.pool("lost")
    os.kill(first.pid, signal.SIGKILL)
    while Path(f"/proc/{first.pid}").exists() and "Z" not in Path(f"/proc/{first.pid}/stat").read_text().split()[2]:
        time.sleep(0.01)
    assert (first.directory / "control.sock").exists()
    second = start("host", tmp_path / "run")
    assert second.ask("list pools") == "OK 7\ncreate\n"
    second.stop()


def test_abstract_sockets_leave_no_socket_files(tmp_path: Path) -> None:
    daemon = start("host", tmp_path / "run", "--abstract")
    assert daemon.state()["control"].startswith("@zcache-")
    assert not list(daemon.directory.glob("*.sock"))
    assert daemon.alive()
    daemon.stop()


def held_at_birth(directory: Path) -> int | None:
    """A daemon's pidfd: it is stopped before it was ready, its starter killed. None: it was ready, and is killed."""
    command = [str(program("host", "zcached")), "run", "--dir", str(directory), "--detach"]
    pidfd = None
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as starter:
        children = Path(f"/proc/{starter.pid}/task/{starter.pid}/children")
        child: list[str] = []
        while not child and starter.poll() is None:
            child = children.read_text().split()
        if child:
            pidfd = os.pidfd_open(int(child[0]))
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        starter.kill()
    state = directory / "zcached.state"
    if not state.exists():
        return pidfd
    os.kill(int(dict(line.split("=", 1) for line in state.read_text().splitlines())["pid"]), signal.SIGKILL)
    return None


def test_a_daemon_that_nobody_waits_for_any_more_ends(tmp_path: Path) -> None:
    met = 0
    for number in range(200):
        pidfd = held_at_birth(tmp_path / str(number))
        if pidfd is None:
            continue
        signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        assert select.select([pidfd], [], [], SECONDS)[0], "it lives on"
        os.close(pidfd)
        met += 1
        if met == 5:
            return
    pytest.fail("it was always ready already")


def test_sockets_and_directory_are_the_users_alone(host_daemon: Daemon) -> None:
    assert host_daemon.directory.stat().st_mode & 0o777 == 0o700
    for name in ("control.sock", "data.sock"):
        assert (host_daemon.directory / name).stat().st_mode & 0o777 == 0o600


def test_an_idle_daemon_is_small(host_daemon: Daemon) -> None:
    assert host_daemon.resident() <= 2 * 1024 * 1024


def test_bridge_joins_standard_input_and_output(daemon: Daemon) -> None:
    many = b"get abi\n" * 5000
    done = run("bridge", "control", "--dir", daemon.directory, feed=many)
    assert done.returncode == 0
    assert done.stdout == b"OK 2\n1\n" * 5000
    done = run("bridge", "data", "--dir", daemon.directory, feed=request(HELLO) * 100)
    assert len(done.stdout) == 100 * (40 + 48)


def test_bridge_without_a_daemon(tmp_path: Path) -> None:
    done = run("bridge", "control", "--dir", tmp_path)
    assert done.returncode == 4
    assert done.stderr.startswith(f"zcached: no daemon runs in {tmp_path}: ".encode())
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        [], ["fly"], ["run"], ["run", "--dir"], ["run", "--dir", "d", "--page-size", "x"], ["bridge", "--dir", "d"],
        ["bridge", "sideways", "--dir", "d"], ["replay", "--dir", "d"], ["run", "--dir", "d", "more"], ["--what"],
        ["replay", "--dir", "d", "--pool", "p", "--pid", "-3"],
    ],
)  # fmt: skip
def test_misuse_is_one_line(words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert done.stderr.startswith(b"zcached: ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--page-size", "5000"], "--page-size 5000"),
        (["--page-size", "1024"], "--page-size 1024"),
        (["--limit", "lots"], "--limit: ERR EINVAL"),
        (["--limit", "12"], "--limit: ERR ERANGE"),
    ],
)
def test_what_cannot_start_leaves_nothing(tmp_path: Path, options: list[str], complaint: str) -> None:
    done = run("run", "--dir", tmp_path / "run", "--detach", *options)
    assert done.returncode == 1
    assert complaint in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert not (tmp_path / "run" / "zcached.state").exists()


def test_probe_and_version() -> None:
    facts = dict(line.split("=", 1) for line in run("probe").stdout.decode().splitlines())
    assert int(facts["page_size"]) == os.sysconf("SC_PAGESIZE")
    assert int(facts["default_limit"]) <= int(facts["mem_total"]) // 4
    assert {"userfaultfd", "memfd", "io_uring", "pagemap_self", "mem_available", "cpus"} <= facts.keys()
    assert run("--version").stdout == run("version").stdout


def test_replay_of_a_process_that_is_not_there(daemon: Daemon) -> None:
    daemon.pool("p")
    done = run("replay", "--dir", daemon.directory, "--pool", "p", "--pid", 2**22 + 1)
    assert (done.returncode, done.stderr[:15]) == (3, b"zcached: ESRCH:")
    done = run("replay", "--dir", daemon.directory, "--pool", "none", "--pid", os.getpid())
    assert (done.returncode, done.stderr) == (5, b"zcached: ENOENT: no such pool: none\n")


HOLDER = "x=[str(i)*30 for i in range(700000)]\nprint(1, flush=True)\ninput()"
"""Holds some 100 MB: replaying it takes a while."""


@contextmanager
def replay_that_has_begun(
    daemon: Daemon, pool: str
) -> Iterator[tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]]:
    """`zcached replay` and the process that it reads."""
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        words = ["replay", "--dir", daemon.directory, "--pool", pool, "--pid", process.pid]
        command = [str(word) for word in (daemon.program, *words)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as replay:
            assert replay.stdout
            replay.stdout.readline()
            yield replay, process
        process.kill()


def test_replay_of_a_process_that_ends_meanwhile(host_daemon: Daemon) -> None:
    host_daemon.pool("p")
    with replay_that_has_begun(host_daemon, "p") as (replay, process):
        process.kill()
        process.wait()
        _, said = replay.communicate(timeout=SECONDS)
    assert replay.returncode == 3
    assert said == f"zcached: ESRCH: process {process.pid}: it does not exist, or has ended\n".encode()
    assert "pools/p/stats/zpages=0\n" in host_daemon.ask("dump pools/p/stats")


def test_what_an_ephemeral_pool_drops_during_a_replay_is_not_lost(host_daemon: Daemon) -> None:
    host_daemon.pool("e", "ephemeral")
    with replay_that_has_begun(host_daemon, "e") as (replay, _):
        pause(replay.pid)
        assert host_daemon.ask("set pools/e/shrink 1000000") == "OK 0\n"
        replay.send_signal(signal.SIGCONT)
        said, _ = replay.communicate(timeout=SECONDS)
    report = json.loads(said.splitlines()[-1])["report"]
    dropped = int(host_daemon.ask("get pools/e/stats/reclaimed_zpages").split()[2])
    assert (report["dropped"], report["lost"], report["mismatches"]) == (dropped, 0, 0)
    assert dropped > 0
    assert replay.returncode == 0
