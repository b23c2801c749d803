# SPDX-License-Identifier: Apache-2.0
"""Check every file git knows: none large, none binary but pictures, none that names the machine it was made on."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

MAX_BYTES = 1 << 20

# This checkout and this user's home; package registries, which every machine configures itself.
# The dots are classes so that this file does not match itself.
REGISTRY = r"(pypi|pythonhosted|debian|npmjs)[.](org|net)"
LOCAL = [str(Path.cwd()), str(Path.home())]
FORBIDDEN = re.compile("|".join([REGISTRY, *(re.escape(path) + r"(?![\w.-])" for path in LOCAL)]))


def known_files() -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [path for name in names.split("\0") if name and (path := Path(name)).is_file()]


def check(path: Path) -> list[str]:
    content = path.read_bytes()
    if len(content) > MAX_BYTES:
        return [f"{path}: {len(content)} bytes; the most is {MAX_BYTES}"]
    if path.suffix == ".png":
        return []
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError:
        return [f"{path}: not UTF-8 text"]
    return [
        f"{path}:{number}: {match[0]}: say it without this machine's paths and hosts"
        for number, line in enumerate(lines, 1)
        if (match := FORBIDDEN.search(line))
    ]


def main() -> int:
    faults = [fault for path in known_files() for fault in check(path)]
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
