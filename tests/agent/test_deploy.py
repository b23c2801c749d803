# SPDX-License-Identifier: Apache-2.0
"""up and down on this machine, and which program goes to which device. Over adb: tests/device."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.agent.conftest import Result, Zcache, fails
from tests.support import pause
from zcache_agent import deploy
from zcache_agent.binary import BUNDLED, DeployFailed, choose_binary, read_binary
from zcache_agent.daemon import find
from zcache_agent.deploy import Options
from zcache_agent.device import Device, look
from zcache_agent.errors import DaemonAbsent, Usage
from zcache_agent.lock import alone_on
from zcache_agent.transport.base import Completed, Progress
from zcache_agent.transport.local import LocalTransport

FILES = {"zcached", "zcached.lock", "zcached.state", "zcached.log", "control.sock", "data.sock"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "zcache"


@pytest.fixture
def up(zcache: Zcache) -> Iterator[Callable[..., Result]]:
    """`zcache -s local up`; what it started is ended after the test."""
    yield lambda *arguments: zcache("-s", "local", "--json", "up", *arguments)
    zcache("-s", "local", "down", "--force")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False


class TestUp:
    def test_starts_a_daemon_that_stays(self, up: Callable[..., Result], directory: Path) -> None:
        started = up().json
        assert started["changed"] is True
        assert (started["directory"], started["dies_with_adbd"]) == (str(directory), False)
        assert alive(started["pid"])
        assert {path.name for path in directory.iterdir()} == FILES
        assert directory.stat().st_mode & 0o777 == 0o700
        for name in ("control.sock", "data.sock", "zcached"):
            assert (directory / name).stat().st_mode & 0o077 == 0, name

    def test_again_is_a_no_op_that_says_so(self, up: Callable[..., Result], zcache: Zcache) -> None:
        first = up().json
        again = up().json
        assert again == first | {"changed": False}
        assert "runs already" in zcache("-s", "local", "up").out

    def test_another_version_needs_replace(self, up: Callable[..., Result], zcache: Zcache, directory: Path) -> None:
        first = up().json
        state = directory / "zcached.state"
        # Only one version can be built here: this one is told to be older.
        state.write_text(state.read_text().replace(f"version={first['version']}", "version=0.0.1"))
        fails(zcache("-s", "local", "up"), 4, "0.0.1", first["version"], "--replace")
        assert alive(first["pid"])
        replaced = up("--replace").json
        assert replaced["pid"] != first["pid"]
        assert not alive(first["pid"])
        assert {path.name for path in directory.iterdir()} == FILES

    def test_another_page_size_needs_replace(self, up: Callable[..., Result], zcache: Zcache) -> None:
        assert up("--page-size", 4096).json["page_size"] == 4096
        fails(zcache("-s", "local", "up", "--page-size", 16384), 4, "4096", "16384", "--replace")
        assert up("--page-size", 16384, "--replace").json["page_size"] == 16384

    @pytest.mark.parametrize("size", [1000, 1024, 5000])
    def test_a_wrong_page_size_leaves_nothing(self, zcache: Zcache, directory: Path, size: int) -> None:
        fails(zcache("-s", "local", "up", "--page-size", size), 4, str(size))
        assert not directory.exists()

    @pytest.mark.parametrize("program", ["false", "true"])
    def test_a_program_that_is_no_daemon_leaves_nothing(self, zcache: Zcache, directory: Path, program: str) -> None:
        fails(zcache("-s", "local", "up", "--binary", shutil.which(program)), 4, "local")
        assert not directory.exists()

    def test_a_replacement_that_fails_brings_the_old_one_back(
        self, up: Callable[..., Result], zcache: Zcache, directory: Path
    ) -> None:
        first = up("--page-size", 8192).json
        fails(zcache("-s", "local", "up", "--replace", "--binary", shutil.which("false")), 4)
        status = zcache("-s", "local", "--json", "status").json
        assert (status["version"], status["page_size"]) == (first["version"], 8192)
        assert {path.name for path in directory.iterdir()} == FILES

    def test_what_a_killed_daemon_left_is_taken_over(
        self, up: Callable[..., Result], zcache: Zcache, directory: Path
    ) -> None:
        first = up().json
        os.kill(first["pid"], signal.SIGKILL)
        while alive(first["pid"]):
            time.sleep(0.01)
        fails(zcache("-s", "local", "status"), 4, "has died", str(first["pid"]))
        (directory / "zcached.new-leftover").touch()
        assert up().json["changed"] is True
        assert {path.name for path in directory.iterdir()} == FILES

    def test_several_at_once_start_one(self, up: Callable[..., Result], zcache: Zcache) -> None:
        several = [zcache.start("-s", "local", "--json", "up") for _ in range(4)]
        started = [json.loads(process.communicate(timeout=60)[0]) for process in several]
        assert [facts["changed"] for facts in started].count(True) == 1
        assert len({facts["pid"] for facts in started}) == 1

    def test_one_that_hangs_does_not_block_the_others_for_ever(self, zcache: Zcache, directory: Path) -> None:
        with alone_on(str(directory), 1):
            fails(zcache("-s", "local", "up", "--timeout", 0.5), 4, str(directory), "another zcache")
            fails(zcache("-s", "local", "down", "--timeout", 0.5), 4, "another zcache")
        assert zcache("-s", "local", "down").code == 0

    def test_a_directory_that_is_a_link_is_not_used(self, zcache: Zcache, directory: Path, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        directory.symlink_to(tmp_path / "other")
        fails(zcache("-s", "local", "up"), 4, str(directory), "somebody else")
        assert list((tmp_path / "other").iterdir()) == []

    def test_a_directory_that_cannot_be_made(self, zcache: Zcache, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        fails(zcache("-s", f"local:{tmp_path}/file/x", "up"), 4, f"{tmp_path}/file")

    def test_root_on_this_machine_is_who_you_are(self, zcache: Zcache) -> None:
        if os.geteuid() != 0:
            fails(zcache("-s", "local", "up", "--root"), 2, "run zcache itself as root")
        fails(zcache("-s", "local", "up", "--adb-root"), 2, "--adb-root")

    def test_two_directories_are_two_devices(self, up: Callable[..., Result], zcache: Zcache, tmp_path: Path) -> None:
        second = f"local:{tmp_path}/second"
        one = up().json
        other = zcache("-s", second, "--json", "up").json
        assert one["pid"] != other["pid"]
        assert zcache("-s", second, "down").code == 0
        assert zcache("-s", "local", "status").code == 0


class Faulty(LocalTransport):
    """This machine with a fault, which no real one has when it is wanted."""

    damages = False
    lacks = "\0"

    def push(self, source: Path, target: str, mode: int, progress: Progress | None = None) -> None:
        super().push(source, target, mode, progress)
        if self.damages:
            with Path(target).open("r+b") as file:
                file.seek(1000)
                file.write(b"damage")

    def run(self, argv: Sequence[str], *, timeout: float | None = None) -> Completed:
        if any(self.lacks in word for word in argv):
            return Completed(127, b"", b"not found")
        return super().run(argv, timeout=timeout)


class TestFaults:
    @pytest.fixture
    def transport(self, directory: Path) -> Iterator[Faulty]:
        transport = Faulty(str(directory))
        yield transport
        transport.lacks = "\0"
        deploy.down(transport, force=True)

    def test_a_damaged_copy_is_not_started(self, transport: Faulty, directory: Path) -> None:
        transport.damages = True
        with pytest.raises(DeployFailed, match="damaged"):
            deploy.up(transport, Options())
        assert not directory.exists()

    def test_a_state_that_is_exchanged_while_it_is_read_is_none(
        self, transport: Faulty, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        deploy.up(transport, Options())
        (tmp_path / "bin").mkdir()
        cat = tmp_path / "bin" / "cat"
        cat.write_text(f'#!/bin/sh\ncase $1 in *.state) exit 1;; esac\nexec {shutil.which("cat")} "$@"\n')
        cat.chmod(0o755)
        monkeypatch.setenv("PATH", f"{cat.parent}:{os.environ['PATH']}")
        with pytest.raises(DaemonAbsent):
            find(transport)

    @pytest.mark.parametrize("tool", ["sha256sum", "df"])
    def test_a_device_without_a_tool(self, transport: Faulty, tool: str) -> None:
        transport.lacks = tool
        assert deploy.up(transport, Options()).changed

    def test_a_damaged_copy_is_seen_without_a_tool_too(self, transport: Faulty, directory: Path) -> None:
        transport.lacks, transport.damages = "sha256sum", True
        with pytest.raises(DeployFailed, match="damaged"):
            deploy.up(transport, Options())
        assert not directory.exists()

    @pytest.mark.parametrize("moment", ["looking at the device", "copying", "verifying", "starting"])
    def test_interrupted_in_the_middle(self, transport: Faulty, directory: Path, moment: str) -> None:
        def step(part: float, what: str) -> None:
            if what == moment:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            deploy.up(transport, Options(), step)
        assert not directory.exists()


class TestDown:
    def test_leaves_nothing(self, up: Callable[..., Result], zcache: Zcache, directory: Path) -> None:
        pid = up().json["pid"]
        assert zcache("-s", "local", "down").code == 0
        assert not alive(pid)
        assert not directory.exists()

    def test_without_anything_there_is_fine(self, zcache: Zcache) -> None:
        result = zcache("-s", "local", "--json", "down")
        assert (result.code, result.json["removed"]) == (0, [])

    def test_what_a_lost_up_left_is_removed(self, zcache: Zcache, directory: Path) -> None:
        directory.mkdir()
        assert zcache("-s", "local", "down").code == 0
        assert not directory.exists()
        directory.mkdir()
        (directory / "zcached.new-1").touch()
        assert zcache("-s", "local", "down").code == 0
        assert not directory.exists()

    def test_a_directory_of_others_stays(self, zcache: Zcache, directory: Path) -> None:
        directory.mkdir()
        (directory / "mine").touch()
        assert zcache("-s", "local", "down", "--json").json["removed"] == []
        assert (directory / "mine").exists()

    def test_files_of_others_stay(self, up: Callable[..., Result], zcache: Zcache, directory: Path) -> None:
        up()
        (directory / "mine").touch()
        assert zcache("-s", "local", "down").code == 0
        assert [path.name for path in directory.iterdir()] == ["mine"]

    def test_held_pages_are_not_lost_without_force(
        self, up: Callable[..., Result], zcache: Zcache, tmp_path: Path
    ) -> None:
        page_size = up().json["page_size"]
        (tmp_path / "dump").write_bytes(os.urandom(page_size // 2) * 2 + bytes(3 * page_size))
        assert zcache("-s", "local", "pool", "create", "swap").code == 0
        assert zcache("-s", "local", "replay", tmp_path / "dump", "--pool", "swap", "--keep").code == 0
        for command in (("down",), ("up", "--replace")):
            fails(zcache("-s", "local", *command), 5, "4 persistent pages", "--force")
        assert zcache("-s", "local", "status").code == 0
        assert up("--replace", "--force").json["changed"] is True
        assert zcache("-s", "local", "down").code == 0

    def test_pages_with_a_backing_store_are_saved_and_come_back(
        self, up: Callable[..., Result], zcache: Zcache, tmp_path: Path
    ) -> None:
        page_size = up().json["page_size"]
        (tmp_path / "dump").write_bytes(os.urandom(page_size // 2) * 2 + bytes(3 * page_size))
        store = tmp_path / "store"
        for turn in range(2):
            assert zcache("-s", "local", "pool", "create", "swap").code == 0
            set_now = zcache("-s", "local", "--json", "pool", "backing", "swap", store, "--size", "16M").json
            assert set_now["backing"] == f"path={store} layout=packed"
            assert set_now["written_pages"] == 4 * turn
            if turn == 0:
                assert zcache("-s", "local", "replay", tmp_path / "dump", "--pool", "swap", "--keep").code == 0
                assert up("--replace").json["changed"] is True
        assert zcache("-s", "local", "check").code == 0
        fails(zcache("-s", "local", "pool", "backing", "swap", "none"), 5, "4 pages of pool 'swap'")
        assert zcache("-s", "local", "pool", "destroy", "swap").out == "pool swap destroyed, 4 pages forgotten\n"
        assert zcache("-s", "local", "down").code == 0

    def test_a_daemon_that_does_not_answer(self, up: Callable[..., Result], zcache: Zcache) -> None:
        pid = up().json["pid"]
        pause(pid)
        fails(zcache("-s", "local", "--timeout", 0.5, "down"), 3, "0.5 s")
        assert zcache("-s", "local", "down", "--force").code == 0
        assert not alive(pid)

    def test_a_daemon_that_does_not_end(
        self, up: Callable[..., Result], directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is told to end, is waited for, and lives on; killed it is only with force."""
        monkeypatch.setattr(deploy, "_STOP_SECONDS", 1)
        pid = up().json["pid"]
        daemon = find(LocalTransport(str(directory), 0.5))
        pause(pid)
        with pytest.raises(DeployFailed, match=f"pid {pid}\\) does not end") as caught:
            deploy.stop(daemon, force=False)
        assert (caught.value.name, caught.value.hint) == ("does_not_end", "--force kills it")
        assert alive(pid)
        deploy.stop(daemon, force=True)
        assert not alive(pid)

    def test_never_kills_another_process(self, up: Callable[..., Result], zcache: Zcache, directory: Path) -> None:
        """A state file names a pid that now belongs to somebody else."""
        os.kill(up().json["pid"], signal.SIGKILL)
        with subprocess.Popen(["sleep", "60"]) as other:
            state = directory / "zcached.state"
            lines = [line for line in state.read_text().splitlines() if not line.startswith("pid=")]
            state.write_text("\n".join([*lines, f"pid={other.pid}", ""]))
            assert zcache("-s", "local", "down", "--force").code == 0
            assert other.poll() is None
            other.kill()


