# SPDX-License-Identifier: Apache-2.0
"""The closed loop as a program of its own, on this machine as the device. On emulated ones: tests/device."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.agent.conftest import Result, Zcache, fails
from zcache_agent.errors import DaemonAbsent
from zcache_agent.gather import Gatherer
from zcache_agent.loop.bounds import Bounds, Range
from zcache_agent.loop.events import Event, Events
from zcache_agent.loop.run import Loop
from zcache_agent.ondevice import main as on_device
from zcache_agent.ondevice.files import FILES, LOG, NAME, PROGRAM, STATE
from zcache_agent.ondevice.program import make_program, needed_files
from zcache_agent.transport.local import LocalTransport

CONFIG = '[agent]\ninterval = "1s"\nsettle = 0\nlimit = { min = "8M", max = "64M" }\n'
BEYOND, BOUND = 100 << 20, 64 << 20
SECONDS = 120

# Runs a program by itself: what is neither in it nor of the standard library cannot be imported.
ALONE = """
import runpy, sys, zipfile
program, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = program
inside = {name.partition("/")[0] for name in zipfile.ZipFile(program).namelist()} | {"__main__"}
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.stdlib_module_names | inside:
            raise ImportError(f"{name} is not of the standard library")
sys.meta_path.insert(0, Wall())
try:
    runpy.run_path(program, run_name="__main__")
finally:
    foreign = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in inside - {"__main__"}}
    assert len(foreign) > 10, foreign
    assert all(module.__file__.startswith(program) for module in foreign.values()), foreign
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "device.toml"
    file.write_text(CONFIG)
    return file


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The daemon's, and the agent's."""
    return tmp_path / "zcache"


def until(what: Callable[[], Any]) -> Any:  # noqa: ANN401 (whatever it becomes)
    """Waits until something is so."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.1)
    pytest.fail(f"{what} did not become so")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def told(directory: Path) -> dict[str, str]:
    """What the agent there wrote last."""
    return dict(line.split("=", 1) for line in read(directory / STATE).splitlines())


def decisions(directory: Path) -> int:
    return int(told(directory)["decisions"])


def let_it_decide(zcache: Callable[..., Result], directory: Path) -> None:
    """Beyond its bounds goes the limit, and comes back."""
    before = decisions(directory)
    assert zcache("set", "params/limit", BEYOND).code == 0
    until(lambda: decisions(directory) > before)
    assert zcache("cat", "params/limit").out == f"{BOUND}\n"


