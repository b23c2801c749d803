# SPDX-License-Identifier: Apache-2.0
"""Backing stores of a real daemon: a clean stop, a kill, another boot, a full disk, a store that vanishes."""

import errno
import os
import re
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest

from tests.daemon.conftest import GET, PUT, SECONDS, Daemon, start
from tests.native.driver import CONFIGS, page, program

COUNT = 200
LAYOUTS = ["packed", "in_place"]


def content(index: int, page_size: int) -> bytes:
    """Every tenth page is same-filled, every seventh incompressible."""
    if index % 10 == 0:
        return page(f"fill:{index}", page_size)
    return page(f"rand:{index}:{page_size if index % 7 == 0 else page_size // 3}", page_size)


def put(daemon: Daemon, pool: int, index: int, data: bytes) -> None:
    answer = daemon.call(PUT, data, pool=pool, object=1, index=index, count=1)
    assert (answer.status, struct.unpack_from("<i", answer.payload)[0]) == (0, 0)


def fill(daemon: Daemon, pool: int, count: int = COUNT) -> None:
    for index in range(count):
        put(daemon, pool, index, content(index, daemon.page_size()))


def get(daemon: Daemon, pool: int, index: int) -> bytes | int:
    """The page, or an errno."""
    answer = daemon.call(GET, pool=pool, object=1, index=index, count=1)
    assert answer.status == 0
    (result,) = struct.unpack_from("<i", answer.payload)
    return answer.payload[8:] if result == 0 else -result


def missing(daemon: Daemon, pool: int, count: int = COUNT) -> set[int]:
    """Pages that are not there; all others are as they were put."""
    there = {index: get(daemon, pool, index) for index in range(count)}
    gone = {index for index, data in there.items() if data == errno.ENOENT}
    assert all(there[index] == content(index, daemon.page_size()) for index in there.keys() - gone)
    return gone


def backing(daemon: Daemon, path: Path, layout: str = "packed", more: str = "size=16M") -> str:
    return daemon.ask(f'set pools/swap/backing "path={path} layout={layout} {more}"')


def stat(daemon: Daemon, path: str) -> int:
    return int(daemon.ask(f"get {path}").split()[2])


def kill(daemon: Daemon) -> None:
    os.kill(daemon.pid, signal.SIGKILL)
    state = Path(f"/proc/{daemon.pid}/stat")
    while state.exists() and state.read_text().split()[2] not in "ZX":
        time.sleep(0.01)


def start_with(directory: Path, mounts: dict[str, Path]) -> Daemon:
    """With other files or directories in these places, which this daemon alone sees."""
    options = "-m" if os.geteuid() == 0 else "-rm"
    script = "".join(f"mount --bind '{source}' {over} && " for over, source in mounts.items()) + 'exec "$@"'
    command = [str(program("host", "zcached")), "run", "--dir", str(directory), "--detach"]
    done = subprocess.run(
        ["unshare", options, "sh", "-c", script, "sh", *command],
        capture_output=True, text=True, timeout=SECONDS, check=True,
    )  # fmt: skip
    ready = re.fullmatch(r"ready pid=(\d+) version=\S+\n", done.stdout)
    assert ready
    return Daemon(directory, program("host", "zcached"), int(ready[1]))


