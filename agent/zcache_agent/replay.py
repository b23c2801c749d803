# SPDX-License-Identifier: Apache-2.0
"""Replay: put real pages into a pool, get every one back, compare every byte, say what it cost."""

import itertools
import json
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from .control import ControlClient
from .counters import parse_histogram
from .daemon import Daemon
from .errors import CheckFailed, DaemonAbsent, NoDevice, ProtocolError, Refused, Usage, ZcacheError
from .pages import ENOENT, Kind, PagesClient, Pending, Pool, Refusal, Results, Run
from .sources import Source
from .transport.base import ByteStream

_HINTS = {
    "ESRCH": "ps -A on the device lists its processes",
    "EACCES": "reading another user's process needs root",
    "EPERM": "reading another user's process needs root",
    "ENOENT": "zcache pool list shows the pools",
}

Progress = Callable[[float, str], None]
"""Told the part done, 0..1, and what is being done."""


def _ignore(part: float, what: str) -> None: ...


@dataclass
class Report:
    pages: int = 0
    stored: int = 0
    """Without same-filled pages."""
    same_filled: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    dropped: int = 0
    """Stored, and given up by the pool since: what an ephemeral one may do when it is shrunk."""
    lost: int = 0
    """Stored, not there to get, and nobody dropped it."""
    mismatches: int = 0
    """Came back with other bytes."""
    frames: int = 0
    used_bytes: int = 0
    effective_ratio: float | None = None
    put_us: float | None = None
    get_us: float | None = None
    transport_us: float | None = None
    histogram: list[list[int]] = field(default_factory=list)
    """The pool's zpages by size: pairs of an upper bound in bytes and a count."""
    tail_bytes: int = 0

    @property
    def passed(self) -> bool:
        counted = self.stored + self.same_filled + sum(self.refused.values())
        return self.pages == counted and self.lost == 0 and self.mismatches == 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Self:
        return cls(**{name: facts[name] for name in cls.__dataclass_fields__})


def connect(daemon: Daemon) -> PagesClient:
    client = PagesClient(daemon.open("data"))
    try:
        client.share_memory()
    except BaseException:
        client.close()
        raise
    return client


def replay_source(
    daemon: Daemon,
    control: ControlClient,
    pool: str,
    source: Source,
    *,
    keep: bool = False,
    progress: Progress = _ignore,
) -> Report:
    """All pages of a source through a pool, under an object id of their own, which is flushed unless `keep`.

    However it ends otherwise, the object is flushed if the daemon can still be reached.
    """
    object_id = secrets.randbits(64)
    with connect(daemon) as client:
        where = client.pool(pool)
        try:
            given_up = _given_up(control, pool)
            report = Replay(client, where, object_id, source, progress).run()
            _tell_dropped(report, where, _given_up(control, pool) - given_up)
            _measure(control, pool, client.hello.page_size, report)
            if not keep:
                _flush(client, where, object_id)
        except BaseException as error:
            client.close()  # perhaps in the middle of an answer: of no use any more
            if not _flush_again(daemon, where, object_id, error) and isinstance(error, NoDevice):
                hint = f"pool {pool} may still hold what was stored: zcache pool destroy {pool} forgets it"
                raise NoDevice(error.message, name=error.name, hint=hint) from error
            raise
    return report


def _flush_again(daemon: Daemon, pool: Pool, object_id: int, error: BaseException) -> bool:
    """By a new connection; not to a device that does not answer, which would take as long again."""
    if isinstance(error, NoDevice) and error.name == "timeout":
        return False
    with suppress(ZcacheError), connect(daemon) as fresh:
        _flush(fresh, pool, object_id)
        return True
    return False


def replay_process(
    daemon: Daemon,
    pool: str,
    pid: int,
    *,
    keep: bool = False,
    progress: Progress = _ignore,
) -> Report:
    """The pages of a process of the device, read there by `zcached replay`: contents stay on the device.

    It flushes what it stored when nobody reads what it prints any more.
    """
    command = [daemon.program, "replay", "--dir", daemon.directory]
    command += ["--pool", pool, "--pid", str(pid), *(["--keep"] if keep else [])]
    script = '"$@" 2>&1; echo "ended $?"'
    stream = daemon.transport.open_command(daemon.rights.wrap(["sh", "-c", script, "sh", *command]))
    with closing(stream):
        return _follow(stream, progress)


def _follow(stream: ByteStream, progress: Progress) -> Report:
    """Reads the lines of `zcached replay`: progress, one report, or what is wrong."""
    report: Report | None = None
    complaint = ""
    for line in _lines(stream):
        if line.startswith("{"):
            facts = _parse(line)
            if "report" in facts:
                report = Report.from_json(facts["report"])
            elif "progress" in facts:
                done, total = facts["progress"]["done"], facts["progress"]["total"]
                progress(done / max(1, total), "on the device")
        elif line.startswith("ended "):
            if report:
                return report
            raise failure(int(line.split()[1]), complaint)
        else:
            complaint = line
    raise DaemonAbsent("the replay on the device broke off", name="lost", hint="zcache log shows its reason")


