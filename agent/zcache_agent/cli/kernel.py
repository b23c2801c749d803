# SPDX-License-Identifier: Apache-2.0
"""kernel status, maintain: the kernel's own compressed memory."""

import time
from collections.abc import Iterator
from typing import Any

import click

from ..config import Vm, keys_of
from ..control import number
from ..device import run_script
from ..errors import Refused
from ..kernelstats import Facts, Reader
from ..kinds import Size
from ..maintain import KINDS, Action, Budget, Maintainer
from ..settings import read_files
from .config import settled_rights
from .fleet import View, each_device
from .output import size_text
from .session import Session, pass_session

_DAY_SECONDS = 86400.0


@click.group()
def kernel() -> None:
    """The kernel's own compressed memory: zram and zswap. zcache config changes what they are."""


def _status_rows(facts: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    zswap = {"Y": "on", "N": "off"}.get(facts["zswap"].get("enabled"), "no")
    for name, zram in facts["zram"].items():
        yield *_row(name, zram), zswap
    if not facts["zram"]:
        yield "no zram", *("" for _ in _COLUMNS[1:]), zswap


_COLUMNS = ("name", "codec", "data>", "same filled>", "huge>", "written>", "used>", "limit>", "backing")
_STATUS = View((*_COLUMNS, "zswap"), _status_rows)


@kernel.command()
@each_device(_STATUS)
def status(session: Session) -> None:
    """Show zram's and zswap's statistics and settings, and those of the kernel's that decide how it swaps."""
    rights = settled_rights(session)
    reader = Reader(session.transport, rights, kernel=True)
    try:
        now = reader.read()
    finally:
        reader.close()
    files = read_files(session.transport, rights)
    vm: Facts = {name: number(files[key.to]) for name, key in keys_of(Vm).items() if key.to in files}
    if session.as_json:
        zram = {name: dict(facts) for name, facts in now.zram.items()}
        session.output.document({"zram": zram, "zswap": dict(now.zswap), "vm": dict(vm), "notes": now.notes})
        return
    if now.zram:
        session.output.table(_COLUMNS, [_row(name, facts) for name, facts in now.zram.items()])
        session.output.text("")
    groups = {**now.zram, "zswap": now.zswap, "vm": vm}
    rows = [(f"{group}/{name}", value) for group, facts in groups.items() for name, value in facts.items()]
    session.output.table(("path", "value>"), rows)
    if not now.zram:
        session.output.note("note: the kernel shows no zram; its module may not be loaded")
    if not now.zswap:
        session.output.note("note: this kernel has no zswap")
    for note in now.notes:
        session.output.note(f"note: {note}")


def _row(name: str, facts: Facts) -> tuple[object, ...]:
    """The columns of pool list, as far as zram has the like."""
    sizes = [size_text(int(facts.get(key, 0))) for key in ("orig_data_size", "mem_used_total", "mem_limit")]
    counts = [facts.get(key, 0) for key in ("same_pages", "huge_pages", "bd_count")]
    return (name, facts.get("algorithm", "none"), sizes[0], *counts, *sizes[1:], facts.get("backing_dev", "none"))


@kernel.command()
@click.option("--device", metavar="zramN", default="zram0", show_default=True, help="Whose pages.")
@click.option("--idle", "idle_seconds", metavar="S", type=click.IntRange(min=1), default=3600, show_default=True,
              help="Idle are pages that were not touched for so long; where the kernel knows no ages, since the"
              " round before.")  # fmt: skip
@click.option("--writeback", "kinds", type=click.Choice(KINDS), multiple=True,
              help="Which pages are written back, again for each; huge_idle, if it is left out.")  # fmt: skip
@click.option("--budget", metavar="SIZE", help="What may be written back, in each day that it runs; else nothing.")
@click.option("--every", metavar="S", type=click.FloatRange(min=0, min_open=True),
              help="A round each so many seconds, until interrupted; else one round.")  # fmt: skip
@pass_session
def maintain(session: Session, device: str, idle_seconds: int, kinds: tuple[str, ...], budget: str | None,
             every: float | None) -> None:  # fmt: skip
    """Do what zram needs and nobody triggers. Needs root.

    Marks idle pages, has them compressed again where a recompression algorithm is set, and written back where a
    writeback device is. Prints every action and its effect.
    """
    rights = settled_rights(session)
    allowed = Size().of_option("--budget", budget) if budget else 0
    uid = run_script(session.transport, "id -u", rights).text
    if uid != "0":
        raise Refused(f"{session.transport.serial}: zram needs root, and this is uid {uid}", name="EPERM",
                      hint="run zcache as root" if session.transport.is_local else "zcache up --root")  # fmt: skip
    reader = Reader(session.transport, rights, kernel=True)
    maintainer = Maintainer(
        session.transport, rights, device, reader.read, idle_seconds, kinds or KINDS[:1], Budget(allowed)
    )
    try:
        done = [action for action in _rounds(maintainer, allowed, every) if not _print(session, action, every)]
    finally:
        reader.close()
    if session.as_json and not every:
        session.output.document([_json(action) for action in done])


def _rounds(maintainer: Maintainer, budget: int, every: float | None) -> Iterator[Action]:
    day = time.monotonic()
    while True:
        yield from maintainer.round()
        if not every:
            return
        time.sleep(every)
        if time.monotonic() - day >= _DAY_SECONDS:
            day = time.monotonic()
            maintainer.budget.left = budget


def _print(session: Session, action: Action, every: float | None) -> bool:
    """True: it needs not be kept."""
    if not session.as_json:
        session.output.text(action.text)
    elif every:
        session.output.line(_json(action))
    return bool(every)


def _json(action: Action) -> dict[str, object]:
    return {**vars(action)}
