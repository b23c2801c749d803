# SPDX-License-Identifier: Apache-2.0
"""pool create, list, show, destroy."""

import click

from ..control import number
from .output import size_text
from .session import Session, pass_session


@click.group()
def pool() -> None:
    """Make, show and destroy pools."""


@pool.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(["persistent", "ephemeral"]), default="persistent", show_default=True,
              help="persistent: no page is ever lost; ephemeral: pages may be dropped.")  # fmt: skip
@click.option("--allocator", metavar="A", help="E.g. zbud, the default.")
@click.option("--codec", metavar="C", help="E.g. lz4, the default.")
@pass_session
def create(session: Session, name: str, kind: str, allocator: str | None, codec: str | None) -> None:
    """Make a pool."""
    wanted = {"name": name, "kind": kind, "allocator": allocator, "codec": codec}
    session.control.set(("pools/create", " ".join(f"{key}={value}" for key, value in wanted.items() if value)))
    facts = _facts(session.control.dump(f"pools/{name}"), name)
    if session.as_json:
        session.output.document(facts)
        return
    session.output.text(f"pool {name}: {facts['kind']}, {facts['allocator']}, {facts['codec']}")


@pool.command(name="list")
@pass_session
def list_(session: Session) -> None:
    """List the pools."""
    values = session.control.dump("pools")
    names = dict.fromkeys(path.split("/")[1] for path in values if path.count("/") > 1)
    pools = [_facts(values, name) for name in names]
    if session.as_json:
        session.output.document(pools)
        return
    columns = ("name", "kind", "allocator", "codec", "pages>", "same filled>", "used>")
    session.output.table(columns, [_row(facts) for facts in pools])


def _row(facts: dict[str, object]) -> tuple[object, ...]:
    used = facts["used_bytes"]
    shown = size_text(used) if isinstance(used, int) else used
    return (*(facts[name] for name in ("name", "kind", "allocator", "codec", "zpages", "same_filled")), shown)


def _facts(values: dict[str, str], name: str) -> dict[str, object]:
    def value(path: str) -> object:
        return number(values.get(f"pools/{name}/{path}", ""))

    facts = {"name": name, **{fact: value(fact) for fact in ("kind", "allocator", "codec")}}
    return facts | {fact: value(f"stats/{fact}") for fact in ("zpages", "same_filled", "frames", "used_bytes")}


@pool.command()
@click.argument("name")
@pass_session
def show(session: Session, name: str) -> None:
    """Show all of a pool: what it is, its parameters, its statistics."""
    base = f"pools/{name}/"
    values = session.control.dump(base.rstrip("/"))
    facts = {path.removeprefix(base): number(value) for path, value in values.items()}
    if session.as_json:
        session.output.document(facts)
        return
    session.output.table(("path", "value>"), facts.items())


@pool.command()
@click.argument("name")
@pass_session
def destroy(session: Session, name: str) -> None:
    """Forget all pages of a pool, also persistent ones, and the pool."""
    values = session.control.dump(f"pools/{name}/stats")
    pages = sum(int(values[f"pools/{name}/stats/{fact}"]) for fact in ("zpages", "same_filled", "raw_pages"))
    session.control.set((f"pools/{name}/destroy", "1"))
    if session.as_json:
        session.output.document({"name": name, "pages": pages})
        return
    session.output.text(f"pool {name} destroyed, {pages} pages forgotten")
