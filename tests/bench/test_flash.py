# SPDX-License-Identifier: Apache-2.0
"""Where the kernel is told to write no faster."""

from pathlib import Path

import pytest

from bench import flash
from bench.errors import BenchError


def mounted(monkeypatch: pytest.MonkeyPatch, directory: Path, *mounts: str) -> None:
    file = directory / "mounts"
    file.write_text("".join(f"cgroup {mount} 0 0\n" for mount in mounts))
    monkeypatch.setattr(flash, "MOUNTS", file)


def test_either_version_of_cgroups_will_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cgroup.subtree_control").write_text("cpu io memory\n")
    mounted(monkeypatch, tmp_path, "/c/cpu cgroup rw,cpu", "/c/blkio cgroup rw,relatime,blkio")
    assert flash.hierarchy() == (Path("/c/blkio"), flash.VERSIONS["cgroup"])
    mounted(monkeypatch, tmp_path, f"{tmp_path} cgroup2 rw")
    assert flash.hierarchy() == (tmp_path, flash.VERSIONS["cgroup2"])


def test_no_cgroup_for_block_io_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory\n")
    mounted(monkeypatch, tmp_path, "/c/cpu cgroup rw,cpu", f"{tmp_path} cgroup2 rw")
    with pytest.raises(BenchError, match="mount blkio"):
        flash.hierarchy()
