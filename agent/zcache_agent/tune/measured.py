# SPDX-License-Identifier: Apache-2.0
"""What a search of settings builds on: sizes of sampled pages and times a page, all of the device itself."""

import json
import statistics
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import bench
from ..analyze import PAGES, UNREADABLE, Estimate, Sample, choose, own_program, sample_device, sample_file
from ..analyze import Options as SampleOptions
from ..daemon import Daemon
from ..errors import CheckFailed, ProtocolError, Refused, Usage
from ..replay import Progress, failure
from ..sources import open_source

CODECS = ("lz4", "lz4:4", "lz4:8", "lz4:16", "zstd:-5", "zstd:-1", "zstd:1", "zstd:3", "zstd:9")
EXTENTS = (2, 4, 8)
COLD_CODEC = "zstd:9"
TIMED_PAGES = 1000
"""Times take fewer pages than sizes do."""
ROUNDS = 5
"""Of times; what they differ by is how uncertain they are."""


@dataclass(frozen=True)
class Time:
    """µs of a page that is not same-filled."""

    put: Estimate
    get: Estimate


@dataclass(frozen=True)
class Extents:
    """Runs of adjacent pages, each compressed as one."""

    sizes: Sequence[int]
    time: Time
    """Of a page: a put's share of its extent's; to get one decompresses the extent."""


@dataclass(frozen=True)
class Measured:
    sample: Sample
    times: Mapping[str, Time]
    """By codec, in zsmalloc."""
    in_zbud: Time | None = None
    """What a page takes more, or less, in zbud. None: not known."""
    extents: Mapping[int, Extents] = field(default_factory=dict)
    """By pages."""
    on: str = ""
    """Where, for people."""
    mem_total: int | None = None
    limit: int | None = None
    """Of the daemon's store."""

    @property
    def page_size(self) -> int:
        return self.sample.page_size

    @property
    def sizes(self) -> dict[str, Sequence[int]]:
        return {codec["spec"]: codec["sizes"] for codec in self.sample.codecs}

    @property
    def notes(self) -> list[str]:
        """What it does not stand on."""
        sample = self.sample
        return [*_unseen(sample), *_doubts(sample, timed_again=any(time.put.error for time in self.times.values()))]


def _unseen(sample: Sample) -> Iterable[str]:
    kind = sample.facts["kind"]
    if kind != "dump":
        swapped = sum(source["swapped"] for source in sample.sources)
        if swapped and kind != "swapped":
            yield f"{swapped >> 20} MiB that are in swap were not seen: --swapped samples those"
        if kind != "file":
            yield "pages of files were not seen: --files samples those"
    unread = sum(source.get("error") in UNREADABLE for source in sample.sources)
    if unread:
        yield f"{unread} of {len(sample.sources)} processes may not be read without root"
    if sample.facts.get("short_of_memory"):
        yield "sampling ended early, for the device is short of memory"


def _doubts(sample: Sample, *, timed_again: bool) -> Iterable[str]:
    if sample.count < 200 and sample.count < sample.pages:
        yield f"only {sample.count} of {sample.pages} pages were sampled: what is said of the rest is a guess by these"
    if not timed_again:
        yield "times were measured once: how uncertain they are is not known"


# ---- a device ----


