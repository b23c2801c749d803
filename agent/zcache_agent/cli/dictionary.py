# SPDX-License-Identifier: Apache-2.0
"""dictionary load, list, remove, train: what zstd may compress a pool's pages against."""

import mmap
from contextlib import ExitStack
from pathlib import Path

import click

from ..control import number
from ..errors import Usage
from ..pages import PagesClient
from ..sources import open_source
from .output import size_text
from .session import Session, hints, pass_session

_DEFAULT_SIZE = 32 * 1024


@click.group()
def dictionary() -> None:
    """Load, list, remove and train dictionaries for zstd.

    A pool uses dictionary 1 once its codec says so: zcache pool codec NAME zstd:1:dict=1.
    """


@dictionary.command()
@click.argument("file", type=click.Path(path_type=Path))
@pass_session
def load(session: Session, file: Path) -> None:
    """Load FILE, one that train or zstd --train made, or any bytes that are like the pages."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise Usage(f"{file}: {error.strerror}", hint="zcache dictionary train makes one") from error
    with hints(EINVAL="zcache dictionary train makes one"), PagesClient(session.daemon.open("data")) as client:
        number_ = client.load_dictionary(data)
    facts = _facts(session.control.dump("dictionaries"), str(number_))
    if session.as_json:
        session.output.document(facts)
        return
    session.output.text(f"dictionary {number_}: {facts['size']} bytes, hash {facts['hash']}")


@dictionary.command(name="list")
@pass_session
def list_(session: Session) -> None:
    """List the dictionaries, and the pools whose codec names them."""
    values = session.control.dump("dictionaries")
    codecs = {path: value for path, value in session.control.dump("pools").items() if path.endswith("/codec")}
    found = [_facts(values, name) for name in dict.fromkeys(path.split("/")[1] for path in values)]
    users = [[path.split("/")[1] for path, spec in codecs.items() if _names(spec, facts["id"])] for facts in found]
    if session.as_json:
        session.output.document([{**facts, "pools": pools} for facts, pools in zip(found, users, strict=True)])
        return
    rows = [(*facts.values(), ", ".join(pools)) for facts, pools in zip(found, users, strict=True)]
    session.output.table(("id>", "size>", "hash", "pools"), rows)


def _names(spec: str, number_: object) -> bool:
    return f"dict={number_}" in spec.split(":")


def _facts(values: dict[str, str], name: str) -> dict[str, object]:
    size, hash_ = (values.get(f"dictionaries/{name}/{fact}", "") for fact in ("size", "hash"))
    return {"id": int(name), "size": number(size), "hash": hash_}


@dictionary.command()
@click.argument("id_", metavar="ID")
@pass_session
def remove(session: Session, id_: str) -> None:
    """Forget dictionary ID. Refused while a pool's codec names it, or pages that are held need it."""
    refusals = {
        "EINVAL": "zcache dictionary list shows their numbers",
        "ENOENT": "zcache dictionary list shows which there are",
        "EBUSY": "give the pool another codec (zcache pool codec) and flush the pages put before",
    }
    with hints(**refusals):
        session.control.set(("dictionaries/remove", id_))
    if session.as_json:
        session.output.document({"id": int(id_)})
        return
    session.output.text(f"dictionary {id_} removed")


@dictionary.command()
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", "target", metavar="OUT", required=True, type=click.Path(path_type=Path),
              help="The file to write.")  # fmt: skip
@click.option("--size", metavar="N", type=click.IntRange(min=1024, max=1 << 20), default=_DEFAULT_SIZE,
              help=f"Bytes that it has at most ({_DEFAULT_SIZE}).")  # fmt: skip
@click.option(
    "--page-size", metavar="N", type=click.IntRange(512, 1 << 20), help="Bytes in a page; else this machine's."
)
@click.option("--level", metavar="N", type=click.IntRange(-5, 19), default=1, help="Of zstd, to try it by (1).")
@pass_session
def train(
    session: Session, files: tuple[Path, ...], target: Path, size: int, page_size: int | None, level: int
) -> None:
    """Train a dictionary on this machine from FILEs, page dumps or tars as replay takes them.

    A part of the pages is kept out of the training; how much smaller these get without and with the dictionary
    tells whether it is worth loading. No device is needed.
    """
    from .. import dictionary as training  # zstandard is no pure-Python package

    page_size = page_size or mmap.PAGESIZE
    with ExitStack() as opened, session.output.progress("training"):
        sources = [opened.enter_context(open_source(file, page_size)) for file in files]
        trained = training.train(sources, page_size, size, level)
    try:
        target.write_bytes(trained.data)
    except OSError as error:
        raise Usage(f"{target}: {error.strerror}", hint="name a file that can be written") from error
    if session.as_json:
        session.output.document({"file": str(target), "size": len(trained.data), **trained.as_json()})
        return
    session.output.text(f"wrote {target}: {size_text(len(trained.data))}, from {trained.pages} pages")
    session.output.text(
        f"{trained.held_out} other pages by zstd:{level}: {trained.ratio_without:.2f} times smaller without it,"
        f" {trained.ratio_with:.2f} with it"
    )
