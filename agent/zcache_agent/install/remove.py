# SPDX-License-Identifier: Apache-2.0
"""Ends zcached and takes away what was brought to a device."""

from ..daemon import look_into
from ..deploy import check_nothing_held, unmark
from ..device import Rights
from ..errors import Refused
from .ending import STOP_SECONDS, Done, end_swap
from .kinds import KINDS, Kind
from .note import find
from .root import NEW, Root, look

_DROP_LINE = r"""
[ -e "$1" ] || exit 0
grep -vxF "$2" "$1" >"$1%s"
cat "$1%s" >"$1" && rm -f "$1%s"
""".replace("%s", NEW)


def remove(root: Root, *, force: bool, dry_run: bool = False) -> Done | None:
    """Ends zcached and takes away all that was brought but for what somebody has changed. None: nothing was."""
    installed = find(root)
    if installed is None:
        _check_no_other(root)
        return None
    kind = installed.kind
    there = look(root, [*installed.hashes, *(link.path for link in installed.links)])
    paths = {path: _end_of(there[path], f"file {sha256}") for path, sha256 in installed.hashes.items()}
    paths |= {link.path: _end_of(there[link.path], f"link {link.target}") for link in installed.links}
    if dry_run:
        return Done(kind, paths)
    if not root.is_image and not force:
        _check_unused(root, kind)
    for path, text in installed.lines:
        root.script(_DROP_LINE, root.at(path), text)
    if not root.is_image:
        _end(root, kind)
    removed = [path for path, what in paths.items() if what == "removed"]
    root.script('rm -f "$@"', *map(root.at, (*removed, kind.note)))
    for path in sorted(installed.made, reverse=True):
        root.script('rmdir "$1" 2>/dev/null; exit 0', root.at(path))
    if kind.after and not root.is_image:
        root.script(kind.after)
    return Done(kind, paths)


def _end_of(there: str, brought: str) -> str:
    return "removed" if there == brought else "absent" if there == "absent" else "kept"


def _check_unused(root: Root, kind: Kind) -> None:
    there, _ = look_into(root.transport, [kind.directory], root.rights)
    for daemon in there:
        if daemon.alive:
            end_swap(daemon)
            check_nothing_held(daemon)


def _end(root: Root, kind: Kind) -> None:
    root.script(kind.stop, timeout=STOP_SECONDS)
    if root.rights is not Rights.OWN:
        unmark(root.transport)


def _check_no_other(root: Root) -> None:
    """Refused: it came there by a package or a manager, which takes it away again."""
    for kind in KINDS.values():
        path = kind.sign
        if look(root, [path])[path].startswith("file"):
            raise Refused(
                f"{root.prefix or root.transport.serial}: {path} was not brought by zcache install",
                name="EPERM",
                hint=f"remove it by what brought it: {kind.manager}",
            )
