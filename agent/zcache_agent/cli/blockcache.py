# SPDX-License-Identifier: Apache-2.0
"""blockcache on, off, status: a compressed read cache in front of a slow block device or image."""

import re
from typing import Any

import click

from ..control import ControlClient, number
from ..errors import Usage
from .output import size_text
from .pool import destroyed_if_refused
from .session import Session, hints, pass_session

_POOL = "blockcache"
_ON_HINTS = {
    "EPERM": "zcache up --root",
    "EBUSY": "zcache blockcache status shows what is on; one at a time",
    "EEXIST": "zcache pool list; another --pool",
    "ENODEV": "zcache doctor",
    "ENOENT": "an absolute path on the device",
    "EINVAL": "zcache blockcache on --help",
}


@click.group()
def blockcache() -> None:
    """Keep what is read from a slow block device or image compressed in memory. Needs root on the device.

    Writes go through to it at once. Mount the device that `on` names instead of the source.
    """


@blockcache.command()
@click.argument("source")
@click.option("--read-only", is_flag=True, help="Also where the source could be written.")
@click.option("--pool", "name", metavar="NAME", default=_POOL, show_default=True,
              help="Made where it is not there; one that is there must be ephemeral and without pages.")  # fmt: skip
@click.option("--transport", type=click.Choice(["ublk", "nbd"]), help="Else ublk where the kernel has it.")
@pass_session
def on(session: Session, source: str, read_only: bool, name: str, transport: str | None) -> None:
    """Show the kernel a device that reads SOURCE, a block device or a file of the device, through a pool.

    Nobody else may use the source meanwhile: a block device must not be mounted, a file not be changed.
    """
    if not re.fullmatch(r"/\S+", source):
        raise Usage(
            f"{source!r}: a source is an absolute path on the device, without spaces", hint="e.g. /dev/block/mmcblk1p1"
        )
    control = session.control
    words = {"source": source, "pool": name, "read_only": int(read_only), "transport": transport}
    made = f"{name}/" not in control.list("pools")
    if made:
        control.set(("pools/create", f"name={name} kind=ephemeral allocator=zsmalloc"))
    wanted = " ".join(f"{key}={value}" for key, value in words.items() if value is not None)
    with destroyed_if_refused(control, name, made=made), hints(**_ON_HINTS):
        control.set(("blockcache/on", wanted))
    facts = _facts(control)
    if session.as_json:
        session.output.document(facts)
        return
    session.output.text(
        f"block cache on {facts['device']}: {facts['source']}, {size_text(facts['size'])}"
        f"{', read-only' if facts['read_only'] else ''}, by {facts['transport']}, pool {facts['pool']}"
    )
    if not facts["direct"]:
        session.output.note("note: the source goes through the page cache, which is dropped after each read")


@blockcache.command()
@pass_session
def off(session: Session) -> None:
    """Take the device away; it must not be mounted. The pool stays, without pages."""
    facts = _facts(session.control)
    with hints(EBUSY="zcache blockcache status", ENOENT="zcache blockcache on"):
        session.control.set(("blockcache/off", "1"))
    if session.as_json:
        session.output.document(facts | {"on": False})
        return
    session.output.text(
        f"block cache off {facts['device']}: {facts['hits']} pages hit, {facts['misses']} missed,"
        f" {size_text(facts['saved'])} not read from {facts['source']}"
    )


@blockcache.command()
@pass_session
def status(session: Session) -> None:
    """Show the block cache: what it is in front of, what it holds, and what it saved."""
    facts = _facts(session.control)
    if session.as_json:
        session.output.document(facts)
        return
    if not facts["on"]:
        session.output.text("the block cache is not on")
        return
    shown = facts | {name: size_text(facts[name]) for name in ("size", "saved", "memory", "cached")}
    shown["hit_percent"] = f"{facts['hit_percent']} %"
    session.output.table(("fact", "value"), [(name, value) for name, value in shown.items() if name != "on"])


def _facts(control: ControlClient) -> dict[str, Any]:
    values = control.dump("blockcache")
    facts: dict[str, Any] = {"on": values["blockcache/device"] != "none"}
    facts |= {path.removeprefix("blockcache/"): number(value) for path, value in values.items()}
    if facts["on"]:
        pool = control.dump(f"pools/{facts['pool']}/stats")
        stats = {path.rpartition("/")[2]: int(value) for path, value in pool.items()}
        pages = sum(stats[kind] for kind in ("zpages", "same_filled", "raw_pages", "cold_pages"))
        facts["cached"] = pages * int(control.get("page_size"))
        facts["memory"] = stats["used_bytes"]
    return facts
