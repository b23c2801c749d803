# SPDX-License-Identifier: Apache-2.0
"""Where a replay's pages come from: a raw page dump, or a tar of files. Nothing is held whole in memory."""

import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from .errors import CheckFailed, Usage

_DAMAGED = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)


class Source(Protocol):
    """Pages that can be walked any number of times and are the same ones each time."""

    @property
    def name(self) -> str: ...

    @property
    def tail_bytes(self) -> int:
        """Bytes after the last whole page: no page carries them."""

    def pages(self) -> Iterator[bytes]: ...

    def progress(self) -> float:
        """The part of the present walk that is done, 0..1."""


@dataclass
class _File:
    """A regular file that must stay as it is until the last walk ended."""

    file: BinaryIO
    name: str
    page_size: int

    def __post_init__(self) -> None:
        self._stamp = self._look()

    def _look(self) -> tuple[int, int]:
        now = os.fstat(self.file.fileno())
        return now.st_size, now.st_mtime_ns

    @property
    def size(self) -> int:
        return self._stamp[0]

    def progress(self) -> float:
        return min(1.0, self.file.tell() / max(1, self.size))

    def check_unchanged(self) -> None:
        if self._look() != self._stamp:
            raise CheckFailed(f"{self.name} changed while it was replayed", hint="replay a copy of it")


class Dump(_File):
    """A raw page dump, cut at the page size."""

    @property
    def tail_bytes(self) -> int:
        return self.size % self.page_size

    def pages(self) -> Iterator[bytes]:
        self.file.seek(0)
        for _ in range(self.size // self.page_size):
            page = self.file.read(self.page_size)
            if len(page) != self.page_size:
                break
            yield page
        self.check_unchanged()


class Tar(_File):
    """Each regular member of a tar, plain or compressed, cut by itself; its last page is zero-padded."""

    tail_bytes = 0

    def pages(self) -> Iterator[bytes]:
        self.file.seek(0)
        try:
            with tarfile.open(fileobj=self.file) as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # it remembers every member it met
                    if member.isreg():
                        yield from self._cut(tar, member)
                self._check_end(tar)
        except _DAMAGED as error:
            self.check_unchanged()
            raise Usage(f"{self.name}: damaged archive: {error}", hint="make it again, or replay a raw dump") from error
        self.check_unchanged()

    def _cut(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
        content = tar.extractfile(member)
        assert content is not None  # a regular member has content
        with content:
            while chunk := content.read(self.page_size):
                yield chunk.ljust(self.page_size, b"\0")

    def _check_end(self, tar: tarfile.TarFile) -> None:
        """tarfile takes a damaged header for the end of the archive; only zeros, or nothing, are one."""
        assert tar.fileobj is not None
        tar.fileobj.seek(tar.offset)
        if any(tar.fileobj.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError(f"bad header at {tar.offset}")


def _is_tar(file: BinaryIO) -> bool:
    """A dump may begin with zeros, which tarfile takes for an empty archive."""
    try:
        with tarfile.open(fileobj=file) as tar:
            return tar.next() is not None
    except _DAMAGED:
        return False


@contextmanager
def open_source(path: Path, page_size: int) -> Iterator[Source]:
    """The pages of a file. Usage: no regular file, or no whole page in it."""
    what = "name a dump of pages or a tar of files"
    if not path.exists():
        raise Usage(f"{path}: no such file", hint=what)
    if not path.is_file():
        raise Usage(f"{path}: not a regular file", hint=what)
    try:
        file = path.open("rb")
    except OSError as error:
        raise Usage(f"{path}: {error.strerror}", hint="name a file that can be read") from error
    with file:
        kind = Tar if _is_tar(file) else Dump
        source = kind(file, str(path), page_size)
        if next(source.pages(), None) is None:
            raise Usage(f"{path}: no whole page in it: a page of this store is {page_size} bytes", hint=what)
        yield source
