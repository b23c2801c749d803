# SPDX-License-Identifier: Apache-2.0
"""Backing stores on emulated devices: a virtio disk, more pages than the limit takes, a stop, a kill, another boot."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator

import pytest

from tests.agent.conftest import Zcache, fails
from tools.emulator import Device
from zcache_agent.daemon import Daemon, find
from zcache_agent.pages import PagesClient, Run
from zcache_agent.transport import open_transport

DISKS = {"packed": "/dev/vda", "in_place": "/dev/vdb"}
"""Each layout's, and its pool's name."""
PAGES = {4096: 512, 16384: 256}
"""That a pool gets, by their size; the limit is what a quarter of them are, uncompressed."""
OBJECT = 1
BOOT_ID = "/proc/sys/kernel/random/boot_id"

Store = Callable[[], Daemon]


@pytest.fixture
def zcache(device: Device, abi: str) -> Iterator[Zcache]:
    command = Zcache({**device.env, "ANDROID_SERIAL": device.serial})
    started = command("up", "--abi", abi)
    assert started.code == 0, started.err
    yield command
    ended = command("down", "--force")
    assert ended.code == 0, ended.err


@pytest.fixture
def daemon(device: Device, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The one that runs now."""
    for name, value in device.env.items():
        monkeypatch.setenv(name, value)
    return lambda: find(open_transport(device.serial, 60))


