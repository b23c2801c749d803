# SPDX-License-Identifier: Apache-2.0
"""Write tests/traces anew: seeded operations with the answers of the host's driver, which agreed with the model.

.venv/bin/python -m tests.native.make_traces
"""

import random
from pathlib import Path

from tests.native.driver import Driver
from tests.native.model import Pool

TRACES = Path(__file__).parent.parent / "traces"
OPS = 400
SEEDS = {4096: [1, 2], 16384: [3, 4], 65536: [5]}


def main() -> None:
    for page_size, seeds in SEEDS.items():
        for seed in seeds:
            with Driver("host", page_size) as driver:
                _run(driver, page_size, random.Random(seed))
                lines = [f"{request}\n= {answer}\n" for request, answer in driver.log]
            (TRACES / f"{page_size}-{seed}.trace").write_text("".join(lines))


CODECS = ["lz4", "lz4:4", "zstd", "zstd:-3", "zstd:6", "none"]


def _run(driver: Driver, page_size: int, rand: random.Random) -> None:
    pools = {
        kind[0] + allocator[1]: Pool(page_size, kind == "ephemeral", allocator)
        for kind in ("persistent", "ephemeral")
        for allocator in ("zbud", "zsmalloc")
    }
    for name, model in pools.items():
        driver.ask("pool", name, "ephemeral" if model.ephemeral else "persistent", model.allocator)
    for _ in range(OPS):
        name = rand.choice([*pools])
        model, key = pools[name], (rand.randrange(3), rand.randrange(30))
        ops = ["put", "get", "peek", "flush", "flobj", "param", "codec", "compact", "reclaim"]
        match rand.choices(ops, [50, 20, 10, 10, 1, 3, 3, 2, 1])[0]:
            case "put":
                length = rand.choice([0, page_size // 8, page_size // 3, page_size // 2, page_size * 3 // 4, page_size])
                content = f"rand:{rand.randrange(50)}:{length}"
                answer = driver.ask("put", name, *key, content)
                assert answer == model.put(key, content, int(answer.split()[1]), "", inactive=False, over=None)
            case "get":
                assert driver.ask("get", name, *key) == model.get(key, peek=False)
            case "peek":
                assert driver.ask("peek", name, *key) == model.get(key, peek=True)
            case "flush":
                assert driver.ask("flush", name, *key) == model.flush(key)
            case "flobj":
                assert driver.ask("flobj", name, key[0]) == model.flush_object(key[0])
            case "param":
                which, eighths = rand.choice(["zv_max_zsize", "zv_max_mean_zsize"]), rand.randrange(3, 9)
                assert driver.ask("param", name, which, f"{eighths}/8") == "ok"
                model.params[which] = page_size * eighths // 8
            case "codec":
                assert driver.ask("codec", name, rand.choice(CODECS)) == "ok"
            case "compact":
                driver.ask("compact", name)
            case "reclaim":
                _reclaim(driver, name, model, rand.randrange(1, 9))
    for name in pools:
        driver.ask("stats", name)
        driver.ask("dist", name)
    assert driver.ask("check") == "ok"


def _reclaim(driver: Driver, name: str, model: Pool, share: int) -> None:
    """All there is: which of several frames is the coldest may hang on who shares it."""
    words = ["reclaim", name, 1000000] if model.ephemeral else ["reclaim", name, 1000000, share]
    _, _, _, zpages, *_ = driver.ask(*words).split()
    gone = [key for key, held in model.pages.items() if held.kind != "fill" and (model.ephemeral or key[1] % 8 < share)]
    assert int(zpages) == len(gone)
    for key in gone:
        model.drop(key)


if __name__ == "__main__":
    main()
