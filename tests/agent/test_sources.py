# SPDX-License-Identifier: Apache-2.0
"""Where pages come from: each file below is real and is read through tarfile or as it is."""

import io
import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zcache_agent.errors import CheckFailed, Usage
from zcache_agent.sources import Source, open_source

PAGE = 4096


def make_tar(path: Path, members: list[bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for number, content in enumerate(members):
            info = tarfile.TarInfo(f"member-{number}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def cut(content: bytes, page_size: int) -> list[bytes]:
    return [content[start : start + page_size].ljust(page_size, b"\0") for start in range(0, len(content), page_size)]


def walk(path: Path, page_size: int = PAGE) -> tuple[list[bytes], int]:
    with open_source(path, page_size) as source:
        first = list(source.pages())
        assert list(source.pages()) == first, "a second walk sees other pages"
        assert 0 < source.progress() <= 1
        return first, source.tail_bytes


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
def test_a_dump_is_cut_at_the_page_size_and_its_tail_reported(tmp_path: Path, page_size: int) -> None:
    content = os.urandom(3 * page_size + 123)
    path = tmp_path / "dump"
    path.write_bytes(content)
    assert walk(path, page_size) == (cut(content[: 3 * page_size], page_size), 123)


def test_a_dump_that_begins_with_zeros_is_no_tar(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_bytes(bytes(2 * PAGE) + b"x" * PAGE)
    pages, tail = walk(path)
    assert (len(pages), tail) == (3, 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members=st.lists(st.binary(max_size=3 * PAGE), min_size=1, max_size=5).filter(any))
def test_each_member_of_a_tar_is_cut_by_itself(tmp_path: Path, members: list[bytes]) -> None:
    path = make_tar(tmp_path / "some.tar", members)
    expected = [page for content in members for page in cut(content, PAGE)]
    assert walk(path) == (expected, 0)


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2"])
def test_compressed_tars(tmp_path: Path, mode: str) -> None:
    members = [b"a" * 5000, os.urandom(9000)]
    path = make_tar(tmp_path / "some", members, mode)
    assert walk(path) == ([page for m in members for page in cut(m, PAGE)], 0)


def test_only_regular_members_count(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(b"content")
    os.link(tmp_path / "tree/file", tmp_path / "tree/hard")
    (tmp_path / "tree/soft").symlink_to("file")
    with tarfile.open(tmp_path / "tree.tar", "w") as tar:
        tar.add(tmp_path / "tree", "tree")
    assert walk(tmp_path / "tree.tar") == (cut(b"content", PAGE), 0)


def test_memory_does_not_grow_with_the_source(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "many.tar", [os.urandom(PAGE)] * 4000)
    tracemalloc.start()
    try:
        with open_source(path, PAGE) as source:
            assert sum(1 for _ in source.pages()) == 4000
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def refused(path: Path, page_size: int = PAGE) -> str:
    with pytest.raises(Usage) as caught, open_source(path, page_size) as source:
        list(source.pages())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 4095])
def test_a_source_of_no_whole_page(tmp_path: Path, size: int) -> None:
    path = tmp_path / "short"
    path.write_bytes(b"x" * size)
    assert "no whole page" in refused(path)
    assert "4096" in refused(path)


def test_a_tar_of_empty_files_has_no_page(tmp_path: Path) -> None:
    assert "no whole page" in refused(make_tar(tmp_path / "empty.tar", [b"", b""]))


def test_what_is_no_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert "no such file" in refused(tmp_path / "missing")
    assert "not a regular file" in refused(tmp_path)
    assert "not a regular file" in refused(fifo)
    assert "not a regular file" in refused(Path("/dev/zero"))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_truncated_archive_is_named(tmp_path: Path, mode: str) -> None:
    path = make_tar(tmp_path / "cut", [os.urandom(40000), os.urandom(40000)], mode)
    os.truncate(path, path.stat().st_size // 2)
    assert "damaged archive" in refused(path)


def test_a_damaged_header_is_not_the_end(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "bad.tar", [b"x" * 512, b"y" * 512])
    with path.open("r+b") as file:
        file.seek(1024)  # the second member's header
        file.write(b"\xff" * 64)
    assert "damaged archive" in refused(path)


def test_a_source_that_changes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_bytes(b"x" * 3 * PAGE)
    with open_source(path, PAGE) as source:
        path.write_bytes(b"y" * 4 * PAGE)
        with pytest.raises(CheckFailed, match="changed while"):
            list(source.pages())


def test_a_walk_that_is_left_early_can_begin_again(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "some.tar", [b"1" * PAGE, b"2" * PAGE])

    def first(source: Source) -> bytes:
        return next(source.pages())

    with open_source(path, PAGE) as source:
        assert first(source) == first(source) == b"1" * PAGE
