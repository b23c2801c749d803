# SPDX-License-Identifier: Apache-2.0
"""The Python binding of the compressed heap, against bytearrays; and what it does about views, children and pins."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support import BUILD, ROOT
from zcache_agent.heap import Faults, Heap, HeapFailed, NoLibrary, Region, library_path

PAGE = os.sysconf("SC_PAGESIZE")
MIB = 1 << 20


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZCACHE_LIBRARY", str(BUILD / "host" / "libzcache.so"))


@pytest.fixture(params=["thread", "sigbus"])
def heap(request: pytest.FixtureRequest) -> Iterator[Heap]:
    with Heap(faults=request.param) as heap:
        yield heap


class HeapMachine(RuleBasedStateMachine):
    """Regions next to bytearrays."""

    faults: Faults = "thread"
    pages = 40

    @initialize(budget=st.sampled_from([0, 8, 30]))
    def start(self, budget: int) -> None:
        self.heap = Heap(budget * PAGE, faults=self.faults)
        self.regions: list[tuple[Region, bytearray]] = []

    @precondition(lambda self: len(self.regions) < 3)
    @rule()
    def map(self) -> None:
        self.regions.append((self.heap.map(self.pages * PAGE), bytearray(self.pages * PAGE)))

    def _some(self, data: st.DataObject) -> tuple[Region, bytearray, int, int]:
        region, model = self.regions[data.draw(st.integers(0, len(self.regions) - 1))]
        start = data.draw(st.integers(0, len(model) - 1))
        return region, model, start, data.draw(st.integers(1, min(len(model) - start, 20 * PAGE)))

    @precondition(lambda self: self.regions)
    @rule(data=st.data(), byte=st.binary(min_size=1, max_size=8))
    def write(self, data: st.DataObject, byte: bytes) -> None:
        region, model, start, size = self._some(data)
        model[start : start + size] = region.memory[start : start + size] = (byte * size)[:size]

    @precondition(lambda self: self.regions)
    @rule(data=st.data(), what=st.sampled_from(["evict", "prefetch"]))
    def move(self, data: st.DataObject, what: str) -> None:
        region, _, start, size = self._some(data)
        moved = region.evict(start, size) if what == "evict" else region.prefetch(start, size)
        assert 0 <= moved <= len(self.regions) * self.pages

    @precondition(lambda self: self.regions)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        region, model, start, size = self._some(data)
        with region.pin(start, size) as memory:
            region.evict()
            assert self.heap.stats().pinned_pages == (start + size - 1) // PAGE - start // PAGE + 1
            reading, writing = os.pipe()
            most = min(size, 4096)
            assert os.write(writing, memory[:most]) == most
            assert os.read(reading, most) == model[start : start + most]
            os.close(reading)
            os.close(writing)
        assert self.heap.stats().pinned_pages == 0

    @rule(budget=st.sampled_from([0, 4, 60]))
    def budget(self, budget: int) -> None:
        self.heap.set_budget(budget * PAGE)

    @rule()
    def age(self) -> None:
        self.heap.age()

    @precondition(lambda self: self.regions)
    @rule(data=st.data())
    def compare(self, data: st.DataObject) -> None:
        region, model, start, size = self._some(data)
        assert region.memory[start : start + size] == model[start : start + size]

    @precondition(lambda self: self.regions)
    @rule()
    def unmap(self) -> None:
        region, model = self.regions.pop(0)
        assert region.memory == model
        region.close()

    @invariant()
    def adds_up(self) -> None:
        stats = self.heap.stats()
        assert stats.mapped_bytes == len(self.regions) * self.pages * PAGE
        assert stats.resident_pages + stats.stored_pages <= len(self.regions) * self.pages
        assert stats.lost == 0

    def teardown(self) -> None:
        for region, model in getattr(self, "regions", []):
            assert region.memory == model
            region.close()


@pytest.mark.parametrize("faults", ["thread", "sigbus"])
def test_it_holds_what_bytearrays_hold(faults: Faults) -> None:
    class Machine(HeapMachine):
        pass

    Machine.faults = faults
    run_state_machine_as_test(Machine, settings=settings(max_examples=25, stateful_step_count=30, deadline=None))


def test_more_than_the_budget(heap: Heap) -> None:
    heap.set_budget(MIB)
    with heap.map(16 * MIB) as memory:
        for at in range(0, len(memory), PAGE):
            memory[at : at + 8] = at.to_bytes(8, "little")
        assert all(memory[at : at + 8] == at.to_bytes(8, "little") for at in range(0, len(memory), PAGE))
        stats = heap.stats()
        assert stats.budget_bytes == MIB
        assert stats.resident_pages * PAGE < 4 * MIB
        assert stats.evicted > stats.stored_pages > 0
    assert heap.stats().mapped_bytes == 0


def test_system_calls_want_pinned_memory(heap: Heap) -> None:
    region = heap.map(4 * PAGE)
    region.memory[:] = b"x" * len(region)
    assert region.evict() == 4
    with Path("/dev/zero").open("rb", buffering=0) as zeros:
        with pytest.raises(OSError, match="Bad address"):
            zeros.readinto(region.memory)
        with region.pin(PAGE, PAGE) as memory:
            assert zeros.readinto(memory) == PAGE
    assert bytes(region.memory) == b"x" * PAGE + bytes(PAGE) + b"x" * (2 * PAGE)


def test_memory_lasts_as_long_as_views_of_it() -> None:
    with Heap() as heap, heap.map(2 * PAGE) as memory:
        view = memory[PAGE:]
        view[:5] = b"hello"
    assert bytes(view[:5]) == b"hello"
    with pytest.raises(ValueError, match="released"):
        memory[0]
    with pytest.raises(ValueError, match="closed"):
        heap.map(1)


def test_a_child_has_none_of_it(heap: Heap) -> None:
    with heap.map(PAGE) as memory:
        memory[0] = 7
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            os._exit(memory[0])
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGSEGV
        child = os.fork()
        if child == 0:
            del memory
            heap.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert memory[0] == 7


@pytest.mark.parametrize(("start", "size"), [(-1, 1), (0, PAGE + 1), (PAGE + 1, None), (0, -1)])
def test_ranges_are_checked(heap: Heap, start: int, size: int | None) -> None:
    with pytest.raises(ValueError, match="the region has"):
        heap.map(PAGE).evict(start, size)


def test_errors_name_what_and_why() -> None:
    with pytest.raises(HeapFailed, match="codec 'zip'") as failed:
        Heap(codec="zip")
    assert failed.value.name == "EINVAL"
    with pytest.raises(ValueError, match="one of thread, sigbus"):
        Heap(faults="magic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="-1"):
        Heap(-1)
    with Heap() as heap, pytest.raises(ValueError, match="0 bytes"):
        heap.map(0)


def test_the_library_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "lib.so").write_text("none")
    monkeypatch.setenv("ZCACHE_LIBRARY", str(tmp_path / "lib.so"))
    with pytest.raises(NoLibrary, match=r"lib\.so"):
        Heap()
    monkeypatch.delenv("ZCACHE_LIBRARY")
    monkeypatch.setattr("zcache_agent.heap._BUNDLED", tmp_path / "lib.so")
    assert library_path() == str(tmp_path / "lib.so")
    monkeypatch.setattr("zcache_agent.heap._BUNDLED", tmp_path / "none.so")
    monkeypatch.setattr("zcache_agent.heap.find_library", lambda name: None)
    with pytest.raises(NoLibrary, match="not found") as failed:
        library_path()
    assert "ZCACHE_LIBRARY" in failed.value.hint


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcache_agent.heap.__version__", "9.9")
    monkeypatch.setattr("zcache_agent.heap._load", __import__("zcache_agent.heap").heap._load.__wrapped__)
    with pytest.raises(NoLibrary, match=r"is version .*, the agent 9\.9"):
        Heap()


def test_the_documented_program_prints_what_is_shown(tmp_path: Path) -> None:
    text = (ROOT / "docs/heap.md").read_text()
    found = re.search(r"^```python\n(.*?)^```\n\n```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found
    program, shown = found.groups()
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert re.sub(r"\d+", "0", done.stdout) == re.sub(r"\d+", "0", shown)
