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
from ..errors import Refused
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

    @property
    def wanted_serial(self) -> str | None:
        """The device that was named, if one was."""
        return self.serial or os.environ.get("ZCACHE_SERIAL") or os.environ.get("ANDROID_SERIAL")

    @cached_property
    def transport(self) -> Transport:
        """The chosen device. NoDevice: none, or which?"""
        return self._open.enter_context(open_transport(self.wanted_serial, self.timeout))

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