def start_on_another_boot(directory: Path) -> Daemon:
    """Under another boot's id."""
    directory.with_suffix(".boot").write_text("00000000-1111-2222-3333-444444444444\n")
    return start_with(directory, {"/proc/sys/kernel/random/boot_id": directory.with_suffix(".boot")})


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", CONFIGS)
def test_pages_come_back_after_a_clean_stop(config: str, layout: str, tmp_path: Path) -> None:
    """Those that were written back, those that were not, and on another boot too."""
    path = tmp_path / "store"
    first = start(config, tmp_path / "run")
    pool = first.pool("swap")
    assert backing(first, path, layout) == "OK 0\n"
    assert first.ask("get pools/swap/backing").split("\n")[1] == f"path={path} layout={layout}"
    fill(first, pool)
    assert first.ask("set pools/swap/writeback 10") == "OK 0\n"
    assert 10 <= stat(first, "pools/swap/stats/writeback_frames") < stat(first, "pools/swap/stats/written_pages") + 9
    assert missing(first, pool) == set()
    first.stop()

    second = start_on_another_boot(tmp_path / "run") if config == "host" else start(config, tmp_path / "run")
    pool = second.pool("swap")
    assert backing(second, path, layout) == "OK 0\n"
    assert stat(second, "pools/swap/stats/written_pages") == COUNT
    assert missing(second, pool) == set()
    assert second.ask("get check") == "OK 3\nok\n"
    second.stop()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_kill_leaves_what_was_written_back_and_nothing_older(layout: str, tmp_path: Path) -> None:
    path = tmp_path / "store"
    first = start("host", tmp_path / "run")
    pool = first.pool("swap")
    assert backing(first, path, layout) == "OK 0\n"
    fill(first, pool)
    assert first.ask("set pools/swap/writeback all") == "OK 0\n"
    put(first, pool, 3, page("rand:99:100", first.page_size()))
    put(first, pool, 4, page("fill:99", first.page_size()))
    assert first.ask("set pools/swap/params/exclusive_gets 1") == "OK 0\n"
    assert get(first, pool, 5) == content(5, first.page_size())
    kill(first)

    second = start("host", tmp_path / "run")
    pool = second.pool("swap")
    assert backing(second, path, layout) == "OK 0\n"
    assert missing(second, pool) == {3, 4, 5, *range(0, COUNT, 10)}  # same-filled pages were in memory
    second.stop()


def test_after_a_kill_another_boot_finds_a_stale_store(tmp_path: Path) -> None:
    path = tmp_path / "store"
    first = start("host", tmp_path / "run")
    pool = first.pool("swap")
    assert backing(first, path) == "OK 0\n"
    fill(first, pool)
    assert first.ask("set pools/swap/writeback all") == "OK 0\n"
    kill(first)

    second = start_on_another_boot(tmp_path / "run")
    pool = second.pool("swap")
    refused = backing(second, path)
    assert refused.startswith("ERR ESTALE ")
    assert "reset=1" in refused
    assert missing(second, pool) == set(range(COUNT))
    assert backing(second, path, more="size=16M reset=1") == "OK 0\n"
    assert missing(second, pool) == set(range(COUNT))
    fill(second, pool)
    assert second.ask("set pools/swap/writeback all") == "OK 0\n"
    assert missing(second, pool) == set()
    second.stop()


def test_a_store_of_another_boot_may_be_given_up(tmp_path: Path) -> None:
    """As that of swap is: by `reset=stale` a stale one is made anew, and one that is not is as it was."""
    path, more = tmp_path / "store", "size=16M reset=stale"
    first = start("host", tmp_path / "run")
    pool = first.pool("swap")
    assert backing(first, path, more=more) == "OK 0\n"
    fill(first, pool)
    assert first.ask("set pools/swap/writeback all") == "OK 0\n"
    kill(first)

    second = start("host", tmp_path / "run")
    pool = second.pool("swap")
    assert backing(second, path, more=more) == "OK 0\n"
    assert missing(second, pool) == set(range(0, COUNT, 10)), "same-filled pages were in memory"
    kill(second)

    third = start_on_another_boot(tmp_path / "run")
    pool = third.pool("swap")
    assert backing(third, path, more=more) == "OK 0\n"
    assert missing(third, pool) == set(range(COUNT))
    assert backing(third, path, more="reset=new").startswith("ERR EINVAL ")
    third.stop()


def test_a_full_store_leaves_pages_in_memory(host_daemon: Daemon, tmp_path: Path) -> None:
    pool = host_daemon.pool("swap")
    count = 6000
    assert backing(host_daemon, tmp_path / "store", more="size=8M") == "OK 0\n"
    fill(host_daemon, pool, count)
    refused = host_daemon.ask("set pools/swap/writeback all")
    assert refused.startswith("ERR ENOSPC writeback: the backing store of pool 'swap': ENOSPC; ")
    assert stat(host_daemon, "pools/swap/stats/writeback_errors") == 1
    written = stat(host_daemon, "pools/swap/stats/written_pages")
    assert 0 < written < count
    assert missing(host_daemon, pool, count) == set()
    unsaved = stat(host_daemon, "stats/pers_unsaved")
    assert unsaved == stat(host_daemon, "stats/pers_zpages") == count - written
    assert host_daemon.ask("set pools/swap/destroy 1") == "OK 0\n"

    pool = host_daemon.pool("swap")
    assert backing(host_daemon, tmp_path / "store", more="size=8M") == "OK 0\n"
    fill(host_daemon, pool)
    assert host_daemon.ask("set pools/swap/writeback all") == "OK 0\n"
    assert stat(host_daemon, "stats/pers_unsaved") == 0
    assert missing(host_daemon, pool) == set()


