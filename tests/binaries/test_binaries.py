# SPDX-License-Identifier: Apache-2.0
"""What make build leaves behind: device binaries that any device of their ABI can run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from tests.support import BUILD, ROOT

MACHINES = {"arm64-v8a": "EM_AARCH64", "armeabi-v7a": "EM_ARM", "x86_64": "EM_X86_64"}
SEGMENT_ALIGNMENT = {"arm64-v8a": 65536, "armeabi-v7a": 65536, "x86_64": 16384}


@pytest.fixture(params=sorted(MACHINES))
def abi(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def elf(abi: str) -> Iterator[ELFFile]:
    with (BUILD / abi / "zcached").open("rb") as file:
        yield ELFFile(file)


def packaged(abi: str) -> Path:
    return ROOT / "agent/zcache_agent/_bin" / abi / "zcached"


@pytest.mark.parametrize("abi", ["host", *sorted(MACHINES)])
def test_agent_holds_the_binary_that_was_built(abi: str) -> None:
    assert packaged(abi).read_bytes() == (BUILD / abi / "zcached").read_bytes()


def test_it_is_of_its_machine(elf: ELFFile, abi: str) -> None:
    assert elf["e_machine"] == MACHINES[abi]


def test_it_is_small_and_stripped(elf: ELFFile, abi: str) -> None:
    assert packaged(abi).stat().st_size < 1 << 20
    assert elf.get_section_by_name(".symtab") is None
    assert elf.get_section_by_name(".debug_info") is None


def test_it_needs_nothing_of_the_device(elf: ELFFile) -> None:
    assert [s for s in elf.iter_segments() if s["p_type"] == "PT_INTERP"] == []
    needed = [
        tag
        for section in elf.iter_sections()
        if isinstance(section, DynamicSection)
        for tag in section.iter_tags("DT_NEEDED")
    ]
    assert needed == []


def test_it_loads_with_large_pages_and_anywhere(elf: ELFFile, abi: str) -> None:
    alignments = {s["p_align"] for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"}
    assert alignments == {SEGMENT_ALIGNMENT[abi]}
    assert elf["e_type"] == "ET_DYN"


def test_its_stacks_are_small_and_not_executable(elf: ELFFile) -> None:
    (stack,) = (s for s in elf.iter_segments() if s["p_type"] == "PT_GNU_STACK")
    assert stack["p_memsz"] == 131072
    assert stack["p_flags"] & 1 == 0


def test_library_exports_only_its_public_interface() -> None:
    headers = "".join(h.read_text() for h in (ROOT / "native/include/zcache").glob("*.h"))
    with (BUILD / "host/libzcache.so").open("rb") as file:
        table = ELFFile(file).get_section_by_name(".dynsym")
        assert isinstance(table, SymbolTableSection)
        exported = {s.name for s in table.iter_symbols() if s["st_shndx"] != "SHN_UNDEF"}
    assert exported
    assert {name for name in exported if f" {name}(" not in headers.replace("*", " ")} == set()
