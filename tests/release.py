# SPDX-License-Identifier: Apache-2.0
"""A release of this tree, and its wheel in an empty venv: each made once a session, for all workers."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agent.conftest import Zcache
from tests.support import LZO, ROOT

HOSTS = Path(__file__).parent / "dist/hosts.py"


def release(factory: pytest.TempPathFactory) -> Path:
    """The folder that python -m tools.dist makes."""
    if LZO:
        pytest.skip("no release has minilzo")
    return _once(factory, "release", lambda target: make_release(ROOT, target))


def make_release(tree: Path, target: Path, **environment: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    command = [sys.executable, "-m", "tools.dist", "make", str(target)]
    _run(command, tree, kept | environment)


def venv(factory: pytest.TempPathFactory) -> Path:
    """With the wheel, and what pip found that it needs; nothing in it comes out of this tree."""
    (wheel,) = release(factory).glob("*.whl")
    return _once(factory, "venv", lambda target: _install(wheel, target))


def _install(wheel: Path, target: Path) -> None:
    _run([sys.executable, "-m", "venv", "--without-pip", str(target)], target.parent, own_environment())
    pip = [sys.executable, "-m", "pip", "--python", str(target / "bin/python"), "--quiet"]
    _run([*pip, "install", "--no-compile", str(wheel)], target.parent, own_environment())


def own_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def zcache(venv: Path, folder: Path, environment: dict[str, str], host: str = "") -> Zcache:
    """The command of that venv, run in a folder; or as it would be on a host of another kind: see dist/hosts.py."""
    command = [str(venv / "bin/python"), str(HOSTS), host] if host else [str(venv / "bin/zcache")]
    return Zcache({"PYTHONPATH": "", "PYTHONSAFEPATH": "1"} | environment, command, folder)


def _once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    target, made = shared / name, shared / f"{name}.made"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            made.write_text(_why_not(make, target))
    assert made.read_text() == ""
    return target


def _why_not(make: Callable[[Path], None], target: Path) -> str:
    """Told to each test, and tried once."""
    try:
        make(target)
    except AssertionError as error:
        return str(error)
    return ""


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr + ended.stdout
