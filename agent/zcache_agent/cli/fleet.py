# SPDX-License-Identifier: Apache-2.0
"""A command on several devices: its body runs for each, with a session of its own; what they say becomes one table.

A body needs not know. For a table, and for --json, it runs as if --json was given, and its document is kept; for -v
it runs as it is, and its text is kept.
"""

import functools
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from ..errors import Usage, ZcacheError
from ..fleet import Job, expand, side_by_side
from ..transport.base import Interruptible
from .failure import as_error, interrupted
from .output import Output, Step, error_facts, error_text
from .session import Session, pass_session
from .signals import clean_up_when_ended

_PLACE = "{serial}"
"""In the name of a file: the device's serial, without what a name cannot have."""


@dataclass(frozen=True)
class View:
    """A command's documents as rows of one table, in which the device comes first."""

    columns: Sequence[str]
    rows: Callable[[Any], Iterable[Sequence[object]]]


Body = Callable[..., None]
Views = View | Callable[..., View]
"""A function gets the command's parameters."""


def each_device(
    view: Views | None = None, *, alone: Sequence[str] = (), reads: Sequence[str] = (), writes: Sequence[str] = ()
) -> Callable[[Body], Body]:
    """Instead of pass_session, for a command that takes -s all and lists.

    view: without one, what the command says of each device is shown below its name. alone: parameters with which it
    is for one device, or for none. reads, writes: parameters that are files, which may be others for each device and,
    where they are written, must be.
    """

    def decorate(body: Body) -> Body:
        @functools.wraps(body)
        def command(session: Session, /, **parameters: Any) -> None:  # noqa: ANN401 - the body's own
            session.alone = _given(alone, parameters)
            if session.alone or not session.is_fleet:
                body(session, **parameters)
                return
            serials = expand(session.named, session.timeout)
            every = _with_files(serials, parameters, reads, writes)
            shown = view(**parameters) if callable(view) else view
            _Fleet(session, shown, [_Member(serial, body, mine) for serial, mine in zip(serials, every, strict=True)])()

        return pass_session(command)

    return decorate


def _given(alone: Sequence[str], parameters: dict[str, Any]) -> list[str]:
    """Those that were given, as a user writes them."""
    options = {option.name: option for option in click.get_current_context().command.params}
    given = [options[name] for name in alone if parameters[name] not in (None, False)]
    return [option.opts[-1] if isinstance(option, click.Option) else option.human_readable_name for option in given]


# ---- files ----


def _with_files(
    serials: Sequence[str], parameters: dict[str, Any], reads: Sequence[str], writes: Sequence[str]
) -> list[dict[str, Any]]:
    every = [dict(parameters) for _ in serials]
    for name in (*reads, *writes):
        file = str(parameters[name] or "")
        named = [Path(file.replace(_PLACE, re.sub(r"[^\w.-]", "_", serial))) for serial in serials]
        if file and name in writes and len({*named}) < len(named):
            raise Usage(
                f"{file}: several devices would write the same file",
                hint=f"put {_PLACE} into its name; in theirs, all but letters, digits, - and . count as _",
            )
        if _PLACE in file:
            for mine, path in zip(every, named, strict=True):
                mine[name] = path
    return every


# ---- a device ----


class _Member:
    """One of several devices, and what became of the command on it."""

    def __init__(self, serial: str, body: Body, parameters: dict[str, Any]) -> None:
        self.serial = serial
        self.document: Any = None
        self.text = ""
        self.error: ZcacheError | None = None
        self._body = body
        self._parameters = parameters
        self._session: Session | None = None

    def run(self, parent: Session, board: "Board", *, as_text: bool) -> None:
        output = _Kept(self, parent.output, board, as_text=as_text)
        self._session = session = _OneOf(self.serial, parent, output)
        with board.working(self.serial):
            try:
                with session:
                    self._body(session, **self._parameters)
            except Exception as failure:
                self.error = as_error(failure, verbose=bool(parent.verbose))
            self.text = output.text_kept

    def wake(self) -> None:
        transport = vars(self._session).get("transport") if self._session else None
        if isinstance(transport, Interruptible):
            transport.interrupt()

    @property
    def as_json(self) -> Any:  # noqa: ANN401 - the command's own
        if not self.error:
            return {} if self.document is None else self.document
        facts = {"error": {**error_facts(self.error), "exit_code": self.error.exit_code}}
        return {**self.document, **facts} if isinstance(self.document, dict) else facts

    @property
    def complaint(self) -> str:
        """The error, without the serial, which is beside it."""
        return error_text(self.error).removeprefix(f"{self.serial}: ") if self.error else ""