def measure_device(daemon: Daemon, options: SampleOptions, *, cold: bool, progress: Progress) -> Measured:
    """Sizes of a fair sample, then times of what the largest of these processes holds."""
    options = replace(options, codecs=tuple(dict.fromkeys(("lz4", *(options.codecs or CODECS)))))
    progress(0.0, "sampling sizes")
    sample = Sample(sample_device(daemon, options))
    pid = sample.sources[Counter(sample.of).most_common(1)[0][0]]["pid"]

    def run(specs: Sequence[str], page_size: int) -> dict[str, Any]:
        seconds = max(1, options.seconds // 6)
        return bench.run_bench(daemon, bench.Options(page_size, TIMED_PAGES, seconds, tuple(specs), pid))

    def take(wanted: SampleOptions) -> dict[str, Any]:
        return sample_device(daemon, wanted)

    return _complete(sample, options, run, take, cold=cold, progress=progress)


# ---- a file ----


def measure_file(path: Path, options: SampleOptions, *, cold: bool, progress: Progress) -> Measured:
    """The same of a dump of pages or a tar, on this machine."""
    options = replace(options, codecs=tuple(dict.fromkeys(("lz4", *(options.codecs or CODECS)))))
    progress(0.0, "sampling sizes")
    sample = Sample(sample_file(path, options))

    def run(specs: Sequence[str], page_size: int) -> dict[str, Any]:
        return _bench_file(path, bench.Options(page_size, TIMED_PAGES, max(1, options.seconds // 6), tuple(specs)))

    def take(wanted: SampleOptions) -> dict[str, Any]:
        return sample_file(path, wanted)

    return _complete(sample, options, run, take, cold=cold, progress=progress)


def _bench_file(path: Path, options: bench.Options) -> dict[str, Any]:
    with open_source(path, options.page_size) as source, tempfile.NamedTemporaryFile() as chosen:
        choose(source.pages(), PAGES, options.page_size, chosen.file)
        command = [str(own_program()), "bench", *options.words(), "--file", chosen.name]
        ran = subprocess.run(command, capture_output=True, check=False)
    if ran.returncode != 0:
        raise failure(ran.returncode, ran.stderr.decode(errors="replace").strip().rpartition("\n")[2])
    try:
        facts: dict[str, Any] = json.loads(ran.stdout)
    except ValueError as error:
        raise ProtocolError(f"zcached bench said {ran.stdout[:80]!r}") from error
    return facts


# ---- both ----

Bench = Callable[[Sequence[str], int], dict[str, Any]]
"""Codecs and a page size: what `zcached bench` prints."""
Take = Callable[[SampleOptions], dict[str, Any]]


def _complete(
    sample: Sample, options: SampleOptions, run: Bench, take: Take, *, cold: bool, progress: Progress
) -> Measured:
    specs = [codec["spec"] for codec in sample.codecs]
    measured = Measured(sample, _sampled_times(sample))
    progress(0.4, "measuring times")
    try:
        rounds = [run([*specs, "zbud/lz4"], sample.page_size) for _ in range(ROUNDS)]
    except (Refused, CheckFailed):  # of an app that only run-as reaches, or all that it holds is same-filled
        return measured
    times = _bench_times(rounds)
    if not times.keys() >= {*specs, "zbud/lz4"}:
        return measured
    base, zbud = times["lz4"], times.pop("zbud/lz4")
    measured = replace(measured, times=times, in_zbud=_difference(zbud, base))
    if not cold:
        return measured
    extents = {}
    for number, pages in enumerate(EXTENTS):
        progress(0.7 + number / 10, f"compressing {pages} pages as one")
        extents[pages] = _measure_extents(sample, options, run, take, pages)
    return replace(measured, extents={pages: found for pages, found in extents.items() if found})


def _measure_extents(sample: Sample, options: SampleOptions, run: Bench, take: Take, pages: int) -> Extents | None:
    """A page of so many times the size is compressed as an extent of so many pages is."""
    size = sample.page_size * pages
    few = max(1, (options.pages or PAGES) // (4 * pages))
    try:
        taken = Sample(take(replace(options, page_size=size, codecs=(COLD_CODEC,), pages=few)))
        time = _bench_times([run([COLD_CODEC], size) for _ in range(ROUNDS)])[COLD_CODEC]
    except (Refused, CheckFailed):  # there are no such runs, or not so much memory
        return None
    put = Estimate(time.put.value / pages, time.put.error / pages)
    return Extents(taken.codecs[0]["sizes"], Time(put, time.get))


def _difference(a: Time, b: Time) -> Time:
    return Time(
        Estimate(a.put.value - b.put.value, (a.put.error**2 + b.put.error**2) ** 0.5),
        Estimate(a.get.value - b.get.value, (a.get.error**2 + b.get.error**2) ** 0.5),
    )


def _sampled_times(sample: Sample) -> dict[str, Time]:
    """Once; their error is not known."""
    times = {}
    for codec in sample.codecs:
        tried = sum(size > 0 for size in codec["sizes"])
        held = sum(0 < size <= sample.page_size for size in codec["sizes"])
        put, get = (
            sum(codec[name]) / count / 1000 if count else 0.0 for name, count in (("put_ns", tried), ("get_ns", held))
        )
        times[codec["spec"]] = Time(Estimate(put, 0), Estimate(get, 0))
    return times


def _bench_times(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Time]:
    """Their median, which one busy moment does not move, and its standard error by how they differ."""
    by_spec = [{codec["spec"]: codec for codec in facts["codecs"]} for facts in rounds]
    return {
        spec: Time(*(_median([codecs[spec][name] or 0.0 for codecs in by_spec]) for name in ("put_us", "get_us")))
        for spec in by_spec[0]
    }


def _median(values: Sequence[float]) -> Estimate:
    """For values about a mean by chance, the median errs a quarter more than the mean."""
    return Estimate(statistics.median(values), 1.25 * statistics.stdev(values) / len(values) ** 0.5)


# ---- what analyze saved ----


def load_saved(path: Path) -> Measured | None:
    """Of `zcache analyze --save`. None: it is no such file."""
    try:
        with path.open("rb") as file:
            if file.read(1) != b"{":
                return None
        facts = json.loads(path.read_text())
    except (ValueError, OSError):
        return None
    try:
        return Measured(_saved_sample(facts), _saved_times(facts), on=f"{path}, of zcache analyze")
    except (KeyError, TypeError) as error:
        raise Usage(
            f"{path}: no sizes of pages in it: {error}", name="no_sample", hint="zcache analyze --save FILE writes them"
        ) from error


def _saved_sample(facts: Mapping[str, Any]) -> Sample:
    raw, total = facts["sample"], facts["total"]
    metadata = raw.get("codec_metadata", {})
    return Sample(
        {
            **{name: facts[name] for name in ("page_size", "kind", "short_of_memory")},
            "pages": total["pages"],
            "from": raw["from"],
            "duplicates": raw["duplicates"],
            "classes": raw["classes"],
            "metadata": raw["metadata"],
            "sources": [
                {
                    "pid": process["pid"],
                    "name": process["name"],
                    "pages": process["pages"],
                    "anonymous": process["anonymous_bytes"],
                    "swapped": process["swapped_bytes"],
                    "error": process["error"],
                }
                for process in facts["processes"]
            ],
            "codecs": [
                {"spec": spec, "sizes": sizes, "metadata": metadata.get(spec, 0)}
                for spec, sizes in raw["sizes"].items()
            ],
        }
    )


def _saved_times(facts: Mapping[str, Any]) -> dict[str, Time]:
    return {
        codec["spec"]: Time(Estimate(codec["put_us"] or 0.0, 0), Estimate(codec["get_us"] or 0.0, 0))
        for codec in facts["total"]["codecs"]
    }


# ---- flash ----

_WRITE = r"""
program=$1 file=$2/zcache-tune-$$
trap 'rm -f "$file"' EXIT
now() { read -r up _ </proc/uptime; echo "$up"; }
[ -d "$2" ] && [ -w "$2" ] || { echo "$2: no directory that may be written to" >&2; exit 1; }
start=$(now)
i=0
while [ $i -lt 16 ]; do cat "$program"; i=$((i + 1)); done | dd of="$file" bs=1M conv=fsync 2>/dev/null || exit 1
end=$(now)
echo "$start $end $(wc -c <"$file")"
"""


def measure_flash(daemon: Daemon, path: str) -> float:
    """MB/s at which `path`'s medium is written, 16 copies of our program and a sync."""
    done = daemon.run(["sh", "-c", _WRITE, "sh", daemon.program, path])
    words = done.text.split()
    if done.code != 0 or len(words) != 3:
        raise Refused(
            f"--scratch {path}: it cannot be written to: {done.complaint}",
            name="no_scratch",
            hint="name a directory on the device's flash",
        )
    seconds = max(float(words[1]) - float(words[0]), 0.01)
    return round(int(words[2]) / seconds / 1e6, 1)
