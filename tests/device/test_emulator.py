# SPDX-License-Identifier: Apache-2.0
"""The emulated device is what the other tests take it for."""

import secrets
from collections.abc import Callable
from pathlib import Path

from tests.support import BUILD
from tools.emulator import Device

PAGE_SIZE = {"arm64": 4096, "arm64-root": 4096, "arm64-16k": 16384}
UID = {"arm64": 2000, "arm64-root": 0, "arm64-16k": 2000}


def facts(device: Device) -> dict[str, str]:
    """Of `zcached probe`, pushed there under a name of its own."""
    path = "/data/local/tmp/emulator-test"
    device.push(BUILD / "arm64-v8a/zcached", path)
    done = device.shell(f"{path} probe; rm {path}")
    assert done.exit_code == 0, done.output
    return dict(line.split("=", 1) for line in done.output.split())


def test_pages_user_and_modules(device: Device) -> None:
    assert facts(device)["page_size"] == str(PAGE_SIZE[device.target])
    assert device.shell("id -u").output.strip() == str(UID[device.target])
    assert device.shell("ls /dev/zram0 /dev/ublk-control /dev/nbd0").exit_code == 0


def test_socket_files_are_refused_as_on_a_phone(device: Device) -> None:
    path = "/data/local/tmp/emulator-test"
    device.push(BUILD / "arm64-v8a/zcached", path)
    try:
        done = device.shell(f"{path} run --dir {path}-dir")
    finally:
        device.shell(f"rm -r {path} {path}-dir")
    assert done.exit_code == 1
    assert "cannot listen" in done.output
    assert "--abstract" in done.output


def test_files_go_there_and_back(device: Device) -> None:
    content = secrets.token_bytes(300_000)
    here = Path(device.directory) / "content"
    here.write_bytes(content)
    device.push(here, "/data/local/tmp/content")
    assert device.pull("/data/local/tmp/content") == content
    device.shell("rm /data/local/tmp/content")


def test_armv7_programs_run_on_the_4k_kernel(arm64: Device) -> None:
    path = "/data/local/tmp/emulator-test"
    arm64.push(BUILD / "armeabi-v7a/zcached", path)
    done = arm64.shell(f"{path} --version; rm {path}")
    assert "armeabi-v7a" in done.output


def test_128_megabytes_are_enough(boot_device: Callable[..., Device]) -> None:
    small = boot_device("arm64", mem_mb=128)
    total = int(small.shell("grep MemTotal /proc/meminfo").output.split()[1])
    assert total < 128 * 1024


def test_a_rooted_phone_has_su(boot_device: Callable[..., Device]) -> None:
    rooted = boot_device("arm64", su=True)
    assert rooted.shell("id -u").output.strip() == "2000"
    assert rooted.shell("su -c 'id -u'").output.strip() == "0"
