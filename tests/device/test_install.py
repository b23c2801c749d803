# SPDX-License-Identifier: Apache-2.0
"""zcached as a part of devices: one with BusyBox's init, which restarts, and a phone's module, whose scripts are run as
its manager would."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agent.conftest import Quick, fails
from tests.support import ROOT
from tools import module
from tools.emulator import Device, KeptDisk

OnDevice = Callable[[Device], Quick]
SECONDS = 240.0
DISK_MB = 64
RCS = """#!/bin/sh
for script in /etc/init.d/S??*; do
    "$script" start
done
"""
SETTINGS = """
[store]
limit = "20%"
[pools.swap]
kind = "persistent"
allocator = "zsmalloc"
[swap]
size = "32M"
pool = "swap"
[kernel.vm]
page_cluster = 0
swappiness = 120
"""


BACKED = SETTINGS.replace("[swap]", 'backing = "/dev/vdb"\nbacking_layout = "in_place"\n[swap]')


@pytest.fixture
def command_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[Device], Quick]:
    def use(device: Device) -> Quick:
        monkeypatch.delenv("ZCACHE_SERIAL", raising=False)
        for name, value in device.env.items():
            monkeypatch.setenv(name, value)
        return Quick(capsys)

    return use


def put(device: Device, path: str, text: str) -> None:
    done = device.shell(f"mkdir -p {Path(path).parent} && cat >{path} <<'END'\n{text}END\nchmod 755 {path}")
    assert done.exit_code == 0, done.output


def listing(device: Device, *paths: str) -> str:
    return device.shell(f"find {' '.join(paths)} 2>/dev/null | sort").output


def until(reached: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not reached():
        assert time.monotonic() < end, what
        time.sleep(0.5)


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "device.toml"
    path.write_text(SETTINGS)
    return path


class TestBoard:
    """One whose init is BusyBox's and whose /etc, /usr and /var stay."""

    def test_a_board_restarts(
        self, boot_device: Callable[..., Device], command_on: OnDevice, tmp_path: Path, settings: Path
    ) -> None:
        """Its power is cut: of what was swapped out the backing store has nothing that anybody could want."""
        settings.write_text(BACKED)
        disks = [tmp_path / "disk", tmp_path / "swap"]
        for disk in disks:
            disk.touch()
            os.truncate(disk, DISK_MB << 20)

        def boot() -> tuple[Device, Quick]:
            device = boot_device("arm64-root", disks=[KeptDisk(disk) for disk in disks], board=True)
            return device, command_on(device)

        device, zcache = boot()
        fails(zcache("install"), 5, "systemd", "docs/install.md")
        put(device, "/etc/inittab", "::sysinit:/etc/init.d/rcS\n")
        put(device, "/etc/init.d/rcS", RCS)
        device.shell("mkdir -p /var/lib")
        before = listing(device, "/etc", "/usr", "/var")
        installed = zcache("--json", "install", "--config", settings)
        assert installed.code == 0, installed.err
        assert (installed.json["as"], installed.json["daemon"]["directory"]) == ("busybox", "/var/lib/zcache")
        assert f"{settings.name} says" in zcache("config", "diff", settings).out
        assert zcache("--json", "install", "--config", settings).json["changed"] is False
        device.shell("sync")
        device.stop()

        device, zcache = boot()
        until(lambda: zcache("status").code == 0, "zcached does not run after the restart")
        until(lambda: f"{settings.name} says" in zcache("config", "diff", settings).out, "its settings are not applied")
        assert "/dev/ublkb0" in device.shell("cat /proc/swaps").output
        assert "path=/dev/vdb" in zcache("cat", "pools/swap/backing").out
        pid = zcache("--json", "status").json["pid"]
        assert device.shell(f"cat /proc/{pid}/oom_score_adj").output.strip() in ("-800", "-1000")
        stopped = device.shell("/etc/init.d/S19zcached stop", SECONDS)
        assert stopped.exit_code == 0, stopped.output
        assert "ublk" not in device.shell("cat /proc/swaps").output
        assert device.shell("/etc/init.d/S19zcached start", SECONDS).exit_code == 0
        assert "ublk" in device.shell("cat /proc/swaps").output
        removed = zcache("--json", "uninstall")
        assert removed.code == 0, removed.err
        assert set(removed.json["files"].values()) == {"removed"}
        assert "ublk" not in device.shell("cat /proc/swaps").output
        assert listing(device, "/etc", "/usr", "/var") == before
        self.check_inittab(device, zcache)

    def check_inittab(self, device: Device, zcache: Quick) -> None:
        """init starts again what has ended."""
        inittab = device.shell("cat /etc/inittab").output
        assert zcache("install", "--as", "inittab").code == 0
        pid = zcache("--json", "status").json["pid"]
        device.shell(f"kill -9 {pid}")
        until(lambda: zcache("--json", "status").code == 0, "init does not start it again")
        assert zcache("--json", "status").json["pid"] != pid
        assert zcache("uninstall").code == 0
        assert device.shell("cat /etc/inittab").output == inittab
        assert listing(device, "/var/lib/zcache", "/usr/lib/zcache") == ""


