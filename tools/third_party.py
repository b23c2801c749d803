"""Unpack the third-party sources that third_party.lock pins: one folder a name under DIR.

    python tools/third_party.py DIR

A source distribution is downloaded once into the user's cache and checked against its hash
at every use. It is only unpacked: unlike pip, unearth runs nothing that is in it.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from unearth import Link, PackageFinder

LOCK = Path("third_party.lock")


def cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "zcache" / "sources"


def pip_settings() -> dict[str, list[str]]:
    """Where this machine gets its packages: what pip's configuration files and environment say."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    settings: dict[str, list[str]] = {}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if section in ("global", "download", ":env:"):
            settings[option] = str(ast.literal_eval(value)).split()
    return settings


def package_finder() -> PackageFinder:
    settings = pip_settings()
    if "cert" in settings:
        os.environ.setdefault("SSL_CERT_FILE", settings["cert"][0])
    finder = PackageFinder(trusted_hosts=settings.get("trusted-host", []), no_binary=[":all:"])
    if "index-url" in settings:
        finder.sources.clear()
    for url in settings.get("index-url", []) + settings.get("extra-index-url", []):
        finder.add_index_url(url)
    for url in settings.get("find-links", []):
        finder.add_find_links(url)
    return finder


def locate(finder: PackageFinder, name: str, version: str, hashes: dict[str, list[str]]) -> Link:
    cached = cache_dir() / f"{name}-{version}.tar.gz"
    if cached.exists():
        return Link.from_path(cached)
    best = finder.find_best_match(f"{name}=={version}", hashes=hashes).best
    if best is None:
        raise LookupError("no package index of this machine offers it (see: pip config list)")
    return best.link


def unpack(finder: PackageFinder, name: str, version: str, sha256: str, target: Path) -> None:
    hashes = {"sha256": [sha256]}
    shutil.rmtree(target, ignore_errors=True)
    link = locate(finder, name, version, hashes)
    finder.download_and_unpack(link, target, cache_dir(), hashes=hashes)


def main(directory: Path) -> int:
    pins: dict[str, Any] = tomllib.loads(LOCK.read_text())
    finder = package_finder()
    for name, pin in pins.items():
        try:
            unpack(finder, name, pin["version"], pin["sha256"], directory / name)
        except Exception as error:  # whatever the network or the archive comes up with
            print(f"{LOCK}: {name} {pin['version']}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