class TestProgram:
    def test_the_same_makes_the_same_bytes(self, tmp_path: Path) -> None:
        make = "import sys; from zcache_agent.ondevice.program import make_program as make\n"
        make += "sys.stdout.buffer.write(make(sys.argv[1].encode()).content)"
        elsewhere = subprocess.run([sys.executable, "-c", make, CONFIG], cwd=tmp_path, capture_output=True, check=True)
        assert elsewhere.stdout == make_program(CONFIG.encode()).content
        assert elsewhere.stdout != make_program(CONFIG.encode() + b"\n").content

    def test_it_holds_what_the_loop_needs_and_no_more(self) -> None:
        with zipfile.ZipFile(io.BytesIO(make_program(CONFIG.encode()).content)) as archive:
            names = set(archive.namelist())
        assert {"__main__.py", "zcache_agent/agent.toml", "zcache_agent/loop/run.py"} <= names
        assert all(name.endswith((".py", ".toml", ".sha256", "LICENSE")) for name in names)
        assert not {name for name in names if "/cli/" in name or "deploy" in name or "adb" in name}

    def test_what_a_module_needs_comes_along_with_its_licence(self) -> None:
        assert set(needed_files("zcache_agent.errors")) == {"zcache_agent/__init__.py", "zcache_agent/errors.py"}
        files = needed_files("zcache_agent.config")
        assert {"zcache_agent/config.py", "zcache_agent/control.py", "attr/_make.py", "cattrs/__init__.py"} <= set(
            files
        )
        assert [name for name in files if name.startswith("attrs-") and name.endswith("LICENSE")]
        with pytest.raises(AssertionError, match="not pure Python"):
            needed_files("zcache_agent.dictionary")

    def test_it_runs_where_nothing_is_installed(self, local_daemon: Callable[..., Result], directory: Path) -> None:
        (directory / PROGRAM).write_bytes(make_program(CONFIG.encode()).content)
        command = [sys.executable, "-I", "-S", "-c", ALONE, str(directory / PROGRAM), "run"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            until(lambda: process.poll() is not None or "params/limit" in read(directory / LOG))
            process.terminate()
            _, err = process.communicate(timeout=SECONDS)
        assert (process.returncode, err) == (0, "")
        assert {event["event"] for event in logged(directory)} == {"started", "set", "stopped"}
        assert not (directory / STATE).exists()

    def test_a_python_that_lacks_a_module_is_told(self, tmp_path: Path) -> None:
        (tmp_path / PROGRAM).write_bytes(make_program(CONFIG.encode()).content)
        lacks = "import runpy, sys; sys.modules['tomllib'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
        ran = subprocess.run([sys.executable, "-c", lacks, str(tmp_path / PROGRAM)], capture_output=True, text=True)
        assert ran.returncode == 1
        assert len(ran.stderr.splitlines()) == 1
        assert "lacks a module" in ran.stderr
        assert "tomllib" in ran.stderr


def read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def logged(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read(directory / LOG).splitlines()]


class TestLife:
    def test_from_start_to_stop(self, local_daemon: Callable[..., Result], config: Path, directory: Path) -> None:
        fails(local_daemon("agent", "status"), 4, "no agent runs", "agent start")
        fails(local_daemon("agent", "log"), 4, "no agent ran")
        started = local_daemon("--json", "agent", "start", "--config", config).json
        assert started["changed"] is True
        until(lambda: decisions(directory) > 0)
        let_it_decide(local_daemon, directory)
        facts = local_daemon("--json", "agent", "status").json
        assert (facts["pid"], facts["config_sha256"]) == (started["pid"], started["config_sha256"])
        assert facts["last"]["path"] == "params/limit"
        assert facts["last"]["new"] == BOUND
        assert facts["waits_for"] is None
        shown = local_daemon("agent", "status").out
        assert "the config allows" in shown
        assert facts["start_command"] in shown
        assert os.getsid(facts["pid"]) == facts["pid"]
        assert {str(Path(f"/proc/{facts['pid']}/fd/{stream}").readlink()) for stream in range(3)} == {"/dev/null"}
        assert all((directory / name).stat().st_mode & 0o077 == 0 for name in FILES if (directory / name).exists())
        assert f"pid {facts['pid']}, {facts['decisions']} decisions" in local_daemon("status").out
        assert local_daemon("--json", "status").json["agent"] == {"pid": facts["pid"], "running": True}
        events = local_daemon("--json", "agent", "log").json
        assert [event["event"] for event in events][:2] == ["started", "set"]
        assert "the config allows" in local_daemon("agent", "log", "-n", 1).out
        assert "ended, removed" in local_daemon("agent", "stop").out
        assert not alive(facts["pid"])
        assert {name for name in FILES if (directory / name).exists()} == {LOG}
        assert "stopped" in local_daemon("agent", "log", "-n", 1).out
        assert "no agent is on" in local_daemon("agent", "stop").out

    def test_again_is_a_no_op_and_another_config_replaces_it(
        self, local_daemon: Callable[..., Result], config: Path
    ) -> None:
        first = local_daemon("--json", "agent", "start", "--config", config).json
        again = local_daemon("--json", "agent", "start", "--config", config).json
        assert (again["pid"], again["changed"]) == (first["pid"], False)
        config.write_text(CONFIG.replace("64M", "32M"))
        other = local_daemon("--json", "agent", "start", "--config", config).json
        assert other["changed"] is True
        assert other["config_sha256"] != first["config_sha256"]
        assert not alive(first["pid"])
        until(lambda: local_daemon("cat", "params/limit").out == f"{32 << 20}\n")

    def test_several_at_once_start_one(self, zcache: Zcache, local_daemon: Callable[..., Result], config: Path) -> None:
        several = [zcache.start("-s", "local", "--json", "agent", "start", "--config", config) for _ in range(3)]
        started = [json.loads(process.communicate(timeout=SECONDS)[0]) for process in several]
        assert [facts["changed"] for facts in started].count(True) == 1
        assert len({facts["pid"] for facts in started}) == 1

    def test_what_an_init_script_starts_is_the_only_one_too(
        self, local_daemon: Callable[..., Result], config: Path, directory: Path
    ) -> None:
        first = local_daemon("--json", "agent", "start", "--config", config).json
        command = shlex.split(first["start_command"])
        second = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        assert second.returncode == 4
        assert "one runs already" in second.stderr
        kill(first["pid"])
        assert subprocess.run(command, timeout=SECONDS).returncode == 0
        facts = local_daemon("--json", "agent", "status").json
        assert facts["pid"] != first["pid"]
        again = local_daemon("--json", "agent", "start", "--config", config).json
        assert (again["pid"], again["changed"]) == (facts["pid"], False)
        (directory / PROGRAM).unlink()
        assert local_daemon("--json", "agent", "start", "--config", config).json["changed"] is True

    def test_down_ends_it_too(self, local_daemon: Callable[..., Result], config: Path, directory: Path) -> None:
        pid = local_daemon("--json", "agent", "start", "--config", config).json["pid"]
        assert "the agent too" in local_daemon("down").out
        assert not alive(pid)
        assert not directory.exists()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid))


