# SPDX-License-Identifier: Apache-2.0
"""python -m tools.dist make FOLDER | verify FOLDER"""

import argparse
import sys
from pathlib import Path

from . import DistFailed, make, verify


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.dist", description="What a release is made of.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help_ in (
        ("make", "of the tree and what make build has built in it: wheel, source distribution, SBOM, checksums"),
        ("verify", "build all of it anew, out of its source distribution in another folder, and compare"),
    ):
        commands.add_parser(name, help=help_).add_argument("folder", type=Path)
    asked = parser.parse_args()
    try:
        (make if asked.command == "make" else verify)(asked.folder)
    except DistFailed as error:
        print(f"dist: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
