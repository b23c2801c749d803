# SPDX-License-Identifier: Apache-2.0
"""A device's settings as one TOML file: what it takes, what is against it, and that all of it is done or nothing."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from tests.support import ROOT
from zcache_agent import config
from zcache_agent.config import Kernel, Pool, Store, Zram, given, keys_of
from zcache_agent.daemon import find
from zcache_agent.errors import Refused, Usage
from zcache_agent.kinds import Facts, Value
from zcache_agent.settings import State, changes, plan, shown
from zcache_agent.transport.local import LocalTransport

from .conftest import Result, Zcache, fails

Local = Callable[..., Result]
TABLES = {
    "store": Store,
    "pools.NAME": Pool,
    "swap": config.Swap,
    "blockcache": config.BlockCache,
    "kernel.vm": config.Vm,
    "kernel.zram": Zram,
    "kernel.zswap": config.Zswap,
}
ALL = """
[store]
limit = "25%"
reserve = 64
[pools.swap]
kind = "persistent"
allocator = "zsmalloc"
codec = "zstd:3"
zv_max_zsize = "7/8"
zv_max_mean_zsize = "50%"
exclusive_gets = true
writeback_budget = "64M"
[swap]
size = "512M"
pool = "swap"
[kernel.vm]
swappiness = 150
[kernel.zram]
algorithm = "zstd"
disksize = "1G"
mem_limit = 100000
recompression = ["lz4"]
writeback_limit = "4M"
swap = true
[kernel.zswap]
enabled = true
compressor = "lz4"
[agent]
limit = { min = "64M", max = "25%" }
[measured]
why = "because"
ratio = 2.5
"""
FILES = {
    "/proc/sys/vm/swappiness": "60",
    "/sys/module/zswap/parameters/enabled": "N",
    "/sys/module/zswap/parameters/compressor": "lzo",
    "/sys/block/zram0/comp_algorithm": "[lzo-rle] lz4 zstd",
    "/sys/block/zram0/recomp_algorithm": "#1: lzo-rle lz4 [zstd]\n#2: lzo-rle lz4 zstd",
    "/sys/block/zram0/disksize": "268435456",
    "/sys/block/zram0/mm_stat": "0 0 0 8192 0 0 0 0 0",
    "/sys/block/zram0/backing_dev": "none",
    "/sys/block/zram0/writeback_limit": "16",
    "/sys/block/zram0/writeback_limit_enable": "1",
    "/proc/swaps": "Filename Type Size Used Priority\n/dev/block/zram0 partition 262140 0 -2",
}


def test_what_is_read_is_written() -> None:
    read = config.parse(ALL, "x")
    assert config.parse(config.write(read), "x") == read
    assert read.measured == {"why": "because", "ratio": 2.5}
    assert tomllib.loads(config.write(config.Config())) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a =", "no TOML"),
        ("x = 1", "x: there is no such key; here are: store, pools"),
        ("[store]\nlimit = true", "store.limit: true is not bytes"),
        ('[store]\nlimit = "25"\nfoo = 1', "store.foo: there is no such key"),
        ('[store]\nlimit = "101%"', "store.limit: '101%' is not"),
        ('[store]\nreserve = "many"', "store.reserve: 'many' is not a number from 0"),
        ("[store]\nlow_watermark_percent = 96\nhigh_watermark_percent = 95", "96 is above"),
        ("[pools]\nx = 3", "pools.x: 3 is no table"),
        ('[pools."a b"]', "'a b'"),
        ('[pools.a]\nzv_max_zsize = "9/8"', "pools.a.zv_max_zsize: '9/8' is not"),
        ('[pools.a]\nkind = "eternal"', "'eternal' is not persistent or ephemeral"),
        ("[pools.a]\ncold_extent = 3", "3 is not 1, 2, 4, 8 or 16"),
        ("[pools.a]\ncompact_auto = 1", "pools.a.compact_auto: 1 is not true or false"),
        ('[pools.a]\nbacking = "x y"', "absolute path"),
        ('[pools.a]\nbacking_layout = "packed"', "need backing"),
        ('[swap]\nsize = "1G"', "swap.pool: it is needed"),
        ("[kernel]\nvm = 3", "kernel.vm: 3 is no table"),
        ("[kernel.vm]\nswappiness = 201", "kernel.vm.swappiness: 201 is not a number from 0 to 200"),
        ('[kernel.zram]\ndisksize = "1X"', "kernel.zram.disksize: '1X' is not bytes"),
        ('[kernel.zram]\nalgorithm = "lz4\\nx"', "kernel.zram.algorithm"),
        ('[kernel.zram]\nrecompression = "zstd"', "a list of at most 3"),
        ('[kernel.zram]\nwriteback_limit = "1000"', "multiple of 4096"),
        ("[kernel.zram]\nswap = true\ndisksize = 0", "swap needs one"),
        ("[kernel.zram]\nswap = false\npriority = 3", "swap is false"),
        ("[kernel.zswap]\nenabled = 'Y'", "kernel.zswap.enabled: 'Y' is not true or false"),
        ("measured = 3", "measured: 3 is no table"),
    ],
)
def test_what_a_file_must_not_say(text: str, said: str) -> None:
    """One line, with the file, the key, the value, and the way out."""
    with pytest.raises(Usage) as error:
        config.parse(text, "device.toml")
    assert error.value.message.startswith("device.toml: ")
    assert said in error.value.message
    assert error.value.hint


def test_every_key_is_documented() -> None:
    """In docs/config.md: a table of keys for each table of the file, in order, with what is allowed and its meaning."""
    text = (ROOT / "docs/config.md").read_text()
    for name, table in TABLES.items():
        section = text.partition(f"## `[{name}]`")[2].partition("\n## ")[0]
        rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|$", section, re.MULTILINE)
        assert [row[0] for row in rows] == list(keys_of(table)), name
        for key, allowed, meaning in rows:
            assert (allowed, meaning) == (keys_of(table)[key].kind.allowed, keys_of(table)[key].meaning), (
                f"{name}.{key}"
            )


def test_every_setting_of_the_daemon_is_a_key(local_daemon: Local, zcache: Zcache) -> None:
    with find(LocalTransport(zcache.environment["ZCACHE_DIR"])).control() as control:
        nodes = {node.path for node in control.describe() if node.access == "rw"}
    known = {f"params/{key.to}" for key in keys_of(Store).values()}
    known |= {f"pools/NAME/{key.to}" for key in keys_of(Pool).values() if key.to} | {"pools/NAME/backing"}
    assert nodes == known


def state(**changed: str) -> State:
    tree = {"page_size": "4096", "params/limit": "1000", "params/reserve": "64", "swap/device": "none"}
    return State(FILES, tree | {"blockcache/device": "none"} | changed, memory=1000000)


def test_a_plan() -> None:
    """Pools first, zram last; what is so already is left out."""
    assert plan(config.parse(ALL, "x"), state()) == [
        "make\tpools/swap/kind\tpools/create name=swap kind=persistent allocator=zsmalloc codec=zstd:3\t"
        "pools/swap/destroy 1",
        "tree\tparams/limit\t250000",
        "tree\tpools/swap/params/zv_max_zsize\t3584",
        "tree\tpools/swap/params/zv_max_mean_zsize\t2048",
        "tree\tpools/swap/params/exclusive_gets\t1",
        "tree\tpools/swap/params/writeback_budget\t67108864",
        "make\tswap/device\tswap/on size=536870912 pool=swap\tswap/off 1",
        "file\t/proc/sys/vm/swappiness\t150",
        "file\t/sys/module/zswap/parameters/compressor\tlz4",
        "file\t/sys/module/zswap/parameters/enabled\tY",
        "zram\tzram0\talgorithm=zstd disksize=1073741824 mem_limit=102400 recompression=1:lz4 writeback_limit=1024",
    ]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("limit", "1.5M", "1572864"), ("limit", "64m", "67108864"), ("limit", "12.5%", "125000"), ("limit", 7, "7"),
        ("backing_size", "0.5G", "536870912"), ("writeback_budget", "1 K", "1024"),
        ("cold_after", 90, "90"), ("cold_after", "1.5m", "90"), ("writeback_after", "2h", "7200"),
        ("zv_max_zsize", "87.5%", "3584"), ("zv_max_zsize", "3000", "3000"), ("zv_max_mean_zsize", "1/3", "1365"),
        ("limit", "1.5X", None), ("limit", -1, None), ("limit", [], None), ("limit", 1 << 63, None),
        ("limit", "7/8", None), ("backing_size", "5%", None), ("cold_after", "10h", None), ("cold_after", "0.5s", None),
        ("cold_after", "5M", None), ("cold_after", True, None), ("zv_max_zsize", "1/0", None),
        ("zv_max_zsize", "1K", None), ("zv_max_zsize", -1, None),
    ],
)  # fmt: skip
def test_amounts_as_people_write_them(key: str, value: Value, text: str | None) -> None:
    """As the device takes them; None: it is none."""
    kind = {**keys_of(Store), **keys_of(Pool)}[key].kind
    assert kind.takes(value) == (text is not None)
    assert text is None or kind.text(value, Facts(4096, 1000000, 4096)) == text


def test_a_backing_file_gets_its_size_in_bytes() -> None:
    made = config.parse('[pools.a]\nkind = "persistent"\nbacking = "/x"\nbacking_size = "1.5M"\n', "x")
    assert plan(made, state())[0].split("\t")[2].endswith(" path=/x size=1572864")


def test_a_device_is_as_it_shows() -> None:
    now = shown(state(**{"pools/a/kind": "ephemeral", "pools/a/allocator": "zbud", "pools/a/codec": "lz4",
                         "pools/a/backing": "none", "pools/a/params/checksums": "1"}))  # fmt: skip
    assert now.kernel.zram == Zram(
        device="zram0", algorithm="lzo-rle", disksize=268435456, mem_limit=8192, recompression=["zstd"],
        writeback_device="none", writeback_limit=65536, swap=True,
    )  # fmt: skip
    assert now.pools["a"].checksums is True
    assert changes(config.parse(config.write(now), "x"), state(**_flat(now))) == []


def _flat(now: config.Config) -> dict[str, str]:
    pool = now.pools["a"]
    keys = keys_of(Pool)
    texts = {
        f"pools/a/{keys[name].to or name}": keys[name].kind.text(value, Facts()) for name, value in given(pool).items()
    }
    return texts | {"pools/a/backing": "none"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[pools.a]\nkind = 'persistent'\nallocator = 'zsmalloc'", "pools.a.kind: it is ephemeral and cannot become"),
        ("[pools.b]\ncodec = 'lz4'", "pools.b: there is no such pool"),
        ("[swap]\nsize = '1M'\npool = 'b'", "swap.pool: there is no pool b"),
        ("[kernel.zram]\nalgorithm = 'snappy'", "zram0 knows no algorithm snappy"),
        ("[kernel.zram]\nrecompression = ['lzo']", "zram0 knows no algorithm lzo"),
        ("[kernel.zram]\ndevice = 'zram1'\ndisksize = '1G'", "the kernel shows no zram1"),
        ("[kernel.zswap]\nshrinker_enabled = true", "shrinker_enabled: this kernel has no"),
    ],
)
def test_what_a_device_is_against(text: str, said: str) -> None:
    there = state(**{"pools/a/kind": "ephemeral", "pools/a/allocator": "zbud", "pools/a/codec": "lz4"})
    with pytest.raises(Refused) as error:
        plan(config.parse(text, "x"), there)
    assert said in error.value.message
    assert error.value.hint


def test_a_priority_is_that_of_a_swap() -> None:
    no_swap = State(FILES | {"/proc/swaps": "Filename Type Size Used Priority"})
    wanted = config.Config(kernel=Kernel(zram=Zram(priority=5)))
    with pytest.raises(Refused, match="no swap"):
        plan(wanted, no_swap)
    assert plan(attrs.evolve(wanted), State(FILES)) == ["zram\tzram0\tswap=5"]


def test_all_of_a_file_or_nothing(local_daemon: Local, tmp_path: Path) -> None:
    """Of a real daemon's settings: what it refuses at the end takes back what was done before."""
    file = tmp_path / "device.toml"
    file.write_text("[store]\nreserve = 64\n[pools.a]\nkind = 'ephemeral'\ncold_after = 60\ncodec = 'zstd:3'\n")
    before = local_daemon("--json", "config", "diff", file).json["changes"]
    assert {change["key"] for change in before} == {
        "store.reserve", "pools.a.kind", "pools.a.codec", "pools.a.cold_after"}  # fmt: skip
    assert "nothing was changed" in local_daemon("config", "apply", "--dry-run", file).out
    assert local_daemon("--json", "pool", "list").json == []
    applied = local_daemon("config", "apply", file)
    assert "applied 3 settings" in applied.out, applied
    assert "nothing to do" in local_daemon("config", "apply", file).out
    assert local_daemon("config", "diff", file).out.endswith(f"is as {file} says\n")
    assert "applied: 3 settings" in local_daemon("status").out
    file.write_text("[store]\nreserve = 32\n[pools.b]\nkind = 'persistent'\n[pools.a]\ncodec = 'zstd:99'\n")
    fails(local_daemon("config", "apply", file), 5, "zstd:99", "all is as it was")
    assert [pool["name"] for pool in local_daemon("--json", "pool", "list").json] == ["a"]
    assert local_daemon("cat", "params/reserve").out == "64\n"


