# SPDX-License-Identifier: Apache-2.0
"""zcached sample: what it reads, what it tells, the bounds that it keeps, and what it makes of wrong words."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.conftest import Daemon
from tests.native.driver import CONFIGS, program

PAGE = os.sysconf("SC_PAGESIZE")
NOBODY = 65534
HOLDS = "import sys; held = [str(n) * 99 for n in range(20000)]; print(flush=True); sys.stdin.read()"


def sample(*words: object, config: str = "host") -> subprocess.CompletedProcess[str]:
    command = [str(word) for word in (program(config, "zcached"), "sample", *words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def sampled(*words: object, config: str = "host") -> dict[str, Any]:
    done = sample(*words, config=config)
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


@contextmanager
def child(**settings: Any) -> Iterator[int]:  # noqa: ANN401 (Popen's)
    """A process with a few MiB of its own."""
    command = [sys.executable if not settings else "/usr/bin/python3", "-c", HOLDS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **settings) as process:
        assert process.stdout
        process.stdout.readline()
        yield process.pid
        process.communicate()


@pytest.mark.parametrize("page_size", [PAGE, 4 * PAGE])
@pytest.mark.parametrize("config", CONFIGS)
def test_a_file(config: str, page_size: int, tmp_path: Path) -> None:
    """Every page once, in any order, each with its sizes; only these are told, in no place a content."""
    noise = random.Random(1)
    path = tmp_path / "pages"
    pages = [bytes([n]) * page_size for n in range(5)] + [noise.randbytes(page_size)] * 4 + [b"secret " * page_size]
    path.write_bytes(b"".join(page[:page_size] for page in pages) + b"tail")
    done = sample("--file", path, "--page-size", page_size, "--codec", "lz4", "--codec", "zstd:3", config=config)
    facts = json.loads(done.stdout)
    assert "secret" not in done.stdout
    assert (facts["kind"], facts["page_size"], facts["pages"]) == ("dump", page_size, 10)
    assert facts["from"] == [0] * 10
    assert len(facts["duplicates"]) == 3
    for codec in facts["codecs"]:
        sizes = sorted(codec["sizes"])
        assert sizes[:5] == [0] * 5
        assert 0 < sizes[5] < page_size / 16
        assert sizes[6] > page_size * 7 / 8
        assert codec["put_ns"][0] > 0
    assert facts["classes"][-1] == [page_size, 1, 1]
    assert all(size * slots <= frames * page_size for size, frames, slots in facts["classes"])


@pytest.mark.parametrize("config", CONFIGS)
def test_processes(config: str) -> None:
    """As many pages as wanted of all of them, each process with its part."""
    with child() as one, child() as other:
        facts = sampled("--pid", one, "--pid", other, "--pages", 500, "--codec", "lz4", config=config)
    assert [source["pid"] for source in facts["sources"]] == [one, other]
    assert len(facts["from"]) == len(facts["codecs"][0]["sizes"]) == 500
    assert facts["pages"] == sum(source["pages"] for source in facts["sources"])
    for number, source in enumerate(facts["sources"]):
        assert source["pages"] * PAGE == pytest.approx(source["anonymous"], rel=0.1)
        assert abs(facts["from"].count(number) / 500 - source["pages"] / facts["pages"]) < 0.15
        assert source["swapped"] == 0
        assert Path(source["name"]).name.startswith("python")


def test_files_that_are_mapped() -> None:
    """Those of two processes of the same program are looked at once."""
    with child() as one:
        alone = sampled("--files", "--pid", one, "--pages", 100, "--codec", "lz4")
        with child() as other:
            both = sampled("--files", "--pid", one, "--pid", other, "--pages", 100, "--codec", "lz4")
    assert alone["kind"] == "file"
    assert alone["pages"] > 100
    assert both["sources"][1]["pages"] < 0.1 * alone["pages"]


def test_of_the_whole_machine_within_a_bound_of_memory(host_daemon: Daemon) -> None:
    """However many pages there are, it has but those of its sample in mind, and a batch of pages. What a daemon of ours
    holds is compressed already."""
    facts = sampled("--pages", 4000, "--seconds", 30)
    assert 0 < len(facts["from"]) <= 4000
    assert facts["pages"] > 4000
    assert facts["peak_bytes"] < 12 << 20
    pids = {source["pid"] for source in facts["sources"]}
    assert host_daemon.pid not in pids
    assert os.getpid() in pids


def test_the_share_of_a_processor() -> None:
    facts = sampled("--pages", 2000, "--cpu", 20, "--codec", "zstd:19", "--seconds", 4)
    assert facts["cpu_seconds"] <= 0.2 * facts["seconds"] + 0.3
    assert 0 < len(facts["from"]) < 2000


def test_a_process_that_ends_meanwhile() -> None:
    """What was seen of it stays. Level 19 takes milliseconds a page: it is not through in a fifth of a second."""
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as held:
        assert held.stdout
        held.stdout.readline()
        command = [str(program("host", "zcached")), "sample", "--pid", str(held.pid)]
        command += ["--cpu", "20", "--codec", "zstd:19"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as sampler:
            stat = Path(f"/proc/{sampler.pid}/stat")
            while int(stat.read_text().rpartition(") ")[2].split()[11]) < os.sysconf("SC_CLK_TCK") / 5:
                time.sleep(0.05)
            held.kill()
            said, _ = sampler.communicate(timeout=60)
    assert sampler.returncode == 0
    facts = json.loads(said)
    assert facts["sources"][0]["error"] == "ESRCH"
    assert 0 < len(facts["from"]) < facts["pages"]


@contextmanager
def as_somebody() -> Iterator[tuple[Path, dict[str, Any]]]:
    """A zcached that a user without rights can start, and how: root's processes are not for him."""
    settings = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(shutil.copy(program("host", "zcached"), directory)), settings


