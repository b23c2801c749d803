# SPDX-License-Identifier: Apache-2.0
"""The report: what is in it, what must not be, and documents that are none."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from tests.agent.conftest import ZCACHE, Result, Zcache, fails
from tests.agent.test_gather import PHONE
from zcache_agent.control import Description
from zcache_agent.errors import Usage
from zcache_agent.frontier import Estimate, Frontier, Point
from zcache_agent.gather import Moment
from zcache_agent.kernelstats import parse
from zcache_agent.report import Document, Facts, Material, Series, load, plots
from zcache_agent.report.html import text
from zcache_agent.report.sections import render

Local = Callable[..., Result]
_VOID = {"meta", "br"}


class Page(HTMLParser):
    """The elements and texts of a page whose tags are balanced."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def pictures(self) -> list[str]:
        return [str(attributes["aria-label"]) for tag, attributes in self.elements if tag == "svg"]

    @property
    def titles(self) -> list[str]:
        return [str(attributes["id"]) for tag, attributes in self.elements if tag == "section"]


def check_self_contained(page: str) -> Page:
    """It asks for nothing, runs nothing, and each id is there once."""
    read = Page(page)
    assert "://" not in page
    assert "@import" not in page
    assert not {tag for tag, _ in read.elements} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "base",
        "form",
        "image",
    }
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in read.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "src"]
        reference = attributes.get("href")
        assert reference is None or (reference.startswith("#") and reference[1:] in ids), reference
    return read


# ---- of this machine ----


@pytest.fixture
def filled(local_daemon: Local, tmp_path: Path) -> Local:
    dump = tmp_path / "dump"
    dump.write_bytes(b"".join(bytes(4096) + os.urandom(2048) + bytes(2048) + os.urandom(4096) for _ in range(10)))
    made = local_daemon("pool", "create", "backed", "--backing", tmp_path / "back", "--backing-size", "8M")
    assert made.code == 0, made.err
    local_daemon("pool", "create", "swap")
    local_daemon("replay", dump, "--pool", "swap", "--keep")
    return local_daemon


def test_a_report(filled: Local, tmp_path: Path) -> None:
    saved, first, second = (tmp_path / name for name in ("before.json", "first.html", "second.html"))
    result = filled("report", first, "--save", saved, "--json")
    assert result.json == {"file": str(first), "saved": str(saved)}
    read = check_self_contained(first.read_text())
    assert read.titles == ["memory", "refusals", "sizes", "kernel", "device", "settings", "statistics"]
    assert len(read.pictures) == 3
    for words in ("Of 30 puts, 10 were refused (33.3 %).", "compress_poor zpage larger than zv_max_zsize",
                  "pools/swap/params/zv_max_zsize 3584", "swap persistent zbud lz4 20", "MemTotal",
                  "pools over the sockets yes"):  # fmt: skip
        assert words in read.text, words

    filled("set", "pools/swap/params/zv_max_zsize", "1/4")
    filled("replay", tmp_path / "dump", "--pool", "swap")
    assert filled("report", second, "--before", saved, "--for", "0.6s", "--interval", 0.2).out == f"wrote {second}\n"
    read = check_self_contained(second.read_text())
    assert read.titles[0] == "change"
    assert "pools/swap/params/zv_max_zsize 3584 1024 a zpage larger" in read.text
    assert "refused puts 33.3 % 50.0 %" in read.text
    assert "time" in read.titles
    assert re.search(r" [2-4] samples in ", read.text)
    for page in (first, second):
        assert str(tmp_path) not in page.read_text()
        assert str(Path.home()) not in page.read_text()


def test_equal_facts_make_equal_bytes(filled: Local, tmp_path: Path) -> None:
    saved, lines = tmp_path / "saved.json", tmp_path / "lines"
    filled("report", tmp_path / "x.html", "--save", saved)
    lines.write_text("".join(json.dumps(sample) + "\n" for sample in SAMPLES))
    pages = []
    for name in ("a.html", "b.html"):
        made = filled("report", tmp_path / name, "--after", saved, "--before", saved, "--with", lines)
        assert made.code == 0, made.err
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]
    assert check_self_contained(pages[0].decode()).titles[:2] == ["change", "memory"]