def content(number: int, size: int) -> bytes:
    """Every tenth page is same-filled, every seventh incompressible, which is written back as it is."""
    if number % 10 == 0:
        return bytes([number // 10]) * size
    return random.Random(number).randbytes(size if number % 7 == 0 else size // 3).ljust(size, b".")


def parts(pages: int) -> list[range]:
    """Each of which fits."""
    return [range(first, first + pages // 4) for first in range(0, pages, pages // 4)]


def put(client: PagesClient, pool: int, numbers: range, size: int) -> None:
    for first in numbers[:: client.batch]:
        run = Run(pool, OBJECT, first, min(client.batch, numbers.stop - first))
        done = client.put(run, [content(number, size) for number in range(first, first + run.count)])
        assert set(done.status) == {0}, first


def missing(daemon: Daemon, pool: str, size: int, count: int) -> list[int]:
    """Pages that are not there; every other is, byte for byte, as it was put."""
    gone = []
    with PagesClient(daemon.open("data")) as client:
        number_of = client.pool(pool).id
        for first in range(0, count, client.batch):
            run = Run(number_of, OBJECT, first, min(client.batch, count - first))
            got = client.get(run)
            for number, status, page in zip(range(first, first + run.count), got.status, got.pages, strict=True):
                assert status in (0, -errno.ENOENT), (pool, number)
                assert page in (None, content(number, size)), (pool, number)
                if page is None:
                    gone.append(number)
    return gone


def stats(zcache: Zcache, pool: str) -> dict[str, int]:
    told = zcache("--json", "stats", f"pools/{pool}/stats/*")
    assert told.code == 0, told.err
    return {path.rpartition("/")[2]: value for path, value in told.json.items()}


def create(zcache: Zcache, layout: str, *words: str) -> None:
    store = ("--backing", DISKS[layout], "--layout", layout, "--direct")
    made = zcache("pool", "create", layout, "--allocator", "zsmalloc", *store, *words)
    assert made.code == 0, made.err


@pytest.mark.parametrize(
    ("device", "abi"),
    [("arm64", "arm64-v8a"), ("arm64", "armeabi-v7a"), ("arm64-16k", "arm64-v8a")],
    indirect=["device"],
)
def test_disks(zcache: Zcache, daemon: Store, device: Device, abi: str) -> None:
    """One daemon's life after the other, each on what the one before left: to start one there takes longest."""
    size = int(zcache("cat", "page_size").out)
    for layout in DISKS:
        create(zcache, layout, "--reset")
        more_than_fits(zcache, daemon(), layout, size)
    a_clean_stop(zcache, abi, size)
    a_kill(zcache, daemon, device, abi, size)


def more_than_fits(zcache: Zcache, daemon: Daemon, layout: str, size: int) -> None:
    """Through a limit below what the pages take, by writing them back in between."""
    pages = PAGES[size]
    limit = pages * size // 4
    assert zcache("set", "params/limit", limit).code == 0
    with daemon.control() as control, PagesClient(daemon.open("data")) as client:
        pool = client.pool(layout).id
        for part in parts(pages):
            put(client, pool, part, size)
            control.set((f"pools/{layout}/writeback", "all"))
    told = stats(zcache, layout)
    framed = pages - told["same_filled"]
    assert told["same_filled"] == len(range(0, pages, 10))
    assert (told["written_pages"], told["writeback_pages"]) == (framed, framed)
    assert told["wear_evicted"] >= told["written_bytes"] > limit
    assert (told["frames"], told["zpages"], told["raw_pages"]) == (0, 0, 0), "the frames went back"
    assert missing(daemon, layout, size, pages) == []
    assert stats(zcache, layout)["written_gets"] == framed


def a_clean_stop(zcache: Zcache, abi: str, size: int) -> None:
    """Nothing would be lost, so it needs no --force; same-filled pages come back, too."""
    down = zcache("down")
    assert down.code == 0, down.err
    assert zcache("up", "--abi", abi).code == 0
    for layout in DISKS:
        create(zcache, layout)
        told = stats(zcache, layout)
        assert (told["written_pages"], told["frames"]) == (PAGES[size], 0)


def a_kill(zcache: Zcache, daemon: Store, device: Device, abi: str, size: int) -> None:
    """What was in memory is gone with the daemon; what was written back is there."""
    pages, more, written = PAGES[size], 64, {}
    for layout in DISKS:
        with PagesClient(daemon().open("data")) as client:
            put(client, client.pool(layout).id, range(pages, pages + more), size)
        assert zcache("pool", "writeback", layout, 1).code == 0
        written[layout] = stats(zcache, layout)["written_pages"]
        assert pages < written[layout] < pages + more
    kill(device, zcache)
    assert zcache("up", "--abi", abi).code == 0
    for layout in DISKS:
        create(zcache, layout)
        gone = missing(daemon(), layout, size, pages + more)
        assert len(gone) == pages + more - written[layout]
        assert gone[0] >= pages
    assert zcache("check").code == 0


def kill(device: Device, zcache: Zcache) -> None:
    pid = zcache("--json", "status").json["pid"]
    assert device.shell(f"kill -9 {pid}; while [ -e /proc/{pid} ]; do sleep 0.1; done").exit_code == 0


@pytest.mark.parametrize(("device", "abi"), [("arm64-root", "arm64-v8a")], indirect=["device"])
def test_after_a_kill_and_another_boot_it_is_stale(zcache: Zcache, daemon: Store, device: Device) -> None:
    """The boot's id is forged: nothing else tells the daemon of one."""
    size = int(zcache("cat", "page_size").out)
    create(zcache, "packed", "--reset")
    with PagesClient(daemon().open("data")) as client:
        put(client, client.pool("packed").id, range(64), size)
    assert zcache("pool", "writeback", "packed").code == 0
    kill(device, zcache)
    forge = f"echo 00000000-1111-2222-3333-444444444444 >/tmp/boot && mount --bind /tmp/boot {BOOT_ID}"
    assert device.shell(forge).exit_code == 0
    try:
        assert zcache("up").code == 0
        words = ("pool", "create", "packed", "--backing", DISKS["packed"])
        assert zcache("--json", *words).error["name"] == "ESTALE"
        fails(zcache(*words), 5, DISKS["packed"], "--reset gives up what is there")
        assert zcache("--json", "pool", "list").json == []
        create(zcache, "packed", "--reset")
        assert stats(zcache, "packed")["written_pages"] == 0
    finally:
        assert device.shell(f"umount {BOOT_ID}; rm /tmp/boot").exit_code == 0