def test_processes_that_may_not_be_read() -> None:
    """It goes on with the others, and says of each which; of them alone there is nothing to say."""
    with as_somebody() as (binary, settings), child(**settings) as mine:
        command = [str(binary), "sample", "--pid", "1", "--pid", str(mine), "--codec", "lz4"]
        facts = json.loads(subprocess.run(command, capture_output=True, check=True, **settings).stdout)
        command = [str(binary), "sample", "--pid", "1"]
        refused = subprocess.run(command, capture_output=True, text=True, check=False, **settings)
    assert [source.get("error") for source in facts["sources"]] == ["EACCES", None]
    assert facts["sources"][0]["anonymous"] > 0
    assert facts["sources"][0]["pages"] == 0 < len(facts["from"])
    assert refused.returncode == 3
    assert refused.stderr == "zcached: EACCES: 1 of 1 processes may not be read, the others have no such page\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--codec", "zip"], 2, "codec 'zip': not one of"),
        (["--page-size", "5000"], 2, "--page-size 5000: not the OS page size, "),
        (["--pages", "0"], 2, "--pages: not 1 to 262144: 0"),
        (["--seconds", "0"], 2, "--seconds: not 1 to 3600: 0"),
        (["--cpu", "101"], 2, "--cpu: not 1 to 100: 101"),
        (["--pid", "0"], 2, "--pid: not a process id: 0"),
        (["--pid", "1"] * 65, 2, "--pid: too many"),
        (["--pid", "1", "--file", "x"], 2, "--pid, --app or --file, not two of them"),
        (["--files", "--swapped"], 2, "--files, --swapped or --file, not two of them"),
        (["extra"], 2, "too many arguments: extra"),
        (["--file", "/nonexistent"], 1, "/nonexistent"),
        (["--file", "/dev/null"], 1, "/dev/null: no whole page in it"),
        (["--pid", "2147483647"], 3, "process 2147483647: it does not exist"),
        (["--app", "com.example.none"], 3, "no process of the app com.example.none"),
    ],
)
def test_what_is_wrong_is_said(words: list[str], code: int, said: str) -> None:
    done = sample(*words)
    assert done.returncode == code
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