def test_lines_of_a_watch_are_drawn(filled: Local, zcache: Zcache, tmp_path: Path) -> None:
    watch = zcache.start("-s", "local", "stats", "-w", "0.1", "--json")
    assert watch.stdout
    lines = "".join(watch.stdout.readline() for _ in range(3))
    watch.kill()
    watch.communicate()
    (tmp_path / "lines").write_text(lines)
    assert zcache("report", tmp_path / "r.html", "--with", tmp_path / "lines").code == 0, "no device is needed"
    read = check_self_contained((tmp_path / "r.html").read_text())
    assert read.titles == ["time"]
    assert "3 samples in" in read.text


def test_an_analysis_is_shown(local_daemon: Local, tmp_path: Path) -> None:
    analysis, dump = tmp_path / "analysis.json", tmp_path / "dump"
    dump.write_bytes(b"".join(bytes([page]) * 2048 + os.urandom(2048) for page in range(60)))
    assert local_daemon("analyze", dump, "--save", analysis).code == 0
    made = local_daemon("report", tmp_path / "r.html", "--with", analysis, "--before", analysis)
    assert made.code == 0, made.err
    read = check_self_contained((tmp_path / "r.html").read_text())
    assert {"pages0", "pages1"} <= set(read.titles)
    assert "60 of 60 pages (dump)" in read.text
    fails(local_daemon("report", tmp_path / "r.html", "--with", analysis, "--with", analysis), 2, "second analysis")


def test_without_a_daemon_the_device_is_shown(zcache: Zcache, tmp_path: Path) -> None:
    assert zcache("-s", "local", "report", tmp_path / "r.html").code == 0
    read = check_self_contained((tmp_path / "r.html").read_text())
    assert "no daemon runs" in read.text
    assert read.titles == ["kernel", "device"]


def test_no_device(zcache: Zcache, tmp_path: Path) -> None:
    fails(zcache("report", tmp_path / "r.html"), 3, "no device")
    assert not (tmp_path / "r.html").exists()


def test_a_full_disk(filled: Local, zcache: Zcache, tmp_path: Path) -> None:
    """/dev/full is one; elsewhere a limit of this process's ends the write in the middle."""
    fails(filled("report", "/dev/full"), 2, "/dev/full: No space left on device")
    fails(filled("report", tmp_path / "r.html", "--save", "/dev/full"), 2, "/dev/full: No space left on device")
    target = tmp_path / "old.html"
    target.write_text("old")
    ran = subprocess.run(
        [ZCACHE, "-s", "local", "report", str(target)],
        capture_output=True, text=True, timeout=120, env=zcache.environment, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
    )  # fmt: skip
    fails(Result(ran.returncode, ran.stdout, ran.stderr), 2, "old.html: File too large")
    assert target.read_text() == "old"
    assert not list(tmp_path.glob(".old.html*"))


def test_wrong_usage(zcache: Zcache, tmp_path: Path) -> None:
    for words in (("--for", "0s"), ("--for", "x"), ("--for", "1d"), ("--interval", 0)):
        fails(zcache("-s", "local", "report", tmp_path / "r.html", *words), 2, str(words[1]))
    fails(zcache("-s", "local", "report", "--for", "1000h"), 2, "--interval")
    fails(zcache("-s", "local", "report", "--after", "x", "--for", "1s"), 2, "--after")
    fails(zcache("-s", "local", "report", tmp_path), 2, str(tmp_path))


# ---- documents ----

SAMPLES: list[dict[str, int | float | str]] = [
    {
        "time": 1000.0 + second,
        "stats/used_bytes": 1 << 20 << second,
        "pools/p/stats/puts": 1000 * second**2,
        "pools/p/stats/compress_poor": 10 * second,
        "pools/p/stats/wear_evicted": second << 20,
        "stats/pressure_source": "psi",
        "pressure/memory/some": 1.5,
    }
    for second in range(4)
]
FRONTIER = Frontier(
    (
        Point({"codec": "lz4"}, Estimate(3e8, 4e6), Estimate(9, 0.5), Estimate(0)),
        Point({"codec": "zstd:1", "writeback_after": 60}, Estimate(2e8), Estimate(16), Estimate(5e7, 1e6), True),
    ),
    goal="balanced",
    measured_on="20000 pages",
    why="It saves 95 MiB.",
)


def test_a_frontier_is_shown() -> None:
    page = render(Material(frontier=Frontier.from_json(json.loads(json.dumps(FRONTIER.as_json())))))
    read = check_self_contained(page)
    assert read.titles == ["frontier"]
    for words in ("Goal: balanced.", "It saves 95 MiB.", "286.10 ± 3.81", "codec=zstd:1 writeback_after=60",
                  "47.68 ± 0.95 recommended"):  # fmt: skip
        assert words in read.text, words
    assert any(attributes.get("class") == "chosen" for tag, attributes in read.elements if tag == "tr")


