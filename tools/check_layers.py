# SPDX-License-Identifier: Apache-2.0
"""Check from the includes of native/ that calls go down only.

Each layer is a folder. Its contract is one header, LAYER/LAYER.h (base has several small ones);
its other headers are its own. The public headers belong to the layers that implement them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

NATIVE = Path("native")

# layer → the layers whose contract it may use
EDGES = {
    "base": set[str](),
    "frame": {"base"},
    "codec": {"base"},
    "alloc": {"base", "frame"},
    "backing": {"base", "frame"},
    "store": {"base", "alloc", "frame", "codec", "backing"},
    "heap": {"base", "store"},
    "control": {"base"},
    "zcached": {"base", "store", "control"},
    "line": {"base"},
    "sim": {"base", "codec", "store", "control"},
}
# headers that are a layer's own, but for these: the simulated codec is one that no daemon has
SHARED = {"codec/kind.h": {"sim"}}
# folders of one layer that know nothing of each other
APART = {"zcached/block": "zcached/commands", "zcached/commands": "zcached/block"}
# public header → the layer it is the contract of; whoever may use that layer may include it
PUBLIC = {
    "zcache/store.h": "store",
    "zcache/heap.h": "heap",
    "zcache/proto.h": "zcached",
}
THIRD_PARTY = {"lz4.h": "codec", "liburing.h": "zcached", "minilzo.h": "codec", "xxhash.h": "base", "zstd.h": "codec"}

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')


def refusal(layer: str, include: str) -> str | None:
    """Why a file of this layer may not include that header."""
    if include in THIRD_PARTY:
        owner = THIRD_PARTY[include]
        return None if layer == owner else f"only {owner} may use it"
    if include in PUBLIC:
        owner = PUBLIC[include]
        allowed = layer == owner or owner in EDGES[layer]
        return None if allowed else f"it is {owner}'s contract, and {layer} may not use {owner}"
    if ".." in include:
        return "include from native/ on: LAYER/HEADER.h"
    if not (NATIVE / include).exists():
        return None  # the system's, or a neighbour in the same folder
    owner, _, header = include.partition("/")
    if owner == layer:
        return None
    if owner not in EDGES[layer]:
        return f"{layer} may use {', '.join(sorted(EDGES[layer])) or 'no layer'}, not {owner}"
    if layer in SHARED.get(include, set()):
        return None
    if owner != "base" and header != f"{owner}.h":
        return f"it is private to {owner}, whose contract is {owner}/{owner}.h"
    return None


def between(file: Path, include: str) -> str | None:
    """Why a file of this folder may not include that header of its own layer."""
    folder = file.parent.relative_to(NATIVE).as_posix()
    other = APART.get(folder)
    return f"{folder} and {other} know nothing of each other" if other == Path(include).parent.as_posix() else None


def check(file: Path) -> list[str]:
    layer = file.relative_to(NATIVE).parts[0]
    if layer not in EDGES:
        return [f"{file}: no layer is named {layer}"]
    faults = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        match = INCLUDE.match(line)
        if match and (why := refusal(layer, match[1]) or between(file, match[1])):
            faults.append(f"{file}:{number}: includes {match[1]}: {why}")
    return faults


def main() -> int:
    files = set(NATIVE.rglob("*.[ch]")) - set((NATIVE / "include").rglob("*"))
    faults = [fault for file in sorted(files) for fault in check(file)]
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
