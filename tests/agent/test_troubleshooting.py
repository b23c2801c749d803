# SPDX-License-Identifier: Apache-2.0
"""docs/troubleshooting.md has every error that the agent raises by name, every exit code and errno."""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from functools import cache

import zcache_agent
from tests.support import ROOT
from tools import manpages
from zcache_agent.errors import ZcacheError
from zcache_agent.transport.adb import STATE_HINTS

AGENT = ROOT / "agent" / "zcache_agent"
TEXT = (ROOT / "docs" / "troubleshooting.md").read_text()
FIRST_COLUMNS = " ".join(line.split(" | ")[0] for line in TEXT.splitlines() if line.startswith("| "))


@cache
def kinds() -> dict[str, type[ZcacheError]]:
    """Every class of errors, by its name."""
    for module in pkgutil.walk_packages(zcache_agent.__path__, "zcache_agent."):
        importlib.import_module(module.name)

    def below(kind: type[ZcacheError]) -> Iterator[type[ZcacheError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from below(child)

    return {kind.__name__: kind for kind in below(ZcacheError)}


def raised() -> Iterator[tuple[str, str]]:
    """Each name that an error is made with, and where."""
    for path in sorted(AGENT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in kinds():
                continue
            for keyword in node.keywords:
                for constant in ast.walk(keyword.value) if keyword.arg == "name" else ():
                    if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                        yield constant.value, f"{path.name}:{node.lineno}"


def is_there(name: str) -> bool:
    return f"`{name}`" in FIRST_COLUMNS


def test_every_name_of_an_error_is_explained() -> None:
    found = list(raised())
    assert len(found) > 50
    assert {"ambiguous_device", "EBUSY", "pages_held"} <= {name for name, _ in found}
    assert [(name, where) for name, where in found if not is_there(name)] == []


def test_every_kind_and_state_is_explained() -> None:
    assert {"Usage", "DeployFailed", "BadRecord"} <= set(kinds())
    assert [kind for kind in kinds().values() if not is_there(kind.default_name)] == []
    assert [state for state in STATE_HINTS if not is_there(state)] == []


def test_nothing_is_explained_that_there_is_not() -> None:
    names = {name for name, _ in raised()} | {kind.default_name for kind in kinds().values()} | set(STATE_HINTS)
    tables = re.findall(r"^\| name \|.*\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    rows = [line.split(" | ")[0] for table in tables for line in table.splitlines()]
    explained = {name for row in rows for name in re.findall(r"`([a-z_ ]+)`", row)} - {"undone"}
    assert len(explained) > 20
    assert explained <= names


def test_every_exit_code_is_explained() -> None:
    assert [code for code in manpages.EXIT_CODES if not is_there(code)] == []


def test_every_errno_of_the_protocol_is_explained() -> None:
    answers = (ROOT / "docs" / "protocol.md").read_text().partition("NAME\nbeing an errno's")[2].partition("\n\n")[0]
    names = set(re.findall(r"`(E[A-Z0-9]+)`", answers)) - {"EOPNOTSUPP"}  # in C's other name, ENOTSUP
    assert len(names) > 10
    assert [name for name in names if not is_there(name)] == []
