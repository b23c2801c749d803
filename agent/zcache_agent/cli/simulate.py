# SPDX-License-Identifier: Apache-2.0
"""simulate: a recording against any settings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ..recording import Recording
from ..simulate import Outcome, Settings, Simulator
from .output import duration_text, size_text
from .session import Session, pass_session


@click.command("simulate")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--set",
    "variants",
    multiple=True,
    metavar="'NAME=VALUE …'",
    help="Settings that differ, in quotes where there are several; again for each variant.",
)
@click.option("--points", type=click.IntRange(0, 10000), default=0, metavar="N", help="With --json: N moments of each.")
@pass_session
def simulate_(session: Session, file: Path, variants: tuple[str, ...], points: int) -> None:
    """Run what was recorded in FILE against other settings: memory, refusals, writes to flash, hits, CPU.

    The first line is the pool as it was recorded. Each --set is one more: of allocator, codec, cold_codec, kind,
    backing (none, or a size: 1G or 1G,in_place), every parameter of a pool and of the store (zcache params). No device
    is needed.
    """
    recording = Recording.load(file)
    wanted = [Settings(), *(Settings.parse(words.split()) for words in variants)]
    simulator = Simulator(recording, points)
    outcomes = []
    with session.output.progress("simulating") as progress:
        for number, settings in enumerate(wanted):
            progress(number / len(wanted), str(settings))
            outcomes.append(simulator.run(settings))
    if session.as_json:
        facts = {"record": _facts(recording), "variants": [outcome.as_json() for outcome in outcomes]}
        session.output.document(facts)
        return
    _notes(session, recording, outcomes)
    session.output.table([f"{row.name}{row.align}" for row in _COLUMNS], [_cells(outcome) for outcome in outcomes])


def _facts(recording: Recording) -> dict[str, Any]:
    facts = {name: recording.header[name] for name in ("began", "device", "page_size", "pool", "every", "tries")}
    more = {"seconds": recording.seconds, "operations": recording.count - recording.held, "held": recording.held}
    return facts | more | {"tried": len(recording.tried), "lost": recording.lost, "is_cut": recording.is_cut}


def _notes(session: Session, recording: Recording, outcomes: Sequence[Outcome]) -> None:
    header, note = recording.header, session.output.note
    said = (str(header["device"].get(name, "")) for name in ("model", "machine"))
    device = " ".join(filter(str.isprintable, filter(None, said)))
    note(
        f"{recording.count - recording.held} operations in {duration_text(round(recording.seconds * 1000))}"
        f" on {device or 'a device'}, {recording.held} pages held before"
    )
    if recording.lost:
        note(f"{recording.lost} events were lost when it was recorded: figures are of those that were not")
    if recording.is_cut:
        note("the recording was cut off: it is of the time before")
    if header["others_bytes"]:
        note(f"other pools used {size_text(header['others_bytes'])} of the limit, which are left out")
    memory = max(outcome.error_percent for outcome in outcomes)
    cpu = max(outcome.cpu.error_percent for outcome in outcomes)
    if max(memory, cpu) >= 0.5:
        note(f"memory ± {memory:.1f} %, CPU ± {cpu:.1f} %: codecs were tried on a sample of the pages")
    for outcome in outcomes:
        may = outcome.settings.values.get("cold_cpu_percent", header["params"].get("cold_cpu_percent", "100"))
        takes = 100 * (outcome.cpu.cold_seconds or 0.0) / max(recording.seconds, 0.001)
        if may.isdecimal() and takes > int(may):
            note(
                f"{outcome.settings}: recompression takes {takes:.0f} % of a CPU, cold_cpu_percent is {may}:"
                " pages would become cold later"
            )


@dataclass(frozen=True)
class _Column:
    name: str
    cell: Callable[[Outcome], str]
    align: str = ">"


def _cells(outcome: Outcome) -> list[str]:
    return [column.cell(outcome) for column in _COLUMNS]


def _us(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


_COLUMNS = (
    _Column("settings", lambda o: str(o.settings), ""),
    _Column("used", lambda o: size_text(o.used_bytes)),
    _Column("peak", lambda o: size_text(o.peak_bytes)),
    _Column("pages", lambda o: str(o.held_pages)),
    _Column("refused", lambda o: str(o.refusals)),
    _Column("hits", lambda o: "-" if o.hit_ratio is None else f"{100 * o.hit_ratio:.1f} %"),
    _Column("written", lambda o: size_text(o.written_bytes)),
    _Column("put µs", lambda o: _us(o.cpu.put_us)),
    _Column("get µs", lambda o: _us(o.cpu.get_us)),
    _Column("CPU", lambda o: "-" if o.cpu.total_seconds is None else f"{o.cpu.total_seconds:.2f} s"),
)
