# SPDX-License-Identifier: Apache-2.0
"""zcached as a part of a device: which way fits, what is written, exchanged and taken away; and the script by which all
of them start and end it. tests/device/test_install.py does it on devices."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from zcache_agent.apply import plan_text
from zcache_agent.config import load
from zcache_agent.install.kinds import BOOT, KINDS
from zcache_agent.settings import State, boot_plan

from .conftest import Quick, fails

RCS = 'for script in /etc/init.d/S??*; do\n    "$script" start\ndone\n'
SIGNS: dict[str, Mapping[str, str]] = {
    "magisk": {"data/adb/modules/other/module.prop": "id=other\n"},
    "systemd": {"usr/lib/systemd/systemd": ""},
    "openwrt": {"sbin/procd": "", "etc/rc.common": "", "etc/init.d/boot": "", "etc/inittab": ""},
    "sysvinit": {"etc/init.d/rc": "", "etc/rc2.d/README": "", "etc/inittab": ""},
    "busybox": {"etc/init.d/rcS": RCS, "etc/inittab": "::sysinit:/etc/init.d/rcS\n"},
    "inittab": {"etc/inittab": "::sysinit:/etc/init.d/rcS\n", "etc/init.d/rcS": "/bin/mount -a\n"},
}
"""What a root file system of each kind has, and by which it is known."""
SERVICE = "usr/lib/zcache/zcached-service"
_SERVICE = re.compile(r"/[\w./-]*zcached-service")


def grow(root: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o755 if name == "sbin/procd" else 0o644)
    return root


def tree(root: Path) -> dict[str, str]:
    """Everything below, and what is in it."""
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        found[name] = str(path.readlink()) if path.is_symlink() else "" if path.is_dir() else path.read_bytes().hex()
    return found


@pytest.fixture(params=list(SIGNS))
def image(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    root = grow(tmp_path / "image of it", SIGNS[request.param])
    if request.param == "inittab":
        (root / "sbin").mkdir()
        (root / "sbin/init").symlink_to("../bin/busybox")
    return request.param, root


@dataclass(frozen=True)
class OnImage:
    """The command, on a root file system that is no device's."""

    zcache: Quick
    root: Path

    def install(self, *more: str) -> dict[str, str]:
        ran = self.zcache("--json", "install", "--image", self.root, "--abi", "armeabi-v7a", *more)
        assert ran.code == 0, ran.err
        files: dict[str, str] = ran.json["files"]
        return files

    def uninstall(self) -> dict[str, str]:
        ran = self.zcache("--json", "uninstall", "--image", self.root)
        assert ran.code == 0, ran.err
        files: dict[str, str] = ran.json["files"]
        return files


@pytest.fixture
def board(quick: Quick, tmp_path: Path) -> OnImage:
    return OnImage(quick, grow(tmp_path / "image", SIGNS["busybox"]))


class TestEachWay:
    def test_there_and_away_again(self, quick: Quick, image: tuple[str, Path]) -> None:
        kind, root = image
        before = tree(root)
        dry = quick("--json", "install", "--image", root, "--abi", "armeabi-v7a", "--dry-run").json
        assert dry["as"] == kind
        assert tree(root) == before
        files = OnImage(quick, root).install()
        assert files == dry["files"]
        for path, what in files.items():
            assert what == "written"
            assert os.path.lexists(root / path.lstrip("/")), path
        after = tree(root)
        assert set(OnImage(quick, root).install().values()) == {"same"}
        assert tree(root) == after
        assert set(OnImage(quick, root).uninstall().values()) == {"removed"}
        assert tree(root) == before
        assert OnImage(quick, root).uninstall() == {}

    def test_what_is_written(self, quick: Quick, image: tuple[str, Path]) -> None:
        """Nobody but root writes or runs it; links and scripts lead to what is there."""
        name, root = image
        kind = KINDS[name]
        for path in OnImage(quick, root).install():
            written = root / path.lstrip("/")
            assert written.resolve().is_file(), path
            assert written.stat().st_mode & 0o022 == 0, path
        assert (root / f"{kind.base}/zcached".lstrip("/")).stat().st_mode & 0o777 == 0o700
        texts = [file.content.decode() for file in kind.own()] + [text for _, text in kind.lines]
        named = {path for text in texts for path in _SERVICE.findall(text.replace("$module", kind.base))}
        assert named == {f"{kind.base}/zcached-service"}