class _OneOf(Session):
    """The session of a device among several."""

    def __init__(self, serial: str, parent: Session, output: Output) -> None:
        super().__init__()
        self.serial = serial
        self.as_json = output.as_json
        self.verbose, self.quiet, self.timeout = parent.verbose, parent.quiet, parent.timeout
        self._output = output

    @property
    def wanted_serial(self) -> str | None:
        return self.serial

    @functools.cached_property
    def output(self) -> Output:
        return self._output


class _Kept(Output):
    """Keeps results; progress and notes go where all can be seen."""

    def __init__(self, member: _Member, shared: Output, board: "Board", *, as_text: bool) -> None:
        super().__init__(as_json=not as_text, quiet=shared.quiet)
        self._member, self._shared, self._board = member, shared, board
        self._text = io.StringIO()
        self.console = Console(
            file=self._text,
            highlight=False,
            width=shared.console.width,
            force_terminal=shared.console.is_terminal,
        )

    @property
    def text_kept(self) -> str:
        return self._text.getvalue()

    def document(self, data: object) -> None:
        self._member.document = data

    def note(self, text: str) -> None:
        serial = self._member.serial
        self._shared.note(text if serial in text else f"{serial}: {text}")

    @contextmanager
    def progress(self, what: str) -> Iterator[Step]:
        def step(part: float, what: str) -> None:
            self._board.step(self._member.serial, part, what)

        step(0, what)
        yield step


# ---- all of them ----


class _Fleet:
    def __init__(self, session: Session, view: View | None, members: Sequence[_Member]) -> None:
        self._session = session
        self._view = view
        self._members = members

    def __call__(self) -> None:
        clean_up_when_ended()
        as_text = not self._session.as_json and (self._view is None or self._session.verbose > 0)
        ended = self._run(as_text=as_text)
        if self._session.as_json:
            self._session.output.document({"devices": {one.serial: one.as_json for one in self._members}})
        elif as_text or not self._view:
            self._show_sections()
        else:
            self._show_table(self._view)
        if not ended:
            raise KeyboardInterrupt
        self._raise_for_failed()

    def _run(self, *, as_text: bool) -> bool:
        """False: it was interrupted."""
        with Board(self._session.output, len(self._members)) as board:

            def job(member: _Member) -> Job:
                return Job(lambda: member.run(self._session, board, as_text=as_text), member.wake)

            jobs = [job(member) for member in self._members]
            try:
                side_by_side(jobs)
            except KeyboardInterrupt:
                for job_, member in zip(jobs, self._members, strict=True):
                    if not job_.done:
                        member.error = interrupted()
                return False
        self._refuse_if_all_do()
        return True

    def _refuse_if_all_do(self) -> None:
        """What is wrong with the command line is no device's fault, and said once."""
        errors = {str(one.error): one.error for one in self._members}
        error = next(iter(errors.values()))
        if len(errors) == 1 and isinstance(error, Usage):
            raise error

    def _raise_for_failed(self) -> None:
        failed = [one for one in self._members if one.error]
        if not failed:
            return
        names = ", ".join(one.serial for one in failed)
        error = ZcacheError(f"{len(failed)} of {len(self._members)} devices failed: {names}", name="devices_failed")
        error.exit_code = max(one.error.exit_code for one in failed if one.error)
        raise error

    def _show_table(self, view: View) -> None:
        failed = any(one.error for one in self._members)
        nothing = ["-"] * len(view.columns)

        def rows() -> Iterator[Sequence[object]]:
            for one in self._members:
                found = [] if one.document is None else list(view.rows(one.document))
                for row in found or [nothing]:
                    yield (one.serial, *row, *([one.complaint] if failed else []))

        self._session.output.table(("device", *view.columns, *(["error"] if failed else [])), rows())

    def _show_sections(self) -> None:
        out = self._session.output
        for number, one in enumerate(self._members):
            out.text(f"{'' if not number else chr(10)}==> {one.serial} <==")
            out.console.file.write(one.text)
            if one.error:
                out.text(f"error: {one.complaint}")


class Board:
    """Which device does what, on standard error while it does, where that is a terminal."""

    def __init__(self, output: Output, count: int) -> None:
        hidden = output.quiet or not output.errors.is_terminal
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
        )
        self.bars = Progress(*columns, console=output.errors, transient=True, disable=hidden)
        self._all = self.bars.add_task(f"{count} devices", total=count)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Board":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    @contextmanager
    def working(self, serial: str) -> Iterator[None]:
        self._tasks[serial] = self.bars.add_task(serial, total=1.0)
        try:
            yield
        finally:
            self.bars.remove_task(self._tasks[serial])
            self.bars.advance(self._all)

    def step(self, serial: str, part: float, what: str) -> None:
        self.bars.update(self._tasks[serial], completed=part, description=f"{serial}: {what}")
