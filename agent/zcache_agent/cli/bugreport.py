# SPDX-License-Identifier: Apache-2.0
"""bugreport: what a developer needs to know, in one file."""

import io
import json
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from .. import __version__
from ..control import ABI, number
from ..daemon import find_all
from ..doctor import examine
from ..errors import NoDevice, Usage, ZcacheError
from ..ondevice.process import read_log
from .session import Session, pass_session


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@pass_session
def bugreport(session: Session, file: Path | None) -> None:
    """Write FILE, a tar.gz of facts, statistics, parameters and logs. No page's contents are in it."""
    serial = session.transport.serial
    target = file or Path(f"zcache-bugreport-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
    parts: dict[str, Callable[[], str]] = {
        "versions.json": lambda: _json({"agent": __version__, "abi": ABI, "serial": serial}),
        "doctor.json": lambda: _json(examine(session.transport).as_json()),
        "installations.json": lambda: _installations(session),
        "values.json": lambda: _json({path: number(value) for path, value in session.control.dump().items()}),
        "describe.txt": lambda: "\n".join(map(str, session.control.describe())),
        "tables.txt": lambda: _tables(session),
        "zcached.log": lambda: "".join(daemon.read_log() for daemon in find_all(session.transport)),
        "zcache-agent.log": lambda: read_log(session.transport),
    }
    stem = target.name.split(".")[0]
    with session.output.progress("collecting") as step:
        try:
            with tarfile.open(target, "w:gz") as tar:
                for done, (name, collect) in enumerate(parts.items()):
                    step(done / len(parts), name)
                    _add(tar, f"{stem}/{name}", _collected(collect))
        except OSError as error:
            raise Usage(f"{target}: {error.strerror}", hint="name a file that can be written") from error
        except BaseException:
            target.unlink(missing_ok=True)
            raise
    if session.as_json:
        session.output.document({"file": str(target)})
        return
    session.output.text(f"wrote {target}")


def _collected(collect: Callable[[], str]) -> str:
    """What is missing is a finding too; only a device that is gone ends the report."""
    try:
        return collect()
    except NoDevice:
        raise
    except ZcacheError as error:
        return f"missing: {error.name}: {error.message}\n"


def _add(tar: tarfile.TarFile, name: str, text: str) -> None:
    content = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mtime = int(time.time())
    tar.addfile(entry, io.BytesIO(content))


def _json(data: object) -> str:
    return json.dumps(data, indent=2) + "\n"


def _installations(session: Session) -> str:
    found = find_all(session.transport)
    return _json([{"directory": d.directory, "alive": d.alive, "rights": d.rights.value, **d.state} for d in found])


def _tables(session: Session) -> str:
    """dump leaves tables out."""
    tables = [node.path for node in session.control.describe() if node.type == "table"]
    pools = [name.rstrip("/") for name in session.control.list("pools") if name.endswith("/")]
    paths = [path.replace("/NAME/", f"/{pool}/") for path in tables for pool in (pools if "/NAME/" in path else [""])]
    return "".join(f"--- {path}\n{session.control.get(path)}\n" for path in paths)
