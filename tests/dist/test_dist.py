# SPDX-License-Identifier: Apache-2.0
"""What make dist makes: what is in it, that it is the same bytes anywhere, and zcache out of the wheel alone."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import shutil
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from typing import Any

import cyclonedx.schema
import pytest

from tests import release as made
from tests.agent.conftest import Zcache, fails
from tests.support import ROOT
from tools.dist import parts
from tools.elf_gate import FOLDER, shipped

pytestmark = pytest.mark.minutes(2)


@pytest.fixture
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.release(tmp_path_factory)


@pytest.fixture
def wheel(release: Path) -> Iterator[zipfile.ZipFile]:
    (path,) = release.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.venv(tmp_path_factory)


@pytest.fixture
def zcache(venv: Path, tmp_path: Path) -> Zcache:
    return made.zcache(venv, tmp_path, {"ZCACHE_SERIAL": "local", "ZCACHE_DIR": str(tmp_path / "run")})


def tracked(folder: str) -> set[str]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", folder]
    names = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return {name for name in names.split("\0") if (ROOT / name).is_file()}


def test_the_wheel_has_the_agent_the_binaries_the_licences_and_no_more(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    package = {name for name in names if not name.startswith("zcache_agent-")}
    binaries = {f"{FOLDER}/{what.name}" for what in shipped()}
    assert {f"agent/{name}" for name in package} == tracked("agent") | binaries
    for what in shipped():
        info = wheel.getinfo(f"zcache_agent/_bin/{what.name}")
        assert wheel.read(info) == (ROOT / FOLDER / what.name).read_bytes()
        assert stat.S_IMODE(info.external_attr >> 16) == 0o755
    manual = {name.partition(".data/data/share/")[2] for name in names if ".data/" in name}
    assert manual == {"man/man1/zcache.1", "man/man8/zcached.8"}
    licences = {name.partition(".dist-info/licenses/")[2] for name in names if ".dist-info/licenses/" in name}
    assert licences == {"LICENSE", "licenses/README.md", *(f"licenses/{part.name}.txt" for part in parts.PARTS)}


def test_the_wheel_is_for_any_host_and_says_its_licences(wheel: zipfile.ZipFile) -> None:
    assert wheel.filename
    assert wheel.filename.endswith("-py3-none-any.whl")
    (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    facts = message_from_bytes(wheel.read(name))
    stated = set(facts["License-Expression"].split(" AND "))
    assert stated == {"Apache-2.0", *(part.licence for part in parts.PARTS)}


def test_each_licence_is_a_text_with_its_copyright() -> None:
    for part in parts.PARTS:
        text = part.licence_text()
        assert "copyright" in text.lower()
        assert "WARRANT" in text.upper()
        assert "GNU" not in text


def test_the_source_distribution_has_all_that_git_knows(release: Path) -> None:
    (path,) = release.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    names = {member.name.partition("/")[2] for member in members if member.isfile()}
    assert tracked(".") <= names
    assert {f"{FOLDER}/{what.name}" for what in shipped()} <= names
    assert {(member.uid, member.gid, member.uname) for member in members} == {(0, 0, "")}
    assert len({member.mtime for member in members}) == 1


def test_checksums_are_those_of_all_files(release: Path) -> None:
    files = {path.name for path in release.iterdir()} - {"SHA256SUMS"}
    lines = (release / "SHA256SUMS").read_text().splitlines()
    assert {line.partition("  ")[2] for line in lines} == files
    for line in lines:
        digest, _, name = line.partition("  ")
        assert hashlib.sha256((release / name).read_bytes()).hexdigest() == digest


def test_it_is_the_same_out_of_the_source_distribution_elsewhere(release: Path, tmp_path: Path) -> None:
    (source,) = release.glob("*.tar.gz")
    shutil.unpack_archive(source, tmp_path)
    (tree,) = tmp_path.iterdir()
    (tree / "build").mkdir()
    (tree / "build/third_party").symlink_to(ROOT / "build/third_party")
    old = os.umask(0o077)
    try:
        made.make_release(tree, tmp_path / "again", TZ="Asia/Tokyo", LC_ALL="C", PYTHONHASHSEED="7")
    finally:
        os.umask(old)
    assert (tmp_path / "again/SHA256SUMS").read_text() == (release / "SHA256SUMS").read_text()


def test_it_refuses_what_git_does_not_know(tmp_path: Path) -> None:
    """In a clone, as the work tree is not this test's."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, clone], check=True)
    (clone / "build").mkdir()
    (clone / "build/third_party").symlink_to(ROOT / "build/third_party")
    command = [sys.executable, "-m", "tools.dist", "make", "build/dist"]
    unbuilt = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    assert (unbuilt.returncode, unbuilt.stdout) == (1, "")
    assert unbuilt.stderr == f"dist: {FOLDER}/arm64-v8a/zcached: not built: make build\n"


