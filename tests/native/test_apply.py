# SPDX-License-Identifier: Apache-2.0
"""Changing settings of kernel and daemon as a whole or not at all, cut at every step: the old settings or the new.

The kernel and the daemon are FAKES here, files that zc_apply.c gives a meaning, so that every call can fail or be the
last. tests/device/test_config.py has the real ones.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.native.driver import CONFIGS, DIED, program

GIB = 1 << 30
FILES = {
    "proc/sys/kernel/random/boot_id": "one",
    "proc/sys/vm/drop_caches": "0",
    "proc/sys/vm/swappiness": "60",
    "proc/sys/vm/page-cluster": "3",
    "proc/meminfo": "MemTotal: 1000000 kB\nMemAvailable: 500000 kB",
    "proc/swaps": "Filename Type Size Used Priority\n/dev/zram0 partition 262144 100000 -2\n"
    "/dev/sda partition 1024 0 -3",
    "sys/module/zswap/parameters/enabled": "N",
    "sys/module/zswap/parameters/compressor": "lzo-rle",
    "sys/block/zram0/disksize": str(GIB // 4),
    "sys/block/zram0/comp_algorithm": "[lzo-rle] lz4 zstd",
    "sys/block/zram0/recomp_algorithm": "#1: lzo-rle lz4 zstd",
    "sys/block/zram0/backing_dev": "none",
    "sys/block/zram0/mm_stat": "4096 74 4096 0 4096 0 0 0 0",
    "sys/block/zram0/writeback_limit": "0",
    "sys/block/zram0/writeback_limit_enable": "0",
    "sys/block/zram0/reset": "",
    "dev/zram0": "swap",
    "tree/daemon:pid": "17",
    "tree/params:reserve": "128",
    "tree/pools:old:params:keep_rejected": "0",
}
PLAN = [
    "make\tpools/new/kind\tpools/create name=new kind=persistent\tpools/new/destroy 1",
    "tree\tparams/reserve\t256",
    "tree\tpools/old/params/keep_rejected\t1",
    "tree\tpools/new/params/checksums\t0",
    "file\t/proc/sys/vm/swappiness\t150",
    "file\t/sys/module/zswap/parameters/compressor\tzstd",
    f"zram\tzram0\tdisksize={GIB} algorithm=lz4 recompression=1:zstd backing=/dev/sdb mem_limit={GIB // 2}"
    " writeback_limit=1024 swap=200",
]
NEW = {
    "proc/sys/vm/swappiness": "150",
    "proc/swaps": "Filename Type Size Used Priority\n/dev/sda partition 1024 0 -3\n/dev/zram0 partition 1024 0 200",
    "sys/module/zswap/parameters/compressor": "zstd",
    "sys/block/zram0/disksize": str(GIB),
    "sys/block/zram0/comp_algorithm": "lzo-rle [lz4] zstd",
    "sys/block/zram0/recomp_algorithm": "#1: lzo-rle lz4 [zstd]",
    "sys/block/zram0/backing_dev": "/dev/sdb",
    "sys/block/zram0/mm_stat": f"0 0 0 {GIB // 2} 0 0 0 0 0",
    "sys/block/zram0/writeback_limit": "1024",
    "sys/block/zram0/writeback_limit_enable": "1",
    "tree/params:reserve": "256",
    "tree/pools:old:params:keep_rejected": "1",
    "tree/pools:new:kind": "persistent",
    "tree/pools:new:params:checksums": "0",
}
ERRORS = ["EINVAL", "ENOSPC", "EBUSY"]


class Fake:
    """A kernel and a daemon, as files, and the directory of the journal."""

    def __init__(self, base: Path, config: str, **changed: str) -> None:
        self.root, self.dir, self.config = base / "root", base / "run", config
        for path in (self.root, self.dir):
            shutil.rmtree(path, ignore_errors=True)
        self.dir.mkdir(parents=True)
        for name, text in (FILES | changed).items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")

    def run(self, what: str, plan: list[str] = PLAN, at: int = 0, fault: str = "none") -> tuple[int, list[str]]:
        """The exit code and the lines that it said."""
        text = "".join(f"{line}\n" for line in ["zcache-apply 1", *plan, "end"])
        command = [str(word) for word in (program(self.config, "zc_apply"), self.root, self.dir, what, at, fault)]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode in (0, DIED), done.stderr
        return done.returncode, done.stdout.splitlines()

    def settings(self) -> dict[str, object]:
        """What is there, in the words of FILES; what a reset leaves of no meaning left out."""
        found: dict[str, object] = {}
        for path in sorted(self.root.rglob("*")):
            if path.is_file():
                found[str(path.relative_to(self.root))] = path.read_text().strip()
        areas = str(found["proc/swaps"]).splitlines()[1:]
        found["proc/swaps"] = {line.split()[0]: int(line.split()[4]) for line in areas}
        limit = str(found["sys/block/zram0/mm_stat"]).split()[3]
        found["sys/block/zram0/mm_stat"] = limit
        if found["sys/block/zram0/writeback_limit_enable"] == "0":
            found["sys/block/zram0/writeback_limit"] = "-"
        return found

    @property
    def journal(self) -> Path:
        return self.dir / "zcached.apply"


@pytest.fixture
def sides(tmp_path: Path) -> tuple[dict[str, object], dict[str, object]]:
    """The old settings, and the new."""
    old = Fake(tmp_path / "old", "host").settings()
    return old, Fake(tmp_path / "new", "host", **NEW).settings()


def calls(fake: Fake) -> int:
    """How many there are when all is well."""
    code, said = fake.run("plan")
    assert code == 0
    assert said[-2:-1] == ["applied: 7 settings"], said
    return int(said[-1].split()[1])


@pytest.mark.parametrize("config", CONFIGS)
def test_all_of_it(config: str, tmp_path: Path, sides: tuple[dict[str, object], dict[str, object]]) -> None:
    fake = Fake(tmp_path, config)
    assert calls(fake) == 19
    assert fake.settings() == sides[1]
    assert not fake.journal.exists()
    assert (fake.dir / "zcached.outcome").read_text() == "applied: 7 settings\n"
    assert fake.run("recover") == (0, ["calls 0"])


def test_refused_at_every_step(tmp_path: Path, sides: tuple[dict[str, object], dict[str, object]]) -> None:
    """By the kernel, the daemon, or the disk: it says so, and is back where it was."""
    old, new = sides
    for at in range(1, calls(Fake(tmp_path, "host")) + 1):
        for error in ERRORS:
            fake = Fake(tmp_path, "host")
            _, said = fake.run("plan", at=at, fault=error)
            outcome = said[-2].split(":")[0]
            assert not fake.journal.exists(), said
            assert fake.settings() == {"applied": new, "undone": old, "refused": old}[outcome], (at, error, said)


def test_refused_from_a_step_on(tmp_path: Path, sides: tuple[dict[str, object], dict[str, object]]) -> None:
    """Nor does anything go the way back: it says so, and the next start does it."""
    for at in range(1, calls(Fake(tmp_path, "host")) + 1):
        fake = Fake(tmp_path, "host")
        _, said = fake.run("plan", at=at, fault="ENOSPC+")
        outcome = said[-2].split(":")[0]
        assert fake.journal.exists() == (outcome == "stuck"), (at, said)
        if outcome == "stuck":
            _, said = fake.run("recover")
            outcome = said[0].split(":")[0]  # it may find that all was done
        assert fake.settings() == sides[outcome == "applied"], (at, said)


def killed(base: Path, at: int, fault: str, sides: tuple[dict[str, object], dict[str, object]]) -> Fake:
    """Before the last call, a journal tells of it."""
    fake = Fake(base, "host")
    assert fake.run("plan", at=at, fault=fault)[0] == DIED
    assert fake.journal.exists() or fake.settings() in sides, at
    return fake


@pytest.mark.parametrize("fault", ["die", "after", "half"])
def test_killed_at_every_step(fault: str, tmp_path: Path, sides: tuple[dict[str, object], dict[str, object]]) -> None:
    """The next start rolls back, or forward if all was done, and says which."""
    forward = 0
    for at in range(1, calls(Fake(tmp_path, "host")) + 1):
        fake = killed(tmp_path, at, fault, sides)
        left = fake.journal.exists()
        _, said = fake.run("recover")
        assert not fake.journal.exists()
        assert fake.settings() in sides, (at, said)
        is_new = fake.settings() == sides[1]
        forward += is_new
        assert said[0].startswith("applied: " if is_new else "undone: ") or not left, (at, said)
    assert forward, "killed behind the last step, all is kept"


@pytest.mark.parametrize("first", [5, 9, 13, 16])
def test_killed_at_every_step_of_the_way_back(
    first: int, tmp_path: Path, sides: tuple[dict[str, object], dict[str, object]]
) -> None:
    again = 1
    while True:
        fake = killed(tmp_path, first, "after", sides)
        if fake.run("recover", at=again, fault="after")[0] != DIED:
            break
        assert fake.journal.exists() or fake.settings() in sides, again
        fake.run("recover")
        assert fake.settings() in sides, again
        assert not fake.journal.exists()
        again += 1
    assert again > 2
    assert fake.settings() == sides[0]


def test_a_restart_of_the_device(tmp_path: Path) -> None:
    """Settings of the kernel live as long as it does: what the new boot has made of them stays."""
    for at in range(3, calls(Fake(tmp_path, "host")) - 1, 3):
        fake = Fake(tmp_path, "host")
        fake.run("plan", at=at, fault="die")
        left = fake.journal.exists()
        for name, text in FILES.items():
            fake.write(name, text)
        fake.write("proc/sys/kernel/random/boot_id", "two")
        fake.write("proc/sys/vm/swappiness", "17")
        now = fake.settings()
        _, said = fake.run("recover")
        assert not left or "the device restarted since" in said[0]
        assert fake.settings() == now
        assert not fake.journal.exists()


def test_a_daemon_that_was_killed_too(tmp_path: Path) -> None:
    """Its settings went with it; those of its successor are none of the journal's."""
    fake = Fake(tmp_path, "host")
    fake.run("plan", at=8, fault="die")
    assert fake.settings()["tree/params:reserve"] == "256"
    fake.write("tree/daemon:pid", "18")
    fake.write("tree/params:reserve", "512")
    fake.run("recover")
    assert fake.settings()["tree/params:reserve"] == "512"
    assert fake.settings()["proc/sys/vm/swappiness"] == "60"


