# SPDX-License-Identifier: Apache-2.0
"""swap on, off, status: the device that the kernel swaps to."""

from typing import Any

import click

from ..control import ControlClient, number
from ..errors import Refused, Usage
from ..swapoff import swap_off
from .output import size_text
from .pool import backing_words, destroyed_if_refused
from .session import Session, hints, pass_session

_POOL = "swap"
_SWAPOFF_SECONDS = 600.0
"""All that is swapped out comes back meanwhile."""
_HINTS = {
    "EPERM": "zcache up --root",
    "EBUSY": "zcache swap status; zcache swap off",
    "EEXIST": "zcache pool list; another --pool",
    "ENODEV": "zcache doctor",
    "ENOSPC": "--size 256M, or a larger --backing",
    "EINVAL": "zcache swap on --help",
}


@click.group()
def swap() -> None:
    """Have the kernel swap to compressed memory. Needs root on the device."""


@swap.command()
@click.option("--size", metavar="SIZE", default="512M", show_default=True,
              help="Of the device, before compression: bytes, 64M, 2G. It takes memory only as it fills.")  # fmt: skip
@click.option("--backing", metavar="PATH", help="A block device or file for pages that compress badly or are cold.")
@click.option("--reset", is_flag=True, help="Overwrite whatever is in the backing store.")
@click.option("--priority", metavar="N", type=click.IntRange(0, 32767),
              help="Above that of all other swap, or it is refused; else the least that is.")  # fmt: skip
@click.option("--pool", "name", metavar="NAME", default=_POOL, show_default=True,
              help="Made where it is not there; one that is there must be persistent and without pages.")  # fmt: skip
@click.option("--transport", type=click.Choice(["ublk", "nbd"]), help="Else ublk where the kernel has it.")
@pass_session
def on(session: Session, size: str, backing: str | None, reset: bool, priority: int | None, name: str,
       transport: str | None) -> None:  # fmt: skip
    """Make a swap device and have the kernel use it before all other swap."""
    if reset and backing is None:
        raise Usage("--reset: of what?", hint="give --backing PATH, too")
    control = session.control
    words = {"size": size, "pool": name, "priority": priority, "transport": transport}
    wanted = " ".join(f"{key}={value}" for key, value in words.items() if value is not None)
    made = f"{name}/" not in control.list("pools")
    if made:
        _make_pool(control, name, backing, size, reset=reset)
    elif backing is not None:
        raise Usage(f"--backing: pool {name} is there already", hint=f"zcache pool backing {name} PATH")
    with destroyed_if_refused(control, name, made=made), hints(**_HINTS):
        control.set(("swap/on", wanted))
    facts = _facts(control)
    if session.as_json:
        session.output.document(facts)
        return
    session.output.text(
        f"swap on {facts['device']}, {size_text(facts['size'])} by {facts['transport']}, "
        f"pool {facts['pool']}, priority {facts['priority']}"
    )
    if facts["refused"] != "none":
        session.output.note(f"note: the kernel does not grant all for the moment of shortage: {facts['refused']}")


def _make_pool(control: ControlClient, name: str, backing: str | None, size: str, *, reset: bool) -> None:
    """As swap likes it best: dense; a backing store in place, not through the page cache."""
    words = f"name={name} kind=persistent allocator=zsmalloc"
    if backing is not None:
        of_file = None if backing.startswith("/dev/") else size
        words += " " + backing_words(backing, "in_place", of_file, reset=reset, stale=True, direct=True)
    ways_out = {
        "EEXIST": "--reset overwrites what is there",
        "ENOTSUP": "a block device, or a file system with O_DIRECT",
    }
    with hints(**ways_out):
        control.set(("pools/create", words))


@swap.command()
@pass_session
def off(session: Session) -> None:
    """Have the kernel take back what it swapped out, and remove the device. Its pool stays, without pages.

    A device whose daemon was killed goes, too: programs get SIGBUS where they touch a page that was on it.
    """
    facts = _facts(session.control)
    if not facts["on"] and facts["orphan"] == "none":
        raise Refused("swap is not on", name="ENOENT", hint="zcache swap on")
    device = facts["device"] if facts["on"] else facts["orphan"]
    with session.output.progress("taking back what is swapped out"):
        swap_off(session.daemon, device, _SWAPOFF_SECONDS)
    if facts["on"]:
        facts = _facts(session.control)
        session.control.set(("swap/off", "1"))
    if session.as_json:
        session.output.document(facts | {"on": False})
    elif facts["on"]:
        lost = f"; {facts['read_errors']} reads failed: those pages are lost" if facts["read_errors"] else ""
        session.output.text(f"swap off {device}: {facts['reads']} pages read, {facts['writes']} written{lost}")
    else:
        session.output.text(f"swap off {device}: its daemon was killed; up to {facts['lost']} pages are lost")


@swap.command()
@pass_session
def status(session: Session) -> None:
    """Show the swap device: what is in it, and what it cost."""
    facts = _facts(session.control)
    if session.as_json:
        session.output.document(facts)
        return
    if facts["orphan"] != "none":
        session.output.text(
            f"{facts['orphan']} is in use still, and its daemon was killed: up to {facts['lost']} pages are lost; "
            "next: zcache swap off"
        )
        return
    if not facts["on"]:
        session.output.text("swap is not on")
        return
    sizes = ("size", "used", "memory", "limit")
    hidden = ("on", "orphan", "lost")
    rows = [(name, size_text(value) if name in sizes else value) for name, value in facts.items() if name not in hidden]
    session.output.table(("fact", "value"), rows)


def _facts(control: ControlClient) -> dict[str, Any]:
    values = control.dump("swap")
    facts: dict[str, Any] = {"on": values["swap/device"] != "none"}
    facts |= {path.removeprefix("swap/"): number(value) for path, value in values.items()}
    if facts["on"]:
        facts["memory"] = int(control.get(f"pools/{facts['pool']}/stats/used_bytes"))
        facts["limit"] = int(control.get("params/limit"))
    return facts
