# SPDX-License-Identifier: Apache-2.0
"""The block cache on emulated devices: ext4 on a slow disk, by each transport, through pressure, misuse and a kill."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.agent.conftest import Zcache, fails
from tests.agent.test_dictionary import WORDS
from tests.device.conftest import SLOW
from tools.emulator import Device, SlowDisk

SOURCE = "/dev/vdc"
MOUNT = "/mnt"
FILE = f"{MOUNT}/file"
MIB = 1024 * 1024
SIZE = 2 * MIB
"""Of the file: at the disk's speed, half a second."""
MAKE = "mke2fs -Fq -t ext4 -E lazy_itable_init=0"
"""Nothing is written in the background, for which pages would not be kept that are read meanwhile."""
READ = f"""
sync
echo 3 >/proc/sys/vm/drop_caches
sectors() {{ awk '{{print $3}}' /sys/block/vdc/stat; }}
before=$(sectors)
read start rest </proc/uptime
sum=$(md5sum {FILE}) || exit
read end rest </proc/uptime
echo ${{sum%% *}} $start $end $(($(sectors) - before))
"""
"""With nothing of it in the page cache."""
PRESS = """
mkdir -p /run/group /run/fill
mount -t cgroup2 none /run/group && echo +memory >/run/group/cgroup.subtree_control && mkdir /run/group/few &&
    echo 2M >/run/group/few/memory.high && mount -t tmpfs none /run/fill || exit
sh -c 'echo $$ >/run/group/few/cgroup.procs; exec dd if=/dev/zero of=/run/fill/fill bs=1M count=3' 2>/dev/null
umount /run/fill
rmdir /run/group/few && umount /run/group
"""
"""A process wants more than it may have and waits for memory: that the kernel tells, and nobody else is in danger."""


