# SPDX-License-Identifier: Apache-2.0
"""Real pages to measure on: the memory of programs that run, and shared libraries. Kept under build/corpora."""

import struct
from collections.abc import Iterator
from pathlib import Path

from zcache_agent.transport import open_transport
from zcache_agent.workloads import available, running

CORPORA = Path("build/corpora")
PAGE_SIZE = 4096
MAX_BYTES = 48 * 1024 * 1024
SCALE = 12

_PRESENT, _FILE = 1 << 63, 1 << 61


def corpora() -> list[Path]:
    """Raw pages, a file a source; made anew where they are missing."""
    CORPORA.mkdir(parents=True, exist_ok=True)
    transport = open_transport("local", 120)
    found = []
    for workload in available(transport):
        path = CORPORA / f"{workload.name}.pages"
        if not path.exists():
            with running(transport, workload, SCALE) as pid:
                _write(path, anonymous_pages(pid))
        found.append(path)
    path = CORPORA / "libraries.pages"
    if not path.exists():
        _write(path, library_pages())
    return [*found, path]


def _write(path: Path, pages: Iterator[bytes]) -> None:
    new = path.with_suffix(".new")
    with new.open("wb") as out:
        for page in pages:
            out.write(page)
            if out.tell() >= MAX_BYTES:
                break
    new.rename(path)


def anonymous_pages(pid: int) -> Iterator[bytes]:
    """The resident anonymous pages of a process, in the order of their addresses; a run of four keeps together."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/pagemap").open("rb") as pagemap, Path(f"/proc/{pid}/mem").open("rb", buffering=0) as mem:
        for line in maps:
            area, rights, *_ = line.split()
            start, end = (int(bound, 16) for bound in area.split("-"))
            if not rights.startswith("r") or "[v" in line:
                continue
            pagemap.seek(start // PAGE_SIZE * 8)
            entries = pagemap.read((end - start) // PAGE_SIZE * 8)
            for number, (entry,) in enumerate(struct.iter_unpack("<Q", entries)):
                if entry & _PRESENT and not entry & _FILE:
                    mem.seek(start + number * PAGE_SIZE)
                    yield mem.read(PAGE_SIZE)


def library_pages() -> Iterator[bytes]:
    """Of the machine's largest shared libraries, a file's last page padded with zeros."""
    files = [path for path in Path("/usr/lib").rglob("*.so*") if path.is_file() and not path.is_symlink()]
    for path in sorted(files, key=lambda path: (-path.stat().st_size, str(path)))[:20]:
        content = path.read_bytes()[: 4 * 1024 * 1024]
        for at in range(0, len(content), PAGE_SIZE):
            yield content[at : at + PAGE_SIZE].ljust(PAGE_SIZE, b"\0")
