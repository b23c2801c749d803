# SPDX-License-Identifier: Apache-2.0
"""The module for Magisk, KernelSU and APatch: a zip that their apps install, the same bytes from the same files.

python -m tools.module OUT.zip
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from zcache_agent.binary import BUNDLED
from zcache_agent.install.kinds import module_files, read

ABIS = ("arm64-v8a", "armeabi-v7a", "x86_64")
_TIME = (1980, 1, 1, 0, 0, 0)
"""Of every file: the first that a zip can tell."""


def contents() -> Iterator[tuple[str, bytes, int]]:
    """Name, content and mode. The module's own files come first: managers look there."""
    for name, content in module_files().items():
        yield name, content, 0o755 if name.endswith((".sh", "update-binary")) else 0o644
    yield "zcached-service", read("zcached-service"), 0o755
    for abi in ABIS:
        yield f"bin/{abi}/zcached", (BUNDLED / abi / "zcached").read_bytes(), 0o755
    for path in (Path("LICENSE"), *sorted(Path("licenses").glob("*.txt"))):
        yield path.as_posix(), path.read_bytes(), 0o644


def write(out: Path) -> None:
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content, mode in contents():
            info = zipfile.ZipInfo(name, _TIME)
            info.create_system = 3  # Unix, on every host
            info.external_attr = (0o100000 | mode) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m tools.module OUT.zip", file=sys.stderr)
        return 2
    missing = [abi for abi in ABIS if not (BUNDLED / abi / "zcached").exists()]
    if missing:
        print(f"tools.module: no zcached for {', '.join(missing)}: make build", file=sys.stderr)
        return 1
    write(Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
