# SPDX-License-Identifier: Apache-2.0
"""The `console` blocks of README and docs/ are run, and what they show must be what comes out.

Commands of one file run in order in one shell, on a daemon directory of the test's own. Numbers, bars, paths
and spacing may differ, and a line of `…` stands for any lines; every other line must come out, in this order.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"[0-9a-f]*\d[\d.,]*[0-9a-f]*")
_BAR = re.compile(r"[█▏▎▍▌▋▊▉]+")
_PATH = re.compile(r"(/[\w.-]+)+")
_MARK = "--- end of command"


@dataclass
class Command:
    text: str
    shown: list[str] = field(default_factory=list)


def commands(document: Path) -> list[Command]:
    found: list[Command] = []
    for block in _BLOCK.findall(document.read_text()):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Command(line[2:]))
            else:
                assert found, f"{document.name}: a block begins without a command"
                found[-1].shown.append(line)
    return found


def shape(line: str) -> str:
    """What of a line must be the same in another run."""
    line = _NUMBER.sub("0", _PATH.sub("/", _BAR.sub(" ", line)))
    line = re.sub(r"\b(KiB|MiB|GiB|B)\b", "B", line)
    # Elsewhere the files are others, and this may count some of the refusals.
    line = re.sub(",? mean_compress_poor 0", "", line)
    return " ".join(line.split())


def tells(line: str) -> bool:
    """A line of figures alone, as in a histogram, may be there or not."""
    return bool(re.search(r"[^\W\d_]", shape(line))) and line != "…"


def missing(shown: list[str], came: list[str]) -> str | None:
    """The first of the lines shown that did not come out after the one before."""
    rest = iter([shape(line) for line in came])
    for line in filter(tells, shown):
        if shape(line) not in rest:  # goes on to the one that is the same
            return line
    return None


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ZCACHE_DIR": str(tmp_path / "zcache"),
        "HOME": str(tmp_path),
        "COLUMNS": "200",
    }


def run(text: str, environment: dict[str, str], directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", text], cwd=directory, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_documents_show_comes_out(document: Path, environment: dict[str, str], tmp_path: Path) -> None:
    shown = commands(document)
    script = "\n".join(f"{command.text} 2>&1\necho '{_MARK}' $?" for command in shown)
    try:
        came = run(script, environment, tmp_path).stdout
    finally:
        run("zcache -s local down --force", environment, tmp_path)
    parts = re.split(rf"^{_MARK} (\d+)\n", came, flags=re.MULTILINE)
    assert len(parts) == 2 * len(shown) + 1, came
    for command, output, code in zip(shown, parts[::2], parts[1::2], strict=False):
        assert code == "0", f"{document.name}: $ {command.text}\n{output}"
        absent = missing(command.shown, output.splitlines())
        assert absent is None, f"{document.name}: $ {command.text}\nhas no line like\n{absent}\nin\n{output}"


def test_a_line_that_does_not_come_out_is_found() -> None:
    assert shape("1/8  3 %  █  compress_poor 4, mean_compress_poor 5") == shape("1/8  7 %  ██  compress_poor 9")
    came = ["pages  120  ██▌", "≤ 64  3", "ratio 2.13"]
    assert missing(["pages 7 █", "…", "≤ 128  9", "ratio 1.99"], came) is None
    assert missing(["ratio 1.99", "pages 7 █"], came) == "pages 7 █"
    assert missing(["stored 7"], came) == "stored 7"


def test_the_readme_has_something_to_run() -> None:
    assert any("replay" in command.text for command in commands(ROOT / "README.md"))
