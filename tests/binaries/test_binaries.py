# SPDX-License-Identifier: Apache-2.0
"""What make build leaves behind, by the rules of tools/elf_gate.py; and that each rule refuses what breaks it."""

from __future__ import annotations

import io
import mmap
import re
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from tests.support import BUILD, LZO, ROOT
from tools import elf_gate
from tools.elf_gate import MACHINES, RULES, Shipped, check, check_folder, shipped

PACKAGED = ROOT / elf_gate.FOLDER
BY_NAME = {what.name: what for what in shipped()}
DEVICE, HOST, LIBRARY = (BY_NAME[name] for name in ("x86_64/zcached", "host/zcached", "host/libzcache.so"))
RULES_HERE = tuple(rule for rule in RULES if not (LZO and rule is elf_gate.licence))


def content(what: Shipped) -> bytes:
    return (PACKAGED / what.name).read_bytes()


@pytest.mark.parametrize("what", shipped(), ids=lambda what: what.name)
def test_it_keeps_every_rule_and_is_what_was_built(what: Shipped) -> None:
    assert check(content(what), what, RULES_HERE) == []
    assert content(what) == (BUILD / what.name).read_bytes()


def test_each_abi_has_a_daemon() -> None:
    assert {name.partition("/")[0] for name in BY_NAME} == {"host", *MACHINES}


def test_a_folder_that_lacks_one_or_has_one_too_many_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "_bin"
    shutil.copytree(PACKAGED, folder)
    (folder / "x86_64/zcached").unlink()
    (folder / "x86_64/zcached-old").write_bytes(b"")
    faults = [fault for fault in check_folder(folder) if "GPL" not in fault]
    assert faults == [
        f"{folder}/x86_64/zcached: not built: make build",
        f"{folder}/x86_64/zcached-old: nothing says what it is to be: tools/elf_gate.py",
    ]
    assert len(check_folder(tmp_path / "nothing")) == len(shipped())


IN_SEGMENT = {"p_type": 0, "p_flags": 4, "p_offset": 8, "p_vaddr": 16, "p_memsz": 40, "p_align": 48}
"""Where a field is in a program header."""


class Patched:
    """A real one of 64 bits, to be damaged."""

    def __init__(self, what: Shipped) -> None:
        self.what = what
        self.bytes = bytearray(content(what))
        self.elf = ELFFile(io.BytesIO(content(what)))

    def header(self, offset: int, value: int) -> Patched:
        struct.pack_into("<H", self.bytes, offset, value)
        return self

    def segment(self, kind: str, field: str, value: int) -> Patched:
        """Of the last one of that kind."""
        number = [s["p_type"] for s in self.elf.iter_segments()][::-1].index(kind)
        at = self.elf["e_phoff"] + (self.elf["e_phnum"] - 1 - number) * self.elf["e_phentsize"] + IN_SEGMENT[field]
        struct.pack_into("<I" if field in ("p_type", "p_flags") else "<Q", self.bytes, at, value)
        return self

    def tag(self, old: int, new: int, value: int) -> Patched:
        """The first entry of the dynamic section with that tag becomes another one."""
        (dynamic,) = (s for s in self.elf.iter_segments() if s["p_type"] == "PT_DYNAMIC")
        for at in range(dynamic["p_offset"], dynamic["p_offset"] + dynamic["p_filesz"], 16):
            if struct.unpack_from("<Q", self.bytes, at)[0] == old:
                struct.pack_into("<QQ", self.bytes, at, new, value)
                return self
        raise AssertionError(f"no tag {old:#x}")

    def text(self, old: bytes, new: bytes) -> Patched:
        assert len(new) <= len(old)
        at = self.bytes.index(old)
        self.bytes[at : at + len(new)] = new
        return self

    def faults(self) -> list[str]:
        return check(bytes(self.bytes), self.what, RULES_HERE)


DEBUG, NEEDED, FLAGS, FLAGS_1, TEXTREL, RUNPATH = 21, 1, 30, 0x6FFFFFFB, 22, 29
HEADER_TYPE, HEADER_MACHINE = 16, 18
USAGE = b"usage: zcached run --dir DIR [--page-size N] [--limit BYTES] [--abstract] [--detach]\n"


def test_refuses_another_machine() -> None:
    assert "it is for EM_AARCH64, not EM_X86_64" in Patched(DEVICE).header(HEADER_MACHINE, 183).faults()


def test_refuses_what_is_no_elf_file() -> None:
    assert [fault.partition(":")[0] for fault in check(b"#!/bin/sh\n", DEVICE)] == ["no ELF file that can be read"]
    cut = content(DEVICE)[:100]
    assert [fault.partition(":")[0] for fault in check(cut, DEVICE)] == ["no ELF file that can be read"]


def test_refuses_one_that_is_too_large_or_not_stripped() -> None:
    assert "1048576 bytes; it must have less than 1048576" in check(content(DEVICE).ljust(1 << 20, b"\0"), DEVICE)
    named = Patched(DEVICE)
    names = named.elf.get_section(named.elf["e_shstrndx"])
    at = names["sh_offset"] + names.data().index(b".comment\0")
    named.bytes[at : at + 7] = b".debug\0"
    assert named.faults() == ["it is not stripped: .debug"]


def test_refuses_libraries_and_folders_of_its_own() -> None:
    assert "it needs " in " ".join(Patched(DEVICE).tag(DEBUG, NEEDED, 0).faults())
    assert "it has an interpreter (PT_INTERP), and is to run without" in (
        Patched(DEVICE).segment("PT_TLS", "p_type", 3).faults()
    )
    assert "it searches libraries in folders of its own (DT_RUNPATH)" in Patched(HOST).tag(DEBUG, RUNPATH, 1).faults()


