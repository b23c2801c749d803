# SPDX-License-Identifier: Apache-2.0
"""What the commands of one command line share: the common options, and the connections made so far."""

import os
from contextlib import ExitStack
from functools import cached_property
from types import TracebackType
from typing import Self

import click

from ..control import ControlClient
from ..deploy import Daemon, find
from ..errors import NoDevice
from ..transport import Transport, open_transport
from .output import Output

DEFAULT_TIMEOUT = 30.0


class Session:
    def __init__(self) -> None:
        self.serial: str | None = None
        self.as_json = False
        self.verbose = 0
        self.quiet = False
        self.timeout = DEFAULT_TIMEOUT
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @cached_property
    def output(self) -> Output:
        return Output(as_json=self.as_json, quiet=self.quiet)

    @cached_property
    def transport(self) -> Transport:
        """The chosen device."""
        return self._open.enter_context(open_transport(self.serial or choose_serial(self.timeout), self.timeout))

    @cached_property
    def daemon(self) -> Daemon:
        """The daemon that runs there. DaemonAbsent: none does."""
        return find(self.transport)

    @cached_property
    def control(self) -> ControlClient:
        return self._open.enter_context(self.daemon.control())


pass_session = click.make_pass_decorator(Session)


def choose_serial(timeout: float) -> str:
    """The device to use where -s names none."""
    for variable in ("ZCACHE_SERIAL", "ANDROID_SERIAL"):
        if serial := os.environ.get(variable):
            return serial
    from ..transport.adb import AdbServer  # adbutils is slow to import

    devices = AdbServer(timeout).devices()
    usable = [device for device in devices if device.usable]
    if len(devices) == 1 and usable:
        return usable[0].serial
    if not devices:
        raise NoDevice(
            "no device: adb sees none", hint="connect one and allow USB debugging on it, or name this machine: -s local"
        )
    seen = ", ".join(f"{d.serial} ({d.state}{': ' + d.hint if d.hint else ''})" for d in devices)
    if len(devices) > 1:
        raise NoDevice(
            f"more than one device: {seen}", name="ambiguous_device", hint="name one: -s SERIAL, or ZCACHE_SERIAL"
        )
    raise NoDevice(f"no usable device: {seen}", name=devices[0].state)