def words(seed: int) -> bytes:
    rng = random.Random(seed)
    return b" ".join(rng.choices(WORDS[:40], k=SIZE // 4))[:SIZE]


@dataclass(frozen=True)
class Reading:
    digest: str
    seconds: float
    sectors: int
    """Read from the disk meanwhile: what is faster than the disk has read none."""


@dataclass
class Bench:
    device: Device
    zcache: Zcache
    tmp_path: Path

    def shell(self, command: str) -> str:
        done = self.device.shell(f"({command.strip()}\n)", timeout=120)
        assert done.exit_code == 0, (command, done.output)
        return done.output.strip()

    def on(self, transport: str) -> str:
        """Its device."""
        done = self.zcache("--json", "blockcache", "on", SOURCE, "--transport", transport)
        assert done.code == 0, done.err
        facts = done.json
        assert (facts["source"], facts["transport"], facts["direct"], facts["read_only"]) == (SOURCE, transport, 1, 0)
        assert facts["size"] == SLOW.mb * MIB
        return str(facts["device"])

    def status(self) -> dict[str, int]:
        facts: dict[str, int] = self.zcache("--json", "blockcache", "status").json
        return facts

    def mount(self, device: str) -> None:
        self.shell(f"mount -t ext4 -o noatime {device} {MOUNT}")

    def write(self, content: bytes) -> None:
        """Onto the disk, when it returns."""
        local = self.tmp_path / "content"
        local.write_bytes(content)
        self.device.push(local, FILE)
        self.shell("sync")

    def read(self, content: bytes) -> Reading:
        digest, start, end, sectors = self.shell(READ).split()
        assert digest == hashlib.md5(content, usedforsecurity=False).hexdigest()
        return Reading(digest, max(float(end) - float(start), 0.01), int(sectors))


@pytest.fixture
def bench(device: Device, tmp_path: Path) -> Bench:
    return Bench(device, Zcache({**device.env, "ANDROID_SERIAL": device.serial}), tmp_path)


def all_of_it(bench: Bench, transport: str) -> None:
    """A file system is made, written and read; what is read again comes from the pool; a kill loses nothing."""
    node = bench.on(transport)
    bench.shell(f"{MAKE} {node}")
    bench.mount(node)
    content = words(1)
    bench.write(content)
    repeats_are_fast(bench, content, transport)
    if transport == "ublk":
        under_pressure(bench, content)
        while_it_is_mounted(bench, node)
    overwritten(bench, content)
    bench.shell(f"umount {MOUNT}")
    status = bench.status()
    assert status["flushes"] > 0
    assert (status["read_errors"], status["write_errors"]) == (0, 0)
    off = bench.zcache("blockcache", "off")
    assert (off.code, off.out.startswith(f"block cache off {node}: ")) == (0, True), off
    a_kill(bench, transport)


def repeats_are_fast(bench: Bench, content: bytes, transport: str) -> None:
    first = bench.read(content)
    assert first.sectors * 512 >= SIZE
    before = bench.status()
    again = bench.read(content)
    after = bench.status()
    assert again.sectors == 0
    assert after["misses"] == before["misses"]
    assert after["hits"] - before["hits"] >= SIZE // int(bench.zcache("cat", "page_size").out)
    assert after["saved"] - before["saved"] >= SIZE
    assert after["cached"] >= SIZE > after["memory"] > 0
    print(f"\nblock cache by {transport}: {first.seconds:.2f} s from a disk of {SLOW.bytes_a_second / MIB:.0f} MiB/s,"
          f" {again.seconds:.2f} s again: {first.seconds / again.seconds:.0f} times as fast")  # fmt: skip


def under_pressure(bench: Bench, content: bytes) -> None:
    before = bench.status()["cached"]
    bench.shell(PRESS)
    assert int(bench.zcache("cat", "stats/evicted_pressure").out) > 0
    assert bench.status()["cached"] < before
    bench.read(content)
    bench.read(content)


def overwritten(bench: Bench, content: bytes) -> None:
    """In place, so that the same blocks are written that the pool has."""
    new = words(2)
    half = new[: SIZE // 2] + content[SIZE // 2 :]
    for part in (half, new):
        bench.write(part)
        bench.read(part)
        bench.read(part)


def while_it_is_mounted(bench: Bench, node: str) -> None:
    fails(bench.zcache("blockcache", "off"), 5, f"{node} is mounted or in use; umount it first")
    fails(bench.zcache("down"), 5, node, "mounted", "umount")
    fails(bench.zcache("blockcache", "on", "/dev/vda"), 5, f"on already, at {node}")
    assert bench.device.shell(f"mount -t ext4 {SOURCE} /run").exit_code != 0


def a_kill(bench: Bench, transport: str) -> None:
    """Whoever waits for the device gets an error, at once; what was written is on the source."""
    node = bench.on(transport)
    bench.mount(node)
    content = words(3)
    bench.write(content)
    pid = bench.zcache("--json", "status").json["pid"]
    read = f"echo 3 >/proc/sys/vm/drop_caches; kill -9 {pid}; timeout 20 cat {FILE} >/dev/null"
    assert bench.device.shell(read).exit_code == 1
    bench.shell(f"umount {MOUNT}; while grep -w {node.rpartition('/')[2]} /proc/partitions; do sleep 0.1; done")
    assert bench.zcache("up").code == 0
    bench.mount(SOURCE)
    bench.read(content)
    fails(bench.zcache("blockcache", "on", SOURCE), 5, SOURCE, "mounted")
    bench.shell(f"umount {MOUNT}")


def misuse(bench: Bench) -> None:
    bench.shell("mkdir -p /tmp/directory; truncate -s 1000 /tmp/odd; truncate -s 0 /tmp/empty")
    for source, said in (
        ("/dev/none", "No such file"),
        ("/tmp/directory", "a directory"),
        ("/tmp/odd", "1000 bytes are no multiple of 512"),
        ("/tmp/empty", "0 bytes"),
        ("/dev/null", "neither a block device nor a file"),
    ):
        fails(bench.zcache("blockcache", "on", source), 5, source, said)
    fails(bench.zcache("blockcache", "off"), 5, "not on")
    assert bench.zcache("--json", "pool", "list").json == []


def a_file(bench: Bench) -> None:
    """Of a file system that has nothing but its page cache; read-only, as asked for."""
    bench.shell("dd if=/bin/busybox of=/tmp/image bs=4096 count=64 2>/dev/null")
    done = bench.zcache("--json", "blockcache", "on", "/tmp/image", "--read-only")
    assert done.code == 0, done.err
    assert (done.json["direct"], done.json["read_only"], done.json["size"]) == (0, 1, 64 * 4096)
    assert bench.shell(f"cmp /tmp/image {done.json['device']} && blockdev --getro {done.json['device']}") == "1"
    assert bench.zcache("blockcache", "off").code == 0


@pytest.mark.parametrize("device", ["arm64-root"], indirect=True)
def test_a_slow_disk(bench: Bench) -> None:
    assert bench.zcache("up").code == 0
    misuse(bench)
    a_file(bench)
    for transport in ("ublk", "nbd"):
        all_of_it(bench, transport)
    assert bench.zcache("down").code == 0


def test_pages_of_16_kib(boot_device: Callable[..., Device], tmp_path: Path) -> None:
    device = boot_device("arm64-16k", root=True, disks=[1, 1, SlowDisk(SLOW.mb, SLOW.bytes_a_second)])
    bench = Bench(device, Zcache({**device.env, "ANDROID_SERIAL": device.serial}), tmp_path)
    assert bench.zcache("up").code == 0
    node = bench.on("ublk")
    bench.shell(f"{MAKE} {node}")
    bench.mount(node)
    bench.write(words(1))
    repeats_are_fast(bench, words(1), "ublk")
    overwritten(bench, words(1))
    bench.shell(f"umount {MOUNT}")
    assert bench.zcache("down").code == 0
