# SPDX-License-Identifier: Apache-2.0
"""The commands of README and docs/: which there are, where they run, and whether what is shown comes out.

A fenced block is `console`, commands after `$ ` and what they print, or `sh`, commands alone. Behind that may stand
where it runs, an emulated device: `console arm64`. Without, `console` runs on this machine, and `sh` not at all.
Commands of one file and place run in order in one shell. Numbers, bars, paths and spacing may differ, and a line of `…`
stands for any lines; every other line must come out, in this order.
"""

import os
import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HERE = "local"
NOWHERE = ""
_BLOCK = re.compile(r"^```(console|sh)(?: ([\w-]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^ {4}((?:zcache|make|python) .*)$", re.MULTILINE)
_NUMBER = re.compile(r"[0-9a-f]*\d[\d.,]*[0-9a-f]*")
_BAR = re.compile(r"[█▏▎▍▌▋▊▉]+")
_PATH = re.compile(r"(/[\w.-]+)+")
_MARK = "--- end of command"


@dataclass
class Command:
    text: str
    place: str
    shown: list[str] = field(default_factory=list)

    @property
    def plain(self) -> str:
        """Without a comment."""
        return re.sub(r"\s+# .*", "", self.text).strip()


def commands(document: Path) -> list[Command]:
    text = document.read_text()
    found = [Command(line, NOWHERE) for line in _INDENTED.findall(text)]
    for language, place, block in _BLOCK.findall(text):
        if language == "sh":
            lines = [line for line in block.splitlines() if line and not line.startswith("#")]
            found += [Command(line, place) for line in lines]
            continue
        assert block.startswith("$ "), f"{document.name}: a block begins without a command"
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Command(line[2:], place or HERE))
            else:
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


def environment(directory: Path, extra: Mapping[str, str]) -> dict[str, str]:
    mine = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ZCACHE_DIR": str(directory / "zcache"),
        "HOME": str(directory),
        "COLUMNS": "200",
    }
    others = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # few readers have it
    return {**others, **mine, **extra}


def run(text: str, environment: Mapping[str, str], directory: Path) -> str:
    """What a script printed. Its limit is no expectation: it keeps what hangs from hanging on."""
    shell = ["bash", "-c", text]
    ran = subprocess.run(shell, cwd=directory, env=environment, stdout=subprocess.PIPE, text=True, timeout=480)
    return ran.stdout


def show(document: Path, place: str, leave_out: Collection[str], directory: Path, **extra: str) -> None:
    """Runs a document's commands of a place, and holds what they print against what is shown."""
    mine = [command for command in commands(document) if command.place == place and command.plain not in leave_out]
    script = "\n".join(f"{{ {command.text}\n}} 2>&1\necho '{_MARK}' $?" for command in mine)
    variables = environment(directory, extra)
    try:
        came = run(script, variables, directory)
    finally:
        run("zcache down --force", {"ZCACHE_SERIAL": HERE, **variables}, directory)
    parts = re.split(rf"^{_MARK} (\d+)\n", came, flags=re.MULTILINE)
    assert len(parts) == 2 * len(mine) + 1, came
    for command, output, code in zip(mine, parts[::2], parts[1::2], strict=False):
        assert code == "0", f"{document.name}: $ {command.text}\n{output}"
        absent = missing(command.shown, output.splitlines())
        assert absent is None, f"{document.name}: $ {command.text}\nhas no line like\n{absent}\nin\n{output}"
