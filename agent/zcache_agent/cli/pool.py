# SPDX-License-Identifier: Apache-2.0
"""pool create, list, show, codec, compact, shrink, recompress, backing, writeback, destroy."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import click

from ..control import ControlClient, number
from ..counters import Counters, pools_in
from ..errors import Refused, Usage
from .completion import pools
from .fleet import View, each_device
from .output import size_text
from .session import Session, hints, pass_session

_CODEC_HINTS = {
    "EINVAL": "zcache cat codecs names those of this daemon",
    "ENOENT": "zcache pool list and zcache dictionary list show what there is",
}
_BACKING_HINTS = {
    "EEXIST": "--reset overwrites what is there",
    "ESTALE": "--reset gives up what is there",
    "EUCLEAN": "--reset gives up what is there",
    "EINVAL": "e.g. /data/local/tmp/store --size 1G, or a block device",
    "EPERM": "a persistent pool takes a backing store",
    "ENOENT": "zcache pool list shows the pools; a new store needs a directory that is there",
    "ENOTSUP": "without --direct the page cache is used",
}
_LAYOUTS = click.Choice(["packed", "in_place"])


_WHAT = ("kind", "allocator", "codec", "backing")
_COUNTED = ("zpages", "same_filled", "frames", "cold_frames", "cold_pages", "written_pages", "used_bytes")
_LISTED = ("name", "kind", "allocator", "codec", "pages>", "same filled>", "cold>", "written>", "used>", "backing")


def _facts(values: dict[str, str], name: str) -> dict[str, Any]:
    counters = Counters(values, name)
    what = {fact: number(values[f"pools/{name}/{fact}"]) for fact in _WHAT}
    return {"name": name, **what, **{fact: counters[fact] for fact in _COUNTED}}


def _row(facts: dict[str, Any]) -> tuple[object, ...]:
    counts = (facts[fact] for fact in ("zpages", "same_filled", "cold_pages", "written_pages"))
    what = (facts[fact] for fact in ("name", "kind", "allocator", "codec"))
    return (*what, *counts, size_text(facts["used_bytes"]), facts["backing"])


_POOL = View(_LISTED, lambda facts: [_row(facts)])
_POOLS = View(_LISTED, lambda pools: map(_row, pools))
_FORGOTTEN = View(("pool", "pages forgotten>"), lambda facts: [(facts["name"], facts["pages"])])


@click.group()
def pool() -> None:
    """Make, show, change and destroy pools."""


@pool.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(["persistent", "ephemeral"]), default="persistent", show_default=True,
              help="persistent: no page is ever lost; ephemeral: pages may be dropped.")  # fmt: skip
@click.option("--allocator", metavar="A", help="zbud, the default, or zsmalloc, which is denser.")
@click.option("--codec", metavar="SPEC", help="NAME[:LEVEL][:dict=ID], e.g. zstd:3; lz4 is the default.")
@click.option("--backing", metavar="PATH", help="A backing store, see zcache pool backing; or there is no pool.")
@click.option("--layout", type=_LAYOUTS, help="Of the backing store; packed is the default.")
@click.option("--backing-size", metavar="SIZE", help="Make the file, or extend it, to that: bytes, 64M, 2G.")
@click.option("--reset", is_flag=True, help="Overwrite whatever is in the backing store.")
@click.option("--direct", is_flag=True, help="Refuse a backing store that would go through the page cache.")
@each_device(_POOL)
def create(session: Session, name: str, kind: str, allocator: str | None, codec: str | None, backing: str | None,
           layout: str | None, backing_size: str | None, reset: bool, direct: bool) -> None:  # fmt: skip
    """Make a pool."""
    if backing is None and (layout or backing_size or reset or direct):
        raise Usage("--layout, --backing-size, --reset, --direct: of what?", hint="give --backing PATH, too")
    wanted = _words(name=name, kind=kind, allocator=allocator, codec=codec)
    ways_out = {"EINVAL": "zcache pool create --help", "ENOENT": _CODEC_HINTS["ENOENT"]}
    if backing is not None:
        wanted += " " + backing_words(backing, layout, backing_size, reset=reset, direct=direct)
        ways_out |= _BACKING_HINTS | {"EEXIST": "zcache pool list shows the pools; --reset overwrites a store"}
    with hints(**ways_out):
        session.control.set(("pools/create", wanted))
    facts = _facts(session.control.dump(f"pools/{name}"), name)
    if session.as_json:
        session.output.document(facts)
        return
    session.output.text(f"pool {name}: {facts['kind']}, {facts['allocator']}, {facts['codec']}")


def _words(**wanted: str | None) -> str:
    return " ".join(f"{key}={value}" for key, value in wanted.items() if value)


@contextlib.contextmanager
def destroyed_if_refused(control: ControlClient, name: str, *, made: bool) -> Iterator[None]:
    """A pool that was made for what the daemon refuses then; one that was there before stays."""
    try:
        yield
    except Refused:
        if made:
            with contextlib.suppress(Refused):
                control.set((f"pools/{name}/destroy", "1"))
        raise


def backing_words(
    path: str, layout: str | None, size: str | None, *, reset: bool = False, stale: bool = False, direct: bool = False
) -> str:
    """As the tree takes a backing store. It is made anew: `reset`, whatever is there; `stale`, if it is of this pool
    and was not closed before the device restarted."""
    if not path or re.search(r"\s", path):
        raise Usage(f"{path!r}: a backing store's path has no spaces in it", hint="e.g. /dev/vdb, /data/zcache.store")
    return _words(
        path=path,
        layout=layout,
        size=size,
        reset="1" if reset else "stale" if stale else None,
        direct="1" if direct else None,
    )


@pool.command(name="list")
@each_device(_POOLS)
def list_(session: Session) -> None:
    """List the pools."""
    values = session.control.dump("pools")
    pools = [_facts(values, name) for name in pools_in(values)]
    if session.as_json:
        session.output.document(pools)
        return
    session.output.table(_LISTED, [_row(facts) for facts in pools])


@pool.command()
@click.argument("name", shell_complete=pools)
@pass_session
def show(session: Session, name: str) -> None:
    """Show all of a pool: what it is, its parameters, its statistics."""
    base = f"pools/{name}/"
    values = session.control.dump(base.rstrip("/"))
    facts = {path.removeprefix(base): number(value) for path, value in values.items()}
    counters = Counters(values, name)
    facts["warm_frames"] = counters.warm_frames
    if session.as_json:
        session.output.document(facts)
        return
    session.output.text(
        f"pool {name}: {counters.warm_frames} frames warm, {counters['cold_frames']} cold, "
        f"{counters['written_pages']} pages written back"
    )
    session.output.table(("path", "value>"), facts.items())


@pool.command()
@click.argument("name", shell_complete=pools)
@click.argument("spec", required=False)
@pass_session
def codec(session: Session, name: str, spec: str | None) -> None:
    """Show the codec of a pool; with SPEC, set that of the pages put from now on.

    SPEC is NAME[:LEVEL][:dict=ID]: lz4, lz4:4, zstd:3, zstd:1:dict=1, none. Pages that are held keep theirs.
    """
    path = f"pools/{name}/codec"
    before = session.control.get(path)
    if spec is not None:
        with hints(**_CODEC_HINTS):
            session.control.set((path, spec))
    now = session.control.get(path)
    if session.as_json:
        session.output.document({"name": name, "codec": now, "before": before})
        return
    session.output.text(now if spec is None else f"pool {name}: {now}, before {before}")


@pool.command()
@click.argument("name", shell_complete=pools)
@pass_session
def compact(session: Session, name: str) -> None:
    """Move the pages of a pool closer together; frames that get empty go back to the OS.

    A pool does so by itself when flushes have left its frames badly filled, unless its compact_auto is 0.
    """
    frames, zpages = _growth(session.control, name, ("compact", "1"), ("compacted_frames", "compacted_zpages"))
    if session.as_json:
        session.output.document({"name": name, "frames": frames, "zpages": zpages})
        return
    session.output.text(f"pool {name}: {frames} frames freed, {zpages} pages moved")


@pool.command()
@click.argument("name", shell_complete=pools)
@click.argument("frames")
@pass_session
def shrink(session: Session, name: str, frames: str) -> None:
    """Drop the coldest pages of an ephemeral pool until FRAMES whole frames are free."""
    with hints(EINVAL="e.g. zcache pool shrink NAME 16", EPERM="zcache pool compact frees frames and drops nothing"):
        counters = ("reclaimed_frames", "reclaimed_zpages")
        freed, zpages = _growth(session.control, name, ("shrink", frames), counters)
    if session.as_json:
        session.output.document({"name": name, "frames": freed, "zpages": zpages})
        return
    session.output.text(f"pool {name}: {freed} frames freed, {zpages} pages dropped")


@pool.command()
@click.argument("name", shell_complete=pools)
@click.argument("path", required=False)
@click.option("--layout", type=_LAYOUTS, default="packed", show_default=True,
              help="packed: as pages are compressed; in_place: page i of one object at its own place.")  # fmt: skip
@click.option("--size", metavar="SIZE", help="Make the file, or extend it, to that: bytes, 64M, 2G.")
@click.option("--reset", is_flag=True, help="Overwrite whatever is there.")
@click.option("--direct", is_flag=True, help="Refuse what would go through the page cache.")
@pass_session
def backing(
    session: Session, name: str, path: str | None, layout: str, size: str | None, reset: bool, direct: bool
) -> None:
    """Show the backing store of a pool; with PATH, a file or block device of the device, set it.

    What a pool of this name left there comes back. PATH none takes an empty one away.
    """
    node = f"pools/{name}/backing"
    if path is not None:
        wanted = "none" if path == "none" else backing_words(path, layout, size, reset=reset, direct=direct)
        with hints(**_BACKING_HINTS):
            session.control.set((node, wanted))
    now = session.control.get(node)
    written = int(session.control.get(f"pools/{name}/stats/written_pages"))
    if session.as_json:
        session.output.document({"name": name, "backing": now, "written_pages": written})
        return
    session.output.text(f"pool {name}: {now}, {written} pages are in it" if now != "none" else f"pool {name}: {now}")


@pool.command()
@click.argument("name", shell_complete=pools)
@click.argument("frames", default="all")
@pass_session
def writeback(session: Session, name: str, frames: str) -> None:
    """Write the coldest pages of a pool to its backing store until FRAMES whole frames are free; else all."""
    with hints(EINVAL="e.g. zcache pool writeback NAME 16", ENXIO=f"zcache pool backing {name} PATH --size 1G"):
        counters = ("writeback_frames", "writeback_pages")
        freed, pages = _growth(session.control, name, ("writeback", frames), counters)
    if session.as_json:
        session.output.document({"name": name, "frames": freed, "pages": pages})
        return
    session.output.text(f"pool {name}: {freed} frames freed, {pages} pages written back")


@pool.command()
@click.argument("name", shell_complete=pools)
@click.argument("frames", default="all")
@pass_session
def recompress(session: Session, name: str, frames: str) -> None:
    """Compress the coldest pages of a pool again, densely, until it has FRAMES fewer, or all of them.

    Its params cold_codec and cold_extent say by what, and how many adjacent pages together.
    """
    with hints(EINVAL="e.g. zcache pool recompress NAME 16", ENOENT=_CODEC_HINTS["ENOENT"]):
        counters = ("recompressed_frames", "recompressed_pages")
        freed, pages = _growth(session.control, name, ("recompress", frames), counters)
    if session.as_json:
        session.output.document({"name": name, "frames": freed, "pages": pages})
        return
    session.output.text(f"pool {name}: {freed} frames freed, {pages} pages made cold")


def _growth(control: ControlClient, name: str, action: tuple[str, str], counters: tuple[str, ...]) -> list[int]:
    """By how much these counters of a pool grow with an action on it."""
    path, value = action
    before = control.dump(f"pools/{name}/stats")
    control.set((f"pools/{name}/{path}", value))
    after = control.dump(f"pools/{name}/stats")
    paths = [f"pools/{name}/stats/{counter}" for counter in counters]
    return [int(after[path]) - int(before[path]) for path in paths]


@pool.command()
@click.argument("name", shell_complete=pools)
@each_device(_FORGOTTEN)
def destroy(session: Session, name: str) -> None:
    """Forget all pages of a pool, also persistent ones, and the pool."""
    counters = Counters(session.control.dump(f"pools/{name}/stats"), name)
    pages = counters.held + counters["written_pages"]
    session.control.set((f"pools/{name}/destroy", "1"))
    if session.as_json:
        session.output.document({"name": name, "pages": pages})
        return
    session.output.text(f"pool {name} destroyed, {pages} pages forgotten")