def test_a_frontier_has_numbers_for_estimates_too() -> None:
    facts: dict[str, Any] = {"points": [{"settings": {}, "memory_bytes": 5, "cpu_us_per_page": {"value": 2.5}}]}
    (point,) = Frontier.from_json(facts).points
    assert (point.memory_bytes, point.cpu_us_per_page, point.flash_bytes) == (Estimate(5), Estimate(2.5), Estimate(0))
    wrongs: list[object] = [None, "5", True, float("nan"), {"value": 1, "error": -1}, {"error": 1}, []]
    for wrong in wrongs:
        with pytest.raises(Usage, match="no frontier"):
            Frontier.from_json({"points": [{**facts["points"][0], "memory_bytes": wrong}]})
    nothings: list[dict[str, Any]] = [{}, {"points": 3}, {"points": [3]}, {"points": [{}]}]
    for nothing in nothings:
        with pytest.raises(Usage, match="no frontier"):
            Frontier.from_json(nothing)


def test_samples_without_times_and_with_a_restart() -> None:
    samples = [{name: value for name, value in sample.items() if name != "time"} for sample in SAMPLES]
    samples[2]["pools/p/stats/puts"] = 0
    read = check_self_contained(render(Material(series=Series(samples))))
    assert "4 samples, of unknown times." in read.text
    assert "number of the sample" in read.text


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b'{"format": 1}', b'{"format": "zcache-moment-1"}',
        b'{"format": "zcache-frontier-9", "points": []}', b'{"a": 1}\n[1]\n', b'{"a": 1}\n{',
        b'{"format": 1, "total": {"codecs": [{}]}}', b'{"format": 1, "total": 7}',
        b'{"format": "zcache-moment-1", "agent": "1", "doctor": {}, "descriptions": [], "problem": "", "moment":'
        b' {"time": 1, "serial": "x", "values": {"a": []}, "histograms": {}, "kernel": null}}',
    ],
)  # fmt: skip
def test_what_is_no_document_is_refused(content: bytes, tmp_path: Path, zcache: Zcache) -> None:
    file = tmp_path / "document"
    file.write_bytes(content)
    with pytest.raises(Usage, match="document"):
        load(file)
    if content in (b"", b'{"format": 1, "total": 7}'):
        fails(zcache("report", tmp_path / "r.html", "--with", file), 2, str(file), "analyze --save")


