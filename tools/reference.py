# SPDX-License-Identifier: Apache-2.0
"""Writes docs/reference.md from what a daemon of this build says of its nodes: python -m tools.reference

A node that the file has already keeps its `since`; a new one gets this version.
"""

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from zcache_agent.control import Description
from zcache_agent.daemon import find
from zcache_agent.deploy import Options, down, up
from zcache_agent.transport.local import LocalTransport

FILE = Path(__file__).parent.parent / "docs" / "reference.md"

HEAD = """\
# Reference: every node of the control tree

Made by `make docs` from what `zcached` says of itself (`describe`, see [protocol.md](protocol.md)); a test holds it
up to date. `zcache ls` walks the tree, `zcache params` and `zcache stats` show values.

| access | |
|---|---|
| `r` | `zcache cat PATH` shows it |
| `rw` | `zcache set PATH VALUE` changes it as well, at once |
| `w` | an action: setting it does something; mostly there is a command for it |

Sizes are taken as bytes or as `64M`, and shown as bytes. Counters count from the start of the daemon, or of the pool;
what *is held* goes both ways. Parameters last as long as the daemon or the pool: `zcache config apply` brings them
back ([config.md](config.md)). *Since* is the version of zcached that had it first.
"""

SECTIONS = {
    "": ("The root", ""),
    "daemon": ("The daemon", ""),
    "params": ("Parameters of the store", ""),
    "stats": ("Statistics of the store", ""),
    "pools": ("Making a pool", "`zcache pool create` does it."),
    "pools/NAME": ("A pool", "`zcache pool` has commands for these."),
    "pools/NAME/params": ("Parameters of a pool", ""),
    "pools/NAME/stats": (
        "Statistics of a pool",
        "All of one `dump` are of one instant: `puts` = `stored_puts` + all that are *refused*, at any moment.",
    ),
    "allocators/zsmalloc": ("Allocators", "[allocators.md](allocators.md) says what they mean."),
    "dictionaries": ("Dictionaries", "`zcache dictionary` trains, loads and removes them."),
    "dictionaries/ID": ("A dictionary", ""),
    "swap": ("The swap device", "`zcache swap`, see [swap.md](swap.md)."),
    "blockcache": ("The block cache", "`zcache blockcache`, see [blockcache.md](blockcache.md)."),
}
"""By directory: what it is called, and what is to be known of all its nodes. In the order of the file."""

_SINCE = re.compile(r"^\| `([^`]+)` .*\| (\S+) \|$")
_COLUMNS = ("node", "access", "unit", "range", "default", "meaning", "since")


def described() -> tuple[str, Sequence[Description]]:
    """Version and nodes of this build's daemon, which runs for it in a directory of its own."""
    directory = tempfile.mkdtemp(prefix="zcache-reference-")
    try:
        with LocalTransport(directory) as transport:
            up(transport, Options())
            try:
                with find(transport).control() as control:
                    return control.get("version"), control.describe()
            finally:
                down(transport, force=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def noted(text: str) -> dict[str, str]:
    """By path: since when it is there, as the file says."""
    since, directory = {}, ""
    for line in text.splitlines():
        if line.startswith("## "):
            directory = line.partition("`")[2].removesuffix("`").removesuffix("/")
        elif found := _SINCE.match(line):
            since[_path(directory, found[1])] = found[2]
    return since


def document(version: str, nodes: Sequence[Description], since: Mapping[str, str]) -> str:
    by_directory: dict[str, list[Description]] = {}
    for node in nodes:
        by_directory.setdefault(_directory(node), []).append(node)
    if unknown := set(by_directory) - set(SECTIONS):
        raise SystemExit(f"tools/reference.py: SECTIONS does not say what {', '.join(sorted(unknown))} is")
    parts = [HEAD]
    for directory, (title, text) in SECTIONS.items():
        parts.append(f"\n## {title}{f': `{directory}/`' if directory else ''}\n\n")
        parts.append(f"{text}\n\n" if text else "")
        parts.append(_table(version, by_directory.get(directory, []), since))
    return "".join(parts)


def _directory(node: Description) -> str:
    return node.path.rpartition("/")[0]


def _path(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _table(version: str, nodes: Sequence[Description], since: Mapping[str, str]) -> str:
    rows = [_row(node, since.get(node.path, version)) for node in nodes]
    wanted = [place for place in range(len(_COLUMNS)) if any(row[place] for row in rows)]
    lines = [_COLUMNS, ["---"] * len(_COLUMNS), *rows]
    return "".join(f"| {' | '.join(line[place] for place in wanted)} |\n" for line in lines)


def _row(node: Description, since: str) -> list[str]:
    texts = (node.access, node.unit, node.range, node.default, node.meaning.strip())
    return [f"`{node.path.rpartition('/')[2]}`", *(text.replace("|", "\\|") for text in texts), since]


def main() -> None:
    version, nodes = described()
    before = FILE.read_text() if FILE.exists() else ""
    FILE.write_text(document(version, nodes, noted(before)))


if __name__ == "__main__":
    main()