def test_saved_and_applied_again(local_daemon: Local, tmp_path: Path) -> None:
    file = tmp_path / "device.toml"
    assert local_daemon("pool", "create", "dots.and-more", "--kind", "ephemeral").code == 0
    assert local_daemon("config", "save", file).code == 0
    fails(local_daemon("config", "save", file), 2, str(file), "--force")
    document = local_daemon("--json", "config", "show").json
    assert document == tomllib.loads(file.read_text())
    assert document["pools"]["dots.and-more"]["kind"] == "ephemeral"
    assert "nothing to do" in local_daemon("config", "apply", file).out


def test_misuse(zcache: Zcache, local_daemon: Local, tmp_path: Path) -> None:
    absent, garbage = tmp_path / "absent.toml", tmp_path / "garbage.toml"
    garbage.write_bytes(b"\xff\xfe")
    fails(local_daemon("config", "apply", absent), 2, str(absent), "zcache config save")
    fails(local_daemon("config", "diff", garbage), 2, str(garbage), "no text")
    garbage.write_text("[store]\nreserve = 999999999\n")
    fails(local_daemon("config", "apply", garbage), 5, "999999999", "all is as it was")
    garbage.write_text("[pools.x]\nkind = 'persistent'\n")
    fails(zcache("-s", f"local:{tmp_path / 'other'}", "config", "apply", garbage), 4, "no daemon runs", "zcache up")
    assert local_daemon("kernel", "maintain", "--budget", "lots").code == 2


def test_a_damaged_journal(local_daemon: Local, zcache: Zcache, tmp_path: Path) -> None:
    journal = Path(zcache.environment["ZCACHE_DIR"]) / "zcached.apply"
    journal.write_text("nonsense")
    file = tmp_path / "device.toml"
    file.write_text("[store]\nreserve = 64\n")
    fails(local_daemon("config", "apply", file), 5, "is damaged", str(journal))
    assert local_daemon("--json", "status").json["applying"] is True
    assert "cut off" in local_daemon("status").out
    journal.unlink()
    assert local_daemon("config", "apply", file).code == 0


def test_kernel_status(local_daemon: Local) -> None:
    """Whatever this machine has; nothing is changed."""
    facts = local_daemon("--json", "kernel", "status").json
    assert set(facts) == {"zram", "zswap", "vm", "notes"}
    assert facts["vm"]["swappiness"] == int(Path("/proc/sys/vm/swappiness").read_text())
    assert "vm/swappiness" in local_daemon("kernel", "status").out
