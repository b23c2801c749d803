# SPDX-License-Identifier: Apache-2.0
"""ls, cat, set, stats, params: the control tree."""

import fnmatch
import time
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import click

from ..control import ControlClient, Description, number
from ..counters import Counters, pools_in
from ..errors import Refused, Usage
from .completion import directories, paths
from .fleet import View, each_device
from .output import size_text
from .session import Session, pass_session
from .watch import line, rates, sample, show_pools, show_values

_VALUES = View(("path", "value>"), dict.items)
_PARAMS = View(
    ("path", "value>", "default>"),
    lambda values: [(path, facts["value"], facts.get("default", "")) for path, facts in values.items()],
)


@click.command()
@click.argument("path", default="", shell_complete=directories)
@pass_session
def ls(session: Session, path: str) -> None:
    """List a directory of the control tree; names of directories end with a slash."""
    names = session.control.list(path)
    if session.as_json:
        session.output.document(names)
        return
    for name in names:
        session.output.text(name)


@click.command()
@click.argument("paths", metavar="PATH…", nargs=-1, required=True, shell_complete=paths("r"))
@each_device(_VALUES)
def cat(session: Session, paths: tuple[str, ...]) -> None:
    """Show values of the control tree."""
    values = {path: session.control.get(path) for path in paths}
    if session.as_json:
        session.output.document({path: number(value) for path, value in values.items()})
        return
    for value in values.values():
        session.output.text(value)


@click.command(name="set", context_settings={"ignore_unknown_options": True})
@click.argument("words", metavar="PATH VALUE [PATH VALUE…]", nargs=-1, required=True, shell_complete=paths("w"))
@each_device(_VALUES)
def set_(session: Session, words: tuple[str, ...]) -> None:
    """Set values of the control tree: all of them, or none where one is wrong."""
    if len(words) % 2:
        raise Usage(f"{words[-1]}: no value given for it", hint="zcache set PATH VALUE [PATH VALUE…]")
    pairs = list(zip(words[::2], words[1::2], strict=True))
    session.control.set(*pairs)
    if session.as_json:
        session.output.document(_readable(session.control, [path for path, _ in pairs]))


def _readable(control: ControlClient, paths: Iterable[str]) -> dict[str, object]:
    """The values that stand now; actions have none."""
    values: dict[str, object] = {}
    for path in paths:
        try:
            values[path] = number(control.get(path))
        except Refused:
            values[path] = None
    return values


def _stats_view(glob: str | None, **_: object) -> View:
    """Without a GLOB a row a device, of sums."""
    return _VALUES if glob else View(_SUMMED, _sums)


_SUMMED = ("pools>", "pages>", "puts>", "gets>", "refused>", "used>", "limit>")


def _sums(values: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    pools = [Counters(values, name) for name in pools_in(values)]
    counts = (sum(pool.held for pool in pools), *(sum(pool[name] for pool in pools) for name in ("puts", "gets")))
    sizes = (size_text(values[f"stats/{name}_bytes"]) for name in ("used", "limit"))
    yield (len(pools), *counts, sum(pool.refused for pool in pools), *sizes)


@click.command()
@click.argument("glob", required=False, shell_complete=paths("r", "stats"))
@click.option("-w", "--watch", metavar="S", type=click.FloatRange(min=0.1), is_flag=False, flag_value=1.0,
              help="Every S seconds (1), with what they grew by a second; without GLOB, a line a pool.")  # fmt: skip
@each_device(_stats_view, alone=("watch",))
def stats(session: Session, glob: str | None, watch: float | None) -> None:
    """Show statistics whose path matches GLOB, e.g. 'pools/swap/*' or '*compress_poor'.

    With --json, --watch prints a document a line: time, in seconds since 1970, and for each PATH its value and, as
    PATH_per_s, by how much it grew a second since the line before. zcache report --with draws them.
    """
    if watch is not None:
        _watch(session, glob, watch)
    values = _statistics(session.control, glob)
    if session.as_json:
        session.output.document(values)
        return
    session.output.table(("path", "value>"), values.items())


def _watch(session: Session, glob: str | None, seconds: float) -> NoReturn:
    before = None
    while True:
        now = sample(_statistics(session.control, glob))
        grown = rates(before, now)
        if session.as_json:
            session.output.line(line(now, grown))
        elif glob is None:
            show_pools(session.output, now, grown)
        else:
            show_values(session.output, now, grown)
        before = now
        time.sleep(seconds)


def _statistics(control: ControlClient, glob: str | None) -> dict[str, int | float | str]:
    return {path: number(value) for path, value in _matching(control, "stats", glob or "*").items()}


def _matching(control: ControlClient, directory: str, glob: str) -> dict[str, str]:
    """Values in directories of that name, anywhere in the tree."""
    values = {path: value for path, value in control.dump().items() if directory in path.split("/")[:-1]}
    found = {path: value for path, value in values.items() if fnmatch.fnmatchcase(path, glob)}
    if values and not found:
        raise Usage(f"{glob}: nothing in {directory} has such a path", hint=f"zcache {directory} lists all")
    return found


@click.command()
@click.argument("glob", default="*", shell_complete=paths("r", "params"))
@each_device(_PARAMS)
def params(session: Session, glob: str) -> None:
    """Show parameters whose path matches GLOB, with what they mean and which values they take."""
    values = _matching(session.control, "params", glob)
    about = _descriptions(session.control)
    if session.as_json:
        session.output.document({path: _facts(value, about.get(_template(path))) for path, value in values.items()})
        return
    rows = []
    for path, value in values.items():
        node = about.get(_template(path))
        rows.append((path, value, node.default, node.range, node.unit, node.meaning) if node else (path, value))
    session.output.table(("path", "value>", "default>", "range", "unit", "meaning"), rows)


def _descriptions(control: ControlClient) -> dict[str, Description]:
    return {node.path: node for node in control.describe()}


def _template(path: str) -> str:
    """A node's path as descriptions have it: every pool is NAME."""
    words = path.split("/")
    if words[0] == "pools" and len(words) > 2:
        words[1] = "NAME"
    return "/".join(words)


def _facts(value: str, node: Description | None) -> dict[str, object]:
    facts: dict[str, object] = {"value": number(value)}
    if node:
        facts |= {"default": number(node.default), "range": node.range, "unit": node.unit, "type": node.type,
                  "meaning": node.meaning}  # fmt: skip
    return facts