def refused(fake: Fake, plan: list[str], *words: str) -> None:
    before = fake.settings()
    _, said = fake.run("plan", plan)
    assert said[-2].startswith("refused: "), said
    for word in words:
        assert word in said[-2], said
    assert fake.settings() == before
    assert said[-1] == "calls 0"


def test_what_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    full = {"proc/meminfo": "MemTotal: 1000000 kB\nMemAvailable: 120000 kB"}
    zram = ["zram\tzram0\tdisksize=1G"]
    refused(Fake(tmp_path, "host", **full), zram, "102400000 bytes", "would fit elsewhere", "1048576 in other swap")
    no_swap = {"proc/swaps": "Filename Type Size Used Priority", "sys/block/zram0/mm_stat": "8192 74 4096 0 4096 0 0 0"}
    refused(Fake(tmp_path, "host", **no_swap), zram, "holds 8192 bytes and is no swap", "reset")
    fake = Fake(tmp_path, "host")
    refused(fake, ["zram\tzram1\tdisksize=1G"], "zram1", "load the module zram")
    refused(fake, ["zram\tzram0\tspeed=1"], "speed=1")
    refused(fake, ["file\t/proc/sys/vm/absent\t1"], "/proc/sys/vm/absent", "no such setting")
    refused(fake, ["file\t/proc/sys/vm/../kernel/core_pattern\t1"], "the plan is none")
    refused(fake, ["file\t/etc/passwd\t1"], "the plan is none")
    refused(fake, ["zram\tzram0/../sda\tdisksize=1"], "the plan is none")
    refused(fake, ["nonsense"], "the plan is none")
    fake.write("tree/pools:new:kind", "ephemeral")
    refused(fake, PLAN, "pools/new/kind", "already")
    (fake.root / "sys/block/zram0/recomp_algorithm").unlink()
    refused(fake, ["zram\tzram0\trecompression=1:zstd"], "CONFIG_ZRAM_MULTI_COMP")


