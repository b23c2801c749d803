# SPDX-License-Identifier: Apache-2.0
"""python -m bench: measure; write build/bench.json, and from it docs/benchmarks.md and docs/zpage-sizes.png."""

import json
import signal
import sys
from pathlib import Path

from bench.corpora import corpora
from bench.errors import BenchError
from bench.picture import draw
from bench.report import render
from bench.sections import measured, say

RESULT, DOCUMENT, PICTURE = Path("build/bench.json"), Path("docs/benchmarks.md"), Path("docs/zpage-sizes.png")


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):  # so that nothing started here stays behind
        signal.signal(number, lambda caught, _: sys.exit(128 + caught))
    try:
        facts = measured(corpora())
    except BenchError as error:
        say(str(error))
        return 1
    RESULT.write_text(json.dumps(facts, indent=1) + "\n")
    DOCUMENT.write_text(render(facts))
    draw(facts["sizes"], PICTURE)
    say(f"{RESULT}, {DOCUMENT} and {PICTURE} are written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
