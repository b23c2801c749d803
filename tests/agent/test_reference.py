# SPDX-License-Identifier: Apache-2.0
"""docs/reference.md is what zcached says of itself, and man pages have every command, option and variable."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from tests.support import ROOT
from tools import manpages, reference
from zcache_agent.cli import COMMANDS, zcache
from zcache_agent.control import Description

AGENT = ROOT / "agent" / "zcache_agent"
SOURCES = sorted(AGENT.rglob("*.py"))


def test_the_reference_is_up_to_date() -> None:
    committed = reference.FILE.read_text()
    made = reference.document(*reference.described(), reference.noted(committed))
    assert committed == made, "make docs writes it anew"


def test_a_new_node_gets_its_version_and_old_ones_keep_theirs() -> None:
    old = Description("pools/NAME/params/old", "uint", "rw", "pages", "1|2", "1", "an old one")
    new = Description("pools/NAME/params/new", "uint", "r", "", "", "", "a new one")
    first = reference.document("0.1.0", [old], {})
    assert "| `old` | rw | pages | 1\\|2 | 1 | an old one | 0.1.0 |" in first
    second = reference.document("0.2.0", [new, old], reference.noted(first))
    assert reference.noted(second) == {old.path: "0.1.0", new.path: "0.2.0"}
    with pytest.raises(SystemExit, match="elsewhere"):
        reference.document("0.1.0", [Description("elsewhere/x", "uint", "r", "", "", "", "")], {})


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("man")
    manpages.main(made)
    return made


@cache
def rendered(page: Path) -> str:
    """As man shows it, on lines that do not end."""
    shown = subprocess.run(["mandoc", "-T", "utf8", "-O", "width=1000", page], capture_output=True, check=True)
    return re.sub(".\b", "", shown.stdout.decode())


def groups(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name, child in command.commands.items():
        yield from groups(child, f"{path} {name}")


def test_every_command_and_option_of_zcache_is_in_its_page(directory: Path) -> None:
    page = rendered(directory / "zcache.1")
    sections = dict(re.findall(r"^   (zcache [a-z -]*[a-z])\b.*\n((?:\n|    .*\n)*)", page, re.MULTILINE))
    context = click.Context(zcache)
    for name in COMMANDS:
        command = zcache.get_command(context, name)
        assert command is not None
        for path, leaf in groups(command, f"zcache {name}"):
            assert path in sections, path
            assert leaf.help, f"{path} has no help"
            for option in (param for param in leaf.params if isinstance(param, click.Option)):
                assert option.help, f"{path} {option.opts}: no help"
                where = page if option.name in manpages.COMMON else sections[path]
                assert all(word in where for word in option.opts), (path, option.opts)


def test_every_command_and_option_of_zcached_is_in_its_page(directory: Path) -> None:
    page = rendered(directory / "zcached.8")
    source = (ROOT / "native/zcached/main.c").read_text()
    options = re.findall(r'\{"([a-z-]+)", (?:no|required)_argument', source)
    commands = re.findall(r'strcmp\(command, "([a-z]+)"\)', source)
    assert len(options) > 10
    assert len(commands) > 8
    assert [name for name in options if f"--{name}" not in page] == []
    assert [name for name in commands if name != "help" and not re.search(rf"^ +(zcached )?{name}\b", page, re.M)] == []


def test_every_variable_and_exit_code_is_in_the_page(directory: Path) -> None:
    text = "".join(path.read_text() for path in SOURCES)
    read = re.findall(r'environ(?:\.get\(|\[)"([A-Z_]+)"|"([A-Z_]+)" in os\.environ', text)
    read += [(name, "") for name in re.findall(r'"(ZCACHE_[A-Z_]+)"', text)]
    variables = {name for names in read for name in names if name} - {"TERM", "COMP_WORDS", "COMP_CWORD"}
    codes = re.findall(r"(?:exit_code|EXIT_[A-Z_]+) = (\d+)", text)
    assert "ZCACHE_SERIAL" in variables
    assert {"3", "130"} <= set(codes)
    assert variables == set(manpages.ENVIRONMENT)
    assert {"0", *codes} == set(manpages.EXIT_CODES)
    page = rendered(directory / "zcache.1")
    assert [name for name in variables if name not in page] == []


@pytest.mark.parametrize("name", ["zcache.1", "zcached.8"])
def test_pages_are_clean(directory: Path, name: str) -> None:
    linted = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", directory / name], capture_output=True, text=True)
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")
