# SPDX-License-Identifier: Apache-2.0
"""Debian packages for the emulated device, by apt into a private directory. The host's package state is untouched."""

import fcntl
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RELEASE = "trixie"
ARCHITECTURE = "arm64"
KERNELS = {"4k": "linux-image-cloud-arm64", "16k": "linux-image-arm64-16k"}
USERLAND = ("adbd", "busybox-static", "dosfstools", "e2fsprogs", "mksh")

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_DEBIAN = ("bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable")
_SECONDS = 600


class EmulatorError(Exception):
    """What is missing or went wrong, and the way out, on one line."""


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "zcache" / "emulator"


@contextmanager
def locked() -> Iterator[Path]:
    """The cache, for one process at a time."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield cache()


def userland() -> list[Path]:
    """The .deb files of what runs on the device, and of what that needs."""
    return _download("-".join(USERLAND), ["install", "--yes", "--download-only", *USERLAND])


def programs(*names: str) -> list[Path]:
    """The .deb files of these packages, and of what they need."""
    return _download("-".join(names), ["install", "--yes", "--download-only", *names])


def kernel(flavour: str) -> Path:
    """The .deb file of a kernel: "4k" or "16k", named for its page size."""
    return _download(f"kernel-{flavour}", None, KERNELS[flavour])[0]


def _download(what: str, command: list[str] | None, metapackage: str = "") -> list[Path]:
    """Once; later calls need no network."""
    directory = cache() / "packages" / what
    manifest = directory / "manifest.json"
    if manifest.exists():
        return [directory / name for name in json.loads(manifest.read_text())]
    apt = _Apt(directory)
    apt.run("update", "-o", "APT::Update::Error-Mode=any")
    if command is None:
        apt.run("download", apt.dependency(metapackage), cwd=directory)
        debs = sorted(directory.glob("*.deb"))
    else:
        apt.run(*command)
        debs = [deb.rename(directory / deb.name) for deb in sorted((directory / "apt/archives").glob("*.deb"))]
    shutil.rmtree(directory / "apt")
    manifest.write_text(json.dumps([deb.name for deb in debs]))
    return debs


class _Apt:
    """apt with directories of its own, for another release and architecture."""

    def __init__(self, directory: Path) -> None:
        root = directory / "apt"
        shutil.rmtree(directory, ignore_errors=True)
        for name in ("lists/partial", "archives/partial", "empty"):
            (root / name).mkdir(parents=True)
        if not _KEYRING.exists():
            raise EmulatorError(f"{_KEYRING} is missing: apt-get install debian-archive-keyring")
        (root / "status").touch()
        (root / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {mirror()} {RELEASE} main\n")
        settings = {
            "Dir::Etc::SourceList": root / "sources.list",
            "Dir::Etc::SourceParts": root / "empty",
            "Dir::Etc::Preferences": root / "none",
            "Dir::Etc::PreferencesParts": root / "empty",
            "Dir::State": root,
            "Dir::State::status": root / "status",
            "Dir::State::Lists": root / "lists",
            "Dir::Cache": root,
            "Dir::Cache::Archives": root / "archives",
            "APT::Architecture": ARCHITECTURE,
            "APT::Architectures": ARCHITECTURE,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": "5",
            "Debug::NoLocking": "true",
        }
        self._config = root / "apt.conf"
        self._config.write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))

    def run(self, *command: str, cwd: Path | None = None, tool: str = "apt-get") -> str:
        env = {**os.environ, "APT_CONFIG": str(self._config), "LC_ALL": "C"}
        done = subprocess.run(
            [tool, "-q", *command], env=env, cwd=cwd, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if line.startswith("E:")]
            raise EmulatorError(f"apt cannot {command[0]}: {said[-1] if said else done.stderr.strip()[-200:]}")
        return done.stdout

    def dependency(self, metapackage: str) -> str:
        """The real package that a kernel's metapackage stands for."""
        said = self.run("depends", metapackage, tool="apt-cache")
        found = re.search(r"Depends: (linux-image-\S+)", said)
        if not found:
            raise EmulatorError(f"{metapackage} in {RELEASE} depends on no kernel")
        return found[1]


def mirror() -> str:
    """Where this machine's own apt gets Debian from, or ZCACHE_DEBIAN_MIRROR."""
    if named := os.environ.get("ZCACHE_DEBIAN_MIRROR"):
        return named
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout
    for line in sorted(set(listed.splitlines())):
        site, release, component = line.split()
        if component == "main" and release in _DEBIAN:
            return site
    raise EmulatorError("apt knows no Debian mirror here: set ZCACHE_DEBIAN_MIRROR to one")
