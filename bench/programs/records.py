# SPDX-License-Identifier: Apache-2.0
"""python -m bench.programs.records: a script with records in memory.

It says "ready", and for each line of its input with a number it serves so many requests and says "done".
"""

import json
import random
import sys
from typing import Any

from .prose import words

COUNT = 60_000
SKEW = 7
"""Half of the requests are for a 128th of the records."""


def record(number: int, rng: random.Random, names: list[str]) -> dict[str, Any]:
    lines = [{"sku": f"{rng.choice(names)}-{rng.randrange(1000)}", "cents": rng.randrange(9999)} for _ in range(3)]
    return {
        "id": number,
        "name": rng.choice(names),
        "at": number / 7,
        "lines": lines,
        "note": " ".join(rng.sample(names, 5)),
    }


def main() -> None:
    rng, names = random.Random(7), words()  # noqa: S311 the same records every time
    records = [record(number, rng, names) for number in range(COUNT)]
    by_name: dict[str, list[int]] = {}
    for made in records:
        by_name.setdefault(made["name"], []).append(made["id"])
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range(int(line)):
            number = int(COUNT * rng.random() ** SKEW)
            records[number] = json.loads(json.dumps(records[number])) | {"at": rng.random()}
        print("done", flush=True)


if __name__ == "__main__":
    main()