def _lines(stream: ByteStream) -> Iterator[str]:
    rest = b""
    while data := stream.read(65536):
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)


def _parse(line: str) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(line)
    except ValueError as error:
        raise ProtocolError(f"zcached replay said {line[:80]!r}") from error
    return facts


def failure(code: int, complaint: str) -> ZcacheError:
    """Of a command of zcached, which says `zcached: NAME: message`."""
    words = complaint.removeprefix("zcached: ")
    name, _, message = words.partition(": ")
    if not name.startswith("E"):
        name, message = "failed", words
    if code == 2:
        return Usage(message, name=name)
    if code == 4:
        return DaemonAbsent(message, name=name, hint="zcache up starts it")
    if code in (3, 5):
        return Refused(message, name=name, hint=_HINTS.get(name, ""))
    return CheckFailed(message or f"zcached ended with code {code}", name=name)


def _flush(client: PagesClient, pool: Pool, object_id: int) -> None:
    client.flush_object(Run(pool.id, object_id, 0, 1))


def _given_up(control: ControlClient, pool: str) -> int:
    return int(control.get(f"pools/{pool}/stats/reclaimed_zpages"))


def _tell_dropped(report: Report, pool: Pool, given_up: int) -> None:
    """Of the pages that are missing, as many as the pool gave up meanwhile are not lost."""
    if pool.kind is Kind.ephemeral:
        report.dropped = min(report.lost, max(0, given_up))
        report.lost -= report.dropped


def _measure(control: ControlClient, pool: str, page_size: int, report: Report) -> None:
    stats = control.dump(f"pools/{pool}/stats")
    report.frames = int(stats[f"pools/{pool}/stats/frames"])
    report.used_bytes = int(stats[f"pools/{pool}/stats/used_bytes"])
    report.histogram = parse_histogram(control.get(f"pools/{pool}/zv_curr_dist_counts"))
    if report.used_bytes:
        held = (report.stored + report.same_filled) * page_size
        report.effective_ratio = round(held / report.used_bytes, 3)


class Replay:
    """One walk to put, one to get and compare."""

    def __init__(self, client: PagesClient, pool: Pool, object_id: int, source: Source, progress: Progress) -> None:
        self.client = client
        self.pool = pool
        self.object_id = object_id
        self.source = source
        self.progress = progress
        self.kept = bytearray()
        """By page: was it stored?"""

    def run(self) -> Report:
        report = Report(tail_bytes=self.source.tail_bytes)
        put_ns = self._put_all(report)
        get_ns = self._get_all(report)
        kept = report.stored + report.same_filled
        transfers = report.pages + kept
        report.put_us = _mean_us(put_ns, report.pages)
        report.get_us = _mean_us(get_ns, kept)
        report.transport_us = _mean_us(max(0, self.client.io_ns - put_ns - get_ns), transfers)
        return report

    def _put_all(self, report: Report) -> int:
        refused: Counter[str] = Counter()
        time_ns = 0
        for _, _, results in self._walk("storing", self.client.start_put):
            for status, size in zip(results.status, results.detail, strict=True):
                self.kept.append(status == 0)
                if status > 0:
                    refused[Refusal(status).name] += 1
                elif status == 0 and size == 0:
                    report.same_filled += 1
                elif status == 0:
                    report.stored += 1
            time_ns += results.time_ns
        report.pages = len(self.kept)
        report.refused = dict(refused)
        return time_ns

    def _get_all(self, report: Report) -> int:
        time_ns = 0

        def start(run: Run, _: list[bytes]) -> Pending:
            return self.client.start_get(run, peek=True)

        for first, pages, results in self._walk("comparing", start):
            for index, page, status, back in zip(
                itertools.count(first), pages, results.status, results.pages, strict=False
            ):
                kept = bool(self.kept[index])
                if status == -ENOENT:
                    report.lost += kept
                elif not kept or back != page:
                    report.mismatches += 1
            time_ns += results.time_ns
        return time_ns

    def _walk(
        self, what: str, start: Callable[[Run, list[bytes]], Pending]
    ) -> Iterator[tuple[int, list[bytes], Results]]:
        """Batches of the source with what the daemon says of them, a window of them under way."""
        waiting: deque[tuple[int, list[bytes], Pending]] = deque()
        first = 0
        for batch in _batched(self.source.pages(), self.client.batch):
            run = Run(self.pool.id, self.object_id, first, len(batch))
            waiting.append((first, batch, start(run, batch)))
            first += len(batch)
            if len(waiting) == self.client.window:
                done, pages, pending = waiting.popleft()
                yield done, pages, self.client.finish(pending)
            self.progress(self.source.progress(), what)
        for done, pages, pending in waiting:
            yield done, pages, self.client.finish(pending)


def _batched(pages: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    walk = iter(pages)
    while batch := list(itertools.islice(walk, size)):
        yield batch


def _mean_us(time_ns: int, pages: int) -> float | None:
    return round(time_ns / 1000 / pages, 3) if pages else None