class TestFiles:
    def test_what_somebody_changed_is_kept_and_named(self, board: OnImage) -> None:
        board.install()
        script = board.root / "etc/init.d/S19zcached"
        script.write_text(script.read_text() + "# mine\n")
        ran = board.zcache("install", "--image", board.root, "--abi", "armeabi-v7a")
        assert ran.code == 0
        assert "/etc/init.d/S19zcached is kept" in ran.err
        assert board.uninstall()["/etc/init.d/S19zcached"] == "kept"
        assert script.read_text().endswith("# mine\n")
        assert not (board.root / "usr").exists()

    def test_force_takes_its_place(self, board: OnImage) -> None:
        board.install()
        script = board.root / "etc/init.d/S19zcached"
        script.write_text("# mine\n")
        assert board.install("--force")["/etc/init.d/S19zcached"] == "written"
        assert script.read_bytes() == (BOOT / "zcached.init").read_bytes()

    def test_what_others_brought_is_not_touched(self, board: OnImage) -> None:
        grow(board.root, {SERVICE: "# a package's\n"})
        before = tree(board.root)
        fails(board.zcache("install", "--image", board.root, "--abi", "x86_64"), 5, f"/{SERVICE}", "not brought by")
        fails(board.zcache("uninstall", "--image", board.root), 5, f"/{SERVICE}", "package manager")
        assert tree(board.root) == before

    def test_another_version_takes_its_place(self, board: OnImage) -> None:
        board.install()
        files = board.install("--abi", "arm64-v8a")
        assert files["/usr/lib/zcache/zcached"] == "written"
        assert files[f"/{SERVICE}"] == "same"
        assert set(board.uninstall().values()) == {"removed"}

    def test_what_is_gone_is_no_fault(self, board: OnImage) -> None:
        board.install()
        (board.root / SERVICE).unlink()
        assert board.uninstall()[f"/{SERVICE}"] == "absent"

    def test_a_line_stays_where_it_was_once(self, quick: Quick, tmp_path: Path) -> None:
        root = grow(tmp_path / "image", {"etc/inittab": "::sysinit:/bin/true"})  # the last line has no end
        on = OnImage(quick, root)
        on.install("--as", "inittab")
        on.install("--as", "inittab")
        lines = (root / "etc/inittab").read_text().splitlines()
        assert lines == ["::sysinit:/bin/true", *(text for _, text in KINDS["inittab"].lines)]
        on.uninstall()
        assert (root / "etc/inittab").read_text() == "::sysinit:/bin/true\n"

    def test_one_way_at_a_time(self, board: OnImage) -> None:
        board.install()
        ran = board.zcache("install", "--image", board.root, "--abi", "x86_64", "--as", "systemd")
        fails(ran, 5, "as busybox already", "zcache uninstall")

    def test_a_file_system_that_cannot_be_written(self, board: OnImage) -> None:
        grow(board.root, {"usr": ""})
        before = tree(board.root)
        fails(board.zcache("install", "--image", board.root, "--abi", "x86_64"), 4, "/usr")
        assert tree(board.root) == before


class TestRefusals:
    def test_no_way_fits(self, quick: Quick, tmp_path: Path) -> None:
        ran = quick("install", "--image", tmp_path, "--abi", "x86_64")
        fails(ran, 5, str(tmp_path), "systemd", "docs/install.md")

    def test_a_phone_without_a_manager(self, quick: Quick, tmp_path: Path) -> None:
        grow(tmp_path, {"system/build.prop": ""})
        fails(quick("install", "--image", tmp_path, "--abi", "arm64-v8a"), 5, "Magisk", "zcache up --root")

    def test_usage(self, quick: Quick, tmp_path: Path) -> None:
        fails(quick("install", "--image", tmp_path), 2, "which ABI", "arm64-v8a")
        fails(quick("install", "--image", tmp_path, "--abi", "mips"), 2, "mips")
        fails(quick("install", "--as", "upstart", "--image", tmp_path), 2, "upstart", "systemd")
        settings = tmp_path / "device.toml"
        settings.write_text("[store]\nreserve = 64\n")
        fails(quick("install", "--image", tmp_path, "--abi", "x86_64", "--config", settings), 2, "--config")