def test_a_full_disk_is_told_when_the_store_is_set(tmp_path: Path) -> None:
    """On a file system of 2 MiB that this daemon alone sees."""
    (tmp_path / "disk").mkdir()
    daemon = tmp_path / "run"
    options = "-m" if os.geteuid() == 0 else "-rm"
    script = 'mount -t tmpfs -o size=2M tmpfs "$1" && shift && exec "$@"'
    command = [str(program("host", "zcached")), "run", "--dir", str(daemon), "--detach"]
    done = subprocess.run(
        ["unshare", options, "sh", "-c", script, "sh", str(tmp_path / "disk"), *command],
        capture_output=True, text=True, timeout=SECONDS, check=True,
    )  # fmt: skip
    one = Daemon(daemon, program("host", "zcached"), int(re.findall(r"pid=(\d+)", done.stdout)[0]))
    pool = one.pool("swap")
    refused = backing(one, tmp_path / "disk" / "store")
    assert refused.startswith("ERR ENOSPC ")
    assert f"{tmp_path}/disk/store: no room for " in refused
    fill(one, pool, 6)
    assert missing(one, pool, 6) == set()
    assert one.ask("get pools/swap/backing") == "OK 5\nnone\n"
    one.stop()


def test_a_store_that_vanishes_costs_the_pages_in_it_only(tmp_path: Path) -> None:
    path = tmp_path / "store"
    one = start("host", tmp_path / "run")
    pool = one.pool("swap")
    assert backing(one, path) == "OK 0\n"
    fill(one, pool, 30)
    assert one.ask("set pools/swap/writeback all") == "OK 0\n"
    put(one, pool, 3, content(3, one.page_size()))
    os.truncate(path, 0)
    got = {index: get(one, pool, index) for index in range(30)}
    assert {index for index, data in got.items() if data != errno.EIO} == {0, 3, 10, 20}
    assert all(got[index] == content(index, one.page_size()) for index in (0, 3, 10, 20))
    assert stat(one, "pools/swap/stats/read_errors") == 26
    assert stat(one, "pools/swap/stats/damaged") == 0
    one.stop()


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("path=store", "'store' is no path from / on"),
        ("layout=packed", "'' is no path from / on"),
        ("path=/tmp/x layout=odd", "layout 'odd' is not packed or in_place"),
        ("path=/tmp/x size=5%", "'size=5%' is not path=PATH"),
        ("path=/tmp/x colour=red", "'colour=red' is not path=PATH"),
        ("path=/tmp/x reset=2", "'reset=2' is not path=PATH"),
        ("path=/nonexistent/x size=16M", "/nonexistent/x"),
        ("path=/dev/null size=16M", "/dev/null"),
        ("path=/proc/version", "/proc/version"),
    ],
)
def test_a_bad_backing_store_is_refused_in_one_line(host_daemon: Daemon, value: str, complaint: str) -> None:
    host_daemon.pool("swap")
    refused = host_daemon.ask(f'set pools/swap/backing "{value}"')
    assert refused.startswith("ERR ")
    assert complaint in refused
    assert refused.count("\n") == 1
    assert host_daemon.ask("get pools/swap/backing") == "OK 5\nnone\n"
    assert host_daemon.ask("set pools/swap/writeback 1").startswith("ERR ENXIO writeback: pool 'swap' has no backing")
    assert host_daemon.ask("set pools/swap/writeback 0").startswith("ERR ERANGE writeback: '0'")

    refused = host_daemon.ask(f'set pools/create "name=new kind=persistent {value}"')
    assert refused.startswith("ERR ")
    assert refused.count("\n") == 1
    assert host_daemon.ask("get pools/new/id").startswith("ERR ENOENT ")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_pool_is_created_with_what_is_in_its_backing_store(tmp_path: Path, layout: str) -> None:
    create = f'set pools/create "name=swap kind=persistent path={tmp_path / "store"} layout={layout}'
    one = start("host-asan", tmp_path / "run")
    assert one.ask(f'{create} size=16M"') == "OK 0\n"
    assert one.ask(f'{create} size=16M reset=1"').startswith("ERR EEXIST pool 'swap' exists already")
    fill(one, 1)
    one.stop()

    one = start("host-asan", tmp_path / "run")
    assert one.ask(f'{create} size=odd"').startswith("ERR EINVAL ")
    assert one.ask(f'{create.replace("persistent", "ephemeral")}"').startswith("ERR EPERM ")
    assert one.ask(f'{create}"') == "OK 0\n"
    assert stat(one, "pools/swap/stats/written_pages") == COUNT
    assert missing(one, stat(one, "pools/swap/id")) == set()
    assert one.ask("set pools/swap/destroy 1") == "OK 0\n"
    assert one.ask(f'{create}"') == "OK 0\n"
    assert stat(one, "pools/swap/stats/written_pages") == 0
    one.stop()