MIB = 1 << 20
MOUNTS = {2: "none /sys/fs/cgroup cgroup2 rw 0 0", 1: "none /dev/memcg cgroup rw,nosuid,memory 0 0"}
NAMES = {
    2: ("sys/fs/cgroup", "memory.max", "memory.current", "file"),
    1: ("dev/memcg", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_file"),
}


def groups(version: int, **each: tuple[int | str, int, int, int]) -> dict[str, str]:
    """Files of cgroups, by their paths with _ for /. In MiB: limit, in use, of these pages of files, swapped out."""
    top, limit, usage, files = NAMES[version]
    made = {"proc/self/mounts": f"proc /proc proc rw 0 0\n{MOUNTS[version]}"}
    for path, (most, used, of_files, swapped) in each.items():
        group = f"{top}/{path.replace('_', '/')}"
        made[f"{group}/{limit}"] = most if isinstance(most, str) else str(most * MIB)
        made[f"{group}/{usage}"] = str(used * MIB)
        stat = files.replace("file", "inactive_file"), of_files * MIB
        made[f"{group}/memory.stat"] = f"anon 5\nfile 7\n{stat[0]} {stat[1]}\n{stat[0].replace('in', '')} 0"
        if version == 2:
            made[f"{group}/memory.swap.current"] = str(swapped * MIB)
        else:
            made[f"{group}/memory.stat"] += f"\nswap 1\ntotal_swap {swapped * MIB}"
    return made


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("version", [1, 2])
def test_memory_cgroups_that_have_no_room_for_what_they_swapped_out(version: int, config: str, tmp_path: Path) -> None:
    """97.6 MiB are in zram, and another area has room for 1."""
    zram = ["zram\tzram0\tdisksize=1G"]
    top = "/" + NAMES[version][0]
    none = "max" if version == 2 else "9223372036854771712"

    def fake(**each: tuple[int | str, int, int, int]) -> Fake:
        return Fake(tmp_path, config, **groups(version, **each))

    def fits(**each: tuple[int | str, int, int, int]) -> None:
        _, said = fake(**each).run("plan", zram)
        assert said[-2] == "applied: 1 settings", said

    numbers = (f"{top}/a/b, which may have {32 * MIB}", f"has {20 * MIB} swapped out", f"room for {7 * MIB}")
    refused(fake(a=(none, 60, 0, 40), a_b=(32, 30, 5, 20)), zram, f"{13 * MIB} bytes", f"only {MIB} would", *numbers)
    fits(a=(none, 60, 0, 40), a_b=(32, 30, 5, 8))  # one into the other area
    fits(a=(64, 30, 0, 30), a_b=(none, 30, 0, 30))
    refused(fake(a=(64, 40, 0, 30), a_b=(none, 40, 0, 30)), zram, f"{top}/a, which", f"{6 * MIB} bytes")
    refused(fake(a=(8, 7, 0, 2), b=(8, 7, 0, 2)), zram, f"{2 * MIB} bytes")  # neither of them alone would be
    fits(a=(8, 8, 0, 1), a_b=(8, 8, 0, 1))  # the same page, twice
    refused(fake(a=(16, 16, 0, 500)), zram, f"{100000 * 1024} bytes")  # no more of it can be here


def test_a_limit_from_which_a_cgroup_is_throttled(tmp_path: Path) -> None:
    files = groups(2, a=("max", 30, 0, 20)) | {"sys/fs/cgroup/a/memory.high": str(40 * MIB)}
    refused(
        Fake(tmp_path, "host", **files), ["zram\tzram0\tdisksize=1G"], f"which may have {40 * MIB}", f"{10 * MIB} bytes"
    )


def test_an_algorithm_that_the_kernel_does_not_know(
    tmp_path: Path, sides: tuple[dict[str, object], dict[str, object]]
) -> None:
    """Known only when the device is reset already."""
    fake = Fake(tmp_path, "host")
    _, said = fake.run("plan", [PLAN[-1].replace("lz4", "snappy")])
    assert said[-2].startswith("undone: zram0: the kernel refuses 'snappy'"), said
    assert fake.settings() == sides[0]


def test_a_compressor_that_zswap_has_not(tmp_path: Path, sides: tuple[dict[str, object], dict[str, object]]) -> None:
    """It takes any while it is off."""
    fake, zswap = Fake(tmp_path, "host"), "/sys/module/zswap/parameters"
    _, said = fake.run("plan", [f"file\t{zswap}/compressor\t842", f"file\t{zswap}/enabled\tY"])
    assert said[-2].startswith(f"undone: {zswap}/compressor: the kernel took '842', and made another"), said
    assert fake.settings() == sides[0]


def test_no_reset_for_what_needs_none(tmp_path: Path) -> None:
    full = {"proc/meminfo": "MemTotal: 1000000 kB\nMemAvailable: 1000 kB"}
    fake = Fake(tmp_path, "host", **full)
    _, said = fake.run("plan", ["zram\tzram0\tmem_limit=65536"])
    assert said[-2] == "applied: 1 settings"
    assert fake.settings()["proc/swaps"] == {"/dev/zram0": -2, "/dev/sda": -3}


@pytest.mark.parametrize("damage", ["", "x", "short", "long", "nul"])
def test_a_damaged_journal(damage: str, tmp_path: Path) -> None:
    fake = Fake(tmp_path, "host")
    fake.run("plan", at=10, fault="die")
    text = fake.journal.read_text()
    damaged = {"": "", "x": text.replace("60", "61"), "short": text[:-30], "long": "\n" * 70000 + text}
    fake.journal.write_text(damaged.get(damage, text[:40] + "\0" + text[41:]))
    before = fake.settings()
    _, said = fake.run("recover")
    assert said[0].startswith("stuck: "), said
    assert "is damaged" in said[0]
    _, said = fake.run("plan")
    assert "must be rolled back first" in said[-2], said
    assert fake.settings() == before
    assert fake.journal.exists()


def test_a_new_plan_rolls_back_first(tmp_path: Path, sides: tuple[dict[str, object], dict[str, object]]) -> None:
    fake = Fake(tmp_path, "host")
    fake.run("plan", at=15, fault="die")
    _, said = fake.run("plan")
    assert said[0].startswith("undone: an apply was cut off: rolled back"), said
    assert said[-2] == "applied: 7 settings"
    assert fake.settings() == sides[1]
