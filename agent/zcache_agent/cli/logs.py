# SPDX-License-Identifier: Apache-2.0
"""log: the last lines of a file that grows, and with -f what is added to it."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import click

from .session import Session

LINES = 100
_FOLLOW_SECONDS = 1.0
_MARK = 1024
"""Characters by which the place in a log is found again."""

lines_option = click.option(
    "-n", "--lines", metavar="N", type=click.IntRange(min=0), default=LINES, help="At most so many (100)."
)
follow_option = click.option("-f", "--follow", is_flag=True, help="Go on showing what is added, until interrupted.")

Entries = Callable[[str], Sequence[tuple[Any, str]]]
"""Of a text, its lines: as JSON, and for people."""


def show_log(
    session: Session, shown: str, again: Callable[[], str], lines: int, follow: bool, entries: Entries
) -> None:
    """`shown`: the log's newest part; `again` reads it anew."""
    last = entries(shown)[-lines:] if lines else []
    if session.as_json and not follow:
        session.output.document([document for document, _ in last])
        return
    _print(session, last)
    while follow:
        time.sleep(_FOLLOW_SECONDS)
        now = again()
        _print(session, entries(_added(shown, now)))
        shown = now


def _added(shown: str, now: str) -> str:
    """What came since; of a long log only the newest part is looked at, so its beginning may have gone."""
    mark = shown[-_MARK:]
    at = now.rfind(mark)
    return now[at + len(mark) :] if at >= 0 else now


def _print(session: Session, entries: Sequence[tuple[Any, str]]) -> None:
    for document, text in entries:
        if session.as_json:
            session.output.line(document)
        else:
            session.output.text(text)