class TestTrouble:
    def test_one_that_was_killed_is_told_and_started_again(
        self, local_daemon: Callable[..., Result], config: Path
    ) -> None:
        pid = local_daemon("--json", "agent", "start", "--config", config).json["pid"]
        kill(pid)
        fails(local_daemon("agent", "status"), 4, f"pid {pid}", "has died", "agent log")
        assert "has died" in local_daemon("status").out
        assert "started" in local_daemon("agent", "log").out
        assert local_daemon("--json", "agent", "start", "--config", config).json["changed"] is True
        assert local_daemon("agent", "status").code == 0

    def test_a_process_that_has_its_pid_by_now_is_not_taken_for_it(
        self, local_daemon: Callable[..., Result], config: Path, directory: Path
    ) -> None:
        pid = local_daemon("--json", "agent", "start", "--config", config).json["pid"]
        kill(pid)
        with subprocess.Popen(["sleep", "1000"]) as other:
            state = (directory / STATE).read_text()
            (directory / STATE).write_text(state.replace(f"pid={pid}\n", f"pid={other.pid}\n"))
            fails(local_daemon("agent", "status"), 4, "has died")
            assert local_daemon("agent", "stop").code == 0
            assert other.poll() is None
            other.kill()

    def test_a_daemon_that_is_gone_is_awaited(
        self, local_daemon: Callable[..., Result], config: Path, directory: Path
    ) -> None:
        agent = local_daemon("--json", "agent", "start", "--config", config).json["pid"]
        until(lambda: decisions(directory) > 0)
        kill(local_daemon("--json", "status").json["pid"])
        until(lambda: told(directory)["waits_for"])
        assert "waits" in local_daemon("agent", "status").out
        assert local_daemon("up", "--page-size", 16384).code == 0
        until(lambda: not told(directory)["waits_for"])
        let_it_decide(local_daemon, directory)
        facts = local_daemon("--json", "agent", "status").json
        assert facts["pid"] == agent
        events = [event["event"] for event in local_daemon("--json", "agent", "log").json]
        assert events.count("lost") == events.count("found") == 1

    def test_one_that_is_told_of_no_more_tells_again_and_ends_with_its_directory(
        self, local_daemon: Callable[..., Result], directory: Path, tmp_path: Path
    ) -> None:
        program = tmp_path / PROGRAM
        program.write_bytes(make_program(CONFIG.encode()).content)
        with subprocess.Popen([sys.executable, program, "run", "--dir", directory]) as process:
            until(lambda: (directory / STATE).exists())
            (directory / STATE).unlink()
            until(lambda: local_daemon("agent", "status").code == 0)
            (directory / f"{NAME}.lock").unlink()
            assert process.wait(SECONDS) == 0

    def test_refusals_change_nothing(
        self, zcache: Zcache, local_daemon: Callable[..., Result], config: Path, directory: Path, tmp_path: Path
    ) -> None:
        def start(*more: object) -> Result:
            return local_daemon("agent", "start", "--config", config, *more)

        old = script(tmp_path / "old", "echo 3 9")
        fails(start("--python", old), 4, "Python 3.9", "3.11 or later", "agent run")
        fails(start("--python", "/absent"), 4, "/absent", "does not run", "3.11", "--python FILE")
        fails(start("--python", script(tmp_path / "silent", "true")), 4, "does not run")
        broken = script(
            tmp_path / "broken", f'[ "$1" = -c ] || {{ echo boom >&2; exit 1; }}; exec {sys.executable} "$@"'
        )
        fails(start("--python", broken), 4, "does not start", "boom")
        other = tmp_path / "other"
        fails(zcache("-s", f"local:{other}", "agent", "start", "--config", config), 4, "no daemon runs", "zcache up")
        config.write_text("[store]\n")
        fails(start(), 2, "no [agent] table")
        config.write_text('[agent]\nlimit = { min = "100%", max = "64M" }\n')
        fails(start(), 2, "agent.limit", "min no more than max")
        fails(local_daemon("agent", "start"), 2, "--config")
        assert not [name for name in directory.iterdir() if "agent" in name.name or "new" in name.name]

    def test_no_space_and_what_runs_goes_on(
        self, zcache: Zcache, local_daemon: Callable[..., Result], config: Path, tmp_path: Path
    ) -> None:
        pid = local_daemon("--json", "agent", "start", "--config", config).json["pid"]
        config.write_text(CONFIG + "# another\n")
        script(tmp_path / "df", "echo x; echo /dev/x 10 9 1 90% /x")
        path = f"{tmp_path}:{os.environ['PATH']}"
        refused = zcache("-s", "local", "agent", "start", "--config", config, PATH=path)
        fails(refused, 4, "no space", "1024 bytes free", PROGRAM)
        assert local_daemon("--json", "agent", "status").json["pid"] == pid


