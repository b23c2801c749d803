# SPDX-License-Identifier: Apache-2.0
"""libzcache by CMake, for an example that runs, and by Android's Soong: of native/Makefile's sources."""

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.support import BUILD, ROOT
from zcache_agent import __version__

PROJECT = """
cmake_minimum_required(VERSION 3.22)
project(example LANGUAGES C)
add_subdirectory({root} zcache)
add_executable(example {root}/examples/heap.c)
target_compile_definitions(example PRIVATE _GNU_SOURCE)
target_link_libraries(example zcache)
"""


def run(*words: object) -> str:
    command = [str(word) for word in words]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=300, check=True).stdout


def sources() -> set[str]:
    """native/Makefile's, from the repository's root on."""
    command = ("make", "-s", "-f", "native/Makefile", f"PYTHON={sys.executable}", "LZO=")
    objects = run(*command, "--eval", "show: ; @echo $(library_host)", "show").split()
    found = {one.removeprefix("build/obj/host/").removesuffix(".o") + ".c" for one in objects}
    assert len(found) > 50
    assert all((ROOT / one).exists() for one in found)
    return found


def exported(library: Path) -> set[str]:
    return {line.split()[-1] for line in run("nm", "-D", "--defined-only", library).splitlines()}


def test_cmake_builds_it_for_a_program(tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(PROJECT.format(root=ROOT))
    build = tmp_path / "build"
    run("cmake", "-S", tmp_path, "-B", build, "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON")
    run("cmake", "--build", build)
    commands = json.loads((build / "compile_commands.json").read_text())
    files = {str(Path(command["file"]).relative_to(ROOT)) for command in commands}
    assert files == sources() | {"examples/heap.c"}
    assert exported(build / "zcache/libzcache.so") == exported(BUILD / "host/libzcache.so")
    assert run(build / "example").startswith("counter 999999: 1\n")


def test_android_bp_names_the_same_sources() -> None:
    text = (ROOT / "Android.bp").read_text()

    def listed(name: str) -> list[str]:
        found = re.search(rf"\b{name}: \[(.*?)\]", text, re.DOTALL)
        assert found, name
        return re.findall(r'"(.*)"', found[1].replace(", ", "\n"))

    def files(name: str) -> set[str]:
        return {str(path.relative_to(ROOT)) for pattern in listed(name) for path in ROOT.glob(pattern)}

    assert files("srcs") - files("exclude_srcs") == sources()
    assert rf"-DZC_VERSION=\"{__version__}\"" in listed("cflags")
    assert all((ROOT / folder).is_dir() for folder in listed("local_include_dirs") + listed("export_include_dirs"))
