# SPDX-License-Identifier: Apache-2.0
"""The demo: real processes and files of a device through persistent pools and an ephemeral one.

What it makes (processes, pools, files, and the daemon where none ran) is gone when it ends, however it ends.
"""

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from .control import ControlClient
from .counters import parse_histogram
from .daemon import Daemon, find
from .deploy import Options, down, up
from .errors import DaemonAbsent, ZcacheError
from .replay import Progress, Report, replay_process, replay_source
from .sources import open_source
from .transport.base import Transport
from .transport.local import LocalTransport
from .workloads import Workload, available, running, wait_until_gone

THRESHOLDS = ("7/8", "3/4", "5/8", "1/2", "3/8")
"""Of a page: what zv_max_zsize is lowered through. The first is the default."""

PROCESSES = 4

ZBUD, ZSMALLOC = ("persistent", "zbud"), ("persistent", "zsmalloc")
EPHEMERAL = ("ephemeral", "zbud")
"""The demo's pools: kind and allocator."""


@dataclass(frozen=True)
class Size:
    """How much the demo takes on."""

    workload_scale: int
    library_bytes: int


LARGE = Size(10, 24 << 20)
SMALL = Size(1, 2 << 20)
"""For a device, which may be an emulated one: some 35 times slower than this machine."""

LINE_SECONDS = 60
"""What the libraries may take on a line that is slow."""


