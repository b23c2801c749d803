# SPDX-License-Identifier: Apache-2.0
"""How results, progress and errors are shown: for people on a terminal, in a pipe, and as JSON."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..errors import ZcacheError
from ..texts import duration_text as duration_text
from ..texts import size_text as size_text

_PIPE_WIDTH = 1000
"""Wide enough that nothing is cut or wrapped where the reader is a program."""


class Step(Protocol):
    """Told the part done, 0..1, and what is being done."""

    def __call__(self, part: float, what: str) -> None: ...


class Output:
    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.console = _console(stderr=False)
        self.errors = _console(stderr=True)

    def document(self, data: object) -> None:
        """The one document of a command under --json."""
        print(json.dumps(data, indent=2, ensure_ascii=False))

    def line(self, data: object) -> None:
        """A document of JSON Lines."""
        print(json.dumps(data, ensure_ascii=False), flush=True)

    def text(self, text: str) -> None:
        """As it is: no markup, no wrapping."""
        self.console.print(Text(text), soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Columns whose name ends with > are numbers, aligned to the right."""
        table = make_table(columns, rows)
        if self.console.is_terminal:
            self.console.print(table)
            return
        with self.console.capture() as shown:
            self.console.print(table)
        self.console.file.write("".join(f"{line.rstrip()}\n" for line in shown.get().splitlines()))

    def note(self, text: str) -> None:
        """What is good to know and no result: on standard error, unless -q or --json."""
        if not self.quiet and not self.as_json:
            self.errors.print(Text(text), soft_wrap=True)

    @contextmanager
    def progress(self, what: str) -> Iterator[Step]:
        """A bar on standard error while something takes long, where that is a terminal."""
        hidden = self.quiet or not self.errors.is_terminal
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.errors, transient=True, disable=hidden) as bars:
            task = bars.add_task(what, total=1.0)

            def step(part: float, what: str) -> None:
                bars.update(task, completed=part, description=what)

            yield step


def make_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        right = column.endswith(">")
        table.add_column(column.removesuffix(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    return table


def print_error(error: ZcacheError, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": error_facts(error)}, ensure_ascii=False), file=sys.stderr)
        return
    print(f"zcache: {error_text(error)}", file=sys.stderr)


def error_facts(error: ZcacheError) -> dict[str, object]:
    return {"name": error.name, "message": error.message, "hint": error.hint}


def error_text(error: ZcacheError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else _PIPE_WIDTH)
