# SPDX-License-Identifier: Apache-2.0
"""The ways in which a device may start zcached at boot: what belongs where, for each init or manager."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .. import __version__

BOOT = Path(__file__).parent.parent / "boot"
"""The scripts, units and the module."""
ANDROID = "android"

_LIBRARY = "/usr/lib/zcache"
_SERVICE = f"{_LIBRARY}/zcached-service"
_MODULE = "/data/adb/modules/zcache"
_REFUSED = "[ $? = 6 ]"
"""It runs, but its settings were refused."""


@dataclass(frozen=True)
class File:
    """To be on the device."""

    path: str
    content: bytes
    mode: int = 0o644

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Link:
    path: str
    target: str


@dataclass(frozen=True)
class Kind:
    """A way to be started."""

    name: str
    manager: str
    """What else may have brought zcached there."""
    directory: str
    """Of the daemon, while it runs."""
    base: str
    """Of the program and its script."""
    settings: str
    """What zcached starts with; beside it is the file that they were made of."""
    own: Callable[[], tuple[File, ...]]
    """The init's files, or the manager's."""
    start: str
    """Scripts: starts it anew. Ends it, and it will not be started again. After the files have gone."""
    stop: str
    after: str = ""
    links: tuple[Link, ...] = ()
    lines: tuple[tuple[str, str], ...] = ()
    """To be added to files of the device's own."""

    @property
    def note(self) -> str:
        """What was brought."""
        return f"{self.base}/installed"

    @property
    def sign(self) -> str:
        """A file that shows that zcached is there."""
        return f"{self.base}/zcached-service"

    def files(self, program: bytes, settings: tuple[bytes, bytes] | None) -> tuple[File, ...]:
        found = [
            File(f"{self.base}/zcached", program, 0o700),
            File(f"{self.base}/zcached-service", read("zcached-service"), 0o755),
            *self.own(),
        ]
        if settings:
            source = f"{self.settings.rpartition('/')[0]}/settings.toml"
            found += [File(self.settings, settings[0], 0o600), File(source, settings[1], 0o600)]
        return tuple(found)


def read(name: str) -> bytes:
    return (BOOT / name).read_bytes()


def module_files() -> dict[str, bytes]:
    """The module's tree for Magisk, KernelSU and APatch, by path, without programs."""
    tree = BOOT / "module"
    files = {path.relative_to(tree).as_posix(): path.read_bytes() for path in sorted(tree.rglob("*")) if path.is_file()}
    major, minor, patch = (int("".join(filter(str.isdigit, part)) or 0) for part in __version__.split(".")[:3])
    prop = files["module.prop"].replace(b"@VERSION@", __version__.encode())
    files["module.prop"] = prop.replace(b"@VERSION_CODE@", str(major * 10000 + minor * 100 + patch).encode())
    return files


def _module() -> tuple[File, ...]:
    left_out = ("META-INF/", "customize.sh")  # the installer's own
    return tuple(
        File(f"{_MODULE}/{path}", content, 0o755 if path.endswith(".sh") else 0o644)
        for path, content in module_files().items()
        if not path.startswith(left_out)
    )


def _init_script(path: str, source: str) -> Callable[[], tuple[File, ...]]:
    return lambda: (File(path, read(source), 0o644 if path.endswith(".service") else 0o755),)


def _board(name: str, manager: str, path: str, source: str, start: str, stop: str, after: str = "",
           links: tuple[Link, ...] = ()) -> Kind:  # fmt: skip
    return Kind(name, manager, "/var/lib/zcache", _LIBRARY, "/etc/zcache/settings.plan", _init_script(path, source),
                start, f"{stop}\n{_SERVICE} forget", after, links)  # fmt: skip


def _run_levels() -> tuple[Link, ...]:
    target = "../init.d/zcached"
    starts = [Link(f"/etc/rc{level}.d/S19zcached", target) for level in "2345"]
    return (*starts, *(Link(f"/etc/rc{level}.d/K85zcached", target) for level in "016"))


_NO_TRIAL = "rm -f /data/adb/zcache/settings.trial /data/adb/zcache/settings.failed"
_PACKAGE = "the package manager, or the image's build"

KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "magisk", "the Magisk, KernelSU or APatch app", "/data/adb/zcache", _MODULE,
            "/data/adb/zcache/settings.plan", _module,
            start=f"{_NO_TRIAL}; sh {_MODULE}/zcached-service restart || {_REFUSED}",
            stop=f"{_NO_TRIAL}; sh {_MODULE}/zcached-service forget",
        ),
        _board(
            "systemd", _PACKAGE, "/etc/systemd/system/zcached.service", "zcached.service",
            "systemctl daemon-reload && systemctl restart zcached", "systemctl stop zcached", "systemctl daemon-reload",
            (Link("/etc/systemd/system/multi-user.target.wants/zcached.service", "../zcached.service"),),
        ),
        _board(
            "openwrt", "opkg or apk", "/etc/init.d/zcached", "zcached.procd", "/etc/init.d/zcached restart",
            "/etc/init.d/zcached stop", links=(
                Link("/etc/rc.d/S19zcached", "../init.d/zcached"), Link("/etc/rc.d/K85zcached", "../init.d/zcached"),
            ),
        ),
        _board(
            "sysvinit", _PACKAGE, "/etc/init.d/zcached", "zcached.init", f"/etc/init.d/zcached restart || {_REFUSED}",
            "/etc/init.d/zcached stop", links=_run_levels(),
        ),
        _board(
            "busybox", _PACKAGE, "/etc/init.d/S19zcached", "zcached.init",
            f"/etc/init.d/S19zcached restart || {_REFUSED}", "/etc/init.d/S19zcached stop",
        ),
        Kind(
            "inittab", _PACKAGE, "/var/lib/zcache", _LIBRARY, "/etc/zcache/settings.plan", lambda: (),
            start=f"{_SERVICE} stop; kill -HUP 1",  # init starts again what has ended
            stop=f"kill -HUP 1; {_SERVICE} forget",
            lines=(
                ("/etc/inittab", f"::respawn:{_SERVICE} run"),
                ("/etc/inittab", f"::shutdown:{_SERVICE} stop"),
            ),
        ),
    )
}  # fmt: skip