class TestBinaries:
    @pytest.fixture
    def device(self) -> Device:
        return dataclasses.replace(look(LocalTransport()), serial="phone", page_size=4096)

    @pytest.mark.parametrize(
        ("abis", "expected"),
        [
            (("arm64-v8a", "armeabi-v7a", "armeabi"), "arm64-v8a"),
            (("armeabi-v7a", "armeabi"), "armeabi-v7a"),
            (("x86_64", "x86"), "x86_64"),
        ],
    )
    def test_the_preferred_abi_is_chosen(self, device: Device, abis: tuple[str, ...], expected: str) -> None:
        binary = choose_binary(dataclasses.replace(device, abis=abis), False)
        assert (binary.abi, binary.path.parent.name, binary.is_static) == (expected, expected, True)

    @pytest.mark.parametrize(("abi", "page_size"), [("arm64-v8a", 65536), ("x86_64", 16384)])
    def test_large_pages_are_supported(self, device: Device, abi: str, page_size: int) -> None:
        assert (
            choose_binary(dataclasses.replace(device, abis=(abi,), page_size=page_size), False).alignment >= page_size
        )

    def test_an_unsupported_abi_is_named(self, device: Device) -> None:
        with pytest.raises(DeployFailed, match="phone runs mips64") as caught:
            choose_binary(dataclasses.replace(device, abis=("mips64",)), False)
        assert caught.value.name == "unsupported_abi"
        assert "arm64-v8a" in caught.value.hint

    def test_a_binary_of_another_abi_is_refused(self, device: Device) -> None:
        arm = dataclasses.replace(device, abis=("arm64-v8a",))
        with pytest.raises(DeployFailed, match="is for x86_64; phone runs arm64-v8a"):
            choose_binary(arm, False, abi="x86_64")
        with pytest.raises(DeployFailed, match="is for armeabi-v7a"):
            choose_binary(arm, False, file=BUNDLED / "armeabi-v7a/zcached")

    def test_an_unknown_abi_is_usage(self, device: Device) -> None:
        with pytest.raises(Usage, match="--abi sparc"):
            choose_binary(device, False, abi="sparc")

    def test_a_dynamic_program_is_refused_for_a_device(self, device: Device) -> None:
        program = Path(shutil.which("true") or "")
        with pytest.raises(DeployFailed, match="linked dynamically"):
            choose_binary(dataclasses.replace(device, abis=(read_binary(program).abi,)), False, file=program)

    def test_segments_that_do_not_fit_the_page_size_are_refused(self, device: Device) -> None:
        arm = dataclasses.replace(device, abis=("arm64-v8a",), page_size=1 << 20)
        with pytest.raises(DeployFailed, match=r"aligned to 65536 bytes; pages of phone have 1048576"):
            choose_binary(arm, False)

    @pytest.mark.parametrize("cut", [0, 3, 20, 64, 100])
    def test_what_is_no_program(self, tmp_path: Path, cut: int) -> None:
        file = tmp_path / "zcached"
        file.write_bytes(Path(sys.executable).read_bytes()[:cut])
        with pytest.raises(Usage, match=str(file)):
            read_binary(file)

    def test_no_such_file(self, zcache: Zcache, tmp_path: Path) -> None:
        fails(zcache("-s", "local", "up", "--binary", tmp_path / "nope"), 2, str(tmp_path / "nope"))