def test_it_takes_nothing_away_that_is_of_no_release(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    command = [sys.executable, "-m", "tools.dist", "make", str(tmp_path)]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"dist: {tmp_path}/thesis.txt: it is of no release; name a folder that is new, or has one\n"
    )
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.fixture
def sbom(release: Path) -> dict[str, Any]:
    (path,) = release.glob("*.cdx.json")
    document: dict[str, Any] = json.loads(path.read_text())
    return document


VALIDATE = """
import json, sys
from pathlib import Path
from jsonschema import Draft7Validator, RefResolver
document, folder = json.load(open(sys.argv[1])), Path(sys.argv[2])
schemas = {name: json.loads((folder / f"{name}.SNAPSHOT.schema.json").read_text()) for name in ("bom-1.6", "spdx", "jsf-0.82")}
base = "http://cyclonedx.org/schema/"
store = {f"{base}{name}.SNAPSHOT.schema.json": schema for name, schema in schemas.items()}
validator = Draft7Validator(schemas["bom-1.6"], resolver=RefResolver.from_schema(schemas["bom-1.6"], store=store))
for fault in validator.iter_errors(document):
    print("/".join(map(str, fault.absolute_path)), fault.message)
"""


def test_the_sbom_is_valid(release: Path) -> None:
    """By the schema that cyclonedx-python-lib has, and Debian's jsonschema."""
    (path,) = release.glob("*.cdx.json")
    schemas = Path(cyclonedx.schema.__file__).parent / "_res"
    command = ["/usr/bin/python3", "-c", VALIDATE, str(path), str(schemas)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=made.own_environment())
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_the_sbom_has_the_binaries_and_what_is_in_them(sbom: dict[str, Any], wheel: zipfile.ZipFile) -> None:
    by_ref = {component["bom-ref"]: component for component in sbom["components"]}
    below = {entry["ref"]: set(entry.get("dependsOn", ())) for entry in sbom["dependencies"]}
    inside = {}
    for ref, component in by_ref.items():
        if "hashes" in component:
            (path,) = (p["value"] for p in component["properties"] if p["name"] == "zcache:path")
            (digest,) = (h["content"] for h in component["hashes"])
            assert hashlib.sha256(wheel.read(f"zcache_agent/{path}")).hexdigest() == digest
            inside[path] = {by_ref[part]["name"] for part in below[ref]}
    assert set(inside) == {f"_bin/{what.name}" for what in shipped()}
    codecs = {"lz4", "zstd", "xxhash", "zig-compiler-rt"}
    assert inside["_bin/armeabi-v7a/zcached"] == {*codecs, "liburing", "musl"}
    assert inside["_bin/host/zcached"] == {*codecs, "liburing"}
    assert inside["_bin/host/libzcache.so"] == codecs