def test_whose_store_it_is(host_daemon: Daemon, tmp_path: Path) -> None:
    """One at a time, of one pool, and of a persistent one."""
    host_daemon.pool("swap")
    host_daemon.pool("other")
    host_daemon.pool("cache", "ephemeral")
    path = tmp_path / "store"
    other = f'set pools/other/backing "path={path} size=16M"'
    assert host_daemon.ask(f'set pools/cache/backing "path={path} size=16M"').startswith("ERR EPERM ")
    assert backing(host_daemon, path) == "OK 0\n"
    assert backing(host_daemon, path).startswith("ERR EBUSY pool 'swap' has a backing store, ")
    assert host_daemon.ask(other).startswith("ERR EBUSY ")
    assert host_daemon.ask("set pools/swap/backing none") == "OK 0\n"
    assert host_daemon.ask(other).startswith("ERR EINVAL ")
    (tmp_path / "letter").write_text("to whom it may concern" * 1000)
    assert backing(host_daemon, tmp_path / "letter").startswith("ERR EEXIST ")
    assert (tmp_path / "letter").read_text().startswith("to whom")


def test_a_writeback_budget_is_kept(host_daemon: Daemon, tmp_path: Path) -> None:
    pool = host_daemon.pool("swap")
    assert backing(host_daemon, tmp_path / "store", more="size=64M") == "OK 0\n"
    assert host_daemon.ask("set pools/swap/params/writeback_budget 2M") == "OK 0\n"
    fill(host_daemon, pool, 4000)
    refused = host_daemon.ask("set pools/swap/writeback all")
    assert refused.startswith("ERR EDQUOT writeback: pool 'swap' has used up its writeback_budget")
    stats = "pools/swap/stats"
    wear = sum(stat(host_daemon, f"{stats}/wear_{cause}") for cause in ("evicted", "cleaned", "metadata"))
    assert 2 << 20 <= wear < 4 << 20  # it is looked at before each batch
    assert host_daemon.ask("set pools/swap/params/writeback_budget 0") == "OK 0\n"
    assert host_daemon.ask("set pools/swap/writeback all") == "OK 0\n"
    assert stat(host_daemon, f"{stats}/writeback_errors") == 0
    assert missing(host_daemon, pool, 4000) == set()


def test_when_memory_is_short_pages_go_to_the_store(tmp_path: Path) -> None:
    """In which there is no PSI, by a fake meminfo."""
    meminfo, nothing = tmp_path / "meminfo", tmp_path / "nothing"
    meminfo.write_text("MemTotal: 1048576 kB\nMemAvailable: 900000 kB\n")
    nothing.mkdir()
    one = start_with(tmp_path / "run", {"/proc/meminfo": meminfo, "/proc/pressure": nothing})
    pool = one.pool("swap")
    assert backing(one, tmp_path / "store") == "OK 0\n"
    fill(one, pool)
    assert one.ask("get stats/pressure_source") == "OK 8\nmeminfo\n"
    assert stat(one, "stats/pressures") == 0
    meminfo.write_text("MemTotal: 1048576 kB\nMemAvailable: 9000 kB\n")
    for _ in range(600):
        if stat(one, "pools/swap/stats/writeback_pressure"):
            break
        time.sleep(0.1)
    written = stat(one, "stats/writeback_pressure")
    assert 0 < written <= stat(one, "stats/written_pages") + 10
    assert stat(one, "stats/writeback_pressure_frames") > 0
    assert missing(one, pool) == set()
    one.stop()
