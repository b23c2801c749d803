# SPDX-License-Identifier: Apache-2.0
"""Check every binary that is shipped: any device of its ABI can run it, and it is hardened.

    python -m tools.elf_gate [FOLDER]    else agent/zcache_agent/_bin, which make build fills

Each rule is a function that yields what is wrong; docs/release.md has them in words.
"""

from __future__ import annotations

import io
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.constants import P_FLAGS
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

FOLDER = Path("agent/zcache_agent/_bin")
ROOT = Path(__file__).parent.parent

MAX_STACK = 256 * 1024
MAX_DAEMON = 1 << 20
MAX_LINE = 40 * 1024
"""It goes through a board's shell."""
GLIBC = (2, 31)
"""The newest symbols that what runs on a host may need: those of Debian 11 and Ubuntu 20.04."""
GLIBC_LIBRARIES = frozenset({"libc.so.6", "libpthread.so.0"})

# The largest page of a kernel that runs such programs; a loader refuses segments aligned to less. 32-bit kernels have
# pages of 4 KiB, but a 64-bit one of up to 64 KiB may run 32-bit programs, too.
ALIGNMENT = {"EM_AARCH64": 65536, "EM_ARM": 65536, "EM_X86_64": 16384}
MACHINES = {"arm64-v8a": "EM_AARCH64", "armeabi-v7a": "EM_ARM", "x86_64": "EM_X86_64"}
HOSTS = {"aarch64": "EM_AARCH64", "armv7l": "EM_ARM", "x86_64": "EM_X86_64"}


@dataclass(frozen=True)
class Shipped:
    """A file of FOLDER, and what it is to be."""

    name: str
    machine: str
    needs: frozenset[str] = frozenset()
    """Libraries of the system's. Without any it is static."""
    is_library: bool = False
    max_bytes: int | None = None


def shipped() -> list[Shipped]:
    host = HOSTS[platform.machine()]
    return [
        *(Shipped(f"{abi}/zcached", machine, max_bytes=MAX_DAEMON) for abi, machine in MACHINES.items()),
        *(Shipped(f"{abi}/zcline", machine, max_bytes=MAX_LINE) for abi, machine in MACHINES.items()),
        Shipped("host/zcached", host, GLIBC_LIBRARIES, max_bytes=MAX_DAEMON),
        Shipped("host/libzcache.so", host, GLIBC_LIBRARIES, is_library=True),
        Shipped("host/libzcsim.so", host, GLIBC_LIBRARIES, is_library=True),
    ]