def size_for(transport: Transport) -> Size:
    if transport.is_local:
        return LARGE
    if not transport.bytes_second:
        return SMALL
    carried = 1 + 2 * (len(THRESHOLDS) + 1)  # each byte: when it is collected, and there and back in each replay
    return replace(SMALL, library_bytes=min(SMALL.library_bytes, LINE_SECONDS * transport.bytes_second // carried))


@dataclass(frozen=True)
class Stored:
    """What became of a process's pages in a pool."""

    zbytes: int
    """Of the pages compressed, before they are put into frames."""
    used_bytes: int
    """By which the pool grew."""
    report: Report


@dataclass(frozen=True)
class Process:
    name: str
    holds: str
    pid: int
    zbytes: int
    """This and the two below: as in Stored, of the pool in zbud."""
    used_bytes: int
    report: Report
    zsmalloc: Stored


@dataclass(frozen=True)
class Threshold:
    share: str
    """Of a page."""
    zv_max_zsize: int
    report: Report


@dataclass(frozen=True)
class PoolFacts:
    kind: str
    allocator: str
    stats: dict[str, int]
    histogram: list[list[int]]


@dataclass
class Facts:
    """All that a demo found out."""

    serial: str
    version: str
    page_size: int
    own_daemon: bool
    processes: list[Process]
    thresholds: list[Threshold]
    libraries: Report
    pools: list[PoolFacts]

    @property
    def reports(self) -> list[Report]:
        processes = [report for p in self.processes for report in (p.report, p.zsmalloc.report)]
        return [*processes, *(t.report for t in self.thresholds), self.libraries]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@contextmanager
def own_or_running_daemon(transport: Transport, progress: Progress) -> Iterator[tuple[Daemon, bool]]:
    """The daemon that runs there; else one of our own (True) for as long as the block runs."""
    running = None
    with suppress(DaemonAbsent):
        running = find(transport)
    if running:
        yield running, False
        return
    with ExitStack() as undo:
        if transport.is_local:
            directory = undo.enter_context(tempfile.TemporaryDirectory(prefix="zcache-demo-"))
            transport = LocalTransport(directory, transport.timeout)
        undo.callback(down, transport, force=True)
        yield up(transport, Options(), progress).daemon, True


class Demo:
    """Pools on a running daemon, and what goes through them."""

    def __init__(self, daemon: Daemon, control: ControlClient) -> None:
        self.daemon = daemon
        self.control = control
        self.page_size = int(control.get("page_size"))
        self._size = size_for(daemon.transport)
        mark = secrets.token_hex(3)
        self._pools = {key: f"demo-{mark}-{key[0]}-{key[1]}" for key in (ZBUD, ZSMALLOC, EPHEMERAL)}
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            for (kind, allocator), name in self._pools.items():
                undo.callback(self._destroy, name)
                self.control.set(("pools/create", f"name={name} kind={kind} allocator={allocator}"))
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _destroy(self, pool: str) -> None:
        """By a connection of its own: the other may have broken in the middle of an answer."""
        with suppress(ZcacheError), self.daemon.control() as control:
            control.set((f"pools/{pool}/destroy", "1"))

    def run_processes(self, progress: Progress) -> list[Process]:
        """Real programs, their anonymous pages read while they live, into the persistent pools."""
        transport = self.daemon.transport
        pids: list[int] = []
        done: list[Process] = []
        try:
            for workload in available(transport)[:PROCESSES]:
                progress(0, f"{workload.name} grows")
                with running(transport, workload, self._size.workload_scale) as pid:
                    pids.append(pid)
                    zbud, zsmalloc = (self._replay_process(key, workload, pid, progress) for key in (ZBUD, ZSMALLOC))
                done.append(
                    Process(workload.name, workload.holds, pid, zbud.zbytes, zbud.used_bytes, zbud.report, zsmalloc)
                )
        finally:
            with suppress(ZcacheError):
                wait_until_gone(transport, pids)
        return done

    def _replay_process(self, key: tuple[str, str], workload: Workload, pid: int, progress: Progress) -> Stored:
        before = self._stats(key)
        report = replay_process(
            self.daemon,
            self._pools[key],
            pid,
            keep=True,
            progress=lambda part, what: progress(part, f"{workload.name} into {key[1]}: {what}"),
        )
        now = self._stats(key)
        zbytes, used_bytes = (now[name] - before[name] for name in ("zbytes", "used_bytes"))
        return Stored(zbytes, used_bytes, report)

    @contextmanager
    def libraries(self, progress: Progress) -> Iterator[Path]:
        """Some of the device's libraries as a tar, or of a program, on this machine while the block runs."""
        limit = self._size.library_bytes
        tar = Path(tempfile.gettempdir(), f"zcache-demo-{secrets.token_hex(8)}.tar")
        try:  # named before it exists: whoever is ended while it is made leaves nothing either
            self._collect(tar, limit, progress)
            yield tar
        finally:
            tar.unlink(missing_ok=True)

    def _collect(self, tar: Path, limit: int, progress: Progress) -> None:
        with (
            tar.open("xb") as file,
            closing(self.daemon.transport.open_command(["sh", "-c", _COLLECT, "sh", str(limit)])) as stream,
        ):
            while data := stream.read(1 << 20):
                file.write(data)
                progress(min(1, file.tell() / limit), "collecting libraries")

    def run_thresholds(self, tar: Path, progress: Progress) -> Iterator[Threshold]:
        """The same files again and again into the ephemeral pool, while what it accepts gets less."""
        path = f"pools/{self._pools[EPHEMERAL]}/params/zv_max_zsize"
        for share in THRESHOLDS:
            self.control.set((path, share))
            report = self._replay_libraries(tar, f"zv_max_zsize {share}", progress, keep=False)
            yield Threshold(share, int(self.control.get(path)), report)
        self.control.set((path, THRESHOLDS[0]))

    def run_libraries(self, tar: Path, progress: Progress) -> Report:
        return self._replay_libraries(tar, "libraries", progress, keep=True)

    def _replay_libraries(self, tar: Path, what: str, progress: Progress, *, keep: bool) -> Report:
        with open_source(tar, self.page_size) as source:
            return replay_source(
                self.daemon,
                self.control,
                self._pools[EPHEMERAL],
                source,
                keep=keep,
                progress=lambda part, step: progress(part, f"{what}: {step}"),
            )

    def pools(self) -> list[PoolFacts]:
        return [PoolFacts(*key, self._stats(key), self._histogram(key)) for key in self._pools]

    def _stats(self, key: tuple[str, str]) -> dict[str, int]:
        values = self.control.dump(f"pools/{self._pools[key]}/stats")
        return {path.rpartition("/")[2]: int(value) for path, value in values.items()}

    def _histogram(self, key: tuple[str, str]) -> list[list[int]]:
        return parse_histogram(self.control.get(f"pools/{self._pools[key]}/zv_curr_dist_counts"))


# A tar of shared libraries, $1 bytes of them at most and none large: enough files to be many. Where none of them is so
# small, or all programs are static: the beginning of the program that reads it.
_COLLECT = r"""
limit=$1 total=0
set --
for file in $(find /usr/lib /system/lib64 /system/lib -type f -name '*.so*' -size -2048k 2>/dev/null); do
    size=$(wc -c <"$file" 2>/dev/null) || continue
    [ $((total + size)) -le "$limit" ] || continue
    total=$((total + size))
    set -- "$@" "$file"
    [ $((total + total / 8)) -lt "$limit" ] || break
done
[ $# -gt 0 ] || exec head -c "$limit" /proc/self/exe
exec tar -cf - "$@" 2>/dev/null
"""