MODULES = "/data/adb/modules"
MODULE = f"{MODULES}/zcache"
ASH = "ASH_STANDALONE=1 /bin/busybox sh"
"""As managers run a module's scripts."""
LATE = f"trap '' HUP; {ASH} {MODULE}/service.sh >/dev/null 2>&1 </dev/null & echo $!"
"""It outlasts adb's shell, whose terminal hangs up."""
INSTALLER = f"""
ui_print() {{ echo "$1"; }}
abort() {{ echo "$1"; exit 1; }}
set_perm() {{ chown "$2:$3" "$1" && chmod "$4" "$1"; }}
set_perm_recursive() {{
    find "$1" -type d -exec chmod "$4" {{}} +
    find "$1" -type f -exec chmod "$5" {{}} +
}}
MODPATH={MODULE}
. $MODPATH/customize.sh
rm -rf $MODPATH/customize.sh $MODPATH/META-INF
"""
"""What a manager does with an unpacked zip."""


@pytest.fixture
def phone(arm64_root: Device) -> Iterator[Device]:
    """As far as its manager goes: Android is up, and says so."""
    put(arm64_root, "/bin/getprop", '#!/bin/sh\n[ "$1" != sys.boot_completed ] || echo 1\n')
    assert arm64_root.shell(f"mkdir -p {MODULES}").exit_code == 0
    yield arm64_root
    arm64_root.shell(f"sh {MODULE}/uninstall.sh; rm -rf /data/adb /bin/getprop", SECONDS)


class TestModule:
    def test_from_the_command(self, phone: Device, command_on: OnDevice, settings: Path) -> None:
        zcache = command_on(phone)
        before = listing(phone, "/data/adb")
        installed = zcache("--json", "install", "--config", settings)
        assert installed.code == 0, installed.err
        assert (installed.json["as"], installed.json["daemon"]["directory"]) == ("magisk", "/data/adb/zcache")
        assert f"{settings.name} says" in zcache("config", "diff", settings).out
        self.check_restart(phone, zcache)
        bad = settings.with_name("bad.toml")
        bad.write_text('[pools.app]\nkind = "persistent"\nbacking = "/nowhere/file"\n')
        fails(zcache("install", "--config", bad), 5, "without the settings", "/nowhere/file")
        assert zcache("status").code == 0
        assert zcache("uninstall").code == 0
        assert listing(phone, "/data/adb") == before
        assert "ublk" not in phone.shell("cat /proc/swaps").output
        fails(zcache("status"), 4, "no daemon runs")

    def check_restart(self, phone: Device, zcache: Quick) -> None:
        """A phone that restarts, and one that does so again at once: the settings may be why, so they are left out."""
        stop = f"{ASH} {MODULE}/zcached-service stop"
        assert phone.shell(stop, SECONDS).exit_code == 0
        fails(zcache("status"), 4, "no daemon runs")
        assert phone.shell(f"{ASH} {MODULE}/post-fs-data.sh").exit_code == 0
        waits = phone.shell(LATE).output.strip()
        until(lambda: "ublk" in phone.shell("cat /proc/swaps").output, "the settings are not applied")
        assert "applied" in phone.shell(f"{ASH} {MODULE}/action.sh").output
        phone.shell(f"kill {waits}; {stop}", SECONDS)
        assert phone.shell(f"{ASH} {MODULE}/post-fs-data.sh").exit_code == 0
        phone.shell(LATE)
        until(lambda: zcache("status").code == 0, "zcached does not run")
        assert "ublk" not in phone.shell("cat /proc/swaps").output
        assert "settings are left out" in phone.shell(f"{ASH} {MODULE}/action.sh").output

    def test_from_the_zip(
        self, phone: Device, command_on: OnDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(ROOT)
        archive = tmp_path / "module.zip"
        module.write(archive)
        phone.push(archive, "/tmp/module.zip", 0o600)
        put(phone, "/tmp/installer.sh", INSTALLER)
        for arch, code, said in (("mips", 1, "no zcached for mips"), ("arm64", 0, "arm64-v8a")):
            unpacked = phone.shell(f"mkdir -p {MODULE} && unzip -qo /tmp/module.zip -d {MODULE}")
            assert unpacked.exit_code == 0, unpacked.output
            customized = phone.shell(f"ARCH={arch} {ASH} /tmp/installer.sh")
            assert (customized.exit_code, said in customized.output) == (code, True), customized.output
        assert "customize.sh" not in listing(phone, MODULE)
        assert "/bin" not in listing(phone, MODULE)
        zcache = command_on(phone)
        fails(zcache("uninstall"), 5, MODULE, "Magisk")
        assert phone.shell(f"{ASH} {MODULE}/post-fs-data.sh").exit_code == 0
        phone.shell(LATE)
        until(lambda: zcache("status").code == 0, "zcached does not run")
        assert phone.shell(f"{ASH} {MODULE}/uninstall.sh", SECONDS).exit_code == 0
        assert listing(phone, "/data/adb/zcache") == ""
        phone.shell("rm -f /tmp/module.zip /tmp/installer.sh")


def test_without_root(arm64: Device, command_on: OnDevice) -> None:
    fails(command_on(arm64)("install"), 5, "needs root", "zcache up needs none")