def script(file: Path, text: str) -> Path:
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


class TestDiary:
    EVENT: ClassVar[Event] = {
        "time": 1.0,
        "event": "set",
        "path": "params/limit",
        "old": 1,
        "new": 2,
        "reason": "r" * 100,
    }

    @pytest.fixture
    def diary(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> on_device.Diary:
        directory.mkdir()
        monkeypatch.setattr(on_device, "LOG_BYTES", 4096)
        monkeypatch.setattr(on_device, "_resource", lambda name: "0123\n")
        return on_device.Diary(directory)

    def test_the_log_is_bounded(self, diary: on_device.Diary, directory: Path) -> None:
        for _ in range(200):
            diary.put(self.EVENT)
        logs = sorted(path.name for path in directory.glob(f"{LOG}*"))
        assert logs == [LOG, f"{LOG}.1"]
        assert sum((directory / name).stat().st_size for name in logs) < 3 * 4096
        assert logged(directory)[-1] == self.EVENT
        assert diary.state["decisions"] == 200

    def test_storage_that_fails_ends_no_loop(self, diary: on_device.Diary, directory: Path) -> None:
        directory.rmdir()
        diary.put(self.EVENT)
        assert diary.state["decisions"] == 1


def test_unattended_it_waits_for_bounds_that_fit_and_for_a_daemon(
    zcache: Zcache, directory: Path, tmp_path: Path
) -> None:
    """A daemon with other pages than the config was made for is no end, and none at all is no error."""
    heard: list[Event] = []
    asked: list[int] = []

    def bounds_of(memory: int, page_size: int) -> Bounds:
        asked.append(page_size)
        if page_size == 8192:
            raise DaemonAbsent("not with these pages")
        return Bounds(interval=0.1, limit=Range(8 << 20, BOUND))

    with Gatherer(lambda _: LocalTransport(str(directory))) as gatherer:
        loop = Loop(gatherer, bounds_of, Events(heard.append), unattended=True)
        loop.run(0.1, 0.5)
        for page_size in (4096, 8192, 16384):
            assert zcache("-s", "local", "up", "--page-size", page_size, "--replace").code == 0
            while page_size not in asked[-1:]:
                loop.run(0.1, 0.5)
    assert [event["event"] for event in heard if event["event"] != "set"] == ["lost", "found", "lost", "found"]
    assert zcache("-s", "local", "down").code == 0
