# SPDX-License-Identifier: Apache-2.0
"""install, uninstall: zcached as a part of a device, started at each boot."""

from pathlib import Path

import click

from .. import __version__
from ..apply import plan_text
from ..binary import bundled, choose_binary, read_binary
from ..config import Config, load
from ..device import Device, Rights, find_root, look
from ..errors import Refused, Usage
from ..install.bring import Plan, carry_out, prepare
from ..install.ending import Done
from ..install.kinds import KINDS
from ..install.remove import remove
from ..install.root import Root
from ..install.ways import choose
from ..lock import alone_on
from ..settings import State, boot_plan, read_files
from ..transport.local import LocalTransport
from .session import Session, pass_session
from .signals import clean_up_when_ended

_IMAGE = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.option("--as", "wanted", type=click.Choice(list(KINDS)), help="This way, instead of the one that fits.")
@click.option("--config", metavar="FILE", type=click.Path(path_type=Path),
              help="Settings that it starts with each time: docs/config.md.")  # fmt: skip
@click.option("--abi", metavar="A", help="Take the bundled binary of this ABI, e.g. armeabi-v7a.")
@click.option(
    "--binary", metavar="F", type=click.Path(path_type=Path), help="Take this zcached instead of a bundled one."
)
@click.option("--image", metavar="DIR", type=_IMAGE,
              help="Into the root file system below DIR, of an image that is being built. Needs --abi.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say what would be written.")
@click.option("--force", is_flag=True, help="Also over files that somebody changed; even if persistent pages are lost.")
@pass_session
def install(session: Session, wanted: str | None, config: Path | None, abi: str | None, binary: Path | None,
            image: Path | None, dry_run: bool, force: bool) -> None:  # fmt: skip
    """Make zcached a part of the device, so that it starts at each boot. Needs root.

    Takes the way that fits: a module for Magisk, KernelSU or APatch on a rooted phone; a systemd unit; init scripts for
    OpenWrt, sysvinit and BusyBox. Another version takes the place of the one before. A file that somebody has changed
    since is kept and named.
    """
    clean_up_when_ended()
    settings = load(config) if config else None
    if image:
        if settings:
            raise Usage("--config: settings are made for a device that is there",
                        hint="zcache -s SERIAL install --config FILE, once the image runs")  # fmt: skip
        root, program, made = _image(image), _program_of(abi, binary), None
    else:
        device = look(session.transport)
        root, program = _root(session, device), choose_binary(device, session.transport.is_local, abi, binary).path
        made = (_plan_of(root, device, settings), config.read_bytes()) if settings and config else None
    with alone_on(f"install {root.transport.serial}{root.prefix}", root.transport.timeout):
        plan = prepare(root, choose(root, wanted), program.read_bytes(), made, force=force)
        if dry_run:
            _tell_plan(session, plan)
            return
        with session.output.progress("installing") as step:
            done = carry_out(plan, step, force=force)
    _tell_installed(session, root, done)


def _image(directory: Path) -> Root:
    return Root(LocalTransport(), Rights.OWN, str(directory.absolute()))


def _root(session: Session, device: Device) -> Root:
    root = find_root(session.transport, device.uid)
    if root.rights is None:
        raise Refused(
            f"{session.transport.serial}: this needs root ({root.refusals})",
            name="no_root",
            hint="run zcache as root"
            if session.transport.is_local
            else "zcache up needs none, until the device restarts",
        )
    return Root(session.transport, root.rights)


def _plan_of(root: Root, device: Device, settings: Config) -> bytes:
    memory = min(device.mem_total, device.cgroup_limit or device.mem_total)
    steps = boot_plan(
        settings, State(read_files(root.transport, root.rights), {}, memory, device.page_size or State.page_size)
    )
    return plan_text(steps).encode()


def _program_of(abi: str | None, binary: Path | None) -> Path:
    if binary:
        return read_binary(binary).path
    have = {name: path for name, path in bundled().items() if name != "host"}
    if abi not in have:
        raise Usage("--image: for which ABI?" if abi is None else f"--abi {abi}: there is no zcached for it",
                    hint=f"--abi {'|'.join(have) or 'A'}, or --binary FILE")  # fmt: skip
    return have[abi]


def _tell_plan(session: Session, plan: Plan) -> None:
    lines = [f"{path}: {text}" for path, text in plan.kind.lines]
    if session.as_json:
        facts: dict[str, object] = {"serial": _where(plan.root), "as": plan.kind.name, "files": plan.paths}
        session.output.document(facts | {"lines": lines, "dry_run": True})
        return
    session.output.table(("path", "would be"), [*plan.paths.items(), *((line, "added") for line in lines)])
    session.output.text(f"{_where(plan.root)}: as {plan.kind.name}; nothing was changed")


def _where(root: Root) -> str:
    return root.prefix or root.transport.serial


def _facts(root: Root, done: Done) -> dict[str, object]:
    return {"serial": _where(root), "as": done.kind.name, "files": done.paths, "changed": done.changed}


def _tell_installed(session: Session, root: Root, done: Done) -> None:
    daemon = done.daemon
    if session.as_json:
        facts = {"pid": daemon.pid, "directory": daemon.directory} if daemon else None
        session.output.document(_facts(root, done) | {"version": __version__, "daemon": facts})
        return
    verb = "installed" if done.changed else "is installed already"
    runs = f"; it runs: pid {daemon.pid}, {daemon.directory}" if daemon else ""
    session.output.text(f"zcached {__version__} {verb} on {_where(root)} as {done.kind.name}{runs}")
    _note_kept(session, done)
    if daemon and root.transport.is_local:
        session.output.note(f"note: its serial is local:{daemon.directory}")


def _note_kept(session: Session, done: Done) -> None:
    for path in done.kept:
        session.output.note(f"note: {path} is kept: somebody has changed it")


@click.command()
@click.option("--image", metavar="DIR", type=_IMAGE, help="From the root file system below DIR.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--force", is_flag=True, help="Even if persistent pages are lost.")
@pass_session
def uninstall(session: Session, image: Path | None, dry_run: bool, force: bool) -> None:
    """End zcached and take away what install brought to the device, and nothing else.

    A file that somebody has changed since is kept and named. Pages that the kernel has swapped out come back first.
    """
    clean_up_when_ended()
    root = _image(image) if image else _root(session, look(session.transport))
    with (
        alone_on(f"install {root.transport.serial}{root.prefix}", root.transport.timeout),
        session.output.progress("removing"),
    ):
        done = remove(root, force=force, dry_run=dry_run)
    if session.as_json:
        nothing: dict[str, object] = {"serial": _where(root), "as": None, "files": {}, "changed": False}
        session.output.document((_facts(root, done) if done else nothing) | ({"dry_run": True} if dry_run else {}))
        return
    if done is None:
        session.output.text(f"nothing is installed on {_where(root)}")
        return
    if dry_run:
        session.output.table(("path", "would be"), list(done.paths.items()))
        session.output.text(f"{_where(root)}: nothing was changed")
        return
    session.output.text(f"zcached is no longer installed on {_where(root)}")
    _note_kept(session, done)