def _leaves(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401
    """The paths of all that is in a document, containers too; of a list, that of the first element."""
    yield path
    children = list(document.items()) if isinstance(document, dict) else []
    children += list(enumerate(document))[:1] if isinstance(document, list) else []
    for name, child in children:
        yield from _leaves(child, (*path, name))


def test_a_document_with_anything_in_the_place_of_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, or a report can be made of it."""
    monkeypatch.setattr(plots, "_draw", lambda name, label, height, paint: str(paint(Figure()) or ""))
    file = tmp_path / "document"
    wrongs: list[object] = [None, "x", -1.5, float("nan"), []]
    refused = made = 0
    for whole in (hostile("x").as_json(), analysis("x"), FRONTIER.as_json(), SAMPLES[1]):
        for number, path in enumerate(list(_leaves(json.loads(json.dumps(whole))))[1:]):
            for wrong in (wrongs[number % 5], wrongs[(number + 2) % 5]):  # all of them take too long
                document = json.loads(json.dumps(whole))
                place = document
                for name in path[:-1]:
                    place = place[name]
                place[path[-1]] = wrong
                file.write_text(json.dumps(document))
                try:
                    found = load(file)
                except Usage:
                    refused += 1
                    continue
                made += 1
                render(_material(found))
    assert refused > 100
    assert made > 50


def _material(found: Document) -> Material:
    if isinstance(found, Facts):
        return Material(found, found)
    if isinstance(found, Series):
        return Material(series=Series([SAMPLES[0], *found.samples]))
    return Material(frontier=found) if isinstance(found, Frontier) else Material(analyses=[found])


def test_documents_in_the_wrong_place(zcache: Zcache, tmp_path: Path) -> None:
    frontier, moment, page = tmp_path / "frontier", tmp_path / "moment", tmp_path / "r.html"
    frontier.write_text(json.dumps(FRONTIER.as_json()))
    moment.write_text(json.dumps(hostile("x").as_json()))
    fails(zcache("report", page, "--before", frontier), 2, "--before")
    fails(zcache("report", page, "--after", frontier), 2, "--after")
    fails(zcache("report", page, "--with", moment), 2, "--before")
    fails(zcache("report", page, "--with", frontier, "--with", frontier), 2, "second")
    fails(zcache("report", page, "--with", tmp_path / "nope"), 2, "nope")
    fails(zcache("report", page, "--with", tmp_path), 2, str(tmp_path))
    assert not page.exists()
    assert zcache("report", page, "--with", frontier).code == 0


# ---- hostile texts ----

NASTY = [
    "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> --> ]]> </style><svg onload=a> a&amp;b &lt;",
    '$x^2$ \\frac{ %s {0} url(#x) #010101 id="a" 漢字🙂',
    "\x1b[31m\x00\u202e\n",
    "",
]


def hostile(name: str) -> Facts:
    """Of a device where everything that can be named is named so."""
    pool = name.replace("/", "")
    values: dict[str, int | float | str] = {
        "page_size": 4096, "uptime_ms": 5, "version": name, "stats/used_bytes": 9000, "stats/limit_bytes": 90000,
        "stats/frames": 2, f"pools/{pool}/stats/puts": 9, f"pools/{pool}/stats/compress_poor": 3,
        f"pools/{pool}/stats/frames": 2, f"pools/{pool}/stats/zpages": 4, f"pools/{pool}/stats/used_bytes": 9000,
        f"pools/{pool}/codec": name, f"pools/{pool}/kind": name, f"pools/{pool}/params/cold_codec": name,
    }  # fmt: skip
    kernel = parse(iter(PHONE.replace("zram0", "zram0" + pool).replace("[lz4]", f"[{name}]").splitlines()))
    doctor = {
        "device": {"serial": name, "model": name, "abis": [name], "mem_total": 5, "selinux": None, "psi": True},
        "uses": [{"name": name, "allowed": False, "why": name, "change": name}],
    }
    nodes = [Description("pools/NAME/params/cold_codec", "text", "rw", name, name, name, name)]
    histograms = {pool: [[64 * bucket, bucket % 5] for bucket in range(1, 65)]}
    return Facts(Moment(1.0, 1e9, name, values, histograms, kernel), doctor, nodes, agent=name, problem=name)


def analysis(name: str) -> dict[str, Any]:
    estimate = {"value": 3, "error": 1}
    used = {"used_bytes": 1 << 20, "error": 1000}
    codec = {
        "spec": name, "ratio": 2.5, "put_us": None, "get_us": 1.0, "histogram": [[64 * n, n] for n in range(1, 65)],
        "zbud": used, "zsmalloc": used, "zram": used,
    }  # fmt: skip
    process = {
        "pid": 1, "name": name, "anonymous_bytes": 4096, "swapped_bytes": 0, "sampled": 5, "pages": 7, "codecs": [codec]
    }  # fmt: skip
    total = {"pages": 9, "sampled": 5, "same_filled": estimate, "duplicates": estimate, "codecs": [codec]}
    return {"format": 1, "page_size": 4096, "kind": name, "total": total, "processes": [process]}


@pytest.mark.parametrize("name", NASTY)
def test_hostile_texts_are_text(name: str) -> None:
    point = Point({name: name}, Estimate(1), Estimate(2), Estimate(3))
    frontier = Frontier((point,), goal=name, measured_on=name, why=name)
    series = Series([{**sample, f"pools/{name}/stats/puts": 5} for sample in SAMPLES])
    page = render(Material(hostile(name), hostile(name), series, [analysis(name), analysis(name)], frontier))
    read = check_self_contained(page)
    assert len(read.pictures) == 9
    assert not [char for char in page if not char.isprintable() and char != "\n"]
    seen = " ".join(name.split())
    if name.isprintable() and "/" not in name:
        assert read.text.count(seen) > 10
    assert "<script" not in page


def test_directories_of_this_machine_are_left_out() -> None:
    assert text("path=/home/me/x.store size=1") == "path=…/x.store size=1"
    assert text("local:/tmp/dir/zcache") == "local:…/zcache"
    assert text("/a/b") == "…/b"
    assert text("no 1/2 and/or 7/8") == "no 1/2 and/or 7/8"
    for kept in ("/dev/block/loop7", "/sys/module/zswap/parameters/enabled", "/proc/swaps", "20 %/s"):
        assert text(kept) == kept
