# SPDX-License-Identifier: Apache-2.0
"""Makes a release: `make dist`, docs/release.md. Of the same sources it makes the same bytes, wherever and whenever."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.elf_gate import FOLDER, check_folder

from .parts import write_licences
from .sbom import sbom

SUMS = "SHA256SUMS"
LICENCES = Path("licenses")
MANUAL = Path("man")
_VERSION_FILE = Path("agent/zcache_agent/__init__.py")
_GENERATED = re.compile(r"PKG-INFO|setup\.cfg|agent/zcache_agent\.egg-info/.*|licenses/[^/]+\.txt|man/.*|" + rf"{FOLDER}/.*")
"""What a source distribution has and git ignores."""


class DistFailed(Exception):
    """In one line."""


def make(target: Path) -> None:
    """Fills a folder: an earlier release in it goes, and nothing else may be in it."""
    if faults := check_folder(FOLDER):
        raise DistFailed(faults[0])
    os.umask(0o022)  # setuptools writes files of its own into the wheel, with their modes
    os.environ["SOURCE_DATE_EPOCH"] = str(source_date())
    _clear(target)
    write_licences(LICENCES)
    _run_ours("tools.manpages", MANUAL)
    source = _make_sdist(target)
    _make_wheel(source, target)
    number = version()
    _run_ours("tools.module", target / f"zcache-module-{number}.zip")
    (target / f"zcache-{number}.cdx.json").write_text(sbom(number, source_date()))
    (target / SUMS).write_text(_sums(target))


def _run_ours(module: str, target: Path) -> None:
    """With the agent of this tree, not of the venv's."""
    _run([sys.executable, "-m", module, str(target)], env=os.environ | {"PYTHONPATH": "agent"})


def _clear(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    there = set(target.iterdir())
    ours = {path for path in there if path.name == SUMS or path.name.startswith(("zcache-", "zcache_agent-"))}
    if others := sorted(there - ours):
        raise DistFailed(f"{others[0]}: it is of no release; name a folder that is new, or has one")
    for path in ours:
        path.unlink()


def version() -> str:
    match = re.search(r'^__version__ = "(.+)"$', _VERSION_FILE.read_text(), re.MULTILINE)
    assert match
    return match[1]


def source_date() -> int:
    """SOURCE_DATE_EPOCH, else of the last commit, else of the source distribution that this is."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    if Path(".git").exists():
        return int(_run(["git", "log", "-1", "--format=%ct"]))
    try:
        return int(Path("PKG-INFO").stat().st_mtime)
    except OSError:
        raise DistFailed("neither a clone nor a source distribution: set SOURCE_DATE_EPOCH") from None


def _make_sdist(target: Path) -> Path:
    """By setuptools, out of MANIFEST.in; then packed again, with one time, one owner and sorted."""
    with tempfile.TemporaryDirectory() as made:
        (archive,) = _build("--sdist", Path.cwd(), Path(made))
        packed = target / archive.name
        packed.write_bytes(_repacked(archive.read_bytes(), source_date()))
    if Path(".git").exists():
        _compare_with_git(packed)
    return packed


def _repacked(archive: bytes, epoch: int) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as old, tarfile.open(fileobj=plain, mode="w") as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            normal = tarfile.TarInfo(member.name)
            normal.type, normal.size, normal.mtime = member.type, member.size, epoch
            normal.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            new.addfile(normal, old.extractfile(member) if member.isfile() else None)
    return gzip.compress(plain.getvalue(), mtime=epoch)


def _compare_with_git(archive: Path) -> None:
    listed = _run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]).split("\0")
    known = {name for name in listed if Path(name).is_file()}  # a test's link to /dev/null is none
    with tarfile.open(archive) as source:
        there = {member.name.partition("/")[2] for member in source.getmembers() if member.isfile()}
    ours = {name for name in there if not _GENERATED.fullmatch(name)}
    if missing := sorted(known - ours):
        raise DistFailed(f"{archive.name}: {missing[0]} is not in it: name it in MANIFEST.in")
    if surplus := sorted(ours - known):
        raise DistFailed(f"{archive.name}: {surplus[0]} is in it, and git ignores it: remove it")


def _make_wheel(source: Path, target: Path) -> None:
    """Out of the source distribution, as pip would: what is not in there is in no wheel."""
    with tempfile.TemporaryDirectory() as folder:
        _build("--wheel", unpack(source, Path(folder)), target)


def unpack(source: Path, folder: Path) -> Path:
    """Returns the folder in it that has everything."""
    shutil.unpack_archive(source, folder)
    (unpacked,) = folder.iterdir()
    return unpacked


def _build(kind: str, tree: Path, target: Path) -> list[Path]:
    before = set(target.iterdir())
    uv = [sys.executable, "-m", "uv", "build", "--quiet", kind, "--no-build-isolation", "--no-create-gitignore"]
    _run([*uv, "--python", sys.executable, "--out-dir", str(target.absolute()), str(tree)])
    return sorted(set(target.iterdir()) - before)


def _sums(folder: Path) -> str:
    """As sha256sum -c reads it."""
    files = sorted(path for path in folder.iterdir() if path.name != SUMS)
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)


def verify(release: Path) -> None:
    """Builds the source distribution where nothing of this tree is but the tools of its venv, and makes a release there."""
    release = release.absolute()
    source = next(release.glob("*.tar.gz"), None)
    if not source or not (release / SUMS).exists():
        raise DistFailed(f"{release}: no release is in it: python -m tools.dist make {release}")
    with tempfile.TemporaryDirectory() as folder:
        tree = unpack(source, Path(folder))
        for made in (*(tree / FOLDER).rglob("*"), *(tree / LICENCES).glob("*.txt"), *(tree / MANUAL).glob("*")):
            if made.is_file():
                made.unlink()
        venv = Path(sys.prefix).absolute()
        clean = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
        _run(["make", f"VENV={venv}", "-o", f"{venv}/.stamp", "build"], cwd=tree, env=clean)
        _run([sys.executable, "-m", "tools.dist", "make", "build/dist"], cwd=tree, env=clean)
        here, there = (_read_sums(folder / SUMS) for folder in (release, tree / "build/dist"))
        differ = sorted({name for name, _ in here ^ there})
    if differ:
        raise DistFailed(f"{', '.join(differ)}: built twice, and the bytes differ")


def _read_sums(file: Path) -> set[tuple[str, str]]:
    lines = file.read_text().splitlines()
    return {(name, digest) for digest, _, name in (line.partition("  ") for line in lines)}


def _run(command: Sequence[str], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, check=False)
    if ended.returncode:
        said = (ended.stderr.strip() or ended.stdout.strip() or f"exit code {ended.returncode}").splitlines()[-1]
        raise DistFailed(f"{' '.join(command[:4])}: {said}")
    return ended.stdout
