# SPDX-License-Identifier: Apache-2.0
"""record: what happens to a pool's pages, for `simulate`."""

from pathlib import Path
from typing import Any, BinaryIO

import click

from ..errors import ZcacheError
from ..pages import PagesClient
from ..recording import Options, Progress, Writer, header_of, take, tries_of
from .completion import pools
from .output import size_text
from .session import Session, hints, pass_session
from .signals import clean_up_when_ended


class NotWritten(ZcacheError):
    """The file could not be written to its end."""

    default_name = "not_written"


@click.command()
@click.argument("pool", shell_complete=pools)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Else until Ctrl-C.")
@click.option("--events", type=click.IntRange(min=1), metavar="N", help="Until about so many operations came.")
@click.option(
    "--codec", "codecs", multiple=True, metavar="SPEC", help="Try pages with it, too; again for each (zstd:3)."
)
@click.option(
    "--every", type=click.IntRange(1, 1 << 20), default=64, metavar="N", help="Try one of N pages that are put (64)."
)
@pass_session
def record(
    session: Session,
    pool: str,
    file: Path,
    seconds: float | None,
    events: int | None,
    codecs: tuple[str, ...],
    every: int,
) -> None:
    """Record what happens to the pages of POOL, and write it to FILE.

    Each put, get and flush is noted with its page's number, its compressed size and its time. What is in a page is not,
    nor are names of files: they never leave the device. One of --every pages that are put is compressed by other
    codecs, too: the pool's cold codec, and each --codec. zcache simulate runs the file against any settings.
    """
    options = Options(pool, seconds, events, codecs or ("zstd:3",), every)
    clean_up_when_ended()
    before = session.control.dump()
    if f"pools/{pool}/codec" not in before:
        session.control.list(f"pools/{pool}")  # says that there is none
    mine = f"pools/{pool}/params/"
    extent = int(before[f"{mine}cold_extent"])
    tries = tries_of(before[f"pools/{pool}/codec"], before[f"{mine}cold_codec"], extent, options.codecs)
    header = header_of(session.daemon, before, options, tries)
    with hints(EBUSY="wait until the other recording of it has ended", EINVAL="zcache record --help"):
        reason, progress = _record(session, options, file, header)
    _report(session, file, header, reason, progress)


def _record(session: Session, options: Options, file: Path, header: dict[str, Any]) -> tuple[str, Progress]:
    progress = Progress()
    with PagesClient(session.daemon.open("data")) as client:
        client.start_recording(options.pool, options.every, header["tries"])
        try:
            with file.open("wb") as out:
                reason = _write(session, client, out, options, header, progress)
        except OSError as error:
            raise NotWritten(
                f"{file}: {error.strerror}; {progress.events} events are in it",
                hint="make room, or name another file; what is in it can be simulated" if progress.events else "",
            ) from error
        except ZcacheError as error:
            raise type(error)(
                f"{error.message}; {progress.events} events are in {file}",
                name=error.name,
                hint=f"zcache simulate {file} uses what is there" if progress.events else error.hint,
            ) from error
    return reason, progress


def _write(
    session: Session, client: PagesClient, out: BinaryIO, options: Options, header: dict[str, Any], progress: Progress
) -> str:
    writer = Writer(out, header)
    end = f", for {options.seconds:g} s" if options.seconds else " until Ctrl-C"
    session.output.note(f"recording pool {options.pool}{end}")
    reason = "interrupted"
    try:
        for _ in take(client, writer, options, progress):
            pass
        reason = "done"
    except KeyboardInterrupt:
        client.close()  # perhaps in the middle of an answer
    stats = session.control.dump(f"pools/{options.pool}/stats")
    writer.done({"reason": reason, "stats": {path.rpartition("/")[2]: int(value) for path, value in stats.items()}})
    return reason


def _report(session: Session, file: Path, header: dict[str, Any], reason: str, progress: Progress) -> None:
    size = file.stat().st_size
    codecs = [spec for spec in header["tries"] if "*" not in spec]
    facts = {
        "file": str(file),
        "reason": reason,
        "seconds": progress.seconds,
        "events": progress.events,
        "lost": progress.lost,
        "bytes": size,
        "codecs": codecs,
    }
    if session.as_json:
        session.output.document(facts)
        return
    session.output.text(
        f"{progress.events} events in {progress.seconds:.1f} s, {size_text(size)}, codecs {', '.join(codecs)}"
    )
    if progress.lost:
        session.output.note(
            f"{progress.lost} events were lost: this machine, or the way to the device, was too slow for them"
        )
    if not progress.events:
        session.output.note("nothing happened to the pool, and there was nothing in it")