# ---- the settings ----


def test_a_boots_plan_names_all_settings(tmp_path: Path) -> None:
    """Also those that the device has right now."""
    file = tmp_path / "device.toml"
    file.write_text(
        '[store]\nlimit = "25%"\n[pools.swap]\nkind = "persistent"\ncold_after = 60\nzv_max_zsize = "3/4"\n'
        '[swap]\nsize = "64M"\npool = "swap"\n[kernel.vm]\nswappiness = 60\n'
        '[kernel.zram]\ndevice = "zram0"\nalgorithm = "lz4"\ndisksize = "32M"\nswap = true\n'
    )
    files = {
        "/page": "4096",
        "/proc/sys/vm/swappiness": "60",
        "/sys/block/zram0/comp_algorithm": "lzo [lz4]",
        "/sys/block/zram0/disksize": str(32 << 20),
        "/proc/swaps": "Filename Type Size Used Priority\n/dev/zram0 partition 32764 0 100",
    }
    tree_now = {"pools/swap/kind": "persistent", "pools/swap/params/cold_after": "60", "swap/device": "/dev/ublkb0"}
    assert boot_plan(load(file), State(files, tree_now, memory=400)) == [
        "make\tpools/swap/kind\tpools/create name=swap kind=persistent\tpools/swap/destroy 1",
        "tree\tparams/limit\t100",
        "tree\tpools/swap/params/zv_max_zsize\t3072",
        "tree\tpools/swap/params/cold_after\t60",
        "make\tswap/device\tswap/on size=67108864 pool=swap\tswap/off 1",
        "file\t/proc/sys/vm/swappiness\t60",
        "zram\tzram0\talgorithm=lz4 disksize=33554432 swap=on",
    ]


def test_a_boot_gives_up_what_was_swapped_out_before_a_power_cut(tmp_path: Path) -> None:
    """Of another pool somebody has to decide."""
    file = tmp_path / "device.toml"
    file.write_text(
        '[pools.swap]\nkind = "persistent"\nbacking = "/dev/vdb"\nbacking_layout = "in_place"\n'
        '[pools.mine]\nkind = "persistent"\nbacking = "/data/mine"\n[swap]\nsize = "64M"\npool = "swap"\n'
    )
    made = [line.split("\t")[2] for line in boot_plan(load(file), State({"/page": "4096"})) if "pools/create" in line]
    assert made == [
        "pools/create name=swap kind=persistent path=/dev/vdb layout=in_place reset=stale",
        "pools/create name=mine kind=persistent path=/data/mine",
    ]


# ---- the script ----


@dataclass(frozen=True)
class Script:
    """zcached-service, as an init calls it, with directories of the test's own."""

    directory: Path
    settings: Path
    environment: dict[str, str]

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", str(BOOT / "zcached-service"), *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = ["sh", str(BOOT / "zcached-service"), *arguments]
        return subprocess.Popen(command, env=self.environment, stderr=subprocess.DEVNULL)


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    directory, settings = tmp_path / "run", tmp_path / "settings.plan"
    ours = {
        "ZCACHE_PROGRAM": str(BOOT.parent / "_bin/host/zcached"),
        "ZCACHE_DIR": str(directory),
        "ZCACHE_SETTINGS": str(settings),
        "ZCACHE_PYTHON": "false",
    }
    made = Script(directory, settings, os.environ | ours)
    yield made
    made("stop")


@pytest.fixture
def ask(script: Script, quick: Quick) -> Callable[..., str]:
    def cat(path: str) -> str:
        return quick("-s", f"local:{script.directory}", "cat", path).out.strip()

    return cat


def plan_of(*steps: str) -> str:
    return plan_text(steps)


POOL = "make\tpools/app/kind\tpools/create name=app kind=ephemeral\tpools/app/destroy 1"