def test_the_sbom_names_the_pinned_sources(sbom: dict[str, Any]) -> None:
    locked = tomllib.loads((ROOT / "third_party.lock").read_text())
    named = {
        reference["url"]: reference["hashes"][0]["content"]
        for component in sbom["components"]
        for reference in component.get("externalReferences", ())
        if reference["type"] == "source-distribution"
    }
    assert named == {
        f"pkg:pypi/{name}@{pin['version']}": pin["sha256"] for name, pin in locked.items() if name != "minilzo"
    }


def test_the_sbom_has_what_the_agent_needs_and_nothing_of_its_development(sbom: dict[str, Any]) -> None:
    agent = sbom["metadata"]["component"]["bom-ref"]
    (direct,) = (entry["dependsOn"] for entry in sbom["dependencies"] if entry["ref"] == agent)
    names = {component["name"] for component in sbom["components"]}
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for requirement in wanted["project"]["dependencies"]:
        name = requirement.partition(">=")[0]
        assert any(ref.startswith(f"pkg:pypi/{name}@") for ref in direct), name
    assert names & {"numpy", "requests"} == {"numpy", "requests"}
    assert names & {*wanted["dependency-groups"]["dev"], "minilzo"} == set()


def test_it_runs_out_of_the_wheel_on_this_machine(zcache: Zcache, venv: Path, tmp_path: Path) -> None:
    where = "import zcache_agent.deploy as it; print(it.__file__)"
    from_where = subprocess.run(
        [venv / "bin/python", "-c", where], cwd=tmp_path, env=zcache.environment, capture_output=True, text=True
    )
    assert Path(from_where.stdout.strip()).is_relative_to(venv), from_where
    pages = tmp_path / "pages"
    pages.write_bytes(b"".join(bytes([page]) * 2048 + os.urandom(2048) for page in range(64)))
    assert zcache("up").code == 0
    assert zcache("pool", "create", "p").code == 0
    replayed = zcache("replay", pages, "--pool", "p", "--json")
    assert (replayed.code, replayed.json["pages"]) == (0, 64), replayed
    assert zcache("check").code == 0
    assert zcache("down", "--force").code == 0


def test_the_libraries_of_the_wheel_are_used(zcache: Zcache, venv: Path, tmp_path: Path) -> None:
    program = (
        "from zcache_agent import heap, simulate\n"
        "print(heap.library_path())\n"
        "simulate._library(), heap._load(heap.library_path())\n"
    )
    ran = subprocess.run(
        [venv / "bin/python", "-c", program], cwd=tmp_path, env=zcache.environment, capture_output=True, text=True
    )
    assert ran.stderr == ""
    assert Path(ran.stdout.strip()).is_relative_to(venv)


@pytest.mark.parametrize("host", ["Darwin", "Windows"])
def test_other_hosts_say_in_a_line_what_is_not_for_them(host: str, venv: Path, tmp_path: Path) -> None:
    zcache = made.zcache(venv, tmp_path, {}, host)
    assert zcache("--help").code == 0
    assert zcache("version").out.startswith("zcache ")
    fails(zcache("-s", "local", "up"), 2, f"runs on Linux only, and this is {host}")
    program = (
        f"import hosts\nhosts.pretend({host!r})\n"
        "from zcache_agent.heap import Heap, NoLibrary\n"
        "try: Heap(budget=1 << 20)\n"
        "except NoLibrary as error: print(error)\n"
    )
    command = [str(venv / "bin/python"), "-c", program]
    environment = made.own_environment() | {"PYTHONPATH": str(made.HOSTS.parent)}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout == f"libzcache.so is for Linux only, and this is {host}\n", ran.stderr


def test_the_source_distribution_installs_as_the_wheel_does(
    release: Path, wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    """By pip, in an environment of its own that it builds in."""
    (source,) = release.glob("*.tar.gz")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True, env=made.own_environment())
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as built:
        for name in wheel.namelist():
            if name.startswith("zcache_agent/") or "/licenses/" in name:
                assert built.read(name) == wheel.read(name), name
