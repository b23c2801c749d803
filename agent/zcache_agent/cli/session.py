# SPDX-License-Identifier: Apache-2.0
"""What the commands of one command line share: the common options, and the connections made so far."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from types import TracebackType
from typing import Self

import click

from ..control import ControlClient
from ..daemon import Daemon, find
from ..errors import Refused, Usage
from ..fleet import is_fleet, split
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
        self.alone: list[str] = []
        """Options of the command by which it is for one device."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @cached_property
    def output(self) -> Output:
        return Output(as_json=self.as_json, quiet=self.quiet)

    @property
    def named(self) -> list[str]:
        """The devices that were named, `all` for all of adb's; none where nothing was said."""
        if spec := self.serial or os.environ.get("ZCACHE_SERIAL"):
            return split(spec)
        serial = os.environ.get("ANDROID_SERIAL")  # adb's own, which knows no lists
        return [serial] if serial else []

    @property
    def is_fleet(self) -> bool:
        return is_fleet(self.named)

    @property
    def wanted_serial(self) -> str | None:
        """The device that was named, if one was. Usage: more than one was, and the command looks at one."""
        named = self.named
        if is_fleet(named):
            command = " ".join([click.get_current_context().command_path, *self.alone])
            raise Usage(f"{','.join(named)}: {command} takes one device", hint="name one: -s SERIAL")
        return named[0] if named else None

    @cached_property
    def transport(self) -> Transport:
        """The chosen device. NoDevice: none, or which?"""
        return self._open.enter_context(open_transport(self.wanted_serial, self.timeout))

    def let_go(self) -> str:
        """The serial of the chosen device. What is connected to it is closed: a serial port can be opened once."""
        serial = self.transport.serial
        self._open.close()
        for name in ("transport", "daemon", "control"):
            self.__dict__.pop(name, None)
        return serial

    @cached_property
    def daemon(self) -> Daemon:
        """The daemon that runs there. DaemonAbsent: none does."""
        return find(self.transport)

    @cached_property
    def control(self) -> ControlClient:
        return self._open.enter_context(self.daemon.control())


@contextmanager
def hints(**by_name: str) -> Iterator[None]:
    """Ways out that a command knows better than the client: by the errno's name of a refusal."""
    try:
        yield
    except Refused as error:
        error.hint = by_name.get(error.name, error.hint)
        raise


pass_session = click.make_pass_decorator(Session)
