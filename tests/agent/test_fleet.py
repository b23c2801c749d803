# SPDX-License-Identifier: Apache-2.0
"""Several devices in one command: directories of this machine, some of them dead, and fake adb servers."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.agent.conftest import Result, Zcache, fails
from tests.agent.fake_adb import FakeAdb
from zcache_agent import __version__
from zcache_agent.cli import main
from zcache_agent.cli.fleet import Board
from zcache_agent.cli.output import Output
from zcache_agent.errors import NoDevice, Usage
from zcache_agent.fleet import Job, expand, is_fleet, side_by_side, split
from zcache_agent.transport.local import LocalTransport


class Here(Zcache):
    """The command in this process: it starts no interpreter for each of many."""

    def __call__(self, *arguments: object, **environment: str) -> Result:
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patched:
            for name in {*os.environ} - {*self.environment}:
                patched.delenv(name)
            for name, value in {**self.environment, **environment}.items():
                patched.setenv(name, value)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main([*map(str, arguments)])
        assert "Traceback" not in err.getvalue(), err.getvalue()
        return Result(code, out.getvalue(), err.getvalue())


@pytest.fixture
def zcache(adb_server: int, tmp_path: Path) -> Iterator[Zcache]:
    before = {ending: signal.getsignal(ending) for ending in (signal.SIGTERM, signal.SIGHUP)}
    yield Here({"ANDROID_ADB_SERVER_PORT": str(adb_server), "ZCACHE_DIR": str(tmp_path / "zcache")})
    for ending, handler in before.items():
        signal.signal(ending, handler)


# ---- which devices ----

_NAMES = st.text(st.characters(blacklist_characters="\\", blacklist_categories=["Cs", "Zs", "Cc"]), min_size=1)
_LINES = st.builds(
    lambda name, speed: f"serial:/dev/tty{name}{speed}",
    st.from_regex(r"[A-Za-z]{1,4}[0-9]{0,2}", fullmatch=True),
    st.sampled_from(["", ",9600", ",115200"]),
)
_SERIALS = st.one_of(
    st.just("all"),
    st.from_regex(r"[A-Za-z0-9.:_-]{1,16}", fullmatch=True),
    _NAMES.map(lambda name: f"local:/{name.strip()}"),
    _LINES,
)


def _is_speed(before: str, after: str) -> bool:
    return before.startswith("serial:") and "," not in before and after.isdecimal()


@given(st.lists(_SERIALS, min_size=1))
def test_a_list_is_split_as_it_was_joined(serials: list[str]) -> None:
    def written(serial: str) -> str:
        return serial if serial.startswith("serial:") else serial.replace(",", "\\,")

    if any(map(_is_speed, serials, serials[1:])):
        return  # that is how a speed is written
    assert split(",".join(map(written, serials))) == serials


@given(st.text(st.sampled_from("ab,\\ 9:serial")))
def test_any_text_is_a_list_or_wrong_usage(text: str) -> None:
    try:
        found = split(text)
    except Usage:
        assert "," in text
    else:
        assert all(found) or found == [""]


@pytest.mark.parametrize(
    ("spec", "serials"),
    [
        ("all", ["all"]),
        ("a", ["a"]),
        ("a, b", ["a", "b"]),
        ("serial:/dev/ttyUSB0,115200", ["serial:/dev/ttyUSB0,115200"]),
        ("serial:/dev/ttyUSB0,115200,0123", ["serial:/dev/ttyUSB0,115200", "0123"]),
        ("serial:/dev/ttyUSB0,serial:/dev/ttyUSB1,9600,a", ["serial:/dev/ttyUSB0", "serial:/dev/ttyUSB1,9600", "a"]),
        ("local,0123,4567", ["local", "0123", "4567"]),
        ("local:/a\\,b,c", ["local:/a,b", "c"]),
    ],
)
def test_lists(spec: str, serials: list[str]) -> None:
    assert split(spec) == serials
    assert is_fleet(serials) == (len(serials) > 1 or spec == "all")


@pytest.mark.parametrize("spec", [",", "a,", ",a", "a,,b"])
def test_a_comma_with_nothing_beside_it(zcache: Zcache, spec: str) -> None:
    fails(zcache("-s", spec, "status"), 2, spec, "no serial beside it")


def test_each_is_there_once() -> None:
    assert expand(["a", "local", "a"], 1) == ["a", "local"]


# ---- side by side ----


def test_so_many_at_once_and_no_more() -> None:
    most, now, lock = 0, 0, threading.Lock()
    both = threading.Barrier(2)

    def work() -> None:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        both.wait(120)  # so that one alone would not end
        with lock:
            now -= 1

    jobs = [Job(work) for _ in range(6)]
    side_by_side(jobs, at_once=2)
    assert most == 2
    assert all(job.done for job in jobs)


def test_an_interrupt_ends_what_waits_and_what_it_made_is_taken_away() -> None:
    said: list[str] = []
    ours, theirs = socket.socketpair()

    def waits() -> None:
        try:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            ours.recv(1)
        finally:
            said.append("cleaned up")

    def spins() -> None:
        while True:
            time.sleep(0.01)

    jobs = [Job(waits, lambda: ours.shutdown(socket.SHUT_RDWR)), Job(spins), Job(lambda: said.append("not reached"))]
    with contextlib.closing(ours), contextlib.closing(theirs), pytest.raises(KeyboardInterrupt):
        side_by_side(jobs, at_once=2)
    assert said == ["cleaned up"]
    assert not any(job.done for job in jobs)


def test_an_interrupt_ends_a_command_of_this_machine() -> None:
    transport = LocalTransport(None, 600)

    def runs() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        transport.run(["sleep", "600"])

    job = Job(runs, transport.interrupt)
    with pytest.raises(KeyboardInterrupt):
        side_by_side([job])
    assert not job.done


def test_a_bug_in_one_is_not_lost() -> None:
    done: list[int] = []

    def bug() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        side_by_side([Job(bug), Job(lambda: done.append(1))])
    assert done == [1]


def test_progress_names_each_device_that_is_at_work() -> None:
    output = Output(as_json=False, quiet=False)
    shown = io.StringIO()
    output.errors = Console(file=shown, force_terminal=True, width=100)
    with Board(output, 2) as board, board.working("one"), board.working("two"):
        board.step("one", 0.5, "[copying]")
        board.step("two", 0.1, "sampling")
        for said in ("2 devices", "one: [copying]", "50 %", "two: sampling"):
            board.bars.refresh()
            assert said in shown.getvalue()


# ---- commands ----


@pytest.fixture
def two(zcache: Zcache, tmp_path: Path) -> Iterator[str]:
    """Two directories of this machine with a daemon in each, as -s takes them."""
    both = f"local:{tmp_path}/one,local:{tmp_path}/two"
    started = zcache("-s", both, "up", "--page-size", 4096)
    assert started.code == 0, started
    yield both
    ended = zcache("-s", both, "down", "--force")
    assert ended.code == 0, ended
    assert not (tmp_path / "one").exists()
    assert not (tmp_path / "two").exists()


def rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines()]


def test_a_life_of_two(zcache: Zcache, two: str, tmp_path: Path) -> None:
    one, other = two.split(",")
    again = zcache("-s", two, "up")
    assert [line.split()[0] for line in again.out.splitlines()] == ["device", one, other]
    assert again.out.count("ran already") == 2
    status = zcache("status", "--json", ZCACHE_SERIAL=two).json["devices"]
    assert [(serial, facts["serial"]) for serial, facts in status.items()] == [(one, one), (other, other)]
    assert len({facts["pid"] for facts in status.values()}) == 2

    assert zcache("-s", other, "set", "params/limit", "64M").code == 0
    shown = rows(zcache("-s", two, "cat", "params/limit").out)
    assert shown[0] == ["device", "path", "value"]
    assert [row[0] for row in shown[1:]] == [one, other]
    assert shown[1][2] != shown[2][2] == str(64 << 20)
    assert rows(zcache("-s", two, "set", "params/limit", "32M").out)[2] == [other, "params/limit", str(32 << 20)]
    params = zcache("-s", two, "params", "params/limit", "--json").json["devices"]
    assert {facts["params/limit"]["value"] for facts in params.values()} == {32 << 20}

    assert zcache("-s", two, "pool", "create", "swap").out.count("persistent") == 2
    assert rows(zcache("-s", two, "stats", "*/puts").out)[1:] == [
        [one, "pools/swap/stats/puts", "0"],
        [other, "pools/swap/stats/puts", "0"],
    ]
    summary = rows(zcache("-s", two, "stats").out)
    assert summary[0] == ["device", "pools", "pages", "puts", "gets", "refused", "used", "limit"]
    assert [row[:3] for row in summary[1:]] == [[one, "1", "0"], [other, "1", "0"]]
    assert zcache("-s", two, "check").code == 0
    assert "==> " + one in zcache("-s", two, "log").out
    for command in ("doctor", "version", "wait", "pool list", "kernel status", "config show"):
        result = zcache("-s", two, *command.split())
        assert result.code == 0, result
        assert result.out.count(one) == result.out.count(other) >= 1


def test_one_that_fails_does_not_stop_the_others(zcache: Zcache, two: str, tmp_path: Path) -> None:
    """A dead directory, a daemon of another version, a device that adb does not know."""
    old = tmp_path / "old"
    assert zcache("-s", f"local:{old}", "up").code == 0
    state = old / "zcached.state"
    version = __version__
    text = state.read_text()
    state.write_text(text.replace(f"version={version}", "version=0.0.1"))
    every = f"{two},local:/proc/none,local:{old},nosuch"
    try:
        result = zcache("-s", every, "up")
        fails(result, 4, "3 of 5 devices failed", f"local:/proc/none, local:{old}, nosuch")
        good, bad = result.out.splitlines()[1:3], result.out.splitlines()[3:]
        assert all("ran already" in line for line in good)
        assert "/proc/none" in bad[0]
        assert "0.0.1" in bad[1]
        assert "--replace" in bad[1]
        assert "adb sees none" in bad[2]

        result = zcache("-s", every, "status", "--json")
        devices = result.json["devices"]
        codes = [facts.get("error", {}).get("exit_code", 0) for facts in devices.values()]
        assert codes == [0, 0, 4, 0, 3]
        assert devices["nosuch"]["error"].keys() >= {"name", "message", "hint"}
        assert (result.code, result.error["name"]) == (4, "devices_failed")
    finally:
        state.write_text(text)
        assert zcache("-s", f"local:{old}", "down").code == 0


def test_the_code_is_the_highest_of_the_devices(zcache: Zcache, two: str) -> None:
    fails(zcache("-s", f"{two},nosuch", "stats"), 3, "1 of 3")
    fails(zcache("-s", f"{two},nosuch", "cat", "nothing"), 5, "3 of 3")


def test_what_is_wrong_with_the_command_line_is_said_once(zcache: Zcache, two: str) -> None:
    for command in (("set", "a"), ("stats", "nothing*"), ("tune", "--goal", "flash")):
        result = zcache("-s", two, *command)
        fails(result, 2)
        assert result.out == ""
        assert result.err.startswith(f"zcache: {' '.join(command[1:])}:") or "devices" not in result.err


@pytest.mark.parametrize("spec", ["all", "a,local"])
def test_what_makes_no_sense_for_several_is_refused(zcache: Zcache, spec: str) -> None:
    for command, asked in (
        ("log -f", "log --follow"),
        ("stats -w", "stats --watch"),
        ("pool show swap", "pool show"),
        ("record swap x", "record"),
        *((command, command) for command in ("ls", "bench", "demo", "bugreport", "swap status")),
    ):
        result = zcache("-s", spec, *command.split())
        fails(result, 2, f"zcache: {spec}: zcache {asked} takes one device")
        assert result.out == ""


def test_files_are_one_for_each_device(zcache: Zcache, two: str, tmp_path: Path) -> None:
    single = tmp_path / "all.toml"
    fails(zcache("-s", two, "config", "save", single), 2, "all.toml", "{serial}")
    assert not single.exists()
    saved = zcache("-s", two, "config", "save", tmp_path / "{serial}.toml", "--json").json["devices"]
    files = [Path(facts["file"]) for facts in saved.values()]
    assert [file.name.endswith(f"_{name}.toml") for file, name in zip(files, ("one", "two"), strict=True)] == [True] * 2
    files[1].write_text("[store]\nlimit = 33554432\n")

    changes = zcache("-s", two, "config", "diff", tmp_path / "{serial}.toml", "--json").json["devices"]
    assert [[change["key"] for change in facts["changes"]] for facts in changes.values()] == [[], ["store.limit"]]
    tried = zcache("-s", two, "config", "apply", "--dry-run", tmp_path / "{serial}.toml")
    assert "not changed" in tried.out
    applied = zcache("-s", two, "config", "apply", files[1])
    assert (applied.code, applied.out.count("applied")) == (0, 2)
    limits = zcache("-s", two, "cat", "params/limit", "--json").json["devices"]
    assert [facts["params/limit"] for facts in limits.values()] == [32 << 20] * 2
    # what can be named alike must not be
    fails(zcache("-s", "local:a/b,local:a_b", "config", "save", tmp_path / "{serial}"), 2, "count as _")


def test_analyze_and_tune(zcache: Zcache, two: str, tmp_path: Path) -> None:
    sampling = ("--pages", 200, "--pid", os.getpid())
    facts = tmp_path / "{serial}.json"
    table = zcache("-s", two, "analyze", "--seconds", 5, *sampling, "--save", facts)
    assert table.code == 0, table
    assert [row[0] for row in rows(table.out)] == ["device", *two.split(",")]
    assert "lz4 " in table.out
    saved = [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]
    assert [one["kind"] for one in saved] == ["anonymous"] * 2
    sections = zcache("-s", two, "-v", "analyze", "--seconds", 5, *sampling).out
    assert sections.count("most is saved by") == sections.count("==> ") == 2
    tuned = zcache("-s", two, "tune", "--seconds", 4, *sampling, "--json")
    assert tuned.code == 0, tuned
    assert all(one["recommended"]["settings"] for one in tuned.json["devices"].values())
    # a SOURCE is of no device
    dump = tmp_path / "dump"
    dump.write_bytes(bytes(range(256)) * 64)
    assert "4 of 4 pages" in zcache("-s", two, "analyze", dump).out


# ---- adb ----

STATES = "emulator-1 device model:A\n0123 unauthorized\n4567 offline\n"


@contextlib.contextmanager
def interrupted(zcache: Zcache, fake: FakeAdb, *arguments: object) -> Iterator[tuple[int, str, str]]:
    """A command that a device lets wait, and Ctrl-C."""
    running = zcache.start("--timeout", 600, *arguments)
    while not any(request.startswith("shell") for request in fake.asked):
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=120)
    yield running.returncode, out, err


def test_all_are_those_of_adb_in_whatever_state(zcache: Zcache) -> None:
    with FakeAdb(devices=STATES, refuses_services=True).running() as fake:
        result = zcache("-s", "all", "status", ANDROID_ADB_SERVER_PORT=str(fake.port))
    lines = result.out.splitlines()
    assert [line.split()[0] for line in lines] == ["device", "emulator-1", "0123", "4567"]
    assert "unauthorized" in lines[2]
    assert "accept the prompt on the phone" in lines[2]
    assert "offline" in lines[3]
    fails(result, 3, "3 of 3 devices failed: emulator-1, 0123, 4567")


def test_all_of_none(zcache: Zcache) -> None:
    fails(zcache("-s", "all", "status"), 3, "adb sees none")
    fails(zcache("status", ZCACHE_SERIAL="all", ADB_SERVER_SOCKET="tcp:127.0.0.2:1"), 3, "127.0.0.2:1")


def _other_hosts() -> list[str]:
    """Addresses of this machine at which the adb server is not looked for by itself."""
    with contextlib.suppress(OSError):
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        return ["127.0.0.2", "::1"]
    return ["127.0.0.2"]  # a machine without IPv6


@pytest.mark.parametrize("host", _other_hosts())
def test_a_server_that_is_elsewhere(zcache: Zcache, host: str) -> None:
    """Nothing listens at its port on 127.0.0.1."""
    written = f"[{host}]" if ":" in host else host
    with FakeAdb(devices=STATES).running(host) as fake:
        result = zcache("-s", "all", "status", ADB_SERVER_SOCKET=f"tcp:{written}:{fake.port}")
    assert result.out.count("unauthorized") == 1
    assert not [request for request in fake.asked if "forward" in request]


def test_a_silent_device_does_not_hold_up_an_interrupt(zcache: Zcache, tmp_path: Path) -> None:
    fake = FakeAdb(devices="emulator-1 device\n", silent=True)
    with fake.running():
        zcache.environment["ANDROID_ADB_SERVER_PORT"] = str(fake.port)
        both = f"local:{tmp_path}/none,emulator-1"
        with interrupted(zcache, fake, "-s", both, "status", "--json") as (code, out, err):
            assert code == 130, (out, err)
            assert json.loads(err)["error"]["name"] == "interrupted"
            names = [facts["error"]["name"] for facts in json.loads(out)["devices"].values()]
            assert names[1] == "interrupted"


def test_nothing_is_seen_by_adb() -> None:
    with FakeAdb().running() as fake, pytest.MonkeyPatch.context() as environment:
        environment.setenv("ADB_SERVER_SOCKET", f"tcp:127.0.0.1:{fake.port}")
        with pytest.raises(NoDevice):
            expand(["all"], 5)
        assert expand(["all", "local"], 5) == ["local"]