def test_refuses_a_newer_glibc() -> None:
    faults = Patched(HOST).text(b"GLIBC_2.17\0", b"GLIBC_2.99\0").faults()
    assert "it needs GLIBC_2.99; the newest allowed is GLIBC_2.31" in faults


def test_refuses_what_is_bound_to_an_address() -> None:
    assert "it is not position independent: ET_EXEC" in Patched(DEVICE).header(HEADER_TYPE, 2).faults()
    assert Patched(DEVICE).tag(FLAGS_1, FLAGS_1, 1).faults() == [
        "it is no position-independent program: DF_1_PIE is missing"
    ]


def test_refuses_text_relocations() -> None:
    assert Patched(DEVICE).tag(DEBUG, TEXTREL, 0).faults() == ["it has text relocations (DT_TEXTREL)"]
    patched = Patched(DEVICE)
    rela = patched.elf.get_section_by_name(".rela.dyn")
    assert rela
    struct.pack_into("<Q", patched.bytes, rela["sh_offset"], patched.elf["e_entry"])
    assert patched.faults() == [f"a relocation changes {patched.elf['e_entry']:#x}, which is not writable"]


def test_refuses_partial_relro_and_none() -> None:
    assert Patched(HOST).tag(FLAGS, FLAGS, 0).tag(FLAGS_1, FLAGS_1, 0x8000000).faults() == [
        "it binds functions when they are called (no BIND_NOW): RELRO is partial"
    ]
    assert Patched(DEVICE).segment("PT_GNU_RELRO", "p_type", 0).faults() == ["0 segments PT_GNU_RELRO, not 1"]
    assert Patched(DEVICE).segment("PT_GNU_RELRO", "p_memsz", 8).faults() == [
        "its dynamic section is outside of PT_GNU_RELRO"
    ]


def test_refuses_an_executable_or_large_stack_and_none() -> None:
    assert Patched(DEVICE).segment("PT_GNU_STACK", "p_flags", 7).faults() == ["its stack is executable"]
    assert Patched(DEVICE).segment("PT_GNU_STACK", "p_memsz", 8 << 20).faults() == [
        "its stacks have 8388608 bytes; the most is 262144"
    ]
    assert Patched(LIBRARY).segment("PT_GNU_STACK", "p_type", 0).faults() == ["0 segments PT_GNU_STACK, not 1"]


def test_refuses_segments_for_small_pages_only() -> None:
    (fault,) = Patched(DEVICE).segment("PT_LOAD", "p_align", 4096).faults()
    assert fault.endswith("is aligned to 4096 bytes, not to 16384")
    (fault,) = Patched(DEVICE).segment("PT_LOAD", "p_offset", 8).faults()
    assert fault.endswith("is not where its alignment demands")


def test_refuses_segments_that_are_writable_and_executable() -> None:
    (fault,) = Patched(DEVICE).segment("PT_LOAD", "p_flags", 7).faults()
    assert fault.endswith("is writable and executable")


def test_refuses_paths_of_the_machine_that_built_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(ROOT) in elf_gate.build_paths()
    monkeypatch.setattr(elf_gate, "build_paths", lambda: ["/where/it/was/built"])
    at = content(DEVICE).index(USAGE)
    assert Patched(DEVICE).text(USAGE, b"/where/it/was/built/native/zcached/main.c\0").faults() == [
        f"it names /where/it/was/built, of the machine that built it, at {at:#x}"
    ]
    assert Patched(DEVICE).text(USAGE, b"/where/it/was/built-other\0").faults() == []


def test_refuses_one_that_is_gpl() -> None:
    patched = Patched(DEVICE).text(USAGE, b"0.1.0 (with LZO: GPL-2.0-or-later)\0")
    assert check(bytes(patched.bytes), DEVICE) == [
        "it has minilzo in it, and is GPL-2.0-or-later: build it without LZO=1"
    ]


@pytest.mark.parametrize("abi", ["host", *(abi for abi, machine in MACHINES.items() if machine == HOST.machine)])
def test_what_is_relocated_is_read_only_while_it_runs(abi: str, tmp_path: Path) -> None:
    """The C library of static programs leaves it writable; native/zcached/relro.c does not."""
    path = PACKAGED / abi / "zcached"
    (relro,) = (s for s in ELFFile(io.BytesIO(path.read_bytes())).iter_segments() if s["p_type"] == "PT_GNU_RELRO")
    with subprocess.Popen([path, "run", "--dir", tmp_path / "run"]) as daemon:
        try:
            while not (tmp_path / "run/control.sock").exists():
                assert daemon.poll() is None
                time.sleep(0.01)
            maps = Path(f"/proc/{daemon.pid}/maps").read_text()
        finally:
            daemon.terminate()
    ours = re.findall(rf"^(\w+)-(\w+) (\S+) .* {re.escape(str(path))}$", maps, re.MULTILINE)
    base = min(int(start, 16) for start, _, _ in ours)
    first, last = base + relro["p_vaddr"], (base + relro["p_vaddr"] + relro["p_memsz"]) & -mmap.PAGESIZE
    assert {rights for start, end, rights in ours if int(start, 16) < last and int(end, 16) > first} == {"r--p"}


def test_library_exports_only_its_public_interface() -> None:
    headers = "".join(h.read_text() for h in (ROOT / "native/include/zcache").glob("*.h"))
    with (BUILD / "host/libzcache.so").open("rb") as file:
        table = ELFFile(file).get_section_by_name(".dynsym")
        assert isinstance(table, SymbolTableSection)
        exported = {s.name for s in table.iter_symbols() if s["st_shndx"] != "SHN_UNDEF"}
    assert exported
    assert {name for name in exported if f" {name}(" not in headers.replace("*", " ")} == set()