class Elf:
    """One file, read."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.file = ELFFile(io.BytesIO(content))
        self.segments = list(self.file.iter_segments())

    def of_kind(self, kind: str) -> list[Any]:
        return [segment for segment in self.segments if segment["p_type"] == kind]

    @cached_property
    def dynamic(self) -> DynamicSegment | None:
        return next((segment for segment in self.segments if isinstance(segment, DynamicSegment)), None)

    def tags(self, name: str) -> list[Any]:
        return list(self.dynamic.iter_tags(name)) if self.dynamic else []

    def flags(self, name: str) -> int:
        return sum(tag["d_val"] for tag in self.tags(name))


Rule = Callable[[Elf, Shipped], Iterator[str]]


def machine(elf: Elf, what: Shipped) -> Iterator[str]:
    if elf.file["e_machine"] != what.machine:
        yield f"it is for {elf.file['e_machine']}, not {what.machine}"


def size(elf: Elf, what: Shipped) -> Iterator[str]:
    if what.max_bytes and len(elf.content) >= what.max_bytes:
        yield f"{len(elf.content)} bytes; it must have less than {what.max_bytes}"
    for section in elf.file.iter_sections():
        if section.name == ".symtab" or section.name.startswith(".debug"):
            yield f"it is not stripped: {section.name}"


def needs(elf: Elf, what: Shipped) -> Iterator[str]:
    """Static, or nothing but the C library."""
    found = {tag.needed for tag in elf.tags("DT_NEEDED")}
    if surplus := found - what.needs:
        yield f"it needs {', '.join(sorted(surplus))}"
    if elf.of_kind("PT_INTERP") and (what.is_library or not what.needs):
        yield "it has an interpreter (PT_INTERP), and is to run without"
    for name in ("DT_RPATH", "DT_RUNPATH"):
        if elf.tags(name):
            yield f"it searches libraries in folders of its own ({name})"


def glibc(elf: Elf, _what: Shipped) -> Iterator[str]:
    for section in elf.file.iter_sections():
        if not isinstance(section, GNUVerNeedSection):
            continue
        for _, versions in section.iter_versions():
            for version in versions:
                if (numbers := _glibc_version(version.name)) and numbers > GLIBC:
                    yield f"it needs {version.name}; the newest allowed is GLIBC_{GLIBC[0]}.{GLIBC[1]}"


def _glibc_version(name: str) -> tuple[int, ...]:
    match = re.fullmatch(r"GLIBC_(\d+(?:\.\d+)+)", name)
    return tuple(map(int, match[1].split("."))) if match else ()


def anywhere(elf: Elf, what: Shipped) -> Iterator[str]:
    """It can be loaded at any address, and is in no segment that would have to be changed for that."""
    if elf.file["e_type"] != "ET_DYN":
        yield f"it is not position independent: {elf.file['e_type']}"
    if not what.is_library and not elf.flags("DT_FLAGS_1") & 0x8000000:
        yield "it is no position-independent program: DF_1_PIE is missing"
    if elf.tags("DT_TEXTREL") or elf.flags("DT_FLAGS") & 0x4:
        yield "it has text relocations (DT_TEXTREL)"
    writable = [s for s in elf.of_kind("PT_LOAD") if s["p_flags"] & P_FLAGS.PF_W]
    tables: Any = elf.dynamic.get_relocation_tables() if elf.dynamic else {}
    for table in tables.values():
        for relocation in table.iter_relocations():
            at = relocation["r_offset"]
            if not any(s["p_vaddr"] <= at < s["p_vaddr"] + s["p_memsz"] for s in writable):
                yield f"a relocation changes {at:#x}, which is not writable"
                return


def relro(elf: Elf, _what: Shipped) -> Iterator[str]:
    """All that is relocated at the start is read-only from then on: in one segment, with nothing bound later."""
    protected = elf.of_kind("PT_GNU_RELRO")
    if len(protected) != 1:
        yield f"{len(protected)} segments PT_GNU_RELRO, not 1"
        return
    start, end = protected[0]["p_vaddr"], protected[0]["p_vaddr"] + protected[0]["p_memsz"]
    for segment in elf.of_kind("PT_DYNAMIC"):
        if not start <= segment["p_vaddr"] < end:
            yield "its dynamic section is outside of PT_GNU_RELRO"
    if not (elf.tags("DT_BIND_NOW") or elf.flags("DT_FLAGS") & 0x8 or elf.flags("DT_FLAGS_1") & 0x1):
        yield "it binds functions when they are called (no BIND_NOW): RELRO is partial"


def stack(elf: Elf, _what: Shipped) -> Iterator[str]:
    """Not executable; musl gives each thread a stack of this size, which is real memory once memory is locked."""
    stacks = elf.of_kind("PT_GNU_STACK")
    if len(stacks) != 1:
        yield f"{len(stacks)} segments PT_GNU_STACK, not 1"
        return
    if stacks[0]["p_flags"] & P_FLAGS.PF_X:
        yield "its stack is executable"
    if stacks[0]["p_memsz"] > MAX_STACK:
        yield f"its stacks have {stacks[0]['p_memsz']} bytes; the most is {MAX_STACK}"


def segments(elf: Elf, what: Shipped) -> Iterator[str]:
    for segment in elf.of_kind("PT_LOAD"):
        at, alignment = segment["p_vaddr"], segment["p_align"]
        if segment["p_flags"] & P_FLAGS.PF_W and segment["p_flags"] & P_FLAGS.PF_X:
            yield f"its segment at {at:#x} is writable and executable"
        if alignment < ALIGNMENT[what.machine] or alignment & (alignment - 1):
            yield f"its segment at {at:#x} is aligned to {alignment} bytes, not to {ALIGNMENT[what.machine]}"
        elif (at - segment["p_offset"]) % alignment:
            yield f"its segment at {at:#x} is not where its alignment demands"


def paths(elf: Elf, _what: Shipped) -> Iterator[str]:
    for path in build_paths():
        # Not a path that only begins with it.
        if found := re.search(re.escape(path.encode()) + rb"(?![\w.-])", elf.content):
            yield f"it names {path}, of the machine that built it, at {found.start():#x}"


def build_paths() -> list[str]:
    """The checkout, where Python and zig are, this user's home; what they are links to, too."""
    places = [ROOT, Path(sys.prefix), Path.home()]
    if (temporary := Path(tempfile.gettempdir())) != Path("/tmp"):  # noqa: S108 - zcached knows that one by itself
        places.append(temporary)
    everywhere = {str(form) for place in places for form in (place.absolute(), place.resolve())}
    return sorted(everywhere - {"/"})


def licence(elf: Elf, _what: Shipped) -> Iterator[str]:
    """native/store/store.c says it in a build with LZO=1, which may not go under our licence."""
    if b"GPL-2.0-or-later" in elf.content:
        yield "it has minilzo in it, and is GPL-2.0-or-later: build it without LZO=1"


RULES: tuple[Rule, ...] = (machine, size, needs, glibc, anywhere, relro, stack, segments, paths, licence)


def check(content: bytes, what: Shipped, rules: tuple[Rule, ...] = RULES) -> list[str]:
    try:
        elf = Elf(content)
        return [fault for rule in rules for fault in rule(elf, what)]
    except (ELFError, ValueError, KeyError, UnicodeDecodeError) as error:
        return [f"no ELF file that can be read: {error}"]


def check_folder(folder: Path) -> list[str]:
    """What is wrong with a folder of binaries: also one that is missing, and one that no rule knows."""
    faults: list[str] = []
    expected = shipped()
    for what in expected:
        path = folder / what.name
        if not path.is_file():
            faults.append(f"{path}: not built: make build")
            continue
        faults += [f"{path}: {fault}" for fault in check(path.read_bytes(), what)]
    known = {folder / what.name for what in expected}
    there = {path for path in folder.rglob("*") if not path.is_dir()}
    return faults + [f"{path}: nothing says what it is to be: tools/elf_gate.py" for path in sorted(there - known)]


def main() -> int:
    faults = check_folder(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