class TestScript:
    def test_a_life(self, script: Script, ask: Callable[..., str]) -> None:
        script.settings.write_text(plan_of(POOL, "tree\tparams/reserve\t64"))
        assert script("status").returncode == 3
        started = script("start", "--limit", "64M")
        assert started.returncode == 0, started.stderr
        assert script("status").stdout.startswith("zcached ")
        assert (ask("params/limit"), ask("params/reserve"), ask("pools/app/kind")) == (str(64 << 20), "64", "ephemeral")
        assert script.directory.stat().st_mode & 0o777 == 0o700
        assert (script.directory / "zcached.settings").read_text() == "applied: 2 settings\n"
        pid = ask("daemon/pid")
        again = script("start")
        assert again.returncode == 0
        assert f"runs already, pid {pid}" in again.stderr
        assert script("restart").returncode == 0
        assert ask("daemon/pid") != pid
        assert script("stop").returncode == 0
        assert script("stop").returncode == 0
        assert script("status").returncode == 3
        assert script("forget").returncode == 0
        assert not script.directory.exists()

    def test_settings_that_are_refused(self, script: Script, ask: Callable[..., str]) -> None:
        """Neither all of them: it runs without, and says so."""
        script.settings.write_text(plan_of(POOL, "tree\tpools/app/params/zv_max_zsize\t99999999"))
        started = script("start")
        assert started.returncode == 6
        assert "settings: undone:" in started.stderr
        assert (script.directory / "zcached.settings").read_text().startswith("undone: ")
        assert ask("pools/app/kind") == ""
        assert ask("version") != ""

    def test_a_change_of_settings_that_cannot_be_rolled_back(self, script: Script) -> None:
        """zcached and `apply` roll back or forward first; of a damaged journal nobody knows how."""
        script.settings.write_text(plan_of(POOL))
        script.directory.mkdir(mode=0o700)
        (script.directory / "zcached.apply").write_text("zcache-apply 1\nboot\tother\nend\t0000000000000000\n")
        started = script("start")
        assert started.returncode == 6
        assert "must be rolled back first" in started.stderr

    def test_in_the_foreground(self, script: Script, ask: Callable[..., str]) -> None:
        """As systemd, procd and inittab have it: the process that was started becomes zcached."""
        script.settings.write_text(plan_of(POOL))
        process = script.start("run")
        try:
            while ask("pools/app/kind") != "ephemeral":
                assert process.poll() is None
            assert ask("daemon/pid") == str(process.pid)
            assert script("stop").returncode == 0
            assert process.wait(60) == 0
        finally:
            process.kill()

    def test_a_state_of_another_boot(self, script: Script) -> None:
        """Its process id may be anybody's by now."""
        script.directory.mkdir(mode=0o700)
        (script.directory / "zcached.state").write_text(f"pid={os.getpid()}\nversion=0\nboot_id=other\n")
        assert script("status").returncode == 3
        assert script("stop").returncode == 0
        assert script("start").returncode == 0

    def test_a_directory_of_somebody_elses(self, script: Script, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        script.directory.symlink_to(tmp_path / "elsewhere")
        started = script("start")
        assert started.returncode == 1
        assert "belongs to somebody else" in started.stderr
        script.directory.unlink()

    def test_the_agent_is_started_too(self, script: Script, tmp_path: Path) -> None:
        script.directory.mkdir(mode=0o700)
        (script.directory / "zcache-agent.pyz").write_text("")
        told = tmp_path / "told"
        python = grow(tmp_path, {"python": f'#!/bin/sh\necho "$@" >{told}\n'}) / "python"
        python.chmod(0o755)
        script.environment["ZCACHE_PYTHON"] = str(python)
        assert script("start").returncode == 0
        assert told.read_text() == f"{script.directory}/zcache-agent.pyz start\n"
        script.environment["ZCACHE_PYTHON"] = f"{tmp_path}/no-python"
        again = script("restart")
        assert again.returncode == 6
        assert "no-python, which is not there" in again.stderr

    def test_misuse(self, script: Script) -> None:
        for words in ([], ["begin"], ["start", "--limit"], ["start", "--size", "1"]):
            assert script(*words).returncode == 2, words
        assert script("start", "--limit", "much").returncode == 1
        script.environment["ZCACHE_PROGRAM"] = "/nothing/zcached"
        started = script("start")
        assert (started.returncode, "/nothing/zcached" in started.stderr) == (1, True)
