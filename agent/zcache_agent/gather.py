# SPDX-License-Identifier: Apache-2.0
"""What a device tells at one time, again and again, for top, export and report. A lost device is looked for again."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from .control import ControlClient, Description, number
from .counters import parse_histogram, pools_in
from .daemon import Daemon, find
from .device import Rights, find_root
from .errors import DaemonAbsent, Refused, ZcacheError
from .kernelstats import Kernel, Reader
from .transport.base import Transport

Values = Mapping[str, int | float | str]
Histogram = Sequence[Sequence[int]]
"""Pairs of an upper bound in bytes and a count of zpages."""

HISTOGRAM = "zv_curr_dist_counts"
_FIND_SECONDS = 2.0
"""Between two looks for a daemon that is not there: that takes a few processes on the device."""


@dataclass(frozen=True)
class Moment:
    seconds: float
    """On a clock of this machine that only goes forward."""
    time: float
    """Since 1970."""
    serial: str = ""
    values: Values = field(default_factory=dict)
    """The control tree's, tables left out; empty without a daemon."""
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    """Of the pools that were asked for, by their names."""
    kernel: Kernel | None = None
    """None: the device is lost."""
    problem: ZcacheError | None = None
    """Why something is missing."""

    @property
    def is_up(self) -> bool:
        """The daemon told all that was asked."""
        return bool(self.values)

    @property
    def pools(self) -> list[str]:
        return pools_in(self.values)

    def number(self, path: str) -> int | float:
        """What the daemon does not have is 0."""
        value = self.values.get(path, 0)
        return 0 if isinstance(value, str) else value

    def as_json(self) -> dict[str, Any]:
        return {
            "time": round(self.time, 3),
            "serial": self.serial,
            "values": dict(self.values),
            "histograms": {pool: [list(pair) for pair in counts] for pool, counts in self.histograms.items()},
            "kernel": self.kernel.as_json() if self.kernel else None,
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        kernel = Kernel.from_json(facts["kernel"]) if facts["kernel"] else None
        return cls(0.0, facts["time"], facts["serial"], facts["values"], facts["histograms"], kernel)


def is_same_daemon(before: Moment, now: Moment) -> bool:
    """Not one that was started meanwhile, whose counters began anew."""
    same_pid = now.number("daemon/pid") == before.number("daemon/pid")
    return same_pid and now.number("uptime_ms") >= before.number("uptime_ms")


def rates(before: Moment | None, now: Moment) -> dict[str, float]:
    """By how much each number grew a second; of what was not there before, nothing; none over a restart."""
    if before is None or now.seconds <= before.seconds or not is_same_daemon(before, now):
        return {}
    passed = now.seconds - before.seconds
    return {
        path: (value - old) / passed
        for path, value in now.values.items()
        if not isinstance(value, str) and not isinstance(old := before.values.get(path, ""), str)
    }


class Gatherer:
    """Keeps the connections that it needs open, and makes them anew when they broke. For one thread."""

    def __init__(self, open_device: Callable[[str | None], Transport], *, kernel: bool = False) -> None:
        """`open_device` is given the serial of the device that was found first, so that no other takes its place.

        `kernel`: zram and zswap, too; where adb's user may not read them and root can be had, as root.
        """
        self.with_kernel = kernel
        self.descriptions: Sequence[Description] = ()
        """What the daemon says of its nodes, since it was first seen."""
        self._open_device = open_device
        self._serial: str | None = None
        self._transport: Transport | None = None
        self._control: ControlClient | None = None
        self._reader: Reader | None = None
        self._reads_kernel = False
        self._rights = Rights.OWN
        self._asked_for_root = False
        self._absent: DaemonAbsent | None = None
        self._find_after = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for part in (self._control, self._reader, self._transport):
            if part:
                with contextlib.suppress(ZcacheError, OSError):
                    part.close()
        self._control = self._reader = self._transport = None

    def take(self, histograms: Callable[[Sequence[str]], Sequence[str]] = lambda pools: pools) -> Moment:
        """A moment, with what is missing in it as its problem. `histograms`: of the pools, those to ask for."""
        taken = time.monotonic(), time.time()
        values: Values = {}
        tables: dict[str, Histogram] = {}
        kernel, problem = None, None
        try:
            kernel = self._read_kernel(self._device())
            values = self._dump(self._device())
            tables = {pool: self._histogram(pool) for pool in histograms(pools_in(values))}
        except ZcacheError as error:
            problem = error
            self._forget(error)
            values = {}
        return Moment(*taken, self._serial or "", values, tables, kernel, problem)

    def set(self, path: str, value: str) -> None:
        """To the daemon that told of the last moment. Refused: by it. DaemonAbsent, NoDevice: it is gone."""
        if self._control is None:
            raise DaemonAbsent("no daemon runs", hint="zcache up starts it")
        self._control.set((path, value))

    def _forget(self, error: ZcacheError) -> None:
        """What cannot be used any more: the daemon, or with it the device."""
        if not isinstance(error, DaemonAbsent):
            self.close()
            self._absent = None
            return
        if self._control:
            self._control.close()
            self._control = None

    def _device(self) -> Transport:
        if self._transport is None:
            self._transport = self._open_device(self._serial)
            self._serial = self._transport.serial
        return self._transport

    def _read_kernel(self, device: Transport) -> Kernel:
        wanted = self.with_kernel  # which another thread may change
        if self._reader and self._reads_kernel != wanted:
            self._reader.close()
            self._reader = None
        if self._reader is None:
            self._reader = self._open_reader(device, kernel=wanted)
            self._reads_kernel = wanted
        return self._reader.read()

    def _open_reader(self, device: Transport, *, kernel: bool) -> Reader:
        """As root where that tells more and can be had."""
        if not kernel:
            return Reader(device)
        reader = Reader(device, self._rights, kernel=True)
        told = reader.read()
        if told.uid == 0 or self._asked_for_root or not (told.closed or told.notes) or device.is_local:
            return reader
        self._asked_for_root = True  # who said no once is not asked each time that the device comes back
        rights = find_root(device, told.uid).rights
        if rights is None:
            return reader
        reader.close()
        self._rights = rights
        return Reader(device, rights, kernel=True)

    def _dump(self, device: Transport) -> Values:
        if self._control is None:
            daemon = self._find(device)
            self._control = daemon.control()
            self.descriptions = self._control.describe()
        return {path: number(value) for path, value in self._control.dump().items()}

    def _find(self, device: Transport) -> Daemon:
        """DaemonAbsent: none runs, or none ran a moment ago."""
        if self._absent and time.monotonic() < self._find_after:
            raise self._absent
        self._absent = None
        try:
            return find(device)
        except DaemonAbsent as error:
            self._absent = error
            self._find_after = time.monotonic() + _FIND_SECONDS
            raise

    def _histogram(self, pool: str) -> Histogram:
        assert self._control
        try:
            table = self._control.get(f"pools/{pool}/{HISTOGRAM}")
        except Refused:  # it has gone meanwhile
            return []
        return parse_histogram(table)
